"""Callers who send slowly, read slowly or not at all: each is cut off in time, and no other caller is affected."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from ..conftest import PATIENCE, RunningGateway, ScriptedUpstream, Seen, replies, running_gateway, settings_for, until
from ..endpoints.test_strict_input import BODY, HIDDEN, VECTORS, answers, assert_refused, envelope, posted

CHUNK = b'data: {"id":"u","choices":[{"index":0,"delta":{"content":"' + b"x" * 16_000 + b'"}}]}\n\n'
ASK = b'{"model":"aihubmix/gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"hi"}]}'
ASKED = posted(b"content-length: %d" % len(ASK), body=ASK, path=b"/v1/chat/completions")
SLOW = b"the head of the request did not arrive within 1 seconds"


@asynccontextmanager
async def gateway_with(
    upstream: ScriptedUpstream, other: ScriptedUpstream | None = None, **timeouts: float
) -> AsyncIterator[RunningGateway]:
    async with running_gateway(settings_for(upstream.url, other.url if other else None, timeouts=timeouts)) as gateway:
        yield gateway


async def connected(gateway: RunningGateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(gateway.url)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def dribble(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Sends a byte every 20 ms until the gateway closes the connection."""
    place = 0
    while not writer.is_closing():
        writer.write(data[place % len(data) :][:1])
        place += 1
        await asyncio.sleep(0.02)


# Heads.


async def test_who_says_nothing_is_cut_off_without_a_word(upstream: ScriptedUpstream) -> None:
    async with gateway_with(upstream, request_head_seconds=1) as gateway:
        reader, writer = await connected(gateway)
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()


