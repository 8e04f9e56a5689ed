"""A stream: an upstream's bytes into events, events into the caller's bytes, and one end for both.

stream.pieces -> Decoder -> fold -> StreamWriter -> the caller
                                       `-> the record ended and the lease released, once, however the stream ends
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any

from ..core.errors import ToriiError, UpstreamBroken, UpstreamMismatch, drop_traceback, public_error
from ..core.json import Malformed
from ..core.redaction import Redactor
from ..core.sse import PING, Decoder, ServerEvent
from ..core.stream import Stream
from ..core.types import Chunk, Event, Fold, Head, Json, Structured, Target
from ..endpoints import Endpoint, StreamWriter
from ..routing.lease import Lease
from ..usage.record import CallRecord
from .conformity import misfit

logger = logging.getLogger("torii.relay")


class UpstreamStream:
    """An upstream's stream after its head. It holds the connection and the key's lease, and releases both at its end.

    ``first`` are the events that it began with, none if it had no content when its caller's stream had to begin;
    ``rest`` yields those that follow.
    """

    __slots__ = ("_lease", "_stream", "first", "fold", "rest", "target")

    def __init__(self, stream: Stream, fold: Fold, lease: Lease, target: Target) -> None:
        self.fold = fold
        self.target = target
        self.first: list[Event] = []
        self._stream = stream
        self._lease = lease

    async def begin(self, record: CallRecord, seconds: float) -> None:
        """Waits for the first content, at most ``seconds``. Closes the stream and raises if ``translate`` fails."""
        self.rest = translate(self._stream, self.fold, record, time.monotonic() + seconds)
        try:
            self.first = await anext(self.rest)
        except BaseException as failure:
            record.streamed(self.fold, failure if isinstance(failure, ToriiError) else None)
            await self.aclose(failure)
            raise
        if says_something(self.first):
            self._lease.succeed()

    async def collected(self, endpoint: Endpoint, record: CallRecord) -> Json:
        """The whole stream as one reply, for a caller that does not stream. Closes the stream."""
        failure: BaseException | None = None
        self.rest = translate(self._stream, self.fold, record)
        try:
            reply: Json = endpoint.collect(record.call, [event async for events in self.rest for event in events])
            self._lease.succeed()
        except BaseException as error:
            failure = error
            raise
        else:
            return reply
        finally:
            record.streamed(self.fold, failure if isinstance(failure, ToriiError) else None)
            await self.aclose(failure)

    def succeed(self) -> None:
        """Reports success: content has come after a beginning without any."""
        self._lease.succeed()

    def fail(self, failure: BaseException) -> None:
        """Reports a failure. If no content has come, the failure counts against the key and the upstream."""
        self._lease.fail(failure)

    async def aclose(self, failure: BaseException | None = None) -> None:
        try:
            await self.rest.aclose()
            await self._stream.aclose()
        finally:
            if failure is not None:
                self._lease.fail(failure)
            self._lease.release()


class Streams:
    """Makes the callers' streams. After ``seconds`` (15 by default) a stream is passed on even without content."""

    def __init__(self, redactor: Redactor, seconds: float = 15.0) -> None:
        self._redactor = redactor
        self._seconds = seconds

    def begin(self, stream: UpstreamStream, record: CallRecord) -> Coroutine[Any, Any, None]:
        """Waits for the first content of the stream. Raises ToriiError if the stream fails before that."""
        return stream.begin(record, self._seconds)

    def events(self, stream: UpstreamStream, endpoint: Endpoint, record: CallRecord) -> CallerStream:
        """The caller's stream over an upstream's stream that has begun."""
        return CallerStream(stream, endpoint.writer(record.call), record, self._redactor)


