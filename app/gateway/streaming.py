"""A stream on its way: an upstream's bytes into events, events into the caller's bytes, and one end for both.

stream.pieces -> Decoder -> fold -> StreamWriter -> the caller
                                       `-> settle and close, once, however it ends
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass

from ..core.errors import ToriiError, UpstreamBroken, UpstreamError, UpstreamMismatch, let_go, told
from ..core.json import Malformed
from ..core.sse import PING, Decoder, ServerEvent
from ..core.types import Chunk, Event, Fold, Head, Json, Stream, Structured
from ..endpoints import StreamWriter
from ..routing.lease import Lease
from ..usage.record import Meter, Record
from .conformity import misfit

logger = logging.getLogger("torii.relay")


@dataclass(frozen=True, slots=True)
class Source:
    """A stream that has begun, or that was silent for so long that its caller is told; and what is closed with it."""

    begin: list[Event]
    rest: AsyncGenerator[list[Event], None]
    stream: Stream
    fold: Fold
    lease: Lease

    def judge(self, failure: ToriiError | None = None) -> None:
        """Tells the key the outcome of a call that was handed on with nothing said. Our own failures blame nobody."""
        lease = self.lease
        pending, lease.pending = lease.pending, False
        if pending and failure is None:
            lease.lender.succeeded(lease)
        elif pending and isinstance(failure, UpstreamError):
            lease.lender.failed(lease, failure)

    async def aclose(self) -> None:
        try:
            await self.rest.aclose()
            await self.stream.aclose()
        finally:
            self.lease.release()


class Relay:
    """The caller's stream. Owns the upstream's connection and the settlement, which both end with it, once:

    done            status 200, [DONE]
    upstream cut    the error's status, an error event; where nothing had come of it, its key and upstream are blamed
    shutdown        503, an error event
    caller gone     499, nothing more is sent; also where he leaves before the first byte
    left to go on   499 at its end, whatever that is; read for its usage, and no longer written
    """

    def __init__(
        self,
        source: Source,
        writer: StreamWriter,
        record: Record,
        *,
        meter: Meter,
        envelope: Callable[[ToriiError], Json],
    ) -> None:
        self._source = source
        self._writer = writer
        self._record = record
        self._meter = meter
        self._envelope = envelope

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        status, failure, last = 499, None, b""
        lease = self._source.lease
        try:
            yield self._writer.write(self._source.begin) or PING
            async for events in self._source.rest:
                if lease.pending:
                    self._source.judge()
                data = b"" if self._record.presence.left else self._writer.write(events)
                if self._source.fold.done:
                    last += data  # the end comes next, and goes out with it
                elif data:
                    yield data
            status = 200
            yield last + self._writer.end()
        except Exception as error:
            if not isinstance(error, ToriiError):
                logger.exception("a stream failed")
            failure = told(error)
            status = failure.status
            self._source.judge(failure)
            yield last + self._writer.fail(self._envelope(failure))
            let_go(error)
        finally:
            await self._close(status, failure)

    async def aclose(self) -> None:
        await self._close(499)

    async def _close(self, status: int, failure: ToriiError | None = None) -> None:
        self._record.streamed(self._source.fold.usage, failure)
        self._meter.settle(self._record, status, failure)
        await self._source.aclose()


async def begin(stream: Stream, fold: Fold, record: Record, lease: Lease, seconds: float) -> Source:
    """The stream once something is said in it, or after so many seconds. The failures of ``translate`` end it."""
    source = translate(stream, fold, record, time.monotonic() + seconds)
    try:
        events = await anext(source)
    except BaseException as failure:
        record.streamed(fold.usage, failure if isinstance(failure, ToriiError) else None)
        await source.aclose()
        await stream.aclose()
        raise
    lease.keep()
    lease.pending = not says_something(events)
    return Source(events, source, stream, fold, lease)


async def translate(
    stream: Stream, fold: Fold, record: Record, look: float = math.inf
) -> AsyncGenerator[list[Event], None]:
    """The events of each piece; raises if the stream fails, stops short or is too large. ``record`` sees them all.

    Nothing is given before something is said. Where that is not by the time ``look`` (monotonic clock), what has come
    is given then, be it nothing, and the next when something is said.
    """
    decoder = Decoder(stream.event_bytes)
    held: list[Event] = []
    begun = False
    while not fold.done and (pieces := await stream.pieces(look)) is not None:
        for piece in pieces:
            events, failure = await _conforming(*fold_all(fold, decoder.feed(piece)))
            if events:
                stream.progressed()
                record.see(events)
                # What came before a failure is passed on first, unless nothing has been said yet.
                if begun:
                    yield events
                else:
                    held += events
                    if begun := says_something(events) and not isinstance(failure, UpstreamMismatch):
                        look = math.inf
                        yield held
            if failure is not None:
                raise failure
            if fold.done:
                break
        if not begun and time.monotonic() >= look:
            look = math.inf
            yield held
            held = []
    events, failure = await _conforming(*fold_all(fold, decoder.end()))
    # Half an event at the end is a stream that was cut, which fold.end says better.
    if failure is not None and not isinstance(failure, Garbled):
        raise failure
    events += fold.end()
    record.see(events)
    yield events if begun else held + events


def says_something(events: Iterable[Event]) -> bool:
    """True if the events hold more than the start of a stream: its own facts, the role of who speaks."""
    return any(
        not isinstance(event, Head) and not (isinstance(event, Chunk) and _hollow(event.body)) for event in events
    )


def _hollow(chunk: Json) -> bool:
    """Of a chunk that is passed on."""
    choices = chunk.get("choices")
    return not any(
        value
        for choice in (choices if isinstance(choices, list) else [])
        if isinstance(choice, dict)
        for name, part in choice.items()
        if name in ("delta", "message", "text", "finish_reason")
        for value in ([said for key, said in part.items() if key != "role"] if isinstance(part, dict) else [part])
    )


async def _conforming(events: list[Event], failure: ToriiError | None) -> tuple[list[Event], ToriiError | None]:
    """The events up to an answer that does not fit its schema, and that failure."""
    for number, event in enumerate(events):
        if type(event) is Structured and (why := await misfit(event.schema, event.text)):
            return events[:number], UpstreamMismatch(f"the answer {why}", event.text)
    return events, failure


class Garbled(UpstreamBroken):
    """An event that is no JSON."""


def fold_all(fold: Fold, arrived: list[ServerEvent]) -> tuple[list[Event], ToriiError | None]:
    """The fold of the events, up to the first that fails, and that failure."""
    events: list[Event] = []
    try:
        for data, name in arrived:
            events += fold.feed(data, name)
    except ToriiError as error:
        return events, error
    except Malformed as error:
        return events, Garbled(f"the upstream sent an event that is not JSON: {error}")
    return events, None
