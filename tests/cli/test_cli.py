"""The program as a user runs it: a process of its own, real sockets, its output, its end."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from app import __version__
from app.cli import tables as report
from app.cli.main import main
from app.upstreams.catalogue import CATALOGUE

from ..conftest import AIHUBMIX_KEY, JINA_KEY, WITH_CURL, ScriptedUpstream, replies

ROOT = Path(__file__).parents[2]
CALLER_KEY = "torii-test-caller-key-0123456789"
LAST_LINE = "Press Ctrl+C to stop.\n"
SECONDS = 120


def environment(variables: dict[str, str]) -> dict[str, str]:
    """Only the variables of this process that Python and its coverage need."""
    kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("COV")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "XDG_RUNTIME_DIR": os.devnull, **variables}


def torii(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and check that it prints no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "app", *words],
        cwd=cwd,
        env=environment(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert "Traceback" not in done.stderr
    for secret in variables.values():
        if secret in (JINA_KEY, AIHUBMIX_KEY, CALLER_KEY):
            assert secret not in done.stdout + done.stderr
    return done


@dataclass
class Running:
    process: subprocess.Popen[str]
    banner: str
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def port(self) -> int:
        match = re.search(r"Base URL +http://[^ ]+:(\d+)/v1", self.banner)
        assert match is not None
        return int(match[1])

    def ends_on(self, sig: signal.Signals) -> int:
        """The exit code; ``log`` then has all lines."""
        self.process.send_signal(sig)
        _, rest = self.process.communicate(timeout=SECONDS)
        self.log += [msgspec.json.decode(line) for line in rest.splitlines() if line]
        return self.process.returncode

    @contextmanager
    def asked(self, method: str, path: str, body: object = None, **headers: str) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        with closing(connection):
            connection.request(method, path, None if body is None else msgspec.json.encode(body), headers)
            with connection.getresponse() as response:
                yield response

    def status(self, path: str, **headers: str) -> int:
        with self.asked("GET", path, **headers) as response:
            return response.status


@contextmanager
def serving(*words: str, cwd: Path, **variables: str) -> Iterator[Running]:
    """The gateway, once it has printed its address; killed at the end, if it is still running."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve", "--port", "0", *words],
        cwd=cwd,
        env=environment(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    guard = threading.Timer(SECONDS, process.kill)
    guard.start()
    try:
        assert process.stderr is not None
        banner = ""
        while not banner.endswith(LAST_LINE):
            line = process.stderr.readline()
            assert line, banner
            banner += line
        yield Running(process, banner)
    finally:
        guard.cancel()
        process.kill()
        process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# ---------------------------------------------------------------- the program


def test_it_tells_its_version(tmp_path: Path) -> None:
    assert torii("--version", cwd=tmp_path).stdout == f"torii {__version__}\n"


def test_help_names_the_commands_and_what_to_try_first(tmp_path: Path) -> None:
    assert torii("--help", cwd=tmp_path).stdout == dedent(
        """\
        Usage: torii [OPTIONS] COMMAND [ARGS]...

          A local, OpenAI-compatible gateway for Jina AI and AIHubMix: embeddings,
          rerank and DeepSearch.

          Try it, without a key and without a network:
            torii serve --sandbox
          Run it:
            JINA_API_KEY=... torii serve
          Then point any OpenAI SDK at http://localhost:8000/v1.

        Options:
          -V, --version  Show the version and exit.
          -h, --help     Show this message and exit.

        Commands:
          audit            List who changed keys and teams.
          calls            List calls and refusals from the ledger.
          check            Check the configuration and print the result.
          classifiers      Show who owns which classifier, and give one away.
          db               Upgrade, check, copy, back up and restore the ledger.
          healthcheck      Check that the gateway on this machine is alive.
          keys             Create, list, change and revoke callers' keys.
          ledger           Check the ledger.
          management-keys  Create, list and delete keys for the operator's API.
          models           List the models and their features.
          prices           Print prices, and the models that have none.
          reload           Make the running gateway reload its configuration.
          serve            Run the gateway until Ctrl+C or SIGTERM.
          teams            Create, list, change and delete teams.
          upstreams        Print the state of each upstream key.
          usage            Print calls, tokens and dollars from the ledger.
        """
    )


def every_command(group: Any = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if hasattr(command, "commands"):
            yield from every_command(command, (*path, name))


@pytest.mark.parametrize("command", list(every_command()), ids=" ".join)
def test_the_help_of_each_command_has_an_example(command: tuple[str, ...]) -> None:
    text = CliRunner().invoke(main, [*command, "--help"], prog_name="torii").stdout
    assert text.startswith(f"Usage: torii {' '.join(command)} [OPTIONS]")
    assert re.search(rf"^  Example.*:(\n    \S.*)*\n    .*\b{' '.join(command)}\b", text, re.M)


def test_without_a_command_the_help_is_shown(tmp_path: Path) -> None:
    done = torii(cwd=tmp_path)
    assert (done.stdout + done.stderr).rstrip() == torii("--help", cwd=tmp_path).stdout.rstrip()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("srve", "unknown command srve; did you mean serve? `torii --help`"),
        ("zzz", "unknown command zzz. `torii --help`"),
        ("--zzz", "unknown option --zzz. `torii --help`"),
        ("serve --sandbx", "unknown option --sandbx; did you mean --sandbox? `torii serve --help`"),
        ("serve --sandbox=1", "--sandbox takes no value. `torii serve --help`"),
        ("serve --help=1", "--help takes no value. `torii serve --help`"),
        ("serve --port", "--port needs a value. `torii serve --help`"),
        ("serve --port x", "--port must be a whole number. `torii serve --help`"),
        ("usage --calls 0", "--calls must be a whole number of at least 1. `torii usage --help`"),
        ("check config.yaml", "the command takes options only, no arguments. `torii check --help`"),
    ],
)
def test_a_wrong_command_line_is_told_in_words_of_ours(line: str, told: str, tmp_path: Path) -> None:
    done = torii(*line.split(), cwd=tmp_path)
    cure = "lists the commands" if told.startswith("unknown command") else "shows the usage"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"torii: {told} {cure}.\n")


