"""Cooldowns of keys, which outlive a restart."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "key_rests",
        sa.Column("upstream", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, primary_key=True),
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("until", sa.Double().with_variant(sa.REAL, "sqlite"), nullable=False),
        sqlite_with_rowid=False,
    )
