"""Alembic's own table, which Alembic makes. From this version on an older Torii refuses the file."""

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Changes nothing else."""
