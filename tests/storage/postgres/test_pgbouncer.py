"""The ledger through PgBouncer in its transaction mode, where nothing is left of a session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from app.callers.accounts import key_file
from app.storage.holds import MINUTE
from app.storage.key_records import load
from app.storage.ledger_file import LedgerFile
from app.storage.location import Postgres
from app.storage.queries import Span, sums_of
from app.storage.retention import keep_up
from app.storage.verify import verify

from ...conftest import until
from ...ledger import read
from ...servers import Bouncer, PostgresServer
from ..charging import TOTAL, charge, held, row


@pytest.fixture
def bouncer(postgres: PostgresServer) -> Iterator[Bouncer]:
    with Bouncer(postgres.folder, postgres.port) as bouncer:
        yield bouncer


@pytest.fixture
def url(postgres: PostgresServer, tables_url: str, bouncer: Bouncer) -> str:
    return postgres.url(tables_url.rpartition("/")[2], port=bouncer.port)


def test_a_session_keeps_nothing(url: str) -> None:
    """So do these tests see what depends on a session."""
    with psycopg.connect(url, autocommit=True, prepare_threshold=0) as connection:
        with pytest.raises(psycopg.errors.InvalidSqlStatementName):  # it was prepared in another session
            connection.execute("SELECT 1 + %s", (1,))
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        for _ in range(8):
            assert connection.execute("SELECT 1 + %s", (1,)).fetchall() == [(2,)]


async def test_holds_rows_keys_and_reports(url: str, tmp_path: Path, bouncer: Bouncer) -> None:
    location = Postgres(url, tmp_path / "torii.db", pooled=True)
    files = [LedgerFile(location, flush_seconds=0.01, sweep_seconds=0.05) for _ in range(2)]

    async def caller(file: LedgerFile, number: int) -> int:
        charges = charge("requests", 1, 15, TOTAL), charge("tokens", 10, 10**6, MINUTE)
        decision = await file.hold(held(*charges, request_id=f"call-{number}"))
        if decision.refused is None:
            file.settle(f"call-{number}", [row(f"call-{number}", total_tokens=7)])
        return int(decision.refused is None)

    passed = await asyncio.gather(*(caller(files[number % 2], number) for number in range(40)))
    assert sum(passed) == 15
    key, _ = await asyncio.to_thread(key_file(location).create_key, {"name": "ana"}, "operator", None)
    assert load(location).keys.keys() == {key.id}
    await until(lambda: not any(file.waiting for file in files))
    for file in files:
        await asyncio.to_thread(file.close)
    keep_up(location)
    assert read(location, "SELECT count(*), sum(total_tokens) FROM calls") == [(15, 105)]
    assert sums_of(location, Span(), ["key_id"])[0][:2] == ("k", 15.0)
    assert verify(location) == []
    assert bouncer.transactions > 20


async def test_without_the_setting_the_error_names_it(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = LedgerFile(Postgres(url, tmp_path / "torii.db"), flush_seconds=0.01, sweep_seconds=0.05)

    def told() -> bool:
        file.record_call(row(key_id=None))
        return "set storage.pgbouncer: true" in caplog.text

    await until(told)
    await asyncio.to_thread(file.close)
