"""Reports by hour and day in zones of all kinds: sums of the rows, whatever was folded, changed and deleted."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.storage.location import Location
from app.storage.retention import keep_up, tidy
from app.storage.rollups import step
from app.storage.rows import INSERT_CALL, CallRow
from app.storage.verify import verify
from app.usage import pages
from app.usage.pages import BY, BucketsAsked, usage_buckets

from ..ledger import call, read
from ..storage.test_rollups import new, opened

# In these weeks, the clock is changed in New York, Berlin and on Lord Howe.
FIRST = int(datetime(2026, 3, 5, tzinfo=UTC).timestamp())
DAYS = 36
NOW = float(FIRST + (DAYS + 40) * 86_400)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Asia/Kathmandu")
QUESTIONS: list[dict[str, Any]] = [
    {"by": ()},
    {"by": ("key",)},
    {"by": ("model", "endpoint", "upstream")},
    {"by": ("key", "model")},
    {"by": ("team",), "key": "k1"},
    {"by": ("model",), "team": "t"},
    {"by": ("upstream",), "width": "1h"},
    {"by": ("user",)},
    {"by": ("user", "team")},
    {"by": ("user",), "width": "1h"},
]
SUMS = ("requests", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "coalesce(cost, 0)")
COLUMNS = {"model": "coalesce(model_id, model)", "endpoint": "endpoint", "upstream": "upstream"}


def rows(seed: str, count: int) -> list[CallRow]:
    chance = random.Random(seed)
    return [
        call(
            time=FIRST * 1000 + chance.randrange(DAYS * 86_400_000),
            key_id=chance.choice([None, "k1", "k2"]),
            team=chance.choice([None, "t"]),
            model_id=chance.choice([None, "m", "n"]),
            endpoint=chance.choice(["chat", "rerank"]),
            upstream=chance.choice(["jina", "other"]),
            user=chance.choice([None, "u", "v"]),
            kind=chance.choice(["call", "cached"]),
            prompt_tokens=chance.randrange(2**40),
            total_tokens=chance.randrange(2**40),
            cost=chance.choice([None, chance.randrange(10**12)]),
        )
        for _ in range(count)
    ]


def answered(path: Location, asked: BucketsAsked) -> list[Any]:
    """All buckets that have results, on all pages."""
    found: list[Any] = []
    page: str | None = None
    while True:
        answer = usage_buckets(path, replace(asked, page=page))
        assert len(answer["data"]) > 0
        found += answer["data"]
        page = answer["next_page"]
        if page is None:
            break
    ends = [asked.start, *(bucket["end_time"] for bucket in found)]
    assert [bucket["start_time"] for bucket in found] == ends[:-1]
    assert ends[-1] == asked.end
    return found


def plain(path: Location, asked: BucketsAsked, bucket: Any) -> Iterator[tuple[Any, ...]]:
    """The sums of the rows of a bucket."""
    groups = [COLUMNS.get(name, BY[name]) for name in asked.by]
    where = [f"{BY[name]} = '{value}'" for name in ("key", "team") if (value := getattr(asked, name))]
    span = f"time >= {bucket['start_time']} * 1000 AND time < {bucket['end_time']} * 1000"
    sums = ", ".join(f"sum({each})" for each in SUMS)
    query = f"SELECT {', '.join([*groups, sums])} FROM calls WHERE {' AND '.join([span, *where])}"
    if groups:
        query += f" GROUP BY {', '.join(map(str, range(1, len(groups) + 1)))}"
    return (row for row in read(path, query) if row[-1] is not None)


def compare(path: Location, rows_of: Path, asked: BucketsAsked) -> None:
    for bucket in answered(path, asked):
        found = {
            (*(result[name] for name in asked.by), *list(result.values())[len(asked.by) : -1], _nano(result["cost"]))
            for result in bucket["results"]
        }
        assert found == set(plain(rows_of, asked, bucket))
        tokens = [result["total_tokens"] for result in bucket["results"]]
        assert tokens == sorted(tokens, reverse=True)


def _nano(dollars: str) -> int:
    whole, _, rest = dollars.partition(".")
    return int(whole) * 10**9 + int(rest.ljust(9, "0"))


@pytest.mark.parametrize(
    ("location", "zone"),
    [*(("sqlite", zone) for zone in ZONES), *(("postgres", zone) for zone in ("Europe/Berlin", "Asia/Kathmandu"))],
    indirect=["location"],
)
def test_reports_are_the_sums_of_the_rows(
    zone: str, location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(zone)
    early, late = rows(zone, 200), rows(f"{zone}, late", 40)
    path, truth = new(location), new(tmp_path / "rows.db", *early, *late)
    # Pages end early, in the midst of days that are read at once.
    monkeypatch.setattr(pages, "ROLLED", pages.Pace(3, 2, 40))

    def ask(unit: int, questions: list[dict[str, Any]] = QUESTIONS) -> None:
        for question in questions:
            start, end = sorted(FIRST + chance.randrange(DAYS * 86_400) // unit * unit for _ in range(2))
            limit = pages.MOST_OF_USERS["1h"] if question.get("width") else pages.MOST_OF_USERS["1d"]
            compare(path, truth, BucketsAsked(start, end + unit, zone=zone, limit=limit, **question))

    with opened(path) as connection:
        connection.executemany(INSERT_CALL, early)
        step(connection, 150)
    keep_up(path, now=NOW)
    with opened(path) as connection:
        connection.executemany(INSERT_CALL, late)  # some days are stale, some rows are not rolled up
        step(connection, 20)
    ask(1)
    keep_up(path, now=NOW)
    ask(1)
    assert verify(path) == []
    tidy(path, 40 + DAYS // 2, now=NOW)
    assert 0 < len(read(path, "SELECT id FROM calls")) < 240
    assert verify(path) == []
    ask(900, [question for question in QUESTIONS if "user" not in question["by"]])
