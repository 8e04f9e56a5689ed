"""Sums of the ledger's rows by bucket and group, in SQLAlchemy Core and in functions that PostgreSQL has too.

What was rolled up is read from the roll-ups: whole days in UTC, and the quarters of an hour between a midnight and the
moment at which a bucket begins or ends. Rows are read where they are not rolled up yet, and for part of a quarter.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Float,
    FromClause,
    Select,
    Table,
    and_,
    case,
    cast,
    func,
    literal,
    literal_column,
    select,
    true,
)

from .rollups import DAY, QUARTER, Distance, Progress, distance
from .schema import calls, rolled_days, rolled_users, rollups

DAY_MS = QUARTER * DAY
NULLABLE = ("key_id", "team", "user")
USAGE = ("requests", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cost")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The sums of each group, of which ``day`` is a day in UTC, over the rows that have the values of ``where``."""

    groups: tuple[str, ...]
    sums: tuple[str, ...]
    where: Mapping[str, str]


class Source(NamedTuple):
    """Roll-ups, or the ledger's rows with the same columns. ``unit`` is their time, ``per_day`` how many of its units a
    day has."""

    rows: FromClause
    columns: Mapping[str, ColumnElement[Any]]
    unit: ColumnElement[int]
    per_day: int

    def summed(
        self, wanted: Wanted, at: ColumnElement[Any] | None = None, rows: FromClause | None = None
    ) -> Select[Any]:
        """The columns are ``at``, the groups, and the sums as floats, since integers might overflow. ``rows``: a join
        in place of the rows."""
        groups = [self._day if name == "day" else self.columns[name] for name in wanted.groups]
        sums = [func.sum(cast(self.columns[name], Float)) for name in wanted.sums]
        query = select(literal(0) if at is None else at, *groups, *sums).select_from(
            self.rows if rows is None else rows
        )
        return query.group_by(*([] if at is None else [at]), *groups)

    @property
    def _day(self) -> ColumnElement[int]:
        return self.unit if self.per_day == 1 else self.unit // _written(self.per_day)

    def within(self, since: int, until: int) -> ColumnElement[bool]:
        return and_(self.unit >= since, self.unit < until)

    def only(self, wanted: Wanted) -> ColumnElement[bool]:
        return and_(true(), *(self.rows.c[name] == value for name, value in wanted.where.items()))


def _written(number: int) -> ColumnElement[int]:
    """A number in the statement's text: PostgreSQL takes two parameters for two expressions to group by."""
    return literal_column(str(number), BigInteger)


def _rolled(table: Table, unit: str, per_day: int) -> Source:
    return Source(table, dict(table.c.items()), table.c[unit], per_day)


def raw(rows: FromClause) -> Source:
    of = rows.c
    called, failed, estimated = of.kind == "call", of.status >= 400, of.estimated != 0
    columns = {
        **of,
        **{name: func.coalesce(of[name], literal_column("''")) for name in NULLABLE},
        "cost": func.coalesce(of.cost, 0),
        "model": func.coalesce(of.model_id, of.model),
        "asked": case((called, 1), else_=0),
        "cached": case((of.kind == "cached", of.requests), else_=0),
        "failed": case((failed, of.requests), else_=0),
        "failed_asked": case((and_(called, failed), 1), else_=0),
        "estimated": case((estimated, 1), else_=0),
        "estimated_tokens": case((estimated, of.total_tokens), else_=0),
        "microseconds": case((called, func.round(of.seconds * 1_000_000)), else_=0),
    }
    return Source(rows, columns, of.time, DAY_MS)


QUARTERS = _rolled(rollups, "quarter", DAY)
DAYS = _rolled(rolled_days, "day", 1)
USER_DAYS = _rolled(rolled_users, "day", 1)
ROWS = raw(calls)


