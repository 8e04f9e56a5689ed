"""A stream of a hot path to its caller, in the form of sse-starlette's response, sent by the one task of the call.

sse-starlette's response serves any source under any server, and has four more tasks, a lock and a timer for each event
for it. Here the server itself tells who has left (app/server/protocol.py), and a timer tells when a silent stream has
to say that it lives. The gateway's own routes (app/server/routes.py) answer with sse-starlette's response itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse

from ..core.sse import PING
from .http import Head, HTTPExchange

# The status and the headers of all streams.
FORM = EventSourceResponse(iter(()), ping=0)


class Downstream:
    """``events`` are bytes, whole events each; ``head`` are headers beside those of all streams. A stream that is
    silent for ``seconds`` says that it lives."""

    def __init__(self, events: AsyncIterator[bytes], head: Head, seconds: float) -> None:
        self._events = events
        self._head = head
        self._seconds = seconds

    async def serve(self, exchange: HTTPExchange) -> None:
        """Returns when all has been said."""
        first = await anext(self._events, b"")
        await exchange.begin(FORM.status_code, [*self._head, *FORM.raw_headers], first)
        life = Life(exchange, self._seconds)
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
