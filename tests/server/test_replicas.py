"""Replicas as processes of their own, and what they tell each other through Redis."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.callers.accounts import key_file
from app.callers.registry import Registry
from app.server.replicas import Pushes
from app.storage.ledger_file import LedgerFile
from app.storage.redis.connection import RedisAddress
from app.storage.redis.counters import SharedCounters

from ..cli.test_cli import LAST_LINE, torii
from ..conftest import until
from ..ports import closed_port
from ..storage.redis.server import RedisServer, free_port, redis_server, soon
from ..team.gateway import CALLER, EMBED, TeamGateway, VirtualKey, crowd, embed, team_gateway
from ..team.provider import provider
from ..team.shows import answers, statuses

WHO = ("operator", None)
PASSWORD = "canary-password"


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path / "redis") as server:
        yield server


async def test_three_processes_admit_exactly_what_a_minute_allows(redis: RedisServer, tmp_path: Path) -> None:
    callers = [{"name": "ann", "key": CALLER, "limits": {"requests_per_minute": 100, "concurrent_calls": 30}}]
    async with provider() as jina, provider() as aihubmix, AsyncExitStack() as stack:
        values: dict[str, Any] = {
            "counters": {"url": redis.url, "prefix": "mine"},
            "callers": callers,
            "queue_timeout_seconds": 30,
        }
        gateways: list[TeamGateway] = []
        for place in range(3):
            made = team_gateway(tmp_path / f"replica-{place}", (jina, aihubmix), **values)
            gateways.append(await stack.enter_async_context(made))
        clients = [await stack.enter_async_context(crowd(gateway, 170)) for gateway in gateways]
        key = VirtualKey("ann", CALLER)
        bodies = [embed(f"call {number}") for number in range(500)]
        found = await asyncio.gather(
            *(answers(client, key, EMBED, bodies[place::3]) for place, client in enumerate(clients))
        )
        assert statuses([answer for some in found for answer in some]) == {"200": 100, "429": 400}
        assert jina.met == 100
        for gateway in gateways:
            gateway.signal(signal.SIGTERM)
        assert [await gateway.ends() for gateway in gateways] == [0, 0, 0]
    names = {name.decode() for name in await redis.run("KEYS", "*")}
    assert names == {"{mine}:epoch", "{mine}:minute:requests:key:ann"}


async def test_a_change_is_told_at_once(redis: RedisServer, tmp_path: Path) -> None:
    """Neither process polls within the test."""
    with_ledger = LedgerFile(tmp_path / "torii.db")
    registries = [Registry(with_ledger.path, poll_seconds=3600) for _ in range(2)]
    counters = [SharedCounters(RedisAddress(redis.url)) for _ in range(2)]
    pushes = [Pushes(RedisAddress(redis.url), *each) for each in zip(registries, counters, strict=True)]
    for each in pushes:
        await each.start()

    async def subscribed() -> bool:
        return bool((await redis.run("PUBSUB", "NUMSUB", counters[0].channel))[1] == 2)

    await soon(subscribed)
    record, _ = await asyncio.to_thread(lambda: key_file(with_ledger.path).create_key({"name": "ann"}, *WHO))
    await asyncio.to_thread(registries[0].changed)
    await until(lambda: record.id in registries[1].now.keys)
    for each, shared in zip(pushes, counters, strict=True):
        await each.stop()
        await shared.aclose()
    for registry in registries:
        registry.close()
    with_ledger.close()


def served(folder: Path, url: str) -> tuple[int, str]:
    (folder / "config.yaml").write_bytes(
        msgspec.json.encode({"sandbox": "on", "counters": {"url": url}, "ledger": {"path": "torii.db"}})
    )
    done = torii("serve", "--port", "0", "--config", "config.yaml", cwd=folder)
    return done.returncode, done.stderr


async def test_a_redis_without_scripts_prevents_the_start(tmp_path: Path) -> None:
    forbidden = ["--rename-command", "EVAL", "", "--rename-command", "EVALSHA", ""]
    async with redis_server(tmp_path / "redis", *forbidden) as server:
        code, said = await asyncio.to_thread(served, tmp_path, server.url)
    assert code == 2
    assert said.startswith("torii: counters.url: Redis: it does not run Torii's script (EVALSHA, EVAL): ")
    assert said.endswith("Set counters.url (TORII_COUNTERS__URL) to another.\n")


async def test_a_wrong_password_prevents_the_start(tmp_path: Path) -> None:
    async with redis_server(tmp_path / "redis", "--requirepass", "right", port=free_port()) as server:
        url = f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"
        code, said = await asyncio.to_thread(served, tmp_path, url)
    assert (code, said) == (
        2,
        "torii: counters.url: Redis: it refuses the user or the password. Set counters.url (TORII_COUNTERS__URL) to "
        "another.\n",
    )


async def test_a_redis_that_is_away_is_a_warning(tmp_path: Path) -> None:
    async with provider() as jina, provider() as aihubmix:
        with closed_port() as url:
            place = url.replace("http://", f"redis://:{PASSWORD}@")
            async with team_gateway(tmp_path / "one", (jina, aihubmix), counters={"url": place}) as gateway:
                health = (await gateway.client.get("/healthz")).json()
                assert (health["status"], health["counters"]) == ("degraded", "Connection refused")
                assert "counters.url: Redis is away: Connection refused. Until it answers" in gateway.log
                assert "canary" not in gateway.log
                assert LAST_LINE in gateway.log
