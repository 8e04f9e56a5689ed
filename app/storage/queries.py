"""The operator's queries over the ledger's file, in SQLAlchemy Core and in functions that PostgreSQL has too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Select,
    and_,
    case,
    cast,
    create_engine,
    distinct,
    func,
    select,
    true,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from .ledger_file import CallRow, reading
from .schema import calls
from .sqlite import store_error

DAY = 86_400_000  # milliseconds
EPOCH = date(1970, 1, 1).toordinal()

GROUPED: dict[str, ColumnElement[Any]] = {
    "caller": calls.c.caller,
    "model": calls.c.model,
    "upstream": calls.c.upstream,
    "key": calls.c.key,
    "endpoint": calls.c.endpoint,
    "day": calls.c.time // DAY,
}


def _calls(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """The number of calls with such a row: a call has one row for each upstream that it reached."""
    return func.count(distinct(case((condition, calls.c.request_id))))


def _sum(number: ColumnElement[Any]) -> ColumnElement[Any]:
    """The sum as a float, since a sum of integers might overflow."""
    return func.coalesce(func.sum(cast(number, Float)), 0.0)


# A call has failed if none of its rows has an answer.
SUMS: dict[str, ColumnElement[Any]] = {
    "calls": func.count(distinct(calls.c.request_id)),
    "failed": func.count(distinct(calls.c.request_id)) - _calls(calls.c.status < 400),
    "prompt_tokens": _sum(calls.c.prompt_tokens),
    "completion_tokens": _sum(calls.c.completion_tokens),
    "total_tokens": _sum(calls.c.total_tokens),
    "estimated_calls": _calls(calls.c.estimated != 0),
    "estimated_tokens": _sum(calls.c.total_tokens * calls.c.estimated),
    "seconds": func.avg(calls.c.seconds),
}


@dataclass(frozen=True, slots=True)
class Span:
    """Calls that came from ``since`` on and before ``until``, in Unix milliseconds; None is unbounded."""

    since: int | None = None
    until: int | None = None

    def condition(self) -> ColumnElement[bool]:
        since = true() if self.since is None else calls.c.time >= self.since
        until = true() if self.until is None else calls.c.time < self.until
        return and_(since, until)


def sums_of(path: Path, span: Span, by: Sequence[str]) -> list[dict[str, Any]]:
    """The ``SUMS`` of each group, those with the most tokens first, days in order; without ``by`` one row for all.

    Raises StoreError, as do the other queries here.
    """
    groups = [GROUPED[name].label(name) for name in by]
    sums = {name: element.label(name) for name, element in SUMS.items()}
    query = select(*groups, *sums.values()).where(span.condition())
    if groups:
        largest = (sums["total_tokens"].desc(), sums["calls"].desc(), groups[0])
        query = query.group_by(*groups).order_by(*(groups[:1] if by[0] == "day" else largest))
    found = _rows(path, query)
    for row in found:
        if "day" in row:
            row["day"] = date.fromordinal(EPOCH + row["day"]).isoformat()
    return found


def last_calls(path: Path, span: Span, most: int) -> list[dict[str, Any]]:
    """The last ``most`` rows, the latest first."""
    columns = [calls.c[name] for name in CallRow._fields]
    latest = (calls.c.time.desc(), calls.c.id.desc())
    return _rows(path, select(*columns).where(span.condition()).order_by(*latest).limit(most))


def first_time(path: Path) -> int | None:
    """The time of the first call in Unix milliseconds; None for an empty ledger."""
    (row,) = _rows(path, select(func.min(calls.c.time).label("time")))
    time: int | None = row["time"]
    return time


def _rows(path: Path, query: Select[Any]) -> list[dict[str, Any]]:
    with _connected(path) as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


@contextmanager
def _connected(path: Path) -> Iterator[Connection]:
    with reading(path) as driver:
        engine = create_engine("sqlite://", creator=lambda: driver, poolclass=NullPool)
        try:
            with engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise store_error(error.orig or error) from None
