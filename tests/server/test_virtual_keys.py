"""Virtual keys over real sockets: what they open, and when a change of them is in force."""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.callers.accounts import key_file
from app.callers.keys import digest
from app.storage.keys import KeyFile
from app.storage.ledger_file import LedgerFile

from ..conftest import RunningGateway, ScriptedUpstream, replies, running_gateway, settings_for, until
from ..ledger import path_of
from ..program import started
from .test_process import EMBED, VECTORS, Gateway, configuration

WHO = ("operator", None)
SEEN_SECONDS = 5.0  # within which a change is in force everywhere


@asynccontextmanager
async def gateway_of(file: Path, upstream: ScriptedUpstream, **values: Any) -> AsyncIterator[RunningGateway]:
    upstream.plays(replies(VECTORS))
    database = LedgerFile(file)
    try:
        async with running_gateway(settings_for(upstream.url, **values), database) as running:
            yield running
    finally:
        database.close()


@pytest.fixture
async def gateway(upstream: ScriptedUpstream, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with gateway_of(tmp_path / "torii.db", upstream) as running:
        yield running


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return key_file(tmp_path / "torii.db")


def made(keys: KeyFile, gateway: RunningGateway, **fields: Any) -> tuple[str, dict[str, str]]:
    """The id of a new key, which the gateway has seen, and the header that presents it."""
    key, secret = keys.create_key({"name": f"key {time.monotonic_ns()}", **fields}, *WHO)
    gateway.generations.now.callers.registry.refresh()
    return key.id, {"authorization": f"Bearer {secret}"}


async def ask(gateway: RunningGateway, headers: dict[str, str], path: str = "/v1/embeddings") -> tuple[int, str | None]:
    answer = await gateway.post(path, EMBED, **headers)
    return answer.status_code, None if answer.status_code == 200 else answer.json()["error"]["code"]


async def names(gateway: RunningGateway, headers: dict[str, str]) -> set[str]:
    answer = await gateway.client.get("/v1/models", headers=headers)
    assert answer.status_code == 200
    return {entry["id"] for entry in answer.json()["data"]}


async def test_the_first_key_closes_the_gateway_while_it_runs(gateway: RunningGateway, keys: KeyFile) -> None:
    page = {"origin": "https://page.example"}
    assert await ask(gateway, {}) == (200, None)
    assert await ask(gateway, page) == (403, "forbidden")
    key, header = made(keys, gateway)
    assert await ask(gateway, header) == (200, None)
    assert await ask(gateway, {}) == (401, "invalid_api_key")
    # A page has no key, so it need not be kept out by its origin.
    assert await ask(gateway, page) == (401, "invalid_api_key")
    assert await ask(gateway, page | header) == (200, None)
    keys.revoke_key(key, *WHO)
    gateway.generations.now.callers.registry.refresh()
    assert await ask(gateway, header) == (401, "key_revoked")
    assert await ask(gateway, {}) == (401, "invalid_api_key")


async def test_a_change_is_seen_by_itself(gateway: RunningGateway, keys: KeyFile) -> None:
    _, secret = keys.create_key({"name": "a"}, *WHO)
    header = {"authorization": f"Bearer {secret}"}
    began = time.monotonic()
    while await ask(gateway, {}) == (200, None):
        assert time.monotonic() - began < SEEN_SECONDS
    assert await ask(gateway, header) == (200, None)


async def test_endpoints_and_addresses_are_refused_before_the_body(gateway: RunningGateway, keys: KeyFile) -> None:
    _, rerank = made(keys, gateway, allowed_endpoints=["rerank"])
    _, elsewhere = made(keys, gateway, allowed_ips=["192.0.2.0/24"])
    _, here = made(keys, gateway, allowed_ips=["127.0.0.0/8"])
    assert await ask(gateway, rerank) == (403, "permission_denied")
    assert await ask(gateway, elsewhere) == (403, "permission_denied")
    assert await ask(gateway, {"x-forwarded-for": "192.0.2.1", **elsewhere}) == (403, "permission_denied")
    assert await ask(gateway, here) == (200, None)
    # The body is not waited for.
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(gateway.url).port)
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\nauthorization: {rerank['authorization']}\r\n"
    writer.write(f"{head}content-length: 1000\r\n\r\n".encode())
    first = await asyncio.wait_for(reader.readline(), 10)
    assert first == b"HTTP/1.1 403 Forbidden\r\n"
    writer.close()


async def test_a_trusted_proxy_tells_the_address(upstream: ScriptedUpstream, tmp_path: Path, keys: KeyFile) -> None:
    async with gateway_of(tmp_path / "torii.db", upstream, trusted_proxies=["127.0.0.1"]) as gateway:
        _, header = made(keys, gateway, allowed_ips=["192.0.2.0/24"])
        assert await ask(gateway, {"x-forwarded-for": "192.0.2.1", **header}) == (200, None)
        assert await ask(gateway, {"x-forwarded-for": "192.0.2.1, 198.51.100.1", **header}) == (
            403,
            "permission_denied",
        )
        assert await ask(gateway, header) == (403, "permission_denied")


