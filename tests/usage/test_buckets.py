"""Pages of the operator's API from the ledger: days and hours of any zone, and calls one by one."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.engine import Engine

from app.storage.buckets import bounds_of, zone_of
from app.storage.location import Location, Postgres
from app.storage.retention import tidy
from app.storage.rollups import step
from app.storage.rows import INSERT_CALL
from app.usage.pages import BucketsAsked, CallsAsked, WrongPage, calls_page, usage_buckets
from app.usage.reports import Period, dollars, totals

from ..ledger import call
from ..servers import PostgresServer
from ..storage.test_rollups import new, opened, rolled_up
from .million import made, questions

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
START = int(datetime(2026, 11, 21, tzinfo=UTC).timestamp())


def at(text: str, zone: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


# ---------------------------------------------------------------- days and hours


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        (BERLIN, "2026-03-29", 23),
        (BERLIN, "2026-10-25", 25),
        (NEW_YORK, "2026-03-08", 23),
        (NEW_YORK, "2026-11-01", 25),
        ("Africa/Cairo", "2026-04-24", 23),  # without a midnight
        ("Australia/Lord_Howe", "2026-10-04", 23.5),
        ("UTC", "2026-03-29", 24),
    ],
)
def test_a_day_on_which_the_clock_is_changed(zone: str, day: str, hours: float, location: Location) -> None:
    start = at(f"{day}T00:00", zone)
    end = start + int(hours * 3600)
    assert datetime.fromtimestamp(end, ZoneInfo(zone)).hour == 0
    times = [start - 1, start, start + 3600, end - 1, end]
    path = rolled_up(new(location, *(call(time=time * 1000, total_tokens=1) for time in times)))
    page = usage_buckets(path, BucketsAsked(start - 86400, end + 86400, zone=zone))
    bounds = [(bucket["start_time"], bucket["end_time"]) for bucket in page["data"]]
    sums = [sum(result["requests"] for result in bucket["results"]) for bucket in page["data"]]
    assert (start, end) in bounds
    place = bounds.index((start, end))
    assert sums[place - 1 : place + 2] == [1, 3, 1]
    assert len(bounds_of((start * 1000, end * 1000), "1h", zone_of(zone), 99)[0]) == -(-int(hours * 2) // 2) + 1


@settings(max_examples=40, deadline=None)
@given(
    zone=st.sampled_from([BERLIN, NEW_YORK, "Asia/Kolkata", "Asia/Kathmandu", "Pacific/Apia", "America/St_Johns"]),
    start=st.integers(1_700_000_000, 1_800_000_000),
    length=st.integers(1, 40 * 86400),
    width=st.sampled_from(["1h", "1d"]),
)
def test_bounds_follow_the_clock_on_the_wall(zone: str, start: int, length: int, width: str) -> None:
    bounds, more = bounds_of((start * 1000, (start + length) * 1000), width, zone_of(zone), 10**6)
    assert (bounds[0], bounds[-1], more) == (start * 1000, (start + length) * 1000, False)
    assert bounds == sorted(set(bounds))
    for bound in bounds[1:-1]:
        here = datetime.fromtimestamp(bound / 1000, ZoneInfo(zone))
        assert (here.minute, here.second) == (0, 0)
        assert width == "1h" or here.hour == 0


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def busy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Location:
    """A year of three thousand calls."""
    path = tmp_path_factory.mktemp("busy") / "torii.db"
    if request.param == "sqlite":
        return made(path, 3000)
    server: PostgresServer = request.getfixturevalue("postgres")
    return made(Postgres(server.url(server.create(request.getfixturevalue("tables"))), path), 3000)


@pytest.mark.parametrize("zone", ["UTC", BERLIN, NEW_YORK, "Asia/Kathmandu", "Pacific/Apia"])
@pytest.mark.parametrize("width", ["1d", "1h"])
def test_buckets_of_every_zone_add_up(zone: str, width: str, busy: Location) -> None:
    [total] = totals(busy, Period())
    end = at("2026-12-01T00:00", "UTC")
    start = end - (370 if width == "1d" else 40) * 86400
    limit = 366 if width == "1d" else 744
    asked = BucketsAsked(start + 777, end, width, ("team", "model"), zone, limit=limit)
    whole = 0
    pages = 0
    page: str | None = None
    while True:
        answer = usage_buckets(busy, replace(asked, page=page))
        whole += sum(result["total_tokens"] for bucket in answer["data"] for result in bucket["results"])
        pages += 1
        page = answer["next_page"]
        if page is None:
            break
    period = Period(datetime.fromtimestamp(start + 777, UTC), datetime.fromtimestamp(end, UTC))
    [expected] = totals(busy, period)
    assert whole == expected["total_tokens"] > 0
    assert pages == 2
    assert width == "1h" or expected == total


def test_a_page_is_openais(location: Location) -> None:
    path = new(
        location,
        call(time=START * 1000, key_id="k", team="t", cost=1_500_000_000, user="u", completion_tokens=4),
        call(time=START * 1000 + 1, kind="cached", total_tokens=0, prompt_tokens=0, cached_tokens=50),
    )
    page = usage_buckets(path, BucketsAsked(START, START + 3 * 86400, by=("key", "team", "user"), limit=2))
    mine = {"key": "k", "team": "t", "user": "u", "requests": 1, "prompt_tokens": 1000, "completion_tokens": 4}
    open_ = {"key": None, "team": None, "user": None, "requests": 1, "prompt_tokens": 0, "completion_tokens": 0}
    assert page == {
        "object": "page",
        "data": [
            {
                "object": "bucket",
                "start_time": START,
                "end_time": START + 86400,
                "results": [
                    {**mine, "total_tokens": 1000, "cached_tokens": 0, "cost": "1.5"},
                    {**open_, "total_tokens": 0, "cached_tokens": 50, "cost": "0"},
                ],
            },
            {"object": "bucket", "start_time": START + 86400, "end_time": START + 2 * 86400, "results": []},
        ],
        "has_more": True,
        "next_page": f"page_{START + 2 * 86400}",
    }


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"width": "1m"}, "bucket_width"),
        ({"by": ("colour",)}, "group_by"),
        ({"by": ("key", "key")}, "group_by"),
        ({"end": START}, "end_time"),
        ({"start": -1}, "end_time"),
        ({"end": 2**62}, "end_time"),
        ({"zone": "Mars/Phobos"}, "time_zone"),
        ({"zone": "../etc"}, "time_zone"),
        ({"zone": "Europe"}, "time_zone"),
        ({"limit": 0}, "limit"),
        ({"limit": 400}, "limit"),
        ({"by": ("user",), "limit": 32}, "limit"),
        ({"page": "page_x"}, "page"),
        ({"page": "page_5"}, "page"),
    ],
)
def test_what_cannot_be_is_named(asked: dict[str, Any], field: str, busy: Location) -> None:
    with pytest.raises(WrongPage) as caught:
        usage_buckets(busy, BucketsAsked(**{"start": START, "end": START + 86400, **asked}))
    assert caught.value.field == field


# ---------------------------------------------------------------- calls


@pytest.fixture
def listed(location: Location) -> Location:
    """Calls and refusals of two minutes, several of one moment."""
    minute = START // 60
    rows = [
        call(time=START * 1000, key_id="a", team="t", request_id="1", model_id="m", cost=1),
        call(time=START * 1000, key_id="b", team="t", request_id="2", status=429, error="rate_limited"),
        call(time=START * 1000 + 61_000, key_id="a", request_id="3", kind="cached", model_id="m", team=None),
        call(time=START * 1000 + 61_000, key_id=None, request_id="4", model="m"),
    ]
    path = new(location, *rows)
    with opened(path) as connection:
        connection.executemany(
            "INSERT INTO refusals VALUES (?, ?, ?, ?, ?)",
            [(minute, "a", "t", "tokens/day", 3), (minute, "b", "", "usd/month", 1), (minute + 1, "a", "t", "x", 2)],
        )
    return path


def names(page: dict[str, Any]) -> list[str]:
    return [row.get("request_id") or f"{row['key']} {row['reason']}" for row in page["data"]]


ALL = ["4", "3", "a x", "2", "1", "a tokens/day", "b usd/month"]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_have_each_row_once_although_rows_are_added(limit: int, listed: Location) -> None:
    found: list[str] = []
    after = None
    while True:
        page = calls_page(listed, CallsAsked(limit=limit, after=after))
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        found += names(page)
        with opened(listed) as connection:
            connection.execute("INSERT INTO refusals VALUES (99999999, '', '', 'later', 1) ON CONFLICT DO NOTHING")
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert found == ALL


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, ALL),
        ({"key": "a"}, ["3", "a x", "1", "a tokens/day"]),
        ({"team": "t"}, ["a x", "2", "1", "a tokens/day"]),
        ({"model": "m"}, ["4", "3", "1"]),
        ({"status": 429}, ["a x", "2", "a tokens/day", "b usd/month"]),
        ({"status": 200}, ["4", "3", "1"]),
        ({"request_id": "2"}, ["2"]),
        ({"request_id": "2", "status": 200}, []),
        ({"kind": "call"}, ["4", "2", "1"]),
        ({"kind": "cached"}, ["3"]),
        ({"kind": "cached", "key": "a", "model": "m"}, ["3"]),
        ({"kind": "refusal"}, ["a x", "a tokens/day", "b usd/month"]),
        ({"kind": "refusal", "team": "t"}, ["a x", "a tokens/day"]),
        ({"start": START + 60}, ["4", "3", "a x"]),
        ({"end": START + 60}, ["2", "1", "a tokens/day", "b usd/month"]),
        ({"start": START + 1, "end": START + 60}, []),
    ],
)
def test_filters(asked: dict[str, Any], expected: list[str], listed: Location) -> None:
    assert names(calls_page(listed, CallsAsked(**asked))) == expected


def test_a_row_has_all_that_the_ledger_knows(listed: Location) -> None:
    [row] = calls_page(listed, CallsAsked(request_id="1"))["data"]
    about = {
        "kind": "call",
        "count": 1,
        "reason": None,
        "key": "a",
        "team": "t",
        "cost": "0.000000001",
    }
    assert {name: row[name] for name in about} == about
    assert (row["time"], row["upstream_key"], row["stream"]) == ("2026-11-21T00:00:00.000Z", "jina", False)
    [_, refusal, _] = calls_page(listed, CallsAsked(kind="refusal"))["data"]
    assert refusal.pop("id").startswith("row_")
    assert refusal == {
        "object": "call",
        "kind": "refusal",
        "time": "2026-11-21T00:00:00.000Z",
        "key": "a",
        "team": "t",
        "count": 3,
        "reason": "tokens/day",
        "status": 429,
    }


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"kind": "hit"}, "kind"),
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"after": "row_zzz"}, "after"),
        ({"after": ""}, "after"),
        ({"after": "é"}, "after"),
    ],
)
def test_what_no_list_has_is_named(asked: dict[str, Any], field: str, listed: Location) -> None:
    with pytest.raises(WrongPage) as caught:
        calls_page(listed, CallsAsked(**asked))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "0"), (1, "0.000000001"), (1_500_000_000, "1.5"), (20_000_000_000, "20"), (-5, "-0.000000005")],
)
def test_dollars(nano: int, text: str) -> None:
    assert dollars(nano) == text


# ---------------------------------------------------------------- a million rows


@pytest.mark.parametrize("busy", ["sqlite"], indirect=True)
def test_no_report_reads_all_rows(busy: Location) -> None:
    """Each question is answered from roll-ups and by an index: `python -m tests.usage.million` measures the time."""
    plans: dict[str, list[str]] = {}

    def note(name: str) -> Any:
        def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            if not statement.startswith("EXPLAIN"):
                with closing(connection.connection.cursor()) as other:
                    found = other.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
                plans.setdefault(name, []).extend(detail for *_, detail in found)

        return explain

    for name, question in questions(busy):
        listener = note(name)
        event.listen(Engine, "before_cursor_execute", listener)
        try:
            question()
        finally:
            event.remove(Engine, "before_cursor_execute", listener)
    scanned = {(name, step) for name, steps in plans.items() for step in steps if step.startswith("SCAN calls")}
    whole = {name for name, step in scanned if "USING INDEX calls_by_time" not in step and "calls_cached" not in step}
    assert whole == set()
    assert {step for name, steps in plans.items() for step in steps if step.startswith("SCAN rollups")} == set()
    assert any("calls_by_model" in step for step in plans["calls, {'model': 'jina-deepsearch-v1'}"])
    assert any("calls_failed" in step for step in plans["calls, {'status': 499}"])
    assert any("calls_cached" in step for step in plans["calls, {'kind': 'cached'}"])
    assert any("calls_by_key" in step for step in plans["calls, {'key': 'key12'}"])
    assert any("calls_by_team" in step for step in plans["calls, {'team': 'team-3'}"])


def test_users_are_known_while_rows_are_kept(location: Location) -> None:
    day = 86400
    times = [(START + 6 * 3600 + number * day) * 1000 for number in range(4)]
    path = new(location, *(call(time=time, user=f"u{time % 7}") for time in times))
    asked = BucketsAsked(START, START + 4 * day, by=("user",), zone=BERLIN)
    before = usage_buckets(path, asked)
    with opened(path) as connection:  # deleted too, in the midst of a day in UTC
        connection.execute(INSERT_CALL, call(time=(START + 2 * day + 3600) * 1000, user="gone"))
    tidy(path, 2, now=START + 4 * day + 3 * 3600)
    after = usage_buckets(path, asked)
    assert [len(bucket["results"]) for bucket in before["data"]] == [1, 1, 1, 1, 0]
    assert [len(bucket["results"]) for bucket in after["data"]] == [0, 0, 1, 1, 0]
    assert after["data"][2:] == before["data"][2:]


def test_rows_that_are_rolled_up_meanwhile_count_once(location: Location) -> None:
    """A report's queries see the same moment of the file."""
    path = new(location, *(call(time=START * 1000 + number) for number in range(10)))

    def meanwhile(*_: Any) -> None:
        with opened(path) as connection:
            step(connection, 4)

    event.listen(Engine, "before_cursor_execute", meanwhile)
    try:
        page = usage_buckets(path, BucketsAsked(START, START + 86400))
    finally:
        event.remove(Engine, "before_cursor_execute", meanwhile)
    assert [result["requests"] for result in page["data"][0]["results"]] == [10]
