"""The script in a real Redis, by a clock of the test, beside app.storage.tallies as the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from app.storage.holds import FOREVER, MINUTE, Balance, Charge
from app.storage.redis.script import SCRIPT, ScriptBatch, ScriptReply, balances_of, reply_of
from app.storage.tallies import SlidingMinute

from .server import redis_server

START = 1_795_262_400
PLAYED = SCRIPT.replace(b"redis.call('TIME')", b"{ARGV[5], '0'}")
EPOCH = "7"


def minute(unit: str, amount: int, limit: int, scope: str = "key:k") -> Charge:
    return Charge(scope, unit, MINUTE, "", limit, amount, f"{unit}_per_minute")


def calls(limit: int, amount: int = 1, scope: str = "key:k") -> Charge:
    return Charge(scope, "calls", (0, FOREVER), "", limit, amount, "concurrent_calls")


class Played:
    """A Redis with a clock."""

    def __init__(self, url: str) -> None:
        self.redis: Any = Redis.from_url(url, protocol=2)
        self.now = START
        self.known, self.fresh = "", EPOCH

    def clear(self) -> None:
        self.redis.flushall()
        self.now = START
        self.known, self.fresh = "", EPOCH
        self.run(ScriptBatch("torii"))
        self.known, self.fresh = EPOCH, ""

    def run(self, batch: ScriptBatch, lease_seconds: float = 30) -> ScriptReply:
        count, *command = batch.command(self.known, self.fresh, lease_seconds)
        return reply_of(self.redis.eval(PLAYED, int(count), *command, self.now))

    def hold(self, member: str, *charges: Charge, look: bool = False) -> tuple[int | None, bool, tuple[Balance, ...]]:
        batch = ScriptBatch("torii")
        batch.hold(member, charges, look=look)
        [answer] = self.run(batch).answers
        return answer[0] - 1 if answer[0] else None, answer[1] == 1, balances_of(charges, answer, 0)

    def add(self, unit: str, second: int, amount: int, held: int) -> None:
        batch = ScriptBatch("torii")
        batch.add("key:k", unit, second, (amount, held))
        self.run(batch)


@pytest.fixture
async def played(tmp_path: Path) -> Any:
    async with redis_server(tmp_path / "redis") as server:
        found = Played(server.url)
        found.clear()
        yield found
        found.redis.close()


class Model:
    """What SlidingMinute says, which moves on by the same clock. What is held of a second ends with it."""

    def __init__(self, unit: str) -> None:
        self.minute = SlidingMinute("key:k", unit, {}, 0)
        self.held: dict[int, int] = {}

    def at(self, now: int) -> SlidingMinute:
        self.minute.advance(now)
        self.minute.held = sum(held for second, held in self.held.items() if second > now - 61)
        return self.minute

    def decide(self, now: int, amount: int, limit: int) -> tuple[int | None, bool, Balance]:
        minute = self.at(now)
        if not minute.fits(amount, limit):
            return 0, minute.may_fit(amount, limit), minute.balance(amount, limit)
        if amount:
            minute.take(amount)
            if minute.unit == "tokens":
                self.held[now] = self.held.get(now, 0) + amount
        return None, False, minute.after()

    def settle(self, now: int, second: int, held: int, used: int) -> None:
        minute = self.at(now)
        if second > now - 61:
            minute.add(second, used - held)
            self.held[second] -= held


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([1, 1, 2, 7, 30, 59, 60, 61, 62, 200])),
        st.tuples(st.just("hold"), st.integers(0, 60)),
        st.tuples(st.just("settle"), st.integers(0, 80)),
        st.tuples(st.just("look"), st.integers(0, 120)),
    ),
    max_size=40,
)


@pytest.mark.parametrize("unit", ["requests", "tokens"])
async def test_a_minute_is_that_of_the_ledgers_file(unit: str, played: Played) -> None:
    """At every step the same decision, balance, and second at which it frees."""

    @given(STEPS, st.integers(1, 100))
    def check(steps: list[tuple[str, int]], limit: int) -> None:
        played.clear()
        model, held = Model(unit), []
        for verb, amount in steps:
            if verb == "wait":
                played.now += amount
            elif verb == "hold":
                refused, waits, [balance] = played.hold("m", minute(unit, amount, limit))
                assert (refused, waits, balance) == model.decide(played.now, amount, limit)
                if refused is None and amount:
                    held.append((played.now, amount))
            elif verb == "settle" and held and unit == "tokens":
                second, taken = held.pop(0)
                played.add(unit, second, amount - taken, -taken)
                model.settle(played.now, second, taken, amount)
            elif verb == "look":
                _, _, [balance] = played.hold("", minute(unit, amount, limit), look=True)
                assert balance == model.at(played.now).balance(amount, limit)

    check()


async def test_all_or_nothing(played: Played) -> None:
    charges = [minute("requests", 1, 5), minute("tokens", 10, 100), calls(1)]
    assert played.hold("a", *charges)[0] is None
    refused, waits, balances = played.hold("b", *charges)
    assert (refused, waits) == (2, True)
    assert balances == (Balance(1, 0, START + 61), Balance(10, 0, START + 61), Balance(0, 1, None))
    assert played.hold("b", minute("requests", 5, 5), minute("tokens", 1, 100))[:2] == (0, False)
    assert played.hold("b", minute("requests", 4, 5))[0] is None


async def test_a_charge_above_its_limit_never_frees(played: Played) -> None:
    assert played.hold("a", minute("tokens", 101, 100)) == (0, False, (Balance(0, 0, None),))


async def test_large_amounts_keep_every_digit(played: Played) -> None:
    large = 2**52 + 1
    assert played.hold("a", minute("tokens", large, 10**30))[2] == (Balance(large, 0, START + 61),)
    played.now += 1
    assert played.hold("a", minute("tokens", 1, 10**30))[2] == (Balance(large + 1, 0, START + 62),)


async def test_what_is_open_ends_with_its_lease_unless_it_is_renewed(played: Played) -> None:
    for member in "ab":
        assert played.hold(member, calls(2))[0] is None
    assert played.hold("a", calls(2))[0] is None  # the same call again
    assert played.hold("c", calls(2)) == (0, True, (Balance(0, 2, None),))
    played.now += 20
    batch = ScriptBatch("torii")
    batch.renew("key:k", "calls", ["a"])
    played.run(batch)
    played.now += 11
    assert played.hold("c", calls(2))[2] == (Balance(0, 2, None),)
    batch = ScriptBatch("torii")
    batch.end("key:k", "calls", ["a", "c", "unknown"])
    played.run(batch)
    assert played.hold("", calls(2, 0), look=True)[2] == (Balance(0, 0, None),)


async def test_a_process_knows_its_rank_among_the_living(played: Played) -> None:
    answers: list[Any] = []
    for process, seconds in (("b", 0), ("a", 20), ("c", 0), ("c", 15)):
        played.now += seconds
        batch = ScriptBatch("torii")
        batch.lease(process)
        answers += played.run(batch).answers
    assert answers == [[0, 1], [0, 2], [2, 3], [1, 2]]


async def test_the_minutes_of_an_emptied_redis_are_full_for_the_time_that_they_cover(played: Played) -> None:
    played.redis.flushall()
    assert played.run(ScriptBatch("torii")).known is False
    played.fresh, played.now = "8", START + 5
    assert played.run(ScriptBatch("torii")).epoch == "8"
    played.known, played.fresh = "8", ""
    assert played.hold("a", minute("requests", 1, 3)) == (0, False, (Balance(3, 0, START + 66),))
    assert played.hold("a", calls(1))[0] is None
    played.now += 60
    assert played.hold("a", minute("requests", 1, 3))[0] == 0
    played.now += 1
    assert played.hold("a", minute("requests", 1, 3))[0] is None


async def test_who_knew_another_epoch_makes_the_minutes_full_too(played: Played) -> None:
    """One that was begun by a process that knew of none."""
    played.known, played.fresh = "6", "9"
    assert played.run(ScriptBatch("torii")).epoch == EPOCH
    played.known, played.fresh = EPOCH, ""
    assert played.hold("a", minute("requests", 1, 3))[0] == 0
    played.now += 61
    played.known, played.fresh = "5", "9"
    played.run(ScriptBatch("torii"))
    played.known, played.fresh = EPOCH, ""
    assert played.hold("a", minute("requests", 1, 3))[0] is None


async def test_a_first_start_finds_empty_minutes(played: Played) -> None:
    assert played.hold("a", minute("requests", 3, 3))[0] is None


@pytest.mark.parametrize("seconds", [30, 3600])
async def test_a_clock_that_was_set_back_loses_nothing(seconds: int, played: Played) -> None:
    played.hold("a", minute("requests", 3, 3))
    played.now -= seconds
    assert played.hold("a", minute("requests", 1, 3))[0] == 0
    played.now += 61 + (30 if seconds == 30 else 0)
    assert played.hold("a", minute("requests", 1, 3))[0] is None


async def test_a_correction_of_what_is_gone_changes_nothing(played: Played) -> None:
    played.add("tokens", START, -50, -50)
    assert played.hold("a", minute("tokens", 10, 10))[0] is None
    assert played.hold("a", minute("tokens", 1, 10))[0] == 0
    played.now += 61
    played.add("tokens", START, -10, -10)
    assert played.hold("a", minute("tokens", 11, 10))[0] == 0


async def test_every_key_has_the_prefix_and_an_end(played: Played) -> None:
    played.hold("a", minute("requests", 1, 3), minute("tokens", 1, 3), calls(1))
    keys = set(played.redis.keys("*"))
    assert keys == {b"{torii}:epoch"} | {
        f"{{torii}}:{name}:key:k".encode() for name in ("minute:requests", "minute:tokens", "open:calls")
    }
    lives = {key: played.redis.ttl(key) for key in keys - {b"{torii}:epoch"}}
    assert all(60 < seconds <= 125 for seconds in lives.values()), lives
