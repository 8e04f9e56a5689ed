"""One record per call, whatever its outcome, and the recorder that hands it to the sinks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Protocol

import msgspec

from ..core import usage
from ..core.disconnects import CallerGone, ClientConnection
from ..core.errors import ToriiError, Unavailable, UpstreamBroken, UpstreamTimeout, UpstreamTruncated, public_error
from ..core.types import Call, Event, Fold, Json, Target, Value
from ..core.usage import Tokens
from ..endpoints.fields import total_usage
from ..storage.ledger_file import CallRow

# The failures of a stream for which the upstream has reported no error.
CUT = (UpstreamBroken, UpstreamTimeout, UpstreamTruncated)


NOTHING = Tokens()


class Use(msgspec.Struct, eq=False):
    """The work of one upstream for a call; it becomes a row of the ledger.

    ``target`` is the last one asked there; ``attempts`` counts the requests of which a byte was sent. ``spent`` are the
    tokens of the requests that have ended, ``counted`` the upstream's own counts of these, added up. ``pending`` are
    the parts whose requests have not ended; ``last`` is the usage that a stream has reported so far, ``written`` the
    bytes of answer in it, ``first_event`` the seconds from the call's start to its first event. ``error`` is why the
    upstream was left; ``answered``: it gave at least one whole answer. ``run`` is the upstream's id of a DeepSearch
    run.
    """

    target: Target
    attempts: int = 0
    answered: bool = False
    error: ToriiError | None = None
    spent: Tokens = NOTHING
    counted: Json | None = None
    pending: list[Call] = []
    last: Json | None = None
    written: int = 0
    first_event: float | None = None
    run: str | None = None

    def begin(self, target: Target) -> None:
        """A request to ``target`` begins; none of its bytes was sent yet."""
        self.target = target
        self.error = self.last = self.first_event = self.run = None
        self.written = 0

    def send(self, part: Call) -> None:
        """The request for ``part`` is sent. It counts once, even if it is sent again after an idle connection was
        closed."""
        if not self.pending or all(other is not part for other in self.pending):
            self.attempts += 1
            self.pending.append(part)

    @property
    def reached(self) -> bool:
        return self.attempts > 0

    def end(self, part: Call, reported: Json | None, written: int = 0, *, share: bool = False) -> None:
        """An answer has come. ``share``: ``reported`` is this call's share of a batch's usage, which is an estimate."""
        self.answered = True
        self._count(part, reported, written, share=share)

    def fail(self, part: Call, error: ToriiError, reported: Json | None = None, *, share: bool = False) -> None:
        """A request has ended without an answer, perhaps before it was sent. ``reported`` is the usage that it was
        billed all the same, None if that is unknown."""
        self.error = copy(error)  # the copy has no traceback, which would refer to this record: a cycle
        if reported is not None:
            self._count(part, reported, 0, share=share)
        else:
            self._drop(part)

    def cut(self, part: Call, error: ToriiError) -> None:
        """A stream has failed. Its tokens count as spent, unless the upstream reported an error and no usage."""
        self.error = copy(error)  # as above
        begun = self.first_event is not None and isinstance(error, CUT)
        if self.last is not None or begun or isinstance(error, Unavailable):
            reported, self.last = self.last, None
            self._count(part, reported, self.written, share=False)
        else:
            self._drop(part)

    @property
    def usage(self) -> Json | None:
        return self.counted if self.last is None else added(self.counted, self.last)

    def _count(self, part: Call, reported: Json | None, written: int, *, share: bool) -> None:
        self._drop(part)
        tokens = usage.tokens(part, reported, written)
        tokens = tokens._replace(estimated=True) if share else tokens
        self.spent = tokens if self.spent is NOTHING else self.spent.plus(tokens)
        self.counted = added(self.counted, reported)

    def _drop(self, part: Call) -> None:
        if len(self.pending) == 1 and self.pending[0] is part:
            self.pending.clear()
        else:
            self.pending = [other for other in self.pending if other is not part]


class CallAccount(Protocol):
    """The hold of one call on limits and budgets.

    started   the call's start, in Unix seconds
    admitted  the call counts as a request
    extend    holds what a further request for ``part`` may cost at ``target``; False if that does not fit. ``unused``
              is the target of a request that was not sent, whose part of the hold is used for this one
    bound     the most tokens, and nano-dollars, that the requests to an upstream can cost; None if that is unknown
    settle    the call has ended, and ``rows`` are what it cost; the hold ends
    """

    @property
    def started(self) -> float: ...
    @property
    def admitted(self) -> bool: ...

    def limited(self, part: Call) -> Call: ...
    async def extend(self, record: CallRecord, part: Call, target: Target, unused: Target | None) -> bool: ...
    def bound(self, upstream: str) -> tuple[int, int | None] | None: ...
    def settle(self, rows: Sequence[CallRow]) -> None: ...


class Payer(Value, frozen=True):
    """Whom the ledger names for a call: the public id of the key and its team, and the call's tag as sent."""

    key_id: str | None = None
    team: str | None = None
    tag: str | None = None


