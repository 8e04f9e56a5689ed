"""Shared counters over a real Redis: several processes' objects, leases, failures and returns."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.storage.errors import StoreError
from app.storage.holds import Balance, Charge, Decision
from app.storage.redis.connection import RedisAddress
from app.storage.redis.counters import SharedCounters, SharedHold

from ...cli.test_cli import ROOT
from ...conftest import until
from .server import RedisServer, redis_server, soon
from .test_script import calls, minute


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path / "redis") as server:
        yield server


@asynccontextmanager
async def counters(redis: RedisServer, **values: Any) -> AsyncIterator[SharedCounters]:
    made = SharedCounters(RedisAddress(redis.url), **values)
    await made.start()
    try:
        yield made
    finally:
        await made.aclose()


async def taken(counters: SharedCounters, *charges: Charge) -> tuple[SharedHold, Decision]:
    hold = counters.new()
    return hold, await counters.hold(hold, charges)


async def used(counters: SharedCounters, charge: Charge) -> int:
    [balance] = (await counters.look([charge._replace(amount=0)])).balances
    return balance.spent + balance.held


async def becomes(counters: SharedCounters, charge: Charge, amount: int) -> None:
    async def is_so() -> bool:
        try:
            return await used(counters, charge) == amount
        except StoreError:
            return False

    await soon(is_so)


TOKENS, REQUESTS, CALLS = minute("tokens", 20, 1000), minute("requests", 1, 1000), calls(100)


async def test_processes_share_every_limit_exactly(redis: RedisServer) -> None:
    async with counters(redis) as one, counters(redis) as two, counters(redis) as three:
        limits = (minute("requests", 1, 100), minute("tokens", 10, 700), calls(50))
        found = await asyncio.gather(*(taken(each, *limits) for each in [one, two, three] * 60))
        assert sum(decision.refused is None for _, decision in found) == 50
        assert await used(one, REQUESTS) == 50
        assert await used(two, TOKENS) == 500
        assert sum(each.open(CALLS) for each in (one, two, three)) == 50


async def test_a_settlement_corrects_the_minute_and_ends_what_is_open(redis: RedisServer) -> None:
    async with counters(redis) as one, counters(redis) as two:
        hold, _ = await taken(one, TOKENS, REQUESTS, CALLS)
        second, _ = await taken(one, TOKENS, REQUESTS, CALLS)
        assert await used(two, TOKENS) == 40
        one.settle(hold, 7)
        await becomes(two, TOKENS, 27)
        await becomes(two, CALLS, 1)
        one.settle(second, 30)  # more than was held
        await becomes(two, TOKENS, 37)
        assert await used(two, REQUESTS) == 2
        assert await used(two, CALLS) == 0


async def test_further_requests_of_a_call_settle_together(redis: RedisServer) -> None:
    async with counters(redis) as one:
        hold, _ = await taken(one, TOKENS, CALLS)
        await one.hold(hold, [minute("tokens", 30, 1000)])
        assert await used(one, TOKENS) == 50
        one.settle(hold, 12)
        await becomes(one, TOKENS, 12)


async def test_what_was_undone_is_as_if_it_had_not_been(redis: RedisServer) -> None:
    async with counters(redis) as one:
        hold, _ = await taken(one, TOKENS, REQUESTS, CALLS)
        before = len(hold.taken)
        await one.hold(hold, [minute("tokens", 30, 1000)])
        one.undo(hold, before)
        await becomes(one, TOKENS, 20)
        one.undo(hold)
        for charge in (TOKENS, REQUESTS, CALLS):
            await becomes(one, charge, 0)


async def test_a_call_that_ends_before_its_answer_leaves_nothing(redis: RedisServer) -> None:
    async with counters(redis) as one:
        hold = one.new()
        asked = one.hold(hold, [TOKENS, CALLS])
        asked.cancel()
        one.settle(hold, 0)
        await becomes(one, TOKENS, 0)
        await becomes(one, CALLS, 0)
        assert one.open(CALLS) == 0


async def test_a_turn_is_one_round_trip(redis: RedisServer) -> None:
    async with counters(redis) as one:
        await taken(one, TOKENS)
        before = await redis.count("evalsha")
        holds = await asyncio.gather(*(taken(one, TOKENS, REQUESTS, CALLS) for _ in range(40)))
        assert await redis.count("evalsha") == before + 1
        for hold, _ in holds:
            one.settle(hold, 5)
        await taken(one, TOKENS)
        assert await redis.count("evalsha") == before + 2
        assert await used(one, TOKENS) == 20 + 40 * 5 + 20


async def test_waiting_calls_are_woken_by_a_settlement(redis: RedisServer) -> None:
    async with counters(redis) as one:
        woken: list[None] = []
        one.settled.append(lambda: woken.append(None))
        hold, _ = await taken(one, TOKENS)
        assert woken == []
        one.settle(hold, 0)
        await until(lambda: woken == [None])


async def test_what_a_dead_process_had_open_ends_with_its_lease(redis: RedisServer) -> None:
    async with counters(redis, lease_seconds=0.6) as one:
        dead = SharedCounters(RedisAddress(redis.url), lease_seconds=0.6)
        await dead._turns.start()  # without the task that renews its lease
        await taken(dead, calls(2))
        hold, decision = await taken(one, calls(2))
        assert decision.refused is None
        assert (await taken(one, calls(2)))[1] == Decision(0, True, (Balance(0, 2, None),))
        await becomes(one, CALLS, 1)
        await until(lambda: one.processes == 1)
        since = time.monotonic()
        await until(lambda: time.monotonic() > since + 0.7)
        assert await used(one, CALLS) == 1  # renewed
        one.settle(hold, 0)
        await becomes(one, CALLS, 0)
        await dead._turns._connection.close()


DYING = """
import asyncio, sys
from app.storage.redis.connection import RedisAddress
from app.storage.redis.counters import SharedCounters
from tests.storage.redis.test_script import calls, minute

