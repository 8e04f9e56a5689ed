"""Virtual keys, teams, limits and budgets; and what they need of each call."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    _extend_calls()
    _add_accounts()
    _add_keys()


def _extend_calls() -> None:
    for column in (
        sa.Column("kind", sa.Text, nullable=False, server_default="call"),
        sa.Column("requests", sa.Integer, nullable=False, server_default="1"),
        sa.Column("key_id", sa.Text),
        sa.Column("team", sa.Text),
        sa.Column("model_id", sa.Text),
        sa.Column("stream", sa.Integer, nullable=False, server_default="0"),
        sa.Column("cached_tokens", BIG, nullable=False, server_default="0"),
        sa.Column("cost", BIG),
        sa.Column("price_date", sa.Text),
        sa.Column("user", sa.Text),
        sa.Column("tag", sa.Text),
        sa.Column("run_id", sa.Text),
    ):
        op.add_column("calls", column)
    for name, column_name in (("key", "key_id"), ("team", "team"), ("model", "model_id")):
        _create_partial(f"calls_by_{name}", [column_name, "time"], f"{column_name} IS NOT NULL")
    op.create_index("calls_by_request", "calls", ["request_id"])
    _create_partial("calls_by_name", ["model", "time"], "model_id IS NULL")
    _create_partial("calls_failed", ["status", "time"], "status >= 400")
    _create_partial("calls_cached", ["time"], "kind = 'cached'")
    # A call counts once, in its last row. Few calls have several, which the index finds in one pass.
    op.execute(
        "UPDATE calls SET requests = 0 WHERE id IN (SELECT calls.id FROM calls JOIN "
        "(SELECT request_id, max(id) AS last FROM calls GROUP BY request_id HAVING count(*) > 1) AS several "
        "ON calls.request_id = several.request_id AND calls.id < several.last)"
    )


def _create_partial(name: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, "calls", columns, sqlite_where=where, postgresql_where=where)


def _add_accounts() -> None:
    _table("refusals", "minute:int", "key_id", "team", "reason", sa.Column("count", BIG, nullable=False))
    _add_rollups()
    amounts = (sa.Column(name, BIG, nullable=False) for name in ("spent", "held"))
    _table("counters", "scope", "unit", "filter", "since:int", "until:int", *amounts)
    _table("seconds", "scope", "unit", "second:int", sa.Column("amount", BIG, nullable=False))
    _table("processes", "id", sa.Column("until", BIG, nullable=False))
    _table(
        "holds",
        "request_id",
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("lost", BIG),
        sa.Column("body", sa.Text, nullable=False),
    )
    percent = sa.Column("percent", sa.Integer, primary_key=True)
    _table(
        *("alerts", "scope", "unit", "filter", "since:int", "amount:int"),
        percent,
        sa.Column("time", BIG, nullable=False),
    )


def _add_rollups() -> None:
    groups = ("key_id", "team", "model", "endpoint", "upstream", "caller", "key")
    sums = ("requests", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cost")
    more = ("asked", "cached", "failed", "failed_asked", "estimated", "estimated_tokens", "microseconds")
    _table("rollups", "quarter:int", *groups, *_sums(*sums, *more))
    _table("rolled_days", "day:int", *groups, *_sums(*sums, *more))
    _table("rolled_users", "day:int", "user", *_sums(*sums, "asked"))


def _sums(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, BIG, nullable=False) for name in names]


def _add_keys() -> None:
    _table(
        *("keys", "id"),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("team", sa.Text),
        sa.Column("created_at", BIG, nullable=False),
        sa.Column("expires_at", BIG),
        sa.Column("last_used_at", BIG),
        sa.Column("revoked_at", BIG),
        sa.Column("disabled", sa.Integer, nullable=False),
        sa.Column("fields", sa.Text, nullable=False),
    )
    _table(
        *("secrets", "hash"),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("tail", sa.Text, nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.Column("valid_until", BIG),
    )
    _table(
        *("teams", "id"),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("created_at", BIG, nullable=False),
        sa.Column("disabled", sa.Integer, nullable=False),
        sa.Column("fields", sa.Text, nullable=False),
    )
    _table(
        *("management_keys", "id"),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False, unique=True),
        sa.Column("tail", sa.Text, nullable=False),
        sa.Column("created_at", BIG, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", BIG, primary_key=True),
        sa.Column("time", BIG, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("address", sa.Text),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("object_id", sa.Text, nullable=False),
        sa.Column("changes", sa.Text, nullable=False),
    )
    op.create_index("audit_by_time", "audit", ["time"])
    _table(
        *("idempotency", "key"),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("object_id", sa.Text, nullable=False),
        sa.Column("time", BIG, nullable=False),
    )
    _table("state", "name", sa.Column("value", BIG, nullable=False))


def _table(name: str, *columns: str | sa.Column[Any]) -> None:
    """A table without row ids. A text names a column of its primary key, of type text or, with ``:int``, integer."""
    made = []
    for column in columns:
        if isinstance(column, str):
            column_name, _, kind = column.partition(":")
            made.append(sa.Column(column_name, BIG if kind else sa.Text, primary_key=True))
        else:
            made.append(column)
    op.create_table(name, *made, sqlite_with_rowid=False)
