"""The errors of a store: what SQLite's driver and ours of PostgreSQL raise, and StoreError, which has no secrets."""

from __future__ import annotations

import sqlite3

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
    None,  # an error of Python: the row has a value for which the database has no type
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_TOOBIG,
)


class StoreError(Exception):
    """The store cannot be used as our database, and is left as it is. The message names no file and no server."""


class NoFile(StoreError):
    """There is no file that can be opened, and none can be created."""


class PostgresError(Exception):
    """An error of PostgreSQL or of the way to it; the message has no values, addresses or passwords.

    ``of_row``: a row has a value that no table can have. ``passing``: it may be gone at the next try, as if the server
    restarts. ``unknown``: the transaction may have been committed, or not.
    """

    def __init__(self, message: str, *, of_row: bool = False, passing: bool = False, unknown: bool = False) -> None:
        super().__init__(message)
        self.of_row, self.passing, self.unknown = of_row, passing, unknown


DRIVER_ERRORS = (sqlite3.Error, PostgresError)  # that a connection raises


def code(error: BaseException | None) -> int | None:
    """SQLite's primary result code; None for an error that is not SQLite's."""
    found = getattr(error, "sqlite_errorcode", None)
    return None if found is None else found & 0xFF


def is_of_row(error: BaseException) -> bool:
    """True if one of the rows is at fault."""
    return error.of_row if isinstance(error, PostgresError) else code(error) in OF_A_ROW


def is_passing(error: BaseException) -> bool:
    """True if a later try may succeed, with nothing changed by the operator."""
    return error.passing if isinstance(error, PostgresError) else code(error) in PASSING


def error_of(code: int) -> sqlite3.OperationalError:
    """An error with this code, which another process had."""
    error = sqlite3.OperationalError()
    error.sqlite_errorcode = code
    error.sqlite_errorname = f"SQLite's error {code}"
    return error


def reason(error: BaseException) -> str:
    """Why the store cannot be used, without a path or a row's values. For an OSError it is the system's text."""
    if isinstance(error, PostgresError):
        return str(error)
    known = WORDS.get(code(error) or sqlite3.SQLITE_OK) or getattr(error, "strerror", None)
    return known or f"it cannot be used ({getattr(error, 'sqlite_errorname', type(error).__name__)})"


def store_error(error: BaseException) -> StoreError:
    """The error as a StoreError, whose message has no path and no row's values."""
    if isinstance(error, StoreError):
        return error
    return (NoFile if code(error) in UNREACHABLE else StoreError)(reason(error))
