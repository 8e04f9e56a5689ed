"""File descriptors that run out: callers are refused at once with a reason, the log reports it, and service
recovers."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count
from pathlib import Path

import httpx
import msgspec
import pytest

from app.routing.breaker import BREAK_AFTER

from ..cli.test_cli import ROOT, SECONDS, environment
from ..conftest import ScriptedUpstream, Seen, replies, until
from ..faults.bench import ENGINES
from .test_process import EMBED, VECTORS, Gateway, program

LIMIT = 80
FEW = 128
SHED_MESSAGE = "this gateway is out of file descriptors (ulimit -n); try again in a second"
SHED = {
    "error": {"message": SHED_MESSAGE, "type": "api_error", "param": None, "code": "overloaded"},
    "detail": SHED_MESSAGE,
}
SAID = r"out of file descriptors: new connections are refused or closed, \d+ so far; raise the limit .*"


@asynccontextmanager
async def connections(running: Gateway, count: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """``count`` connections without a request."""
    host, port = running.client.base_url.host, running.port
    opened = [await asyncio.open_connection(host, port) for _ in range(count)]
    try:
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.close()


def _open(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


async def _end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def _ended(readers: list[asyncio.StreamReader], count: int) -> list[bytes]:
    """The responses on refused connections, ``count`` or more of them, long before the timeout for a request head."""
    reading = [asyncio.create_task(_end(reader)) for reader in readers]
    await until(lambda: sum(task.done() for task in reading) >= count, SECONDS)
    ended = [task.result() for task in reading if task.done()]
    for task in reading:
        task.cancel()
    return ended


@pytest.mark.parametrize("workers", [1, 2])
async def test_callers_beyond_the_limit_are_refused_at_once_and_the_rest_is_served(
    workers: int, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(replies(VECTORS))
    slow = {"timeouts": {"request_head_seconds": 600}}
    async with program(tmp_path, upstream.url, workers=workers, **slow) as running:
        processes = await running.ready(2) if workers == 2 else {running.process.pid}
        for process in processes:
            resource.prlimit(process, resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
        await running.says(rf"the limit is {LIMIT} open files, and \d+ may be needed: .*")
        # Opened before the others, and with an upstream call, which must get a descriptor.
        async with _known(running) as known:
            async with connections(running, 4 * LIMIT) as readers:
                ended = await _ended(readers, (4 - workers) * LIMIT)
                assert (await known.post("/v1/embeddings", json=EMBED)).status_code == 200
                await running.says(SAID)
        told = [end for end in ended if end]
        assert all(end.startswith(b"HTTP/1.1 503 ") and b"file descriptors" in end for end in told)
        assert told
        await until(lambda: all(_open(process) < LIMIT // 2 for process in processes), SECONDS)
        for _ in range(10):
            fresh = {"connection": "close"}
            assert (await running.client.post("/v1/embeddings", json=EMBED, headers=fresh)).status_code == 200
        assert sum("file descriptors" in message for message in running.messages) <= 2 * workers


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_burst_leaves_each_call_that_is_taken_a_descriptor_for_its_upstream(
    engine: str, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    go = asyncio.Event()

    async def wait(request: Seen, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await replies(VECTORS, connection="close")(request, writer)

    upstream.plays(wait)
    async with program(tmp_path, upstream.url, http_client=engine) as running:
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (FEW, FEW))
        await running.says(rf"the limit is {FEW} open files, and \d+ may be needed: .*")
        calls = [asyncio.create_task(_call(running.port)) for _ in range(FEW)]
        await until(lambda: sum(call.done() for call in calls) + len(upstream.seen) == FEW, SECONDS)
        go.set()
        ends = await asyncio.gather(*calls)
        assert not [message for message in running.messages if "in a row" in message]
    told = [end for end in ends if end and not end.startswith(b"HTTP/1.1 200 ")]
    assert all(end.startswith(b"HTTP/1.1 503 ") and b'"code":"overloaded"' in end for end in told)
    assert told
    assert sum(end.startswith(b"HTTP/1.1 200 ") for end in ends) == len(upstream.seen) > FEW // 4


async def _call(port: int) -> bytes:
    """The response to a call on a connection of its own; empty if the connection was closed without one."""
    body = msgspec.json.encode(EMBED)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"content-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(f"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\n{head}".encode() + body)
        return await _end(reader)
    finally:
        writer.close()


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_call_without_a_descriptor_for_its_upstream_is_shed(
    engine: str, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Neither the key nor the upstream has a failure counted; after so many, the upstream would be tried last."""
    upstream.plays(replies(VECTORS, connection="close"))
    async with program(tmp_path, upstream.url, http_client=engine) as running, AsyncExitStack() as stack:
        process = running.process.pid
        async with connections(running, 3):
            await until(lambda: _sockets(process) >= 4, SECONDS)
            free = min(_lowest_free(process) for _ in range(20))  # other descriptors are in use only briefly
            # The descriptors of these connections are above the coming limit: they can still be used, and closing one
            # frees none below the limit.
            known = [await stack.enter_async_context(_known(running)) for _ in range(2 * BREAK_AFTER + 1)]
            resource.prlimit(process, resource.RLIMIT_NOFILE, (free, free))
            for client in known[1:]:
                response = await client.post("/v1/embeddings", json=EMBED)
                assert (response.status_code, response.json()) == (503, SHED)
                assert (response.headers["retry-after"], response.headers["x-should-retry"]) == ("1", "true")
                assert "x-torii-upstream" not in response.headers
        await until(lambda: _lowest_free(process) < free, SECONDS)
        assert (await known[0].post("/v1/embeddings", json=EMBED)).status_code == 200
        out = '"error":"overloaded","reason":"this process is out of file descriptors"'
        await until(lambda: running.log.count(out) == 2 * BREAK_AFTER, SECONDS)
        assert not [message for message in running.messages if "in a row" in message or "rests" in message]
    assert len(upstream.seen) == 1