@pytest.mark.parametrize("begin", [b"POST /v1/embed", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: "])
async def test_a_head_that_dribbles_in_is_refused_when_its_time_is_up(begin: bytes, upstream: ScriptedUpstream) -> None:
    async with gateway_with(upstream, request_head_seconds=1) as gateway:
        reader, writer = await connected(gateway)
        writer.write(begin)
        dribbling = asyncio.create_task(dribble(writer, b"a"))
        data = await asyncio.wait_for(reader.read(), PATIENCE)
        dribbling.cancel()
        writer.close()
    assert_refused(data, "408 Request Timeout", "head_too_slow", SLOW.decode())


async def test_empty_lines_for_ever_are_no_request(upstream: ScriptedUpstream) -> None:
    async with gateway_with(upstream, request_head_seconds=1) as gateway:
        reader, writer = await connected(gateway)
        dribbling = asyncio.create_task(dribble(writer, b"\r\n"))
        with suppress(ConnectionResetError):  # if a line arrived at the moment of the close
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        dribbling.cancel()
        writer.close()


async def test_a_second_head_has_the_same_time(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(VECTORS))
    async with gateway_with(upstream, request_head_seconds=1) as gateway:
        reader, writer = await connected(gateway)
        writer.write(HIDDEN + b"POST /v1/emb")
        one, two = answers(await asyncio.wait_for(reader.read(), PATIENCE))
        writer.close()
    assert (one.line, two.line) == ("HTTP/1.1 200 OK", "HTTP/1.1 408 Request Timeout")
    assert two.json == envelope("head_too_slow", SLOW.decode())


@pytest.mark.parametrize("seconds", [1, 3], ids=["ends before", "ends after"])
async def test_a_connection_is_kept_for_its_time_after_the_last_answer(
    seconds: int, upstream: ScriptedUpstream
) -> None:
    """Whichever part of the second call falls into the keep-alive time after the first one."""
    loop, begun = asyncio.get_running_loop(), []

    async def late(request: Seen, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        begun.append(loop.time())
        await replies(VECTORS)(request, writer)

    upstream.plays(replies(VECTORS), late)
    async with gateway_with(upstream) as gateway:
        gateway.server.config.timeout_keep_alive = 2
        reader, writer = await connected(gateway)
        writer.write(posted(b"content-length: 43"))
        await gateway.ended(1)
        writer.write(posted(b"content-length: 43", body=BODY.replace(b"hi", b"ho")))
        answered = answers(await asyncio.wait_for(reader.read(), PATIENCE))
        kept = loop.time() - begun[0]
        writer.close()
    assert [answer.line for answer in answered] == ["HTTP/1.1 200 OK"] * 2
    assert kept >= 2


async def test_300_dribblers_and_silent_ones_starve_nobody(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(VECTORS))
    async with gateway_with(upstream, request_head_seconds=1) as gateway:
        slow = [await connected(gateway) for _ in range(300)]
        reading = [asyncio.create_task(reader.read()) for reader, _ in slow]
        for _, writer in slow[::2]:
            writer.write(b"POST /v1/")
        tasks = [asyncio.create_task(dribble(writer, b"a")) for _, writer in slow[::2]]
        for _ in range(10):
            call = asyncio.create_task(gateway.post("/v1/embeddings", BODY))
            await until(call.done, seconds=1)
            assert call.result().status_code == 200
        ends = await asyncio.wait_for(asyncio.gather(*reading), PATIENCE)
        assert {data[:12] for data in ends} == {b"", b"HTTP/1.1 408"}
        for task in tasks:
            task.cancel()
        for _, writer in slow:
            writer.close()
        await until(lambda: len(gateway.server.server_state.connections) <= 1)


# Bodies.


async def test_a_body_that_dribbles_in_is_refused_when_its_time_is_up(upstream: ScriptedUpstream) -> None:
    async with gateway_with(upstream, request_body_seconds=1) as gateway:
        reader, writer = await connected(gateway)
        writer.write(posted(b"content-length: 100000", body=b"{"))
        dribbling = asyncio.create_task(dribble(writer, b" "))
        # Not to the end of the connection: a client that goes on sending may be reset after the answer.
        [got] = answers(await asyncio.wait_for(reader.readuntil(b'seconds"}'), PATIENCE))
        dribbling.cancel()
        writer.close()
    assert got.line == "HTTP/1.1 408 Request Timeout"
    assert got.json == envelope("body_too_slow", "the body did not arrive within 1 seconds")
    assert got.headers["connection"] == "close"
    assert upstream.seen == []


# Readers.


class Flood:
    """An endless stream, as fast as the client reads; counts the bytes written."""

    def __init__(self) -> None:
        self.written = 0
        self.closed = asyncio.Event()

    async def play(self, request: Any, writer: asyncio.StreamWriter) -> bool:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head)
        try:
            while True:
                writer.write(b"%x\r\n" % len(CHUNK) + CHUNK + b"\r\n")
                await writer.drain()
                self.written += len(CHUNK)
                await asyncio.sleep(0)
        except ConnectionError:
            self.closed.set()
            return False

    async def stalls(self) -> int:
        """Returns the bytes written when the stream has stalled, for as many turns of the loop as half a second has."""
        before, turns = 0, 0
        while not before or turns < 100:
            turns = turns + 1 if self.written == before else 0
            before = self.written
            await asyncio.sleep(0.005)
        return before


async def stalled(gateway: RunningGateway, request: bytes) -> socket.socket:
    """A caller who has sent a request, and does not read."""
    parts = urlsplit(gateway.url)
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(caller, (parts.hostname, parts.port))
    await loop.sock_sendall(caller, request)
    return caller


async def test_a_reader_who_stands_still_stops_the_upstream(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    flood = Flood()
    other_upstream.plays(flood.play)
    async with gateway_with(upstream, other_upstream, write_seconds=30) as gateway:
        caller = await stalled(gateway, ASKED)
        held = await asyncio.wait_for(flood.stalls(), PATIENCE)
        assert 0 < held < 64 * 1024 * 1024  # the capacity of the kernel's buffers of two connections
        [connection] = gateway.server.server_state.connections
        assert connection.transport.get_write_buffer_size() < 1024 * 1024
        loop = asyncio.get_running_loop()
        taken = 0
        while taken < held + len(CHUNK):  # the stream goes on when the caller reads
            taken += len(await asyncio.wait_for(loop.sock_recv(caller, 1024 * 1024), PATIENCE))
        assert flood.written > held
        caller.close()
        await asyncio.wait_for(flood.closed.wait(), PATIENCE)


async def test_a_reader_who_stands_still_is_cut_off_and_his_upstream_closed(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    flood = Flood()
    other_upstream.plays(flood.play)
    async with gateway_with(upstream, other_upstream, write_seconds=0.3) as gateway:
        caller = await stalled(gateway, ASKED)
        await asyncio.wait_for(flood.closed.wait(), PATIENCE)
        [record] = await gateway.ended(1)
        assert record.status == 499
        await until(lambda: not gateway.server.server_state.connections)
        caller.close()


async def test_a_reader_who_stands_still_in_a_whole_answer_is_cut_off_too(upstream: ScriptedUpstream) -> None:
    large = {**VECTORS, "data": [{"object": "embedding", "index": 0, "embedding": [0.125] * 3_000_000}]}
    upstream.plays(replies(large))
    for keep in (b"keep-alive", b"close"):
        async with gateway_with(upstream, write_seconds=0.3) as gateway:
            caller = await stalled(gateway, posted(b"content-length: 43", b"connection: " + keep))
            await until(lambda: len(gateway.records) == 1)
            await until(lambda: not gateway.server.server_state.connections)
            caller.close()


async def test_a_caller_who_reads_slowly_gets_all_of_it(upstream: ScriptedUpstream) -> None:
    large = {**VECTORS, "data": [{"object": "embedding", "index": 0, "embedding": [0.125] * 150_000}]}
    upstream.plays(replies(large))
    async with gateway_with(upstream, write_seconds=1) as gateway:
        caller = await stalled(gateway, posted(b"content-length: 43", b"connection: close"))
        loop = asyncio.get_running_loop()
        taken = b""
        while piece := await asyncio.wait_for(loop.sock_recv(caller, 1024 * 1024), PATIENCE):
            taken += piece
            await asyncio.sleep(0.01)
        caller.close()
    [got] = answers(taken)
    assert len(got.json["data"][0]["embedding"]) == 150_000


async def test_who_leaves_after_several_requests_at_once_ends_the_one_that_runs(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    flood = Flood()
    other_upstream.plays(flood.play)
    async with gateway_with(upstream, other_upstream) as gateway:
        _, writer = await connected(gateway)
        writer.write(ASKED + HIDDEN)
        await until(lambda: flood.written > 0)
        writer.close()
        await asyncio.wait_for(flood.closed.wait(), PATIENCE)
        [record] = await gateway.ended(1)
        assert record.status == 499
        assert upstream.seen == []


async def test_an_answer_that_is_not_read_is_recorded_before_it_is_written(upstream: ScriptedUpstream) -> None:
    """A kill loses no row of a call whose caller does not read: the second of two answers waits for the first."""

    async def large(request: Seen, writer: asyncio.StreamWriter) -> None:
        data = [{"index": place, "embedding": [0.123456789] * 4000} for place, _ in enumerate(request.body["input"])]
        await replies({"data": data, "usage": {"total_tokens": 1}})(request, writer)

    upstream.plays(large)
    body = b'{"model":"jina/a-new-one","input":[%b]}' % b",".join([b'"a"'] * 200)
    async with gateway_with(upstream) as gateway:
        parts = urlsplit(gateway.url)
        with socket.create_connection((parts.hostname or "", parts.port or 0)) as caller:
            caller.sendall(posted(b"content-length: %d" % len(body), body=body) * 2)
            records = await gateway.ended(2)
            assert gateway.generations.load.calls == 1
    assert [record.status for record in records] == [200, 200]
