"""Reports on the ledger for the operator: totals, last calls, and periods of time. Times are UTC."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..core.types import Json
from ..storage.queries import GROUPED, OF_UPSTREAMS, Span, first_time, last_calls, sums_of

GROUPS = GROUPED
NANO = 1_000_000_000
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

    ``calls`` are callers' calls, of which the cache answered ``cached``. By upstream or its key they are the calls that
    asked it: a call that went to two upstreams counts in both, a cached one in none. ``cost`` is in dollars.

    Raises StoreError, as do the other functions that read the ledger.
    """
    of_upstreams = not OF_UPSTREAMS.isdisjoint(by)
    found = [
        {**{name: sums[name] for name in by}, **_whole(sums, of_upstreams)} for sums in sums_of(path, period.span, by)
    ]
    if by and by[0] == "day":
        return sorted(found, key=lambda row: str(row["day"]))
    return sorted(found, key=lambda row: (-row["total_tokens"], -row["calls"], str(by and row[by[0]])))


def calls(path: Path, period: Period, most: int) -> list[Json]:
    """The last ``most`` rows, the latest last."""
    found = reversed(last_calls(path, period.span, most))
    return [_call(call) for call in found]


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


def dollars(nano: int) -> str:
    """Nano-dollars as a decimal string of dollars, without needless zeros."""
    whole, rest = divmod(abs(nano), NANO)
    text = f"{whole}.{rest:09}".rstrip("0").rstrip(".")
    return f"-{text}" if nano < 0 else text


def _call(row: Json) -> Json:
    cost = None if row["cost"] is None else dollars(row["cost"])
    flags = {"estimated": bool(row["estimated"]), "stream": bool(row["stream"])}
    return {**row, "time": moment(row["time"]), "cost": cost, **flags}


def _whole(sums: Json, of_upstreams: bool) -> Json:
    """The sums with counts as integers: the query sums floats, since integers might overflow."""
    counted = {name: int(value) for name, value in sums.items() if isinstance(value, float)}
    calls, failed = ("asked", "failed_asked") if of_upstreams else ("requests", "failed")
    return {
        "calls": counted[calls],
        "failed": counted[failed],
        "cached": counted["cached"],
        **{name: counted[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens")},
        "cost": dollars(counted["cost"]),
        "estimated_calls": min(counted["estimated"], counted[calls]),
        "estimated_tokens": counted["estimated_tokens"],
        "seconds": round(counted["microseconds"] / 1_000_000 / max(counted["asked"], 1), 3),
    }
