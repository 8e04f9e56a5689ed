"""Slices of hot callers: calls draw from them without asking the store, and every promise holds."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.callers.calendar import Calendar
from app.callers.keys import Caller
from app.callers.limits import Budget, Limits, Scope
from app.core.types import EmbeddingsCall
from app.gateway.holds import CallHold, Holds
from app.gateway.settlements import Settlements
from app.gateway.slices import Slices
from app.storage.holds import FOREVER, MINUTE, Charge, Decision
from app.storage.ledger_file import LedgerFile
from app.storage.verify import verify
from app.usage.bounds import Bound
from app.usage.ledger import Ledger
from app.usage.prices import Prices
from app.usage.record import CallRecord

from ..conftest import ScriptedUpstream, Seen, replies, until
from ..ledger import read
from ..storage.charging import Clock, charge, held, opened, row
from .test_limits import KEY, Counted, after, budget, caller, counted, embed, vectors

SCOPES = (Scope("key:k", "k", Limits(requests_per_minute=1)),)
BOUND = Bound(10, None)
CHARGES = (
    charge("requests", limit=100_000, window=MINUTE)._replace(name="requests_per_minute"),
    charge("tokens", 10, 10**6),
    charge("calls", limit=1000),
)
SLICED = "SELECT request_id FROM holds WHERE request_id LIKE 'slice-%'"


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[LedgerFile]:
    with opened(tmp_path / "torii.db") as file:
        yield file


class Crowd:
    """Calls of one caller, one after another, each drawn from a slice or held for in the store."""

    def __init__(self, slices: Slices, file: LedgerFile) -> None:
        self.slices, self.file = slices, file
        self.calls = self.drawn = 0

    async def call(self, bound: Bound = BOUND, charges: tuple[Charge, ...] = CHARGES) -> dict[str, str]:
        flow = self.slices.flow(SCOPES, "embeddings", "m", bound)
        now, name = time.time(), f"call-{self.calls}"
        done = row(name, time=int(now * 1000), total_tokens=7, cost=3)
        drawn = self.slices.draw(flow, now, bound)
        self.calls += 1
        if drawn is None:
            hold = held(*charges, request_id=name, time=int(now * 1000), total_tokens=10)
            asked = self.file.hold(hold)
            self.slices.take(flow, hold)
            assert (await asked).refused is None
            self.file.settle(name, [done])
        else:
            self.drawn += 1
            self.file.settle_drawn(name, [done], drawn.end())
        flow.open -= 1
        return {} if drawn is None else drawn.headers(now)

    async def until_it_draws(self) -> dict[str, str]:
        """The headers of the first call that drew."""
        while not self.drawn:
            shown = await self.call()
            await asyncio.sleep(0)
        return shown

    async def at_rest(self) -> None:
        path = self.file.path
        await until(lambda: read(path, "SELECT * FROM holds") == [])
        assert read(path, "SELECT count(*) FROM calls") == [(self.calls,)]
        assert read(path, "SELECT held FROM counters WHERE held") == []
        assert verify(path) == []
        assert read(path, "SELECT spent FROM counters WHERE unit = 'tokens'") == [(7 * self.calls,)]
        assert read(path, "SELECT sum(amount) FROM seconds WHERE unit = 'requests'") == [(self.calls,)]


@pytest.fixture
def crowd(file: LedgerFile) -> Crowd:
    return Crowd(Slices(file), file)


async def test_a_hot_caller_draws_and_the_rest_comes_back_with_the_end_of_the_second(crowd: Crowd) -> None:
    shown = await crowd.until_it_draws()
    assert shown["x-ratelimit-limit-requests"] == "100000"
    assert -100 <= int(shown["x-ratelimit-remaining-requests"]) - (100_000 - crowd.calls) <= 2
    assert shown["x-ratelimit-reset-requests"] == "1m1s"
    for _ in range(50):
        await crowd.call()
    await crowd.at_rest()


async def test_all_comes_back_at_the_end(crowd: Crowd) -> None:
    await crowd.until_it_draws()
    await crowd.slices.aclose()
    await crowd.at_rest()
    drawn = crowd.drawn
    for _ in range(20):
        await crowd.call()
    assert crowd.drawn == drawn


async def test_a_slice_that_is_asked_for_at_the_end_comes_back(tmp_path: Path) -> None:
    with opened(tmp_path / "torii.db") as file:
        crowd = Crowd(Slices(file), file)
        for _ in range(8):
            flow = crowd.slices.flow(SCOPES, "embeddings", "m", BOUND)
        hold = held(*CHARGES, request_id="a", time=int(time.time() * 1000))
        asked = file.hold(hold)
        crowd.slices.take(flow, hold)
        await crowd.slices.aclose()
        assert (await asked).refused is None
        file.release("a")
    assert read(tmp_path / "torii.db", "SELECT * FROM holds") == []
    assert verify(tmp_path / "torii.db") == []


async def test_no_more_calls_of_a_slice_are_open_than_it_holds(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path / "torii.db", clock=clock) as file:
        crowd = Crowd(Slices(file, clock=clock), file)
        flow = crowd.slices.flow(SCOPES, "embeddings", "m", BOUND)
        while (slice_ := flow.slice) is None:
            await crowd.call()
            await asyncio.sleep(0)
        most = slice_.calls
        assert 1 <= most < slice_.requests
        drawn = [crowd.slices.draw(flow, time.time(), BOUND) for _ in range(most + 1)]
        assert [each is None for each in drawn] == [False] * most + [True]
        assert drawn[0] is not None
        file.settle_drawn("a", [], drawn[0].end())
        assert crowd.slices.draw(flow, time.time(), BOUND) is not None
        assert crowd.slices.draw(flow, time.time(), BOUND) is None
        await crowd.slices.aclose()


async def test_what_does_not_fit_for_a_slice_fits_when_it_is_given_back(crowd: Crowd, file: LedgerFile) -> None:
    while True:
        await crowd.until_it_draws()
        crowd.drawn = 0
        rest = charge("tokens", 10**6 - 10 * crowd.calls, 10**6)
        refused = await file.hold(held(rest, request_id="rest"))
        if refused.sliced:
            break
        file.release("rest")
    assert (refused.refused, refused.waits) == (0, True)
    crowd.slices.give_back(charge(scope="team:t"))
    crowd.slices.give_back(rest)
    await until(lambda: read(file.path, SLICED) == [])
    assert (await file.hold(held(rest, request_id="rest"))).refused is None
    file.release("rest")
    await crowd.at_rest()


async def test_a_call_that_a_slice_cannot_know_is_held_for_in_the_store(crowd: Crowd) -> None:
    """Its bound or its price is unknown, or it belongs to another day."""
    priced = (*CHARGES, charge("usd", 0, 10**9), charge(limit=10**6, window=(0, FOREVER - 1), scope="team:t"))
    flow = crowd.slices.flow(SCOPES, "embeddings", "m", BOUND)
    while flow.slice is None:
        await crowd.call(Bound(10, 5), priced)
        await asyncio.sleep(0)
    now = time.time()
    for started, bound in ((now, Bound(None, 5)), (now, BOUND), (-1, Bound(10, 5)), (FOREVER - 1, Bound(10, 5))):
        assert crowd.slices.draw(flow, started, bound) is None


async def test_a_slice_is_drawn_on_in_its_second_only(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path / "torii.db", clock=clock) as file:
        crowd = Crowd(Slices(file, clock=clock), file)
        flow = crowd.slices.flow(SCOPES, "embeddings", "m", BOUND)
        while flow.slice is None:
            await crowd.call()
            await asyncio.sleep(0)
        clock.now += 1
        assert crowd.slices.draw(flow, time.time(), BOUND) is None
        assert flow.slice is None


async def test_a_slice_ends_within_a_second_though_the_clock_was_set_back(tmp_path: Path) -> None:
    store, own = Clock(), Clock()
    own.now -= 1000
    with opened(tmp_path / "torii.db", clock=store) as file:
        crowd = Crowd(Slices(file, clock=own), file)
        flow = crowd.slices.flow(SCOPES, "embeddings", "m", BOUND)
        while flow.slice is None:
            await crowd.call()
            await asyncio.sleep(0)
        assert flow.slice.timer is not None
        assert flow.slice.timer.when() <= asyncio.get_running_loop().time() + 2


async def test_a_call_that_does_not_fit_for_a_slice_waits_for_it(tmp_path: Path) -> None:
    """A request that is held is spent, but those of a slice may come back, so the refusal is not final."""
    store, own, path = Clock(), Clock(), tmp_path / "torii.db"
    with opened(path, clock=store) as file:
        slices, settlements = Slices(file, clock=own), Settlements()
        file.settled.append(settlements)
        for _ in range(8):
            flow = slices.flow(SCOPES, "embeddings", "m", BOUND)
        amount = charge(limit=5000)
        first = held(amount, request_id="first")
        asked = file.hold(first)
        slices.take(flow, first)
        await asked
        await until(lambda: flow.slice is not None)
        assert flow.slice is not None
        assert flow.slice.timer is not None
        flow.slice.timer.cancel()  # it does not end by itself
        assert (await file.hold(held(amount._replace(amount=5000 - 9), request_id="rest"))).refused is None
        holds = Holds(
            ledger=Ledger(file),
            calendar=Calendar(),
            prices=Prices(),
            slices=slices,
            settlements=settlements,
            wait_seconds=30,
        )
        scope = Scope("key:k", "k", budgets=(Budget("requests", 5000, "total"),))
        hold = CallHold(holds, Caller("k", "k", scopes=(scope,)), "last")
        await hold.count(CallRecord("last", "k", EmbeddingsCall(model="m", body={})))
        assert hold.admitted
        assert flow.slice is None
        hold.settle(())
        for name in ("first", "rest"):
            file.release(name)
        await until(lambda: read(path, "SELECT * FROM holds") == [])
        assert verify(path) == []


async def test_the_alerts_are_told_of_each_slice(file: LedgerFile) -> None:
    told: list[tuple[object, Decision]] = []
    crowd = Crowd(Slices(file, lambda *about: told.append(about)), file)
    await crowd.until_it_draws()
    (charged, decision), *_ = told
    assert charged == CHARGES
    assert decision.refused is None


async def test_a_refused_slice_is_not_asked_for_again_in_the_same_second(file: LedgerFile, tmp_path: Path) -> None:
    crowd = Crowd(Slices(file), file)
    near = (charge(limit=500),)
    for _ in range(40):
        await crowd.call(charges=near)
    assert crowd.drawn == 0
    await until(lambda: read(file.path, "SELECT spent FROM counters WHERE unit = 'requests' AND until > 0") == [(40,)])


# ---------------------------------------------------------------- over sockets

LIMITED = caller(
    limits={"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "concurrent_calls": 4000},
    budgets=[budget(10**9), budget(10**6, "usd"), budget(10**6, "requests", "total")],
)
UNPRICED = {**LIMITED, "budgets": [each for each in LIMITED["budgets"] if each["unit"] != "usd"]}


async def watched(books: Counted, done: asyncio.Event) -> int:
    """How many slices were in the file."""
    found: set[str] = set()
    while not done.is_set():
        found.update(name for (name,) in read(books.path, SLICED))
        await asyncio.sleep(0.005)
    return len(found)


COLUMNS = {"tokens": "total_tokens", "requests": "requests"}


async def test_further_requests_of_calls_that_drew_are_held_for(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Every other call fails at the first upstream, and is asked again or fails over."""
    turns = itertools.cycle((vectors(3), replies({"detail": "oops"}, 500)))

    async def play(request: Seen, writer: asyncio.StreamWriter) -> Any:
        return await next(turns)(request, writer)

    upstream.plays(play)
    other_upstream.plays(vectors(5))
    async with counted(upstream, tmp_path, other_upstream, callers=[UNPRICED]) as books:
        told = [await asyncio.gather(*(books.ask(embed(f"{turn} {n}")) for n in range(20))) for turn in range(8)]
        statuses = Counter(answer.status_code for answers in told for answer in answers)
        rows = await books.at_rest()
        assert len({row["request_id"] for row in rows}) == sum(row["requests"] for row in rows) >= statuses[200] > 0
        assert sum(row["attempts"] for row in rows) == len(upstream.seen) + len(other_upstream.seen)
        spent = dict(
            read(books.path, "SELECT unit, spent FROM counters WHERE until > 0 AND unit IN ('tokens', 'requests')")
        )
        assert spent == {unit: sum(row[column] for row in rows) for unit, column in COLUMNS.items()}


