"""From one configuration to the next: what is left of those before."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

import pytest

from app.generations import Generations

from .conftest import RunningGateway, ScriptedUpstream, replies, running_gateway, settings_for, streams, until

EMBED = {"model": "jina-embeddings-v3", "input": ["hello"]}
CHAT = {"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
CHUNK = b'data: {"id":"u","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
END = b'data: {"id":"u","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
VECTORS = {"data": [{"index": 0, "embedding": [0.5]}], "usage": {"total_tokens": 9}}


def generations(gateway: RunningGateway) -> Generations:
    found: Generations = gateway.server.config.app.state.generations  # type: ignore[union-attr]
    return found


def parts(found: Generations) -> list[weakref.ref[Any]]:
    """Of what is in force: what is large in it, and what other things hang on."""
    now = found.now
    return [weakref.ref(part) for part in (now.gateway, now.gateway._client, now.edge)]


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
            before += parts(generations(gateway))
            if changed == "nothing":  # a pool of which none is the heir knows itself
                before += map(weakref.ref, generations(gateway).now.pools.values())
            generations(gateway).renew(settings_for(upstreams[turn % 2].url, **given))
            await gone(before)


@pytest.mark.usefixtures("no_collector")
async def test_an_open_call_keeps_its_own_configuration_and_none_that_came_after(upstream: ScriptedUpstream) -> None:
    more = asyncio.Event()
    upstream.plays(streams(CHUNK, more, END))
    async with running_gateway(settings_for(upstream.url, upstream.url)) as gateway:
        async with gateway.client.stream("POST", "/v1/chat/completions", json=CHAT) as answer:
            body = answer.aiter_raw()
            await anext(body)
            first = parts(generations(gateway))
            later: list[weakref.ref[Any]] = []
            for _ in range(3):
                generations(gateway).renew(settings_for(upstream.url, upstream.url))
                later += [*parts(generations(gateway)), *map(weakref.ref, generations(gateway).now.pools.values())]
            generations(gateway).renew(settings_for(upstream.url, upstream.url))
            await gone(later)
            assert all(part() for part in first)
            more.set()
            assert b"[DONE]" in b"".join([piece async for piece in body])
        await gone(first)
