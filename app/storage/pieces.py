"""The rows of a table of running sums that make the buckets of a report. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Piece(NamedTuple, Generic[T]):
    """A part of the days from ``first`` to ``last``, to be added (``sign`` 1) or taken away (-1). Each day belongs to
    the bucket of its own number less ``shift``, or all to the bucket ``number``."""

    first: int
    last: int
    part: T
    sign: int = 1
    shift: int = 0
    number: int | None = None


def whole(days: Sequence[int], part: T) -> Iterator[Piece[T]]:
    """Whole days, from the day of each bound on and before the next bound's. ``part`` is that of a whole day."""
    first = 0
    for number in range(1, len(days)):
        length = days[number] - days[number - 1]
        if length == 1 and number + 1 < len(days) and days[number + 1] - days[number] == 1:
            continue  # so does the next bucket
        if length == 1:
            yield Piece(days[first], days[number] - 1, part, shift=days[first] - first)
        elif length:
            yield Piece(days[number - 1], days[number] - 1, part, number=number - 1)
        first = number


def parts(places: Sequence[tuple[int, T | None]]) -> Iterator[Piece[T]]:
    """The part of a day before each bound, None at its midnight: it belongs to the bucket that ends there, and not to
    the one that begins there. Bounds at the same time of consecutive days in UTC, as midnights of a zone between two
    changes of the clock, are one piece."""
    first = 0
    for number in range(1, len(places) + 1):
        day, part = places[number - 1]
        if number < len(places) and places[number] == (day + 1, part):
            continue
        shift = places[first][0] - first
        ending, beginning = max(first, 1), min(number, len(places) - 1)
        if part is not None and ending < number:
            yield Piece(ending + shift, number - 1 + shift, part, 1, shift + 1)
        if part is not None and first < beginning:
            yield Piece(first + shift, beginning - 1 + shift, part, -1, shift)
        first = number
