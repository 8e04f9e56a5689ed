"""A call leaves no objects that need the garbage collector, which may not run for a long time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from .conftest import RunningGateway, Script, ScriptedUpstream, replies, running_gateway, settings_for, streams
from .gateway.test_batching import Gate, ask, capped, embeds, together

CHUNK = b'data: {"id":"u","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
END = b'data: {"id":"u","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
RIGHT = replies({"data": [{"index": 0, "embedding": [0.5]}], "usage": {"total_tokens": 9}})
EMBED = {"model": "jina/jina-embeddings-v3", "input": ["hello"]}
CHAT = {"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
WHOLE: dict[str, list[Script]] = {
    "right": [RIGHT],
    "refused": [replies({"detail": "no such task"}, 400)],
    "failed, then right": [replies({"detail": "no"}, 500), RIGHT],
    "failed": [replies({"detail": "no"}, 500)],
    "rate limited": [replies({"detail": "slow down"}, 429, retry_after="0")],
    "no JSON": [replies(b"{")],
    "cut": [streams(b"{", end="cut")],
}
STREAMS: dict[str, list[Script]] = {
    "right": [streams(CHUNK, END)],
    "failed": [replies({"error": {"message": "no"}}, 500)],
    "cut": [streams(CHUNK, end="cut")],
    "ended early": [streams(CHUNK)],
    "no JSON": [streams(CHUNK, b"data: {\n\n")],
}


@contextmanager
def left() -> Iterator[list[str]]:
    """The names of our own objects in reference cycles at the end."""
    found: list[str] = []
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found += sorted({type(each).__name__ for each in gc.garbage if type(each).__module__.startswith("app.")})
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


async def calls(gateway: RunningGateway, path: str, body: Any) -> None:
    for _ in range(3):
        await gateway.post(path, body)
    await gateway.ended(3)
    gateway.records.clear()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("store", ["off", "memory"])
@pytest.mark.parametrize(
    ("path", "body", "scripts"),
    [("/v1/embeddings", EMBED, scripts) for scripts in WHOLE.values()]
    + [("/v1/chat/completions", CHAT, scripts) for scripts in STREAMS.values()],
    ids=[*WHOLE, *(f"stream, {name}" for name in STREAMS)],
)
async def test_a_call_leaves_nothing(
    path: str, body: Any, scripts: list[Script], store: str, upstream: ScriptedUpstream
) -> None:
    async with running_gateway(settings_for(upstream.url, upstream.url, cache={"store": store})) as gateway:
        upstream.plays(*scripts * 3)
        await calls(gateway, path, body)
        upstream.plays(*scripts * 3)
        with left() as found:
            await calls(gateway, path, body)
        assert found == []


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    "script", [embeds, replies({"detail": "no"}, 400), replies({"detail": "no"}, 429, retry_after="0"), replies(b"{")]
)
async def test_a_batch_leaves_nothing(script: Script, upstream: ScriptedUpstream) -> None:
    async def batched(gateway: RunningGateway) -> None:
        gate = Gate(upstream, script)
        upstream.seen.clear()
        await together(gateway, upstream, gate, [partial(ask, gateway, [f"text {number}"]) for number in range(7)])
        await gateway.ended(8)
        gateway.records.clear()

    async with running_gateway(capped(upstream, {"concurrency": 1})) as gateway:
        await batched(gateway)
        with left() as found:
            await batched(gateway)
        assert found == []
