"""Common parts of the ledger's file and the cache's: SQLite's write-ahead log, and its errors in our words."""

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
    None,  # an error of Python: the row holds what SQLite has no type for
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_TOOBIG,
)


class StoreError(Exception):
    """A file that is no database of ours, and is left as it is; the message names no file."""


class NoFile(StoreError):
    """There is no such file, and none can be made there."""


def code(error: BaseException | None) -> int | None:
    """SQLite's primary code; None of what it never saw."""
    found = getattr(error, "sqlite_errorcode", None)
    return None if found is None else found & 0xFF


def error_of(code: int) -> sqlite3.OperationalError:
    """The error that has this code, as another process had it."""
    error = sqlite3.OperationalError()
    error.sqlite_errorcode = code
    error.sqlite_errorname = f"SQLite's error {code}"
    return error


def reason(error: BaseException) -> str:
    """The reason why the file cannot be used, without a path and anything of a row. An OSError's is the system's."""
    known = WORDS.get(code(error) or sqlite3.SQLITE_OK) or getattr(error, "strerror", None)
    return known or f"it cannot be used ({getattr(error, 'sqlite_errorname', type(error).__name__)})"


def store_error(error: BaseException) -> StoreError:
    """The same as an error of ours, in words that hold no path and nothing of a row."""
    if isinstance(error, StoreError):
        return error
    return (NoFile if code(error) in UNREACHABLE else StoreError)(reason(error))


def write_ahead(connection: sqlite3.Connection, busy_seconds: float) -> None:
    """Turns the write-ahead log on, the one mode in which readers and a writer of a file do not wait for each other.
    Raises sqlite3.OperationalError where the file stays locked for so long.

    SQLite asks no busy handler where two connections turn it on in the same moment: one of them is told at once
    that the file is locked, so it is this function that waits.
    """
    until = time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
        time.sleep(PAUSE_SECONDS)  # noqa: TID251 - as the busy handler itself sleeps, where a file is opened
