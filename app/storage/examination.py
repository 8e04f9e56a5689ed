"""The ledger's file examined as a whole, for `torii db check`. Reads every page, thus slow for a large file."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

from .connection import StoreConnection
from .ledger_file import reading
from .location import Location
from .new_file import VERSION

SHOWN = 20  # mistakes of the file


class Examination(NamedTuple):
    """``version`` is the file's, ``newest`` this Torii's. ``mistakes`` are in the database's words, none if it is
    sound."""

    version: int
    newest: int
    mistakes: list[str]


def examine(location: Location) -> Examination:
    """Raises StoreError if the file is none of ours, or cannot be read; NoFile without a file."""
    with reading(location) as connection:
        version = connection.version()
        if not isinstance(location, Path):
            return Examination(version, VERSION, _of_server(connection) if version == VERSION else [])
        try:
            found = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({SHOWN})")]
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
                raise
            found = ["the file is damaged"]
    return Examination(version, VERSION, [] if found == ["ok"] else found)


def _of_server(connection: StoreConnection) -> list[str]:
    from .postgres.tables import differences

    return differences(connection)
