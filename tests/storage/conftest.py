"""Each store of the ledger, for tests of what both must do; ``path`` is that of a file, for what only a file can do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.storage.location import Location, Postgres
from app.storage.postgres.tables import upgrade

from ..servers import PostgresServer


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
    name = postgres.create()
    upgrade(Postgres(postgres.url(name), Path("unused")))
    return name


@pytest.fixture
def tables_url(postgres: PostgresServer, tables: str) -> Iterator[str]:
    """Of a new database with our tables, which is dropped after the test."""
    name = postgres.create(tables)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "torii.db"
