"""Reports on the ledger for the operator: totals, last calls, and periods of time. Times are UTC."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ..core.types import Json
from ..storage.location import Location
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


def totals(location: Location, period: Period, by: Sequence[str] = ()) -> list[Json]:
    """The totals of each group, those with the most tokens first, days in order; without ``by`` one for all calls.

    ``calls`` are callers' calls, of which the cache answered ``cached``. By upstream or its key they are the calls that
    asked it: a call that went to two upstreams counts in both, a cached one in none. ``cost`` is in dollars.

    Raises StoreError, as do the other functions that read the ledger.
    """
    of_upstreams = not OF_UPSTREAMS.isdisjoint(by)
    found = [_total(by, row, of_upstreams=of_upstreams) for row in sums_of(location, period.span, by)]
    if by and by[0] == "day":
        return sorted(found, key=lambda row: str(row["day"]))
    return sorted(found, key=lambda row: (-row["total_tokens"], -row["calls"], str(by and row[by[0]])))


def calls(location: Location, period: Period, most: int) -> list[Json]:
    """The last ``most`` rows, the latest last."""
    found = reversed(last_calls(location, period.span, most))
    return [_call(call) for call in found]


def first(location: Location) -> str | None:
    """The time of the first call; None for an empty ledger."""
    time = first_time(location)
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


def _total(by: Sequence[str], row: tuple[Any, ...], *, of_upstreams: bool) -> Json:
    """``row``: the groups, and ``SUMS`` as floats. A report may have thousands of these, hence the plain form."""
    total: Json = dict(zip(by, row, strict=False))
    requests, prompt, completion, tokens, cached_tokens, cost, asked, *more = map(int, row[len(by) :])
    cached, failed, failed_asked, estimated, estimated_tokens, microseconds = more
    calls = asked if of_upstreams else requests
    total["calls"] = calls
    total["failed"] = failed_asked if of_upstreams else failed
    total["cached"] = cached
    total["prompt_tokens"] = prompt
    total["completion_tokens"] = completion
    total["total_tokens"] = tokens
    total["cached_tokens"] = cached_tokens
    total["cost"] = dollars(cost)
    total["estimated_calls"] = min(estimated, calls)
    total["estimated_tokens"] = estimated_tokens
    total["seconds"] = round(microseconds / 1_000_000 / max(asked, 1), 3)
    return total
