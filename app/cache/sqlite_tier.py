"""Entries in a database: they outlive the process, and several processes share them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

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
READ = "SELECT key, value, expires, used FROM entries WHERE expires > ? AND key IN ({})"
WRITE = """INSERT INTO entries (key, size, expires, used, value) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET size = excluded.size, expires = excluded.expires, used = excluded.used,
    value = excluded.value"""
USE = "UPDATE entries SET used = ? WHERE key = ?"
END = "DELETE FROM entries WHERE expires <= ?"
EVICT = """DELETE FROM entries WHERE id IN (SELECT id FROM
    (SELECT id, SUM(size) OVER (ORDER BY used DESC, id DESC) AS together FROM entries) WHERE together > ?)"""

AT_ONCE = 500  # keys of one statement
PAGE = 4096
SHARE = 20  # room is made each time that a twentieth of the limit was written
FRESH_SECONDS = 3600.0  # a use is written down where the last one is longer ago


class Database(Protocol):
    """``write`` only puts the statement in line, in order; neither of the two raises."""

    def read(self, statement: str, parameters: Sequence[Any]) -> list[Any]: ...
    def write(self, statement: str, row: Sequence[Any]) -> None: ...
    def close(self) -> None: ...


class Disk:
    """At most about ``limit`` bytes; what was not used for the longest time makes room.

    Reading is done in the loop's own thread: a vector costs 16 us from the system's memory, a thread 150 us more.
    """

    def __init__(self, database: Database, limit: int) -> None:
        self._database = database
        self._limit = limit
        self._unseen = limit  # bytes written since room was made; of what is there already, nothing is known

    async def read(self, keys: Iterable[bytes], now: float) -> dict[bytes, tuple[bytes, float]]:
        found = {}
        rest = iter(keys)
        while some := list(islice(rest, AT_ONCE)):
            statement = READ.format(",".join("?" * len(some)))
            for key, value, expires, used in self._database.read(statement, (now, *some)):
                found[key] = (value, expires)
                if used < now - FRESH_SECONDS:
                    self._database.write(USE, (now, key))
        return found

    def write(self, values: Mapping[bytes, bytes], now: float, expires: float) -> None:
        for key, value in values.items():
            size = occupied(value)
            self._database.write(WRITE, (key, size, expires, now, value))
            self._unseen += size
        if self._unseen * SHARE >= self._limit:
            self._unseen = 0
            self._database.write(END, (now,))
            self._database.write(EVICT, (self._limit - self._limit // SHARE,))

    async def aclose(self) -> None:
        self._database.close()


def occupied(value: bytes) -> int:
    """Bytes of the file: whole pages for what does not fit beside its row, and the row in its indexes."""
    return (len(value) // (PAGE - 4) + 1) * PAGE + 256
