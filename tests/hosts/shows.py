"""What three replicas promise, shown over HTTP: nothing is overspent or lost, also when one of them is killed.

Each show starts its own servers and replicas, and gives the lines of the table.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import httpx

from ..conftest import until
from ..team.gateway import CHAT, EMBED, VirtualKey, chat, crowd, embed
from ..team.shows import LEASE_SECONDS, PLAYS, Lines, act
from .replicas import Replicas, replicas, soon

SHARED = 60  # a minute
FAULTY: dict[str, Any] = {
    "models": {"jina-embeddings-v3": {"max_inputs": 2}},
    "cache": {"store": "memory"},
    "max_attempts": 2,
}
RETRIES_SECONDS = 30.0  # for a store that is back to be found again


def statuses(found: Sequence[httpx.Response | None]) -> dict[str, int]:
    """How many calls had each status; of those that the gateway could not serve, the code too."""

    def told(answer: httpx.Response | None) -> str:
        if answer is None:
            return "lost"
        return f"503 {answer.json()['error']['code']}" if answer.status_code == 503 else str(answer.status_code)

    return dict(sorted(Counter(map(told, found)).items()))


def lines_of(number: int, what: str, there: Replicas) -> Lines:
    return Lines(f"{number} {what}, {there.stores.kind}")


async def books(there: Replicas, key: VirtualKey, lines: Lines) -> None:
    """At rest: nothing is held, rows and counters agree, and all replicas say the same."""
    requests = (await there.first.rests(key, LEASE_SECONDS))[0]
    rows = [row for row in await there.first.rows(key=key.id) if row["kind"] != "refusal"]
    counted = sum(row["requests"] for row in rows)
    lines.same(
        "rows of calls, spent and held of the budget",
        (counted, int(float(requests["held"]))),
        (int(requests["spent"]), 0),
    )
    said = [(await gateway.budgets(key))[0]["spent"] for gateway in there.gateways.values()]
    lines.same("spent, as each replica says", said, [requests["spent"]] * len(said))
    lines.same("torii ledger verify", await there.first.verified(), [])


# ---------------------------------------------------------------- 1: no overshoot


async def burst(there: Replicas, calls: int = 3000, amount: int = 100) -> Lines:
    """``calls`` at once, spread over the replicas, for the last ``amount`` of a budget; then limits of a minute and of
    calls at once."""
    lines = lines_of(1, "burst", there)
    key = await there.key("burst", budgets=[{"unit": "requests", "amount": amount, "window": "total"}])
    before, began = there.met, time.monotonic()
    found = await there.answers(key, EMBED, [embed(f"call {number}") for number in range(calls)])
    took = time.monotonic() - began
    lines.same(f"{calls:,} calls at once, budget {amount}", statuses(found), {"200": amount, "429": calls - amount})
    lines.same("overshoot: requests at the provider above it", there.met - before - amount, 0)
    refused = [each for each in found if each is not None and each.status_code == 429]
    codes = {(each.json()["error"]["code"], each.headers.get("x-should-retry")) for each in refused}
    lines.same("code and x-should-retry of the refusals", codes, {("insufficient_quota", "false")})
    await books(there, key, lines)
    lines.true("seconds, calls a second", True, f"{took:.1f}, {calls / took:.0f}")
    await _minute(there, lines, calls // 3, amount)
    await _at_once(there, lines)
    return lines


async def _minute(there: Replicas, lines: Lines, calls: int, amount: int) -> None:
    key = await there.key("minute", limits={"requests_per_minute": amount})
    before = there.met
    found = await there.answers(key, EMBED, [embed(f"minute {number}") for number in range(calls)])
    right = {"200": amount, "429": calls - amount}
    lines.same(f"{calls:,} calls, {amount} a minute", statuses(found), right)
    lines.same("requests that reached the provider", there.met - before, amount)


async def _at_once(there: Replicas, lines: Lines, most: int = 10) -> None:
    """Streams that are held open, more than may be."""
    key = await there.key("at-once", limits={"concurrent_calls": most})
    before = there.aihubmix.held
    there.aihubmix.gate.clear()
    bodies = [chat(f"{number} play:held", stream=True) for number in range(3 * most)]
    asked = asyncio.create_task(there.answers(key, CHAT, bodies))

    async def full() -> bool:
        return there.aihubmix.held - before >= most

    lines.true(
        f"streams open at once, of {3 * most}, {most} allowed", await soon(full, 20), there.aihubmix.held - before
    )
    lines.true("never more", there.aihubmix.held - before <= most, there.aihubmix.held - before)
    there.aihubmix.gate.set()
    said = statuses(await asked)
    lines.true("once they end, others take their places", set(said) <= {"200", "429"} and said["200"] >= most, said)


async def tokens(there: Replicas, calls: int = 300, amount: int = 5_000) -> Lines:
    """Calls whose bound is several times what is billed, until a budget of tokens is spent; watched meanwhile."""
    lines = lines_of(1, "tokens", there)
    key = await there.key("tokens", budgets=[{"unit": "tokens", "amount": amount, "window": "day"}])
    most = passed = 0
    met, billed = there.met, there.jina.billed

    async def watch() -> None:
        nonlocal most
        while True:
            (budget,) = await there.first.budgets(key)
            most = max(most, int(budget["spent"]) + int(budget["held"]))

    watching = asyncio.create_task(watch())
    for turn in range(20):
        bodies = [embed(f"{turn} {number} " + "x" * 60) for number in range(calls // 3)]
        found = statuses(await there.answers(key, EMBED, bodies))
        passed += found.get("200", 0)
        if passed and not found.get("200"):
            break
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    (budget,) = await there.first.rests(key)
    spent, held = int(budget["spent"]), int(budget["held"])
    lines.true("the most that was spent and held at any time", 0 < most <= amount, f"{most:,} of {amount:,}")
    lines.same("tokens spent, as the provider billed", spent, there.jina.billed - billed)
    lines.true("nothing more fits, nothing is held", amount - spent < 100 and held == 0, f"{amount - spent} left")
    lines.same("calls that passed, as the provider saw", passed, there.met - met)
    lines.same("torii ledger verify", await there.first.verified(), [])
    return lines


async def killed(folder: Path, kind: str, calls: int = 1500, amount: int = 300) -> Lines:
    """SIGKILL of one replica with streams open and calls on their way; then it starts again."""
    async with replicas(folder, kind) as there:
        lines = lines_of(1, "SIGKILL", there)
        key = await there.key("killed", budgets=[{"unit": "requests", "amount": amount, "window": "total"}])
        streams = [chat(f"{number} play:held", stream=True) for number in range(amount // 3)]
        open_streams = asyncio.create_task(there.answers(key, CHAT, streams))
        await until(lambda: there.aihubmix.held >= len(streams))
        bodies = [embed(f"a{number}" + " play:held" * (number % 4 == 0)) for number in range(calls)]
        rest = asyncio.create_task(there.answers(key, EMBED, bodies))
        await until(lambda: there.jina.held >= amount // 15)
        await there.kill(1)
        there.jina.gate.set()
        found = await rest
        there.aihubmix.gate.set()
        streamed = await open_streams
        await there.start(1)
        again = await there.answers(key, EMBED, [embed(f"b{number}") for number in range(2 * amount)])
        lines.true(f"{calls:,} calls, {len(streams)} streams open", None in found, statuses(found))
        lines.true("the streams: of the killed one lost, others whole", _whole(streamed), statuses(streamed))
        lines.true("after it has started again", set(statuses(again)) <= {"200", "429"}, statuses(again))
        lines.true("overshoot: requests at the provider above it", there.met <= amount, max(there.met - amount, 0))
        lost = await _lost(there, key)
        lines.true("calls that the process lost, in rows", lost > 0, lost)
        await books(there, key, lines)
        (budget,) = await there.first.budgets(key)
        if left := int(budget["remaining"]):
            more = statuses(await there.answers(key, EMBED, [embed(f"c{number}") for number in range(2 * left)]))
            lines.same("the rest, to the last one", more, {"200": left, "429": left})
    return lines


def _whole(found: Sequence[httpx.Response | None]) -> bool:
    kept = [each for each in found if each is not None]
    return 0 < len(kept) < len(found) and all(each.text.endswith("data: [DONE]\n\n") for each in kept)


async def _lost(there: Replicas, key: VirtualKey) -> int:
    """The calls in rows of the killed process, once its lease has ended."""

    async def rows() -> list[Any]:
        return [row for row in await there.first.rows(key=key.id) if row["error"] == "process_lost"]

    await soon(rows, LEASE_SECONDS)
    await there.first.rests(key, LEASE_SECONDS)
    return sum(row["requests"] for row in await rows())


# ---------------------------------------------------------------- 2: nothing leaks


async def faults(there: Replicas, seconds: float = 15.0, seed: int = 1, rest: int = 25) -> Lines:
    """Random faults and departures at replicas with FAULTY; then the rest of a budget is spent to the last unit."""
    amount = 100_000
    lines = lines_of(2, "faults", there)
    budgets = [
        {"unit": "requests", "amount": amount, "window": "total"},
        {"unit": "tokens", "amount": 10**9, "window": "month"},
    ]
    limits = {"concurrent_calls": 200, "tokens_per_minute": 50_000_000}
    key = await there.key("faults", limits=limits, budgets=budgets)
    counted = await _soak(there, key, seconds, Random(seed))
    lines.true("calls", counted.total() > 0, ", ".join(f"{name} {n}" for name, n in sorted(counted.items())))
    requests, spent = await there.first.rests(key)
    held = [float(each["held"]) for each in (requests, spent)]
    lines.same("requests and tokens held at rest", held, [0, 0])
    rows = [row for row in await there.first.rows(key=key.id) if row["kind"] != "refusal"]
    lines.same(
        "calls with a row, as the budget counts", len({row["request_id"] for row in rows}), int(requests["spent"])
    )
    billed = sum(int(row["total_tokens"]) for row in rows if row["kind"] == "call")
    lines.same("tokens of the rows, as the budget counts", billed, int(spent["spent"]))
    last = [{**budgets[0], "amount": int(requests["spent"]) + rest}, budgets[1]]
    await there.first.admin("PATCH", f"keys/{key.id}", {"budgets": last})
    await asyncio.gather(*(_knows(there, place, key, int(requests["spent"]) + rest) for place in there.gateways))
    found = await there.answers(key, EMBED, [embed(f"last {number}") for number in range(2 * rest)])
    lines.same(f"the last {rest} of the budget, for {2 * rest} calls", statuses(found), {"200": rest, "429": rest})
    lines.same("torii ledger verify", await there.first.verified(), [])
    return lines


async def _knows(there: Replicas, place: int, key: VirtualKey, amount: int) -> None:
    async def known() -> bool:
        said = (await there.gateways[place].client.get("/v1/usage", headers=key.headers)).json()
        return any(float(each["amount"]) == amount for scope in said["data"] for each in scope["budgets"])

    assert await soon(known)


async def _soak(there: Replicas, key: VirtualKey, seconds: float, chance: Random, callers: int = 12) -> Counter[str]:
    """At each replica, callers who do something at random until the time is over; what they did."""
    counted: Counter[str] = Counter()
    end = time.monotonic() + seconds

    async def caller(client: httpx.AsyncClient) -> None:
        while time.monotonic() < end:
            play = chance.choice(PLAYS)
            counted[play] += 1
            with suppress(httpx.TransportError, TimeoutError):
                await act(client, key, play, counted.total())

    async def replica(gateway: Any) -> None:
        async with crowd(gateway, callers + 10) as client:
            await asyncio.gather(*(caller(client) for _ in range(callers)))

    await asyncio.gather(*map(replica, there.gateways.values()))
    return counted


# ---------------------------------------------------------------- 3: a store fails


async def stores(folder: Path, kind: str, calls: int = 150) -> Lines:
    """Each store stopped (SIGSTOP), ended and back, under calls of a key with a budget and of one without."""
    amount = 2 * calls
    async with replicas(folder, kind, queue_timeout_seconds=2) as there:
        lines = lines_of(3, "stores", there)
        budget = await there.key("budget", budgets=[{"unit": "requests", "amount": amount, "window": "total"}])
        free = await there.key("free")
        minute = await there.key("minute", limits={"requests_per_minute": SHARED})
        servers = {"PostgreSQL": there.stores.postgres, **({"Redis": there.stores.redis} if there.stores.redis else {})}
        admitted = ran = 0
        for name, server in servers.items():
            for how, away, back in (
                ("stopped", server.stop, server.resume),
                ("ended", server.shut_down, server.start),
            ):
                what = f"{name} {how}"
                await asyncio.to_thread(away)
                began = time.monotonic()
                asked = [(free, f"free {what}"), (budget, f"budget {what}")]
                one, other = await asyncio.gather(
                    *(there.answers(key, EMBED, [embed(f"{text} {n}") for n in range(30)]) for key, text in asked)
                )
                took = time.monotonic() - began
                lines.same(f"{what}: a key without limits", statuses(one), {"200": 30})
                if name == "Redis":
                    await _shares(there, minute, lines, what)
                right = {"503 storage_unavailable"} if name == "PostgreSQL" else {"200"}
                lines.true(f"{what}: a key with a budget", set(statuses(other)) == right, statuses(other))
                lines.true(f"{what}: seconds for 60 calls", took < 20, f"{took:.1f}")
                ran, admitted = ran + 30, admitted + statuses(other).get("200", 0)
                await asyncio.to_thread(back)
                admitted += await _back(there, budget, lines, what)
        found = statuses(await there.answers(budget, EMBED, [embed(f"last {number}") for number in range(2 * amount)]))
        lines.same("then the rest of the budget", found.get("200", 0), amount - admitted)
        await books(there, budget, lines)
        rows = [row for row in await there.first.rows(key=free.id) if row["kind"] == "call"]
        lines.same("rows of the key without limits", len(rows), ran)
    return lines


async def _shares(there: Replicas, key: VirtualKey, lines: Lines, what: str) -> None:
    """Each process keeps to its part of a limit of a minute, and all of them to the limit."""
    found = statuses(await there.answers(key, EMBED, [embed(f"{what} {number}") for number in range(2 * SHARED)]))
    lines.true(f"{what}: {2 * SHARED} calls, {SHARED} a minute", found.get("200", 0) <= SHARED, found)


async def _back(there: Replicas, key: VirtualKey, lines: Lines, what: str) -> int:
    """Calls until every replica admits again; how many were admitted."""
    began = time.monotonic()
    admitted = 0

    async def served(gateway: Any) -> bool:
        nonlocal admitted
        body = embed(f"back {time.monotonic()}")
        status = (await gateway.client.post(EMBED, json=body, headers=key.headers)).status_code
        admitted += status == 200
        return bool(status == 200)

    found = await asyncio.gather(
        *(soon(partial(served, gateway), RETRIES_SECONDS) for gateway in there.gateways.values())
    )
    lines.true(f"{what}: seconds until all admit again", all(found), f"{time.monotonic() - began:.1f}")
    return admitted


# ---------------------------------------------------------------- 4: revocation, rotation


async def revoked(there: Replicas, seconds: float = 5.0, grace: int = 2) -> Lines:
    """A revoked key is refused by all, with the push and without; a rotated one has two secrets, then one."""
    lines = lines_of(4, "revoke", there)
    for push in ("with the push", "the push lost"):
        if push == "the push lost":
            _silence(there)
        key = await there.key(f"revoked {push}")
        await there.first.admin("DELETE", f"keys/{key.id}")
        took = await there.everywhere(key, 401, 4 * seconds)
        lines.true(f"seconds until all refuse it, {push}", took < seconds, f"{took:.2f}")
    old = await there.key("rotated")
    made = await there.first.admin("POST", f"keys/{old.id}/rotate", {"grace_seconds": grace})
    new = VirtualKey(old.id, made["secret"])
    await there.everywhere(new, 200)
    took = await there.everywhere(old, 401, grace + 4 * seconds)
    lines.true("seconds until the old secret is refused", took < grace + seconds, f"{took:.2f}")
    lines.true("the new secret after it", await there.everywhere(new, 200) < seconds)
    return lines


def _silence(there: Replicas) -> None:
    """From now on no replica hears of a change: PostgreSQL's pg_notify is hidden behind one that says nothing, which
    new connections see, and Redis lets nobody subscribe."""
    there.stores.query("CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE sql AS ''")
    there.stores.query(f"ALTER DATABASE {there.stores.database} SET search_path = public, pg_catalog")
    there.stores.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'torii'"
        " AND datname = current_database()"
    )
    if there.stores.redis is not None:
        from redis import Redis

        with Redis.from_url(there.stores.redis.url()) as client:
            client.execute_command("ACL SETUSER default -subscribe -psubscribe")
            client.execute_command("CLIENT KILL TYPE pubsub")


# ---------------------------------------------------------------- 5: reports


async def reports(there: Replicas, calls: int = 300) -> Lines:
    """The rows of three processes in the reports of each."""
    lines = lines_of(5, "reports", there)
    key = await there.key("reports", budgets=[{"unit": "requests", "amount": 10**6, "window": "month"}])
    before, billed = int(time.time()), there.jina.billed
    found = await there.answers(key, EMBED, [embed(f"call {number}") for number in range(calls)])
    lines.same("calls", statuses(found), {"200": calls})
    right = (calls, there.jina.billed - billed)
    await books(there, key, lines)
    query = f"usage?start_time={before - 60}&bucket_width=1h&limit=2&group_by=key"
    for place, gateway in sorted(there.gateways.items()):

        async def counted(gateway: Any = gateway) -> bool:
            return _summed(await gateway.admin("GET", query), key) == right

        seen = await soon(counted, 10)
        said = _summed(await gateway.admin("GET", query), key)
        lines.true(f"requests and tokens, as replica {place} says", seen, f"{said[0]:,}, {said[1]:,}")
    return lines


def _summed(page: Any, key: VirtualKey) -> tuple[int, int]:
    found = [result for bucket in page["data"] for result in bucket["results"] if result["key"] == key.id]
    return sum(each["requests"] for each in found), sum(each["total_tokens"] for each in found)
