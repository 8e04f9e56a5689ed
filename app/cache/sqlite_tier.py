"""Entries in a file: they outlive the process, and several processes share them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from ..storage.cache_file import CacheFile

AT_ONCE = 500  # keys of one statement
PAGE = 4096
SHARE = 20  # room is made each time that a twentieth of the limit was written
FRESH_SECONDS = 3600.0  # a use is written down where the last one is longer ago


class Disk:
    """At most about ``limit`` bytes; what was not used for the longest time makes room.

    Reading is done in the loop's own thread: a vector costs 16 us from the system's memory, a thread 150 us more.
    """

    def __init__(self, file: CacheFile, limit: int) -> None:
        self._file = file
        self._limit = limit
        self._written = limit  # bytes written since room was made; of what is there already, nothing is known

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
    """Bytes of the file: whole pages for what does not fit beside its row, and the row in its indexes."""
    return (len(value) // (PAGE - 4) + 1) * PAGE + 256
