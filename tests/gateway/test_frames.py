"""The depth of a call: the number of suspended frames from the route's handler to the upstream's connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from ..conftest import RunningGateway, ScriptedUpstream, running_gateway, settings_for, until

APP = Path(__file__).parents[2] / "app"
MOST = 8

EMBEDDINGS = {"model": "jina-embeddings-v3", "input": ["one"]}
RERANK = {"model": "jina-reranker-m0", "query": "q", "documents": ["one", "two"]}
STREAM = {
    "model": "jina-deepsearch-v1",
    "messages": [{"role": "user", "content": "hi"}],
    "stream": True,
}


@pytest.fixture
async def gateway(upstream: ScriptedUpstream) -> AsyncIterator[RunningGateway]:
    """A gateway with the cache and single-flight switched on."""
    async with running_gateway(settings_for(upstream.url, cache={"store": "memory"})) as running:
        yield running


def awaiting(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    """The frames of a suspended task, from the outermost to the innermost."""
    waits: Any = task.get_coro()
    while waits is not None:
        frame = getattr(waits, "cr_frame", None) or getattr(waits, "ag_frame", None) or getattr(waits, "gi_frame", None)
        if frame is not None:
            yield frame
        waits = (
            getattr(waits, "cr_await", None) or getattr(waits, "ag_await", None) or getattr(waits, "gi_yieldfrom", None)
        )


def names(task: asyncio.Task[Any]) -> list[str]:
    """The task's frames in ``app/``, as module.function."""
    ours = [frame for frame in awaiting(task) if APP in Path(frame.f_code.co_filename).parents]
    return [f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}" for frame in ours]


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/embeddings", EMBEDDINGS), ("/v1/rerank", RERANK), ("/v1/chat/completions", STREAM)],
    ids=["embeddings", "rerank", "stream"],
)
async def test_few_frames_wait_between_the_handler_and_the_connection(
    gateway: RunningGateway, upstream: ScriptedUpstream, path: str, body: Any
) -> None:
    """The count includes both ends: the handler's frame, and the frame of the connection that sent the request."""

    async def silent(request: Any, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    upstream.plays(silent)
    asking = asyncio.create_task(gateway.post(path, body))
    await until(lambda: len(upstream.seen) == 1)
    [line] = [found for task in asyncio.all_tasks() if "connection.exchange" in (found := names(task))]
    between = line[line.index("handlers.work") : line.index("connection.exchange") + 1]
    assert len(between) <= MOST, between
    asking.cancel()
