"""Small calls that wait for a key go together: one upstream call for all of a kind.

    no key is free     Batcher -> Queue   the calls of a kind that wait; one key is waited for
    one becomes free   Queue   -> Batch   as many calls as fit into one, callers taking turns
    all are in         Batch   -> attempts -> to each call its vectors and its share of the tokens

A batch is one call to all that is behind it: one failure, one repeat, one way to another key or target. If it fails
for good and a single input may be the reason, its halves are asked, and theirs, until what is wrong is alone. A call
that leaves takes nothing from the others.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from ..cache.digests import kind_of
from ..core.disconnects import CallerGone
from ..core.errors import (
    ToriiError,
    UpstreamAuth,
    UpstreamError,
    UpstreamFailed,
    UpstreamMisplaced,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
    rate_limited,
)
from ..core.types import Call, Json, Target
from ..core.usage import shares
from ..routing.lease import Lease
from ..routing.limits import Need
from ..routing.pool import Pool
from ..usage.record import Record

MOST_INPUTS = 64  # of a batch, if it is not known what the model takes
MOST_TOKENS = 100_000  # by estimate; OpenAI takes 300,000 in a request

Answer = tuple[Target, Json]


def future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class Member:
    """A call's part in a batch. ``admitted`` is set when a batch has a key and takes the part along.

    ``pays`` is False if the call had ended before the batch's request went out.
    """

    part: Call
    record: Record
    need: Need
    admitted: asyncio.Future[None] = field(default_factory=future)
    answer: asyncio.Future[Answer] = field(default_factory=future)
    batch: Batch | None = None
    pays: bool = True

    @property
    def inputs(self) -> list[Any]:
        inputs: list[Any] = self.part.body[self.part.endpoint.inputs]
        return inputs

    @property
    def wanted(self) -> bool:
        """Something more may be asked for it."""
        return not self.answer.done() and self.record.presence.wants

    async def answered(self) -> Answer:
        """A member that is cancelled leaves the batch."""
        assert self.batch is not None
        try:
            return await self.answer
        finally:
            self.batch.leave()

    def tell(self, answer: Answer) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, failure: Exception) -> None:
        """With an error of its own, since what becomes of the call is written down in it."""
        if not self.answer.done():
            self.answer.set_exception(copy(failure) if isinstance(failure, ToriiError) else failure)


class Asker(Protocol):
    """The rest of the way, for all members of a batch together."""

    async def together(self, members: list[Member], targets: Sequence[Target], target: Target, lease: Lease) -> None:
        """Tells the members their answers, with ``lease`` at ``target`` first. Raises UpstreamError."""

    async def half(self, members: list[Member], targets: Sequence[Target], target: Target) -> None:
        """The same, beginning at ``target``, without repeats."""

    def elsewhere(self, targets: Sequence[Target], upstream: str) -> bool:
        """True if another upstream than this one is ready for one of the targets."""

    def broken(self, upstream: str) -> bool:
        """True if the upstream keeps failing."""


class Batcher:
    """The calls that wait, by what they have in common."""

    def __init__(self) -> None:
        self._queues: dict[Hashable, Queue] = {}

    async def enter(self, asker: Asker, pool: Pool, target: Target, targets: Sequence[Target], member: Member) -> bool:
        """True once the member is in a batch that has a key of ``pool``; False for a part that has to go alone.

        Raises UpstreamError if no key is free within the call's patience.
        """
        kind = kind_of(member.part, target)
        most = target.model.max_inputs or MOST_INPUTS
        if kind is None or len(member.inputs) > most or member.need.tokens > MOST_TOKENS:
            return False
        key = (kind, pool.name, *((other.upstream.name, other.name) for other in targets))
        if key not in self._queues:
            begin = partial(Batch, asker, target, targets)
            elsewhere = partial(asker.elsewhere, targets, pool.name)
            self._queues[key] = Queue(pool, most, begin, partial(self._queues.pop, key), elsewhere)
        await self._queues[key].wait(member)
        return True


class Queue:
    """Calls of a kind that wait for a key of ``pool``; ``end`` is called when none waits any more."""

    def __init__(
        self,
        pool: Pool,
        most: int,
        begin: Callable[[Lease, list[Member]], Batch],
        end: Callable[[], object],
        elsewhere: Callable[[], bool],
    ) -> None:
        self._pool = pool
        self._most = most
        self._begin = begin
        self._end = end
        self._elsewhere = elsewhere
        self._lines: dict[str, deque[Member]] = {}  # by caller; the one whose turn it is comes first
        self._task: asyncio.Task[None] | None = None

    async def wait(self, member: Member) -> None:
        """Returns when the member is in a batch. Raises UpstreamError if no key is free in time."""
        self._lines.setdefault(member.record.caller, deque()).append(member)
        if self._task is None:
            self._task = asyncio.create_task(self._serve())
        self._pool.batching += 1
        try:
            async with asyncio.timeout(self._pool.until(member.need) - time.monotonic()):
                await member.admitted
        except TimeoutError:
            if member.batch is None:
                raise self._pool.refusal() from None
        except asyncio.CancelledError:
            if member.batch is not None:  # admitted at the same moment
                member.answer.cancel()
                member.batch.leave()
            raise
        finally:
            self._pool.batching -= 1
            self._leave(member)

    async def _serve(self) -> None:
        while self._lines:
            first = next(iter(self._lines.values()))[0].need
            need = Need(first.tokens, batch=True)
            try:
                lease = await self._pool.lease(need, elsewhere=self._elsewhere)
            except UpstreamError as failure:
                self._refuse(math.inf if self._elsewhere() else need.since, failure)
                continue
            members = self._taken(lease)
            if members:
                self._begin(lease, members)
            else:
                lease.release()
        self._task = None
        self._end()

    def _taken(self, lease: Lease) -> list[Member]:
        """The members that go with the lease, callers taking turns; one that does not fit is among the first
        of the next batch."""
        taken: list[Member] = []
        inputs = tokens = 0
        turns = deque(self._lines)
        while turns:
            line = self._lines[caller := turns.popleft()]
            count, need = len(line[0].inputs), line[0].need
            fits = inputs + count <= self._most and tokens + need.tokens <= MOST_TOKENS
            if taken and not (fits and lease.stretch(need.tokens)):
                continue
            inputs, tokens = inputs + count, tokens + need.tokens
            taken.append(line.popleft())
            del self._lines[caller]
            if line:
                self._lines[caller] = line
                turns.append(caller)
        return [member for member in taken if not member.admitted.done()]

    def _refuse(self, since: float, failure: UpstreamError) -> None:
        """Tells the members that came before ``since``: later ones have patience left, unless all can go elsewhere."""
        for member in [member for line in self._lines.values() for member in line]:
            if member.need.since <= since:
                self._remove(member)
                if not member.admitted.done():
                    member.admitted.set_exception(copy(failure))

    def _leave(self, member: Member) -> None:
        self._remove(member)
        if self._task is not None and not self._lines:
            self._task.cancel()
            self._task = None
            self._end()

    def _remove(self, member: Member) -> None:
        line = self._lines.get(member.record.caller)
        if line and member in line:
            line.remove(member)
            if not line:
                del self._lines[member.record.caller]


class Batch:
    """One upstream call for several. The last member that leaves ends it."""

    def __init__(
        self, asker: Asker, target: Target, targets: Sequence[Target], lease: Lease, members: list[Member]
    ) -> None:
        self._asker = asker
        self._targets = targets
        self._lease = lease
        self._held = len(members)
        self._repeated = False
        self._further = 2 * math.ceil(math.log2(len(members))) + 1  # requests for halves after a fault
        for member in members:
            member.batch = self
            member.admitted.set_result(None)
        self._task = asyncio.create_task(self._run(members, target, lease))

    def leave(self) -> None:
        self._held -= 1
        if not self._held:
            self._task.cancel()
            self._lease.release()  # the task may not have begun, and then does not release it

    async def _run(self, members: list[Member], target: Target, lease: Lease) -> None:
        try:
            await self._asker.together(members, self._targets, target, lease)
        except UpstreamError as failure:
            await self._halve(members, failure)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait have to know
            _fail(members, error)

    async def _halve(self, members: list[Member], failure: UpstreamError) -> None:
        """Asks the halves of what has failed, each once, if one input may be the reason."""
        wanted = still_wanted(members)
        if len(members) == 1 or not self._may_be_one_input(failure):
            _fail(wanted, failure if len(members) == 1 else _of_all(failure))
            return
        middle = len(wanted) // 2
        halves = [half for half in (wanted[:middle], wanted[middle:]) if half]
        await asyncio.gather(*(self._half(half, failure) for half in halves))

    async def _half(self, members: list[Member], why: UpstreamError) -> None:
        assert why.target is not None
        # What was found wrong says nothing of the half; of a fault all other targets were asked with the whole.
        targets = self._targets if isinstance(why, UpstreamRejected) else [why.target]
        try:
            await self._asker.half(members, targets, why.target)
        except UpstreamError as failure:
            await self._halve(members, failure)
        except Exception as error:  # noqa: BLE001 - as above
            _fail(members, error)

    def _may_be_one_input(self, failure: UpstreamError) -> bool:
        """Always of what the upstream finds wrong. Of its own faults as often as it takes to find one input, if the
        repeat has met one too."""
        if isinstance(failure, UpstreamRejected):
            return True
        self._repeated = self._repeated or failure.repeated
        if not self._repeated or not _is_of_the_work(failure) or self._asker.broken(failure.upstream or ""):
            return False
        self._further -= 2
        return self._further >= 0


def still_wanted(members: list[Member]) -> list[Member]:
    """Those who still wait; the others are told that nothing more is asked for them."""
    _fail([member for member in members if not member.wanted], CallerGone())
    return [member for member in members if member.wanted]


def _is_of_the_work(failure: UpstreamError) -> bool:
    """A 500, a 502 or a broken answer, without a word of when to come back."""
    fault = isinstance(failure, UpstreamFailed) and failure.status == 502 and failure.retry_after is None
    return fault and failure.elsewhere and failure.repeatable


def _fail(members: list[Member], failure: Exception) -> None:
    for member in members:
        member.fail(failure)


def _of_all(failure: UpstreamError) -> UpstreamError:
    """The failure as each member is told of it, without the upstream's words: they may quote another caller."""
    failure = copy(failure)
    failure.message = _in_our_words(failure, failure.upstream or "the upstream")
    failure.param = None
    return failure


