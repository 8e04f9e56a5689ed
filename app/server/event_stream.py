"""A stream to its caller, in the form of sse-starlette's response, sent by the one task that the call has anyway.

sse-starlette serves any source under any server, and has four more tasks, a lock and a timer for each event for it.
Here the server itself tells who has left (app/server/protocol.py), and a timer tells when a silent stream has to say
that it lives.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import cache

from sse_starlette import EventSourceResponse, ServerSentEvent

from ..core.sse import PING
from .http import Head, HTTPExchange


class Ping(ServerSentEvent):
    """Without the blank line that sse-starlette ends each comment with."""

    def encode(self) -> bytes:
        return PING


@cache
def form(seconds: float) -> EventSourceResponse:
    """The response that all streams have the status and the headers of; ``seconds`` apart they say that they live."""
    return EventSourceResponse(iter(()), sep="\n", ping=seconds, ping_message_factory=Ping)


class Downstream:
    """``events`` are bytes, whole events each; ``head`` are headers beside those of all streams."""

    def __init__(self, events: AsyncIterator[bytes], head: Head, seconds: float) -> None:
        self._events = events
        self._head = head
        self._form = form(seconds)

    async def serve(self, exchange: HTTPExchange) -> None:
        """Returns when all has been said."""
        first = await anext(self._events, b"")
        await exchange.begin(self._form.status_code, [*self._head, *self._form.raw_headers], first)
        life = Life(exchange, self._form.ping_interval)
        try:
            async for data in self._events:
                life.speaking = True
                await exchange.say(data)
                life.speaking = False
                life.last = time.monotonic()
            await exchange.end()
        finally:
            life.end()


class Life:
    """Says that a stream lives where nothing else is said. ``last`` is when something was, by the monotonic clock."""

    __slots__ = ("_exchange", "_loop", "_saying", "_seconds", "_timer", "last", "speaking")

    def __init__(self, exchange: HTTPExchange, seconds: float) -> None:
        self.last = time.monotonic()
        self.speaking = False
        self._exchange = exchange
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._saying: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(seconds, self._look)

    def end(self) -> None:
        self._timer.cancel()
        if self._saying is not None:
            self._saying.cancel()

    def _look(self) -> None:
        """A caller who takes nothing is told nothing more."""
        silent = time.monotonic() - self.last
        due = silent >= self._seconds
        if due and not self.speaking and (self._saying is None or self._saying.done()):
            self._saying = self._loop.create_task(self._exchange.say(PING))
        self._timer = self._loop.call_later(self._seconds if due else self._seconds - silent, self._look)
