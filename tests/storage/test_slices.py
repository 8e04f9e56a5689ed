"""Slices in the ledger's file: taken far from limits, drawn on, settled, given back, lost and found again."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from contextlib import closing

import pytest

from app.storage import slices
from app.storage.holds import MINUTE, Amounts, Balance, Draw, Hold, Slice
from app.storage.ledger_file import CallRow, LedgerFile
from app.storage.location import Location
from app.storage.opening import connect
from app.storage.slices import HOT, PART, fitting, slice_id
from app.storage.verify import verify

from ..conftest import until
from ..ledger import read
from .charging import DAY, TOTAL, Books, Clock, charge, held, opened, row

WANTED = Amounts(requests=10, tokens=1000, usd=0, calls=4)
CALL = Amounts(1, 100, 0, 0)
REST = Amounts(9, 900, 0, 4)
CHARGES = (
    charge("requests", limit=10_000),
    charge("tokens", 100, 10**6, DAY),
    charge("calls", limit=100),
    charge("requests", limit=10_000, window=MINUTE),
    charge("tokens", 100, 10**6, MINUTE),
)


@pytest.fixture
def books(location: Location) -> Books:
    return Books(location)


def taken(books: Books) -> Slice:
    found = books.slice(WANTED, *CHARGES)
    assert found is not None
    return found


def used(request_id: str, tokens: int, books: Books) -> CallRow:
    return row(request_id, total_tokens=tokens, time=int(books.clock.now * 1000))


def minutes(books: Books) -> tuple[dict[int, int], dict[int, int]]:
    return books.minute("requests"), books.minute("tokens")


# ---------------------------------------------------------------- how much


@pytest.mark.parametrize(
    ("left", "calls", "expected"),
    [
        (PART * 1000, 32, (10, 4)),
        (PART * 900, 32, (9, 4)),
        (PART * 1000, 31, (10, 3)),
        (PART * 100 * HOT, 8, (HOT, 1)),
        (PART * 100 * HOT - 1, 8, None),
        (PART * 1000, 7, None),
    ],
)
def test_a_slice_is_a_small_part_of_what_is_left_and_enough_for_some_calls(
    left: int, calls: int, expected: tuple[int, int] | None
) -> None:
    charges = charge("requests", limit=10**6), charge("tokens", 100, left + 7), charge("calls", limit=calls)
    balances = Balance(0, 0, None), Balance(3, 4, None), Balance(0, 0, None)
    found = fitting(WANTED, charges, balances)
    assert found == (None if expected is None else Amounts(expected[0], expected[0] * 100, 0, expected[1]))


# ---------------------------------------------------------------- draws


def test_what_is_drawn_becomes_what_the_rows_say_and_the_rest_comes_back(books: Books) -> None:
    books.clock.now += 0.5
    slice_ = taken(books)
    assert slice_.second == int(books.clock.now)
    assert (books.counter(), books.counter("tokens"), books.counter("calls")) == ((0, 10), (0, 1000), (0, 4))
    assert minutes(books) == ({0: 10}, {0: 1000})
    assert verify(books.path) == []
    books.clock.now += 3
    books.settle_drawn(Draw(slice_.id, CALL), used("a", 70, books))
    assert (books.counter(), books.counter("tokens"), books.counter("calls")) == ((1, 9), (70, 900), (0, 4))
    assert minutes(books) == ({0: 10}, {0: 970})
    books.settle_drawn(Draw(slice_.id, Amounts(7, 700, 0, 3)))
    assert minutes(books) == ({0: 3}, {0: 270})
    assert verify(books.path) == []
    books.settle_drawn(Draw(slice_.id, Amounts(2, 200, 0, 1)), used("b", 5, books), used("c", 900, books))  # an overrun
    assert (books.counter(), books.counter("tokens"), books.counter("calls")) == ((3, 0), (975, 0), (0, 0))
    assert minutes(books) == ({0: 3}, {0: 975})
    assert read(books.path, "SELECT * FROM holds") == []
    assert verify(books.path) == []


def test_a_further_request_takes_what_was_drawn_out_of_the_slice(books: Books) -> None:
    slice_ = taken(books)
    draw = Draw(slice_.id, CALL._replace(calls=1))
    more = charge("tokens", 50, 10**6, DAY), charge("tokens", 50, 10**6, MINUTE)
    books.clock.now += 2
    too_much = books.extend("a", charge("tokens", 10**6, 10**6, DAY), draw=draw)
    assert too_much.refused == 0
    assert books.extend("a", *more, draw=draw, total_tokens=50).refused is None
    assert books.counter("tokens") == (0, 1050)
    books.settle_drawn(Draw(slice_.id, REST._replace(calls=3)))
    assert (books.counter(), books.counter("tokens"), books.counter("calls")) == ((0, 1), (0, 150), (0, 1))
    assert verify(books.path) == []
    books.settle("a", used("a", 120, books))
    assert (books.counter(), books.counter("tokens"), books.counter("calls")) == ((1, 0), (120, 0), (0, 0))
    assert minutes(books) == ({0: 1}, {0: 70, 2: 50})
    assert read(books.path, "SELECT * FROM holds") == []
    assert verify(books.path) == []


@pytest.mark.parametrize("window", [TOTAL, MINUTE])
def test_a_refusal_is_not_the_last_word_while_a_slice_may_come_back(
    window: tuple[int, int], location: Location
) -> None:
    clock = Clock()
    ours, theirs = Books(location, "a", clock), Books(location, "b", clock)
    charges = charge(limit=1000, window=window), charge("calls", limit=100, scope="team:t")
    slice_ = theirs.slice(WANTED, *charges)
    assert slice_ is not None
    assert ours.hold(charge(amount=990, limit=1000, window=window)).refused is None
    refused = ours.hold(charge(limit=1000, window=window))
    assert (refused.refused, refused.waits, refused.sliced) == (0, True, True)
    assert not ours.hold(charge("tokens", 11, 10)).sliced
    theirs.settle_drawn(Draw(slice_.id, slice_.amounts))
    assert ours.hold(charge(amount=10, limit=1000, window=window)).refused is None
    assert ours.hold(charge(limit=1000, window=window)).sliced is False


def test_a_slice_that_was_taken_between_two_refusals_of_a_transaction_is_seen(books: Books) -> None:
    too_much = charge(amount=10_001, limit=10_000)
    with books.turn() as counters:
        assert not counters.hold(held(too_much)).sliced
        hold = held(*CHARGES, request_id=slice_id(int(books.clock.now), "ours", 1))
        assert counters.slice(hold, WANTED) is not None
        assert counters.hold(held(too_much)).sliced
        counters.lease()


def test_an_old_slice_is_not_waited_for(books: Books) -> None:
    taken(books)
    books.hold(charge(amount=9_990, limit=10_000))
    assert books.hold(charge(limit=10_000)).sliced
    books.clock.now += 3
    assert not books.hold(charge(limit=10_000)).sliced


# ---------------------------------------------------------------- processes that die


def test_the_rest_of_a_dead_process_becomes_one_row_and_late_settlements_correct_it(location: Location) -> None:
    clock = Clock()
    ours, dead = Books(location, clock=clock), Books(location, "dead", clock)
    slice_ = taken(dead)
    dead.settle_drawn(Draw(slice_.id, CALL), used("a", 70, dead))
    clock.now += 31
    assert ours.sweep() == 1
    lost = "SELECT requests, total_tokens, error, estimated FROM calls WHERE request_id LIKE 'slice-%'"
    assert read(ours.path, lost) == [(9, 900, "process_lost", 1)]
    assert (ours.counter(), ours.counter("tokens"), ours.counter("calls")) == ((10, 0), (970, 0), (0, 0))
    assert verify(ours.path) == []
    ours.settle_drawn(Draw(slice_.id, CALL), used("b", 30, ours))  # as from a file beside the ledger
    assert read(ours.path, lost) == [(8, 800, "process_lost", 1)]
    dead.settle_drawn(Draw(slice_.id, CALL), used("c", 0, dead))  # it had slept
    dead.settle_drawn(Draw(slice_.id, Amounts(7, 700, 0, 4)))
    assert read(ours.path, lost) == read(ours.path, "SELECT * FROM holds") == []
    assert (ours.counter(), ours.counter("tokens")) == ((3, 0), (100, 0))
    assert verify(ours.path) == []


def test_a_draw_of_a_slice_that_is_gone_is_booked(books: Books) -> None:
    books.hold(*CHARGES, request_id="a")
    books.settle("a")
    books.settle_drawn(Draw("slice-1-x-1", CALL), used("b", 70, books))
    assert (books.counter(), books.counter("tokens")) == ((1, 0), (70, 0))
    assert verify(books.path) == []


# ---------------------------------------------------------------- whatever happens


class Process(Books):
    """Counters, and a slice whose draws are made in memory, as a gateway does it."""

    live: Slice | None = None
    left = Amounts(0, 0, 0, 0)

    def take(self, wanted: Amounts) -> None:
        self.give_back()
        self.live = self.slice(wanted, *LIMITED)
        self.left = self.live.amounts if self.live is not None else Amounts(0, 0, 0, 0)

    def draw(self, tokens: int) -> Draw | None:
        if self.live is None or self.live.second != int(self.clock.now):
            self.give_back()
            return None
        requests, left, _, calls = self.left
        if not requests or left < tokens or not calls:
            return None
        self.left = Amounts(requests - 1, left - tokens, 0, calls - 1)
        return Draw(self.live.id, Amounts(1, tokens, 0, 1))

    def give_back(self) -> None:
        if self.live is not None and any(self.left):
            self.settle_drawn(Draw(self.live.id, self.left))
        self.live = None

    def end(self, done: CallRow, draw: Draw | None) -> None:
        with self.turn() as counters:
            moved = counters.held(done.request_id)
        if draw is None or moved:
            self.settle(done.request_id, done)
        else:
            self.settle_drawn(draw, done)


LIMITED = (
    charge("requests", limit=90, window=MINUTE),
    charge("tokens", 1, 6000, DAY),
    charge("requests", limit=260, scope="organization"),
    charge("calls", limit=40),
    charge("tokens", 1, 3000, MINUTE),
)
SPENT = "SELECT unit, scope, spent + held FROM counters WHERE until > 0"
MOST = {("tokens", "key:k"): 6000, ("requests", "organization"): 260, ("calls", "key:k"): 40}


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_no_limit_is_passed(seed: int, location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes take slices as large as they like, draw, hold, extend, settle and die at random."""
    monkeypatch.setattr(slices, "PART", 1)
    monkeypatch.setattr(slices, "PART_OF_CALLS", 1)
    chance, clock = random.Random(seed), Clock()
    path = location
    processes = [Process(path, name, clock) for name in "abc"]
    begun: dict[str, tuple[Process, int, Draw | None]] = {}
    admitted: deque[float] = deque()
    for number in range(150):
        process, name, tokens = chance.choice(processes), f"{number}", chance.randint(1, 60)
        match chance.randrange(8):
            case 0:
                process.take(Amounts(chance.randint(8, 30), chance.randint(100, 900), 0, chance.randint(1, 9)))
            case 1 | 2 | 3:
                draw = process.draw(tokens)
                charges = [each._replace(amount=tokens) if each.unit == "tokens" else each for each in LIMITED]
                if draw is not None or process.hold(*charges, request_id=name, total_tokens=tokens).refused is None:
                    begun[name] = process, tokens, draw
                    admitted.append(clock.now)
            case 4 if begun:
                name, (process, before, draw) = chance.choice(list(begun.items()))
                more = charge("tokens", tokens, 6000, DAY), charge("tokens", tokens, 3000, MINUTE)
                if process.extend(name, *more, draw=draw, total_tokens=tokens).refused is None:
                    before += tokens
                begun[name] = process, before, draw
            case 5 | 6 if begun:
                name, (process, most, draw) = begun.popitem()
                process.end(used(name, chance.randint(0, most), process), draw)
            case 7:
                clock.now += chance.choice((0.3, 1, 1, 20))
                if chance.random() < 0.15:  # it sleeps: the others find it dead, and it goes on
                    clock.now += 31
                    for other in processes:
                        if other is not process:
                            with other.turn() as counters:
                                counters.renew()
                                counters.sweep()
        while admitted and admitted[0] < clock.now - 60:
            admitted.popleft()
        assert len(admitted) <= 90
        assert all(amount <= MOST[unit, scope] for unit, scope, amount in read(path, SPENT) if (unit, scope) in MOST)
        assert verify(path) == []
    for process in processes:
        process.give_back()
    for name, (process, most, draw) in begun.items():
        process.end(used(name, most, process), draw)
    assert read(path, "SELECT * FROM holds") == read(path, "SELECT * FROM calls WHERE error = 'process_lost'") == []
    assert read(path, "SELECT * FROM counters WHERE held <> 0") == []
    assert verify(path) == []