def _in_our_words(failure: UpstreamError, upstream: str) -> str:
    match failure:
        case UpstreamAuth() | UpstreamQuota() | UpstreamMisplaced():
            return failure.message  # in our words already
        case UpstreamRateLimited():
            return rate_limited(upstream, failure.retry_after or 1.0).message
        case UpstreamTimeout():
            return f"{upstream} did not answer in time"
        case UpstreamUnreachable():
            return f"{upstream} cannot be reached"
        case UpstreamFailed(status=503):
            return f"{upstream} is unavailable"
        case UpstreamRejected():
            return f"{upstream} rejected the request"
    return f"{upstream} failed to answer the request"


def merged(members: list[Member]) -> Call:
    part = members[0].part
    inputs = [item for member in members for item in member.inputs]
    return replace(part, body={**part.body, part.endpoint.inputs: inputs})


def divided(answer: Json, members: list[Member]) -> list[Json]:
    """The answer to each: its vectors, in order, and its share of the tokens, by length."""
    if len(members) == 1:
        return [answer]
    items = iter(answer["data"])
    return [
        {**answer, "data": list(islice(items, len(member.inputs))), "usage": usage}
        for member, usage in zip(members, billed(answer["usage"], members), strict=True)
    ]


def billed(usage: Json | None, members: list[Member]) -> list[Any]:
    """Each member's share of the counts, by length; None for each if they are not known."""
    if usage is None or len(members) == 1:
        return [usage] * len(members)
    lengths = [len(msgspec.json.encode(member.inputs)) if member.pays else 0 for member in members]
    return _usages(usage, lengths if any(lengths) else [1] * len(members))


def _usages(usage: Json, lengths: list[int]) -> list[Json]:
    """For each its share of every count: whole numbers, whose sum is the count."""
    parts: list[Json] = [{} for _ in lengths]
    for name, count in usage.items():
        values: list[Any] = _usages(count, lengths) if isinstance(count, dict) else [count] * len(lengths)
        if type(count) is int:
            values = list(shares(count, lengths))
        for part, value in zip(parts, values, strict=True):
            part[name] = value
    return parts