# ---------------------------------------------------------------- serve


@WITH_CURL
def test_the_banner_says_what_a_person_wants_to_know_and_its_curl_line_works(tmp_path: Path) -> None:
    with serving("--sandbox", cwd=tmp_path) as running:
        sandbox = re.search(r"http://127\.0\.0\.1:\d+(?=/jina/v1)", running.banner)
        assert sandbox is not None
        curl = (
            f"curl http://127.0.0.1:{running.port}/v1/embeddings -H 'Content-Type: application/json' "
            '-d \'{"model": "jina-embeddings-v3", "input": "Hello, gate"}\''
        )
        urls = [f"{sandbox[0]}/jina/v1 and", f"{sandbox[0]}/deepsearch/v1", f"{sandbox[0]}/aihubmix/v1"]
        wide = 78 - len("jina      " + "  none needed in the sandbox")
        assert running.banner == "\n".join(
            [
                f"Torii {__version__}",
                "",
                f"  Base URL  http://127.0.0.1:{running.port}/v1",
                "  Callers   anyone on this machine, with any key or none; no caller keys are set",
                f"  Docs      http://127.0.0.1:{running.port}/docs",
                "  Operator  none; with TORII_OPERATOR_KEY set, keys, limits and a ledger can be tried",
                "  Sandbox   built-in stand-ins answer, from made-up data: no network, no cost, no real results",
                "",
                f"  {'UPSTREAM':8}  {'BASE URL':{wide}}  KEY",
                f"  jina      {urls[0]:{wide}}  none needed in the sandbox",
                f"            {urls[1]}",
                f"  aihubmix  {urls[2]:{wide}}  none needed in the sandbox",
                "",
                "Try it:",
                "",
                f"  {curl}",
                "",
                LAST_LINE,
            ]
        )
        answer = subprocess.run(["sh", "-c", curl], capture_output=True, timeout=SECONDS, check=True).stdout
        embedding = msgspec.json.decode(answer)
        assert (embedding["object"], embedding["model"]) == ("list", "jina-embeddings-v3")
        assert len(embedding["data"][0]["embedding"]) == 1024
        assert running.ends_on(signal.SIGTERM) == 0
    call, *rest = running.log
    assert (call["logger"], call["message"]) == ("torii.calls", "embeddings 200")
    assert (call["model"], call["upstream"], call["status"]) == ("jina-embeddings-v3", "jina", 200)
    assert [line["message"] for line in rest] == [
        "SIGTERM: new calls are refused; open calls have 30 seconds to finish"
    ]