async def main():
    counters = SharedCounters(RedisAddress(sys.argv[1]), lease_seconds=1.0)
    await counters.start()
    for _ in range(3):
        await counters.hold(counters.new(), [calls(3), minute("tokens", 20, 1000)])
    print("taken", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_process_blocks_nobody_for_longer_than_its_lease(redis: RedisServer) -> None:
    dying = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DYING, redis.url), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert dying.stdout is not None
    assert await dying.stdout.readline() == b"taken\n"
    async with counters(redis) as one:
        assert (await taken(one, calls(3)))[1].refused == 0
        dying.kill()
        await dying.wait()
        await becomes(one, CALLS, 0)
        assert (await taken(one, calls(3)))[1].refused is None
        assert await used(one, TOKENS) == 60  # which may have been used


async def test_processes_count_each_other(redis: RedisServer) -> None:
    known: dict[str, int] = {}
    async with counters(redis, lease_seconds=0.3, remember=known.__setitem__) as one:
        assert (one.rank, one.processes) == (0, 1)
        async with counters(redis) as two:
            await until(lambda: one.processes == two.processes == 2)
            assert {one.rank, two.rank} == {0, 1}
        await until(lambda: one.processes == 1)
    assert known["redis_processes"] == 1
    assert await redis.run("EXISTS", "{torii}:processes") == 0


async def test_processes_that_start_together_know_soon_how_many_they_are(redis: RedisServer) -> None:
    """Not only when the first of them renews its lease."""
    async with counters(redis, lease_seconds=3600) as one, counters(redis, lease_seconds=3600):
        await until(lambda: one.processes == 2)


# ---------------------------------------------------------------- away, and back


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_calls_never_wait_longer_than_the_time_out(how: str, redis: RedisServer) -> None:
    async with counters(redis) as one:
        hold, _ = await taken(one, TOKENS, CALLS)
        if how == "stopped":
            redis.send(signal.SIGSTOP)
        else:
            redis.stop()
        since = time.monotonic()
        with pytest.raises(StoreError):
            await taken(one, TOKENS)
        assert time.monotonic() - since < 5
        expected = {"stopped": "it did not answer within 0.25 seconds", "killed": "Connection refused"}
        assert one.trouble == expected[how]
        local = one.new()
        one.take_here(local, [TOKENS, REQUESTS, CALLS])
        assert one.open(CALLS) == 2
        one.settle(hold, 3)
        if how == "stopped":
            redis.send(signal.SIGCONT)
        else:
            await redis.start()
        await until(lambda: one.trouble is None)
        await becomes(one, CALLS, 1)
        # One that was killed was emptied: its minutes are full.
        assert await used(one, REQUESTS) == (1 if how == "stopped" else REQUESTS.limit)
        one.settle(local, 4)
        await becomes(one, CALLS, 0)


