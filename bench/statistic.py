"""Medians, percentiles and ratios of a handful of rounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` % of the values do not exceed. Raises IndexError without values."""
    ordered = sorted(values)
    at = max(0, -(-len(ordered) * percent // 100) - 1)
    return ordered[int(at)]


def ratio(ours: Iterable[float], theirs: Iterable[float]) -> Spread | None:
    """The ratios round by round, since only rounds side by side are comparable; None if no round has both."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=False) if other > 0]
    return spread(ratios) if ratios else None
