"""Sums of the ledger's rows by quarter of an hour and by day, in UTC, which stay when the rows are deleted.

    calls -> step, some hundred rows a transaction -> rollups, rolled_days, rolled_users
                                                   -> stale, the days that running.py folds

``state.rolled_up`` is the id of the last row that is in them; rows behind it are summed where they are needed.
``state.kept_from``: rows before this time (Unix milliseconds, a whole quarter) may be deleted. This module uses the
driver alone; schema.py describes the columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .columns import DAY, FEW, GROUPS, MODEL, QUARTER, SET_STATE, SUMS, USER, progress
from .connection import StoreConnection
from .filters import fits
from .holds import FOREVER
from .running import BLOCK, BLOCKS, first_stale, mark

STEP = 500  # rows of one transaction

_UNITS = {"tokens": "total_tokens", "usd": "cost", "requests": "requests"}
SCOPES = {"key": "key_id", "team": "team"}
_CHOSEN = {**GROUPS, "user": USER}
_BY_USER = ("user",)
_ALL = tuple(GROUPS)


def _adding(table: str, unit: str, groups: tuple[str, ...], sums: tuple[str, ...]) -> tuple[str, str]:
    """Statements that add and take the rows of calls whose ids lie above the first parameter, up to the second."""
    keys = ", ".join(f'"{name}"' for name in (unit, *groups))
    length = QUARTER if unit == "quarter" else QUARTER * DAY
    chosen = ", ".join((f"time / {length}", *(_CHOSEN[name] for name in groups)))

    def statement(sign: str) -> str:
        summed = ", ".join(f"{sign}sum({SUMS[name]})" for name in sums)
        added = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in sums)
        return (  # of our own names; values are parameters, here and below
            f"INSERT INTO {table} ({keys}, {', '.join(sums)}) SELECT {chosen}, {summed} FROM calls "  # noqa: S608 - our own names
            f"WHERE id > ? AND id <= ? GROUP BY {', '.join(map(str, range(1, len(groups) + 2)))} "
            f"ON CONFLICT ({keys}) DO UPDATE SET {added}"
        )

    return statement(""), statement("-")


_TABLES = {
    "rollups": ("quarter", QUARTER, _adding("rollups", "quarter", _ALL, tuple(SUMS))),
    "rolled_days": ("day", QUARTER * DAY, _adding("rolled_days", "day", _ALL, tuple(SUMS))),
    "rolled_users": ("day", QUARTER * DAY, _adding("rolled_users", "day", _BY_USER, FEW)),
}


def step(connection: StoreConnection, most: int = STEP) -> int:
    """Adds the next rows to the roll-ups, in one transaction; returns how many, 0 if there are none.

    Several processes may do so: a row is added once, with ``rolled_up`` in the same transaction.
    """
    if not _next(connection, progress(connection).rolled_up, 1)[0]:
        return 0
    connection.begin()
    try:
        since = progress(connection).rolled_up
        count, last = _next(connection, since, most)
        if count:
            for _, _, (add, _) in _TABLES.values():
                connection.execute(add, (since, last))
            mark(connection, since, last)
            connection.execute(SET_STATE, ("rolled_up", last))
        connection.commit()
    except BaseException:
        if connection.in_transaction:
            connection.rollback()
        raise
    return count


def _next(connection: StoreConnection, since: int, most: int) -> tuple[int, int]:
    query = "SELECT count(*), max(id) FROM (SELECT id FROM calls WHERE id > ? ORDER BY id LIMIT ?) AS next"
    count, last = connection.execute(query, (since, most)).fetchone()
    return count, last or since


def unroll(connection: StoreConnection, row: int) -> None:
    """Takes the row with this id out of the roll-ups, if it is in them: before it is changed, in the same transaction.
    ``roll`` puts the changed row in again."""
    if row > progress(connection).rolled_up:
        return
    mark(connection, row - 1, row)
    for table, (unit, length, (_, take)) in _TABLES.items():
        connection.execute(take, (row - 1, row))
        empty = " AND ".join(f"{name} = 0" for name in FEW)
        its = f"(SELECT time / {length} FROM calls WHERE id = ?)"  # noqa: S608 - our own columns
        # Our own names.
        connection.execute(f"DELETE FROM {table} WHERE {unit} = {its} AND {empty}", (row,))  # noqa: S608 - our own names


def roll(connection: StoreConnection, row: int) -> None:
    """Adds the changed row with this id to the roll-ups, if ``step`` has passed it."""
    if row <= progress(connection).rolled_up:
        for _, _, (add, _) in _TABLES.values():
            connection.execute(add, (row - 1, row))
        mark(connection, row - 1, row)


def delete(connection: StoreConnection, rows: Iterable[int]) -> None:
    """Deletes the rows with these ids, and takes them out of the roll-ups: for rows that others replace, inserted after
    this, in the same transaction."""
    for row in rows:
        unroll(connection, row)
        connection.execute("DELETE FROM calls WHERE id = ?", (row,))
    forget_ids(connection)


def forget_ids(connection: StoreConnection) -> None:
    """To be called after rows were deleted, in the same transaction: SQLite gives the ids behind the last row again,
    and the rows that get them are not rolled up yet."""
    connection.execute(
        "UPDATE state SET value = (SELECT coalesce(max(id), 0) FROM calls) "
        "WHERE name = 'rolled_up' AND value > (SELECT coalesce(max(id), 0) FROM calls)"
    )


class Distance(NamedTuple):
    """A bound of a bucket, as the days before ``day`` with the units from ``low`` to ``high`` after its midnight more
    (``sign`` 1), or those before it less (-1)."""

    day: int
    low: int
    high: int
    sign: int


def distance(time: int, per_day: int, first_day: int = 0) -> Distance:
    """``time`` is in units of which a day has ``per_day``. The day is that of the nearest midnight, so that little is
    read, but none before ``first_day``."""
    day = max((time + per_day // 2) // per_day, first_day)
    after = time - day * per_day
    return Distance(day, min(0, after), max(0, after), 1 if after > 0 else -1)


def spent_before(connection: StoreConnection, scope: str, unit: str, window: tuple[int, int], filter_: str = "") -> int:
    """The start of a counter: the sum of all rows of the scope in the window (Unix seconds, from and until) that
    fit the filter, whether they are still kept or not. ``unit``: tokens, usd (nano-dollars) or requests. Inside a
    transaction."""
    known = progress(connection)
    since, until = window[0] * 1000, min(window[1], FOREVER) * 1000
    kind, _, owner = scope.partition(":")
    mine = f"coalesce({SCOPES[kind]}, '') = ?1" if kind in SCOPES else "1 = 1"
    name = _UNITS[unit]
    # Our own names and numbers.
    raw = f"SELECT endpoint, {MODEL} AS model, {{}} * ({SUMS[name]}) AS amount FROM calls WHERE {mine} AND "  # noqa: S608 - our own names
    rolled = f"SELECT endpoint, model, {{}} * {name} AS amount FROM {{}} WHERE {mine} AND "  # noqa: S608 - our own names
    parts = [f"{raw.format(1)} id > {known.rolled_up} AND +time >= {since} AND +time < {until}"]
    days = []
    for side, time in ((-1, since), (1, until)):
        day, low, high, sign = distance(time // QUARTER, DAY)
        days.append(day)
        if low < high:
            quarters = f"quarter >= {day * DAY + low} AND quarter < {day * DAY + high}"
            parts.append(f"{rolled.format(side * sign, 'rollups')} {quarters}")
        start = time - time % QUARTER
        if known.kept_from <= time and start < time:
            parts.append(f"{raw.format(side)} time >= {start} AND time < {time} AND +id <= {known.rolled_up}")
    low = -(-days[0] // BLOCK)
    high = max(low, min(days[1], first_stale(connection, BLOCKS)) // BLOCK)
    parts.append(f"{rolled.format(1, BLOCKS)} block >= {low} AND block < {high}")
    for first, last in ((days[0], min(low * BLOCK, days[1])), (max(high * BLOCK, days[0]), days[1])):
        if first < last:
            parts.append(f"{rolled.format(1, 'rolled_days')} day >= {first} AND day < {last}")
    query = f"SELECT endpoint, model, sum(amount) FROM ({' UNION ALL '.join(parts)}) AS parts GROUP BY 1, 2"  # noqa: S608 - our own names
    found = connection.execute(query, (owner,) if kind in SCOPES else ())
    return sum(amount for endpoint, model, amount in found if fits(filter_, endpoint, model))
