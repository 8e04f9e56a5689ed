"""Processes of several hosts: each knows how many there are, and one that stops in the midst blocks nobody for long."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import psycopg
import pytest

from app.storage.ledger_file import LedgerFile
from app.storage.location import Postgres
from app.storage.postgres.connection import PostgresConnection
from app.storage.verify import verify

from ...conftest import until
from ...ledger import read
from ..charging import TOTAL, charge, held, opened, row

SPAWN = get_context("spawn")


@pytest.fixture
def location(tables_url: str, tmp_path: Path) -> Postgres:
    return Postgres(tables_url, tmp_path / "torii.db")


def ranks(files: list[LedgerFile]) -> list[tuple[int, int]]:
    return sorted((file.replicas.rank, file.replicas.processes) for file in files if file.replicas is not None)


async def test_each_process_knows_how_many_live(location: Postgres) -> None:
    with opened(location, lease_seconds=0.3) as one, opened(location, lease_seconds=0.3) as two:
        await until(lambda: ranks([one, two]) == [(0, 2), (1, 2)])
        with opened(location, lease_seconds=0.3) as three:
            await until(lambda: ranks([one, two, three]) == [(0, 3), (1, 3), (2, 3)])
        await until(lambda: ranks([one, two]) == [(0, 2), (1, 2)])


def stopping(location: Postgres, pipe: Connection) -> None:
    """A process that has a hold, and stops in the midst of the transaction that would take another."""

    async def run() -> None:
        file = LedgerFile(location, flush_seconds=0.01)
        await file.hold(held(charge("requests", 1, 10, TOTAL), request_id="kept"))
        begin = PostgresConnection.begin

        def stopped(connection: PostgresConnection) -> None:
            begin(connection)
            PostgresConnection.begin = begin  # type: ignore[method-assign]  # once
            pipe.send("stops")
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

        PostgresConnection.begin = stopped  # type: ignore[assignment, method-assign]  # where it stops
        file.record_call(row("after", key_id=None, total_tokens=1))
        await until(lambda: file.waiting == 0)
        file.settle("kept", [row("kept", total_tokens=5)])
        await until(lambda: file.waiting == 0)
        file.close()
        pipe.send("ends")

    asyncio.run(run())


async def test_a_process_that_stops_in_the_midst_blocks_the_others_for_two_seconds(location: Postgres) -> None:
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=stopping, args=(location, theirs))
    process.start()
    try:
        assert await asyncio.to_thread(ours.recv) == "stops"
        with opened(location) as file:
            file.record_call(row("ours", key_id=None, total_tokens=1))
            await until(lambda: file.waiting == 0)
            assert (await file.hold(held(charge("requests", 1, 10, TOTAL), request_id="ours-too"))).refused is None
            assert process.pid is not None
            os.kill(process.pid, signal.SIGCONT)
            assert await asyncio.to_thread(ours.recv) == "ends"
            file.settle("ours-too", [row("ours-too", total_tokens=5)])
            await until(lambda: read(location, "SELECT spent, held FROM counters WHERE until > 0") == [(2, 0)])
    finally:
        process.kill()
        process.join()
    names = read(location, "SELECT request_id FROM calls ORDER BY request_id")
    assert names == [("after",), ("kept",), ("ours",), ("ours-too",)]
    assert verify(location) == []


async def test_a_session_whose_client_stops_in_the_midst_of_sending_is_ended_by_those_who_wait(
    location: Postgres,
) -> None:
    """The server's own timeout does not run before all of a pipeline has arrived."""
    with opened(location) as file:
        stopped = PostgresConnection(location)
        stopped.begin()
        with suppress(psycopg.OperationalError), stopped.driver.pipeline():  # which finds its connection closed
            stopped.driver.execute("SELECT 1")
            file.record_call(row("ours", key_id=None, total_tokens=1))
            await until(lambda: file.waiting == 0)
        assert stopped.driver.broken
    assert read(location, "SELECT request_id FROM calls") == [("ours",)]
