"""A short soak: once against the program, once in this process, whose tasks can be counted."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from random import Random
from typing import Any

from app.config.settings import Settings
from app.server.snapshots import Generation
from app.storage.ledger_file import LedgerFile

from ..conftest import RunningGateway, running_gateway, until
from ..ledger import path_of, read
from .__main__ import table
from .books import QUERY, audit
from .callers import Journal
from .configurations import Places
from .soak import SETTLING_SECONDS, Plan, load, soak
from .upstreams import Witness, upstream

SECONDS = 15.0


async def test_the_program_under_load_faults_departures_and_reloads(tmp_path: Path) -> None:
    run = await soak(Plan(SECONDS, clients=32), tmp_path, print)
    print(table(run))
    assert run.wrongs == []
    assert run.books is not None
    assert run.books.rows > 100
    assert run.reloads["in force"] > 0 < run.reloads["refused"]
    assert {"patient", "leaves", "resets", "slow"} <= {told.manner for told in run.journal.told.values()}
    assert len(run.witness.faults) > 40


async def test_no_task_is_left(tmp_path: Path) -> None:
    """The gateway, its upstreams and its callers run in this loop, so a leftover of any of them is detected."""
    others = _generations()  # snapshots of failed tests, whose tracebacks are kept
    witness = Witness(seed=2)
    journal = Journal(witness)
    database = LedgerFile(tmp_path / "torii.db")
    async with upstream(witness, "jina") as jina, upstream(witness, "aihubmix") as aihubmix:
        places = Places(jina, aihubmix)
        async with running_gateway(_settings(places, 0), database) as gateway:
            port = gateway.client.base_url.port
            assert port is not None
            await load(journal, port, Plan(0.5, seed=2, clients=4), first=900)
            await _rests(gateway, witness, places, 1)
            base = asyncio.all_tasks()
            reloading = asyncio.create_task(_reloads(gateway, places))
            await load(journal, port, Plan(SECONDS / 2, seed=2, clients=24))
            reloading.cancel()
            await asyncio.wait([reloading])
            await _rests(gateway, witness, places, 0)
            await until(lambda: asyncio.all_tasks() - base == _probes(gateway), SETTLING_SECONDS)
            assert _at_work(gateway) == []
            reached = len({record.request_id for record in gateway.records if record.reached})
            gateway.records.clear()  # their errors hold tracebacks
            await until(lambda: _generations() <= others + 1, SETTLING_SECONDS)
    database.close()
    books = audit(read(path_of(database), QUERY), journal)
    assert journal.wrongs + books.wrongs == []
    assert books.rows > 100
    assert books.calls == reached


def _probes(gateway: RunningGateway) -> set[asyncio.Task[None]]:
    """The probes of the configuration in force, one for each refused key."""
    states = [state for pool in gateway.generations.now.pools.values() for state in pool.states]
    return {state.probing for state in states if state.probing is not None}


def _at_work(gateway: RunningGateway) -> list[str]:
    """Resources still in use: keys, queues for them, calls without callers, open calls."""
    now = gateway.generations.now
    states = [state for pool in now.pools.values() for state in pool.state()]
    held = [f"{state['key']} is at work" for state in states if state["at_work"] or state["waiting"]]
    held += ["calls without callers"] if now.handlers.admission.disconnects.unattended else []
    return held + (["open calls"] if now.handlers.admission.calls or now.handlers.admission.load.calls else [])


def _generations() -> int:
    """The number of configurations in memory, in force or not."""
    gc.collect()
    return sum(isinstance(found, Generation) for found in gc.get_objects())


async def _reloads(gateway: RunningGateway, places: Places) -> None:
    for number in range(2, 1000):
        await asyncio.sleep(Random(number).uniform(0.3, 2.0))
        gateway.server.renew(_settings(places, number))


async def _rests(gateway: RunningGateway, witness: Witness, places: Places, number: int) -> None:
    gateway.server.renew(_settings(places, number))
    await until(lambda: not witness.lines, SETTLING_SECONDS)


def _settings(places: Places, number: int) -> Settings:
    values: dict[str, Any] = places.configuration(number, Random(f"tasks/{number}"), clients=24)
    return Settings(**values)
