"""The operator's queries over the ledger's file, in SQLAlchemy Core and in functions that PostgreSQL has too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, FromClause, case, create_engine, func, literal, null, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from .grouped import USAGE, BucketSums, Wanted, raw
from .ledger_file import CallRow, reading
from .rollups import QUARTER, Progress
from .schema import calls, rollups, state
from .sqlite import store_error

EPOCH = date(1970, 1, 1).toordinal()
TEAM_VERSION = 4  # of the file: there are roll-ups from it on
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


def sums_of(path: Path, span: Span, by: Sequence[str]) -> list[dict[str, Any]]:
    """``SUMS`` of each group of ``GROUPED``; without ``by`` one row for all. Days are dates in UTC.

    Raises StoreError, as do the other queries here.
    """
    wanted = Wanted(tuple(by), SUMS, {})
    with connected(path) as (connection, version):
        if version < TEAM_VERSION:
            found = _earlier_sums(connection, span, wanted)
        else:
            summed = BucketSums(connection, _progress(connection), span.bounds, wanted)
            summed.add_days()
            summed.add_fresh()
            found = [(*key[1:], *sums) for key, sums in _some(summed)]
    listed = [dict(zip((*by, *SUMS), row, strict=True)) for row in found]
    for row in listed:
        if "day" in row:
            row["day"] = date.fromordinal(EPOCH + int(row["day"])).isoformat()
    return listed if by or listed else [dict.fromkeys(SUMS, 0.0)]


def bucket_sums(
    path: Path, bounds: Sequence[int], groups: Sequence[str], where: Mapping[str, str], *, hours: bool
) -> list[tuple[int, tuple[str, ...], list[float]]]:
    """``USAGE`` of each bucket and group that has rows: the bucket's number, the groups' values ("" for null) and the
    sums; those with the most tokens first in each bucket.

    ``bounds``: where the buckets begin and end, in Unix milliseconds. ``hours``: they are about as long as an hour.
    ``groups`` are ``key_id``, ``team``, ``model``, ``endpoint``, ``upstream`` and ``user``, ``where`` the first two.
    """
    wanted = Wanted(tuple(groups), (*USAGE, "asked"), where)
    with connected(path) as (connection, version):
        if version < TEAM_VERSION:
            return []
        summed = _bucketed(connection, bounds, wanted, hours)
    most = USAGE.index("total_tokens")
    found = sorted(_some(summed), key=lambda row: (row[0][0], -row[1][most], row[0]))
    return [(key[0], key[1:], sums[: len(USAGE)]) for key, sums in found]


def _bucketed(connection: Connection, bounds: Sequence[int], wanted: Wanted, hours: bool) -> BucketSums:
    known = _progress(connection)
    if "user" not in wanted.groups:
        found = BucketSums(connection, known, bounds, wanted)
        (found.add_quarters if hours else found.add_days)()
        found.add_fresh()
        return found
    found = BucketSums(connection, known, [max(bound, known.kept_from) for bound in bounds], wanted)
    if hours or wanted.groups != ("user",) or wanted.where:
        found.add_all()
    else:
        found.add_user_days()
        found.add_fresh()
    return found


def _some(found: BucketSums) -> list[tuple[tuple[Any, ...], list[float]]]:
    """Groups that have rows: those whose rows were all taken away again have none."""
    return [(key, sums) for key, sums in found.sums.items() if any(sums)]


def last_calls(path: Path, span: Span, most: int) -> list[dict[str, Any]]:
    """The last ``most`` rows, the latest first."""
    with connected(path) as (connection, version):
        rows = calls if version >= TEAM_VERSION else _earlier()
        latest = (rows.c.time.desc(), rows.c.id.desc())
        query = select(*(rows.c[name] for name in CallRow._fields)).where(raw(rows).within(*span.bounds))
        return [dict(row) for row in connection.execute(query.order_by(*latest).limit(most)).mappings()]


def first_time(path: Path) -> int | None:
    """The time of the first call in Unix milliseconds, of a deleted one to the quarter of an hour; None for an empty
    ledger."""
    with connected(path) as (connection, version):
        time = connection.execute(select(func.min(calls.c.time))).scalar()
        quarter = None
        if version >= TEAM_VERSION and _progress(connection).kept_from:
            quarter = connection.execute(select(func.min(rollups.c.quarter))).scalar()
    if quarter is None or (time is not None and time < quarter * QUARTER + QUARTER):
        return time
    return int(quarter * QUARTER)


def _progress(connection: Connection) -> Progress:
    found = {row.name: row.value for row in connection.execute(select(state.c.name, state.c.value))}
    return Progress(found.get("rolled_up", 0), found.get("kept_from", 0))


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


@contextmanager
def connected(path: Path) -> Iterator[tuple[Connection, int]]:
    """A connection, and the version of the file."""
    with reading(path) as driver:
        (version,) = driver.execute("PRAGMA user_version").fetchone()
        engine = create_engine("sqlite://", creator=lambda: driver, poolclass=NullPool)
        try:
            with engine.connect() as connection:
                # All queries see the same moment: rows may be rolled up between two. The engine's start ends what was
                # begun before it.
                connection.exec_driver_sql("BEGIN")
                yield connection, version
        except DBAPIError as error:
            raise store_error(error.orig or error) from None
