"""Entries in the memory of this process. The least recently used is evicted first."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from .entries import CacheEntry

OVERHEAD = 400  # bytes of an entry besides its values: the key, the objects, its slot in the table, fragmentation


class MemoryEntry(msgspec.Struct, eq=False):
    """``form`` is an encoded form of the entry, made once and evicted with it. ``size`` is of all, in bytes."""

    entry: CacheEntry
    expires: float
    size: int
    form: bytes = b""


class Memory:
    """At most ``limit`` bytes. ``now`` and ``expires`` are on one clock, which the caller chooses."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[bytes, MemoryEntry] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: float) -> CacheEntry | None:
        held = self._entries.get(key)
        if held is None:
            return None
        if held.expires <= now:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return held.entry

    def put(self, key: bytes, entry: CacheEntry, expires: float) -> None:
        if key in self._entries:
            self._drop(key)
        held = MemoryEntry(entry, expires, entry.size + OVERHEAD)
        if held.size <= self._limit:
            self._entries[key] = held
            self.size += held.size
            self._make_room()

    def form(self, key: bytes) -> bytes:
        """The encoded form; empty if none was made."""
        held = self._entries.get(key)
        return held.form if held else b""

    def add_form(self, key: bytes, form: bytes) -> None:
        if (held := self._entries.get(key)) is not None and not held.form:
            held.form = form
            held.size += len(form)
            self.size += len(form)
            self._make_room()

    def _make_room(self) -> None:
        while self.size > self._limit:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        self.size -= self._entries.pop(key).size
