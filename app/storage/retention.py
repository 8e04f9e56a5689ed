"""The fate of old rows: they are rolled up, and deleted when they were kept for long enough.

    Retention, a daemon thread -> keep_up every few seconds, tidy every hour

Each step is a transaction of a few milliseconds, with a pause after it, so that the ledger's writer gets in between.
One process at a time tidies the file.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from .columns import QUARTER, SET_STATE
from .connection import StoreConnection
from .errors import DRIVER_ERRORS, reason
from .keys import REMEMBERED_MS
from .location import Location
from .opening import connect, current
from .rollups import forget_ids, step
from .running import USERS, fold

logger = logging.getLogger("torii.retention")

DAY_SECONDS = 86_400
AUDIT_DAYS = 400
STEP = 200  # rows of one transaction
PAUSE = 3  # times the length of a step
KEEP_UP_SECONDS = 5.0
TIDY_SECONDS = 3600.0
FIRST_SECONDS = 15.0  # from the start to the first tidying
LEASE_MS = 60_000  # after which another process may take over from one that died
BUSY_SECONDS = 1.0

_OLD_CALLS = "SELECT id FROM calls WHERE time < ? AND +id <= (SELECT value FROM state WHERE name = 'rolled_up')"
_SLOTS = ", ".join(map(str, range(1, USERS.slots + 1)))  # the index begins with the slot
# Which rows of a table are old; the parameter is a time in the table's own unit.
_OLD = {
    "calls": ("id", _OLD_CALLS),
    "rolled_users": ('day, "user"', 'SELECT day, "user" FROM rolled_users WHERE day < ?'),
    "running_users": (
        'slot, day, "user"',
        f'SELECT slot, day, "user" FROM running_users WHERE slot IN ({_SLOTS}) AND day < ?',  # noqa: S608 - our own numbers
    ),
    "refusals": (
        "minute, key_id, team, reason",
        "SELECT minute, key_id, team, reason FROM refusals WHERE minute < ?",
    ),
    "idempotency": ('"key"', 'SELECT "key" FROM idempotency WHERE time < ?'),
    "audit": ("id", "SELECT id FROM audit WHERE time < ?"),
    # Alerts of a total budget, whose window begins at 0, stay: they are sent once.
    "alerts": (
        "scope, unit, filter, since, amount, percent",
        "SELECT scope, unit, filter, since, amount, percent FROM alerts WHERE since > 0 AND time < ?",
    ),
}


Pause = Callable[[float], object]


def _no_pause(_: float) -> None:
    """For those who wait for the end."""


def keep_up(location: Location, pause: Pause = _no_pause, *, now: float | None = None) -> int:
    """Rolls up all rows that are not yet, and folds the days that have ended by ``now``, a Unix time; returns how many
    rows. Raises DRIVER_ERRORS.

    ``pause`` waits for some seconds after each step; if it returns something true, this ends early. A file that is not
    there, or is of another version, is left alone, here and in ``tidy``.
    """
    count = 0
    with _opened(location) as connection:
        while connection is not None:
            started = time.monotonic()
            found = step(connection)
            count += found
            more = found or fold(connection, time.time() if now is None else now)
            if not more or pause(PAUSE * (time.monotonic() - started)):
                break
    return count


def tidy(location: Location, keep_days: int, *, now: float | None = None, pause: Pause = _no_pause) -> dict[str, int]:
    """Deletes what is old; returns how many rows of which tables. Raises DRIVER_ERRORS. Nothing is done while another
    process does it.

    Calls, their users and refusals are kept for ``keep_days``, the audit and alerts for AUDIT_DAYS, keys of idempotency
    for a day. Counters and holds are the writer's own (``Counters.sweep``). ``now`` is a Unix time, the clock's by
    default.
    """
    now = time.time() if now is None else now
    keep_up(location, pause, now=now)
    deleted: dict[str, int] = {}
    with _opened(location) as connection:
        if connection is None or not _claimed(connection):
            return {}
        try:
            for table, before in _limits(now, keep_days).items():
                if table == "calls":
                    connection.execute(SET_STATE, ("kept_from", before))
                count = _emptied(connection, table, before, pause)
                if count:
                    deleted[table] = count
        finally:
            _release(connection)
    return deleted


def _limits(now: float, keep_days: int) -> dict[str, int]:
    """The time before which rows are old, in the unit of each table."""
    kept = int(now - keep_days * DAY_SECONDS)
    quarter = max(kept * 1000 // QUARTER, 0)
    forgotten = int(now * 1000) - REMEMBERED_MS
    long_ago = int((now - AUDIT_DAYS * DAY_SECONDS) * 1000)
    return {
        "calls": quarter * QUARTER,
        "rolled_users": quarter * QUARTER // (DAY_SECONDS * 1000),
        "running_users": quarter * QUARTER // (DAY_SECONDS * 1000),
        "refusals": quarter * QUARTER // 60_000,
        "idempotency": forgotten,
        "audit": long_ago,
        "alerts": long_ago,
    }


def _emptied(connection: StoreConnection, table: str, before: int, pause: Pause) -> int:
    """Deletes the table's old rows in steps; returns how many."""
    columns, old = _OLD[table]
    statement = f"DELETE FROM {table} WHERE ({columns}) IN ({old} LIMIT {STEP})"  # noqa: S608 - our own tables
    total = 0
    while connection.execute(f"SELECT EXISTS ({old})", (before,)).fetchone()[0]:
        started = time.monotonic()
        connection.begin()
        try:
            count = connection.execute(statement, (before,)).rowcount
            if table == "calls":
                forget_ids(connection)
            connection.execute("UPDATE state SET value = ? WHERE name = 'tidied_until'", (_lease(),))
            connection.commit()
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise
        total += count
        if not count or pause(PAUSE * (time.monotonic() - started)):
            break
    return total


