"""The ledger's tables in SQLAlchemy Core, in types that PostgreSQL has too. docs/ledger.md describes the columns.

migrations/ and new_file.py make the same tables; tests/storage compare all three.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    REAL,
    BigInteger,
    Column,
    ColumnElement,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement
from sqlalchemy.types import TypeEngine

# 64 bits in both databases: SQLite's id has to be an INTEGER, and PostgreSQL's REAL has 32.
BIG: TypeEngine[int] = BigInteger().with_variant(Integer, "sqlite")
# Compared by their bytes in both: whatever the locale of the database, ranges of ids are the same.
TEXT: TypeEngine[str] = Text().with_variant(Text(collation="C"), "postgresql")
FLOAT: TypeEngine[float] = Double().with_variant(REAL, "sqlite")

metadata = MetaData()


def _where(condition: ColumnElement[bool]) -> dict[str, Any]:
    """A partial index, in both databases."""
    return {"sqlite_where": condition, "postgresql_where": condition}


calls = Table(
    "calls",
    metadata,
    Column("id", BIG, primary_key=True),
    Column("time", BIG, nullable=False),  # Unix time in milliseconds
    Column("caller", TEXT, nullable=False),
    Column("endpoint", TEXT, nullable=False),
    Column("model", TEXT, nullable=False),
    Column("upstream", TEXT, nullable=False),
    Column("upstream_model", TEXT, nullable=False),
    Column("key", TEXT, nullable=False),
    Column("status", Integer, nullable=False),
    Column("error", TEXT),
    Column("prompt_tokens", BIG, nullable=False),
    Column("completion_tokens", BIG, nullable=False),
    Column("total_tokens", BIG, nullable=False),
    Column("estimated", Integer, nullable=False),  # 0 or 1
    Column("seconds", FLOAT, nullable=False),
    Column("first_event_seconds", FLOAT),
    Column("attempts", Integer, nullable=False),
    Column("request_id", TEXT, nullable=False),
    # Version 4. The defaults are those of rows that an earlier version wrote.
    Column("kind", TEXT, nullable=False, server_default="call"),  # call, or cached: no upstream was asked
    Column("requests", Integer, nullable=False, server_default="1"),  # 1 in one row of each call, 0 in its others
    Column("key_id", TEXT),  # the id of a virtual key, the name of a configured caller; null while open
    Column("team", TEXT),  # the team's id
    Column("model_id", TEXT),  # the model after alias, prefix and case
    Column("stream", Integer, nullable=False, server_default="0"),  # 0 or 1
    Column("cached_tokens", BIG, nullable=False, server_default="0"),  # what a cached answer would have cost
    Column("cost", BIG),  # nano-dollars; null without a price
    Column("price_date", TEXT),
    Column("user", TEXT),  # the caller's ``user`` field
    Column("tag", TEXT),  # the caller's x-torii-tag
    Column("run_id", TEXT),
    Index("calls_by_time", "time"),
    Index("calls_by_request", "request_id"),
)
# Only the rows that are looked for, so that the others cost nothing.
Index("calls_by_key", calls.c.key_id, calls.c.time, **_where(calls.c.key_id.is_not(None)))
Index("calls_by_team", calls.c.team, calls.c.time, **_where(calls.c.team.is_not(None)))
Index("calls_by_model", calls.c.model_id, calls.c.time, **_where(calls.c.model_id.is_not(None)))
Index("calls_by_name", calls.c.model, calls.c.time, **_where(calls.c.model_id.is_(None)))  # of earlier versions
Index("calls_failed", calls.c.status, calls.c.time, **_where(calls.c.status != 200))
Index("calls_cached", calls.c.time, **_where(calls.c.kind == "cached"))

key_rests = Table(
    "key_rests",
    metadata,
    Column("upstream", TEXT, primary_key=True),
    Column("fingerprint", TEXT, primary_key=True),
    Column("alias", TEXT, nullable=False),
    Column("cause", TEXT, nullable=False),
    Column("until", FLOAT, nullable=False),  # Unix time in seconds
    sqlite_with_rowid=False,
)


refusals = Table(
    "refusals",
    metadata,
    Column("minute", BIG, primary_key=True),  # Unix time in minutes
    Column("key_id", TEXT, primary_key=True),
    Column("team", TEXT, primary_key=True),  # empty without a team
    Column("reason", TEXT, primary_key=True),  # the limit, as requests_per_minute or tokens/day
    Column("count", BIG, nullable=False),
    sqlite_with_rowid=False,
)

# The sums of roll-ups.
SUMS = ("requests", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cost")
MORE = (
    "asked",  # rows of kind call: an upstream was asked
    "cached",  # callers' calls of kind cached
    *("failed", "failed_asked"),  # callers' calls, and rows of kind call, with a status from 400 on
    *("estimated", "estimated_tokens"),  # rows with an estimate, and their total_tokens
    "microseconds",  # of the rows of kind call
)
FEW = (*SUMS, "asked")


def _rolled(name: str, unit: str, groups: tuple[str, ...], sums: tuple[str, ...]) -> Table:
    """A table of roll-ups. Groups are empty for null, and ``model`` is model_id, else model."""
    columns: list[Column[Any]] = [
        Column(unit, BIG, primary_key=True),
        *(Column(group, TEXT, primary_key=True) for group in groups),
        *(Column(each, BIG, nullable=False) for each in sums),
    ]
    return Table(name, metadata, *columns, sqlite_with_rowid=False)


# Unix time in quarters of an hour, and in days: whatever the zone, a day there is a day in UTC and a few quarters.
GROUPS = ("key_id", "team", "model", "endpoint", "upstream", "caller", "key")
rollups = _rolled("rollups", "quarter", GROUPS, SUMS + MORE)
rolled_days = _rolled("rolled_days", "day", GROUPS, SUMS + MORE)
rolled_users = _rolled("rolled_users", "day", ("user",), FEW)  # while rows are kept
rolled_blocks = _rolled("rolled_blocks", "block", GROUPS, SUMS + MORE)  # of 32 days


def _running(name: str, groups: tuple[str, ...], sums: tuple[str, ...]) -> Table:
    """A table of what a day in UTC has summed to by the end of each slot, numbered from 1: running.py has the rest."""
    columns: list[Column[Any]] = [
        Column("slot", Integer, primary_key=True),
        Column("day", BIG, primary_key=True),
        *(Column(group, TEXT, primary_key=True) for group in groups),
        *(Column(each, BIG, nullable=False) for each in sums),
    ]
    return Table(name, metadata, *columns, sqlite_with_rowid=False)


running_keys = _running("running_keys", ("key_id", "team", "caller"), SUMS + MORE)
running_models = _running("running_models", ("team", "model", "endpoint", "upstream", "key"), SUMS + MORE)
running_users = _running("running_users", ("user",), FEW)  # while rows are kept

# Days in UTC with rows that a table of running sums, or rolled_blocks, does not have yet.
stale = Table(
    "stale",
    metadata,
    Column("name", TEXT, primary_key=True),  # of the table
    Column("day", BIG, primary_key=True),
    sqlite_with_rowid=False,
)

# Version 5.
classifiers = Table(
    "classifiers",
    metadata,
    Column("request_id", TEXT, primary_key=True),  # of the call that trained it; new if it was adopted
    Column("classifier_id", TEXT),  # null until the provider has said it
    Column("key_id", TEXT, nullable=False),  # as in calls; open while the gateway is open
    Column("team", TEXT),  # the owner, if there is one
    Column("upstream", TEXT, nullable=False),
    Column("account", TEXT, nullable=False),  # the alias of the upstream's key
    Column("fingerprint", TEXT, nullable=False),  # of the upstream's key, as in key_rests
    Column("model", TEXT, nullable=False),
    Column("labels", TEXT, nullable=False),  # a JSON list
    Column("created_at", BIG, nullable=False),  # Unix time in milliseconds
    Column("state", TEXT, nullable=False),  # training, unknown, ready, deleted
    Index("classifiers_by_id", "classifier_id"),
    sqlite_with_rowid=False,
)

counters = Table(
    "counters",
    metadata,
    Column("scope", TEXT, primary_key=True),  # key:ID, team:ID, organization
    Column("unit", TEXT, primary_key=True),  # tokens, usd (nano-dollars), requests, calls, runs
    Column("filter", TEXT, primary_key=True),  # canonical JSON of a budget's endpoints and models; empty for none
    Column("since", BIG, primary_key=True),  # Unix time in seconds: the window
    Column("until", BIG, primary_key=True),
    Column("spent", BIG, nullable=False),
    Column("held", BIG, nullable=False),
    sqlite_with_rowid=False,
)

seconds = Table(
    "seconds",
    metadata,
    Column("scope", TEXT, primary_key=True),
    Column("unit", TEXT, primary_key=True),  # tokens, requests
    Column("second", BIG, primary_key=True),  # Unix time
    Column("amount", BIG, nullable=False),
    sqlite_with_rowid=False,
)

processes = Table(
    "processes",
    metadata,
    Column("id", TEXT, primary_key=True),
    Column("until", BIG, nullable=False),  # the end of its lease, Unix time in milliseconds
    sqlite_with_rowid=False,
)

holds = Table(
    "holds",
    metadata,
    Column("request_id", TEXT, primary_key=True),
    Column("process", TEXT, nullable=False),
    Column("lost", BIG),  # Unix time in milliseconds at which the process was found dead; null while it lives
    Column("body", TEXT, nullable=False),  # JSON: the charges, and the row if the process dies
    sqlite_with_rowid=False,
)

alerts = Table(
    "alerts",
    metadata,
    Column("scope", TEXT, primary_key=True),
    Column("unit", TEXT, primary_key=True),
    Column("filter", TEXT, primary_key=True),
    Column("since", BIG, primary_key=True),
    Column("amount", BIG, primary_key=True),  # of the budget
    Column("percent", Integer, primary_key=True),
    Column("time", BIG, nullable=False),  # Unix time in milliseconds
    sqlite_with_rowid=False,
)

keys = Table(
    "keys",
    metadata,
    Column("id", TEXT, primary_key=True),
    Column("name", TEXT, nullable=False, unique=True),
    Column("team", TEXT),
    Column("created_at", BIG, nullable=False),  # Unix time in milliseconds, as in the next ones
    Column("expires_at", BIG),
    Column("last_used_at", BIG),
    Column("revoked_at", BIG),
    Column("disabled", Integer, nullable=False),  # 0 or 1
    Column("fields", TEXT, nullable=False),  # JSON: owner, metadata, allowed_*, limits, budgets, on_disconnect, cache
    sqlite_with_rowid=False,
)

secrets = Table(
    "secrets",
    metadata,
    Column("hash", TEXT, primary_key=True),  # SHA-256 of the whole key, in hexadecimal
    Column("key_id", TEXT, nullable=False),
    Column("tail", TEXT, nullable=False),  # the last four characters
    Column("created_at", BIG, nullable=False),
    Column("valid_until", BIG),  # the end of the grace after a rotation; null for the present secret
    sqlite_with_rowid=False,
)

teams = Table(
    "teams",
    metadata,
    Column("id", TEXT, primary_key=True),
    Column("name", TEXT, nullable=False, unique=True),
    Column("created_at", BIG, nullable=False),
    Column("disabled", Integer, nullable=False),
    Column("fields", TEXT, nullable=False),  # JSON: limits, budgets, metadata
    sqlite_with_rowid=False,
)

management_keys = Table(
    "management_keys",
    metadata,
    Column("id", TEXT, primary_key=True),
    Column("name", TEXT, nullable=False, unique=True),
    Column("scope", TEXT, nullable=False),  # admin, read_only, team:ID
    Column("hash", TEXT, nullable=False, unique=True),
    Column("tail", TEXT, nullable=False),
    Column("created_at", BIG, nullable=False),
    sqlite_with_rowid=False,
)

audit = Table(
    "audit",
    metadata,
    Column("id", BIG, primary_key=True),
    Column("time", BIG, nullable=False),
    Column("actor", TEXT, nullable=False),  # operator, the name of a management key, or command line
    Column("address", TEXT),
    Column("action", TEXT, nullable=False),  # key.create, key.edit, key.rotate, team.create, ...
    Column("object_id", TEXT, nullable=False),
    Column("changes", TEXT, nullable=False),  # JSON, without secrets
    Index("audit_by_time", "time"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("key", TEXT, primary_key=True),  # the header Idempotency-Key
    Column("request", TEXT, nullable=False),  # SHA-256 of the actor, the path and the body
    Column("object_id", TEXT, nullable=False),
    Column("time", BIG, nullable=False),
    sqlite_with_rowid=False,
)

state = Table(
    "state",
    metadata,
    Column(
        "name", TEXT, primary_key=True
    ),  # keys: how often keys and teams were changed; rolled_up: a row's id; kept_from: ms
    Column("value", BIG, nullable=False),
    sqlite_with_rowid=False,
)


def statements() -> list[str]:
    """SQLite's statements for all tables and indexes, as in new_file.py."""
    made: list[ExecutableDDLElement] = []
    for table in metadata.sorted_tables:
        made += [CreateTable(table), *map(CreateIndex, sorted(table.indexes, key=lambda index: str(index.name)))]
    return [_plain(str(each.compile(dialect=sqlite.dialect()))) for each in made]


def _plain(text: str) -> str:
    return "\n".join(line.replace("\t", "    ").rstrip() for line in text.strip().splitlines())
