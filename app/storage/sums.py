"""What the ledger's rows say was spent: the truth that counters start from and are checked against."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from .filters import fits
from .holds import FOREVER
from .rollups import DAY, QUARTER, distance, progress

MODEL = "coalesce(model_id, model)"


class Spent(NamedTuple):
    """The sums of some rows; ``usd`` in nano-dollars."""

    requests: int = 0
    tokens: int = 0
    usd: int = 0


def spent(connection: sqlite3.Connection, scope: str, chosen: str, since: int, until: int) -> Spent:
    """The sums of a scope's rows in a window of Unix seconds whose endpoint and model fit the filter ``chosen``. The
    rows themselves may have been deleted. Inside a transaction."""
    known = progress(connection)
    since, until = since * 1000, min(until, FOREVER) * 1000
    days: list[int] = []
    parts = [(1, _ROWS, f"id > {known.rolled_up} AND +time >= {since} AND +time < {until}")]
    for side, time in ((-1, since), (1, until)):
        day, low, high, sign = distance(time // QUARTER, DAY)
        days.append(day)
        if low < high:
            quarters = f"quarter >= {day * DAY + low} AND quarter < {day * DAY + high}"
            parts.append((side * sign, _QUARTERS, quarters))
        start = time - time % QUARTER
        if known.kept_from <= time and start < time:
            parts.append((side, _ROWS, f"time >= {start} AND time < {time} AND +id <= {known.rolled_up}"))
    parts.append((1, _DAYS, f"day >= {days[0]} AND day < {days[1]}"))
    where, values = _of(scope)
    sums = [0, 0, 0]
    for sign, query, times in parts:
        mine = where.replace("AND ", "AND +") if "id > " in times else where  # the index is the id
        for endpoint, model, *found in connection.execute(query.format(times, mine), values):
            if fits(chosen, endpoint, model):
                sums = [each + sign * value for each, value in zip(sums, found, strict=True)]
    return Spent(*sums)


def last_minute(connection: sqlite3.Connection, scope: str, since: int) -> list[tuple[int, int, int]]:
    """``(second, requests, tokens)`` of a scope's rows from the second ``since`` on."""
    where, values = _of(scope)
    return connection.execute(_SECONDS.format(where), (since, *values)).fetchall()


def _of(scope: str) -> tuple[str, tuple[str, ...]]:
    kind, _, name = scope.partition(":")
    column = {"key": "key_id", "team": "team"}.get(kind)
    return (f" AND {column} = ?", (name,)) if column else ("", ())


_ROWS = f"""SELECT endpoint, {MODEL}, sum(requests), sum(total_tokens), coalesce(sum(cost), 0) FROM calls
    WHERE {{}}{{}} GROUP BY 1, 2"""  # noqa: S608 - our own columns
_ROLLED = "SELECT endpoint, model, sum(requests), sum(total_tokens), sum(cost) FROM {} WHERE {{}}{{}} GROUP BY 1, 2"
_QUARTERS, _DAYS = _ROLLED.format("rollups"), _ROLLED.format("rolled_days")
_SECONDS = """SELECT time / 1000, sum(requests), sum(total_tokens) FROM calls
    WHERE time >= ? * 1000{} GROUP BY 1"""
