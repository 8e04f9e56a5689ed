"""Sums for reports over long periods. They are made of the roll-ups when the gateway runs, day by day."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
SUMS = ("requests", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cost", "asked")
MORE = ("cached", "failed", "failed_asked", "estimated", "estimated_tokens", "microseconds")
TABLES = {
    "running_keys": ("slot", ("day", "key_id", "team", "caller"), SUMS + MORE),
    "running_models": ("slot", ("day", "team", "model", "endpoint", "upstream", "key"), SUMS + MORE),
    "running_users": ("slot", ("day", "user"), SUMS),
    "rolled_blocks": ("block", ("key_id", "team", "model", "endpoint", "upstream", "caller", "key"), SUMS + MORE),
}


def upgrade() -> None:
    where = sa.text("status != 200")
    op.drop_index("calls_failed", "calls")
    op.create_index("calls_failed", "calls", ["status", "time"], sqlite_where=where, postgresql_where=where)
    for name, (unit, groups, sums) in TABLES.items():
        _table(name, _key(unit), *map(_key, groups), *(sa.Column(each, BIG, nullable=False) for each in sums))
    _table("stale", _key("name"), _key("day"))
    for name in TABLES:
        op.execute(f"INSERT INTO stale (name, day) SELECT DISTINCT '{name}', day FROM rolled_days")  # noqa: S608 - our own names


def _table(name: str, *columns: Any) -> None:
    op.create_table(name, *columns, sqlite_with_rowid=False)


def _key(name: str) -> sa.Column[Any]:
    kind: Any = {"slot": sa.Integer, "day": BIG, "block": BIG}.get(name, sa.Text)
    return sa.Column(name, kind, primary_key=True)
