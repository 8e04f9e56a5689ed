"""The database: one SQLite file, written by one thread beside the calls, read on short connections.

    write -> queue -> the writer: one transaction for all that came within FLUSH_SECONDS -> the file

Nobody waits for a write. While the file cannot be written (locked, disk full) rows wait in the queue and
are tried again; what does not fit there is lost, and counted. Several processes may have the file open.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import make
from .sqlite import WORDS, code, words, write_ahead

logger = logging.getLogger("torii.store")

BUSY_SECONDS = 5.0  # to wait for another program's lock
FLUSH_SECONDS = 0.25  # what a killed process may lose
LONGEST_PAUSE = 5.0  # between two tries to write
CHECK_SECONDS = 0.3  # for looking whether the file is sound, when it is opened
ROOM = 10_000  # rows that may wait
BATCH = 1000  # rows of one transaction

Row = tuple[Any, ...]

# The statements that each version adds. A version that has been out is never changed; the next one is.
VERSIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE calls (
            id INTEGER PRIMARY KEY,
            time INTEGER NOT NULL,
            caller TEXT NOT NULL,
            endpoint TEXT NOT NULL,
            model TEXT NOT NULL,
            upstream TEXT NOT NULL,
            upstream_model TEXT NOT NULL,
            key TEXT NOT NULL,
            status INTEGER NOT NULL,
            error TEXT,
            prompt_tokens INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            total_tokens INTEGER NOT NULL,
            estimated INTEGER NOT NULL,
            seconds REAL NOT NULL,
            first_event_seconds REAL,
            attempts INTEGER NOT NULL,
            request_id TEXT NOT NULL
        )""",
        "CREATE INDEX calls_by_time ON calls (time)",
    ),
    (
        """CREATE TABLE key_rests (
            upstream TEXT NOT NULL,
            fingerprint TEXT NOT NULL,
            alias TEXT NOT NULL,
            cause TEXT NOT NULL,
            until REAL NOT NULL,
            PRIMARY KEY (upstream, fingerprint)
        ) WITHOUT ROWID""",
    ),
)
APPLICATION = 0x546F7269  # "Tori", by which SQLite's header says whose file it is
# In one statement, for it is one look at the file: another process may be making it.
HEADER = """
    SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)
    FROM pragma_application_id, pragma_user_version"""


class StoreError(Exception):
    """A file that is no database of ours, and is left as it is; the message names no file."""


