"""Reports on the ledger for the operator: totals, last calls, and periods of time. Times are UTC."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..core.types import Json
from ..storage.queries import GROUPED, SUMS, Span, first_time, last_calls, sums_of

GROUPS = tuple(GROUPED)
COUNTS = tuple(name for name in SUMS if name != "seconds")
_DAY = timedelta(days=1)
_UNITS = {"d": _DAY, "h": timedelta(hours=1), "m": timedelta(minutes=1)}


@dataclass(frozen=True, slots=True)
class Period:
    """Calls that came from ``since`` on and before ``until``; None is unbounded."""

    since: datetime | None = None
    until: datetime | None = None

    @property
    def span(self) -> Span:
        return Span(_milliseconds(self.since), _milliseconds(self.until))


def _milliseconds(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp() * 1000)


def totals(path: Path, period: Period, by: Sequence[str] = ()) -> list[Json]:
    """The totals of each group, those with the most tokens first, days in order; without ``by`` one for all calls.

    Raises StoreError, as do the other functions that read the ledger.
    """
    return [_whole(sums) for sums in sums_of(path, period.span, by)]


def calls(path: Path, period: Period, most: int) -> list[Json]:
    """The last ``most`` rows, the latest last."""
    found = reversed(last_calls(path, period.span, most))
    return [{**call, "time": moment(call["time"]), "estimated": bool(call["estimated"])} for call in found]


def first(path: Path) -> str | None:
    """The time of the first call; None for an empty ledger."""
    time = first_time(path)
    return None if time is None else moment(time)


def moment(milliseconds: int) -> str:
    """A Unix time in milliseconds as ISO 8601 in UTC."""
    text = datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def when(text: str, now: datetime, *, end: bool = False) -> datetime:
    """The time in ``text``: ``7d``, ``24h`` or ``30m`` before ``now``, or a date or time in UTC. A date as an ``end``
    includes the day.

    Raises ValueError with a message for the operator.
    """
    try:
        if ago := re.fullmatch(r"(\d{1,9})([dhm])", text):
            return now - int(ago[1]) * _UNITS[ago[2]]
        found = datetime.fromisoformat(text)
        found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        return found + _DAY if end and re.fullmatch(r"[\d-]{8,10}", text) else found
    except (ValueError, OverflowError):
        raise ValueError(
            "is not a time: use 7d, 24h or 30m before now, or 2026-11-01 or 2026-11-01T12:30 in UTC"
        ) from None


def _whole(sums: Json) -> Json:
    """The sums with counts as integers: the query sums floats, since integers might overflow."""
    counted: dict[str, Any] = {name: int(sums[name]) for name in COUNTS}
    return {**sums, **counted, "seconds": round(sums["seconds"] or 0.0, 3)}
