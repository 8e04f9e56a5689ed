"""Sums of the ledger's rows by bucket and group, in SQLAlchemy Core and in functions that PostgreSQL has too.

Days that were folded are read from the running sums, and from blocks of 32 days, as far as these have the groups. What
was rolled up else is read from the roll-ups: whole days in UTC, and the quarters of an hour between a midnight and the
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
    union_all,
)

from .collected import Collected
from .columns import DAY, DAY_MS, QUARTER, Progress
from .pieces import Piece, parts, whole
from .rollups import Distance, distance
from .running import BLOCK, BLOCKS, KEYS, MODELS, NEVER, USERS, Running
from .schema import calls, metadata, rolled_blocks, rolled_days, rolled_users, rollups

HOUR = 4  # quarters
BLOCK_MS = BLOCK * DAY_MS
NULLABLE = ("key_id", "team", "user")
USAGE = ("requests", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cost")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The sums of each group, of which ``day`` is a day in UTC, over the rows that have the values of ``where``."""

    groups: tuple[str, ...]
    sums: tuple[str, ...]
    where: Mapping[str, str]


class Known(NamedTuple):
    """The progress of the roll-ups, and the first day that is not in each table of ``running.NAMES``."""

    progress: Progress
    stale: Mapping[str, int]


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


class PartOfDays(NamedTuple):
    """Rows of a part of several days: the day of each, where they are, and which they are."""

    day: ColumnElement[int]
    rows: FromClause
    there: ColumnElement[bool]


