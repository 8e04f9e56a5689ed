"""The ledger's file: calls, and cooldowns of keys. Rows must not be lost; several processes may have the file open.

While the file cannot be written (locked, disk full), rows wait and are tried again; rows for which the queue has no
room are lost and counted. A file of an older version is migrated when it is opened, in a child process.
"""

from __future__ import annotations

import logging
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from . import migrations
from .files import make
from .new_file import APPLICATION, STATEMENTS, VERSION
from .sqlite import PASSING, WORDS, NoFile, StoreError, code, reason, store_error, write_ahead
from .writer import Policy, QueuedWriter

logger = logging.getLogger("torii.store")

BUSY_SECONDS = 5.0  # to wait for another program's lock
FLUSH_SECONDS = 0.25  # of rows, which a killed process may lose
CHECK_SECONDS = 0.3  # for the check of the file when it is opened
ROOM = 10_000  # rows that may wait
BATCH = 1000  # rows of one transaction

# One statement, so that the three values are of one moment: another process may be creating the file.
HEADER = """
    SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)
    FROM pragma_application_id, pragma_user_version"""
TABLES = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('calls', 'key_rests')"


class CallRow(NamedTuple):
    """The columns of ``calls``, described in docs/ledger.md. ``time`` is in Unix milliseconds."""

    time: int
    caller: str
    endpoint: str
    model: str
    upstream: str
    upstream_model: str
    key: str
    status: int | None
    error: str | None
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    estimated: int
    seconds: float
    first_event_seconds: float | None
    attempts: int
    request_id: str
    kind: str = "call"
    requests: int = 1
    key_id: str | None = None
    team: str | None = None
    model_id: str | None = None
    stream: int = 0
    cached_tokens: int = 0
    cost: int | None = None
    price_date: str | None = None
    user: str | None = None
    tag: str | None = None
    run_id: str | None = None


class CooldownRow(NamedTuple):
    """The columns of ``key_rests``. ``until`` is a Unix time in seconds."""

    upstream: str
    fingerprint: str
    alias: str
    cause: str
    until: float


def _insert(table: str, columns: tuple[str, ...]) -> str:
    return f"INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


