"""The cache's file: entries that may be lost, read in the caller's thread. A damaged file is replaced by a new one.

The table is no part of the ledger's schema and has no migrations: entries of another version are as good as lost.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from .connection import StoreConnection
from .errors import DAMAGE, code, reason
from .files import make
from .sqlite import SqliteConnection, write_ahead
from .writer import Policy, QueuedWriter, Statement

logger = logging.getLogger("torii.cache")

SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    size INTEGER NOT NULL,
    expires REAL NOT NULL,
    used REAL NOT NULL,
    value BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS by_key ON entries (key);
CREATE INDEX IF NOT EXISTS by_use ON entries (used, id, size);
CREATE INDEX IF NOT EXISTS by_end ON entries (expires);
"""
FIND = "SELECT key, value, expires, used FROM entries WHERE expires > ? AND key IN ({})"
KEEP = """INSERT INTO entries (key, size, expires, used, value) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET size = excluded.size, expires = excluded.expires, used = excluded.used,
    value = excluded.value"""
USE = "UPDATE entries SET used = ? WHERE key = ?"
END = "DELETE FROM entries WHERE expires <= ?"
EVICT = """DELETE FROM entries WHERE id IN (SELECT id FROM
    (SELECT id, SUM(size) OVER (ORDER BY used DESC, id DESC) AS together FROM entries) WHERE together > ?)"""

WRITE_BUSY_SECONDS = 5.0
READ_BUSY_SECONDS = 0.02
POLICY = Policy("torii-cache", keeps=False, room=2048, batch=512, gather_seconds=0.05)


class CacheFile(QueuedWriter):
    """The verbs never raise. Times are Unix times in seconds."""

    def __init__(self, path: Path) -> None:
        super().__init__(POLICY)
        self._path = path
        self._lock = threading.Lock()
        self._reader: SqliteConnection | None = None
        self._quiet = self._damaged = False
        try:
            self._connected()
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
        self._begin()

    def find(self, keys: Sequence[bytes], now: float) -> list[tuple[bytes, bytes, float, float]]:
        """``(key, value, expires, used)`` of each entry that is found; none if the file cannot be read."""
        statement = FIND.format(",".join("?" * len(keys)))
        with self._lock:
            if self._reader is None:
                return []
            try:
                return self._reader.execute(statement, (now, *keys)).fetchall()
            except sqlite3.Error as error:
                self._report("read", error)
                return []

    def keep(self, key: bytes, value: bytes, size: int, now: float, expires: float) -> None:
        """Queues an entry, which replaces one under the same key. ``size`` is in bytes."""
        self._write(KEEP, (key, size, expires, now, value))

    def use(self, key: bytes, now: float) -> None:
        """Queues the time of an entry's last use."""
        self._write(USE, (now, key))

    def evict(self, limit: int, now: float) -> None:
        """Queues the deletion of expired entries, then of the least recently used ones down to ``limit`` bytes."""
        self._write(END, (now,))
        self._write(EVICT, (limit,))

    def close(self) -> None:
        """Returns when all queued statements are written."""
        self._end(None)
        self._shut()

    def _connected(self) -> StoreConnection:
        if self._damaged:
            self._replace_damaged()
        if self._writer is None:
            try:
                self._writer = self._opened()
            except sqlite3.Error as error:
                if code(error) not in DAMAGE:
                    raise
                self._replace_damaged()
                self._writer = self._opened()
        return self._writer

    def _opened(self) -> SqliteConnection:
        """Opens the file, without the lock since it may wait for a locked file. Nothing new stays open if it raises."""
        make(self._path)
        writer = self._connection(WRITE_BUSY_SECONDS)
        try:
            write_ahead(writer, WRITE_BUSY_SECONDS)
            writer.execute("PRAGMA synchronous = OFF")  # a power cut may damage the file, but causes no wrong answer
            writer.executescript(SCHEMA)
            reader = self._reader or self._connection(READ_BUSY_SECONDS)
        except sqlite3.Error:
            writer.close()
            raise
        with self._lock:
            self._reader = reader
        return writer

    def _connection(self, busy_seconds: float) -> SqliteConnection:
        return sqlite3.connect(
            *(self._path, busy_seconds), isolation_level=None, check_same_thread=False, factory=SqliteConnection
        )

    def _shut(self) -> None:
        self._disconnect()
        with self._lock:
            if self._reader is not None:
                self._reader.close()
            self._reader = None

    def _replace_damaged(self) -> None:
        """Sets a damaged file aside, over an earlier one. The next opening creates a new file."""
        self._shut()
        self._damaged = False  # if the file cannot be set aside, the damage is soon found again
        aside = self._path.with_name(f"{self._path.name}.damaged")
        self._path.replace(aside)
        for end in ("-wal", "-shm"):
            self._path.with_name(self._path.name + end).unlink(missing_ok=True)
        logger.warning("the cache file %s was damaged; it is now %s, and a new file was created", self._path, aside)

    def _failed(self, error: Exception) -> None:
        self._report("opened" if self._reader is None else "written", error)

    def _succeeded(self) -> None:
        self._quiet = False

    def _overflowed(self, item: Statement) -> None:
        """The entry is lost, which the cache may do."""

    def _report(self, what: str, error: Exception) -> None:
        if code(error) in DAMAGE:
            self._damaged = True
            self._write(END, (0.0,))  # wakes the thread, which replaces the file
        elif not self._quiet:
            self._quiet = True
            logger.warning("the cache file %s cannot be %s: %s; calls bypass the file", self._path, what, reason(error))
