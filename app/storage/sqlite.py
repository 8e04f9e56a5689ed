"""Connections to an SQLite file: the ledger's and the cache's."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from .errors import StoreError, code
from .new_file import APPLICATION, VERSION

PAUSE_SECONDS = 0.002

# One statement, so that the three values are of one moment: another process may be creating the file.
HEADER = """
    SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)
    FROM pragma_application_id, pragma_user_version"""


class SqliteConnection(sqlite3.Connection):
    """SQLite's own, with the methods of ``connection.Connection``."""

    dialect = "sqlite://"
    remote = False
    number = 0  # a commit has an answer

    def committed(self, number: int) -> bool | None:
        return None

    @property
    def driver(self) -> SqliteConnection:
        return self

    def begin(self) -> None:
        self.execute("BEGIN IMMEDIATE")

    def snapshot(self) -> None:
        self.execute("BEGIN")

    def attempt(self, statement: str, row: Sequence[Any]) -> None:
        self.execute(statement, row)  # a statement that fails leaves no trace, and the transaction as it was

    def seen(self) -> int:
        ((version,),) = self.execute("PRAGMA data_version").fetchall()
        return int(version)

    def mark(self) -> None:
        """Nothing: SQLite counts by itself."""

    def announce(self, channel: str) -> None:
        """Nothing: the others look at the file."""

    def version(self) -> int:
        ((application, version, tables),) = self.execute(HEADER).fetchall()
        if application != APPLICATION and (application or version or tables):
            raise StoreError("it belongs to another program")
        return known(version)

    def tables(self) -> set[str]:
        return {name for (name,) in self.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def known(version: int) -> int:
    """The version. Raises StoreError if it is newer than this Torii."""
    if version > VERSION:
        raise StoreError(f"a newer Torii wrote it (version {version}; this Torii knows up to {VERSION})")
    return version


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