INSERT_CALL = f"INSERT {_insert('calls', CallRow._fields)}"
REPLACE_COOLDOWN = f"INSERT OR REPLACE {_insert('key_rests', CooldownRow._fields)}"
DELETE_COOLDOWN = "DELETE FROM key_rests WHERE upstream = ? AND fingerprint = ?"
SELECT_COOLDOWNS = f"SELECT {', '.join(CooldownRow._fields)} FROM key_rests"  # noqa: S608 - our own columns


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the file cannot be written, and how many rows wait and were lost."""

    what: str
    waiting: int
    lost: int


class LedgerFile(QueuedWriter):
    """The constructor opens the file. Raises StoreError if the file is not ours, is damaged or cannot be opened.

    Passing trouble, a lock or a full disk, does not prevent the start. ``close`` writes the rows that wait.
    """

    def __init__(
        self, path: Path, *, busy_seconds: float = BUSY_SECONDS, flush_seconds: float = FLUSH_SECONDS, room: int = ROOM
    ) -> None:
        super().__init__(Policy("torii-store", keeps=True, room=room, batch=BATCH, gather_seconds=flush_seconds))
        self.path = path
        self.migrated = ""  # in words, from and to which version
        self._busy_seconds = busy_seconds
        self._lost = 0
        self._full = False
        self._trouble: str | None = None
        self._file: tuple[int, int] | None = None
        try:
            self._opened(examine=True).close()
            self._file = _identity(path)
        except sqlite3.DatabaseError as error:
            if code(error) not in PASSING:
                raise store_error(error) from None
            self._failed(error)
        self._begin()

    def record_call(self, row: CallRow) -> None:
        """Queues a row for the ledger. Never waits, never raises."""
        self._write(INSERT_CALL, row)

    def remember_cooldown(self, row: CooldownRow) -> None:
        """Queues a cooldown, which replaces the key's saved one."""
        self._write(REPLACE_COOLDOWN, row)

    def forget_cooldown(self, upstream: str, fingerprint: str) -> None:
        """Queues the deletion of the key's saved cooldown."""
        self._write(DELETE_COOLDOWN, (upstream, fingerprint))

    def cooldowns(self) -> list[CooldownRow]:
        """All saved cooldowns. Raises StoreError."""
        with reading(self.path) as connection:
            return [CooldownRow(*row) for row in connection.execute(SELECT_COOLDOWNS)]

    @property
    def health(self) -> Trouble | None:
        """The trouble with writing the file; None if there is none."""
        what = self._trouble
        return Trouble(what, self.waiting, self._lost) if what else None

    def close(self) -> None:
        """Takes no more rows, and writes those that wait, if it can in the time allowed for another program's lock."""
        self._end(self._busy_seconds + 1)
        if self.waiting:
            logger.error("the database: %d rows could not be written before the end", self.waiting)

    def _connected(self) -> sqlite3.Connection:
        """A connection to the file at the path, a new one if the file was removed or replaced."""
        known = self._file == _identity(self.path)
        if self._writer is not None and not known:
            self._disconnect()
        if self._writer is None:
            self._writer = self._opened(examine=not known)
            self._file = _identity(self.path)
        return self._writer

    def _opened(self, *, examine: bool) -> sqlite3.Connection:
        """A connection to the file, which is created if there is none, with all tables of this version."""
        _make(self.path)
        connection = sqlite3.connect(self.path, timeout=self._busy_seconds, isolation_level=None)
        try:
            if _version(connection) and examine:
                _examine(connection)
            write_ahead(connection, self._busy_seconds)
            connection.execute("PRAGMA synchronous=NORMAL")
            self._migrate(connection)
            if connection.execute(TABLES).fetchone() != (2,):
                raise StoreError("its tables are missing")
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Brings the file to this version. Another process may be doing the same."""
        if _version(connection) == 0:
            _create(connection)
        version = _version(connection)
        if version < VERSION:
            migrations.run(self.path, self._busy_seconds, done=lambda: _version(connection) == VERSION)
            self.migrated = f"migrated from version {version} to {VERSION}"
            logger.info("the ledger's file was %s", self.migrated)

    def _failed(self, error: Exception) -> None:
        self._file = None  # the next opening examines the file
        what = str(store_error(error))
        if what != self._trouble:
            self._trouble = what
            logger.error("the database cannot be written: %s; rows wait in memory", what)

    def _succeeded(self) -> None:
        self._full = False
        if self._trouble is not None:
            self._trouble = None
            logger.warning("the database is written again; %d rows were lost", self._lost)

    def _overflowed(self) -> None:
        if not self._full:
            self._full = True
            logger.error("the database: the queue of rows is full; further rows are lost")
        self._lost += 1

    def _refused(self, error: Exception) -> None:
        self._lost += 1
        logger.error("the database: a row cannot be written: %s", type(error).__name__)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection to a file of this version or an older one. Raises StoreError, NoFile without a file."""
    _find(path)
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            _version(connection)
            yield connection
    except sqlite3.Error as error:
        raise store_error(error) from None


def _find(path: Path) -> None:
    """Raises NoFile if nothing is there, StoreError for anything but a file or if it cannot be examined."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise NoFile("there is no such file") from None
    except OSError as error:
        raise StoreError(reason(error)) from None
    if not stat.S_ISREG(mode):
        raise StoreError("it is not a regular file")


def _make(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Only the owner may read the calls. SQLite gives its other files the same mode.
        make(path)
    except FileExistsError:
        raise NoFile("its folder is not a folder") from None
    except OSError as error:
        raise NoFile(error.strerror or type(error).__name__) from None


def _version(connection: sqlite3.Connection) -> int:
    """The version of our tables; 0 for an empty file. Raises StoreError for another program's or a newer file."""
    ((application, version, tables),) = connection.execute(HEADER).fetchall()
    if application != APPLICATION and (application or version or tables):
        raise StoreError("it belongs to another program")
    if version > VERSION:
        raise StoreError(f"a newer Torii wrote it (version {version}; this Torii knows up to {VERSION})")
    return int(version)


def _examine(connection: sqlite3.Connection) -> None:
    """Raises StoreError if the file is damaged, as far as a check of CHECK_SECONDS can find."""
    until = time.monotonic() + CHECK_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > until, 10_000)
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return
    finally:
        connection.set_progress_handler(None, 0)
    if found != [("ok",)]:
        raise StoreError(WORDS[sqlite3.SQLITE_CORRUPT])


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    if _version(connection) == 0:
        for statement in STATEMENTS:
            connection.execute(statement)
    connection.execute("COMMIT")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
