"""The ledger's file: calls, holds, and cooldowns of keys. Rows must not be lost; several processes may have it open.

    record_call, settle, refuse, ... -> queue --+
                                                +-> the thread: one transaction -> the file
    hold, extend, alert -----------> asks ------+-> answers

While the file cannot be written (locked, disk full), rows wait and are tried again; those for which the queue has no
room wait in a file beside it. What was asked fails. A file of an older version is migrated when it is opened, in a
child process.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from . import migrations
from .asks import MANY, Asked, Asks
from .holds import Amounts, Decision, Draw, Hold, Slice
from .new_file import VERSION
from .opening import BUSY_SECONDS, complete, create, examine, identity, make_file, reading, version
from .rounds import Rounds
from .rows import INSERT_CALL, SELECT_COOLDOWNS, SELECT_REMEMBERED, CallRow, CooldownRow
from .slices import SlicedCounters
from .spill import Spill
from .sqlite import PASSING, StoreError, code, store_error, write_ahead
from .turn import Item, Transaction
from .writer import Policy, QueuedWriter

__all__ = ["BUSY_SECONDS", "INSERT_CALL", "CallRow", "CooldownRow", "LedgerFile", "Trouble", "reading"]

logger = logging.getLogger("torii.store")

FLUSH_SECONDS = 0.25  # of rows, which a killed process may lose
ROOM = 10_000  # rows that may wait in memory
BATCH = 1000  # rows of one transaction
ROWS_SECONDS = 0.2  # for which rows and settlements gather while many calls ask, unless one of them does not fit
LEASE_SECONDS = 30.0  # after which a process that has not renewed its lease is dead
SWEEP_SECONDS = 5.0
LAST_SECONDS = 0.25  # to wait for another program's lock after ``close`` was called


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the file cannot be written, and how many rows wait and were lost."""

    what: str
    waiting: int
    lost: int


