"""What became of each call: one record for each, whichever way it ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from . import usage
from .departures import Presence
from .endpoints.fields import total_usage
from .errors import ToriiError, UpstreamTimeout
from .types import Call, Event, Json, Target

logger = logging.getLogger("torii.calls")


@dataclass(slots=True)
class Record:
    """One call. ``status`` is what the caller saw, 499 where he left; ``seconds`` are of the monotonic clock.

    ``target`` is the last that was tried, ``attempts`` how many were, ``reached`` whether any of them was sent a byte.
    ``usage`` is what it said of tokens, ``written`` the bytes of answer that were seen, of a whole
    one only where it does not count them, ``error`` what went wrong.
    ``estimated``: the usage is this call's share of what several cost together.
    ``cache`` is how much of it was at hand: hit, partial, miss, or off; None where nobody looks.
    """

    request_id: str
    caller: str
    call: Call
    presence: Presence = field(default_factory=Presence)
    started: float = field(default_factory=time.monotonic)
    target: Target | None = None
    attempts: int = 0
    reached: bool = False
    status: int | None = None
    error: ToriiError | None = None
    usage: Json | None = None
    estimated: bool = False
    cache: str | None = None
    written: int = 0
    first_event: float | None = None
    seconds: float | None = None

    def late(self) -> UpstreamTimeout:
        """Its time is over. A run that may go on is paid for, so the SDKs are told not to ask for it again."""
        late = UpstreamTimeout("the call took longer than this gateway allows")
        if self.target is not None:
            late.upstream = self.target.upstream.name
            late.should_retry = False if self.target.model.deepsearch else None
        return late

    def ask(self, target: Target) -> None:
        """An attempt at ``target`` begins; what an earlier one gave counts no more."""
        self.target = self.presence.target = target
        self.attempts += 1
        self.usage, self.written, self.first_event = None, 0, None
        self.estimated = False

    def see(self, events: Iterable[Event]) -> None:
        """Events of a stream have come."""
        if self.first_event is None:
            self.first_event = time.monotonic() - self.started
        self.written += usage.seen(events)

    def answer(self, reply: Json) -> None:
        """A whole answer has come. What it says of its tokens may be anything."""
        said = reply.get("usage")
        self.usage = said if isinstance(said, dict) else None
        self.written = 0 if usage.counted(self.usage) else usage.answered(reply)

    def add(self, usage: Json | None) -> None:
        """What a part of a whole answer cost; the parts before it have been paid for, whatever becomes of the rest."""
        if isinstance(usage, dict):
            self.usage = total_usage([self.usage, usage]) if self.usage else usage

    def take(self, other: Record) -> None:
        """What was asked of upstreams under ``other``, and what it cost, is this one's, and no longer that one's."""
        self.target, self.attempts, self.reached = other.target, other.attempts, other.reached
        self.usage, self.written, self.estimated = other.usage, other.written, other.estimated
        other.attempts, other.reached, other.usage, other.written = 0, False, None, 0


class Meter:
    """Hands each record on when its call has ended, exactly once, without waiting for anybody."""

    def __init__(self, *sinks: Callable[[Record], None]) -> None:
        self._sinks = sinks

    def settle(self, record: Record, status: int, error: ToriiError | None = None) -> None:
        """Synchronous, so that no cancellation can come in between."""
        if record.status is not None:
            return
        record.status = 499 if record.presence.left else status
        record.error = error
        if error is not None:
            error.booked = True
        record.seconds = time.monotonic() - record.started
        for sink in self._sinks:
            sink(record)


def reach(records: Iterable[Record]) -> Callable[[], None]:
    """To be called when a request for these calls begins to go out."""

    def going() -> None:
        for record in records:
            record.reached = True

    return going


def log(record: Record) -> None:
    """The line of a call."""
    if not logger.isEnabledFor(logging.INFO):
        return
    target, usage = record.target, record.usage or {}
    about: About = (
        ("caller", record.caller),
        ("endpoint", record.call.endpoint),
        ("model", record.call.model),
        ("upstream", target.upstream.name if target else None),
        ("upstream_model", target.name if target else None),
        ("status", record.status),
        ("cache", record.cache),
    )
    if record.error is not None:
        about += (("error", record.error.code), ("reason", getattr(record.error, "reason", None)))
    figures = {
        "request_id": record.request_id,
        "total_tokens": usage.get("total_tokens"),
        "seconds": rounded(record.seconds or 0, 10_000),
        "first_event_seconds": None if record.first_event is None else rounded(record.first_event, 10_000),
    }
    logger.callHandlers(Line(f"{record.call.endpoint} {record.status}", about, figures))


def rounded(seconds: float, parts: int) -> float:
    """To the nearest of so many parts of a second. Rounded to digits a number becomes a text and a number again."""
    return round(seconds * parts) / parts


class Line(logging.LogRecord):
    """What ``logger.info`` would make, at a fraction of the cost. ``about`` is the same for many calls, and may be
    anything that a caller wrote; ``figures`` are the gateway's own."""

    def __init__(self, message: str, about: About, figures: Json) -> None:
        self.__dict__ = said = _PLAIN.copy()
        said["msg"], said["about"], said["figures"] = message, about, figures
        said["created"] = now = time.time()
        said["msecs"] = now % 1 * 1000


About = tuple[tuple[str, str | int | None], ...]
_PLAIN = vars(logging.LogRecord(logger.name, logging.INFO, "", 0, "", None, None))
