"""Alembic's own table, which Alembic makes. An older Torii refuses the file from here on."""

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Nothing else."""