# ---------------------------------------------------------------- one process at a time


def _lease() -> int:
    return int(time.time() * 1000) + LEASE_MS


def _claimed(connection: StoreConnection) -> bool:
    """True if no other process tidies the file; its lease ends if it dies."""
    taken = connection.execute(
        "INSERT INTO state (name, value) VALUES ('tidied_until', ?) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE state.value < ?",
        (_lease(), int(time.time() * 1000)),
    )
    return taken.rowcount == 1


def _release(connection: StoreConnection) -> None:
    connection.execute("UPDATE state SET value = 0 WHERE name = 'tidied_until'")


@contextmanager
def _opened(location: Location) -> Iterator[StoreConnection | None]:
    """A connection of its own; None if there is no file of this version. Never creates or migrates a file."""
    if isinstance(location, Path) and not location.is_file():
        yield None
        return
    with closing(connect(location, "rw", BUSY_SECONDS)) as connection:
        if not current(connection):
            yield None
            return
        if isinstance(location, Path):
            connection.execute("PRAGMA synchronous=NORMAL")
        yield connection


class Retention:
    """The daemon thread that keeps roll-ups up to date and deletes what is old. ``keep_days`` is asked for anew each
    time. The event loop is never blocked: the thread has a connection of its own, and holds the file's lock for some
    milliseconds at a time."""

    def __init__(
        self,
        location: Location,
        keep_days: Callable[[], int],
        *,
        first_seconds: float = FIRST_SECONDS,
        keep_up_seconds: float = KEEP_UP_SECONDS,
    ) -> None:
        self._location = location
        self._keep_days = keep_days
        self._keep_up_seconds = keep_up_seconds
        # Processes that start together do not come at the same moment: no secret, so any random numbers will do.
        self._due = time.monotonic() + first_seconds * random.uniform(0.5, 1.5)  # noqa: S311
        self._ended = threading.Event()
        self._trouble = ""
        self._thread = threading.Thread(target=self._work, name="torii-retention", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends after the present step; waits for that a second at most."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(1)

    def _work(self) -> None:
        while not self._ended.wait(min(self._keep_up_seconds, max(0.0, self._due - time.monotonic()))):
            try:
                self._once()
            except (*DRIVER_ERRORS, OSError) as error:
                self._failed(reason(error))
            else:
                self._trouble = ""

    def _once(self) -> None:
        if time.monotonic() < self._due:
            keep_up(self._location, self._ended.wait)
            return
        self._due = time.monotonic() + TIDY_SECONDS * random.uniform(0.9, 1.1)  # noqa: S311 - as above
        deleted = tidy(self._location, self._keep_days(), pause=self._ended.wait)
        if deleted:
            logger.info("old rows were deleted: %s", ", ".join(f"{count} of {name}" for name, count in deleted.items()))

    def _failed(self, what: str) -> None:
        """Rows wait until the next time; the ledger's own trouble is in GET /healthz."""
        self._due = min(self._due, time.monotonic() + 10 * self._keep_up_seconds)
        if what != self._trouble:
            self._trouble = what
            logger.warning("old rows of the ledger cannot be tidied: %s; it is tried again", what)
