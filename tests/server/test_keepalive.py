"""Keep-alive comments: one line each, never inside an event, and not an event for any client."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable

import pytest
from openai._streaming import SSEDecoder

from app.core.sse import DONE, encode
from app.server.event_stream import form

from ..conftest import RunningGateway, ScriptedUpstream, running_gateway, settings_for, streams

PING = b": ping\n"
ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "stream": True}
A = encode(b'{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"model":"gpt-4o-mini"}')
B = encode(b'{"choices":[{"index":0,"delta":{"content":"b"},"finish_reason":"stop"}],"model":"gpt-4o-mini"}')


def test_a_comment_is_one_line() -> None:
    response = form(15.0)
    assert response.ping_message_factory is not None
    assert response.ping_message_factory().encode() == PING


def decoded(pieces: Iterable[bytes]) -> list[tuple[str | None, str]]:
    return [(event.id, event.data) for event in SSEDecoder().iter_bytes(iter(pieces))]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_openais_decoder_takes_no_comment_for_an_event(size: int) -> None:
    """Also in a stream with ids, where any blank line ends an event, even an empty one."""
    stream = PING + b"id: 7\n" + A + PING + PING + B + PING + DONE
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert decoded(pieces) == [("7", event[6:-2].decode()) for event in (A, B, DONE)]


async def received(gateway: RunningGateway, comments: int, more: asyncio.Event) -> bytes:
    """All bytes of the stream; ``more`` is set once ``comments`` comments have arrived."""
    got = b""
    async with gateway.client.stream("POST", "/v1/chat/completions", json=ASK) as response:
        assert response.status_code == 200
        async for piece in response.aiter_bytes():
            got += piece
            if got.count(PING) >= comments:
                more.set()
    return got


async def test_the_bytes_of_a_silent_stream(upstream: ScriptedUpstream) -> None:
    more = asyncio.Event()
    upstream.plays(streams(A, more, B + DONE))
    async with running_gateway(settings_for(None, upstream.url, ping_seconds=0.05)) as gateway:
        got = await received(gateway, 3, more)
    assert re.fullmatch(re.escape(A) + b"(: ping\n){3,}" + re.escape(B + DONE), got), got
    assert decoded([got]) == [(None, event[6:-2].decode()) for event in (A, B, DONE)]


async def test_no_comment_comes_inside_an_event(upstream: ScriptedUpstream) -> None:
    """However large the event, however slow the reader, and however often a comment is due."""
    large = A.replace(b'"a"', b'"' + b"x" * 1_000_000 + b'"')
    upstream.plays(streams(*[large] * 8, B + DONE))
    async with running_gateway(settings_for(None, upstream.url, ping_seconds=0.001)) as gateway:
        async with gateway.client.stream("POST", "/v1/chat/completions", json=ASK) as response:
            got = b""
            async for piece in response.aiter_raw(65536):
                got += piece
                await asyncio.sleep(0.002)
    assert re.fullmatch(rb"(?:(?:: ping\n)*data: [^\n]*\n\n)+", got)
    assert got.replace(PING, b"") == large * 8 + B + DONE
