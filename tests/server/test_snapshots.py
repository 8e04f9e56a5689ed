"""A change of configuration, and the release of earlier ones."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

import httpx
import pytest

from app.server.snapshots import Generations

from ..conftest import RunningGateway, ScriptedUpstream, replies, running_gateway, settings_for, streams, until

EMBED = {"model": "jina-embeddings-v3", "input": ["hello"]}
CHAT = {"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
CHUNK = b'data: {"id":"u","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
END = b'data: {"id":"u","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
VECTORS = {"data": [{"index": 0, "embedding": [0.5]}], "usage": {"total_tokens": 9}}


def parts(found: Generations) -> list[weakref.ref[Any]]:
    """Weak references to the large parts of the configuration in force, which hold its other parts."""
    now = found.now
    return [weakref.ref(part) for part in (now.gateway, now.gateway.client, now.handlers)]


async def gone(found: list[weakref.ref[Any]]) -> None:
    await until(lambda: not any(part() for part in found))


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("changed", ["nothing", "the place of the keys"])
@pytest.mark.parametrize("engine", ["httptools", "httpx"])
async def test_what_is_no_longer_in_force_is_gone_at_once(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, engine: Any, changed: str
) -> None:
    upstreams = [upstream, upstream if changed == "nothing" else other_upstream]
    for each in upstreams:
        each.plays(replies(VECTORS))
    given = {"http_client": engine, "cache": {"store": "off"}}
    async with running_gateway(settings_for(upstream.url, **given)) as gateway:
        before: list[weakref.ref[Any]] = []
        for turn in range(1, 6):
            assert (await gateway.post("/v1/embeddings", EMBED)).status_code == 200
            before += parts(gateway.generations)
            if changed == "nothing":  # a pool without a successor holds itself
                before += map(weakref.ref, gateway.generations.now.pools.values())
            gateway.generations.renew(settings_for(upstreams[turn % 2].url, **given))
            await gone(before)


@pytest.mark.usefixtures("no_collector")
async def test_an_open_call_keeps_its_own_configuration_and_none_that_came_after(upstream: ScriptedUpstream) -> None:
    more = asyncio.Event()
    upstream.plays(streams(CHUNK, more, END))
    async with running_gateway(settings_for(upstream.url, upstream.url)) as gateway:
        async with gateway.client.stream("POST", "/v1/chat/completions", json=CHAT) as answer:
            body = answer.aiter_raw()
            await anext(body)
            first = parts(gateway.generations)
            later: list[weakref.ref[Any]] = []
            for _ in range(3):
                gateway.generations.renew(settings_for(upstream.url, upstream.url))
                later += [*parts(gateway.generations), *map(weakref.ref, gateway.generations.now.pools.values())]
            gateway.generations.renew(settings_for(upstream.url, upstream.url))
            await gone(later)
            assert all(part() for part in first)
            more.set()
            assert b"[DONE]" in b"".join([piece async for piece in body])
        await gone(first)


def held(until_then: asyncio.Event, script: Any) -> Any:
    """The script, delayed until the event is set."""

    async def play(request: Any, writer: asyncio.StreamWriter) -> Any:
        await until_then.wait()
        return await script(request, writer)

    return play


async def in_line(gateway: RunningGateway, upstream: ScriptedUpstream) -> asyncio.Task[httpx.Response]:
    """A call that waits in another configuration, once the upstream's second call is using their key."""
    await until(lambda: len(upstream.seen) == 2)
    gateway.generations.renew(settings_for(upstream.url, queue_timeout_seconds=500))
    pool = gateway.generations.now.pools["jina"]
    waits = asyncio.create_task(gateway.post("/v1/embeddings", EMBED))
    await until(lambda: pool.waiting == 1)
    return waits


async def test_a_key_that_works_again_serves_those_in_line_in_each_configuration(upstream: ScriptedUpstream) -> None:
    """The call that tries the key began before a reload, is still running, and has its head."""
    tried, more = asyncio.Event(), asyncio.Event()
    runs = held(tried, streams(CHUNK, more, END))
    upstream.plays(replies({"detail": "slow down"}, 429, retry_after="1"), runs, replies(VECTORS))
    deep = {**CHAT, "model": "jina-deepsearch-v1"}
    async with running_gateway(settings_for(upstream.url, queue_timeout_seconds=600)) as gateway:
        run = asyncio.create_task(gateway.post("/v1/chat/completions", deep))
        waits = await in_line(gateway, upstream)
        tried.set()
        await until(waits.done)
        assert (await waits).status_code == 200
        assert not run.done()
        more.set()
        assert (await run).status_code == 200


async def test_a_key_that_is_refused_once_more_is_so_for_those_in_line_in_each_configuration(
    upstream: ScriptedUpstream,
) -> None:
    """The outcome of the call that tried the key counts for all waiting calls; none of them tries the key as well."""
    tried = asyncio.Event()
    refuses = replies({"detail": "Invalid API key"}, 401)
    upstream.plays(refuses, held(tried, refuses))
    async with running_gateway(settings_for(upstream.url, queue_timeout_seconds=600)) as gateway:
        assert (await gateway.post("/v1/embeddings", EMBED)).status_code == 502
        tries = asyncio.create_task(gateway.post("/v1/embeddings", EMBED))
        waits = await in_line(gateway, upstream)
        tried.set()
        for each in (tries, waits):
            assert (await each).json()["error"]["code"] == "upstream_auth"
    assert len(upstream.seen) == 2
