"""The SSE response of a hot path, in the form of sse-starlette's response, sent by the call's own task.

sse-starlette's response works with any source and any server, at the cost of four more tasks, and of a lock and a timer
for each event. Here the server itself reports a disconnect (app/server/protocol.py), and one timer sends keep-alive
comments into a silent stream. FastAPI routes (app/server/routes.py) use sse-starlette's response itself.
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


class EventStreamResponse:
    """``events``: bytes of one or more whole events each. ``head``: headers in addition to those of all streams.
    ``seconds``: silence after which a keep-alive comment is sent."""

    def __init__(self, events: AsyncIterator[bytes], head: Head, seconds: float) -> None:
        self._events = events
        self._head = head
        self._seconds = seconds

    async def serve(self, exchange: HTTPExchange) -> None:
        """Send the whole stream."""
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
    """Sends keep-alive comments. ``last``: the monotonic time of the latest event; ``speaking``: one is being sent."""

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
        """Send a comment if one is due, unless the previous send is still blocked by a caller who does not read."""
        silent = time.monotonic() - self.last
        due = silent >= self._seconds
        if due and not self.speaking and (self._saying is None or self._saying.done()):
            self._saying = self._loop.create_task(self._exchange.say(PING))
        self._timer = self._loop.call_later(self._seconds if due else self._seconds - silent, self._look)
