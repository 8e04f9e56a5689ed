"""The ledger's file on its way to a connection: made, examined, and opened for reading."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

from . import files
from .new_file import APPLICATION, STATEMENTS, VERSION
from .sqlite import WORDS, NoFile, StoreError, reason, store_error

BUSY_SECONDS = 5.0  # to wait for another program's lock
CHECK_SECONDS = 0.3  # for the check of the file when it is opened

# One statement, so that the three values are of one moment: another process may be creating the file.
HEADER = """
    SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)
    FROM pragma_application_id, pragma_user_version"""
TABLES = {name for statement in STATEMENTS for name in re.findall(r"^CREATE TABLE (\w+)", statement)}


def connect(path: Path, mode: Literal["ro", "rw"], seconds: float, *, any_thread: bool = False) -> sqlite3.Connection:
    """A connection without transactions of its own, to a file that is there. Waits ``seconds`` for another program's
    lock. Raises sqlite3.Error."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=seconds, isolation_level=None, check_same_thread=not any_thread)


def current(connection: sqlite3.Connection) -> bool:
    """True if the file is ours and of this version."""
    found = connection.execute("SELECT application_id, user_version FROM pragma_application_id, pragma_user_version")
    return bool(found.fetchone() == (APPLICATION, VERSION))


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection to a file of this version or an older one. Raises StoreError, NoFile without a file."""
    _find(path)
    try:
        with closing(connect(path, "ro", BUSY_SECONDS)) as connection:
            version(connection)
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


def make_file(path: Path) -> None:
    """Creates the file and its folder, if there is none. Raises NoFile."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Only the owner may read the calls. SQLite gives its other files the same mode.
        files.make(path)
    except FileExistsError:
        raise NoFile("its folder is not a folder") from None
    except OSError as error:
        raise NoFile(error.strerror or type(error).__name__) from None


def version(connection: sqlite3.Connection) -> int:
    """The version of our tables; 0 for an empty file. Raises StoreError for another program's or a newer file."""
    ((application, version, tables),) = connection.execute(HEADER).fetchall()
    if application != APPLICATION and (application or version or tables):
        raise StoreError("it belongs to another program")
    if version > VERSION:
        raise StoreError(f"a newer Torii wrote it (version {version}; this Torii knows up to {VERSION})")
    return int(version)


def examine(connection: sqlite3.Connection) -> None:
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


def create(connection: sqlite3.Connection) -> None:
    """Creates our tables in an empty file."""
    connection.execute("BEGIN IMMEDIATE")
    if version(connection) == 0:
        for statement in STATEMENTS:
            connection.execute(statement)
    connection.execute("COMMIT")


def complete(connection: sqlite3.Connection) -> bool:
    """True if the file has all tables of this version."""
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {name for (name,) in found} >= TABLES


def identity(path: Path) -> tuple[int, int] | None:
    """Which file is at the path; None for none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
