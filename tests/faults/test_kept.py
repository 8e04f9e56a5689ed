"""Row 33: kept connections to an upstream that closes idle ones at the moment they are reused.

There are several callers, and the gateway is a process of its own, with default settings except http_client.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest

from ..conftest import JINA_KEY
from ..program import Program, started
from .bench import EMBEDDINGS
from .scripts import reset_transport, whole

CALLERS = 8
CALLS = 600


LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Impatient(asyncio.Protocol):
    """Answers each request with the number in its input, and ends a connection that is idle for ``after`` milliseconds.

    ``after`` None: ends it at the next request. Such a request may be read, but is never answered.
    """

    def __init__(self, end: str, after: Iterator[float | None]) -> None:
        self._end, self._after = end, after
        self._buffer = b""
        self._answered = self._ended = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        if self._timer is not None:
            self._timer.cancel()
        elif self._answered:
            self._leave()
            return
        self._buffer += data
        if self._buffer.endswith(b"}"):
            [text] = msgspec.json.decode(self._buffer.partition(b"\r\n\r\n")[2])["input"]
            self._buffer = b""
            self._transport.write(whole(vector(text)))
            self._answered = True
            if (after := next(self._after)) is not None:
                self._timer = asyncio.get_running_loop().call_later(after / 1000, self._leave)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _leave(self) -> None:
        self._ended = True
        if self._end == "reset":
            reset_transport(self._transport)
        elif self._end == "half closed":
            self._transport.write_eof()
        else:
            if self._end == "408":
                self._transport.write(LATE)
            self._transport.close()


def vector(text: str) -> bytes:
    """An answer that identifies its text."""
    data = [{"object": "embedding", "index": 0, "embedding": [float(text)]}]
    return msgspec.json.encode({"object": "list", "data": data, "usage": {"total_tokens": 1}})


@asynccontextmanager
async def impatient(end: str, *after: float | None) -> AsyncIterator[str]:
    """The server's URL. Connections use the values of ``after`` in turn."""
    times = itertools.cycle(after)
    server = await asyncio.get_running_loop().create_server(lambda: Impatient(end, times), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


ENDS: dict[str, tuple[str, tuple[float | None, ...]]] = {
    "closed after 2 to 4 ms": ("fin", (2.0, 2.5, 3.0, 3.5, 4.0)),
    "closed after 1 ms": ("fin", (1.0,)),
    "closed at once": ("fin", (0.0,)),
    "reset after 2 to 4 ms": ("reset", (2.0, 2.5, 3.0, 3.5, 4.0)),
    "reset at once": ("reset", (0.0,)),
    "closed as it is used again": ("fin", (None,)),
    "reset as it is used again": ("reset", (None,)),
    "ended with 408 after 2 to 4 ms": ("408", (2.0, 2.5, 3.0, 3.5, 4.0)),
    "ended with 408 as it is used again": ("408", (None,)),
    "half closed as it is used again": ("half closed", (None,)),
    "half closed after 2 to 4 ms": ("half closed", (2.0, 2.5, 3.0, 3.5, 4.0)),
}


@pytest.mark.parametrize(("end", "after"), ENDS.values(), ids=ENDS)
async def test_no_call_fails_where_the_upstream_closes_what_is_idle(
    end: str, after: tuple[float | None, ...], engine: str, tmp_path: Path
) -> None:
    async with impatient(end, *after) as url:
        configuration = {
            "http_client": engine,
            "upstreams": {"jina": {"base_url": f"{url}/v1", "api_key": JINA_KEY}},
        }
        async with started(Program, tmp_path, msgspec.json.encode(configuration)) as program:
            texts = iter(range(CALLS))
            wrong = [found async for found in together(program.client, texts)]
    assert wrong == []


async def together(client: httpx.AsyncClient, texts: Iterator[int]) -> AsyncIterator[Any]:
    """The wrong answers to callers who each send one call after another. Their pauses coincide with the upstream's."""
    pauses = itertools.cycle((0.0, 1.0, 2.0, 2.5, 3.0, 3.5, 4.0))

    async def calls() -> list[Any]:
        wrong = []
        for text in texts:
            await asyncio.sleep(next(pauses) / 1000)
            body = {"model": "jina-embeddings-v3", "input": [str(text)]}
            response = await client.post(EMBEDDINGS, json=body)
            if response.status_code != 200 or response.json()["data"][0]["embedding"] != [float(text)]:
                wrong.append((text, response.status_code, response.text[:200]))
        return wrong

    for found in await asyncio.gather(*[calls() for _ in range(CALLERS)]):
        for each in found:
            yield each
