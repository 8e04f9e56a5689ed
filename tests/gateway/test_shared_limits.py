"""Limits that replicas share in Redis, over HTTP: several gateways with ledgers of their own, and one real Redis."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.storage.holds import FOREVER, MINUTE, Balance, Charge
from app.storage.redis.counters import SharedCounters

from ..conftest import ScriptedUpstream, Seen, replies, until
from ..ledger import read
from ..storage.redis.server import RedisServer, redis_server, soon
from .test_limits import KEY, Counted, after, budget, caller, counted, vectors

REPLICAS = 3


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path / "redis") as server:
        yield server


@asynccontextmanager
async def replicas(
    redis: RedisServer, upstream: ScriptedUpstream, path: Path, *, number: int = REPLICAS, **values: Any
) -> AsyncIterator[list[Counted]]:
    async with AsyncExitStack() as stack:
        made = []
        for place in range(number):
            folder = path / f"replica-{place}"
            folder.mkdir(exist_ok=True)
            given = {"counters": {"url": redis.url}, "cache": {"store": "off"}, **values}
            made.append(await stack.enter_async_context(counted(upstream, folder, **given)))
        yield made


def counters_of(books: Counted) -> SharedCounters:
    holds = books.gateway.generations.now.handlers.admission.holds
    assert holds is not None
    assert holds.shared is not None
    return holds.shared.counters


def statuses(answers: Sequence[httpx.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


async def everywhere(made: list[Counted], calls: int) -> list[httpx.Response]:
    return await asyncio.gather(*(made[place % len(made)].ask() for place in range(calls)))


async def test_of_calls_at_all_replicas_exactly_as_many_pass_as_a_minute_allows(
    redis: RedisServer, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(vectors(1))
    async with replicas(redis, upstream, tmp_path, callers=[caller(limits={"requests_per_minute": 40})]) as made:
        answers = await everywhere(made, 150)
        assert statuses(answers) == {200: 40, 429: 110}
        assert len(upstream.seen) == 40
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 59 <= int(refused.headers["retry-after"]) <= 61
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        await until(lambda: sum(len(books.rows()) for books in made) == 40)
        assert all(read(books.path, "SELECT * FROM holds") == [] for books in made)


async def test_what_is_open_is_counted_at_all_replicas(
    redis: RedisServer, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    go = asyncio.Event()
    upstream.plays(after(go, vectors(1)))
    values: dict[str, Any] = {"callers": [caller(limits={"concurrent_calls": 6})], "queue_timeout_seconds": 0.3}
    async with replicas(redis, upstream, tmp_path, **values) as made:
        asking = asyncio.gather(*(made[place % REPLICAS].ask() for place in range(30)))
        await until(lambda: len(upstream.seen) == 6)
        await until(lambda: sum(books.gateway.generations.load.calls for books in made) == 6)
        go.set()
        assert statuses(await asking) == {200: 6, 429: 24}
        assert statuses(await everywhere(made, 6)) == {200: 6}


async def test_a_call_waits_for_one_of_another_replica_to_end(
    redis: RedisServer, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    go = asyncio.Event()
    upstream.plays(after(go, vectors(1)))
    async with replicas(
        redis, upstream, tmp_path, callers=[caller(limits={"concurrent_calls": 1})], queue_timeout_seconds=20
    ) as made:
        first = asyncio.create_task(made[0].ask())
        await until(lambda: len(upstream.seen) == 1)
        second = asyncio.create_task(made[1].ask())
        await until(lambda: made[1].gateway.generations.load.calls == 1)
        go.set()
        assert statuses(await asyncio.gather(first, second)) == {200: 2}


async def test_tokens_of_a_minute_are_held_and_corrected(
    redis: RedisServer, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(vectors(7))
    held = len("one") + 16
    async with replicas(redis, upstream, tmp_path, callers=[caller(limits={"tokens_per_minute": held + 7})]) as made:
        answers = [await made[place].ask() for place in (0, 1)]
        assert statuses(answers) == {200: 2}
        assert answers[0].headers["x-ratelimit-remaining-tokens"] == "7"
        assert answers[0].headers["x-ratelimit-limit-tokens"] == str(held + 7)
        assert answers[1].headers["x-ratelimit-remaining-tokens"] == "0"
        refused = await made[2].ask()
        assert refused.status_code == 429
        assert "tokens_per_minute: 12 of 26 tokens left, and this call may need 19 tokens" in refused.text
        said = await made[2].gateway.client.get("/v1/usage", headers={"authorization": f"Bearer {KEY}"})
        [limit] = said.json()["data"][0]["limits"]
        assert (limit["limit"], limit["used"], limit["remaining"]) == ("tokens_per_minute", 14, 12)
        assert limit["resets_at"] is not None


async def test_a_call_without_other_limits_never_asks_the_ledger(
    redis: RedisServer, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(vectors(7))
    limits = {"requests_per_minute": 10, "tokens_per_minute": 1000, "concurrent_calls": 5}
    async with replicas(redis, upstream, tmp_path, number=1, callers=[caller(limits=limits)]) as [books]:
        assert (await books.ask()).status_code == 200
        [row] = await books.booked(1)
        assert (row["key_id"], row["total_tokens"]) == ("ann", 7)
        assert read(books.path, "SELECT * FROM counters") == []


@pytest.mark.parametrize("last", ["requests", "tokens"])
async def test_what_the_ledger_refuses_is_given_back_to_redis(
    last: str, redis: RedisServer, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(vectors(7))
    limits = {"requests_per_minute": 5, "tokens_per_minute": 1000, "concurrent_calls": 1}
    spent = budget(1, "requests") if last == "requests" else budget(20)
    async with replicas(redis, upstream, tmp_path, number=1, callers=[caller(limits=limits, budgets=[spent])]) as made:
        answers = [await made[0].ask() for _ in range(8)]
        assert statuses(answers) == {200: 1, 429: 7}
        assert {answer.json()["error"]["code"] for answer in answers[1:]} == {"insufficient_quota"}
        await made[0].at_rest()
        charge = Charge("key:ann", "requests", MINUTE, "", 5, 0, "requests_per_minute")
        [balance] = (await counters_of(made[0]).look([charge])).balances
        assert balance.spent == 1
        assert len(upstream.seen) == 1


async def test_a_hot_caller_draws_from_slices_beside_redis(
    redis: RedisServer, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Limits by minute are those of Redis, budgets those of the ledger, and headers show the tightest."""
    upstream.plays(vectors(7))
    limits = {"requests_per_minute": 10**6, "tokens_per_day": 10**7}
    async with replicas(
        redis, upstream, tmp_path, number=1, callers=[caller(limits=limits, budgets=[budget(10**8)])]
    ) as made:
        [books] = made
        answers = [answer for _ in range(12) for answer in await everywhere(made, 12)]
        assert statuses(answers) == {200: 144}
        assert all("x-ratelimit-remaining-tokens" in answer.headers for answer in answers)
        least = min(int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answers)
        assert least == 10**6 - 144
        assert len(await books.at_rest()) == 144
        assert read(books.path, "SELECT count(*) FROM calls WHERE error = 'process_lost'") == [(0,)]