# ---------------------------------------------------------------- through the ledger's file


def slice_of(file: LedgerFile, number: int = 1) -> tuple[Hold, Amounts]:
    now = time.time()
    charges = charge(limit=10_000), charge("tokens", 10, 10**6, MINUTE), charge("calls", limit=100)
    return held(*charges, request_id=slice_id(int(now), file.process, number), time=int(now * 1000)), WANTED


def drawn(slice_: Slice, calls: int = 0) -> Draw:
    return Draw(slice_.id, Amounts(1, 100, 0, calls))


def done(request_id: str) -> CallRow:
    return row(request_id, total_tokens=7, time=int(time.time() * 1000))


async def at_rest(path: Location, calls: int) -> None:
    await until(lambda: read(path, "SELECT count(*) FROM calls") == [(calls,)])
    await until(lambda: read(path, "SELECT * FROM holds") == [])
    assert read(path, "SELECT spent, held FROM counters WHERE unit = 'requests'") == [(calls, 0)]
    assert verify(path) == []


async def test_a_settlement_of_a_draw_counts_once(location: Location) -> None:
    path = location
    with opened(path) as file:
        slice_ = await file.slice(*slice_of(file))
        assert slice_ is not None
        for _ in range(2):
            file.settle_drawn("a", [done("a")], drawn(slice_))
        await until(lambda: read(path, "SELECT count(*) FROM calls") == [(1,)])
        file.settle_drawn("a", [done("a")], drawn(slice_))
        file.settle_drawn("b", [done("b")], drawn(slice_))
        file.give_back(Draw(slice_.id, Amounts(8, 800, 0, 4)))
        await at_rest(path, 2)


