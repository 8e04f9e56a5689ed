"""File descriptors that run out: callers are refused at once and told why, the log says so, and then all goes on."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from .conftest import ScriptedUpstream, replies, until
from .test_cli import ROOT, SECONDS, environment
from .test_process import EMBED, VECTORS, Gateway, program

LIMIT = 80
SAID = r"file descriptors run out: new connections are refused or closed, \d+ of them so far; raise the limit .*"


@asynccontextmanager
async def connections(running: Gateway, count: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """So many on which nothing is asked."""
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
    """What those were told that were refused: so many or more, long before the time for a head is over."""
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
    slow = {"timeouts": {"head_seconds": 600}}
    async with program(tmp_path, upstream.url, workers=workers, **slow) as running:
        processes = await running.ready(2) if workers == 2 else {running.process.pid}
        for process in processes:
            resource.prlimit(process, resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
        await running.says(rf"{LIMIT} open files are allowed here, \d+ may be needed: .*")
        # Before the others, and with an upstream, for which there has to be a descriptor left.
        async with httpx.AsyncClient(base_url=running.client.base_url, timeout=SECONDS, trust_env=False) as known:
            assert (await known.get("/healthz")).status_code == 200
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


async def test_a_limit_that_was_lowered_is_raised_again(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """Below what is open already, so that no connection can be taken any more."""
    upstream.plays(replies(VECTORS))
    async with program(tmp_path, upstream.url) as running:
        hard = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (5, hard))
        fresh = {"connection": "close"}
        assert (await running.client.post("/v1/embeddings", json=EMBED, headers=fresh)).status_code == 200


SHEDS = """
import resource, socket
from app.descriptors import Descriptors
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
    assert (done.returncode, done.stderr.count("file descriptors run out")) == (0, 1), done.stderr