async def test_after_failures_and_departures_redis_has_what_the_rows_say(
    redis: RedisServer, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Requests of calls that were admitted, tokens as they were used, and nothing open."""
    numbers = count()

    async def play(request: Seen, writer: asyncio.StreamWriter) -> Any:
        number = next(numbers)
        if number % 5 == 1:
            return await replies({"detail": "oops"}, 500)(request, writer)
        if number % 5 == 2:
            return False
        return await vectors(number % 30)(request, writer)

    upstream.plays(play)
    limits = {"requests_per_minute": 10**6, "tokens_per_minute": 10**6, "concurrent_calls": 50}
    async with replicas(
        redis, upstream, tmp_path, number=2, callers=[caller(limits=limits, budgets=[budget(10**7)])], max_attempts=1
    ) as made:
        asking = [asyncio.create_task(made[place % 2].ask()) for place in range(80)]
        await until(lambda: len(upstream.seen) > 10)
        for leaving in asking[::7]:
            leaving.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        rows = [row for books in made for row in await books.at_rest()]
        tokens = sum(row["total_tokens"] for row in rows)
        charges = [
            Charge("key:ann", unit, MINUTE, "", 10**6, 0, f"{unit}_per_minute") for unit in ("tokens", "requests")
        ]
        charges.append(Charge("key:ann", "calls", (0, FOREVER), "", 50, 0, "concurrent_calls"))

        async def settled() -> bool:
            found = (await counters_of(made[0]).look(charges)).balances
            return (found[0].spent, found[2].held) == (tokens, 0)

        await soon(settled)
        assert tokens > 0
        assert (await counters_of(made[1]).look(charges)).balances[1].spent >= sum(row["requests"] for row in rows)


async def test_an_answer_without_a_decision_shows_what_redis_has(
    redis: RedisServer, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(vectors(7))
    async with replicas(
        redis, upstream, tmp_path, number=2, callers=[caller(limits={"requests_per_minute": 9})]
    ) as made:
        assert (await made[0].ask()).headers["x-ratelimit-remaining-requests"] == "8"
        wrong = await made[1].ask({"model": "jina-embeddings-v3", "input": []})
        assert wrong.status_code == 400
        assert wrong.headers["x-ratelimit-remaining-requests"] == "8"


# ---------------------------------------------------------------- away


async def test_while_redis_is_stopped_each_process_keeps_to_its_share(
    redis: RedisServer, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(vectors(1))
    async with replicas(redis, upstream, tmp_path, callers=[caller(limits={"requests_per_minute": 30})]) as made:
        shared = [counters_of(books) for books in made]
        for counters in shared:  # as a renewal of the lease would, which comes every ten seconds
            counters._renewal_due = True
            counters._turns.now()
        await until(lambda: all(counters.processes == REPLICAS for counters in shared))
        assert statuses(await everywhere(made, 6)) == {200: 6}
        redis.send(signal.SIGSTOP)
        since = time.monotonic()
        answers = await everywhere(made, 60)
        assert time.monotonic() - since < 10
        passed = [statuses(answers[place::REPLICAS])[200] for place in range(REPLICAS)]
        assert all(0 < each <= 10 for each in passed), passed  # a third of the limit
        assert {answer.status_code for answer in answers} == {200, 429}
        health = (await made[0].gateway.client.get("/healthz")).json()
        assert (health["status"], health["counters"]) == ("degraded", "it did not answer within 0.25 seconds")
        ready = await made[0].gateway.client.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "away": ["counters"]})
        redis.send(signal.SIGCONT)
        await until(lambda: all(counters.trouble is None for counters in shared))
        assert statuses(await everywhere(made, 60))[200] == max(30 - 6 - sum(passed), 0)
        assert (await made[0].gateway.client.get("/healthz")).json()["status"] == "ok"


async def test_what_is_open_counts_for_the_share(
    redis: RedisServer, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    go = asyncio.Event()
    upstream.plays(after(go, vectors(1)))
    values: dict[str, Any] = {"callers": [caller(limits={"concurrent_calls": 6})], "queue_timeout_seconds": 0.1}
    async with replicas(redis, upstream, tmp_path, **values) as made:
        counters = counters_of(made[0])
        counters._renewal_due = True
        counters._turns.now()
        await until(lambda: counters.processes == REPLICAS)
        asking = [asyncio.create_task(made[0].ask())]
        await until(lambda: len(upstream.seen) == 1)
        redis.stop()
        asking += [asyncio.create_task(made[0].ask()) for _ in range(3)]
        await until(lambda: made[0].gateway.generations.load.calls == 2)
        assert len(upstream.seen) == 2
        await redis.start()
        await until(lambda: counters.trouble is None)
        charge = Charge("key:ann", "calls", (0, FOREVER), "", 6, 0, "concurrent_calls")
        assert (await counters.look([charge])).balances == (Balance(0, 2, None),)
        go.set()
        assert statuses(await asyncio.gather(*asking)) == {200: 2, 429: 2}


async def test_an_emptied_redis_says_when_minutes_free(
    redis: RedisServer, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(vectors(1))
    async with replicas(
        redis, upstream, tmp_path, number=2, callers=[caller(limits={"requests_per_minute": 30})]
    ) as made:
        assert (await made[0].ask()).status_code == 200
        await redis.run("FLUSHALL")
        refused = await made[1].ask()
        assert refused.status_code == 429
        assert 55 <= int(refused.headers["retry-after"]) <= 61


async def test_the_cache_uses_the_redis_of_the_counters(
    redis: RedisServer, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(vectors(1))
    async with replicas(redis, upstream, tmp_path, number=2, callers=[caller()], cache={"store": "redis"}) as made:
        assert (await made[0].ask()).headers["x-torii-cache"] == "miss"

        async def hit() -> bool:
            return (await made[1].ask()).headers["x-torii-cache"] == "hit"

        async with asyncio.timeout(20):
            while not await hit():
                pass
