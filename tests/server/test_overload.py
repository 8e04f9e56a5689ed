"""Many callers at once: as many as allowed are served, the others get an early refusal, and idle ones affect nobody."""

from __future__ import annotations

import asyncio
import re
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from app.server.descriptors import allow_files

from ..conftest import (
    PATIENCE,
    RunningGateway,
    ScriptedUpstream,
    Seen,
    replies,
    running_gateway,
    settings_for,
    streams,
    until,
)
from ..endpoints.test_strict_input import BODY, CALLER_KEY, VECTORS, answers, posted

KEYED: dict[str, Any] = {"callers": [{"name": "team", "key": CALLER_KEY}]}
KEY = f"Bearer {CALLER_KEY}"
CHUNK = b'data: {"id":"u","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
END = b'data: {"id":"u","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
ASK = {"model": "aihubmix/gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "hi"}]}

_ASK = msgspec.json.encode(ASK)
STREAMED = posted(b"content-length: %d" % len(_ASK), b"connection: close", body=_ASK, path=b"/v1/chat/completions")


@pytest.fixture(autouse=True)
def _many_files() -> None:
    """The upstream and the callers are in this process too."""
    allow_files(8000)


async def connected(gateway: RunningGateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(gateway.url)
    return await asyncio.open_connection(parts.hostname, parts.port)


@asynccontextmanager
async def idle(gateway: RunningGateway, count: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """``count`` connections without a request."""
    connections = [await connected(gateway) for _ in range(count)]
    try:
        yield [reader for reader, _ in connections]
    finally:
        for _, writer in connections:
            writer.close()


@asynccontextmanager
async def full(upstream: ScriptedUpstream, calls: int, **settings: Any) -> AsyncIterator[tuple[RunningGateway, Any]]:
    """A gateway with all of its ``calls`` call slots in use, until the event is set."""
    go = asyncio.Event()

    async def waits(request: Seen, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await replies(VECTORS)(request, writer)

    upstream.plays(waits)
    async with running_gateway(settings_for(upstream.url, max_concurrent_calls=calls, **settings)) as gateway:
        taken = [asyncio.create_task(gateway.post("/v1/embeddings", BODY, authorization=KEY)) for _ in range(calls)]
        await until(lambda: len(upstream.seen) == calls)
        try:
            yield gateway, go
        finally:
            go.set()
            assert {answer.status_code for answer in await asyncio.gather(*taken)} == {200}


async def test_one_call_too_many_is_told_so_before_its_body_is_read(upstream: ScriptedUpstream) -> None:
    async with full(upstream, 2) as (gateway, _):
        reader, writer = await connected(gateway)
        writer.write(posted(b"content-length: 1000", body=b""))
        body = (
            b'{"error":{"message":"2 calls are open, the limit of this gateway (max_concurrent_calls)",'
            b'"type":"api_error","param":null,"code":"overloaded"},'
            b'"detail":"2 calls are open, the limit of this gateway (max_concurrent_calls)"}'
        )
        head = (
            b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nx-should-retry: true\r\nx-request-id: ID\r\n"
            b"connection: close\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        data = await asyncio.wait_for(reader.readuntil(b'(max_concurrent_calls)"}'), PATIENCE)
        assert re.sub(rb"[0-9a-f]{32}", b"ID", data) == head + body
        writer.close()
    assert len(upstream.seen) == 2


async def test_a_stranger_learns_nothing_of_the_load(upstream: ScriptedUpstream) -> None:
    async with full(upstream, 1, **KEYED) as (gateway, _):
        assert (await gateway.post("/v1/embeddings", BODY)).status_code == 401
        assert (await gateway.post("/v1/embeddings", BODY, authorization=KEY)).status_code == 503


async def test_what_needs_no_upstream_is_answered_under_full_load(upstream: ScriptedUpstream) -> None:
    async with full(upstream, 1) as (gateway, _):
        for path in ("/healthz", "/readyz", "/v1/models"):
            assert (await gateway.client.get(path)).status_code == 200


async def test_there_is_room_again_when_a_call_has_ended_however_it_did(upstream: ScriptedUpstream) -> None:
    never = asyncio.Event()
    upstream.plays(
        streams(CHUNK, never), replies({"detail": "no"}, status=500), streams(CHUNK, end="cut"), replies(VECTORS)
    )
    async with running_gateway(settings_for(upstream.url, max_concurrent_calls=1, max_attempts=1)) as gateway:
        ask = {"model": "jina-deepsearch-v1", "stream": True, "messages": ASK["messages"]}
        async with gateway.client.stream("POST", "/v1/chat/completions", json=ask) as left:
            assert left.status_code == 200
            assert (await gateway.post("/v1/embeddings", BODY)).status_code == 503
        await gateway.ended(1)
        load = gateway.generations.load
        await until(lambda: load.calls == 0)
        assert (await gateway.post("/v1/embeddings", b"no JSON")).status_code == 400
        assert (await gateway.post("/v1/embeddings", BODY)).status_code == 502
        cut = await gateway.post("/v1/chat/completions", ask)
        assert b'data: {"error"' in cut.content
        assert (await gateway.post("/v1/embeddings", BODY)).status_code == 200
        assert load.calls == 0


async def test_one_connection_too_many_is_told_so_and_closed(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(VECTORS))
    async with running_gateway(settings_for(upstream.url, max_caller_connections=3)) as gateway:
        async with idle(gateway, 3):
            await until(lambda: len(gateway.server.server_state.connections) == 3)
            reader, writer = await connected(gateway)
            writer.write(posted(b"content-length: 43"))
            [got] = answers(await asyncio.wait_for(reader.read(), 5))
            writer.close()
            assert got.line == "HTTP/1.1 503 Service Unavailable"
            assert (got.headers["retry-after"], got.headers["x-should-retry"]) == ("1", "true")
            assert got.json["error"]["code"] == "overloaded"
        await until(lambda: not gateway.server.server_state.connections)
        assert (await gateway.post("/v1/embeddings", BODY)).status_code == 200
    assert len(upstream.seen) == 1


async def test_far_too_many_connections_are_closed_at_once(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most a hundred get a reason, as long as their connections linger; in this test they linger until all have
    come."""
    monkeypatch.setattr("app.server.protocol.LINGER_SECONDS", PATIENCE)
    async with running_gateway(settings_for(upstream.url, max_caller_connections=1)) as gateway:
        async with idle(gateway, 400) as readers:
            ends = await asyncio.wait_for(asyncio.gather(*(_end(reader) for reader in readers[1:])), PATIENCE)
            assert {end[:12] for end in ends} == {b"", b"HTTP/1.1 503"}
            assert sum(end != b"" for end in ends) <= 101


async def _end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def _whole(gateway: RunningGateway, request: bytes) -> bytes:
    """The whole response on a connection of its own: with several hundred, httpx's pool would take most of the time."""
    reader, writer = await connected(gateway)
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_500_streams_at_once_beside_1000_idle_connections(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    """All streams are open together: the upstream ends none before it has received all requests."""
    upstream.plays(replies(VECTORS))
    go = asyncio.Event()
    other_upstream.plays(streams(CHUNK * 3, go, CHUNK * 3, END))
    settings = settings_for(upstream.url, other_upstream.url, timeouts={"request_head_seconds": 60})
    async with running_gateway(settings) as gateway, idle(gateway, 1000):
        await until(lambda: len(gateway.server.server_state.connections) == 1000)
        asked = [asyncio.create_task(_whole(gateway, STREAMED)) for _ in range(500)]
        await until(lambda: len(other_upstream.seen) == 500)
        assert (await gateway.post("/v1/embeddings", BODY)).status_code == 200
        go.set()
        done = await asyncio.wait_for(asyncio.gather(*asked), PATIENCE)
        assert {answer[:15] for answer in done} == {b"HTTP/1.1 200 OK"}
        assert {answer.count(b'"content":"x"') for answer in done} == {6}
        assert {answer.count(b"data: [DONE]\n\n") for answer in done} == {1}
        assert all(answer.endswith(b"\r\n0\r\n\r\n") for answer in done)
        assert len(await gateway.ended(501)) == 501


async def test_300_calls_of_a_second(upstream: ScriptedUpstream) -> None:
    async def slow(request: Seen, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1)
        await replies(VECTORS)(request, writer)

    upstream.plays(slow)
    async with running_gateway(settings_for(upstream.url)) as gateway:
        request = posted(b"content-length: 43", b"connection: close")
        done = await asyncio.gather(*(_whole(gateway, request) for _ in range(300)))
        assert {answers(answer)[0].line for answer in done} == {"HTTP/1.1 200 OK"}
    assert len(upstream.seen) == 300


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes(caplog: pytest.LogCaptureFixture) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (900, before[1]))
        allow_files(1000)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 1000
        assert caplog.messages == []
        allow_files(before[1] + 1)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
        assert caplog.messages == [
            f"the limit is {before[1]} open files, and {before[1] + 1} may be needed: raise the limit (ulimit -n), "
            "or lower max_caller_connections or max_connections"
        ]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
