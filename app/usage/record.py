"""One record per call, whatever its outcome, and the sinks that are told of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass, field

from ..core import usage
from ..core.disconnects import CallerGone, ClientConnection
from ..core.errors import ToriiError, Unavailable, UpstreamBroken, UpstreamTimeout, UpstreamTruncated, told
from ..core.types import Call, Event, Json, Target
from ..core.usage import Tokens
from ..endpoints.fields import total_usage

# The ends of a stream at which the upstream has not said that it failed.
CUT = (UpstreamBroken, UpstreamTimeout, UpstreamTruncated)


NOTHING = Tokens()


@dataclass(slots=True)
class Use:
    """The work of one upstream for a call; it becomes a row of the ledger.

    ``target`` is the last that was asked there, ``attempts`` counts the requests of which a byte went out.
    ``spent`` are the tokens of those that have ended, ``counted`` the upstream's own counts of them, added up.
    ``pending`` are those without an end yet, in full or in part; ``last`` is what a stream has counted so far,
    ``written`` the bytes of answer that it has sent, ``first_event`` the seconds from the call's start to its first
    event. ``error`` is why the upstream was left, ``answered``: it gave at least one whole answer.
    """

    target: Target
    attempts: int = 0
    answered: bool = False
    error: ToriiError | None = None
    spent: Tokens = NOTHING
    counted: Json | None = None
    pending: list[Call] = field(default_factory=list)
    last: Json | None = None
    written: int = 0
    first_event: float | None = None

    def begin(self, target: Target) -> None:
        """A connection is looked for."""
        self.target = target
        self.error = self.last = self.first_event = None
        self.written = 0

    def send(self, part: Call) -> None:
        """The request for ``part`` goes out; once more, where a kept connection was just being closed."""
        if not self.pending or all(other is not part for other in self.pending):
            self.attempts += 1
            self.pending.append(part)

    @property
    def reached(self) -> bool:
        return self.attempts > 0

    def end(self, part: Call, said: Json | None, written: int = 0, *, share: bool = False) -> None:
        """An answer has come. ``share``: what it says of tokens is this call's share of what several cost together."""
        self.answered = True
        self._book(part, said, written, share=share)

    def fail(self, part: Call, error: ToriiError, said: Json | None = None, *, share: bool = False) -> None:
        """No answer has come of a request, perhaps because it did not go out; ``said`` is what it was billed all the
        same, None if that is not known."""
        self.error = copy(error)  # without its traceback, in which this record is
        if said is not None:
            self._book(part, said, 0, share=share)
        else:
            self._drop(part)

    def cut(self, part: Call, error: ToriiError) -> None:
        """A stream has failed. What it had written is paid for, unless the upstream has said that it failed."""
        self.error = copy(error)  # as above
        begun = self.first_event is not None and isinstance(error, CUT)
        if self.last is not None or begun or isinstance(error, Unavailable):
            said, self.last = self.last, None
            self._book(part, said, self.written, share=False)
        else:
            self._drop(part)

    @property
    def usage(self) -> Json | None:
        return self.counted if self.last is None else added(self.counted, self.last)

    def _book(self, part: Call, said: Json | None, written: int, *, share: bool) -> None:
        self._drop(part)
        tokens = usage.tokens(part, said, written)
        tokens = tokens._replace(estimated=True) if share else tokens
        self.spent = tokens if self.spent is NOTHING else self.spent.plus(tokens)
        self.counted = added(self.counted, said)

    def _drop(self, part: Call) -> None:
        if len(self.pending) == 1 and self.pending[0] is part:
            self.pending.clear()
        else:
            self.pending = [other for other in self.pending if other is not part]


def added(before: Json | None, said: Json | None) -> Json | None:
    return total_usage([before, said]) if before and said else said or before


