"""Rows 52, 61 and 62: many calls at once, and leftovers."""

from __future__ import annotations

import asyncio
import gc
import resource
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from ..conftest import RunningGateway, Script, raw, replies, running_gateway, streams, until
from ..endpoints.test_strict_input import posted, sent
from .bench import (
    ANSWERED,
    CHAT,
    CHATS,
    DEEP,
    EMBED,
    EMBEDDINGS,
    SOON,
    VECTORS,
    Bench,
    asked,
    assert_complete,
    descriptors,
    patient,
    read_events,
)
from .scripts import CHUNKED, DONE_MODEL, STREAM_HEAD, chunk, delta, hang, head, sse, wire


@pytest.fixture
def many_files() -> Iterator[None]:
    """A call takes four descriptors here, since both of its ends are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# 52: everything answers 503.


@pytest.mark.parametrize(("path", "asks"), [(EMBEDDINGS, EMBED), (CHATS, DEEP)], ids=["embeddings", "deepsearch"])
async def test_no_storm_of_both_while_everything_is_503(path: str, asks: Any, bench: Bench) -> None:
    """No call is made more than three times, and at most a fifth of the calls in flight are repeats at the same
    upstream.

    The move of each call to the other upstream does not count as a repeat.
    """
    asked_for: Counter[str] = Counter()
    asked_at: Counter[tuple[str, str]] = Counter()
    repeats = [0]

    async def busy(request: Any, writer: asyncio.StreamWriter) -> None:
        call = request.headers["x-request-id"]
        asked_for[call] += 1
        asked_at[call, request.headers["host"]] += 1
        repeat = asked_at[call, request.headers["host"]] > 1
        repeats.append(repeats[-1] + repeat)
        await until(lambda: len(asked_for) == 30)
        await asyncio.sleep(0.01)  # so that the allowed repeats overlap
        repeats.append(repeats[-1] - repeat)
        await replies({"detail": "busy"}, 503, retry_after="3")(request, writer)

    for each in (bench.jina, bench.aihubmix):
        each.plays(busy)
    async with bench.gateway(both=True) as gateway:
        answers = await asyncio.gather(*(asked(gateway, path, asks) for _ in range(30)))
    assert {(answer.status_code, answer.headers.get("retry-after")) for answer in answers} == {(503, "3")}
    assert len(asked_for) == 30
    assert max(asked_for.values()) <= 3
    assert 1 <= max(repeats) <= 6


# 61: many at once.


async def answered(gateway: RunningGateway, path: str, asks: Any) -> bytes:
    """The body, over a connection of its own: the usual client limits itself to a hundred connections."""
    body = msgspec.json.encode(asks)
    heads = (b"content-length: %d" % len(body), b"connection: close")
    data = await sent(gateway, posted(*heads, body=body, path=path.encode()))
    assert data.startswith(b"HTTP/1.1 200 OK\r\n"), data[:500]
    head, _, body = data.partition(b"\r\n\r\n")
    return b"".join(unchunked(body)) if b"chunked" in head else body


def unchunked(body: bytes) -> Iterator[bytes]:
    """The chunks; fails if any is incomplete."""
    while True:
        size, _, body = body.partition(b"\r\n")
        if not int(size, 16):
            assert body == b"\r\n"
            return
        yield body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]


async def test_500_streams_at_once(bench: Bench, many_files: None) -> None:
    """All are open at the same time, and each ends correctly."""
    all_open = asyncio.Event()
    begin, end = sse(delta("a")), sse(delta("b"), delta("", "stop")) + DONE_MODEL
    bench.aihubmix.plays(streams(begin, all_open, end))
    async with bench.mixed() as gateway:
        calls = [asyncio.ensure_future(answered(gateway, CHATS, CHAT)) for _ in range(500)]
        await until(lambda: len(bench.aihubmix.seen) == 500)
        all_open.set()
        for body in await asyncio.gather(*calls):
            *chunks, last = read_events(body)
            assert last == "[DONE]"
            assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "ab"
        assert [record.status for record in await gateway.ended(500)] == [200] * 500


async def test_300_calls_of_a_second_at_once(bench: Bench, many_files: None) -> None:
    async def slowly(request: Any, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1)
        await replies(VECTORS)(request, writer)

    bench.jina.plays(slowly)
    async with bench.gateway() as gateway:
        bodies = await asyncio.gather(*(answered(gateway, EMBEDDINGS, EMBED) for _ in range(300)))
        assert [record.status for record in await gateway.ended(300)] == [200] * 300
    assert [msgspec.json.decode(body) for body in bodies] == [ANSWERED] * 300
    assert len(bench.jina.seen) == 300


# 62: no leftovers.

BROKEN: list[Script] = [
    wire(),
    wire(end="reset"),
    wire(head("content-length: 9") + b"{", end="reset"),
    wire(head("content-length: 9") + b"{"),
    wire(head(CHUNKED) + b"xyz"),
    wire(head("content-length: 2", "content-encoding: gzip") + b"{}"),
    wire(STREAM_HEAD, chunk(sse(delta("a")))),
    wire(STREAM_HEAD, chunk(sse(delta("a"))), end="hang"),
    wire(STREAM_HEAD, chunk(sse({"error": "boom"})), end="hang"),
    raw(b"nonsense\r\n\r\n"),
    replies(b"<html>", 502),
    replies({"detail": "no"}, 401),
    replies({"detail": "slow"}, 429),
    replies(b"", 302, location="http://127.0.0.1:9/"),
    replies(b"half a"),
    hang,
]


async def test_200_broken_calls_leave_nothing_behind(bench: Bench) -> None:
    """No file, task or connection remains, however the calls failed and whichever callers left."""

    async def break_some(fifties: int) -> tuple[int, int]:
        """The number of tasks and files when all calls have ended."""
        for _ in range(fifties):
            bench.aihubmix.plays(*BROKEN * 4)
            asks = [{**CHAT, "stream": number % 3 > 0} for number in range(50)]
            calls = [asyncio.ensure_future(gateway.post(CHATS, ask, connection="close")) for ask in asks]
            await until(lambda: len(bench.aihubmix.scripts) < len(BROKEN) * 3)
            for call in calls[::5]:  # these callers leave
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        gateway.server.renew(settings)  # also closes idle connections to upstreams
        await until(lambda: not any(map(is_open, bench.aihubmix.readers)))
        for task in bench.aihubmix.tasks:  # tasks of the upstream that hang
            task.cancel()
        await until(lambda: not any(map(is_upstreams, asyncio.all_tasks())))
        await until(lambda: not gateway.server.server_state.connections)
        gc.collect()
        return len(asyncio.all_tasks()), descriptors()

    timeouts = dict.fromkeys(("headers_seconds", "reply_seconds", "idle_seconds"), SOON)
    settings = patient(bench.engine, None, bench.aihubmix.url, timeouts=timeouts, max_attempts=1)
    async with running_gateway(settings) as gateway:
        tasks, files = await break_some(1)
        more_tasks, more_files = await break_some(4)
        assert more_tasks <= tasks + 2
        assert more_files <= files + 4
        records = [record for record in await gateway.ended(200) if record.target]
        assert all(record.status and record.status >= 400 for record in records)
        gateway.server.renew(patient(bench.engine, None, bench.aihubmix.url))
        bench.aihubmix.plays(streams(sse(delta("a", "stop")) + DONE_MODEL))
        assert_complete(await asked(gateway, CHATS, CHAT), "a")


def is_upstreams(task: asyncio.Task[Any]) -> bool:
    return "ScriptedUpstream" in repr(task)


def is_open(reader: asyncio.StreamReader) -> bool:
    return not reader.at_eof() and reader.exception() is None
