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
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from .asks import MANY, Asked, Asks
from .condition import Condition, Trouble
from .connection import StoreConnection
from .errors import DRIVER_ERRORS, PostgresError, StoreError, is_passing, store_error
from .holds import Amounts, Decision, Draw, Hold, Slice
from .location import Location, rows_beside
from .opening import BUSY_SECONDS, identity, open_ledger, open_server, reading
from .rounds import Rounds
from .rows import INSERT_CALL, SELECT_COOLDOWNS, SELECT_REMEMBERED, CallRow, CooldownRow
from .slices import SlicedCounters
from .spill import Spill
from .turn import Item, Transaction, once
from .writer import LONGEST_PAUSE, Policy, QueuedWriter

__all__ = ["BUSY_SECONDS", "INSERT_CALL", "CallRow", "CooldownRow", "LedgerFile", "Trouble", "reading"]

logger = logging.getLogger("torii.store")

FLUSH_SECONDS = 0.25  # of rows, which a killed process may lose
ROOM = 10_000  # rows that may wait in memory
BATCH = 1000  # rows of one transaction
ROWS_SECONDS = 0.2  # for which rows and settlements gather while many calls ask, unless one of them does not fit
LEASE_SECONDS = 30.0  # after which a process that has not renewed its lease is dead
SWEEP_SECONDS = 5.0
SERVER_PAUSE = 1.0  # between two tries to reach a server that is away
LAST_SECONDS = 0.25  # to wait for another program's lock after ``close`` was called


class Doubt(NamedTuple):
    """A transaction that a server may have committed or not, by its number there: how many items of the queue were in
    it, and what was asked."""

    number: int
    items: int
    asked: list[Asked]