@dataclass(slots=True)
class CallRecord:
    """One call. ``status`` is what the caller saw, 499 if they left; ``seconds`` are of the monotonic clock.

    ``uses`` are the upstreams that were asked, by their names, ``current`` the one asked last. ``free`` is the usage of
    an answer that cost nothing here, ``error`` what went wrong. ``cache`` is how much of the answer was at hand: hit,
    partial, miss, or off; None for a call that the cache does not take.
    """

    request_id: str
    caller: str
    call: Call
    connection: ClientConnection = field(default_factory=ClientConnection)
    started: float = field(default_factory=time.monotonic)
    uses: dict[str, Use] = field(default_factory=dict)
    current: Use | None = None
    hit: Target | None = None
    status: int | None = None
    error: ToriiError | None = None
    free: Json | None = None
    cache: str | None = None
    seconds: float | None = None
    recorder: Recorder | None = field(default=None, repr=False)

    def late(self) -> UpstreamTimeout:
        """The call's time is over. A run that may go on is paid for, so the SDKs are told not to ask for it again."""
        late = UpstreamTimeout("the call exceeded timeouts.total_seconds")
        if self.target is not None:
            late.upstream = self.target.upstream.name
            late.should_retry = False if self.target.model.deepsearch else None
        return late

    @property
    def paid(self) -> bool:
        """A DeepSearch run may have begun."""
        return self.reached and self.target is not None and self.target.model.deepsearch

    def ask(self, target: Target) -> Use:
        """A request to ``target`` begins, for the call or a part of it."""
        use = self.uses.get(target.upstream.name)
        if use is None:
            use = self.uses[target.upstream.name] = Use(target)
        use.begin(target)
        self.current = use
        return use

    def see(self, events: Iterable[Event]) -> None:
        """Events of a stream have come."""
        use = self.current
        assert use is not None
        if use.first_event is None:
            use.first_event = time.monotonic() - self.started
        use.written += usage.seen(events)

    def streamed(self, said: Json | None, error: ToriiError | None = None) -> None:
        """A stream has ended, which has counted these tokens; ``error`` is why it was no success."""
        use = self.current
        if use is not None and self.status is None:
            use.last = said
            if error is not None:
                use.cut(self.call, error)

    def take(self, other: CallRecord) -> None:
        """Takes over the requests made for ``other``: they are this call's, and no longer that one's."""
        self.uses, self.current = other.uses, other.current
        other.uses, other.current, other.hit = {}, None, other.target

    def end(self, status: int, error: ToriiError | None = None) -> None:
        """The call has ended for its caller, once, and is settled. Synchronous, so that no cancellation can come in
        between; before the answer is written, since a caller may not read it."""
        if self.status is not None:
            return
        self.status = 499 if self.connection.left else status
        self.error = error
        if error is not None:
            error.booked = True
        self.seconds = time.monotonic() - self.started
        if self.recorder is not None:
            self.recorder.settle(self)

    def fail(self, error: BaseException) -> None:
        """The call has ended without an answer, unless it had ended before."""
        if isinstance(error, CallerGone):
            self.end(500)
            return
        failure = told(error)
        if isinstance(failure, Unavailable) and self.paid:
            failure.should_retry = False
        self.end(failure.status, failure)

    @property
    def at_work(self) -> Target | None:
        """The target that has a request of this call without an end yet."""
        return next((use.target for use in self.uses.values() if use.pending), None)

    @property
    def target(self) -> Target | None:
        """The one that was asked last, or whose answer was at hand."""
        return self.hit if self.current is None else self.current.target

    @property
    def last_reached(self) -> Use | None:
        """The upstream whose row has the call's own end; None if none was reached."""
        if self.current is not None and self.current.reached:
            return self.current
        return next((use for use in reversed(self.uses.values()) if use.reached), None)

    @property
    def attempts(self) -> int:
        return sum(use.attempts for use in self.uses.values())

    @property
    def reached(self) -> bool:
        return any(use.reached for use in self.uses.values())

    @property
    def usage(self) -> Json | None:
        """The counts of all upstreams, or those of an answer that was at hand."""
        said = self.free
        for use in self.uses.values():
            said = added(said, use.usage)
        return said

    @property
    def first_event(self) -> float | None:
        return None if self.current is None else self.current.first_event


class Recorder:
    """Hands each record on when its call has ended, without waiting for anybody."""

    def __init__(self, *sinks: Callable[[CallRecord], None]) -> None:
        self._sinks = sinks

    def settle(self, record: CallRecord) -> None:
        for sink in self._sinks:
            sink(record)


def rounded(seconds: float, parts: int) -> float:
    """To the nearest of so many parts of a second. Rounded to digits a number becomes a text and a number again."""
    return round(seconds * parts) / parts
