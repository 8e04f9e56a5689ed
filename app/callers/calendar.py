"""Calendar windows of limits and budgets: days, weeks and months as clocks on the wall show them.

A day that begins or ends summer time has 23 or 25 hours. A window is a range of Unix seconds, and part of a counter's
name, so nothing has to be reset when it ends.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from ..core.zones import zone_of
from ..storage.holds import FOREVER

Span = tuple[int, int]
WeekBegins = Literal["monday", "sunday"]

_DAY = timedelta(days=1)
_WEEKDAYS = {"monday": 0, "sunday": 6}


class Calendar:
    """The windows of a time zone. Raises ValueError, with a message for the operator, for a zone that is not known."""

    def __init__(self, zone: str = "UTC", week_begins: WeekBegins = "monday") -> None:
        self.zone = zone
        self.week_begins = week_begins
        self._zone: ZoneInfo = zone_of(zone)
        self._latest: dict[str, Span] = {"total": (0, FOREVER)}

    def window(self, kind: str, now_s: float) -> Span:
        """The window of ``kind`` (``day``, ``week``, ``month``, ``total``) that holds ``now_s``: since and until, in
        Unix seconds. ``until`` does not belong to it. Raises KeyError for another kind."""
        latest = self._latest.get(kind)
        if latest is None or not latest[0] <= now_s < latest[1]:
            latest = self._latest[kind] = self._find(kind, now_s)
        return latest

    def _find(self, kind: str, now_s: float) -> Span:
        first = self._first(kind, datetime.fromtimestamp(now_s, self._zone).date())
        since, until = self._begin(first), self._begin(_next(kind, first))
        # Where the clocks change around midnight, the date on the wall may be a day off for up to an hour.
        while now_s >= until:
            first = _next(kind, first)
            since, until = until, self._begin(_next(kind, first))
        while now_s < since:
            first = self._first(kind, first - _DAY)
            since, until = self._begin(first), since
        return since, until

    def _first(self, kind: str, day: date) -> date:
        """The first day of the window with the day."""
        if kind == "week":
            return day - timedelta(days=(day.weekday() - _WEEKDAYS[self.week_begins]) % 7)
        return day.replace(day=1) if kind == "month" else day

    def _begin(self, day: date) -> int:
        """The first moment of a day. A midnight that the clocks skip is the moment at which they do."""
        return int(datetime(day.year, day.month, day.day, tzinfo=self._zone).timestamp())


def _next(kind: str, first: date) -> date:
    if kind == "month":
        return (first.replace(day=28) + timedelta(days=4)).replace(day=1)
    return first + {"day": _DAY, "week": 7 * _DAY}[kind]


def resets_at(window: Span) -> str | None:
    """The end of a window as RFC 3339 in UTC; None if it has none."""
    return None if window[1] >= FOREVER or window[1] <= 0 else moment(window[1])


def moment(seconds: float) -> str:
    """A Unix time as RFC 3339 in UTC, rounded up to whole seconds."""
    return datetime.fromtimestamp(-(-seconds // 1), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