async def test_a_call_that_drew_and_fails_over_still_counts_as_open(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    go = asyncio.Event()
    upstream.plays(vectors(3))
    other_upstream.plays(after(go, vectors(5)))
    async with counted(upstream, tmp_path, other_upstream, callers=[UNPRICED]) as books:
        numbers = itertools.count()
        while not read(books.path, SLICED):
            await asyncio.gather(*(books.ask(embed(f"{next(numbers)}")) for _ in range(10)))
        upstream.plays(replies({"detail": "busy"}, 503))
        asking = [asyncio.create_task(books.ask(embed(f"{next(numbers)}"))) for _ in range(10)]
        await until(lambda: len(other_upstream.seen) == 10)
        bodies = [body for (body,) in read(books.path, "SELECT body FROM holds WHERE request_id NOT LIKE 'slice-%'")]
        charges = [msgspec.json.decode(body)[0] for body in bodies]
        assert {sum(amount for _, unit, *_, amount, _ in each if unit == "calls") for each in charges} == {1}
        go.set()
        assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}
        await books.at_rest()


@pytest.mark.parametrize(("callers", "calls"), [(40, 200), (200, 250)])
async def test_the_calls_of_a_hot_caller_are_booked_one_by_one(
    callers: int, calls: int, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(vectors(3))
    prices = {"jina": {"jina-embeddings-v3": {"input": "0.02"}}}
    async with counted(upstream, tmp_path, callers=[LIMITED], prices=prices, cache={"store": "off"}) as books:
        done, room = asyncio.Event(), asyncio.Semaphore(callers)
        watching = asyncio.create_task(watched(books, done))

        async def one(number: int) -> tuple[int, int]:
            async with room:
                answer = await books.ask(embed(f"text {number}"), key=KEY)
                return answer.status_code, int(answer.headers["x-ratelimit-remaining-requests"])

        told = await asyncio.gather(*map(one, range(calls)))
        assert {status for status, _ in told} == {200}
        assert all(10**6 - 2 * calls <= left < 10**6 for _, left in told)
        done.set()
        assert await watching > 0
        rows = await books.at_rest()
        assert len(rows) == len(upstream.seen) == calls
        assert {row["request_id"] for row in rows} == {row["request_id"] for row in rows if row["requests"] == 1}
        spent = dict(read(books.path, "SELECT unit, spent FROM counters WHERE until > 0 AND unit IN ('tokens', 'usd')"))
        assert spent == {"tokens": 3 * calls, "usd": 60 * calls}
        assert read(books.path, "SELECT unit, sum(amount) FROM seconds GROUP BY unit") == [
            ("requests", calls),
            ("tokens", 3 * calls),
        ]
