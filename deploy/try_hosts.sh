#!/usr/bin/env bash
# Brings up compose.yaml's profile "hosts", and calls it: embeddings, a stream, a key made at one replica and used at
# another, one replica killed. Prints a line for each, and removes all that it made. Exit code 0: all is right.
#
#   deploy/try_hosts.sh [--keep]      with DOCKER_HOST, or the engine of this machine; --keep leaves it running
#
# An image that can be had from no registry is made here, from Debian's packages (deploy/standins). Needs docker,
# docker-compose or docker's own compose, curl, openssl; without a registry also debootstrap and root.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

keep=${1:-}
work=$(mktemp -d)
failed=0
: > "$work/started"
if command -v docker-compose > /dev/null; then compose=(docker-compose); else compose=(docker compose); fi
# A .env of its own: the checkout's one, with a provider's keys in it, is not read.
for name in TORII_CALLER_KEY TORII_OPERATOR_KEY POSTGRES_PASSWORD REDIS_PASSWORD; do
  echo "$name=$(openssl rand -hex 24)"
done > "$work/env"
port=${HOSTS_PORT:-18080}
echo "HOSTS_PORT=$port" >> "$work/env"
# shellcheck disable=SC1091
. "$work/env"
torii() { # REPLICA WORD... : a command in its container
  "${compose[@]}" exec -T "torii-$1" torii "${@:2}" < /dev/null
}

run() { env -u JINA_API_KEY -u AIHUBMIX_API_KEY "$@"; }
compose=(run "${compose[@]}" --project-name torii-try-hosts --env-file "$work/env" --profile hosts)

end() {
  if [ "$keep" = --keep ]; then
    echo "left running; its keys: $work/env"
    return
  fi
  "${compose[@]}" down --volumes --remove-orphans > "$work/down" 2>&1
  rm -rf "$work"
}
trap end EXIT
trap 'exit 2' INT TERM

said() { # RIGHT FOUND WHAT
  if [ "$1" = "$2" ]; then
    printf 'ok   %-58s %s\n' "$3" "$2"
  else
    printf 'NOT  %-58s %s, not %s\n' "$3" "$2" "$1"
    failed=1
  fi
}

# ---------------------------------------------------------------- images

stand_in() { # IMAGE STANDIN : builds the one from deploy/standins/STANDIN if it is not here and no registry has it
  docker image inspect "$1" > /dev/null 2>&1 && return
  timeout 60 docker pull --quiet "$1" > /dev/null 2>&1 && return
  base
  echo "     $1 is a stand-in, of Debian's packages"
  DOCKER_BUILDKIT=1 docker build --quiet --network host --tag "$1" --file "deploy/standins/$2" deploy/standins \
    > "$work/build" 2>&1 || { cat "$work/build"; exit 2; }
}

base() { # Debian itself
  docker image inspect debian:bookworm-slim > /dev/null 2>&1 && return
  timeout 60 docker pull --quiet debian:bookworm-slim > /dev/null 2>&1 && return
  debootstrap --variant=minbase bookworm "$work/root" > "$work/debootstrap" 2>&1 || { tail "$work/debootstrap"; exit 2; }
  cp /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/" 2> /dev/null
  tar -C "$work/root" --numeric-owner -cf - . | docker import - debian:bookworm-slim > /dev/null
}

image() { sed -n "s/^ *image: \($1:.*\)/\1/p" compose.yaml; }
stand_in "$(image nginx)" nginx
stand_in "$(image postgres)" postgres
stand_in "$(image redis)" redis
stand_in "$(sed -n 's/^FROM \(python:[^ ]*\)$/\1/p' Dockerfile)" python
DOCKER_BUILDKIT=1 docker build --quiet --network host --tag torii-gateway . > "$work/build" 2>&1 || { cat "$work/build"; exit 2; }

# ---------------------------------------------------------------- up

began=$(date +%s)
if ! "${compose[@]}" up -d --no-build nginx > "$work/up" 2>&1; then
  cat "$work/up"
  "${compose[@]}" logs --tail 20
  exit 1
fi
echo "     up after $(($(date +%s) - began)) s"
url=http://127.0.0.1:$port
for _ in $(seq 120); do
  [ "$(curl -s -o /dev/null -w '%{http_code}' "$url/readyz")" = 200 ] && break
  sleep 0.5
