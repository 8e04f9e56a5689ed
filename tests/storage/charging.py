"""Holds, and counters over a real file, in tests."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from app.storage.holds import FOREVER, MINUTE, Amounts, Charge, Decision, Draw, Hold, Slice
from app.storage.ledger_file import CallRow, LedgerFile
from app.storage.location import Location
from app.storage.opening import connect, create, make_file, open_file
from app.storage.rows import INSERT_CALL
from app.storage.slices import SlicedCounters, slice_id
from app.storage.sqlite import write_ahead

from ..ledger import call

TOTAL = (0, FOREVER)
START = 1_795_262_400  # the time of tests.ledger.call
DAY = (START - 43_200, START + 43_200)
NUMBERS = count()
SPAWN = get_context("spawn")


def charge(
    unit: str = "requests",
    amount: int = 1,
    limit: int = 100,
    window: tuple[int, int] = TOTAL,
    scope: str = "key:k",
    chosen: str = "",
) -> Charge:
    return Charge(scope, unit, window, chosen, limit, amount, f"{unit}/{window}")


def row(request_id: str = "", **values: Any) -> CallRow:
    """The row of a call of key k."""
    return call(**{"key_id": "k", "request_id": request_id or f"call-{next(NUMBERS)}", **values})


def held(*charges: Charge, request_id: str = "", **values: Any) -> Hold:
    made = row(request_id, **values)
    return Hold(made.request_id, made.time, charges, made)


class Clock:
    def __init__(self) -> None:
        self.now = float(START)

    def __call__(self) -> float:
        return self.now


def make(path: Path) -> None:
    """A new file, without the writer's thread, whose sweep goes by the real time and would delete what is counted
    here."""
    make_file(path)
    with closing(open_file(path, "rw", 5.0)) as connection:
        write_ahead(connection, 2.0)
        create(connection)


class Books:
    """The counters of one process, each verb in a transaction of its own."""

    def __init__(self, path: Location, process: str = "ours", clock: Clock | None = None) -> None:
        if isinstance(path, Path) and not path.exists():
            make(path)
        self.path, self.process = path, process
        self.clock = clock or Clock()
        self.connection = connect(path, "rw", 5.0)
        self.counters = SlicedCounters(process, lease_seconds=30, clock=self.clock)

    @contextmanager
    def turn(self) -> Iterator[SlicedCounters]:
        self.connection.begin()
        self.counters.begin(self.connection)
        yield self.counters
        self.counters.save()
        self.connection.commit()

    def hold(self, *charges: Charge, request_id: str = "", **values: Any) -> Decision:
        with self.turn() as counters:
            decision = counters.hold(held(*charges, request_id=request_id, **values))
            if counters.open:
                counters.lease()
        return decision

    def extend(self, request_id: str, *charges: Charge, draw: Draw | None = None, **values: Any) -> Decision:
        with self.turn() as counters:
            return counters.extend(held(*charges, request_id=request_id, **values), draw)

    def slice(self, wanted: Amounts, *charges: Charge) -> Slice | None:
        name = slice_id(int(self.clock.now), self.process, next(NUMBERS))
        with self.turn() as counters:
            taken = counters.slice(held(*charges, request_id=name, time=int(self.clock.now * 1000)), wanted)
            if counters.open:
                counters.lease()
        return taken

    def settle_drawn(self, draw: Draw, *rows: CallRow) -> None:
        with self.turn() as counters:
            self.connection.executemany(INSERT_CALL, rows)
            counters.settle_drawn(*draw, rows)

    def settle(self, request_id: str, *rows: CallRow) -> None:
        with self.turn() as counters:
            new = counters.unsettled(request_id, rows)
            self.connection.executemany(INSERT_CALL, new)
            counters.settle(request_id, new)

    def write(self, *rows: CallRow) -> None:
        with self.turn() as counters:
            self.connection.executemany(INSERT_CALL, rows)
            for each in rows:
                counters.book(each)

    def sweep(self) -> int:
        with self.turn() as counters:
            return counters.sweep()

    def counter(self, unit: str = "requests", scope: str = "key:k") -> tuple[int, int]:
        """Spent and held of the one counter of the unit that does not slide."""
        found = self.connection.execute(
            "SELECT spent, held FROM counters WHERE unit = ? AND scope = ? AND until > 0", (unit, scope)
        )
        ((spent, held),) = found.fetchall()
        return spent, held

    def minute(self, unit: str = "tokens", scope: str = "key:k") -> dict[int, int]:
        """The amounts of a sliding minute, by the seconds since the start."""
        found = self.connection.execute(
            "SELECT second - ?, amount FROM seconds WHERE unit = ? AND scope = ? AND amount <> 0", (START, unit, scope)
        )
        return dict(found.fetchall())


# ---------------------------------------------------------------- through the ledger's file


@contextmanager
def opened(path: Location, **values: Any) -> Iterator[LedgerFile]:
    """A ledger file whose thread is quicker than usual."""
    usual = {"busy_seconds": 2.0, "flush_seconds": 0.01, "sweep_seconds": 0.05}
    with closing(LedgerFile(path, **{**usual, **values})) as file:
        yield file


def of_call(request_id: str = "", limit: int = 100) -> Hold:
    """A hold as of a real call: a request, and its tokens in the minute."""
    minute = charge("tokens", 10, 10**6, MINUTE)
    return held(charge(limit=limit), minute, request_id=request_id, time=int(time.time() * 1000), total_tokens=10)


async def admitted(file: LedgerFile, holds: list[Hold]) -> list[str]:
    """Asks for all at once. Returns the request ids of those that are held."""
    decisions = await asyncio.gather(*map(file.hold, holds))
    return [hold.request_id for hold, decision in zip(holds, decisions, strict=True) if decision.refused is None]


def settle(file: LedgerFile, *ids: str) -> None:
    for request_id in ids:
        file.settle(request_id, [row(request_id, total_tokens=7, time=int(time.time() * 1000))])


def _rush(path: Location, go: Connection) -> None:
    """A process that asks for 125 holds at once, tells those that it got, and settles them when told to."""

    async def rush() -> None:
        with opened(path, lease_seconds=1.0) as file:
            go.send("ready")
            go.recv()
            passed = await admitted(file, [of_call(f"{os.getpid()}-{number}") for number in range(125)])
            go.send(passed)
            await asyncio.to_thread(go.recv)
            settle(file, *passed)

    asyncio.run(rush())


@contextmanager
def rushing(path: Location) -> Iterator[list[tuple[Any, Connection]]]:
    """Four processes that are ready to ask."""
    LedgerFile(path).close()
    rushes = []
    for _ in range(4):
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=_rush, args=(path, theirs))
        process.start()
        rushes.append((process, ours))
    try:
        for _, pipe in rushes:
            assert pipe.recv() == "ready"
        yield rushes
    finally:
        for process, _ in rushes:
            process.kill()
            process.join()
