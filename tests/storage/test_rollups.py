"""Roll-ups: equal to the sums of the rows, whatever was rolled up, corrected and deleted in between."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.storage.columns import DAY, QUARTER, progress
from app.storage.connection import StoreConnection
from app.storage.holds import FOREVER
from app.storage.ledger_file import LedgerFile
from app.storage.location import Location
from app.storage.opening import connect
from app.storage.queries import SUMS, Span, bucket_sums, first_time, sums_of
from app.storage.retention import tidy
from app.storage.rollups import delete, roll, spent_before, step, unroll
from app.storage.rows import INSERT_CALL, CallRow
from app.storage.running import fold

from ..ledger import call, read
from ..stores import EMPTIED, emptied

START = 1_795_262_400  # 2026-11-21T12:00:00Z
DAY_MS = DAY * QUARTER
GROUPS = ("caller", "model", "upstream", "key", "endpoint", "day", "team", "key_id")


L = TypeVar("L", Path, Location)


@contextmanager
def opened(location: Location) -> Iterator[StoreConnection]:
    with closing(connect(location, "rw", 5.0)) as connection:
        yield connection


def new(path: L, *rows: CallRow) -> L:
    LedgerFile(path).close()
    with opened(path) as connection:
        connection.executemany(INSERT_CALL, rows)
    return path


def rolled_up(path: L, most: int = 500) -> L:
    with opened(path) as connection:
        while step(connection, most):
            pass
    return path


def folded(path: Location, now: float, rolled: int, then: int) -> None:
    """Rolls up ``rolled`` rows, folds the days that have ended by ``now``, and rolls up ``then`` more."""
    with opened(path) as connection:
        if rolled:
            step(connection, rolled)
        while fold(connection, now):
            pass
        if then:
            step(connection, then)


FEW = st.sampled_from(["a", "b", ""])
ROWS = st.builds(
    call,
    time=st.integers(START * 1000 - 3 * DAY_MS, START * 1000 + 3 * DAY_MS),
    caller=FEW,
    model=st.sampled_from(["m", "n"]),
    model_id=st.sampled_from([None, "n"]),
    endpoint=st.sampled_from(["chat", "rerank"]),
    upstream=FEW,
    key=FEW,
    key_id=st.sampled_from([None, "a", "b"]),
    team=st.sampled_from([None, "t"]),
    user=st.sampled_from([None, "u", "v"]),
    status=st.sampled_from([200, 429, 502]),
    prompt_tokens=st.integers(0, 2**40),
    completion_tokens=st.integers(0, 9),
    total_tokens=st.integers(0, 2**40),
    estimated=st.integers(0, 1),
    seconds=st.integers(0, 10**7).map(lambda number: number / 1_000_000),
    kind=st.sampled_from(["call", "call", "cached"]),
    requests=st.integers(0, 1),
    cached_tokens=st.integers(0, 9),
    cost=st.none() | st.integers(0, 10**12),
)


def summed(row: CallRow) -> dict[str, int]:
    """What a row adds to the sums."""
    asked, failed = int(row.kind == "call"), int((row.status or 0) >= 400)
    return {
        "requests": row.requests,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "total_tokens": row.total_tokens,
        "cached_tokens": row.cached_tokens,
        "cost": row.cost or 0,
        "asked": asked,
        "cached": row.requests * (1 - asked),
        "failed": row.requests * failed,
        "failed_asked": asked * failed,
        "estimated": row.estimated,
        "estimated_tokens": row.estimated * row.total_tokens,
        "microseconds": asked * round(row.seconds * 1_000_000),
    }


def value_of(row: CallRow, group: str) -> Any:
    if group == "day":
        return datetime.fromtimestamp(row.time // 1000, UTC).date().isoformat()
    if group == "model":
        return row.model_id or row.model
    return getattr(row, group) or ""


def expected(rows: list[CallRow], by: tuple[str, ...], bounds: list[int]) -> dict[tuple[Any, ...], dict[str, int]]:
    """The sums by bucket and group, of the rows one by one."""
    found: dict[tuple[Any, ...], dict[str, int]] = {}
    for row in rows:
        for bucket, (since, until) in enumerate(pairwise(bounds)):
            if since <= row.time < until:
                sums = found.setdefault((bucket, *(value_of(row, name) for name in by)), dict.fromkeys(SUMS, 0))
                for name, value in summed(row).items():
                    sums[name] += value
    return {key: sums for key, sums in found.items() if any(sums.values())}


@settings(EMPTIED, max_examples=25)
@given(
    rows=st.lists(ROWS, max_size=30),
    rolled=st.integers(0, 30),
    then=st.integers(0, 30),
    days=st.integers(-5, 60),
    by=st.lists(st.sampled_from(GROUPS), unique=True, max_size=3),
    bounds=st.lists(st.integers(START * 1000 - 4 * DAY_MS, START * 1000 + 4 * DAY_MS), min_size=2, max_size=2),
)
def test_sums_are_those_of_the_rows_however_many_are_rolled_up(
    rows: list[CallRow], rolled: int, then: int, days: int, by: list[str], bounds: list[int], location: Location
) -> None:
    """Also where a period begins and ends in the midst of a quarter of an hour, and whatever was folded before or after
    it changed."""
    bounds.sort()
    emptied(location)
    path = new(location, *rows)
    folded(path, START + days * 86400, rolled, then)
    right = expected(rows, tuple(by), bounds)
    found = sums_of(path, Span(*bounds), by)
    count = len(by)
    assert {
        (0, *each[:count]): dict(zip(SUMS, each[count:], strict=True)) for each in found if any(each[count:])
    } == right
    for name, unit in (("tokens", "total_tokens"), ("usd", "cost"), ("requests", "requests")):
        for scope, mine in SCOPES.items():
            total = sum(summed(row)[unit] for row in rows if mine(row))
            with opened(path) as connection:
                assert spent_before(connection, scope, name, (0, FOREVER)) == total


SCOPES: dict[str, Any] = {
    "organization": lambda row: True,
    "key:a": lambda row: row.key_id == "a",
    "team:t": lambda row: row.team == "t",
}


@settings(EMPTIED, max_examples=25)
@given(
    rows=st.lists(ROWS, min_size=1, max_size=30),
    rolled=st.integers(0, 30),
    then=st.integers(0, 30),
    days=st.integers(-5, 60),
    starts=st.lists(st.integers(0, DAY_MS), min_size=2, max_size=9),
    by=st.sampled_from([(), ("key_id",), ("model", "team"), ("key_id", "model"), ("user",), ("user", "upstream")]),
    hours=st.booleans(),
)
def test_buckets_are_sums_of_the_rows_in_them(
    rows: list[CallRow],
    rolled: int,
    then: int,
    days: int,
    starts: list[int],
    by: tuple[str, ...],
    hours: bool,
    location: Location,
) -> None:
    """Buckets of any length, that begin at any quarter of an hour."""
    bounds = [START * 1000 - 3 * DAY_MS]
    for start in starts:
        bounds.append(bounds[-1] + start - start % QUARTER)
    emptied(location)
    path = new(location, *rows)
    folded(path, START + days * 86400, rolled, then)
    for where in ({}, {"key_id": "a"}, {"team": "t"}):
        mine = [row for row in rows if all(getattr(row, name) == value for name, value in where.items())]
        found = bucket_sums(path, bounds, by, where, hours=hours)
        right = expected(mine, by, bounds)
        assert {row[: 1 + len(by)]: row[1 + len(by) + 3] for row in found} == {
            key: sums["total_tokens"] for key, sums in right.items() if _shown(sums)
        }
        assert sum(row[1 + len(by) + 5] for row in found) == sum(sums["cost"] for sums in right.values())


def _shown(sums: dict[str, int]) -> bool:
    return any(sums[name] for name in (*SUMS[:6], "asked"))


def test_steps_add_each_row_once(location: Location) -> None:
    path = new(location, *(call(total_tokens=2**number) for number in range(10)))
    with opened(path) as ours, opened(path) as theirs:
        counts = [step(each, 3) for each in (ours, theirs, ours, theirs, ours, theirs)]
        assert counts == [3, 3, 3, 1, 0, 0]
        assert progress(ours).rolled_up == 10
    for table in ("rollups", "rolled_days", "rolled_users"):
        assert read(path, f"SELECT requests, asked, total_tokens FROM {table}") == [(10, 10, 1023)]


def test_a_row_that_is_corrected_is_corrected_in_its_roll_up(location: Location) -> None:
    path = rolled_up(new(location, call(total_tokens=1), call(total_tokens=600, upstream="b")))
    with opened(path) as connection:
        connection.begin()
        unroll(connection, 2)
        connection.execute("UPDATE calls SET total_tokens = 7 WHERE id = 2")
        roll(connection, 2)
        connection.commit()
    assert sorted(read(path, "SELECT upstream, asked, total_tokens FROM rollups")) == [("b", 1, 7), ("jina", 1, 1)]


@pytest.mark.parametrize("last", [True, False])
def test_a_row_that_others_replace_counts_no_more(last: bool, location: Location) -> None:
    """Also if SQLite gives the deleted row's id to the new one, as it does with the last."""
    path = rolled_up(new(location, call(total_tokens=1), call(total_tokens=600, upstream="b")))
    with opened(path) as connection:
        connection.begin()
        if not last:
            connection.execute(INSERT_CALL, call(total_tokens=3))
        delete(connection, [2])
        connection.execute(INSERT_CALL, call(total_tokens=8))
        connection.commit()
    rolled_up(path)
    total = 9 if last else 12
    assert read(path, "SELECT upstream, total_tokens FROM rollups") == [("jina", total)]
    assert read(path, "SELECT sum(total_tokens) FROM calls") == [(total,)]


