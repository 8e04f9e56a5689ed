"""Where the ledger lies: in an SQLite file, or in a PostgreSQL database that several hosts share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .postgres.address import place


@dataclass(frozen=True, slots=True)
class Postgres:
    """A database. ``url`` is postgresql://, as libpq takes it, and may hold a password. ``rows`` is the path beside
    which rows wait in files while the server is away. ``pooled``: PgBouncer is in between, in its transaction mode."""

    url: str = field(repr=False)
    rows: Path
    pooled: bool = False

    def __str__(self) -> str:
        """The URL without user, password and options."""
        return place(self.url)


Location = Path | Postgres


def rows_beside(location: Location) -> Path:
    """The path beside which rows wait that cannot be written."""
    return location if isinstance(location, Path) else location.rows
