"""The calls."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

BIG: sa.types.TypeEngine[int] = sa.BigInteger().with_variant(sa.Integer, "sqlite")
REAL: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL, "sqlite")


def upgrade() -> None:
    op.create_table(
        "calls",
        sa.Column("id", BIG, primary_key=True),
        sa.Column("time", BIG, nullable=False),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("upstream_model", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("prompt_tokens", BIG, nullable=False),
        sa.Column("completion_tokens", BIG, nullable=False),
        sa.Column("total_tokens", BIG, nullable=False),
        sa.Column("estimated", sa.Integer, nullable=False),
        sa.Column("seconds", REAL, nullable=False),
        sa.Column("first_event_seconds", REAL),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
    )
    op.create_index("calls_by_time", "calls", ["time"])