async def test_a_slice_for_which_nobody_waits_is_given_back(location: Location) -> None:
    path = location
    with opened(path) as file:
        asked = file.slice(*slice_of(file))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the thread is woken, and writes while the event loop does not run
        while read(path, "SELECT count(*) FROM holds") != [(1,)]:
            pass
        asked.cancel()
        await file.hold(held(charge(limit=10_000), request_id="a"))
        file.settle("a", [done("a")])
        await at_rest(path, 1)


async def test_a_call_that_is_cancelled_while_it_asks_for_more_settles_what_it_drew(location: Location) -> None:
    path = location
    with opened(path) as file:
        slice_ = await file.slice(*slice_of(file))
        assert slice_ is not None
        for number in range(4):
            name, draw = f"{number}", drawn(slice_, calls=1)
            more = held(charge("tokens", 10, 10**6, MINUTE), request_id=name, total_tokens=10)
            asked = file.extend(more, draw)
            for _ in range(number):
                await asyncio.sleep(0.001)
            asked.cancel()
            file.settle(name, [done(name)], draw)
        file.give_back(Draw(slice_.id, Amounts(6, 600, 0, 0)))
        await at_rest(path, 4)


async def test_draws_that_the_queue_has_no_room_for_are_settled_once(location: Location) -> None:
    path = location
    with opened(path, room=3, busy_seconds=0.05) as file:
        slice_ = await file.slice(*slice_of(file))
        assert slice_ is not None
        with closing(connect(path, "rw", 5.0)) as other:
            other.begin()
            for number in range(9):
                file.settle_drawn(f"{number}", [done(f"{number}")], drawn(slice_))
            file.give_back(Draw(slice_.id, Amounts(1, 100, 0, 4)))
            await until(lambda: file.health is not None and file.health.waiting == 10)
        await at_rest(path, 9)