class CallerStream:
    """The caller's stream. It ends the call's record and closes the upstream's stream, once:

    done            status 200, [DONE]
    upstream cut    the error's status, an error event; counts against key and upstream if no content had come
    shutdown        503, an error event
    caller gone     499, nothing more is sent; also if the caller leaves before the first byte
    detached        499, nothing more is sent; the upstream's stream is read to its end for its usage
    """

    def __init__(self, source: UpstreamStream, writer: StreamWriter, record: CallRecord, redactor: Redactor) -> None:
        self._source = source
        self._writer = writer
        self._record = record
        self._redactor = redactor

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        source, failure, last = self._source, None, b""
        status = 499
        try:
            yield self._writer.write(source.first) or PING
            async for events in source.rest:
                source.succeed()
                data = b"" if self._record.connection.left else self._writer.write(events)
                if source.fold.done:
                    last += data  # the end comes next, and goes out with it
                elif data:
                    yield data
            status = 200
            yield last + self._writer.end()
        except Exception as error:
            if not isinstance(error, ToriiError):
                logger.exception("a stream failed")
            failure = public_error(error)
            status = failure.status
            source.fail(failure)
            yield last + self._writer.fail(self._redactor.envelope(failure), failure.status)
            drop_traceback(error)
        finally:
            await self._close(status, failure)

    async def aclose(self) -> None:
        await self._close(499)

    async def _close(self, status: int, failure: ToriiError | None = None) -> None:
        self._record.streamed(self._source.fold, failure)
        self._record.end(status, failure)
        await self._source.aclose()


async def translate(
    stream: Stream, fold: Fold, record: CallRecord, look: float = math.inf
) -> AsyncGenerator[list[Event], None]:
    """The events of each piece. Raises if the stream fails, stops short or is too large. ``record`` sees all events.

    Nothing is yielded before the first content. If there is none by ``look`` (monotonic clock), the events so far are
    yielded then, even if there are none, and the next ones with the first content.
    """
    decoder = Decoder(stream.event_bytes)
    held: list[Event] = []
    begun = False
    while not fold.done and (pieces := await stream.pieces(look)) is not None:
        for piece in pieces:
            events, failure = fold_all(fold, decoder.feed(piece))
            if Structured in map(type, events):
                events, failure = await _conforming(events, failure)
            if events:
                stream.progressed()
                record.see(events)
                # Events before a failure are passed on first, unless there was no content yet.
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
    events, failure = fold_all(fold, decoder.end())
    if Structured in map(type, events):
        events, failure = await _conforming(events, failure)
    # Half an event at the end means that the stream was cut, for which fold.end has the better error.
    if failure is not None and not isinstance(failure, Garbled):
        raise failure
    events += fold.end()
    record.see(events)
    yield events if begun else held + events


def says_something(events: Iterable[Event]) -> bool:
    """True if the events hold content: more than the stream's own facts and the role of a message."""
    return any(
        not isinstance(event, Head) and not (isinstance(event, Chunk) and _hollow(event.body)) for event in events
    )


def _hollow(chunk: Json) -> bool:
    """True if a chunk that is passed on has no content."""
    choices = chunk.get("choices")
    return not any(
        value
        for choice in (choices if isinstance(choices, list) else [])
        if isinstance(choice, dict)
        for name, part in choice.items()
        if name in ("delta", "message", "text", "finish_reason")
        for value in ([item for key, item in part.items() if key != "role"] if isinstance(part, dict) else [part])
    )


async def _conforming(events: list[Event], failure: ToriiError | None) -> tuple[list[Event], ToriiError | None]:
    """The events before the first answer that does not fit its schema, with that failure; else both arguments."""
    for number, event in enumerate(events):
        if type(event) is Structured and (why := await misfit(event.schema, event.text)):
            return events[:number], UpstreamMismatch(f"the answer {why}", event.text)
    return events, failure


class Garbled(UpstreamBroken):
    """An event that is not JSON."""


def fold_all(fold: Fold, arrived: list[ServerEvent]) -> tuple[list[Event], ToriiError | None]:
    """The events of the fold up to the first failure, and that failure."""
    events: list[Event] = []
    try:
        for data, name in arrived:
            events += fold.feed(data, name)
    except ToriiError as error:
        return events, error
    except Malformed as error:
        return events, Garbled(f"the upstream sent an event that is not JSON: {error}")
    return events, None
