"""The upstream: answers at once with precomputed bytes. `python -m bench.stub PORT CORE [TLS_PORT CERTIFICATE KEY]`.

It parses as little of a request as possible, so it is much faster than every gateway measured against it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import ssl
import sys
import time
from collections import deque
from functools import cache
from typing import cast

import msgspec
import uvloop

from . import wire
from .processes import pin

BURST_EVENTS = 4  # written at once in an unpaced stream
TICK_SECONDS = 0.001
RETRY_SECONDS = 1


class Cap:
    """A provider's rate limit: ``limit`` calls within any minute."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._times: deque[float] = deque()

    def allows(self) -> bool:
        now = time.monotonic()
        while self._times and self._times[0] <= now - 60:
            self._times.popleft()
        if len(self._times) >= self._limit:
            return False
        self._times.append(now)
        return True


class Upstream(asyncio.Protocol):
    """One connection. Requests come one after another and have a content-length."""

    caps: dict[str, Cap] = {}  # noqa: RUF012 - of all connections

    def __init__(self, pacer: Pacer) -> None:
        self.pacer = pacer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.buffer = b""
        self.stream: Stream | None = None

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        end = self.buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = self.buffer[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 : head.index(b"\r", at)]) if at >= 0 else 0
        if len(self.buffer) < end + length:
            return
        first, _, rest = head[head.index(b"/") + 1 : head.index(b" http/")].decode().partition("/")
        place = rest if first == "v1" else first  # some peers keep only the end of a path
        body, self.buffer = self.buffer[end : end + length], b""
        self.answer(place, body)

    def answer(self, place: str, body: bytes) -> None:
        if place[0] == "s":
            self.stream = Stream(self.transport, self.pacer, place)
        elif place.startswith("capped"):
            self.transport.write(self.capped(place, body))
        else:
            self.transport.write(whole(place))

    def capped(self, place: str, body: bytes) -> bytes:
        cap = self.caps.setdefault(place, Cap(int(place.removeprefix("capped"))))
        if not cap.allows():
            text = b'{"detail":"Rate limit exceeded","code":"RATE_REQUEST_LIMIT_EXCEEDED","request_id":"bench"}'
            return reply(text, b"429 Too Many Requests", b"retry-after: %d\r\n" % RETRY_SECONDS)
        return reply(wire.embedded(len(msgspec.json.decode(body)["input"])))

    def pause_writing(self) -> None:
        if self.stream:
            self.stream.paused = True

    def resume_writing(self) -> None:
        if self.stream and self.stream.paused:
            self.stream.paused = False
            self.stream.go_on()

    def connection_lost(self, error: Exception | None) -> None:
        if self.stream:
            self.stream.left = -1


class Stream:
    """A DeepSearch run: the first event at once, the others on schedule, or as fast as the client reads."""

    def __init__(self, transport: asyncio.Transport, pacer: Pacer, place: str) -> None:
        rate, _, count = place.removeprefix("s").partition("x")
        self.left = int(count)
        self.paused = False
        self._interval = 1 / int(rate) if rate != "0" else 0.0
        self._transport = transport
        self._pacer = pacer
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.time()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        transport.write(head + chunk(wire.first_event()))
        self.go_on()

    def go_on(self) -> None:
        """Write the events that are due, then let the other streams run."""
        if self.left < 0 or (self.paused and not self._interval):
            return
        if self._interval:
            self._paced()
        else:
            self._burst()
        if self.left == 0:
            self.left = -1
            self._transport.write(chunk(wire.last_events()) + b"0\r\n\r\n")

    def _paced(self) -> None:
        now = self._loop.time()
        while self.left > 0 and self._next <= now:
            self._transport.write(chunk(wire.stamped_event()))
            self.left -= 1
            self._next += self._interval
        if self.left:
            self._pacer.wake(self, self._next)

    def _burst(self) -> None:
        size = min(BURST_EVENTS, self.left)
        self.left -= size
        self._transport.write(b"".join(chunk(wire.stamped_event()) for _ in range(size)))
        if self.left:
            self._loop.call_soon(self.go_on)


class Pacer:
    """One timer for all streams; a timer per stream would cost more than the events."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: list[tuple[float, int, Stream]] = []
        self._turn = itertools.count()
        self._tick()

    def wake(self, stream: Stream, when: float) -> None:
        heapq.heappush(self._due, (when, next(self._turn), stream))

    def stop(self) -> None:
        self._timer.cancel()

    def _tick(self) -> None:
        now = self._loop.time()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2].go_on()
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)


@cache
def whole(place: str) -> bytes:
    return reply(wire.answer(place))


def reply(body: bytes, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n"
    return head % (status, len(body), more) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(port: int, secure: list[str]) -> None:
    loop = asyncio.get_running_loop()
    pacer = Pacer()
    plain = await loop.create_server(lambda: Upstream(pacer), "127.0.0.1", port, backlog=4096)
    if secure:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(secure[1], secure[2])
        await loop.create_server(lambda: Upstream(pacer), "127.0.0.1", int(secure[0]), backlog=4096, ssl=context)
    async with plain:
        await plain.serve_forever()


def main() -> None:
    port, core, *secure = sys.argv[1:]
    pin(core)
    uvloop.run(serve(int(port), secure))


if __name__ == "__main__":
    main()