def test_the_banner_shows_no_more_of_a_key_than_its_last_four_characters(tmp_path: Path) -> None:
    keys = {"JINA_API_KEY": JINA_KEY, "AIHUBMIX_API_KEY": AIHUBMIX_KEY, "TORII_CALLER_KEY": CALLER_KEY}
    with serving(cwd=tmp_path, **keys) as running:
        lines = running.banner.splitlines()
        assert lines[3] == "  Callers   default"
        assert lines[4].startswith("  Ledger    none, calls are not recorded: neither XDG_STATE_HOME nor HOME is set")
        assert lines[7:10] == [
            "  UPSTREAM  BASE URL                                                  KEY",
            f"  jina      https://api.jina.ai/v1 and https://deepsearch.jina.ai/v1  ...{JINA_KEY[-4:]}",
            f"  aihubmix  https://aihubmix.com/v1                                   ...{AIHUBMIX_KEY[-4:]}",
        ]
        assert not any(key in running.banner for key in keys.values())
        assert lines[-4] == "  KEY=THE-KEY-OF-A-CALLER"
        assert '-H "Authorization: Bearer $KEY" ' in lines[-3]
        assert running.status("/v1/models") == 401
        assert running.status("/v1/models", Authorization=f"Bearer {CALLER_KEY}") == 200
        assert running.ends_on(signal.SIGINT) == 0
    assert [line["message"] for line in running.log[1:]] == [
        "SIGINT: new calls are refused; open calls have 30 seconds to finish; a second Ctrl+C ends them at once"
    ]
    assert running.log[0]["message"].startswith("GET /v1/models was refused: The request has no API key.")


@WITH_CURL
def test_a_key_made_for_the_run_is_printed_once_and_its_curl_lines_work(tmp_path: Path) -> None:
    with serving("--sandbox", "--host", "0.0.0.0", cwd=tmp_path, TORII_GENERATE_CALLER_KEY="true") as running:
        lines = running.banner.splitlines()
        assert lines[2:4] == [
            f"  Base URL  http://127.0.0.1:{running.port}/v1  (and on all other addresses of this machine)",
            "  Callers   default (a key generated for this run)",
        ]
        assert "/docs" not in running.banner
        key = lines[-4].removeprefix("  KEY=")
        assert re.fullmatch(r"torii-[\w-]{43}", key)
        answer = subprocess.run(["sh", "-c", "\n".join(lines[-4:-2])], capture_output=True, timeout=SECONDS, check=True)
        assert msgspec.json.decode(answer.stdout)["object"] == "list"
        assert running.status("/v1/models") == 401
        assert running.ends_on(signal.SIGTERM) == 0
    assert running.banner.count(key) == 1
    assert key not in str(running.log)


def test_sigterm_lets_an_open_stream_end_and_takes_no_new_call(tmp_path: Path) -> None:
    with serving("--sandbox", cwd=tmp_path, TORII_SANDBOX_TIME_SCALE="0.3") as running:
        question = {"role": "user", "content": "What is a torii?"}
        body = {"model": "jina-deepsearch-v1", "stream": True, "messages": [question]}
        with running.asked("POST", "/v1/chat/completions", body) as answer:
            assert answer.status == 200
            assert answer.readline().startswith(b"data: ")
            running.process.send_signal(signal.SIGTERM)
            assert _refuses(running.port)
            assert answer.read().endswith(b"data: [DONE]\n\n")
        running.process.communicate(timeout=SECONDS)
        assert running.process.returncode == 0


def test_a_signal_at_once_after_the_banner_ends_it_too(tmp_path: Path) -> None:
    with serving("--sandbox", cwd=tmp_path) as running:
        assert running.ends_on(signal.SIGTERM) == 0


def _refuses(port: int) -> bool:
    """Returns True once new connections are refused; polls until then."""
    for _ in range(10_000):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=SECONDS).close()
        except ConnectionError:
            return True
    return False


def test_a_person_at_a_terminal_reads_lines_and_not_json(tmp_path: Path) -> None:
    terminal, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve", "--sandbox", "--port", "0"],
        cwd=tmp_path,
        env=environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=side,
        text=True,
    )
    os.close(side)
    guard = threading.Timer(SECONDS, process.kill)
    guard.start()
    try:
        running = Running(process, _said(terminal, LAST_LINE.strip()))
        assert running.status("/healthz") == 200
        process.send_signal(signal.SIGTERM)
        line = _said(terminal, "to finish").splitlines()[-1]
        assert process.wait(SECONDS) == 0
    finally:
        guard.cancel()
        process.kill()
        process.communicate()
        os.close(terminal)
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d INFO  torii: SIGTERM: new calls are refused; open calls have 30 seconds to finish", line
    )