def test_a_row_that_is_not_rolled_up_yet_is_neither_taken_nor_added(location: Location) -> None:
    path = new(location, call())
    with opened(path) as connection:
        unroll(connection, 1)
        roll(connection, 1)
    assert read(path, "SELECT * FROM rollups") == []


def test_numbers_that_are_none_do_not_stop_the_others(location: Location) -> None:
    odd = call(total_tokens=2**63 - 1, cost=2**63 - 1, seconds=math.inf)
    path = rolled_up(new(location, *[odd] * 3, call(upstream="b")))
    assert read(path, "SELECT upstream, total_tokens FROM rollups ORDER BY 1") == [("b", 1000), ("jina", 3 * 2**53)]
    assert {row[0] for row in sums_of(path, Span(), ["upstream"])} == {"b", "jina"}


KILLED = """
import os, pickle, sys
from app.storage.retention import keep_up, tidy
location = pickle.load(sys.stdin.buffer)
steps = 0
def pause(seconds):
    global steps
    steps += 1
    if steps == 2:
        os.kill(os.getpid(), 9)
keep_up(location, pause)
tidy(location, 1, pause=pause)
"""


def test_a_kill_in_the_midst_counts_nothing_twice(location: Location) -> None:
    """Steps are ended by a kill until all is rolled up and deleted."""
    rows = [call(time=START * 1000 - number * QUARTER, total_tokens=2 ** (number % 40)) for number in range(900)]
    path = new(location, *rows)
    total = sum(row.total_tokens for row in rows)
    kills = 0
    while read(path, "SELECT count(*) FROM calls") != [(0,)]:
        done = subprocess.run([sys.executable, "-c", KILLED], check=False, input=pickle.dumps(path))
        kills += done.returncode == -9
        [found] = sums_of(path, Span(), [])
        assert (found[SUMS.index("total_tokens")], found[0]) == (total, 900)
        with opened(path) as connection:  # the lease of a dead process ends after a minute
            connection.execute("UPDATE state SET value = 0 WHERE name = 'tidied_until'")
    assert kills > 2