class NoFile(StoreError):
    """There is no such file, and none can be made there."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """The reason why the database cannot be written, and the numbers of rows that wait and that were lost."""

    what: str
    waiting: int
    lost: int


class Database:
    """Opened when made: raises StoreError where the file is not ours, is damaged or cannot be.

    What passes (a lock, a full disk) is no reason not to start. ``close`` writes what waits.
    """

    def __init__(
        self, path: Path, *, busy_seconds: float = BUSY_SECONDS, flush_seconds: float = FLUSH_SECONDS, room: int = ROOM
    ) -> None:
        self.path = path
        self._busy_seconds = busy_seconds
        self._flush_seconds = flush_seconds
        self._room = room
        self._rows: deque[tuple[str, Row]] = deque()
        self._lost = 0
        self._full = False
        self._trouble: str | None = None
        self._arrived, self._closing = threading.Event(), threading.Event()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        try:
            _opened(path, busy_seconds).close()
            self._file = _identity(path)
        except sqlite3.DatabaseError as error:
            if not _passes(error):
                raise _meaning(error) from None
            self._stumble(error)
        self._thread = threading.Thread(target=self._work, name="torii-store", daemon=True)
        self._thread.start()

    def write(self, statement: str, row: Row) -> None:
        """Sees to it that the statement is carried out soon. Never waits, never raises."""
        if self._closing.is_set() or self.waiting >= self._room:
            self._lose()
            return
        self._rows.append((statement, row))
        if not self._arrived.is_set():
            self._arrived.set()

    def read(self, statement: str, parameters: Row = ()) -> list[Row]:
        """The rows of what has been written to the file. Raises StoreError."""
        return read(self.path, statement, parameters)

    @property
    def waiting(self) -> int:
        """Rows that are not in the file yet."""
        return len(self._rows)

    @property
    def health(self) -> Trouble | None:
        """None where all is well."""
        what = self._trouble
        return Trouble(what, self.waiting, self._lost) if what else None

    def close(self) -> None:
        """Writes what waits, if that can be done in the time that another's lock is waited for; takes no more."""
        self._closing.set()
        self._arrived.set()
        self._thread.join(self._busy_seconds + 1)
        if self.waiting:
            logger.error("the database: %d rows could not be written before the end", self.waiting)

    def _work(self) -> None:
        """The writer's life. It tries once more after it was told to end."""
        pause, last = self._flush_seconds, False
        while not last:
            self._arrived.wait()
            self._arrived.clear()
            self._closing.wait(pause)
            last = self._closing.is_set()
            try:
                self._flush()
                pause = self._flush_seconds
            except (sqlite3.Error, OSError, StoreError) as error:
                self._disconnect()
                self._file = None  # to be examined anew
                self._stumble(error)
                pause = min(2 * pause, LONGEST_PAUSE)
                self._arrived.set()
        self._disconnect()

    def _flush(self) -> None:
        """A row stays in the queue until it is in the file."""
        while self._rows:
            batch = [self._rows[place] for place in range(min(len(self._rows), BATCH))]
            self._commit(self._connected(), batch)
            for _ in batch:
                self._rows.popleft()
            self._recover()

    def _commit(self, connection: sqlite3.Connection, batch: list[tuple[str, Row]]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for statement, row in batch:
            try:
                connection.execute(statement, row)
            except (sqlite3.Error, ValueError, OverflowError) as error:
                if not _is_of_the_row(error):
                    raise
                self._lost += 1
                logger.error("the database: a row cannot be written: %s", type(error).__name__)
        connection.execute("COMMIT")

    def _connected(self) -> sqlite3.Connection:
        """The connection to the file that is there now: somebody may have removed the one that was."""
        known = self._file == _identity(self.path)
        if self._connection is not None and not known:
            self._disconnect()
        if self._connection is None:
            self._connection = _opened(self.path, self._busy_seconds, examine=not known)
            self._file = _identity(self.path)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _stumble(self, error: Exception) -> None:
        what = str(_meaning(error))
        if what != self._trouble:
            self._trouble = what
            logger.error("the database cannot be written: %s; rows wait in memory", what)

    def _recover(self) -> None:
        self._full = False
        if self._trouble is not None:
            self._trouble = None
            logger.warning("the database is written again; %d rows were lost", self._lost)

    def _lose(self) -> None:
        if not self._full:
            self._full = True
            logger.error("the database: the queue of rows is full; further rows are lost")
        self._lost += 1


def read(path: Path, statement: str, parameters: Row = ()) -> list[Row]:
    """The rows, on a connection for them alone. Raises StoreError, and NoFile where there is none."""
    if not path.is_file():
        raise NoFile("there is no such file")
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            _version(connection)
            return connection.execute(statement, parameters).fetchall()
    except sqlite3.Error as error:
        raise _meaning(error) from None


def _opened(path: Path, busy_seconds: float, *, examine: bool = True) -> sqlite3.Connection:
    """A connection to the file, which is made where there is none, with all our tables in it."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Who called what is nobody's business on this machine; SQLite gives its other files the same mode.
        make(path)
    except FileExistsError:
        raise NoFile("its folder is not a folder") from None
    except OSError as error:
        raise NoFile(error.strerror or type(error).__name__) from None
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None)
    try:
        if _version(connection) and examine:
            _examine(connection)
        write_ahead(connection, busy_seconds)
        connection.execute("PRAGMA synchronous=NORMAL")
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection) -> int:
    """Of our tables in the file; 0 of an empty one. Raises StoreError where it is not ours or newer than this Torii."""
    ((application, version, tables),) = connection.execute(HEADER).fetchall()
    if application != APPLICATION and (application or version or tables):
        raise StoreError("it belongs to another program")
    if version > len(VERSIONS):
        raise StoreError(f"a newer Torii wrote it (version {version}; this Torii knows up to {len(VERSIONS)})")
    return int(version)


def _examine(connection: sqlite3.Connection) -> None:
    """Raises StoreError where the file is damaged, as far as that is seen in the time that there is."""
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


def _migrate(connection: sqlite3.Connection) -> None:
    """Adds the versions that are not there yet; another process may be about to do the same."""
    if _version(connection) == len(VERSIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    for statements in VERSIONS[_version(connection) :]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {len(VERSIONS)}")
    connection.execute("COMMIT")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


_PASSES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
_UNREACHABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
_OF_THE_ROW = (
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_TOOBIG,
)


def _passes(error: sqlite3.Error) -> bool:
    return code(error) in _PASSES


def _is_of_the_row(error: Exception) -> bool:
    """True if no other row would fail so: a row that can never be written must not hold up the others."""
    return code(error) in (None, *_OF_THE_ROW)


def _meaning(error: Exception) -> StoreError:
    """In words that hold no path and nothing of a row."""
    if isinstance(error, StoreError):
        return error
    return (NoFile if code(error) in _UNREACHABLE else StoreError)(words(error))