def _said(terminal: int, last: str) -> str:
    """The terminal's output, once it contains ``last``."""
    said = b""
    while last.encode() not in said:
        said += os.read(terminal, 4096)
    return said.decode().replace("\r\n", "\n")


def test_a_port_in_use_is_named_with_one_that_may_be_free(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = torii("serve", "--sandbox", "--port", str(port), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"torii: cannot listen on 127.0.0.1 port {port}: another program uses it. Stop that program, or use another "
        f"port: torii serve --port {port + 1}\n"
    )


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (
            "192.0.2.1",
            "this machine has no such address. --host 127.0.0.1 is this machine, 0.0.0.0 all addresses.",
        ),
        ("a..b", "a..b is not a known address or host name. Use --host 127.0.0.1 for this machine only."),
    ],
)
def test_an_address_that_cannot_be_bound_is_explained(host: str, reason: str, tmp_path: Path) -> None:
    done = torii("serve", "--sandbox", "--host", host, cwd=tmp_path, TORII_CALLER_KEY=CALLER_KEY)
    assert (done.returncode, done.stderr) == (2, f"torii: cannot listen on {host} port 8000: {reason}\n")


def test_without_callers_it_refuses_to_be_reached_by_others(tmp_path: Path) -> None:
    done = torii("serve", "--host", "0.0.0.0", cwd=tmp_path, JINA_API_KEY=JINA_KEY)
    assert (done.returncode, done.stdout) == (2, "")
    head, mistake = done.stderr.splitlines()
    assert head == "torii: the configuration has a mistake:"
    assert mistake.startswith("  command line: host: ")
    assert all(way in mistake for way in ("TORII_CALLER_KEY", "generate_caller_key: true", "host: 127.0.0.1"))


def test_after_make_run_another_port_is_named_in_words_for_make(tmp_path: Path) -> None:
    """The recipe itself runs, with this checkout's command in place of the installed one."""
    (tmp_path / "torii").write_text(f'#!/bin/sh\nexec {sys.executable} -m app "$@"\n')
    (tmp_path / "torii").chmod(0o755)
    (tmp_path / ".run").touch()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        make = ["make", "-C", str(ROOT), "run", f"BIN={tmp_path}", f"VENV={tmp_path}", "-o", f"{tmp_path}/.run"]
        done = subprocess.run(
            [*make, f"ARGS=--port {port}"], env=environment({}), capture_output=True, text=True, timeout=SECONDS
        )
    assert f'use another port: make run ARGS="--port {port + 1}"\n' in done.stderr


def test_check_says_that_the_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = torii("check", cwd=tmp_path, JINA_API_KEY=JINA_KEY, TORII_PORT=port)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(
        f"\n\nNote: cannot listen on 127.0.0.1 port {port}: another program uses it. Stop that program, or use another "
        f"port: torii serve --port {int(port) + 1}\n"
    )
    free = torii("check", cwd=tmp_path, JINA_API_KEY=JINA_KEY, TORII_PORT=str(free_port()))
    assert "Note:" not in free.stdout
    with serving("--sandbox", cwd=tmp_path, XDG_RUNTIME_DIR=str(tmp_path)) as running:
        own = {"TORII_PORT": str(running.port), "XDG_RUNTIME_DIR": str(tmp_path)}
        done = torii("check", cwd=tmp_path, JINA_API_KEY=JINA_KEY, **own)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        *(0, f"Note: one of your gateways runs on port {running.port}."),
    )


NO_KEY = "No upstream has a key, so no model can be called. With a key for each, these models would be served:"


def test_without_any_key_check_and_models_show_what_would_be_there(tmp_path: Path) -> None:
    with_keys = {"JINA_API_KEY": JINA_KEY, "AIHUBMIX_API_KEY": AIHUBMIX_KEY}
    done, keyed = torii("check", cwd=tmp_path), torii("check", cwd=tmp_path, **with_keys)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("none, not used") == 2
    assert f"\n\n{NO_KEY}\n\nMODEL " in done.stdout
    assert done.stdout.partition(NO_KEY)[2].strip() == keyed.stdout[keyed.stdout.index("MODEL ") :].strip()
    live = torii("check", "--live", cwd=tmp_path)
    assert (live.returncode, live.stdout[: len(done.stdout)]) == (1, done.stdout)
    models = torii("models", cwd=tmp_path)
    assert (models.returncode, models.stderr) == (0, "")
    assert models.stdout == f"{NO_KEY}\n\n{torii('models', cwd=tmp_path, **with_keys).stdout}"
    listed = torii("models", "--json", cwd=tmp_path)
    assert (listed.returncode, listed.stderr) == (0, f"{NO_KEY}\n")
    assert listed.stdout == torii("models", "--json", cwd=tmp_path, **with_keys).stdout


