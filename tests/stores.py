"""Each store of the ledger, for tests of what both must do; ``path`` is that of a file, for what only a file can do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from app.storage.location import Location, Postgres
from app.storage.opening import TABLES, connect

from .servers import PostgresServer

# Each example begins with ``emptied``.
EMPTIED = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A place where nothing is yet but, in PostgreSQL, the tables."""
    if request.param == "sqlite":
        return tmp_path / "torii.db"
    url: str = request.getfixturevalue("tables_url")
    return Postgres(url, tmp_path / "torii.db")


@pytest.fixture(scope="session")
def tables(postgres: PostgresServer) -> str:
    """The name of a database with our tables, of which others are made."""
    from app.storage.postgres.tables import upgrade

    name = postgres.create()
    upgrade(Postgres(postgres.url(name), Path("unused")))
    return name


@pytest.fixture
def tables_url(postgres: PostgresServer, tables: str) -> Iterator[str]:
    """Of a new database with our tables, which is dropped after the test."""
    name = postgres.create(tables)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture(name="path")
def ledger_path(tmp_path: Path) -> Path:
    return tmp_path / "torii.db"


def emptied(location: Location) -> None:
    """Again nothing is there, for the next example of a test."""
    if isinstance(location, Path):
        for suffix in ("", "-wal", "-shm"):
            Path(f"{location}{suffix}").unlink(missing_ok=True)
        return
    with closing(connect(location, "rw", 5.0)) as connection:
        connection.begin()
        for table in TABLES - {"alembic_version"}:
            connection.execute(f"DELETE FROM {table}")
        connection.commit()
