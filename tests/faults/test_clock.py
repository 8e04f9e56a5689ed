"""Row 72: the wall clock jumps. Limits and waits use the monotonic clock."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from app.config.settings import Settings

from ..conftest import JINA_KEY, replies, running_gateway, streams, until
from .bench import (
    CHAT,
    CHATS,
    PATIENCE,
    VECTORS,
    Bench,
    above_the_wire,
    asked,
    assert_booked,
    assert_complete,
    assert_failed,
)
from .scripts import DONE_MODEL, delta, sse

DAY = 86_400.0


@pytest.fixture(params=[DAY, -DAY], ids=["a day on", "a day back"])
def jump(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Once this event is set, the wall clock is a day off."""
    jumped, wall = asyncio.Event(), time.time
    monkeypatch.setattr(time, "time", lambda: wall() + (request.param if jumped.is_set() else 0.0))
    return jumped


def keyed(bench: Bench, **upstream: Any) -> Settings:
    jina = {"base_url": f"{bench.jina.url}/v1", **upstream}
    values: dict[str, Any] = {"upstreams": {"jina": jina}, "http_client": bench.engine, "queue_timeout_seconds": 0.1}
    values["cache"] = {"store": "off"}  # the same call repeatedly must reach the upstream
    return Settings(**values)


@above_the_wire
async def test_a_limit_holds_when_the_clock_jumps(jump: asyncio.Event, bench: Bench) -> None:
    bench.jina.plays(replies(VECTORS))
    async with running_gateway(keyed(bench, api_key=JINA_KEY, limits={"requests_per_minute": 2})) as gateway:
        for _ in range(2):
            assert (await asked(gateway)).status_code == 200
        jump.set()
        response = await asked(gateway)
    assert 50 <= int(response.headers["retry-after"]) <= 60
    assert_failed(response, 429, "upstream_rate_limited", retry_after=response.headers["retry-after"])
    assert len(bench.jina.seen) == 2


@above_the_wire
async def test_a_key_rests_as_long_as_it_was_said_when_the_clock_jumps(jump: asyncio.Event, bench: Bench) -> None:
    bench.jina.plays(replies({"detail": "slow"}, 429, retry_after="60"), replies(VECTORS))
    keys = [{"key": "k" * 20, "name": "one"}, {"key": "l" * 20, "name": "two"}]
    async with running_gateway(keyed(bench, api_keys=keys)) as gateway:
        for _ in range(4):
            assert (await asked(gateway)).status_code == 200
            jump.set()
    asked_with = [seen.headers["authorization"] for seen in bench.jina.seen]
    assert len(asked_with) == 5
    assert asked_with.count(asked_with[0]) == 1


@above_the_wire
async def test_a_call_takes_the_time_that_it_takes_when_the_clock_jumps(jump: asyncio.Event, bench: Bench) -> None:
    """The jump triggers no deadline, and the record has the real duration."""
    bench.aihubmix.plays(streams(sse(delta("a")), jump, sse(delta("b"), delta("", "stop")) + DONE_MODEL))
    async with bench.mixed() as gateway:
        call = asyncio.ensure_future(asked(gateway, CHATS, CHAT))
        await until(lambda: bool(bench.aihubmix.seen))
        await asyncio.sleep(0.1)
        jump.set()
        assert_complete(await call, "ab")
        [record] = await assert_booked(gateway, 200)
    assert 0.05 < (record.seconds or 0) < PATIENCE
