"""Hours and days of a time zone as buckets of a report. No I/O but the zone's own file."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

WIDTHS = ("1h", "1d")
HOUR_SECONDS = 3600


@lru_cache(64)
def zone_of(name: str) -> ZoneInfo:
    """The zone with this IANA name. Raises ValueError if there is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        raise ValueError(f"{name!r} is not a time zone") from None


def bounds_of(span: tuple[int, int], width: str, zone: ZoneInfo, most: int) -> tuple[list[int], bool]:
    """The bounds of at most ``most`` buckets of the span, from and until, in Unix milliseconds; True if there are more.

    The first and the last bucket end at the span. A day is from midnight to midnight, of 23 or 25 hours where the clock
    is changed; if there is no midnight, from the first moment of the day.
    """
    since, until = span
    bounds = [since]
    while bounds[-1] < until and len(bounds) <= most:
        bounds.append(min(until, 1000 * _next(bounds[-1] // 1000, width, zone)))
    return bounds, bounds[-1] < until


def _next(second: int, width: str, zone: ZoneInfo) -> int:
    here = datetime.fromtimestamp(second, zone)
    if width == "1h":
        return second + HOUR_SECONDS - (second + _offset(here)) % HOUR_SECONDS
    tomorrow = here.date() + timedelta(days=1)
    found = _midnight(tomorrow, zone)
    return found if found > second else _midnight(tomorrow + timedelta(days=1), zone)


def _midnight(day: date, zone: ZoneInfo) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC).timestamp())


def _offset(here: datetime) -> int:
    offset = here.utcoffset()
    return int(offset.total_seconds()) if offset else 0
