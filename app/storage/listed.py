"""The ledger's rows and refusals one by one, the latest first."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, and_, func, literal_column, or_, select, true

from .columns import DAY_MS
from .ledger_file import CallRow
from .location import Location
from .queries import connected, progress_of
from .schema import calls, refusals, rolled_days

MINUTE = 60_000  # milliseconds
REFUSED = 429  # the status of every refusal that is counted
FAILED = 400
# As in the index of the other rows; written into a statement, since a parameter would not show that it fits.
USUAL = 200
# What a row is called for the operator, where the name is not the column's.
NAMES = {"key": "upstream_key", "key_id": "key"}
COLUMNS = tuple(name for name in CallRow._fields if name not in ("time", "kind", "key_id", "team"))

Place = tuple[int, int, str, str, str]  # time, id (0 of a refusal), and the rest of a refusal's key


@dataclass(frozen=True, slots=True)
class Which:
    """The rows that have all these values; None is any. ``kind``: call, cached or refusal. ``since`` and ``until`` are
    in Unix milliseconds. A refusal has no model and no request id, and is of the start of its minute."""

    key: str | None = None
    team: str | None = None
    model: str | None = None
    status: int | None = None
    request_id: str | None = None
    kind: str | None = None
    since: int | None = None
    until: int | None = None


def place(text: str) -> Place:
    """The place of a row in the list, from its id. Raises ValueError."""
    try:
        raw = base64.urlsafe_b64decode(text.removeprefix("row_") + "==")
        return msgspec.json.decode(raw, type=Place)
    except (ValueError, msgspec.DecodeError):
        raise ValueError("no id of a row") from None


def _id(of: Place) -> str:
    return "row_" + base64.urlsafe_b64encode(msgspec.json.encode(of)).decode().rstrip("=")


def rows(location: Location, which: Which, most: int, after: Place | None = None) -> list[dict[str, Any]]:
    """At most ``most`` rows behind the place, the latest first; of one moment, calls before refusals.

    Rows that are added later come before those that were listed. Raises StoreError.
    """
    with connected(location) as (connection, _):
        days = _days(connection, which)
        parts = [_calls(connection, query.where(days).limit(most)) for query in _of_calls(which, after)]
        if _may_be_refusals(which):
            parts.append(_refusals(connection, _of_refusals(which, after).limit(most)))
        found = merge(*(((_order(at), at, row) for at, row in part) for part in parts), key=lambda each: each[0])
        return [{"id": _id(at), **row} for _, at, row in islice(found, most)]


def _order(at: Place) -> tuple[int, int, str, str, str]:
    time, number, *rest = at
    return (-time, -number, rest[0], rest[1], rest[2])


def _of_calls(which: Which, after: Place | None) -> Iterator[Select[Any]]:
    """One query, or two by model: rows of an earlier version have no model_id."""
    if which.kind == "refusal":
        return
    conditions = [*_chosen(which)]
    if which.since is not None:
        conditions.append(calls.c.time >= which.since)
    if which.until is not None:
        conditions.append(calls.c.time < which.until)
    if after is not None:
        time, number, *_ = after
        earlier = calls.c.time < time
        conditions += [calls.c.time <= time, or_(earlier, calls.c.id < number)] if number else [earlier]
    query = select(calls).where(*conditions).order_by(calls.c.time.desc(), calls.c.id.desc())
    if which.model is None:
        yield query
    else:
        yield query.where(_same("model_id", which.model, indexed=_leader(which) == "model"))
        yield query.where(calls.c.model_id.is_(None), calls.c.model == which.model)


def _days(connection: Connection, which: Which) -> ColumnElement[bool]:
    """The days in UTC in which the roll-ups have rows of several values at once: else the index of the one value would
    be read to its end, if rows of the other are few. Rows that are not rolled up yet are of any day."""
    of = rolled_days.c
    values = {"key_id": which.key, "team": which.team, "model": which.model}
    conditions = [of[name] == value for name, value in values.items() if value is not None]
    if which.kind == "cached":
        conditions.append(or_(of.cached > 0, of.cached_tokens > 0))
    if which.status is not None and which.status >= FAILED:
        conditions.append(or_(of.failed > 0, of.failed_asked > 0))
    if len(conditions) < 2 or which.request_id is not None or which.kind == "refusal":
        return true()
    known = progress_of(connection)
    conditions.append(of.day >= known.kept_from // DAY_MS)
    if which.since is not None:
        conditions.append(of.day >= which.since // DAY_MS)
    if which.until is not None:
        conditions.append(of.day <= which.until // DAY_MS)
    days = connection.execute(select(of.day).where(*conditions).distinct()).scalars().all()
    return or_(calls.c.id > known.rolled_up, (calls.c.time // literal_column(str(DAY_MS))).in_(days))


def _chosen(which: Which) -> Iterator[ColumnElement[bool]]:
    leader = _leader(which)
    for column, name in (("request_id", "request_id"), ("key_id", "key"), ("team", "team"), ("kind", "kind")):
        value = getattr(which, name)
        if value is not None:
            yield _same(column, value, indexed=name == leader)
    if leader == "kind":
        yield calls.c.kind == literal_column("'cached'")
    if which.status is not None:
        yield calls.c.status == which.status
    if leader == "status":
        yield calls.c.status != literal_column(str(USUAL))


def _leader(which: Which) -> str:
    """The filter whose index is read, since the database has no statistics: as a rule it leaves the fewest rows."""
    given = {
        "request_id": which.request_id is not None,
        "status": which.status not in (None, USUAL),
        "key": which.key is not None,
        "model": which.model is not None,
        "kind": which.kind == "cached",
        "team": which.team is not None,
    }
    return next((name for name, is_given in given.items() if is_given), "")


def _same(column: str, value: Any, *, indexed: bool) -> ColumnElement[bool]:
    of: ColumnElement[Any] = calls.c[column]
    found: ColumnElement[bool] = (of if indexed else func.coalesce(of, "")) == value
    return found


def _may_be_refusals(which: Which) -> bool:
    others = which.model is not None or which.request_id is not None or which.status not in (None, REFUSED)
    return which.kind in (None, "refusal") and not others


def _of_refusals(which: Which, after: Place | None) -> Select[Any]:
    of = refusals.c
    columns = {"key_id": which.key, "team": which.team}
    conditions = [of[name] == value for name, value in columns.items() if value is not None]
    if which.since is not None:
        conditions.append(of.minute >= -(-which.since // MINUTE))
    if which.until is not None:
        conditions.append(of.minute < -(-which.until // MINUTE))
    if after is not None:
        time, number, *names = after
        minute = time // MINUTE
        conditions.append(of.minute <= minute)
        if not number:
            conditions.append(or_(of.minute < minute, _behind(names)))
    return select(refusals).where(*conditions).order_by(of.minute.desc(), of.key_id, of.team, of.reason)


def _behind(names: list[str]) -> ColumnElement[bool]:
    """Later in the order of key, team and reason."""
    of = refusals.c
    key, team, reason = names
    same_team = and_(of.team == team, of.reason > reason)
    return or_(of.key_id > key, and_(of.key_id == key, or_(of.team > team, same_team)))


def _calls(connection: Connection, query: Select[Any]) -> Iterator[tuple[Place, dict[str, Any]]]:
    for row in connection.execute(query).mappings():
        about = {name: row[name] for name in ("kind", "time", "team")} | {"key": row["key_id"]}
        more = {NAMES.get(name, name): row[name] for name in COLUMNS}
        yield (row["time"], row["id"], "", "", ""), {**about, "count": 1, "reason": None, **more}


def _refusals(connection: Connection, query: Select[Any]) -> Iterator[tuple[Place, dict[str, Any]]]:
    for minute, key, team, reason, count in connection.execute(query):
        about = {"kind": "refusal", "time": minute * MINUTE, "team": team or None, "key": key or None}
        yield (minute * MINUTE, 0, key, team, reason), {**about, "count": count, "reason": reason, "status": REFUSED}
