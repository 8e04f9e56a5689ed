"""Old rows go, and take no total with them."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.storage.columns import QUARTER
from app.storage.holds import MINUTE
from app.storage.ledger_file import LedgerFile
from app.storage.location import Location
from app.storage.new_file import VERSION
from app.storage.queries import SUMS, Span, bucket_sums, sums_of
from app.storage.retention import Retention, keep_up, tidy
from app.storage.rows import INSERT_CALL
from app.storage.verify import verify

from ..conftest import running_gateway, settings_for, until
from ..ledger import call, read
from ..stores import EMPTIED, emptied
from .charging import Books, Clock, charge
from .test_rollups import DAY_MS, ROWS, START, new, opened, rolled_up

NOW = START + 100 * 86400
TOKENS = SUMS.index("total_tokens")
DAY_SECONDS = 86400


def kept(path: Location) -> list[int]:
    return [days for (days,) in read(path, f"SELECT ({NOW * 1000} - time) / {DAY_MS} FROM calls ORDER BY time")]


def test_rows_are_kept_for_the_days_that_were_said(location: Location) -> None:
    days = [0, 1, 89, 90, 91, 400]
    path = new(location, *(call(time=NOW * 1000 - day * DAY_MS - 1) for day in days))
    assert tidy(path, 90, now=NOW)["calls"] == 3
    assert kept(path) == [89, 1, 0]
    assert tidy(path, 90, now=NOW) == {}
    assert tidy(path, 1, now=NOW)["calls"] == 2
    assert read(path, "SELECT sum(total_tokens), sum(requests) FROM rollups") == [(6000, 6)]


def test_a_quiet_ledger_is_emptied_and_goes_on(location: Location) -> None:
    """SQLite begins with id 1 again without rows: these are not taken for rolled up."""
    path = new(location, call(), call())
    tidy(path, 1, now=NOW)
    assert read(path, "SELECT id FROM calls") == []
    with opened(path) as connection:
        connection.execute(INSERT_CALL, call(total_tokens=1))
    assert [row[TOKENS] for row in sums_of(path, Span(), [])] == [2001]
    assert keep_up(path) == 1
    assert [row[TOKENS] for row in sums_of(path, Span(), [])] == [2001]


@settings(EMPTIED, max_examples=20)
@given(
    rows=st.lists(ROWS, min_size=1, max_size=30),
    day=st.integers(-3, 3),
    late=ROWS,
    lengths=st.lists(st.integers(0, 96), min_size=1, max_size=9),
    by=st.sampled_from([(), ("key_id",), ("model", "upstream"), ("user",)]),
    hours=st.booleans(),
)
def test_reports_say_the_same_before_and_after(
    rows: Any, day: int, late: Any, lengths: list[int], by: tuple[str, ...], hours: bool, location: Location
) -> None:
    """Of users as long as rows are kept. A row that comes late counts too."""
    now = START + day * DAY_SECONDS + 12_345
    first = START * 1000 - 3 * DAY_MS if "user" not in by else (now - DAY_SECONDS) * 1000 // QUARTER * QUARTER
    bounds = [first]
    for length in lengths:
        bounds.append(bounds[-1] + length * QUARTER)
    emptied(location)
    path = new(location, *rows)
    before = [bucket_sums(path, bounds, by, {}, hours=hours), sorted(map(str, sums_of(path, Span(), ["day"])))]
    tidy(path, 1, now=now)
    assert all(time >= (now - DAY_SECONDS) * 1000 - QUARTER for (time,) in read(path, "SELECT time FROM calls"))
    after = [bucket_sums(path, bounds, by, {}, hours=hours), sorted(map(str, sums_of(path, Span(), ["day"])))]
    assert after == before
    with opened(path) as connection:
        connection.execute(INSERT_CALL, late)
    fresh = bucket_sums(path, bounds, by, {}, hours=hours)
    rolled_up(path)
    assert bucket_sums(path, bounds, by, {}, hours=hours) == fresh


def test_adjacent_periods_add_up_where_rows_are_gone(location: Location) -> None:
    chance = random.Random(1)
    rows = [call(time=START * 1000 + chance.randrange(DAY_MS), total_tokens=2**number) for number in range(30)]
    path = new(location, *rows)
    tidy(path, 1, now=NOW)
    cuts = [START * 1000 + chance.randrange(DAY_MS) for _ in range(5)]
    ends = [None, *sorted(cuts), None]
    sums = [sums_of(path, Span(*ends[place : place + 2]), [])[0][TOKENS] for place in range(6)]
    assert sum(sums) == 2**30 - 1


def test_everything_else_that_is_old_goes_too(location: Location) -> None:
    path = new(location)
    old, lately = NOW - 91 * DAY_SECONDS, NOW - 89 * DAY_SECONDS
    with opened(path) as connection:
        for statement, values in (
            ("INSERT INTO refusals VALUES (?, 'k', '', 'requests_per_minute', 1)", (old // 60, lately // 60)),
            ("INSERT INTO idempotency VALUES (?1, 'r', 'o', ?1)", ((NOW - 90_000) * 1000, (NOW - 80_000) * 1000)),
            (
                "INSERT INTO audit (time, actor, action, object_id, changes) VALUES (?, 'a', 'b', 'c', '{}')",
                ((NOW - 401 * DAY_SECONDS) * 1000, (NOW - 399 * DAY_SECONDS) * 1000),
            ),
        ):
            connection.executemany(statement, [(value,) for value in values])
        connection.executemany("INSERT INTO alerts VALUES ('key:k', 'usd', '', ?, 1, 50, 0)", [(0,), (1,)])
    deleted = tidy(path, 90, now=NOW)
    assert deleted == dict.fromkeys(("refusals", "idempotency", "audit", "alerts"), 1)
    assert {len(read(path, f"SELECT * FROM {table}")) for table in deleted} == {1}


def test_what_a_dead_process_held_a_day_ago_is_given_back_with_its_hold(location: Location) -> None:
    """By the writer: the tokens that a hold has in a minute are held until it is gone."""
    clock = Clock()
    dead, ours = Books(location, "dead", clock), Books(location, clock=clock)
    dead.hold(charge("tokens", 10, 100, MINUTE), request_id="a")
    clock.now += 31
    assert ours.sweep() == 1
    clock.now += DAY_SECONDS + 1
    tidy(dead.path, 90, now=clock.now)
    assert ours.sweep() == 0
    assert read(dead.path, "SELECT * FROM holds") == read(dead.path, "SELECT * FROM seconds") == []
    assert verify(dead.path) == []


def test_one_process_at_a_time_tidies(location: Location) -> None:
    path = new(location, *(call() for _ in range(201)))
    inner: list[dict[str, int]] = []

    def pause(_: float) -> None:
        if read(path, "SELECT count(*) FROM calls") == [(1,)]:
            inner.append(tidy(path, 1, now=NOW))

    assert tidy(path, 1, now=NOW, pause=pause)["calls"] == 201
    assert inner[0] == {}
    assert tidy(path, 1, now=NOW) == {}
    with opened(path) as connection:  # a process that died has a lease, which ends
        connection.execute(INSERT_CALL, call())
        connection.execute("UPDATE state SET value = ? WHERE name = 'tidied_until'", (int(time.time() * 1000) - 1,))
    assert tidy(path, 1, now=NOW)["calls"] == 1


def test_a_row_that_comes_meanwhile_stays_until_it_is_rolled_up(location: Location) -> None:
    path = new(location, *(call() for _ in range(401)))
    late: list[int] = []

    def pause(_: float) -> None:
        if read(path, "SELECT count(*) FROM calls") == [(201,)]:
            with opened(path) as connection:
                connection.execute(INSERT_CALL, call(time=0))
            late.append(1)

    assert tidy(path, 1, now=NOW, pause=pause)["calls"] == 401
    assert late == [1]
    assert read(path, "SELECT time FROM calls") == [(0,)]
    assert [row[0] for row in sums_of(path, Span(), [])] == [402]
    tidy(path, 1, now=NOW)
    assert [row[0] for row in sums_of(path, Span(), [])] == [402]


def test_a_file_of_others_is_left_alone(path: Path) -> None:
    assert (tidy(path, 1), keep_up(path)) == ({}, 0)
    assert not path.exists()
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version = {VERSION}")
    before = path.read_bytes()
    assert (tidy(path, 1), keep_up(path)) == ({}, 0)
    assert path.read_bytes() == before


async def test_the_thread_keeps_up_with_the_ledger_and_ends_at_once(location: Location) -> None:
    path = location
    with closing(LedgerFile(path, flush_seconds=0.01)) as file:
        retention = Retention(path, lambda: 10**5, first_seconds=0.4, keep_up_seconds=0.02)
        retention.start()
        file.record_call(call())
        await until(lambda: read(path, "SELECT requests FROM rollups") == [(1,)])
        file.record_call(call(time=0))
        file.record_call(call(time=-(10**6)))
        await until(lambda: read(path, "SELECT sum(requests) FROM rollups") == [(3,)])
        retention.close()
        assert not retention._thread.is_alive()


async def test_trouble_is_said_once_and_tried_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    new(path, call())
    with opened(path) as other:
        other.execute("BEGIN IMMEDIATE")
        retention = Retention(path, lambda: 90, first_seconds=9, keep_up_seconds=0.01)
        retention.start()
        await until(lambda: "another program has locked it" in caplog.text)
        other.execute("ROLLBACK")
        await until(lambda: read(path, "SELECT requests FROM rollups") == [(1,)])
        retention.close()
    assert caplog.text.count("cannot be tidied") == 1


async def test_a_gateway_tidies_soon_after_its_start(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.storage.retention.Retention.__init__.__kwdefaults__", SOON)
    path = new(location, *(call(time=int((time.time() - day * 86400) * 1000)) for day in (1, 3)))
    with closing(LedgerFile(path)) as database:
        url = "http://127.0.0.1:9"
        async with running_gateway(settings_for(url, ledger={"keep_days": 2}), database):
            await until(lambda: read(path, "SELECT count(*) FROM calls") == [(1,)])
    assert [row[0] for row in sums_of(path, Span(), [])] == [2]


SOON = {"first_seconds": 0.01, "keep_up_seconds": 0.01}