@pytest.mark.parametrize("words", [("models",), ("check",), ("check", "--live")], ids=" ".join)
def test_tables_fit_a_terminal(words: tuple[str, ...], tmp_path: Path) -> None:
    keys = {"TORII_UPSTREAMS__JINA__API_KEYS": msgspec.json.encode([{"key": f"key-{n}"} for n in range(9)]).decode()}
    own = {
        "TORII_MODELS": '{"a-name-that-is-longer-than-any-other-in-this-place": "jina-reranker-v2-base-multilingual"}'
    }
    dead = {"TORII_UPSTREAMS__JINA__BASE_URL": f"http://127.0.0.1:{free_port()}/v1", "TORII_SANDBOX": "off"}
    done = torii(*words, cwd=tmp_path, **keys, **own, **dead)
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("Configuration:", "Note:"))]
    assert (len(lines) > 30, max(map(len, lines)) <= 80) == (True, True)


def test_without_any_key_it_says_what_to_do(tmp_path: Path) -> None:
    done = torii("serve", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "torii: the configuration has a mistake:\n"
        "  No upstream has a key. Set JINA_API_KEY or AIHUBMIX_API_KEY or both, "
        "or try Torii without any key: torii serve --sandbox\n",
    )


# ---------------------------------------------------------------- check and models


@pytest.mark.parametrize("command", ["serve", "check", "models"])
def test_every_mistake_is_told_with_its_file_line_and_key(command: str, tmp_path: Path) -> None:
    (tmp_path / "torii.yaml").write_text("prot: 9000\ntimeouts:\n  idle_seconds: soon\n")
    done = torii(command, "--config", "torii.yaml", cwd=tmp_path, JINA_API_KEY=JINA_KEY)
    assert (done.returncode, done.stdout) == (2, "")
    head, *mistakes = done.stderr.splitlines()
    assert head == "torii: the configuration has 2 mistakes:"
    assert sorted(mistake.partition(";")[0] for mistake in mistakes) == [
        "  torii.yaml:1: prot: unknown key",
        "  torii.yaml:3: timeouts.idle_seconds: must be a number",
    ]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    done = torii("check", "--config", "none.yaml", cwd=tmp_path, JINA_API_KEY=JINA_KEY)
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        "torii: the configuration has a mistake:\n  none.yaml: cannot be read: No such file or directory\n",
    )


KEPT = ("jina-embeddings-v3", "jina-reranker-m0", "jina-colbert-v2")


@pytest.fixture
def configured(tmp_path: Path) -> dict[str, Any]:
    """A configuration with few models, in a file that is found by default, with its keys in the environment."""
    models: dict[str, Any] = {name: None for name in CATALOGUE if name not in KEPT}
    models |= {
        "jina-colbert-v2": {"targets": ["aihubmix/jina-colbert-v2", "jina"]},
        "text-embed": "jina-embeddings-v3",
        "embed": "jina-embeddings-v3",
        "house": {"targets": [{"upstream": "own", "model": "bge-m3"}], "endpoints": ["embeddings"], "dimensions": 64},
    }
    upstreams = {"own": {"kind": "openai", "base_url": "http://models.test/v1"}}
    callers = [{"name": "alice", "key": CALLER_KEY}, {"name": "bob", "sha256": hashlib.sha256(b"bob").hexdigest()}]
    config = {"upstreams": upstreams, "models": models, "callers": callers}
    (tmp_path / "config.yaml").write_bytes(msgspec.json.encode(config))
    keys = {"JINA_API_KEY": JINA_KEY, "AIHUBMIX_API_KEY": AIHUBMIX_KEY, "TORII_UPSTREAMS__OWN__API_KEY": CALLER_KEY}
    return {"cwd": tmp_path, **keys}


