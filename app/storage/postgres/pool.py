"""Connections for reading that are kept open."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache

from ..errors import PostgresError
from ..location import Postgres
from .connection import PostgresConnection

READ_SECONDS = 5.0  # for one round trip of a report
AT_ONCE = 4  # connections of a process for reading
IDLE_SECONDS = 60.0  # after which a connection for reading is closed


class ConnectionPool:
    """Open connections for reading, AT_ONCE at most. Threads wait for their turn."""

    def __init__(self, location: Postgres) -> None:
        self._location = location
        self._turns = threading.BoundedSemaphore(AT_ONCE)
        self._idle: list[tuple[float, PostgresConnection]] = []  # and since when, of the monotonic clock

    @contextmanager
    def connection(self) -> Iterator[PostgresConnection]:
        """A connection that nobody else uses. Raises PostgresError."""
        if not self._turns.acquire(timeout=READ_SECONDS):
            raise PostgresError("all connections for reading are in use", passing=True)
        try:
            connection = self._taken() or PostgresConnection(self._location, seconds=READ_SECONDS)
            connection.driver.kept = True
            try:
                yield connection
                connection.rollback()
            except BaseException:
                connection.close()
                raise
            self._idle.append((time.monotonic(), connection))
        finally:
            self._turns.release()

    def _taken(self) -> PostgresConnection | None:
        """The connection that was used last, if it still works; those that were idle for long are closed."""
        broken = False
        with suppress(IndexError):
            while True:
                since, connection = self._idle.pop()
                if time.monotonic() - since < IDLE_SECONDS and not broken and connection.works():
                    return connection
                broken = True  # then so are those that were idle for longer
                connection.close()
        return None


@lru_cache(8)
def _pool(location: Postgres, process: int) -> ConnectionPool:
    return ConnectionPool(location)


def pool(location: Postgres) -> ConnectionPool:
    """This process's pool for the database."""
    return _pool(location, os.getpid())
