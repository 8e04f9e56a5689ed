"""Classifiers: who owns them, and at which account each is."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "classifiers",
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("classifier_id", sa.Text),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("team", sa.Text),
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("classifiers_by_id", "classifiers", ["classifier_id"])
