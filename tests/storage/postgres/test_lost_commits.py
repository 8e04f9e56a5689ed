"""Commits whose answer is lost: rows are written once, and no hold stays that nobody knows of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.storage.errors import StoreError
from app.storage.ledger_file import LedgerFile
from app.storage.location import Postgres
from app.storage.postgres.connection import PostgresConnection
from app.storage.verify import verify

from ...conftest import until
from ...ledger import read
from ...servers import Cut, PostgresServer
from ..charging import TOTAL, charge, held, row


class Lost:
    """Loses the answers to the commits of a ledger behind the proxy, every third one, and resets its connection."""

    def __init__(self, cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cut, self.commits, self.off = cut, 0, False
        send = PostgresConnection.send

        def sent(connection: PostgresConnection, *, commits: bool = False) -> None:
            self.commits += commits
            if commits and self.commits % 3 == 0 and not self.off:
                self.cut.cut(requests=False, answers=True)
                asyncio.run_coroutine_threadsafe(self.heal(), self.cut.loop)
            send(connection, commits=commits)

        monkeypatch.setattr(PostgresConnection, "send", sent)

    async def heal(self) -> None:
        """The commit has arrived by then as a rule; if not, it counts as not made, which is right too."""
        await asyncio.sleep(0.05)
        await self.cut._reset()
        await self.cut._set(requests=False, answers=False)


@pytest.fixture
async def lost(
    postgres: PostgresServer, tables_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Lost, Postgres, Postgres]]:
    """The ledger through the proxy, and straight."""
    name = tables_url.rpartition("/")[2]
    with Cut(postgres.port) as cut:
        through = Postgres(postgres.url(name, port=cut.port), tmp_path / "torii.db")
        yield Lost(cut, monkeypatch), through, Postgres(tables_url, tmp_path / "torii.db")


async def test_rows_are_written_once_and_holds_that_nobody_knows_of_are_released(
    lost: tuple[Lost, Postgres, Postgres],
) -> None:
    losing, through, straight = lost
    file = LedgerFile(through, flush_seconds=0.01, sweep_seconds=0.1)
    held_calls: list[str] = []

    async def caller(number: int) -> None:
        for turn in range(6):
            name = f"call-{number}-{turn}"
            try:
                asked = held(charge("requests", 1, 10_000, TOTAL), charge("tokens", 100, 10**6, TOTAL), request_id=name)
                assert (await file.hold(asked)).refused is None
            except StoreError:
                file.record_call(row(f"free-{name}", key_id=None, total_tokens=1))
            else:
                held_calls.append(name)
                file.settle(name, [row(name, total_tokens=30)])

    await asyncio.gather(*map(caller, range(8)))
    assert losing.commits >= 3
    losing.off = True
    await until(lambda: file.waiting == 0 and file.health is None, 20)
    file.close()
    assert read(straight, "SELECT count(*), count(DISTINCT request_id) FROM calls") == [(48, 48)]
    assert read(straight, "SELECT count(*) FROM holds") == [(0,)]
    spent = dict(read(straight, "SELECT unit, spent FROM counters WHERE spent > 0"))
    assert spent == {"requests": len(held_calls), "tokens": 30 * len(held_calls)}
    assert verify(straight) == []
