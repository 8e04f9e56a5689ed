"""Calendar windows, compared with what the wall clock of the zone shows at their ends."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.callers.calendar import Calendar, WeekBegins, moment, resets_at
from app.storage.holds import FOREVER, MINUTE

ROOT = Path(__file__).parents[2]
HOUR = 3600
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",  # half an hour of summer time
    "America/Havana",  # goes back to midnight
    "Africa/Cairo",  # skips midnight
    "America/Sao_Paulo",
    "America/St_Johns",  # went back at a minute past midnight
    "Pacific/Apia",  # left out a day
)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


@pytest.mark.parametrize(
    ("zone", "noon", "hours", "since"),
    [
        ("Europe/Berlin", "2026-03-29T12:00+02:00", 23, "2026-03-29T00:00+01:00"),
        ("Europe/Berlin", "2026-10-25T12:00+01:00", 25, "2026-10-25T00:00+02:00"),
        ("America/New_York", "2026-03-08T12:00-04:00", 23, "2026-03-08T00:00-05:00"),
        ("America/New_York", "2026-11-01T12:00-05:00", 25, "2026-11-01T00:00-04:00"),
        ("Africa/Cairo", "2026-04-24T12:00+03:00", 23, "2026-04-24T01:00+03:00"),
        ("America/Havana", "2026-11-01T12:00-05:00", 25, "2026-11-01T00:00-04:00"),
        ("UTC", "2026-03-29T12:00+00:00", 24, "2026-03-29T00:00+00:00"),
    ],
)
def test_the_days_on_which_the_clocks_change(zone: str, noon: str, hours: int, since: str) -> None:
    calendar = Calendar(zone)
    window = calendar.window("day", at(noon))
    assert window == (at(since), at(since) + hours * HOUR)
    assert calendar.window("day", window[0]) == window
    assert calendar.window("day", window[1] - 0.001) == window
    before, after = calendar.window("day", window[0] - 1), calendar.window("day", window[1])
    assert (before[1], after[0]) == window


@pytest.mark.parametrize(
    ("zone", "inside", "since", "until"),
    [
        # A minute after midnight the clocks went back, to the day before: that hour belongs to the new day.
        ("America/St_Johns", "2010-11-06T23:30-03:30", "2010-11-07T00:00-02:30", "2010-11-08T00:00-03:30"),
        # At half past eleven in the evening the clocks went forward: the new day begins when midnight would have been.
        ("America/Toronto", "1919-03-31T00:45-04:00", "1919-03-30T00:00-05:00", "1919-03-31T01:00-04:00"),
        ("Pacific/Apia", "2011-12-31T12:00+14:00", "2011-12-31T00:00+14:00", "2012-01-01T00:00+14:00"),
    ],
)
def test_clocks_that_change_around_midnight(zone: str, inside: str, since: str, until: str) -> None:
    found = Calendar(zone).window("day", at(inside))
    assert found == (at(since), at(until))
    assert Calendar(zone).window("day", found[0] - 1)[1] == found[0]


def test_weeks_and_months_across_a_change() -> None:
    berlin = Calendar("Europe/Berlin")
    now = at("2026-03-29T12:00+02:00")  # a Sunday
    assert berlin.window("week", now) == (at("2026-03-23T00:00+01:00"), at("2026-03-30T00:00+02:00"))
    assert berlin.window("month", now) == (at("2026-03-01T00:00+01:00"), at("2026-04-01T00:00+02:00"))
    sundays = Calendar("Europe/Berlin", "sunday")
    assert sundays.window("week", now) == (at("2026-03-29T00:00+01:00"), at("2026-04-05T00:00+02:00"))
    assert Calendar().window("month", at("2024-02-29T23:59+00:00"))[1] == at("2024-03-01T00:00+00:00")
    assert Calendar().window("month", at("2026-12-31T12:00+00:00"))[1] == at("2027-01-01T00:00+00:00")


def test_total_has_no_end() -> None:
    assert Calendar().window("total", 1) == (0, FOREVER)
    assert [resets_at(window) for window in ((0, FOREVER), MINUTE)] == [None, None]
    assert resets_at(Calendar("America/New_York").window("day", at("2026-11-01T12:00-05:00"))) == "2026-11-02T05:00:00Z"
    assert moment(1.2) == "1970-01-01T00:00:02Z"


@given(
    st.sampled_from(ZONES),
    st.sampled_from(("day", "week", "month")),
    st.sampled_from(get_args(WeekBegins)),
    st.integers(at("2005-01-01T00:00+00:00"), at("2037-01-01T00:00+00:00")),
)
def test_windows_hold_their_moment_and_meet(zone: str, kind: str, begins: WeekBegins, now: int) -> None:
    """Each second belongs to one window, which begins with a day of the zone."""
    since, until = Calendar(zone, begins).window(kind, now)
    assert since <= now < until
    assert Calendar(zone, begins).window(kind, until)[0] == until
    assert Calendar(zone, begins).window(kind, since - 1)[1] == since
    first = datetime.fromtimestamp(since, ZoneInfo(zone))
    day_before = datetime.fromtimestamp(since - 1, UTC).astimezone(ZoneInfo(zone))
    assert (first.hour, first.minute) == (0, 0) or first.date() - day_before.date() >= timedelta(days=1)
    if kind == "week":
        assert first.weekday() == {"monday": 0, "sunday": 6}[begins] or zone == "Pacific/Apia"
    if kind == "month":
        assert first.day == 1


@pytest.mark.parametrize(("name", "near"), [("Europe/Berln", "Europe/Berlin"), ("utc", "UTC"), ("../etc/passwd", "")])
def test_a_zone_that_is_not_known(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"is not a time zone of IANA. Nearest: {near}"):
        Calendar(name)


def test_a_machine_without_time_zones() -> None:
    """The package tzdata has them: a container often has none of its own."""
    said = "from app.callers.calendar import Calendar; print(Calendar('Europe/Berlin').window('day', 1790000000))"
    environment = {**os.environ, "PYTHONTZPATH": ""}
    ran = subprocess.run([sys.executable, "-c", said], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.stderr) == ("(1789941600, 1790028000)", "")
