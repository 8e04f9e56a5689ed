"""Sums by bucket and group, collected from several queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Collected:
    """Rows of a bucket, ``groups`` values and the sums. A report has thousands of rows, nearly all from one query, so
    these stay as the driver gave them, and no more objects are made of them than needed."""

    def __init__(self, groups: int) -> None:
        self._keys = groups + 1
        self._rows: Sequence[tuple[Any, ...]] = ()
        self._more: dict[tuple[Any, ...], list[float]] = {}

    def add(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows that name each bucket and group once."""
        if self._rows:
            for row in rows:
                self.count(row[: self._keys], row[self._keys :], 1)
        else:
            self._rows = rows

    def count(self, key: tuple[Any, ...], sums: Sequence[float], sign: int) -> None:
        """``key``: the bucket and the groups' values."""
        before = self._more.get(key)
        if before is None:
            self._more[key] = [sign * value for value in sums]
        else:
            for place, value in enumerate(sums):
                before[place] += sign * value

    def rows(self) -> list[tuple[Any, ...]]:
        """One row for each bucket and group, in their order. Those whose sums are all 0 are left out: their rows were
        taken away again, or belong to the bucket beside."""
        keys = self._keys
        more = dict(self._more)
        found = []
        for row in self._rows:
            if more and (added := more.pop(row[:keys], None)) is not None:
                row = (*row[:keys], *(a + b for a, b in zip(row[keys:], added, strict=True)))
            if any(row[keys:]):
                found.append(row)
        found += [(*key, *sums) for key, sums in more.items() if any(sums)]
        found.sort()  # no two have the same bucket and groups, so that sums are never compared
        return found