def test_check_prints_where_the_settings_come_from_the_upstreams_and_the_route_table(
    configured: dict[str, Any],
) -> None:
    done = torii("check", **configured)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == dedent(
        f"""\
        Configuration: config.yaml; environment: AIHUBMIX_API_KEY, JINA_API_KEY, TORII_UPSTREAMS__OWN__API_KEY

        UPSTREAM  BASE URL                                                  KEY
        own       http://models.test/v1                                     ...{CALLER_KEY[-4:]}
        jina      https://api.jina.ai/v1 and https://deepsearch.jina.ai/v1  ...{JINA_KEY[-4:]}
        aihubmix  https://aihubmix.com/v1                                   ...{AIHUBMIX_KEY[-4:]}

        MODEL               ENDPOINTS               TARGETS, IN ORDER  ALIASES
        jina-embeddings-v3  embeddings, classify,   jina, aihubmix     text-embed, embed
                            train
        jina-colbert-v2     embeddings, rerank      aihubmix, jina
        jina-reranker-m0    rerank                  jina, aihubmix
        house               embeddings              own/bge-m3

        Unknown models go to own.
        Callers: alice, bob.
        """
    )


def test_models_prints_what_each_model_can_do(configured: dict[str, Any]) -> None:
    done = torii("models", **configured)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == dedent(
        """\
        MODEL               ENDPOINTS            INPUTS       DIMENSIONS  UPSTREAMS
        jina-embeddings-v3  embeddings,          text         1024        jina, aihubmix
                            classify, train
          8,192 tokens; dimensions 1-1024; late_chunking; normalized; task
          retrieval.query, retrieval.passage, text-matching, classification, separation;
          truncate
        jina-colbert-v2     embeddings, rerank   text         128         aihubmix, jina
          8,192 tokens; dimensions 64, 96, 128; input_type query, document
        jina-reranker-m0    rerank               text, image              jina, aihubmix
          10,240 tokens
        house               embeddings           text         64          own

        ALIAS       OF
        text-embed  jina-embeddings-v3
        embed       jina-embeddings-v3

        Unknown models go to own.
        """
    )


def test_models_as_json_are_what_the_gateway_answers(configured: dict[str, Any]) -> None:
    done = torii("models", "--json", **configured)
    with serving(**configured) as running:
        with running.asked("GET", "/v1/models", Authorization=f"Bearer {CALLER_KEY}") as answer:
            assert msgspec.json.decode(done.stdout) == msgspec.json.decode(answer.read())


def test_a_live_check_in_the_sandbox_gets_an_answer_of_each_upstream(tmp_path: Path) -> None:
    done = torii("check", "--live", cwd=tmp_path, TORII_SANDBOX="auto")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(
        r"\n\nUPSTREAM  LIVE CALL\n"
        r"jina      ok in \d+ ms \(jina-embeddings-v3\)\n"
        r"aihubmix  ok in \d+ ms \(jina-embeddings-v3\)\n$",
        done.stdout,
    )


async def live(tmp_path: Path, jina: str, aihubmix: str) -> tuple[int, list[str]]:
    """The exit code of ``torii check --live``, and its report on each upstream."""
    urls = {
        "TORII_UPSTREAMS__JINA__BASE_URL": f"{jina}/v1",
        "TORII_UPSTREAMS__AIHUBMIX__BASE_URL": f"{aihubmix}/v1",
    }
    keys = {"JINA_API_KEY": JINA_KEY, "AIHUBMIX_API_KEY": AIHUBMIX_KEY}
    done = await asyncio.to_thread(torii, "check", "--live", cwd=tmp_path, **urls, **keys)
    assert done.stderr == ""
    return done.returncode, unwrapped(done.stdout)[-2:]


def unwrapped(text: str) -> list[str]:
    """The lines, with continuation lines of a cell joined to the line before. Checks that none is wider than a
    terminal."""
    lines: list[str] = []
    for line in text.splitlines():
        assert len(line) <= 80 or not re.match(r"[a-z ]+  ", line)
        if line.startswith(" ") and lines:
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return lines


GOOD = {
    "model": "jina-embeddings-v3",
    "object": "list",
    "usage": {"total_tokens": 3, "prompt_tokens": 3},
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5] * 1024}],
}


