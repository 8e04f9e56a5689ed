"""SQLite's write-ahead log: the one mode in which readers and a writer of a file do not wait for each other."""

from __future__ import annotations

import sqlite3
import time

PAUSE_SECONDS = 0.002


def write_ahead(connection: sqlite3.Connection, busy_seconds: float) -> None:
    """Turns it on. Raises sqlite3.OperationalError where the file stays locked for so long.

    SQLite asks no busy handler where two connections turn it on in the same moment: one of them is told at once
    that the file is locked, so it is this function that waits.
    """
    until = time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
        time.sleep(PAUSE_SECONDS)  # noqa: TID251 - as the busy handler itself sleeps, where a file is opened