def test_the_first_call_is_known_after_its_row_was_deleted(location: Location) -> None:
    path = new(location, call(time=START * 1000 + 61_000), call(time=START * 1000 + 5 * DAY_MS))
    assert first_time(path) == START * 1000 + 61_000
    tidy(path, 2, now=START + 4 * 86400)
    assert len(read(path, "SELECT * FROM calls")) == 1
    assert first_time(path) == START * 1000


def test_what_a_counter_starts_from_does_not_depend_on_rows_that_are_kept(location: Location) -> None:
    rows = [call(key_id="k", endpoint=name, cost=5, time=START * 1000 - 3 * DAY_MS) for name in ("chat", "rerank")]
    path = new(location, *rows, call(key_id="k", cost=5), call(key_id="other"))
    tidy(path, 1, now=START + 86400)
    assert read(path, "SELECT count(*) FROM calls") == [(2,)]
    with opened(path) as connection:
        for unit, sums in (("requests", (3, 1, 1)), ("tokens", (3000, 1000, 1000)), ("usd", (15, 5, 5))):
            found = (
                spent_before(connection, "key:k", unit, (0, FOREVER)),
                spent_before(connection, "key:k", unit, (0, FOREVER), '{"endpoints":["rerank"]}'),
                spent_before(connection, "key:k", unit, (START - 43200, FOREVER)),
            )
            assert found == sums
