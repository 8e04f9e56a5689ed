"""How long the reports take over a year of a busy team: `python -m tests.usage.million [FILE [URL]]`, for some minutes.

Prints the median and the longest of ten tries in a warm process. The file is made if it is not there. With the URL of
an empty PostgreSQL database, the file is copied there first, and that is asked.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from app.storage.holds import FOREVER
from app.storage.ledger_file import LedgerFile
from app.storage.location import Location, Postgres
from app.storage.opening import connect
from app.storage.rollups import spent_before, step
from app.storage.rows import INSERT_CALL, CallRow
from app.storage.running import NAMES, fold
from app.usage.pages import BY, BucketsAsked, CallsAsked, calls_page, usage_buckets
from app.usage.reports import GROUPS, Period, calls, totals

ROWS = 1_000_000
YEAR = 365
END = datetime(2026, 11, 30, tzinfo=UTC)
TEAMS = {f"team-{number}": [f"key{number}{place}" for place in range(4)] for number in range(5)}
MODELS = (
    ("embeddings", "jina-embeddings-v3", "jina"),
    ("embeddings", "text-embedding-3-large", "aihubmix"),
    ("rerank", "jina-reranker-v2-base-multilingual", "jina"),
    ("chat", "gpt-4o-mini", "aihubmix"),
    ("chat", "jina-deepsearch-v1", "jina"),
)
TRIES = 10
L = TypeVar("L", Path, Location)


def rows(count: int, seed: int = 1) -> Iterator[CallRow]:
    """Calls in the order of their time, most of them by day and from Monday to Friday."""
    chance = random.Random(seed)
    teams = {key: team for team, keys in TEAMS.items() for key in keys}
    keys = list(teams)
    starts = sorted(_time(chance) for _ in range(count))
    for number, start in enumerate(starts):
        endpoint, model, upstream = chance.choices(MODELS, (40, 10, 25, 20, 5))[0]
        key = chance.choice(keys)
        cached = endpoint != "chat" and chance.random() < 0.2
        failed = not cached and chance.random() < 0.01
        prompt = 0 if cached or failed else chance.randrange(10, 4000)
        written = chance.randrange(1, 1000) if prompt and endpoint == "chat" else 0
        status = chance.choice((429, 499, 502)) if failed else 200
        yield CallRow(
            *(start, key, endpoint, model, upstream, model, upstream, status, "upstream_error" if failed else None),
            *(prompt, written, prompt + written, 0, chance.random(), None, 1, f"{number:032x}"),
            *("cached" if cached else "call", 1, key, teams[key], model, 0, 500 if cached else 0),
            *((prompt + written) * 20, "2026-01-01", f"user-{chance.randrange(300)}", None, None),
        )


def _time(chance: random.Random) -> int:
    while True:
        day = chance.randrange(YEAR)
        hour = min(max(chance.gauss(13, 3.5), 0), 23.999)
        moment = END - timedelta(days=day + 1) + timedelta(hours=hour)
        if moment.weekday() < 5 or chance.random() < 0.1:
            return int(moment.timestamp() * 1000)


def made(path: L, count: int = ROWS) -> L:
    LedgerFile(path).close()
    with closing(connect(path, "rw", 5.0)) as connection:
        refused = (
            (int(row.time / 60_000), row.key_id, row.team, "requests_per_minute") for row in rows(count // 20, 2)
        )
        for statement, values in (
            (INSERT_CALL, rows(count)),
            ("INSERT INTO refusals VALUES (?, ?, ?, ?, 3) ON CONFLICT DO NOTHING", refused),
        ):
            while some := list(islice(values, 10_000)):  # before the transaction: a server waits 2 s in it
                connection.begin()
                connection.executemany(statement, some)
                connection.commit()
        while step(connection, 20_000) or fold(connection, END.timestamp() + 2 * 86400):
            pass
    return path


def questions(path: Location) -> Iterator[tuple[str, Callable[[], Any]]]:
    end = int(END.timestamp())
    year = end - YEAR * 86400
    for by in (*((group,) for group in GROUPS), ("day", "model"), ("team", "model", "upstream")):
        yield f"torii usage --by {','.join(by)}", lambda by=by: totals(path, Period(), by)  # type: ignore[misc]
    week = Period(END - timedelta(days=7, minutes=3, seconds=1), None)
    yield "torii usage --since 7d", lambda: totals(path, week, ("model",))
    yield "torii usage --calls 20", lambda: calls(path, Period(), 20)
    for zone in ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"):
        for group in (None, *BY):
            by = (group,) if group else ()
            days = 31 if group == "user" else 366
            asked = BucketsAsked(year, end, by=by, zone=zone, limit=days)
            yield f"{days} days, {zone}, by {group}", lambda asked=asked: usage_buckets(path, asked)  # type: ignore[misc]
    for about in ({"key": "key12"}, {"team": "team-3"}):
        asked = BucketsAsked(year, end, by=("model",), zone="Europe/Berlin", limit=366, **about)
        yield f"a year of days, Europe/Berlin, of {about}", lambda asked=asked: usage_buckets(path, asked)  # type: ignore[misc]
    for group in (None, *BY):
        hours = BucketsAsked(
            end - 168 * 3600,
            end,
            "1h",
            (group,) if group else (),
            "Europe/Berlin",
            limit=48 if group == "user" else 168,
        )
        yield f"a week of hours, by {group}", lambda hours=hours: usage_buckets(path, hours)  # type: ignore[misc]
    filters: list[dict[str, Any]] = [
        {},
        *({"kind": kind} for kind in ("call", "cached", "refusal")),
        *({"status": status} for status in (200, 429, 499, 418)),
        *({"key": key} for key in ("key12", "nobody")),
        *({"team": team} for team in ("team-3", "none")),
        *({"model": model} for model in ("jina-deepsearch-v1", "nothing")),
        {"request_id": f"{ROWS // 2:032x}"},
        {"key": "key12", "status": 499},
        {"team": "team-3", "model": "jina-deepsearch-v1", "kind": "cached"},
        {"start": year, "end": year + 86400 * 30},
    ]
    for each in filters:
        yield f"calls, {each}", lambda each=each: calls_page(path, CallsAsked(limit=100, **each))  # type: ignore[misc]
    middle = calls_page(path, CallsAsked(end=year + 86400 * 180))["last_id"]
    yield "calls, from the middle of the year on", lambda: calls_page(path, CallsAsked(after=middle))
    for scope in ("key:key12", "team:team-3", "organization"):
        yield f"what a total budget of {scope} starts from", lambda scope=scope: _spent(path, scope)  # type: ignore[misc]


def _spent(path: Location, scope: str) -> int:
    with closing(connect(path, "rw", 5.0)) as connection:
        return spent_before(connection, scope, "usd", (0, FOREVER))


def copied(path: Path, url: str) -> Location:
    from app.storage.postgres.copying import copy
    from app.storage.postgres.tables import upgrade

    location = Postgres(url, path)
    upgrade(location)
    start = time.perf_counter()
    copy(path, location)
    print(f"copied in {time.perf_counter() - start:.0f} s")
    return location


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "million.db"
    if not path.exists():
        made(path)
    location = copied(path, sys.argv[2]) if len(sys.argv) > 2 else path
    with closing(connect(location, "ro", 5.0)) as connection:
        for table in ("calls", "rollups", "rolled_days", "rolled_users", *NAMES, "refusals"):
            (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            print(f"{count:>10,} rows in {table}")
    print(f"{'':60}{'median':>8}  {'most':>8}  {'CPU':>8}  ms")
    for name, question in questions(location):
        question()
        spent = []
        cpu = time.process_time()
        for _ in range(TRIES):
            start = time.perf_counter()
            question()
            spent.append(1000 * (time.perf_counter() - start))
        cpu = (time.process_time() - cpu) * 1000 / TRIES
        print(f"{name:60}{statistics.median(spent):8.1f}  {max(spent):8.1f}  {cpu:8.1f}")


if __name__ == "__main__":
    main()
