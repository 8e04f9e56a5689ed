"""Changed keys are heard of at once, and seen by polling if nothing is heard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.callers.accounts import key_file
from app.callers.registry import Registry
from app.storage.location import Postgres

from ...conftest import until
from ...ledger import read
from ...servers import Cut, PostgresServer

LISTENING = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
WHO = "operator", None


@pytest.fixture
def location(tables_url: str, tmp_path: Path) -> Postgres:
    return Postgres(tables_url, tmp_path / "torii.db")


@pytest.fixture
def watching(location: Postgres, request: pytest.FixtureRequest) -> Callable[..., Registry]:
    def watch(**changes: Any) -> Registry:
        registry = Registry(replace(location, **changes), poll_seconds=0.05)
        registry.start()
        request.addfinalizer(registry.close)
        return registry

    return watch


def _knows(registry: Registry, key_id: str) -> bool:
    return key_id in registry.now.keys


async def test_a_change_is_heard_before_the_next_look(
    location: Postgres, watching: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.storage.postgres.listener.HEARING_SECONDS", 3600.0)
    registry = watching()
    await until(lambda: read(location, LISTENING) == [(1,)])
    for name in "abc":
        key, _ = key_file(location).create_key({"name": name}, *WHO)
        await until(partial(_knows, registry, key.id))


async def test_a_change_is_seen_through_pgbouncer_which_passes_nothing_on(
    location: Postgres, watching: Callable[..., Registry]
) -> None:
    registry = watching(pooled=True)
    key, _ = key_file(location).create_key({"name": "a"}, *WHO)
    await until(lambda: key.id in registry.now.keys)
    assert read(location, LISTENING) == [(0,)]


async def test_a_change_is_seen_after_the_connection_was_lost(
    location: Postgres, postgres: PostgresServer, watching: Callable[..., Registry]
) -> None:
    name = location.url.rpartition("/")[2]
    with Cut(postgres.port) as cut:
        registry = watching(url=postgres.url(name, port=cut.port))
        await until(lambda: read(location, LISTENING) == [(1,)])
        cut.cut()
        key, _ = key_file(location).create_key({"name": "a"}, *WHO)
        assert key.id not in registry.now.keys
        cut.reset()
        cut.heal()
        await until(lambda: key.id in registry.now.keys)
