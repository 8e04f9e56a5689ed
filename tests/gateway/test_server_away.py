"""A gateway whose PostgreSQL fails: who is served meanwhile, how long a call waits, and that all is booked once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from app.storage.ledger_file import LedgerFile
from app.storage.location import Postgres
from app.storage.postgres.connection import LOCK
from app.storage.postgres.tables import upgrade
from app.storage.verify import verify

from ..conftest import RunningGateway, ScriptedUpstream, running_gateway, settings_for, until
from ..ledger import read
from ..servers import Cut, PostgresServer
from .test_limits import KEY, OTHER, budget, caller, embed, vectors

LIMITED = "a-key-of-eve-0123456789"
CALLERS = [
    caller(budgets=[budget(100_000, "requests")]),
    caller("bob", OTHER),
    caller("eve", LIMITED, limits={"requests_per_minute": 6}),
]
ROWS = "SELECT count(*), count(DISTINCT request_id), sum(total_tokens) FROM calls"
MOST = 10.0  # seconds for 200 calls at once on a slow machine; if each waited for the store in turn, it would be 100


@contextmanager
def stopped(server: PostgresServer, cut: Cut, name: str) -> Iterator[None]:
    server.stop()
    yield
    server.resume()


@contextmanager
def killed(server: PostgresServer, cut: Cut, name: str) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@contextmanager
def shut_down(server: PostgresServer, cut: Cut, name: str) -> Iterator[None]:
    server.shut_down()
    yield
    server.start()


@contextmanager
def dropped(server: PostgresServer, cut: Cut, name: str) -> Iterator[None]:
    cut.cut()
    yield
    cut.heal()


@contextmanager
def slow(server: PostgresServer, cut: Cut, name: str) -> Iterator[None]:
    cut.delay(0.6)
    yield
    cut.heal()


@contextmanager
def locked(server: PostgresServer, cut: Cut, name: str) -> Iterator[None]:
    with psycopg.connect(server.url(name), autocommit=True) as other:
        other.execute(f"SELECT pg_advisory_lock({LOCK})")
        yield


@contextmanager
def full(server: PostgresServer, cut: Cut, name: str) -> Iterator[None]:
    """No connection is left, and ours are lost."""
    server.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
    server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    yield
    server.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1")


@contextmanager
def read_only(server: PostgresServer, cut: Cut, name: str) -> Iterator[None]:
    server.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    server.execute("SELECT pg_reload_conf()")
    yield
    server.execute("ALTER SYSTEM RESET default_transaction_read_only")
    server.execute("SELECT pg_reload_conf()")


FAULTS = [stopped, killed, shut_down, dropped, slow, locked, full, read_only]
Fault = Callable[[PostgresServer, Cut, str], Any]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with closing(PostgresServer(max_connections=12, synchronous_commit="on")) as found:  # a kill loses commits else
        yield found


@asynccontextmanager
async def gateway_over(
    server: PostgresServer, cut: Cut, upstream: ScriptedUpstream, folder: Path
) -> AsyncIterator[tuple[RunningGateway, LedgerFile, Postgres]]:
    name = server.create()
    straight = Postgres(server.url(name), folder / "torii.db")
    upgrade(straight)
    settings = settings_for(upstream.url, callers=CALLERS)
    through = Postgres(server.url(name, port=cut.port), folder / "torii.db")
    with closing(LedgerFile(through, flush_seconds=0.01, sweep_seconds=0.2)) as file:
        async with running_gateway(settings, file) as gateway:
            yield gateway, file, straight


async def ask(gateway: RunningGateway, key: str) -> httpx.Response:
    return await gateway.post("/v1/embeddings", embed(), authorization=f"Bearer {key}")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_calls_go_on_budgets_are_closed_and_all_is_booked_once(
    fault: Fault, server: PostgresServer, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(vectors(7))
    with Cut(server.port) as cut:
        async with gateway_over(server, cut, upstream, tmp_path) as (gateway, file, straight):
            assert [(await ask(gateway, key)).status_code for key in (KEY, OTHER, LIMITED)] == [200] * 3
            passed = 3
            with fault(server, cut, straight.url.rpartition("/")[2]):
                passed += len(admitted(await asyncio.gather(*(ask(gateway, KEY) for _ in range(40)))))
                await until(lambda: file.away)
                began = time.monotonic()
                answers = await asyncio.gather(*(ask(gateway, KEY) for _ in range(200)))
                assert time.monotonic() - began < MOST
                passed += len(admitted(answers))
                free = await asyncio.gather(*(ask(gateway, OTHER) for _ in range(40)))
                assert [answer.status_code for answer in free] == [200] * 40
                limited = [(await ask(gateway, LIMITED)).status_code for _ in range(8)]
                assert limited.count(200) == 5  # one of six was used before
                passed += 45
                health = (await gateway.client.get("/healthz")).json()
                ready = await gateway.client.get("/readyz")
                if fault is not slow:  # which answers now and then
                    assert not admitted(answers)
                    assert (health["status"], health["database"]["lost"]) == ("degraded", 0)
                    assert abs(health["database"]["since"] - time.time()) < 60
                    assert (ready.status_code, ready.json()["away"][0]) == (200, "database")
            await until(lambda: file.health is None and not file.waiting and not file.away)
            await until(lambda: read(straight, "SELECT count(*) FROM holds") == [(0,)])
            assert read(straight, ROWS) == [(passed, passed, 7 * passed)]
            assert verify(straight) == []
            for _ in range(1000):
                if (await ask(gateway, KEY)).status_code == 200:
                    return
                await asyncio.sleep(0.01)
            raise AssertionError("budgets stay closed")


def admitted(answers: list[httpx.Response]) -> list[httpx.Response]:
    """Those that passed; the others are refused as stated."""
    for answer in answers:
        if answer.status_code != 200:
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
    return [answer for answer in answers if answer.status_code == 200]