class BucketSums:
    """Sums of each bucket between ``bounds`` (Unix milliseconds) and each group, from an open file of this version."""

    def __init__(self, connection: Connection, known: Known, bounds: Sequence[int], wanted: Wanted) -> None:
        self._connection, self._wanted = connection, wanted
        self._known, self._stale = known
        self._bounds = list(bounds)
        self._last = len(bounds) - 2
        self._groups = len(wanted.groups)
        self._found = Collected(self._groups)

    def add_fresh(self) -> None:
        """The rows that are not rolled up yet. Their index is the id, whatever else is asked for."""
        late = ROWS.unit + 0
        new = and_(calls.c.id > self._known.rolled_up, late >= self._bounds[0], late < self._bounds[-1])
        mine = [ROWS.columns[name] == value for name, value in self._wanted.where.items()]
        self._add_rows(ROWS, and_(new, *mine))

    def add_all(self) -> None:
        """All rows that are kept."""
        self._add_rows(ROWS, and_(ROWS.within(self._bounds[0], self._bounds[-1]), ROWS.only(self._wanted)))

    def add_period(self) -> None:
        """Roll-ups of one bucket, in days that are not shown: blocks of days as far as there are any."""
        since, until = self._bounds
        low = -(-since // BLOCK_MS)
        high = max(min(until // BLOCK_MS, self._stale[BLOCKS] // BLOCK), low)
        if low < high:
            query = select(literal(0), *_summands(rolled_blocks.c, self._wanted, 1)).where(
                rolled_blocks.c.block >= low, rolled_blocks.c.block < high, _only(rolled_blocks, self._wanted)
            )
            self._add_summed(query)
            self._between(0, low * BLOCK_MS).add_days()
            self._between(high * BLOCK_MS, NEVER * DAY_MS).add_days()
        else:
            self.add_days()

    def add_days(self) -> None:
        """Roll-ups of bounds that are a day apart or more."""
        table = running(self._wanted)
        until = self._stale[table.name] * DAY_MS if table else 0
        self._between(0, until)._add_running(table)
        self._between(until, NEVER * DAY_MS)._add_rolled_days()

    def add_user_days(self) -> None:
        """The same by user. Its rest is in rows: they are kept as long as these days."""
        since = -(-self._known.kept_from // DAY_MS) * DAY_MS
        until = max(self._stale[USERS.name] * DAY_MS, since)
        self._between(0, since)._add_rolled_users()
        self._between(since, until)._add_running(USERS)
        self._between(until, NEVER * DAY_MS)._add_rolled_users()

    def _between(self, since: int, until: int) -> BucketSums:
        """The same buckets, without what is before the one midnight, and from the other on; it adds to these sums."""
        part = BucketSums(
            *(self._connection, Known(self._known, self._stale)),
            [min(max(bound, since), until) for bound in self._bounds],
            self._wanted,
        )
        part._found = self._found
        return part

    def rows(self) -> list[tuple[Any, ...]]:
        """A bucket, the groups and the sums, for each that has rows, in the order of bucket and groups."""
        return self._found.rows()

    def add_hours(self) -> None:
        """Roll-ups of bounds that are near each other."""
        firsts = [bound // QUARTER for bound in self._bounds]
        there = and_(QUARTERS.within(firsts[0], firsts[-1]), QUARTERS.only(self._wanted))
        inner = firsts[1:-1]
        if inner and inner == list(range(inner[0], inner[-1] + 1, HOUR)) and inner[0] - firsts[0] <= HOUR:
            bucket = (QUARTERS.unit - _written(inner[0] - HOUR)) // _written(HOUR)
            self._found.add(self._rows(QUARTERS.summed(self._wanted, bucket).where(there)))
        else:
            query = QUARTERS.summed(self._wanted, QUARTERS.unit if self._last else None).where(there)
            self._add(query, lambda quarter: self._bucket(quarter * QUARTER))
        self._add_parts()

    def _add_rolled_days(self) -> None:
        if self._bounds[0] == self._bounds[-1]:
            return
        distances = [distance(bound // QUARTER, DAY) for bound in self._bounds]
        self._add_whole(DAYS, distances)
        self._add_rest(QUARTERS, distances, true())
        self._add_parts()

    def _add_rolled_users(self) -> None:
        if self._bounds[0] == self._bounds[-1]:
            return
        kept = -(-self._known.kept_from // DAY_MS)
        distances = [distance(bound, DAY_MS, kept) for bound in self._bounds]
        self._add_whole(USER_DAYS, distances)
        self._add_rest(ROWS, distances, calls.c.id + 0 <= self._known.rolled_up)

    def _add_running(self, table: Running | None) -> None:
        """Running sums at each bound: what is before it belongs to the bucket that ends there, and not to the one that
        begins there."""
        if table is None or self._bounds[0] == self._bounds[-1]:
            return
        queries = [*self._slots(table), *self._behind(table)]
        if queries:
            self._add_summed(union_all(*queries))
        if table is not USERS:
            self._add_parts()

    def _slots(self, table: Running) -> Iterator[Select[Any]]:
        places = [divmod(bound // table.length, table.slots) for bound in self._bounds]
        rows = metadata.tables[table.name]
        days = whole([day for day, _ in places], table.slots)
        for piece in (*days, *parts([(day, slot or None) for day, slot in places])):
            there = and_(rows.c.slot == piece.part, rows.c.day.between(piece.first, piece.last))
            columns = _summands(rows.c, self._wanted, piece.sign)
            yield select(_bucket(piece, rows.c.day), *columns).where(there, _only(rows, self._wanted))

    def _behind(self, table: Running) -> Iterator[Select[Any]]:
        """The rest between the end of a slot and a bound: in quarters, or in rows, if the roll-ups have no users."""
        source, unit = (ROWS, 1) if table is USERS else (QUARTERS, QUARTER)
        condition = calls.c.id + 0 <= self._known.rolled_up if table is USERS else true()
        places: list[tuple[int, tuple[int, int] | None]] = []
        for bound in self._bounds:
            day, rest = divmod(bound, DAY_MS)
            low, high = rest // table.length * table.length // unit, rest // unit
            places.append((day, (low, high) if low < high else None))
        for number, piece in enumerate(parts(places)):
            of = self._part_of_days(source, piece.first, piece.last, piece.part, f"days{number}")
            columns = _summands({**source.columns, "day": of.day}, self._wanted, piece.sign)
            query = select(_bucket(piece, of.day), *columns).select_from(of.rows)
            yield query.where(of.there, condition, source.only(self._wanted))

    def _add_summed(self, query: Any) -> None:
        """The sums of rows of a bucket, the groups and summands."""
        rows = query.subquery()
        at, *columns = rows.c
        groups, sums = columns[: self._groups], columns[self._groups :]
        summed = select(at, *groups, *(func.sum(cast(each, Float)) for each in sums)).group_by(at, *groups)
        self._found.add(self._rows(summed))

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
            of = self._part_of_days(source, distances[first].day, distances[last].day, (low, high))
            query = source.summed(self._wanted, of.day, of.rows)
            rows = self._rows(query.where(of.there, condition, source.only(self._wanted)))
            for day, *values in rows:
                self._move(first + day - distances[first].day, values, sign)

    def _part_of_days(
        self, source: Source, first: int, last: int, part: tuple[int, int], name: str = "days"
    ) -> PartOfDays:
        """The rows of a part of each day, which is in units from its midnight on. SQLite reads a range of an index for
        each day; PostgreSQL would compare each row with each day, so it reads all rows of the days once."""
        low, high = part
        if self._connection.dialect.name == "sqlite":
            days = _days(first, last, name)
            start = days.c.day * source.per_day
            there = and_(source.unit >= start + low, source.unit < start + high)
            return PartOfDays(days.c.day, days.join(source.rows, there), true())
        length, since = _written(source.per_day), source.unit - _written(low)
        span = source.within(first * source.per_day + low, last * source.per_day + high)
        return PartOfDays(since // length, source.rows, and_(span, since % length < high - low))

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

    def _rows(self, query: Select[Any]) -> list[tuple[Any, ...]]:
        """The driver's own rows, which cost half as much. A sum of no rows is None, and left out."""
        cursor = self._connection.execute(query).cursor
        return [row for row in cursor.fetchall() if row[-1] is not None] if cursor else []

    def _count(self, bucket: int, values: list[Any], sign: int) -> None:
        self._found.count((bucket, *values[: self._groups]), values[self._groups :], sign)


def _bucket(piece: Piece[Any], day: ColumnElement[int]) -> ColumnElement[int]:
    return day - _written(piece.shift) if piece.number is None else literal(piece.number)


def running(wanted: Wanted) -> Running | None:
    """The table that has all groups and sums."""
    needed = {*wanted.groups, *wanted.where} - {"day"}
    tables = (table for table in (MODELS, KEYS) if needed <= set(table.groups))
    return next(tables, None)


def _summands(columns: Any, wanted: Wanted, sign: int) -> Iterator[ColumnElement[Any]]:
    for name in (*wanted.groups, *wanted.sums):
        of = columns[name]
        yield (of if sign > 0 or name in wanted.groups else -of).label(name)


def _only(table: Table, wanted: Wanted) -> ColumnElement[bool]:
    return and_(true(), *(table.c[name] == value for name, value in wanted.where.items()))


def _alike(distances: Sequence[Distance]) -> Iterator[tuple[int, int]]:
    """The first and the last number of each run of distances at the same time of consecutive days."""
    first = 0
    for number in range(1, len(distances) + 1):
        before = distances[number - 1]
        if number == len(distances) or distances[number] != before._replace(day=before.day + 1):
            yield first, number - 1
            first = number


def _days(first: int, last: int, name: str = "days") -> Any:
    days = select(literal(first, BigInteger).label("day")).cte(name, recursive=True)
    return days.union_all(select(days.c.day + 1).where(days.c.day < last))