class LedgerFile(QueuedWriter):
    """The constructor opens the file. Raises StoreError if the file is not ours, is damaged or cannot be opened.

    Passing trouble, a lock or a full disk, does not prevent the start. ``close`` writes the rows that wait.
    ``hold``, ``extend`` and ``alert`` are for one event loop at a time; the other verbs never wait and never raise.
    """

    def __init__(
        self,
        location: Location,
        *,
        busy_seconds: float = BUSY_SECONDS,
        flush_seconds: float = FLUSH_SECONDS,
        room: int = ROOM,
        lease_seconds: float = LEASE_SECONDS,
        sweep_seconds: float = SWEEP_SECONDS,
        clock: Callable[[], float] | None = None,
    ) -> None:
        pause = LONGEST_PAUSE if isinstance(location, Path) else SERVER_PAUSE
        super().__init__(Policy("torii-store", True, room, BATCH, flush_seconds, pause))
        self.location = location
        self.process = uuid4().hex
        self.migrated = ""  # in words, from and to which version
        self._busy_seconds = busy_seconds
        self._lost = 0
        self._doubt: Doubt | None = None
        self._written = 0  # items at the head of the queue that are in the store
        self._full = False
        self._condition = Condition(server=not isinstance(location, Path))
        self._file: tuple[int, int] | None = None
        self._used: dict[str, int] = {}
        self._asks = Asks(self._hasten, self._unwanted)
        self._taken: list[Asked] = []
        self._rows_due = 0.0  # of the monotonic clock
        shared = not isinstance(location, Path)
        self._counters = SlicedCounters(
            self.process, lease_seconds=lease_seconds, clock=clock or self._now, replicas=shared
        )
        self._transaction = Transaction(self._counters, self._refused)
        self._spill = Spill(rows_beside(location), self.process)
        self._rounds = Rounds(self._counters, self._spill, sweep_seconds, self._unreadable)
        try:
            self._opened(examined=True).close()
            self._file = identity(location)
        except DRIVER_ERRORS as error:
            if not is_passing(error):
                raise store_error(error) from None
            self._failed(error)
        self._begin()

    # ---------------------------------------------------------------- limits and budgets

    @property
    def replicas(self) -> SlicedCounters | None:
        """The number of the processes that share a server, and this one's place among them; None for a file."""
        return None if isinstance(self.location, Path) else self._counters

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
        """Ends a call that has drawn from a slice and has no hold of its own. Idempotent. Its row is written with the
        rows of calls without limits: the slice has room for the next calls meanwhile."""
        self._write("drawn", (request_id, rows, draw))
        self._asks.hasten_soon(patient=True)

    def give_back(self, draw: Draw) -> None:
        """Gives back a part of a slice that no call has drawn."""
        self._write("drawn", ("", (), draw))
        self._asks.hasten_soon()

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
        with reading(self.location) as connection:
            return [CooldownRow(*row) for row in connection.execute(SELECT_COOLDOWNS)]

    def remember(self, name: str, value: int) -> None:
        """Queues a value of ``remembered``, which replaces the saved one."""
        self._write("remember", (name, value))

    def remembered(self) -> dict[str, int]:
        """The last known state of Redis: ``redis_epoch`` and ``redis_processes``. Empty if the file cannot be read."""
        try:
            with reading(self.location) as connection:
                return dict(connection.execute(SELECT_REMEMBERED).fetchall())
        except StoreError:
            return {}

    @property
    def health(self) -> Trouble | None:
        """The trouble with writing the file; None if there is none."""
        return self._condition.shown(self.waiting + self._spill.waiting, self._lost)

    @property
    def away(self) -> bool:
        """True if the store is a server that cannot be asked now."""
        return self._condition.away

    def close(self) -> None:
        """Takes no more rows, and writes those that wait, if it can in the time allowed for another program's lock."""
        self._end(self._busy_seconds + 1)
        if self.waiting:
            logger.error("the database: %d rows could not be written before the end", self.waiting)

    # ---------------------------------------------------------------- the file

    def _now(self) -> float:
        """The store's clock: Unix time in seconds."""
        clock: Callable[[], float] = getattr(self._writer, "clock", time.time)
        return clock()

    def _connected(self) -> StoreConnection:
        """A connection to the store, a new one if the file was removed or replaced."""
        known = self._file == identity(self.location)
        if self._writer is not None and not known:
            self._disconnect()
        if self._writer is None:
            self._writer = self._opened(examined=not known)
            self._file = identity(self.location)
            self._resolve(self._writer)
            self._condition.compare(getattr(self._writer, "offset", 0.0))
        return self._writer

    def _resolve(self, connection: StoreConnection) -> None:
        """Finds out about a commit whose answer was lost. Raises StoreError while nobody knows."""
        if self._doubt is None:
            return
        number, items, asked = self._doubt
        done = connection.committed(number)
        if done is None:
            raise StoreError("the server has not ended our last transaction yet")
        self._doubt = None
        if done:
            self._written = items
            self._counters.reload(connection)
            # Those who asked were told that it failed.
            self._queue.extend(("release", (each.what.request_id,)) for each in asked if each.verb == "hold")
            self._queue.extend(("release", (each.what[0].request_id,)) for each in asked if each.verb == "slice")

    def _opened(self, *, examined: bool) -> StoreConnection:
        """A connection to the store, with all tables of this version. A file is created if there is none."""
        if not isinstance(self.location, Path):
            with suppress(OSError):  # rows that have no place to wait are counted as lost
                self.location.rows.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return open_server(self.location)
        # The last try may follow one that has waited for a lock all the time that there is.
        patience = min(self._busy_seconds, LAST_SECONDS) if self._closing.is_set() else self._busy_seconds
        connection, migrated = open_ledger(self.location, patience, self._busy_seconds, examined=examined)
        self.migrated = migrated or self.migrated
        return connection

    # ---------------------------------------------------------------- the thread

    def _flushed(self) -> bool:
        self._transaction.left = False
        return super()._flushed()

    def _due(self, rest: int) -> bool:
        return bool(self._asks) or (super()._due(rest) and not self._transaction.left)

    def _committed(self, batch: list[Item]) -> int | None:
        self._taken = self._asks.take(BATCH)
        with self._condition.asking():
            return super()._committed(batch)

    def _transact(self, connection: StoreConnection, batch: list[Item]) -> int:
        transaction, now = self._transaction, time.monotonic()
        many = len(self._taken) >= MANY and not self._asks.awaited(now) and not self._closing.is_set()
        may_leave = bool(batch) and many and now < self._rows_due
        written, rows = self._written, batch[self._written :]
        try:
            answers = transaction.commit(connection, rows, self._taken, may_leave=may_leave)
        except PostgresError as error:
            if error.unknown:
                self._doubt = Doubt(connection.number, written if transaction.left else len(batch), self._taken)
            raise
        self._taken, self._written = [], 0
        self._asks.answer(answers, settled=transaction.settled)
        if transaction.left:
            self._arrived.set()
            return written
        if rows:
            self._rows_due = now + ROWS_SECONDS
        return len(batch)

    def _failed(self, error: Exception) -> None:
        self._file = None  # the next opening examines the file
        what = str(store_error(error))
        self._condition.failed(what)
        taken, self._taken = self._taken, []
        self._asks.answer([(asked, StoreError(what)) for asked in taken])

    def _succeeded(self) -> None:
        self._full = False
        self._condition.succeeded(self._lost)
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
        """Makes a round if it is due, and if the file is the one that was opened last. A server is asked again."""
        condition, server = self._condition, not isinstance(self.location, Path)
        if condition.away and not self._queue:
            self._rounds.hurry()
        if self._rounds.wait() > 0:
            return self._rounds.wait()
        try:
            with condition.asking():
                if not server and (self._file is None or self._file != identity(self.location)):
                    self._rounds.fail()
                elif self._rounds.make(self._connected(), self._transaction, idle=not self._queue):
                    self._asks.answer([], settled=True)
        except (*DRIVER_ERRORS, OSError, StoreError) as error:  # of a file, told when a row cannot be written
            self._rounds.fail()
            self._disconnect()
            if server:
                condition.failed(str(store_error(error)))
        else:
            if condition.trouble and self._writer is not None and not self._queue:
                self._succeeded()
        return min(self._rounds.wait(), self._policy.longest_pause) if condition.away else self._rounds.wait()

    def _last(self) -> None:
        """What could not be written waits in a file beside this one. The lease ends."""
        self._rounds.stop()
        for _ in range(self._written):
            self._queue.popleft()
        doubtful = self._doubt.items if self._doubt else 0
        waiting = len(self._queue)
        while self._queue and self._spill.keep(once(self._queue[0]) if doubtful > 0 else self._queue[0]):
            self._queue.popleft()
            doubtful -= 1
        if waiting > len(self._queue):
            logger.warning("the database: %d rows wait in a file beside it", waiting - len(self._queue))
        self._spill.release()
        self._asks.answer([(asked, StoreError("it is closed")) for asked in self._asks.take(len(self._asks))])
        if self._writer is not None:
            with suppress(*DRIVER_ERRORS):
                self._transaction.leave(self._writer)