class BucketSums:
    """Sums of each bucket between ``bounds`` (Unix milliseconds) and each group, from an open file of this version."""

    def __init__(self, connection: Connection, known: Progress, bounds: Sequence[int], wanted: Wanted) -> None:
        self._connection, self._known, self._wanted = connection, known, wanted
        self._bounds = list(bounds)
        self._last = len(bounds) - 2
        self._groups = len(wanted.groups)
        self.sums: dict[tuple[Any, ...], list[float]] = {}

    def add_fresh(self) -> None:
        """The rows that are not rolled up yet. Their index is the id, whatever else is asked for."""
        late = ROWS.unit + 0
        new = and_(calls.c.id > self._known.rolled_up, late >= self._bounds[0], late < self._bounds[-1])
        mine = [ROWS.columns[name] == value for name, value in self._wanted.where.items()]
        self._add_rows(ROWS, and_(new, *mine))

    def add_all(self) -> None:
        """All rows that are kept."""
        self._add_rows(ROWS, and_(ROWS.within(self._bounds[0], self._bounds[-1]), ROWS.only(self._wanted)))

    def add_quarters(self) -> None:
        """Roll-ups of bounds that are near each other."""
        first, last = self._bounds[0] // QUARTER, self._bounds[-1] // QUARTER
        query = QUARTERS.summed(self._wanted, QUARTERS.unit if self._last else None)
        found = query.where(QUARTERS.within(first, last), QUARTERS.only(self._wanted))
        self._add(found, lambda quarter: self._bucket(quarter * QUARTER))
        self._add_parts()

    def add_days(self) -> None:
        """Roll-ups of bounds that are a day apart or more."""
        distances = [distance(bound // QUARTER, DAY) for bound in self._bounds]
        self._add_whole(DAYS, distances)
        self._add_rest(QUARTERS, distances, true())
        self._add_parts()

    def add_user_days(self) -> None:
        """The same by user. Its rest is in rows: they are kept as long as these days."""
        kept = -(-self._known.kept_from // DAY_MS)
        distances = [distance(bound, DAY_MS, kept) for bound in self._bounds]
        self._add_whole(USER_DAYS, distances)
        self._add_rest(ROWS, distances, calls.c.id + 0 <= self._known.rolled_up)

    def _add_whole(self, days: Source, distances: Sequence[Distance]) -> None:
        firsts = [each.day for each in distances]
        query = days.summed(self._wanted, days.unit if self._last else None)
        found = query.where(days.within(firsts[0], firsts[-1]), days.only(self._wanted))
        self._add(found, lambda day: self._place(firsts, day))

    def _add_rest(self, source: Source, distances: Sequence[Distance], condition: ColumnElement[bool]) -> None:
        """The rows between the midnights and the bounds. Bounds that are at the same time of consecutive days in UTC,
        as midnights of a zone between two changes of the clock, are read at once."""
        for first, last in _alike(distances):
            _, low, high, sign = distances[first]
            if low == high:
                continue
            days = _days(distances[first].day, distances[last].day)
            start = days.c.day * source.per_day
            there = and_(source.unit >= start + low, source.unit < start + high)
            query = source.summed(self._wanted, days.c.day, days.join(source.rows, there))
            rows = self._rows(query.where(condition, source.only(self._wanted)))
            for day, *values in rows:
                self._move(first + day - distances[first].day, values, sign)

    def _add_parts(self) -> None:
        """The rows of a quarter of an hour before a bound in the midst of it. Where rows may be deleted, the bound
        counts as the quarter's start: sums of adjacent periods still add up."""
        for number in (0, len(self._bounds) - 1):
            bound = self._bounds[number]
            since = bound - bound % QUARTER
            if self._known.kept_from <= bound and since < bound:
                rolled_up = calls.c.id + 0 <= self._known.rolled_up
                query = ROWS.summed(self._wanted).where(ROWS.within(since, bound), rolled_up, ROWS.only(self._wanted))
                for _, *values in self._rows(query):
                    self._move(number, values, 1)

    def _add_rows(self, source: Source, condition: ColumnElement[bool]) -> None:
        quarter = source.unit // _written(QUARTER) if self._last else None
        self._add(source.summed(self._wanted, quarter).where(condition), lambda at: self._bucket(at * QUARTER))

    def _bucket(self, time: int) -> int:
        return self._place(self._bounds, time)

    def _place(self, bounds: Sequence[int], at: int) -> int:
        """The bucket in which a unit of time begins. One that begins before all bounds is in the first."""
        return min(max(bisect_right(bounds, at) - 1, 0), self._last)

    def _add(self, query: Select[Any], bucket: Callable[[int], int]) -> None:
        for at, *values in self._rows(query):
            self._count(bucket(at) if self._last else 0, values, 1)

    def _move(self, bound: int, values: list[Any], sign: int) -> None:
        """A row before a bound belongs to the bucket that ends there, and not to the one that begins there."""
        if bound > 0:
            self._count(bound - 1, values, sign)
        if bound <= self._last:
            self._count(bound, values, -sign)

    def _rows(self, query: Select[Any]) -> Iterator[Any]:
        return (row for row in self._connection.execute(query).all() if row[-1] is not None)  # None: sums of no rows

    def _count(self, bucket: int, values: list[Any], sign: int) -> None:
        groups = (bucket, *values[: self._groups])
        sums = self.sums.get(groups)
        if sums is None:
            added = values[self._groups :]
            self.sums[groups] = added if sign > 0 else [-value for value in added]
        else:
            for place, value in enumerate(values[self._groups :]):
                sums[place] += sign * value


def _alike(distances: Sequence[Distance]) -> Iterator[tuple[int, int]]:
    """The first and the last number of each run of distances at the same time of consecutive days."""
    first = 0
    for number in range(1, len(distances) + 1):
        before = distances[number - 1]
        if number == len(distances) or distances[number] != before._replace(day=before.day + 1):
            yield first, number - 1
            first = number


def _days(first: int, last: int) -> Any:
    days = select(literal(first, BigInteger).label("day")).cte("days", recursive=True)
    return days.union_all(select(days.c.day + 1).where(days.c.day < last))
