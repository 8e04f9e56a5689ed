"""Copies of the ledger's file, made by SQLite itself: whole and of one moment, even while gateways write."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from . import opening
from .connection import StoreConnection
from .errors import StoreError, store_error

RESTORE_SECONDS = 5.0  # to wait for a gateway that writes
COUNT = "SELECT (SELECT count(*) FROM keys), (SELECT count(*) FROM calls)"


class Contents(NamedTuple):
    """The numbers of a ledger's keys and of its rows."""

    keys: int
    rows: int


def contents(path: Path) -> Contents:
    """Raises StoreError, also for a file of an older version; NoFile without a file."""
    with opening.reading_file(path) as connection:
        _same_version(connection)
        return Contents(*connection.execute(COUNT).fetchone())


def back_up(path: Path, copy: Path) -> Contents:
    """Writes the ledger at ``path`` to a new file ``copy``, for its owner alone. Raises StoreError, NoFile without a
    ledger, and FileExistsError if there is a file at ``copy`` already."""
    with opening.reading_file(path) as source:
        if copy.exists():
            raise FileExistsError(copy)
        opening.make_file(copy)
        try:
            with closing(opening.open_file(copy, "rw", 0)) as target:
                source.backup(target)
                target.execute("PRAGMA journal_mode = DELETE")  # one file, without others beside it
        except BaseException:
            copy.unlink(missing_ok=True)
            raise
    return contents(copy)


def restore(copy: Path, path: Path) -> Contents:
    """Puts the contents of ``copy`` in place of those of the ledger at ``path``, in one transaction. Raises StoreError
    if either is no sound ledger of this version, or if another program keeps the ledger locked."""
    found = contents(copy)
    opening.make_file(path)
    try:
        with opening.reading_file(copy) as source, closing(opening.open_file(path, "rw", RESTORE_SECONDS)) as target:
            if source.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise StoreError("the file is damaged")
            target.version()
            source.backup(target)
    except sqlite3.Error as error:
        raise store_error(error) from None
    return found


def _same_version(connection: StoreConnection) -> None:
    if not opening.current(connection):
        raise StoreError("it was written by an older Torii; `torii db upgrade` brings it to the version of this one")