done
said 200 "$(curl -s -o /dev/null -w '%{http_code}' "$url/readyz")" "GET /readyz through nginx"
for _ in $(seq 60); do
  well=$("${compose[@]}" ps -q | xargs docker inspect -f '{{if .State.Health}}{{.State.Health.Status}}{{end}}' | grep -c '^healthy$')
  [ "$well" = 6 ] && break
  sleep 0.5
done
said 6 "$well" "containers that are healthy: nginx, three Toriis, two stores"

# ---------------------------------------------------------------- calls

call() { # KEY PATH BODY [CURL'S OPTION...]
  curl -sS -m 30 "${@:4}" -H "authorization: Bearer $1" -H 'content-type: application/json' -d "$3" "$url$2"
}
status() { call "$@" -o "$work/answer" -w '%{http_code}'; }
embed='{"model": "jina-embeddings-v3", "input": ["Hello, gate"]}'
stream='{"model": "jina-deepsearch-v1", "stream": true, "messages": [{"role": "user", "content": "Why?"}]}'
silent='{"model": "gpt-4o-mini", "stream": true, "messages": [{"role": "user", "content": "sandbox:hang-mid-stream"}]}'

said 200 "$(status "$TORII_CALLER_KEY" /v1/embeddings "$embed")" "embeddings through nginx"
said 401 "$(status wrong /v1/embeddings "$embed")" "a wrong key"

call "$TORII_CALLER_KEY" /v1/chat/completions "$stream" -N > "$work/stream" 2>&1
said 'data: [DONE]' "$(grep -v '^.\?$' "$work/stream" | tail -1 | tr -d '\r')" "a stream, to its end"
# The sandbox sends half of this one, and then nothing.
call "$TORII_CALLER_KEY" /v1/chat/completions "$silent" -N -m 3 > "$work/stream" 2> /dev/null
said yes "$(grep -q '^data: {' "$work/stream" && echo yes)" "events come while the stream is open"

torii 1 keys create tried --budget requests/total=40 --json > "$work/key" 2> "$work/error" || cat "$work/error"
key=$(sed -n 's/.*"secret": *"\([^"]*\)".*/\1/p' "$work/key")
for number in 2 3; do
  for _ in $(seq 25); do
    found=$("${compose[@]}" exec -T "torii-$number" python -c "
import sys, urllib.error, urllib.request
ask = urllib.request.Request('http://127.0.0.1:8000/v1/models', headers={'authorization': 'Bearer ' + sys.argv[1]})
try:
    print(urllib.request.urlopen(ask).status)
except urllib.error.HTTPError as error:
    print(error.code)" "$key" < /dev/null)
    [ "$found" = 200 ] && break
    sleep 0.2
  done
  said 200 "$found" "a key that torii-1 made, at torii-$number"
done

many() { # HOW MANY : their statuses and counts, 16 at once
  seq "$1" | xargs -P 16 -I{} curl -s -m 30 -o /dev/null -w '%{http_code}\n' -H "authorization: Bearer $key" \
    -H 'content-type: application/json' -d "${embed/gate/gate $1 {\}}" "$url/v1/embeddings" | sort | uniq -c | awk '{printf "%s%s x %s", (NR > 1 ? ", " : ""), $1, $2}'
}
said '20 x 200' "$(many 20)" "20 calls through nginx"
docker kill -s KILL "$("${compose[@]}" ps -q torii-1)" > /dev/null
said '20 x 200, 40 x 429' "$(many 60)" "torii-1 killed; 60 calls, for the last 20 of the budget"
docker start "$("${compose[@]}" ps -q torii-1)" > /dev/null
for _ in $(seq 60); do
  [ "$(docker inspect -f '{{.State.Health.Status}}' "$("${compose[@]}" ps -q torii-1)")" = healthy ] && break
  sleep 0.5
done
said healthy "$(docker inspect -f '{{.State.Health.Status}}' "$("${compose[@]}" ps -q torii-1)")" "torii-1 started again"
torii 1 ledger verify > "$work/verify" 2>&1
said 0 $? "torii ledger verify, at torii-1: exit code"
rows=$(torii 3 calls --key "$(sed -n 's/.*"id": *"\([^"]*\)".*/\1/p' "$work/key" | head -1)" --limit 100 --json 2> /dev/null | grep -o '"request_id"' | wc -l)
said 40 "$rows" "rows of the key's calls, at torii-3"
if "${compose[@]}" logs 2>&1 | grep -q Traceback; then said none some "tracebacks in the logs"; fi
exit $failed