async def test_a_key_sees_the_models_that_it_may_use(upstream: ScriptedUpstream, tmp_path: Path, keys: KeyFile) -> None:
    models = {"mine": "jina-clip-v2", "theirs": "jina-embeddings-v3"}
    async with gateway_of(tmp_path / "torii.db", upstream, models=models) as gateway:
        _, every = made(keys, gateway)
        _, clip = made(keys, gateway, allowed_models=["jina-clip-*"])
        _, none = made(keys, gateway, allowed_models=[])
        _, rerank = made(keys, gateway, allowed_endpoints=["rerank"])
        assert {"mine", "theirs", "jina-clip-v2", "jina-reranker-m0"} <= await names(gateway, every)
        assert await names(gateway, clip) == {"mine", "jina-clip-v1", "jina-clip-v2"} & await names(gateway, every)
        assert await names(gateway, none) == set()
        ranking = await names(gateway, rerank)
        assert "jina-reranker-m0" in ranking
        assert "theirs" not in ranking
        for name, status in (("mine", 200), ("JINA/jina-clip-v2", 200), ("theirs", 404), ("jina-reranker-m0", 404)):
            answer = await gateway.client.get(f"/v1/models/{name}", headers=clip)
            assert answer.status_code == status, name
        assert answer.json()["error"]["code"] == "model_not_found"


async def test_a_reload_changes_declared_keys_and_keeps_created_ones(
    upstream: ScriptedUpstream, tmp_path: Path, keys: KeyFile
) -> None:
    declared, secret = "a-key-from-git-0123456789", "another-key-from-git-01234"
    first, second = ({"name": "git", "sha256": digest(key).hex(), "team": "red"} for key in (declared, secret))
    team = {"id": "red", "limits": {"requests_per_day": 1000}}
    async with gateway_of(tmp_path / "torii.db", upstream, keys=[first], teams=[team]) as gateway:
        _, created = made(keys, gateway)
        assert await ask(gateway, {"authorization": f"Bearer {declared}"}) == (200, None)
        renewed = settings_for(upstream.url, keys=[second], teams=[{**team, "disabled": True}])
        gateway.server.renew(renewed)
        assert await ask(gateway, {"authorization": f"Bearer {declared}"}) == (401, "invalid_api_key")
        assert await ask(gateway, {"authorization": f"Bearer {secret}"}) == (401, "key_disabled")
        assert await ask(gateway, created) == (200, None)
        gateway.server.renew(settings_for(upstream.url, keys=[second], teams=[team]))
        assert await ask(gateway, {"authorization": f"Bearer {secret}"}) == (200, None)


async def test_the_last_known_keys_hold_while_the_file_is_locked(gateway: RunningGateway, keys: KeyFile) -> None:
    _, header = made(keys, gateway)
    with closing(sqlite3.connect(path_of(keys), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert await ask(gateway, header) == (200, None)
        assert await ask(gateway, {}) == (401, "invalid_api_key")
        other.execute("ROLLBACK")


async def test_health_tells_that_the_keys_cannot_be_read(
    upstream: ScriptedUpstream, tmp_path: Path, keys: KeyFile
) -> None:
    upstream.plays(replies(VECTORS))
    database = LedgerFile(path_of(keys))
    async with running_gateway(settings_for(upstream.url), database) as gateway:
        _, header = made(keys, gateway)
        database.close()  # it would make a new file
        registry = gateway.generations.now.callers.registry
        away = path_of(keys).with_name("away.db")
        path_of(keys).rename(away)
        await until(lambda: registry.trouble is not None)
        health = (await gateway.client.get("/healthz")).json()
        assert (health["status"], health["keys"]) == ("degraded", "there is no such file")
        assert await ask(gateway, header) == (200, None)
        away.rename(path_of(keys))
        await until(lambda: registry.trouble is None)
        assert "keys" not in (await gateway.client.get("/healthz")).json()


async def test_two_workers_see_a_new_and_a_revoked_key(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(replies(VECTORS))
    file = tmp_path / "keys.db"
    given = configuration(upstream.url, workers=2, ledger={"path": str(file)})
    async with started(Gateway, tmp_path, given) as running:
        workers = await running.ready(2)
        keys = key_file(file)
        key, secret = keys.create_key({"name": "a"}, *WHO)
        assert await _all(running, workers, secret, 200) < SEEN_SECONDS
        await _works_at_once(running, lambda: keys.create_key({"name": secrets.token_hex(4)}, *WHO)[1])
        keys.revoke_key(key.id, *WHO)
        assert await _all(running, workers, secret, 401) < SEEN_SECONDS
        # A worker that starts later knows the keys at once.
        victim = min(workers)
        os.kill(victim, 9)
        await running.ready(2, starts=3)
        assert await _all(running, running.workers(), secret, 401) < SEEN_SECONDS
        assert await _all(running, running.workers(), None, 401) < SEEN_SECONDS


async def _works_at_once(running: Gateway, create: Callable[[], str | None]) -> None:
    """Every worker knows the old keys, and takes a new one in the first request for it."""
    await _all(running, running.workers(), "sk-unknown", 401)
    for _ in range(3):
        headers = {"connection": "close", "authorization": f"Bearer {create()}"}
        answers = await asyncio.gather(*(running.client.get("/v1/models", headers=headers) for _ in range(12)))
        assert [answer.status_code for answer in answers] == [200] * 12


async def _all(running: Gateway, workers: set[int], key: str | None, status: int) -> float:
    """The seconds until many fresh connections in a row, which spread over all workers, get this status."""
    began, row = time.monotonic(), 0
    headers = {"connection": "close", **({"authorization": f"Bearer {key}"} if key else {})}
    while row < 12 * len(workers):
        answer = await running.client.get("/v1/models/jina-embeddings-v3", headers=headers)
        row = row + 1 if answer.status_code == status else 0
        assert time.monotonic() - began < 4 * SEEN_SECONDS
    return time.monotonic() - began
