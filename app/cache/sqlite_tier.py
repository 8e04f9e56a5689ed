"""Entries in an SQLite file. They outlive the process, and several processes may share them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from ..storage.cache_file import CacheFile

AT_ONCE = 500  # keys of one statement
PAGE = 4096
SHARE = 20  # entries are evicted each time that a twentieth of the limit was written
FRESH_SECONDS = 3600.0  # an entry's last use is updated if it is older than this


class Disk:
    """At most about ``limit`` bytes. The least recently used entries are evicted first.

    Reads run in the loop's own thread: a vector takes 16 us from the page cache, a thread would add 150 us.
    """

    def __init__(self, file: CacheFile, limit: int) -> None:
        self._file = file
        self._limit = limit
        self._written = limit  # bytes since the last eviction; the limit at first, as the file's size is unknown

    async def read(self, keys: Iterable[bytes], now: float) -> dict[bytes, tuple[bytes, float]]:
        found = {}
        rest = iter(keys)
        while some := list(islice(rest, AT_ONCE)):
            for key, value, expires, used in self._file.find(some, now):
                found[key] = (value, expires)
                if used < now - FRESH_SECONDS:
                    self._file.use(key, now)
        return found

    def write(self, values: Mapping[bytes, bytes], now: float, expires: float) -> None:
        for key, value in values.items():
            size = occupied(value)
            self._file.keep(key, value, size, now, expires)
            self._written += size
        if self._written * SHARE >= self._limit:
            self._written = 0
            self._file.evict(self._limit - self._limit // SHARE, now)

    async def aclose(self) -> None:
        self._file.close()


def occupied(value: bytes) -> int:
    """The bytes that a value takes in the file: whole pages for a value that does not fit beside its row, and the row
    in its indexes."""
    return (len(value) // (PAGE - 4) + 1) * PAGE + 256