NOBODY = Payer()


def added(before: Json | None, reported: Json | None) -> Json | None:
    return total_usage([before, reported]) if before and reported else reported or before


class CallRecord(msgspec.Struct, eq=False):
    """The record of one call. ``status`` is what the caller got, 499 if the caller left; ``started`` is of the
    monotonic clock, ``seconds`` is the call's duration.

    ``uses`` are the upstreams that were asked, by name; ``current`` is the last of them. ``hit`` is the target of a
    cached or shared answer, ``free`` the usage of an answer without cost, ``error`` what went wrong. ``cache`` is how
    much of the answer was cached: hit, partial, miss or off; None for a call that the cache does not handle.
    ``cached_tokens`` is what the cached part would have cost. ``model_id`` is the model's own id, None before the route
    is known. ``account`` is what is held for the call, None for a caller without limits.
    """

    request_id: str
    caller: str
    call: Call
    connection: ClientConnection = msgspec.field(default_factory=ClientConnection)
    started: float = msgspec.field(default_factory=time.monotonic)
    uses: dict[str, Use] = {}
    current: Use | None = None
    hit: Target | None = None
    status: int | None = None
    error: ToriiError | None = None
    free: Json | None = None
    cache: str | None = None
    cached_tokens: int = 0
    seconds: float | None = None
    payer: Payer = NOBODY
    model_id: str | None = None
    account: CallAccount | None = None
    recorder: Recorder | None = None

    def timed_out(self) -> UpstreamTimeout:
        """The error of a call that exceeded its total time. A DeepSearch run that may go on is paid for, so the SDKs
        are told not to retry."""
        late = UpstreamTimeout("the call exceeded timeouts.total_seconds")
        if self.target is not None:
            late.upstream = self.target.upstream.name
            late.should_retry = False if self.target.model.deepsearch or self.call.endpoint.once else None
        return late

    @property
    def paid(self) -> bool:
        """True if a DeepSearch run may have begun."""
        return self.reached and self.target is not None and self.target.model.deepsearch

    def ask(self, target: Target) -> Use:
        """Starts a request to ``target``, for the call or a part of it."""
        use = self.uses.get(target.upstream.name)
        if use is None:
            use = self.uses[target.upstream.name] = Use(target)
        use.begin(target)
        self.current = use
        return use

    def see(self, events: Iterable[Event]) -> None:
        """Counts events of a stream."""
        use = self.current
        assert use is not None
        if use.first_event is None:
            use.first_event = time.monotonic() - self.started
        use.written += usage.seen(events)

    def streamed(self, fold: Fold, error: ToriiError | None = None) -> None:
        """A stream has ended, which ``fold`` has read; ``error`` is why it failed, None if it succeeded."""
        use = self.current
        if use is not None and self.status is None:
            use.last, use.run = fold.usage, fold.run
            if error is not None:
                use.cut(self.call, error)

    def end(self, status: int, error: ToriiError | None = None) -> None:
        """Ends the call for its caller and settles it, once. Synchronous, so that no cancellation can come in between;
        called before the answer is written, because the caller may not read it."""
        if self.status is not None:
            return
        self.status = 499 if self.connection.left else status
        self.error = error
        if error is not None:
            error.logged = True
        self.seconds = time.monotonic() - self.started
        if self.recorder is not None:
            self.recorder.settle(self)

    def fail(self, error: BaseException) -> None:
        """Ends the call without an answer, unless it has ended before."""
        if isinstance(error, CallerGone):
            self.end(500)
            return
        failure = public_error(error)
        if isinstance(failure, Unavailable) and self.paid:
            failure.should_retry = False
        self.end(failure.status, failure)

    @property
    def at_work(self) -> Target | None:
        """The target of a request that has not ended; None if there is none."""
        return next((use.target for use in self.uses.values() if use.pending), None)

    @property
    def target(self) -> Target | None:
        """The target that was asked last, or the one of a cached or shared answer."""
        return self.hit if self.current is None else self.current.target

    @property
    def last_reached(self) -> Use | None:
        """The use whose row has the call's own outcome; None if no upstream was reached."""
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
        """The counts of all upstreams and of an answer without cost, added up."""
        reported = self.free
        for use in self.uses.values():
            reported = added(reported, use.usage)
        return reported

    @property
    def first_event(self) -> float | None:
        return None if self.current is None else self.current.first_event


class Recorder:
    """Hands each record to the sinks when its call has ended. Sinks never block."""

    def __init__(self, *sinks: Callable[[CallRecord], None]) -> None:
        self._sinks = sinks

    def settle(self, record: CallRecord) -> None:
        for sink in self._sinks:
            sink(record)


def rounded(seconds: float, parts: int) -> float:
    """Rounded to 1/``parts`` of a second. Rounding to digits is slower: it goes through a text."""
    return round(seconds * parts) / parts