class LedgerFile(QueuedWriter):
    """The constructor opens the file. Raises StoreError if the file is not ours, is damaged or cannot be opened.

    Passing trouble, a lock or a full disk, does not prevent the start. ``close`` writes the rows that wait.
    ``hold``, ``extend`` and ``alert`` are for one event loop at a time; the other verbs never wait and never raise.
    """

    def __init__(
        self,
        path: Path,
        *,
        busy_seconds: float = BUSY_SECONDS,
        flush_seconds: float = FLUSH_SECONDS,
        room: int = ROOM,
        lease_seconds: float = LEASE_SECONDS,
        sweep_seconds: float = SWEEP_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(Policy("torii-store", keeps=True, room=room, batch=BATCH, gather_seconds=flush_seconds))
        self.path = path
        self.process = uuid4().hex
        self.migrated = ""  # in words, from and to which version
        self._busy_seconds = busy_seconds
        self._lost = 0
        self._full = False
        self._trouble: str | None = None
        self._file: tuple[int, int] | None = None
        self._used: dict[str, int] = {}
        self._asks = Asks(self._hasten, self._unwanted)
        self._taken: list[Asked] = []
        self._rows_due = 0.0  # of the monotonic clock
        self._counters = SlicedCounters(self.process, lease_seconds=lease_seconds, clock=clock)
        self._transaction = Transaction(self._counters, self._refused)
        self._spill = Spill(path, self.process)
        self._rounds = Rounds(self._counters, self._spill, sweep_seconds, self._unreadable)
        try:
            self._opened(examined=True).close()
            self._file = identity(path)
        except sqlite3.DatabaseError as error:
            if code(error) not in PASSING:
                raise store_error(error) from None
            self._failed(error)
        self._begin()

    # ---------------------------------------------------------------- limits and budgets

    @property
    def settled(self) -> list[Callable[[], None]]:
        """Called on the event loop after a transaction in which a hold was settled or released here."""
        return self._asks.settled

    def hold(self, hold: Hold) -> asyncio.Future[Decision]:
        """Takes all charges or none. The future raises StoreError if that is not in the file within 0.5 s; nothing is
        held then, nor if the future is cancelled."""
        return self._ask("hold", hold)

    def extend(self, hold: Hold, draw: Draw | None = None) -> asyncio.Future[Decision]:
        """Adds charges to the hold of the same call, for a further request to an upstream; else as ``hold``. What does
        not fit leaves the hold as it was. ``draw``: what the call has drawn from a slice, which becomes its hold."""
        return self._ask("extend", (hold, draw))

    def settle(self, request_id: str, rows: Sequence[CallRow], draw: Draw | None = None) -> None:
        """Ends a call: its rows are written, its hold ends, and counters have what the rows say. Idempotent. ``draw``
        as in ``extend``, which may have failed."""
        self._write("settle", (request_id, rows) if draw is None else (request_id, rows, draw))
        self._asks.hasten_soon()

    def slice(self, hold: Hold, wanted: Amounts) -> asyncio.Future[Slice | None]:
        """Takes a slice, under the hold's id, for calls with such charges; None if that is too much. As ``hold``
        else."""
        return self._ask("slice", (hold, wanted))

    def settle_drawn(self, request_id: str, rows: Sequence[CallRow], draw: Draw) -> None:
        """Ends a call that has drawn from a slice and has no hold of its own. Idempotent."""
        self._write("drawn", (request_id, rows, draw))
        self._asks.hasten_soon()

    def give_back(self, draw: Draw) -> None:
        """Gives back a part of a slice that no call has drawn."""
        self.settle_drawn("", (), draw)

    def release(self, request_id: str) -> None:
        """Gives up the hold of a call that used nothing and has no row."""
        self._write("release", (request_id,))
        self._asks.hasten_soon()

    def alert(self, *row: str | int) -> asyncio.Future[bool]:
        """True if no process has given this alert before: ``row`` has the scope, the unit, the filter, the window's
        start, the budget's amount and the percent that were passed. The future raises StoreError as in ``hold``."""
        return self._ask("alert", row)

    def _ask(self, verb: str, what: object) -> asyncio.Future[Any]:
        if self._closing.is_set():
            failed = asyncio.get_running_loop().create_future()
            failed.set_exception(StoreError("it is closed"))
            return failed
        return self._asks.ask(verb, what)

    def _unwanted(self, asked: Asked, answer: object) -> None:
        """Nobody waits for the answer any more."""
        if asked.verb == "hold" and isinstance(answer, Decision) and answer.refused is None:
            self._queue.append(("release", (asked.what.request_id, asked.number)))
            self._hasten()
        elif isinstance(answer, Slice):
            self._queue.append(("drawn", ("", (), Draw(answer.id, answer.amounts))))
            self._hasten()

    # ---------------------------------------------------------------- rows

    def record_call(self, row: CallRow) -> None:
        """Queues a row of a call without a hold."""
        self._write("call", row)

    def refuse(self, minute: int, key_id: str, team: str, reason: str) -> None:
        """Counts a refusal. ``minute`` is a Unix time in minutes; ``team`` is empty for none."""
        self._write("refuse", (minute, key_id, team, reason))

    def use_key(self, key_id: str, ms: int) -> None:
        """Notes a key's last use, in Unix milliseconds, to the minute."""
        minute = ms // 60_000
        if self._used.get(key_id) != minute:
            self._used[key_id] = minute
            self._write("use_key", (minute * 60_000, key_id))

    def remember_cooldown(self, row: CooldownRow) -> None:
        """Queues a cooldown, which replaces the key's saved one."""
        self._write("remember_cooldown", row)

    def forget_cooldown(self, upstream: str, fingerprint: str) -> None:
        """Queues the deletion of the key's saved cooldown."""
        self._write("forget_cooldown", (upstream, fingerprint))

    def write(self, verb: str, row: tuple[Any, ...]) -> asyncio.Future[bool]:
        """Writes a row by a verb of ``rows.PLAIN``. The future is done when it is in the file, and raises StoreError as
        in ``hold``."""
        return self._ask("write", (verb, row))

    def write_later(self, verb: str, row: tuple[Any, ...]) -> None:
        """Queues a row by a verb of ``rows.PLAIN``."""
        self._write(verb, tuple(row))

    def cooldowns(self) -> list[CooldownRow]:
        """All saved cooldowns. Raises StoreError."""
        with reading(self.path) as connection:
            return [CooldownRow(*row) for row in connection.execute(SELECT_COOLDOWNS)]

    def remember(self, name: str, value: int) -> None:
        """Queues a value of ``remembered``, which replaces the saved one."""
        self._write("remember", (name, value))

    def remembered(self) -> dict[str, int]:
        """What was last known of Redis: ``redis_epoch`` and ``redis_processes``. Empty if the file cannot be read."""
        try:
            with reading(self.path) as connection:
                return dict(connection.execute(SELECT_REMEMBERED).fetchall())
        except StoreError:
            return {}

    @property
    def health(self) -> Trouble | None:
        """The trouble with writing the file; None if there is none."""
        what = self._trouble
        return Trouble(what, self.waiting + self._spill.waiting, self._lost) if what else None

    def close(self) -> None:
        """Takes no more rows, and writes those that wait, if it can in the time allowed for another program's lock."""
        self._end(self._busy_seconds + 1)
        if self.waiting:
            logger.error("the database: %d rows could not be written before the end", self.waiting)

    # ---------------------------------------------------------------- the file

    def _connected(self) -> sqlite3.Connection:
        """A connection to the file at the path, a new one if the file was removed or replaced."""
        known = self._file == identity(self.path)
        if self._writer is not None and not known:
            self._disconnect()
        if self._writer is None:
            self._writer = self._opened(examined=not known)
            self._file = identity(self.path)
        return self._writer

    def _opened(self, *, examined: bool) -> sqlite3.Connection:
        """A connection to the file, which is created if there is none, with all tables of this version."""
        make_file(self.path)
        # The last try may follow one that has waited for a lock all the time that there is.
        patience = min(self._busy_seconds, LAST_SECONDS) if self._closing.is_set() else self._busy_seconds
        connection = sqlite3.connect(self.path, timeout=patience, isolation_level=None)
        try:
            if version(connection) and examined:
                examine(connection)
            write_ahead(connection, patience)
            connection.execute("PRAGMA synchronous=NORMAL")
            self._migrate(connection)
            if not complete(connection):
                raise StoreError("its tables are missing")
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Brings the file to this version. Another process may be doing the same."""
        if version(connection) == 0:
            create(connection)
        before = version(connection)
        if before < VERSION:
            migrations.run(self.path, self._busy_seconds, done=lambda: version(connection) == VERSION)
            self.migrated = f"migrated from version {before} to {VERSION}"
            logger.info("the ledger's file was %s", self.migrated)

    # ---------------------------------------------------------------- the thread

    def _flushed(self) -> bool:
        self._transaction.left = False
        return super()._flushed()

    def _due(self) -> bool:
        return bool(self._asks) or (bool(self._queue) and not self._transaction.left)

    def _committed(self, batch: list[Item]) -> int | None:
        self._taken = self._asks.take(BATCH)
        return super()._committed(batch)

    def _transact(self, connection: sqlite3.Connection, batch: list[Item]) -> int:
        transaction, now = self._transaction, time.monotonic()
        many = len(self._taken) >= MANY and not self._asks.awaited(now) and not self._closing.is_set()
        may_leave = bool(batch) and many and now < self._rows_due
        answers = transaction.commit(connection, batch, self._taken, may_leave=may_leave)
        self._taken = []
        self._asks.answer(answers, settled=transaction.settled)
        if transaction.left:
            self._arrived.set()
            return 0
        if batch:
            self._rows_due = now + ROWS_SECONDS
        return len(batch)

    def _failed(self, error: Exception) -> None:
        self._file = None  # the next opening examines the file
        what = str(store_error(error))
        if what != self._trouble:
            self._trouble = what
            logger.error("the database cannot be written: %s; rows wait in memory", what)
        taken, self._taken = self._taken, []
        self._asks.answer([(asked, StoreError(what)) for asked in taken])

    def _succeeded(self) -> None:
        self._full = False
        if self._trouble is not None:
            self._trouble = None
            logger.warning("the database is written again; %d rows were lost", self._lost)
        if self._spill.waiting:
            self._rounds.hurry()

    def _overflowed(self, item: Item) -> None:
        if self._spill.keep(item):
            return
        if not self._full:
            self._full = True
            logger.error("the database: the queue of rows is full; further rows are lost")
        self._lost += 1

    def _refused(self, error: Exception) -> None:
        self._lost += 1
        logger.error("the database: a row cannot be written: %s", type(error).__name__)

    def _unreadable(self, rows: int) -> None:
        self._lost += rows
        logger.error("the database: %d rows in a file beside it cannot be read", rows)

    def _idle(self) -> float | None:
        """Makes a round if it is due, and if the file is the one that was opened last."""
        if self._rounds.wait() > 0:
            return self._rounds.wait()
        try:
            if self._file is None or self._file != identity(self.path):
                self._rounds.fail()
            elif self._rounds.make(self._connected(), self._transaction, idle=not self._queue):
                self._asks.answer([], settled=True)
        except (sqlite3.Error, OSError, StoreError):  # told when a row cannot be written
            self._rounds.fail()
            self._disconnect()
        return self._rounds.wait()

    def _last(self) -> None:
        """What could not be written waits in a file beside this one. The lease ends."""
        self._rounds.stop()
        waiting = len(self._queue)
        while self._queue and self._spill.keep(self._queue[0]):
            self._queue.popleft()
        if waiting > len(self._queue):
            logger.warning("the database: %d rows wait in a file beside it", waiting - len(self._queue))
        self._spill.release()
        self._asks.answer([(asked, StoreError("it is closed")) for asked in self._asks.take(len(self._asks))])
        if self._writer is not None:
            with suppress(sqlite3.Error):
                self._transaction.leave(self._writer)
