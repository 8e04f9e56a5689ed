"""Entries in this process. What was not used for the longest time makes room."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from .entries import CacheEntry

OVERHEAD = 400  # bytes of an entry beside itself: the key, the place, its place in the table, what is lost between


@dataclass(slots=True)
class Place:
    """``form`` is something made of the entry, to be made once; it goes with it. ``size`` is of all together."""

    entry: CacheEntry
    expires: float
    size: int
    form: bytes = b""


class Memory:
    """At most ``limit`` bytes. Times are given by whoever calls."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places: OrderedDict[bytes, Place] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: bytes, now: float) -> CacheEntry | None:
        place = self._places.get(key)
        if place is None:
            return None
        if place.expires <= now:
            self._drop(key)
            return None
        self._places.move_to_end(key)
        return place.entry

    def put(self, key: bytes, entry: CacheEntry, expires: float) -> None:
        if key in self._places:
            self._drop(key)
        place = Place(entry, expires, entry.size + OVERHEAD)
        if place.size <= self._limit:
            self._places[key] = place
            self.size += place.size
            self._make_room()

    def form(self, key: bytes) -> bytes:
        """Empty where none was made."""
        place = self._places.get(key)
        return place.form if place else b""

    def add_form(self, key: bytes, form: bytes) -> None:
        if (place := self._places.get(key)) is not None and not place.form:
            place.form = form
            place.size += len(form)
            self.size += len(form)
            self._make_room()

    def _make_room(self) -> None:
        while self.size > self._limit:
            self._drop(next(iter(self._places)))

    def _drop(self, key: bytes) -> None:
        self.size -= self._places.pop(key).size
