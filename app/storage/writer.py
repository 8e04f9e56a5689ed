"""The writer of an SQLite file: one thread that runs statements in order, many in a transaction.

    a verb -> _write -> queue -> the thread: one transaction for all that came within gather_seconds -> the file

The caller of a verb never waits. There are two policies for a transaction that fails:

    kept       the ledger's: its rows stay in the queue, and are tried again until they are in the file
    dropped    the cache's: its entries are lost, and the next ones are tried
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from .connection import StoreConnection
from .errors import DRIVER_ERRORS, StoreError

LONGEST_PAUSE = 5.0  # seconds between two tries to write kept rows

Row = tuple[Any, ...]
Statement = tuple[str, Row]


@dataclass(frozen=True, slots=True)
class Policy:
    """``thread`` is the thread's name. ``keeps``: the rows of a failed transaction are kept. ``room`` is how many
    statements may wait, ``batch`` how many one transaction takes. The thread gathers statements for ``gather_seconds``,
    since a transaction costs more than the statements in it. ``longest_pause``: seconds between two tries."""

    thread: str
    keeps: bool
    room: int
    batch: int
    gather_seconds: float
    longest_pause: float = LONGEST_PAUSE


class QueuedWriter(ABC):
    """The verbs of a file are methods of a subclass and call ``_write``. The subclass starts the thread by
    ``_begin``."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._queue: deque[Any] = deque()  # statements, or what ``_run`` of a subclass takes
        self._arrived, self._hurry, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._writer: StoreConnection | None = None
        self._thread = threading.Thread(target=self._work, name=policy.thread, daemon=True)

    @property
    def waiting(self) -> int:
        """The number of statements that are not in the file yet."""
        return len(self._queue)

    def _begin(self) -> None:
        self._thread.start()

    def _end(self, seconds: float | None) -> None:
        """Takes no more statements, and waits ``seconds`` for the queue to be written; None is without limit."""
        self._closing.set()
        self._hasten()
        self._thread.join(seconds)

    def _write(self, statement: str, row: Row) -> None:
        """Queues a statement and its row, or another pair that the subclass knows. Never waits, never raises."""
        if self._closing.is_set() or len(self._queue) >= self._policy.room:
            self._overflowed((statement, row))
            return
        self._queue.append((statement, row))
        if not self._arrived.is_set():
            self._arrived.set()

    def _hasten(self) -> None:
        """Wakes the thread, which gathers nothing more."""
        self._hurry.set()
        self._arrived.set()

    # Hooks of a subclass. The thread calls them; only ``_overflowed`` runs in the thread of a verb's caller.

    @abstractmethod
    def _overflowed(self, item: Statement) -> None:
        """The queue has no room for it, or the writer has ended."""

    @abstractmethod
    def _connected(self) -> StoreConnection:
        """The open ``_writer``. Raises DRIVER_ERRORS, OSError or StoreError."""

    @abstractmethod
    def _failed(self, error: Exception) -> None:
        """A transaction failed; the connection is closed."""

    @abstractmethod
    def _succeeded(self) -> None:
        """A transaction is in the file."""

    def _due(self, rest: int) -> bool:
        """True if there is something to write. ``rest``: of what was queued at first, how much is still there."""
        return rest > 0 or len(self._queue) >= self._policy.batch

    def _idle(self) -> float | None:
        """Does what is due at times. Returns the seconds until the next time, None for never. Never raises."""
        return None

    # The thread.

    def _work(self) -> None:
        """Kept rows are tried once more after ``_end`` is called."""
        pause, last = self._policy.gather_seconds, False
        while not last:
            if self._arrived.wait(self._idle()):
                self._arrived.clear()
                self._hurry.wait(pause)
                self._hurry.clear()
            last = self._closing.is_set()
            pause = self._policy.gather_seconds if self._flushed() else min(2 * pause, self._policy.longest_pause)
        self._last()
        self._disconnect()

    def _last(self) -> None:  # noqa: B027 - only for a file that must be left in some state
        """The thread ends. Never raises."""

    def _flushed(self) -> bool:
        """True if what was queued at first is in the file, or dropped; until then a statement stays in the queue. What
        comes meanwhile gathers for the next time: else a busy event loop, which slows this thread, would have it write
        a few rows in each of many transactions."""
        rest = len(self._queue)
        while self._due(rest):
            batch = [self._queue[place] for place in range(min(len(self._queue), self._policy.batch))]
            written = self._committed(batch)
            if written is None and self._policy.keeps:
                self._arrived.set()
                return False
            for _ in batch[:written]:
                self._queue.popleft()
                rest -= 1
        return True

    def _committed(self, batch: list[Any]) -> int | None:
        """How many of the batch are in the file, None if the transaction failed."""
        try:
            written = self._transact(self._connected(), batch)
        except (*DRIVER_ERRORS, OSError, StoreError, ValueError) as error:
            self._disconnect()
            self._failed(error)
            return None
        self._succeeded()
        return written

    def _transact(self, connection: StoreConnection, batch: list[Any]) -> int:
        """Writes what was queued, and returns how much. Raises DRIVER_ERRORS; nothing has changed then."""
        connection.begin()
        for statement, rows in _runs(batch):
            connection.executemany(statement, rows)
        connection.commit()
        return len(batch)

    def _disconnect(self) -> None:
        if self._writer is not None:
            with suppress(*DRIVER_ERRORS):
                self._writer.close()
            self._writer = None


def _runs(batch: list[Any]) -> Iterator[tuple[str, Iterator[Row]]]:
    """Consecutive rows of the same statement, as plain tuples, which the driver binds 1 us faster."""
    for statement, run in groupby(batch, key=itemgetter(0)):
        yield statement, map(tuple, map(itemgetter(1), run))
