"""When the writer's thread is woken, and what it writes in one go."""

from __future__ import annotations

import sqlite3
from typing import Any

from app.storage.asks import Asks
from app.storage.connection import StoreConnection
from app.storage.holds import Decision
from app.storage.sqlite import SqliteConnection
from app.storage.writer import Policy, QueuedWriter, Statement

from ..conftest import until


class Busy(QueuedWriter):
    """One row comes with each of the first transactions; nothing is written."""

    def __init__(self, batch: int, until: int = 100) -> None:
        super().__init__(Policy("busy", keeps=True, room=100, batch=batch, gather_seconds=60))
        self.written: list[list[int]] = []
        self._until = until

    def keep(self, number: int) -> None:
        self._write("", (number,))

    def flush(self) -> bool:
        return self._flushed()

    def _transact(self, connection: StoreConnection, batch: list[Any]) -> int:
        self.written.append([number for _, (number,) in batch])
        if len(self.written) < self._until:
            self.keep(100)
        return len(batch)

    def _connected(self) -> StoreConnection:
        return sqlite3.connect(":memory:", factory=SqliteConnection)

    def _overflowed(self, item: Statement) -> None:
        raise AssertionError

    def _failed(self, error: Exception) -> None:
        raise AssertionError

    def _succeeded(self) -> None: ...


def test_rows_that_come_while_others_are_written_gather_for_the_next_time() -> None:
    writer = Busy(batch=2)
    for number in range(3):
        writer.keep(number)
    assert writer.flush()
    assert writer.written == [[0, 1], [2, 100]]
    assert writer.waiting == 1


def test_a_whole_batch_is_not_left_waiting() -> None:
    writer = Busy(batch=1, until=4)
    writer.keep(0)
    assert writer.flush()
    assert writer.written == [[0], [100], [100], [100]]
    assert writer.waiting == 0


async def test_a_settlement_that_can_wait_is_written_soon_once_a_call_waits_for_it() -> None:
    woken: list[str] = []
    asks = Asks(lambda: woken.append("woken"), lambda asked, answer: None)
    waiting = asks.ask("hold", None)
    await until(lambda: len(woken) == 1)
    (asked,) = asks.take(1)
    asks.hasten_soon(patient=True)
    asks.answer([(asked, Decision(0, True, ()))])
    assert (await waiting).waits
    await until(lambda: len(woken) == 2)