async def test_a_live_check_makes_one_cheap_call_to_each_upstream(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(replies(GOOD))
    other_upstream.plays(replies({"detail": f"Invalid API key {AIHUBMIX_KEY}"}, status=401))
    code, (jina, aihubmix) = await live(tmp_path, upstream.url, other_upstream.url)
    assert code == 1
    assert re.fullmatch(r"jina      ok in \d+ ms \(jina-embeddings-v3\)", jina)
    assert aihubmix.startswith("aihubmix  failed: ")
    assert aihubmix.endswith(". Set the right key: AIHUBMIX_API_KEY or upstreams.aihubmix.api_key.")
    (seen,) = upstream.seen
    assert (seen.path, seen.body["model"], seen.body["input"]) == ("/v1/embeddings", "jina-embeddings-v3", ["hello"])


async def test_a_live_check_calls_every_key(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async def play(request: Any, writer: asyncio.StreamWriter) -> Any:
        refused = request.headers["authorization"].endswith("two")
        return await (replies({"detail": "no"}, 401) if refused else replies(GOOD))(request, writer)

    upstream.plays(play)
    (tmp_path / "config.yaml").write_text(
        f"upstreams: {{jina: {{base_url: '{upstream.url}/v1', api_keys: [{{key: '${{UNSET:-}}'}}, "
        "{key: the-key-number-one, name: first}, {key: the-key-number-two}]}}"
    )
    done = await asyncio.to_thread(torii, "check", "--live", cwd=tmp_path, JINA_API_KEY=JINA_KEY)
    head, single, first, second = unwrapped(done.stdout)[-4:]
    assert (done.returncode, head) == (1, "UPSTREAM  KEY         LIVE CALL")
    assert re.fullmatch(r"jina      jina-1      ok in \d+ ms \(jina-embeddings-v3\)", single)
    assert re.fullmatch(r"jina      jina-first  ok in \d+ ms \(jina-embeddings-v3\)", first)
    assert second.startswith("jina      jina-3      failed: ")
    assert second.endswith(". Set the right key: upstreams.jina.api_keys[2].key.")
    assert len(upstream.seen) == 3


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (402, "Top up the account, or set the key of another account: JINA_API_KEY or upstreams.jina.api_key."),
        (429, "The address and the key are right; try again later."),
        (302, "Set upstreams.jina.base_url to an address that does not redirect."),
        (404, "Check that upstreams.jina.base_url is the part of the address before /embeddings, usually with /v1."),
        (405, "Check that upstreams.jina.base_url is the part of the address before /embeddings, usually with /v1."),
        (400, "Check that upstreams.jina.base_url is the part of the address before /embeddings."),
        (500, "Check that {url}/v1 is the right address; if it is, the fault is the provider's."),
    ],
)
async def test_a_live_check_says_what_to_do(
    status: int, advice: str, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(replies({"detail": "no"}, status=status))
    other_upstream.plays(replies(GOOD))
    code, (jina, _) = await live(tmp_path, upstream.url, other_upstream.url)
    assert code == 1
    assert jina.startswith("jina      failed: ")
    assert jina.endswith(". " + advice.format(url=upstream.url))


async def test_a_live_check_says_that_an_upstream_cannot_be_reached(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(replies(GOOD))
    nobody = f"http://127.0.0.1:{free_port()}"
    code, (_, aihubmix) = await live(tmp_path, upstream.url, nobody)
    assert code == 1
    assert aihubmix == (
        "aihubmix  failed: the upstream cannot be reached: connection refused. Check that this machine can reach "
        f"{nobody}/v1 and that upstreams.aihubmix.base_url is right."
    )


# ---------------------------------------------------------------- upstreams

OPERATOR_KEY = "torii-test-operator-key-0123456789"


def test_upstreams_prints_how_each_key_is(tmp_path: Path) -> None:
    limits = {"TORII_UPSTREAMS__JINA__TIER": "free", "TORII_OPERATOR_KEY": OPERATOR_KEY}
    with serving("--sandbox", cwd=tmp_path, **limits) as running:
        body = {"model": "jina-embeddings-v3", "input": "Hello, gate"}
        with running.asked("POST", "/v1/embeddings", body) as answer:
            assert answer.status == 200
        asked = ("upstreams", "--port", str(running.port))
        done = torii(*asked, cwd=tmp_path, TORII_OPERATOR_KEY=OPERATOR_KEY)
        shown = torii(*asked, "--json", cwd=tmp_path, TORII_OPERATOR_KEY=OPERATOR_KEY)
        with running.asked("GET", "/admin/upstreams", Authorization=f"Bearer {OPERATOR_KEY}") as answer:
            assert msgspec.json.decode(shown.stdout) == msgspec.json.decode(answer.read())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == dedent(
        """\
        UPSTREAM  KEY               STATE    IN FLIGHT  CALLS  FAILED
        jina      jina ...hing      healthy  0 of 5     1      0
          this minute 1 of 500 requests, 13 of 1,000,000 tokens, 0 of 50 deepsearch
        aihubmix  aihubmix ...hing  healthy  0          0      0
        """
    )


def test_the_keys_of_a_running_gateway_in_each_state() -> None:
    row = {"upstream": "jina", "tail": "", "at_work": 0, "concurrency": None, "minute": {}, "calls": 2, "failures": 1}
    until = {"until": "2026-11-21T10:00:00Z"}
    rows = [
        {**row, **until, "key": "a", "broken": True, "state": "resting", "cause": "rate limited"},
        {**row, "key": "b", "broken": True, "state": "trial", "cause": "refused"},
    ]
    assert report.keys(rows).splitlines()[1:] == [
        "jina (keeps failing,     a    rate limited, in          0          2      1",
        "tried last)                   cooldown until",
        "                              2026-11-21 10:00:00Z",
        "jina (keeps failing,     b    refused, tried by the     0          2      1",
        "tried last)                   next call",
    ]


def test_upstreams_without_an_operators_key_says_what_to_do(tmp_path: Path) -> None:
    done = torii("upstreams", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Set TORII_OPERATOR_KEY (16 characters or more" in done.stderr


def test_upstreams_fails_where_nobody_listens(tmp_path: Path) -> None:
    port = free_port()
    done = torii("upstreams", "--port", str(port), cwd=tmp_path, TORII_OPERATOR_KEY=OPERATOR_KEY)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"torii: no answer at http://127.0.0.1:{port}/admin/upstreams: Connection refused\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            replies({}, 401),
            "answered 401: the gateway has another operator_key. Set the same operator_key for the gateway and this "
            "command.",
        ),
        (
            replies({}, 404),
            "answered 404: the gateway has no operator_key. Restart the gateway with the operator_key of this command.",
        ),
        (replies(b"<html>", 503), "answered 503: is this a Torii gateway?"),
        (replies(b"<html>"), "sent an unexpected response: is this a Torii gateway?"),
        (replies([]), "sent an unexpected response: is this a Torii gateway?"),
    ],
)
async def test_upstreams_says_what_is_wrong_with_the_answer(
    answer: Any, said: str, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(answer)
    port = upstream.url.rpartition(":")[2]
    done = await asyncio.to_thread(torii, "upstreams", "--port", port, cwd=tmp_path, TORII_OPERATOR_KEY=OPERATOR_KEY)
    assert (done.returncode, done.stderr) == (1, f"torii: {upstream.url}/admin/upstreams {said}\n")


# ---------------------------------------------------------------- healthcheck


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_healthcheck_finds_the_gateway_by_the_settings_of_serve(host: str, tmp_path: Path) -> None:
    with serving("--sandbox", "--host", host, cwd=tmp_path, TORII_CALLER_KEY=CALLER_KEY) as running:
        proxy = "http://127.0.0.1:9"
        variables = {"TORII_HOST": host, "TORII_PORT": str(running.port), "http_proxy": proxy, "HTTP_PROXY": proxy}
        done = torii("healthcheck", cwd=tmp_path, **variables)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"http://{host.replace('0.0.0.0', '127.0.0.1')}:{running.port} is alive\n"


def test_healthcheck_fails_where_nobody_listens(tmp_path: Path) -> None:
    port = free_port()
    done = torii("healthcheck", "--port", str(port), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"torii: no answer at http://127.0.0.1:{port}/healthz: Connection refused\n"


async def test_healthcheck_fails_where_something_else_answers(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(replies({}, status=503))
    port = upstream.url.rpartition(":")[2]
    done = await asyncio.to_thread(torii, "healthcheck", "--port", port, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, f"torii: {upstream.url}/healthz answered 503, not 200\n")


@pytest.mark.parametrize(
    ("sent", "why"), [(b"nonsense\r\n\r\n", "the response is not HTTP"), (b"", "the connection was closed early")]
)
async def test_healthcheck_says_in_words_of_ours_what_came(sent: bytes, why: str, tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        done = await asyncio.to_thread(torii, "healthcheck", "--port", str(port), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"torii: no answer at http://127.0.0.1:{port}/healthz: {why}\n"


def test_healthcheck_starts_without_what_only_the_gateway_needs(tmp_path: Path) -> None:
    code = (
        "import sys; from app.cli.main import main\n"
        f"try: main(['healthcheck', '--port', '{free_port()}'])\n"
        "except SystemExit: print(sorted({'fastapi', 'uvicorn', 'httpx', 'starlette'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment({}), capture_output=True, text=True, timeout=SECONDS
    )
    assert done.stdout == "[]\n"