async def test_what_was_decided_too_late_is_open_for_nobody(redis: RedisServer) -> None:
    async with counters(redis) as one:
        await taken(one, TOKENS)
        redis.send(signal.SIGSTOP)
        with pytest.raises(StoreError):
            await taken(one, CALLS, REQUESTS)
        redis.send(signal.SIGCONT)  # it runs what had arrived
        await until(lambda: one.trouble is None)
        assert await used(one, REQUESTS) in (0, 1)
        await becomes(one, CALLS, 0)


async def test_an_emptied_redis_has_full_minutes_and_all_that_is_open(redis: RedisServer) -> None:
    async with counters(redis) as one, counters(redis) as two:
        hold, _ = await taken(one, TOKENS, CALLS)
        other, _ = await taken(two, TOKENS, CALLS)
        await redis.run("FLUSHALL")
        founded = int((await redis.run("TIME"))[0])
        _, decision = await taken(one, minute("requests", 1, 10))
        assert (decision.refused, decision.waits) == (0, False)
        [balance] = decision.balances
        assert balance.spent == 10
        assert balance.frees_at is not None
        assert founded + 61 <= balance.frees_at <= founded + 70
        assert await used(two, CALLS) == 2
        one.settle(hold, 0)
        two.settle(other, 0)
        await becomes(one, CALLS, 0)


async def test_a_start_after_redis_was_emptied_is_told_from_the_first_one(redis: RedisServer) -> None:
    known: dict[str, int] = {}
    async with counters(redis, remembered=known, remember=known.__setitem__) as one:
        assert (await taken(one, REQUESTS))[1].refused is None
    async with counters(redis, remembered=known, remember=known.__setitem__) as one:
        assert (await taken(one, REQUESTS))[1].refused is None
    await redis.run("FLUSHALL")
    async with counters(redis, remembered=known, remember=known.__setitem__) as one:
        assert (await taken(one, REQUESTS))[1].refused == 0
        assert str(known["redis_epoch"]) == (await redis.run("GET", "{torii}:epoch")).decode().split()[0]


async def test_a_kept_connection_that_was_closed_is_no_outage(redis: RedisServer) -> None:
    async with counters(redis) as one:
        await taken(one, TOKENS)
        await redis.run("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert (await taken(one, TOKENS))[1].refused is None
        assert one.trouble is None


async def test_forgotten_scripts_are_sent_again(redis: RedisServer) -> None:
    async with counters(redis) as one:
        await redis.run("SCRIPT", "FLUSH")
        assert (await taken(one, TOKENS))[1].refused is None


@pytest.mark.parametrize(
    ("commands", "trouble"),
    [
        ([("REPLICAOF", "127.0.0.1", "1")], "it is a replica, which only reads"),
        ([("CONFIG", "SET", "maxmemory", "1")], "its memory is full (maxmemory)"),
        ([("ACL", "SETUSER", "default", "-evalsha")], "the rights of its user (ACL) do not allow"),
    ],
)
async def test_a_redis_that_refuses_is_away(commands: list[Any], trouble: str, redis: RedisServer) -> None:
    async with counters(redis) as one:
        await taken(one, TOKENS)
        for command in commands:
            await redis.run(*command)
        with pytest.raises(StoreError):
            await taken(one, TOKENS)
        assert one.trouble is not None
        assert one.trouble.startswith(trouble)


async def test_without_redis_at_the_start_it_is_tried_again(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis")
    async with counters(server, remembered={"redis_processes": 3}) as one:
        assert one.trouble == "No such file or directory"
        assert (one.rank, one.processes) == (3, 3)
        try:
            await server.start()
            await until(lambda: one.trouble is None)
            assert (one.rank, one.processes) == (0, 1)
            assert (await taken(one, TOKENS))[1].refused is None
        finally:
            await one.aclose()
            server.stop()
