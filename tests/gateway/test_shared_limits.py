"""Limits that replicas share in Redis, over HTTP: several gateways with ledgers of their own, and one real Redis."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..conftest import ScriptedUpstream
from ..ledger import read
from ..storage.redis.server import RedisServer, redis_server
from .test_limits import Counted, caller, counted, vectors

REPLICAS = 3


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path / "redis") as server:
        yield server


@asynccontextmanager
async def replicas(
    redis: RedisServer, upstream: ScriptedUpstream, path: Path, *, number: int = REPLICAS, **values: Any
) -> AsyncIterator[list[Counted]]:
    async with AsyncExitStack() as stack:
        made = []
        for place in range(number):
            folder = path / f"replica-{place}"
            folder.mkdir(exist_ok=True)
            given = {"counters": {"url": redis.url}, "cache": {"store": "off"}, **values}
            made.append(await stack.enter_async_context(counted(upstream, folder, **given)))
        yield made


def statuses(answers: list[httpx.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


async def everywhere(made: list[Counted], calls: int) -> list[httpx.Response]:
    return await asyncio.gather(*(made[place % len(made)].ask() for place in range(calls)))


async def test_of_calls_at_all_replicas_exactly_as_many_pass_as_a_minute_allows(
    redis: RedisServer, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(vectors(1))
    async with replicas(redis, upstream, tmp_path, callers=[caller(limits={"requests_per_minute": 40})]) as made:
        answers = await everywhere(made, 150)
        assert statuses(answers) == {200: 40, 429: 110}
        assert len(upstream.seen) == 40
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 59 <= int(refused.headers["retry-after"]) <= 61
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        rows = [row for books in made for row in await books.at_rest()]
        assert len(rows) == 40
        assert all(read(books.path, "SELECT * FROM holds") == [] for books in made)
