"""The ledger on its way to a connection: a file made and examined, either database opened."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Literal, cast

from . import files, migrations
from .connection import StoreConnection
from .errors import DRIVER_ERRORS, WORDS, NoFile, StoreError, reason, store_error
from .location import Location, Postgres
from .new_file import STATEMENTS, VERSION
from .sqlite import SqliteConnection, write_ahead

logger = logging.getLogger("torii.store")

BUSY_SECONDS = 5.0  # to wait for another program's lock
CHECK_SECONDS = 0.3  # for the check of the file when it is opened
TABLES = {name for statement in STATEMENTS for name in re.findall(r"^CREATE TABLE (\w+)", statement)}


def connect(
    location: Location, mode: Literal["ro", "rw"], seconds: float, *, any_thread: bool = False
) -> StoreConnection:
    """A connection to a database that is there. Waits ``seconds`` for another program's lock on a file, or for each
    answer of a server. Raises DRIVER_ERRORS."""
    if isinstance(location, Path):
        return open_file(location, mode, seconds, any_thread=any_thread)
    from .postgres.connection import PostgresConnection

    return PostgresConnection(location, seconds=seconds)


def open_file(path: Path, mode: Literal["ro", "rw"], seconds: float, *, any_thread: bool = False) -> SqliteConnection:
    """The same for a file. Raises sqlite3.Error."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(
        *(uri, seconds),
        uri=True,
        isolation_level=None,
        check_same_thread=not any_thread,
        factory=SqliteConnection,
    )


def open_ledger(
    path: Path, busy_seconds: float, migration_seconds: float, *, examined: bool
) -> tuple[SqliteConnection, str]:
    """The connection of a writer to a file with all tables of this version, which is created if there is none; and
    from and to which version the file was migrated, in words. Another process may be doing the same.

    Waits ``busy_seconds`` for another program's lock, a migration ``migration_seconds``. ``examined``: a damaged file
    is refused. Raises sqlite3.Error, OSError and StoreError.
    """
    make_file(path)
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, factory=SqliteConnection)
    try:
        if connection.version() and examined:
            examine(connection)
        write_ahead(connection, busy_seconds)
        connection.execute("PRAGMA synchronous=NORMAL")
        if connection.version() == 0:
            create(connection)
        migrated, before = "", connection.version()
        if before < VERSION:
            migrations.run(path, migration_seconds, done=lambda: connection.version() == VERSION)
            migrated = f"migrated from version {before} to {VERSION}"
            logger.info("the ledger's file was %s", migrated)
        if not complete(connection):
            raise StoreError("its tables are missing")
    except BaseException:
        connection.close()
        raise
    return connection, migrated


def open_server(location: Postgres) -> StoreConnection:
    """The connection of a writer, to a database that has all tables of this version. Raises PostgresError, and
    StoreError for another database."""
    from .postgres.connection import PostgresConnection

    connection = PostgresConnection(location)
    try:
        refuse_other(connection)
        connection.begin()
        connection.mark()
        connection.send()  # fails if it is read-only
        connection.rollback()
    except BaseException:
        connection.close()
        raise
    return connection


def refuse_other(connection: StoreConnection) -> None:
    """Raises StoreError unless the database is ours and of this version."""
    version = connection.version()
    if version == 0 and connection.remote:
        raise StoreError("it has no tables yet; `torii db upgrade` creates them")
    if version != VERSION:
        raise StoreError(f"it is of version {version}; `torii db upgrade` brings it to {VERSION}")


def current(connection: StoreConnection) -> bool:
    """True if the database is ours and of this version."""
    try:
        return connection.version() == VERSION
    except StoreError:
        return False


@contextmanager
def reading(location: Location) -> Iterator[StoreConnection]:
    """A connection for reading, to a database of this version or an older one. Raises StoreError, NoFile without a
    file."""
    try:
        with _readable(location) as connection:
            if connection.version() == 0 and connection.remote:
                refuse_other(connection)
            yield connection
    except DRIVER_ERRORS as error:
        raise store_error(error) from None


@contextmanager
def reading_file(path: Path) -> Iterator[SqliteConnection]:
    """The same for a file."""
    with reading(path) as connection:
        yield cast("SqliteConnection", connection)


def _readable(location: Location) -> AbstractContextManager[StoreConnection]:
    if isinstance(location, Path):
        _find(location)
        return closing(open_file(location, "ro", BUSY_SECONDS))
    from .postgres.pool import pool

    return pool(location).connection()


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


def create(connection: StoreConnection) -> None:
    """Creates our tables in an empty file."""
    connection.begin()
    if connection.version() == 0:
        for statement in STATEMENTS:
            connection.execute(statement)
    connection.commit()


def complete(connection: StoreConnection) -> bool:
    """True if the database has all tables of this version."""
    return connection.tables() >= TABLES


def identity(location: Location) -> tuple[int, int] | None:
    """Which file is at the path, or which server; None for none."""
    if not isinstance(location, Path):
        return 0, 0
    try:
        found = os.stat(location)
    except OSError:
        return None
    return found.st_dev, found.st_ino