@asynccontextmanager
async def _known(running: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client with an open connection."""
    async with httpx.AsyncClient(base_url=running.client.base_url, timeout=SECONDS, trust_env=False) as client:
        assert (await client.get("/healthz")).status_code == 200
        yield client


def _sockets(process: int) -> int:
    """The number of the process's sockets: of callers, of upstreams, and listening ones."""
    with suppress(FileNotFoundError):  # a descriptor was just being closed
        return sum(os.readlink(f"/proc/{process}/fd/{number}").startswith("socket:") for number in _numbers(process))
    return 0


def _lowest_free(process: int) -> int:
    return next(number for number in count() if number not in _numbers(process))


def _numbers(process: int) -> set[int]:
    return {int(number) for number in os.listdir(f"/proc/{process}/fd")}


async def test_a_limit_that_was_lowered_is_raised_again(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """Lowered below the number of open descriptors, so that no connection can be accepted."""
    upstream.plays(replies(VECTORS))
    async with program(tmp_path, upstream.url) as running:
        hard = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (5, hard))
        fresh = {"connection": "close"}
        assert (await running.client.post("/v1/embeddings", json=EMBED, headers=fresh)).status_code == 200


SHEDS = """
import resource, socket
from app.server.descriptors import Descriptors
descriptors = Descriptors()
listener = socket.create_server(("127.0.0.1", 0))
listener.setblocking(False)
callers = [socket.create_connection(listener.getsockname()) for _ in range(3)]
descriptors.allow(1)
descriptors.look([listener])
assert descriptors.refused == 0
free = callers[-1].fileno() + 2  # the one between was taken to have it in reserve
resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
for _ in range(2):
    descriptors.look([listener])
    assert descriptors.refused == 3, descriptors.refused
for caller in callers:
    assert caller.recv(1) == b""
"""


def test_where_none_is_left_those_who_wait_are_taken_and_closed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHEDS], cwd=ROOT, env=environment({}), capture_output=True, text=True, timeout=SECONDS
    )
    assert (done.returncode, done.stderr.count("out of file descriptors")) == (0, 1), done.stderr
