"""Each store of the ledger, for tests of what both must do."""

from __future__ import annotations

import secrets
from pathlib import Path

import psycopg
import pytest

from app.storage.location import Location, Postgres
from app.storage.postgres.tables import upgrade


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A place where nothing is yet."""
    if request.param == "sqlite":
        return tmp_path / "torii.db"
    name = f"t{secrets.token_hex(8)}"
    with psycopg.connect("postgresql://torii@127.0.0.1:55432/postgres", autocommit=True) as c:
        c.execute(f"CREATE DATABASE {name}")
    location = Postgres(f"postgresql://torii@127.0.0.1:55432/{name}", tmp_path / "torii.db")
    upgrade(location)
    return location
