"""A stream on its way: an upstream's bytes into events, events into the caller's bytes, and one end for both.

stream.pieces -> Decoder -> fold -> Writer -> the caller
                                       `-> settle and close, once, however it ends
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from .endpoints.chat import Writer
from .errors import ToriiError, UpstreamBroken, let_go, told
from .jsontext import Malformed
from .meter import Meter, Record
from .sse import Decoder, ServerEvent
from .types import Event, Fold, Head, Json, Stream

logger = logging.getLogger("torii.relay")


@dataclass(frozen=True, slots=True)
class Source:
    """A stream whose first events have come, and what has to be closed with it."""

    begin: list[Event]
    rest: AsyncGenerator[list[Event], None]
    stream: Stream
    fold: Fold
    release: Callable[[], None]

    async def aclose(self) -> None:
        try:
            await self.rest.aclose()
            await self.stream.aclose()
        finally:
            self.release()


class Relay:
    """The caller's stream. Owns the upstream's connection and the settlement, which both end with it, once:

    done            status 200, [DONE]
    upstream cut    the error's status, an error event
    shutdown        503, an error event
    caller gone     499, nothing more is sent; also where he leaves before the first byte
    left to go on   499 at its end, whatever that is; read for its usage, and no longer written
    """

    def __init__(
        self, source: Source, writer: Writer, record: Record, *, meter: Meter, envelope: Callable[[ToriiError], Json]
    ) -> None:
        self._source = source
        self._writer = writer
        self._record = record
        self._meter = meter
        self._envelope = envelope

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        status, failure, last = 499, None, b""
        try:
            yield self._writer.write(self._source.begin)
            async for events in self._source.rest:
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


async def translate(stream: Stream, fold: Fold, record: Record) -> AsyncGenerator[list[Event], None]:
    """What each piece means; raises where the stream fails, stops short or is too large. ``record`` sees it all."""
    decoder = Decoder(stream.event_bytes)
    begun = False
    while not fold.done and (pieces := await stream.pieces()) is not None:
        for piece in pieces:
            events, failure = fold_all(fold, decoder.feed(piece))
            # What came before a failure is passed on first, unless nothing has been said yet.
            begun = begun or any(not isinstance(event, Head) for event in events)
            if events:
                stream.progressed()
            if events and (begun or failure is None):
                record.see(events)
                yield events
            if failure is not None:
                raise failure
            if fold.done:
                break
    events, failure = fold_all(fold, decoder.end())
    # Half an event at the end is a stream that was cut, which fold.end says better.
    if failure is not None and not isinstance(failure, Garbled):
        raise failure
    events += fold.end()
    record.see(events)
    yield events


class Garbled(UpstreamBroken):
    """An event that is no JSON."""


def fold_all(fold: Fold, arrived: list[ServerEvent]) -> tuple[list[Event], ToriiError | None]:
    """What the events mean, up to the first that fails, and that failure."""
    events: list[Event] = []
    try:
        for data, name in arrived:
            events += fold.feed(data, name)
    except ToriiError as error:
        return events, error
    except Malformed as error:
        return events, Garbled(f"the upstream sent an event that is not JSON: {error}")
    return events, None
