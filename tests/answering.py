"""A gateway between two scripted upstreams that give a minimal correct answer to any request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from .conftest import (
    RunningGateway,
    ScriptedUpstream,
    Seen,
    replies,
    running_gateway,
    scripted_upstream,
    settings_for,
    streams,
)

RANKING = replies({"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 1}})
COMPLETION = replies({"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]})
RESEARCH = streams(b'data: {"choices":[{"delta":{"content":"{}","type":"text"},"finish_reason":"stop"}]}\n\n')


async def answer(request: Seen, writer: asyncio.StreamWriter) -> Any:
    """Embeddings: a vector for each input, of 768 numbers by default. Rerank: a ranking of one document. Chat: a
    text, or a JSON object for DeepSearch."""
    kind, body = request.path.rpartition("/")[2], request.body
    if kind == "embeddings":
        inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
        vector = [0.5] * body.get("dimensions", 768)
        data = [{"index": place, "embedding": vector} for place in range(len(inputs))]
        return await replies({"data": data, "usage": {"total_tokens": 1}})(request, writer)
    if kind == "rerank":
        return await RANKING(request, writer)
    return await (RESEARCH if body["stream"] else COMPLETION)(request, writer)


@asynccontextmanager
async def both(**values: Any) -> AsyncIterator[tuple[RunningGateway, ScriptedUpstream, ScriptedUpstream]]:
    """The gateway, Jina's stand-in and AIHubMix's."""
    async with scripted_upstream() as jina, scripted_upstream() as aihubmix:
        jina.plays(answer)
        aihubmix.plays(answer)
        async with running_gateway(settings_for(jina.url, aihubmix.url, **values)) as gateway:
            yield gateway, jina, aihubmix


def seen_by(*upstreams: ScriptedUpstream) -> list[Any]:
    """The bodies that the upstreams received."""
    return [request.body for upstream in upstreams for request in upstream.seen]
