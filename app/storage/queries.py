"""The operator's queries over the ledger's file, in SQLAlchemy Core and in functions that PostgreSQL has too."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Engine, FromClause, case, create_engine, func, literal, null, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from .columns import QUARTER, Progress
from .errors import store_error
from .grouped import USAGE, BucketSums, Known, Wanted, raw, running
from .ledger_file import CallRow, reading
from .location import Location
from .running import NAMES, NEVER, USERS
from .schema import calls, rollups, stale, state

EPOCH = date(1970, 1, 1).toordinal()
TEAM_VERSION = 4  # of the file: there are roll-ups from it on
RUNNING_VERSION = 5  # there are running sums
END = 2**53 * 1000  # after all times, in Unix milliseconds
GROUPED = ("caller", "model", "upstream", "key", "endpoint", "day", "team", "key_id")
OF_UPSTREAMS = frozenset(("upstream", "key"))
SUMS = (*USAGE, "asked", "cached", "failed", "failed_asked", "estimated", "estimated_tokens", "microseconds")
EARLIER = CallRow._fields[: CallRow._fields.index("kind")]  # columns that earlier versions have


@dataclass(frozen=True, slots=True)
class Span:
    """Calls that came from ``since`` on and before ``until``, in Unix milliseconds; None is unbounded."""

    since: int | None = None
    until: int | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        return self.since or 0, END if self.until is None else self.until


def sums_of(location: Location, span: Span, by: Sequence[str]) -> list[tuple[Any, ...]]:
    """The groups of ``GROUPED`` and their ``SUMS``, whole numbers as floats; without ``by`` one row for all. Days are
    dates in UTC.

    Raises StoreError, as do the other queries here.
    """
    wanted = Wanted(tuple(by), SUMS, {})
    with connected(location) as (connection, version):
        if version < TEAM_VERSION:
            found = _earlier_sums(connection, span, wanted)
        else:
            summed = BucketSums(connection, _known(connection, version), span.bounds, wanted)
            (summed.add_days if "day" in by else summed.add_period)()
            summed.add_fresh()
            found = [row[1:] for row in summed.rows()]
    if "day" in by:
        place = by.index("day")
        names = {day: date.fromordinal(EPOCH + int(day)).isoformat() for day in {row[place] for row in found}}
        found = [(*row[:place], names[row[place]], *row[place + 1 :]) for row in found]
    return found if by or found else [(0.0,) * len(SUMS)]


def bucket_sums(
    location: Location, bounds: Sequence[int], groups: Sequence[str], where: Mapping[str, str], *, hours: bool
) -> list[tuple[Any, ...]]:
    """``USAGE`` of each bucket and group that has rows: a row has the bucket's number, the groups' values ("" for null)
    and the sums, whole numbers as floats; those with the most tokens come first in each bucket.

    ``bounds``: where the buckets begin and end, in Unix milliseconds. ``hours``: they are about as long as an hour.
    ``groups`` are ``key_id``, ``team``, ``model``, ``endpoint``, ``upstream`` and ``user``, ``where`` the first two.
    """
    wanted = Wanted(tuple(groups), (*USAGE, "asked"), where)
    with connected(location) as (connection, version):
        if version < TEAM_VERSION:
            return []
        summed = _bucketed(connection, _known(connection, version), bounds, wanted, hours)
    rows = summed.rows()
    rows.sort(key=itemgetter(1 + len(groups) + USAGE.index("total_tokens")), reverse=True)
    rows.sort(key=itemgetter(0))  # neither changes the order of equal rows
    return rows


def is_folded(groups: Sequence[str], where: Mapping[str, str]) -> bool:
    """True if days with these groups are read from running sums."""
    return (tuple(groups) == USERS.groups and not where) or running(Wanted(tuple(groups), (), where)) is not None


def _bucketed(connection: Connection, known: Known, bounds: Sequence[int], wanted: Wanted, hours: bool) -> BucketSums:
    if "user" not in wanted.groups:
        found = BucketSums(connection, known, bounds, wanted)
        (found.add_hours if hours else found.add_days)()
        found.add_fresh()
        return found
    found = BucketSums(connection, known, [max(bound, known.progress.kept_from) for bound in bounds], wanted)
    if hours or wanted.groups != ("user",) or wanted.where:
        found.add_all()
    else:
        found.add_user_days()
        found.add_fresh()
    return found


def last_calls(location: Location, span: Span, most: int) -> list[dict[str, Any]]:
    """The last ``most`` rows, the latest first."""
    with connected(location) as (connection, version):
        rows = calls if version >= TEAM_VERSION else _earlier()
        latest = (rows.c.time.desc(), rows.c.id.desc())
        query = select(*(rows.c[name] for name in CallRow._fields)).where(raw(rows).within(*span.bounds))
        return [dict(row) for row in connection.execute(query.order_by(*latest).limit(most)).mappings()]


def first_time(location: Location) -> int | None:
    """The time of the first call in Unix milliseconds, of a deleted one to the quarter of an hour; None for an empty
    ledger."""
    with connected(location) as (connection, version):
        time = connection.execute(select(func.min(calls.c.time))).scalar()
        quarter = None
        if version >= TEAM_VERSION and progress_of(connection).kept_from:
            quarter = connection.execute(select(func.min(rollups.c.quarter))).scalar()
    if quarter is None or (time is not None and time < quarter * QUARTER + QUARTER):
        return time
    return int(quarter * QUARTER)


def progress_of(connection: Connection) -> Progress:
    found = {row.name: row.value for row in connection.execute(select(state.c.name, state.c.value))}
    return Progress(found.get("rolled_up", 0), found.get("kept_from", 0))


def _known(connection: Connection, version: int) -> Known:
    first = dict.fromkeys(NAMES, 0)
    if version >= RUNNING_VERSION:
        query = select(stale.c.name, func.min(stale.c.day)).group_by(stale.c.name)
        first = dict.fromkeys(NAMES, NEVER)
        first.update((name, day) for name, day in connection.execute(query))
    return Known(progress_of(connection), first)


def _earlier() -> FromClause:
    """The rows of an earlier version with the columns of this one. A call counts in its last row."""
    number = func.row_number().over(partition_by=calls.c.request_id, order_by=calls.c.id.desc())
    later: dict[str, Any] = {name: null() for name in CallRow._fields[len(EARLIER) :]}
    later |= {"kind": literal("call"), "stream": literal(0), "cached_tokens": literal(0)}
    later["requests"] = case((number == 1, 1), else_=0)
    columns = [element.label(name) for name, element in later.items()]
    return select(calls.c.id, *(calls.c[name] for name in EARLIER), *columns).subquery()


def _earlier_sums(connection: Connection, span: Span, wanted: Wanted) -> list[tuple[Any, ...]]:
    rows = raw(_earlier())
    found = connection.execute(rows.summed(wanted).where(rows.within(*span.bounds)))
    return [tuple(row[1:]) for row in found if row[-1] is not None]


class _Open(threading.local):
    """The connection that the engine is to take, in this thread."""

    driver: Any = None


_open = _Open()


@lru_cache(2)
def _engine(name: str) -> Engine:
    """One engine for all databases of a kind, since it remembers the statements that it has compiled."""
    return create_engine(name, creator=lambda: _open.driver, poolclass=NullPool)


@contextmanager
def connected(location: Location) -> Iterator[tuple[Connection, int]]:
    """A connection, and the version of our tables. All queries see the same moment: rows may be rolled up between
    two."""
    with reading(location) as database:
        version = database.version()
        _open.driver = database.driver
        try:
            with _engine(database.dialect).connect() as connection:
                database.snapshot()  # the engine's start would end one that was begun before it
                yield connection, version
        except DBAPIError as error:
            raise store_error(error.orig or error) from None
        finally:
            _open.driver = None
