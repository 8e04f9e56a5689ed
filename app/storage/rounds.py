"""The regular work of the writer's thread: renew the lease, look for dead processes, read back spilled rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from .connection import StoreConnection
from .counters import Counters
from .spill import Spill, Spilled, parsed
from .turn import Item, Transaction, restored

logger = logging.getLogger("torii.store")

LINES = 1000  # of one transaction
DONE = "SELECT value FROM state WHERE name = ?"
# Nothing, if another transaction has read the same lines meanwhile.
NOTE = """INSERT INTO state (name, value) VALUES (?1, ?2)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE state.value = ?3"""
FORGET = "DELETE FROM state WHERE name = ?"


class Rounds:
    """``lost`` is called with the number of spilled rows that cannot be read."""

    def __init__(self, counters: Counters, spill: Spill, sweep_seconds: float, lost: Callable[[int], None]) -> None:
        self._counters, self._spill, self._sweep_seconds, self._lost = counters, spill, sweep_seconds, lost
        self._next = 0.0  # of the monotonic clock
        self._files: list[Path] = []
        self._reading: Spilled | None = None

    def wait(self) -> float:
        """The seconds until the next round."""
        return 0.0 if self._files or self._reading else max(0.0, self._next - time.monotonic())

    def hurry(self) -> None:
        """The next round is now."""
        self._next = 0.0

    def make(self, connection: StoreConnection, transaction: Transaction, *, idle: bool) -> bool:
        """True if holds ended. ``idle``: no rows wait in memory, so that spilled ones may be read back.

        Raises DRIVER_ERRORS.
        """
        lost = 0
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._sweep_seconds
            lost = self._sweep(connection)
            if idle:
                self._spill.release()
                self._files = self._spill.found()
        return (self._read_back(connection, transaction) if idle else False) or lost > 0

    def fail(self) -> None:
        """The round cannot be made. The next one begins anew."""
        self._next = time.monotonic() + self._sweep_seconds
        self._files = []
        self.stop()

    def stop(self) -> None:
        """Closes the file that is read back."""
        if self._reading:
            self._reading.close()
            self._reading = None

    def _sweep(self, connection: StoreConnection) -> int:
        counters = self._counters
        renews, sweeps = counters.renewal_due(), counters.may_sweep() and counters.untidy(connection)
        if not renews and not sweeps:
            return 0
        connection.begin()
        try:
            counters.begin(connection)
            if renews:
                counters.renew()
            lost = counters.sweep() if sweeps else 0
            counters.save()
            connection.commit()
        except BaseException:
            counters.undo()
            raise
        if lost:
            logger.warning("%d calls of a process that has died were charged at their bounds", lost)
        return lost

    def _read_back(self, connection: StoreConnection, transaction: Transaction) -> bool:
        """Reads up to LINES lines of one file. True if holds ended."""
        while self._reading is None and self._files:
            try:
                self._reading = Spilled(self._files.pop(0))
            except OSError:  # its process lives, or another process has read it
                continue
        spilled = self._reading
        if spilled is None:
            return False
        found = connection.execute(DONE, (spilled.name,)).fetchone()
        done = found[0] if found else 0
        lines = spilled.lines[done : done + LINES]
        if lines:
            self._take_over(connection, transaction, lines, (spilled.name, done + len(lines), done))
            return transaction.settled
        spilled.remove()
        self.stop()
        connection.execute(FORGET, (spilled.name,))
        return False

    def _take_over(
        self, connection: StoreConnection, transaction: Transaction, lines: list[bytes], note: tuple[str, int, int]
    ) -> None:
        items: list[Item] = []
        for line in lines:
            item = parsed(line)
            whole = restored(*item) if item else None
            if whole:
                items.append(whole)
        transaction.commit(connection, items, [], (NOTE, note))
        if len(items) < len(lines):
            self._lost(len(lines) - len(items))
