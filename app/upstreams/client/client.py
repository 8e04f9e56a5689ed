"""Requests to upstreams, with deadlines and size limits, over an ``Engine``.

``send`` returns a complete answer, ``open`` an answer whose body has not been read. Both return answers of any status,
and raise UpstreamError only if there is no answer. No deadline restarts with each byte that arrives, except ``idle``,
which is for streams and bounded by two others.

    connect            [---]
    headers                 [------]                    to the head of the answer
    reply                           [------------]      the body, if it is read as a whole
    idle                            [--][---][--]       a stream: between two pieces of any content
    event                           [--------][--]      a stream: to the first event, and between two; not comments
    total              [--------------------------]
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...core.deadlines import Deadline, DeadlineClock
from ...core.errors import ToriiError, UpstreamTimeout, UpstreamTooLarge, shutting_down
from ...core.stream import Stream
from ...core.types import Reply, Request
from . import BeforeSend, Engine, EngineAnswer, nothing
from .decompression import Inflate, Plain, unpacking

# The bytes of an error's body that are kept: no more of it is ever shown.
ERROR_BYTES = 64 * 1024
SAID_OF_ERRORS = ("retry-after", "date", "content-type")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The deadlines in seconds, as drawn above."""

    headers: float = 120.0
    reply: float = 120.0
    idle: float = 300.0
    event: float = 600.0
    total: float = 1800.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """The most bytes, after decompression, of a whole answer and of one event of a stream."""

    reply: int = 64 * 1024 * 1024
    event: int = 8 * 1024 * 1024


class Client:
    def __init__(self, engine: Engine, deadlines: Deadlines, sizes: Sizes | None = None) -> None:
        self.deadlines = deadlines
        self.sizes = sizes or Sizes()
        self.ending = False
        self._engine = engine
        self._clock = DeadlineClock()

    async def send(self, request: Request, since: float | None = None, before_send: BeforeSend = nothing) -> Reply:
        """The whole answer. Raises as ``open`` does, and UpstreamError if the body cannot be read or is too large."""
        # As in ``open``, but without calling it: a coroutine less between a call and its connection.
        deadline, ends = self._times(since, request.seconds)
        try:
            with deadline:
                answer = await self._engine.open(request, before_send)
        except TimeoutError:
            raise self.late() from None
        stream = _Stream(answer, deadline, self, ends, request)
        try:
            return Reply(stream.status, stream.headers, await stream.read())
        finally:
            await stream.aclose()

    async def open(self, request: Request, since: float | None = None, before_send: BeforeSend = nothing) -> Stream:
        """The answer, once its head has arrived. Raises UpstreamTimeout, UpstreamUnreachable, UpstreamBroken, and
        Overloaded if this gateway has no connection left.

        ``since`` is the start of the call on the monotonic clock, from which its total time counts; the default is now.
        ``before_send`` is called when a connection is open, right before the request is sent.
        """
        deadline, ends = self._times(since, request.seconds)
        try:
            with deadline:
                answer = await self._engine.open(request, before_send)
        except TimeoutError:
            raise self.late() from None
        return _Stream(answer, deadline, self, ends, request)

    def _times(self, since: float | None, seconds: float | None) -> tuple[Deadline, float]:
        """The deadline for the answer's head, and the end of the call's total time. ``seconds`` are the request's."""
        now = time.monotonic()
        ends = (now if since is None else since) + self.deadlines.total
        head = self.deadlines.headers if seconds is None else seconds
        return Deadline(self._clock, now if self.ending else min(now + head, ends)), ends

    def cut(self) -> None:
        """Ends all waits, present and future, with Unavailable, because the process is about to exit."""
        self.ending = True
        self._clock.expire()

    def late(self) -> ToriiError:
        return shutting_down() if self.ending else UpstreamTimeout("the upstream did not answer in time")

    async def aclose(self) -> None:
        await self._engine.aclose()


class _Stream:
    def __init__(self, answer: EngineAnswer, deadline: Deadline, client: Client, ends: float, request: Request) -> None:
        self._answer = answer
        self._deadline = deadline
        self._client = client
        self._request = request
        self._read_until = deadline.until  # of a request with seconds of its own
        self._event_until = time.monotonic() + self._event_seconds
        self._idle_until = 0.0  # the deadline of the piece that is already waited for; 0: none is
        self._total_until = ends
        self._body: Plain | Inflate | None = None
        self.status = answer.status
        self.event_bytes = client.sizes.event
        names = request.kept or (SAID_OF_ERRORS if answer.status >= 300 else ())
        self.headers: Mapping[str, str] = _said(answer, names) if names else {}

    async def pieces(self, look: float = math.inf) -> Iterable[bytes] | None:
        """The next pieces of the body; None at its end, empty if the time ``look`` (monotonic clock) comes first."""
        if self._body is None:
            self._body = unpacking(self._answer.header("content-encoding"))
        until = self._idle_until or time.monotonic() + self._client.deadlines.idle
        data = await self._piece(until, look)
        self._idle_until = until if data is None else 0.0
        if data is None:
            return ()
        return self._body.feed(data) if data else None

    def progressed(self) -> None:
        """An event has arrived: restarts the deadline for the next one."""
        self._event_until = time.monotonic() + self._event_seconds

    @property
    def _event_seconds(self) -> float:
        return self._client.deadlines.event if self._request.seconds is None else self._request.seconds

    async def read(self) -> bytes:
        """The whole body; for a status of 300 or more, its first ERROR_BYTES. Raises UpstreamTooLarge for a body over
        the limit, of any status, and UpstreamError if the body cannot be read."""
        limit = self._client.sizes.reply
        kept = ERROR_BYTES if self.status >= 300 else limit
        reply = time.monotonic() + self._client.deadlines.reply
        self._event_until = reply if self._request.seconds is None else self._read_until
        pieces: list[bytes] = []
        size = 0
        body = unpacking(self._answer.header("content-encoding"))
        while data := await self._piece(self._event_until):
            for piece in body.feed(data):
                if size < kept:
                    pieces.append(piece)
                size += len(piece)
                if size > limit:
                    raise UpstreamTooLarge(f"the upstream's answer is larger than {limit >> 20} MB")
        body.end()
        return b"".join(pieces)

    async def aclose(self) -> None:
        await self._answer.aclose()

    async def _piece(self, until: float, look: float = math.inf) -> bytes | None:
        """The next piece; None if the time ``look`` comes first. Raises UpstreamTimeout at the earliest deadline."""
        if (at_hand := self._answer.at_hand()) is not None:
            return at_hand
        until = min(until, self._event_until, self._total_until)
        self._deadline.until = 0.0 if self._client.ending else min(until, look)
        try:
            with self._deadline:
                return await self._answer.chunk()
        except TimeoutError:
            if look < until and not self._client.ending:
                return None
            raise self._client.late() from None


def _said(answer: EngineAnswer, names: Iterable[str]) -> dict[str, str]:
    return {name: value for name in names if (value := answer.header(name)) is not None}
