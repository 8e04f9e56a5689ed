"""Shared by the ledger's file and the cache's: SQLite's write-ahead log, and texts for its errors."""

from __future__ import annotations

import sqlite3
import time

PAUSE_SECONDS = 0.002

WORDS = {
    sqlite3.SQLITE_BUSY: "another program has locked it",
    sqlite3.SQLITE_LOCKED: "another program has locked it",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk cannot be written",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_PERM: "it cannot be opened",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is damaged, or is not a database",
}
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
UNREACHABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
OF_A_ROW = (
    None,  # an error of Python: the row has a value for which SQLite has no type
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_TOOBIG,
)


class StoreError(Exception):
    """The file cannot be used as our database, and is left as it is. The message names no file."""


class NoFile(StoreError):
    """There is no file that can be opened, and none can be created."""


def code(error: BaseException | None) -> int | None:
    """SQLite's primary result code; None for an error that is not SQLite's."""
    found = getattr(error, "sqlite_errorcode", None)
    return None if found is None else found & 0xFF


def error_of(code: int) -> sqlite3.OperationalError:
    """An error with this code, which another process had."""
    error = sqlite3.OperationalError()
    error.sqlite_errorcode = code
    error.sqlite_errorname = f"SQLite's error {code}"
    return error


def reason(error: BaseException) -> str:
    """Why the file cannot be used, without a path or a row's values. For an OSError it is the system's text."""
    known = WORDS.get(code(error) or sqlite3.SQLITE_OK) or getattr(error, "strerror", None)
    return known or f"it cannot be used ({getattr(error, 'sqlite_errorname', type(error).__name__)})"


def store_error(error: BaseException) -> StoreError:
    """The error as a StoreError, whose message has no path and no row's values."""
    if isinstance(error, StoreError):
        return error
    return (NoFile if code(error) in UNREACHABLE else StoreError)(reason(error))


def write_ahead(connection: sqlite3.Connection, busy_seconds: float) -> None:
    """Turns on the write-ahead log, the one mode in which readers and a writer of a file do not block each other.

    Raises sqlite3.OperationalError if the file stays locked for ``busy_seconds``. SQLite calls no busy handler if two
    connections turn the log on at the same moment: one of them fails at once, so this function does the waiting.
    """
    until = time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
        time.sleep(PAUSE_SECONDS)  # noqa: TID251 - the busy handler sleeps too, while a file is opened
