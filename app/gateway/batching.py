"""Small calls that wait for a key go together: one upstream call for all of a kind.

    a key is free      the call goes alone
    no key is free     BatchingClient -> Queue   the calls of a kind that wait; one key is waited for
    one becomes free   Queue -> Batch            as many calls as fit into one, callers taking turns
    all are in         Batch -> the upstream     to each call its vectors and its share of the tokens

A batch is one call to all that is behind it: one failure, one repeat, one way to another key or target. If it fails
for good and a single input may be the reason, its halves are asked, and theirs, until what is wrong is alone. A call
that leaves takes nothing from the others.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..cache.digests import kind_of
from ..core.disconnects import CallerGone
from ..core.errors import (
    ToriiError,
    UpstreamError,
    UpstreamFailed,
    UpstreamRejected,
)
from ..core.types import Call, Target
from ..routing.failover import Failover, Retries
from ..routing.lease import Lease
from ..routing.limits import Cost
from ..upstreams.client.client import Client
from ..usage.record import CallRecord, Use
from .client import Answered, LeasingClient, read
from .shares import billed, divided, merged, of_all

MOST_INPUTS = 64  # of a batch, if it is not known what the model takes
MOST_TOKENS = 100_000  # by estimate; OpenAI takes 300,000 in a request


def future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class BatchWaiter:
    """A call's part in a batch. ``admitted`` is set when a batch has a key and takes the part along.

    ``pays`` is False if the call had ended before the batch's request went out.
    """

    part: Call
    record: CallRecord
    cost: Cost
    admitted: asyncio.Future[None] = field(default_factory=future)
    answer: asyncio.Future[Answered] = field(default_factory=future)
    batch: Batch | None = None
    pays: bool = True

    @property
    def inputs(self) -> list[Any]:
        inputs: list[Any] = self.part.body[self.part.endpoint.inputs]
        return inputs

    @property
    def wanted(self) -> bool:
        """Something more may be asked for it."""
        return not self.answer.done() and self.record.connection.wants

    async def answered(self) -> Answered:
        """A member that is cancelled leaves the batch."""
        assert self.batch is not None
        try:
            return await self.answer
        finally:
            self.batch.leave()

    def tell(self, answer: Answered) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, failure: Exception) -> None:
        """With an error of its own, since what becomes of the call is written down in it."""
        if not self.answer.done():
            self.answer.set_exception(copy(failure) if isinstance(failure, ToriiError) else failure)


class BatchingClient(LeasingClient):
    """A client that lets small calls wait for company if they have to wait for a key: by what they have in common."""

    def __init__(self, http: Client, retries: Retries) -> None:
        super().__init__(http)
        self.retries = retries
        self._queues: dict[Hashable, Queue] = {}

    def send(self, part: Call, attempt: Failover, record: CallRecord) -> Coroutine[Any, Any, Answered]:
        """The answer to a call or a part of one, alone or in a batch, and the target that gave it."""
        if attempt.cost.batch and attempt.take() is None and not attempt.tried and not attempt.repeats:
            target = attempt.target
            kind, most = kind_of(part, target), target.model.max_inputs or MOST_INPUTS
            if kind is not None and len(part.body[part.endpoint.inputs]) <= most and attempt.cost.tokens <= MOST_TOKENS:
                key = (kind, attempt.pool.name, *((other.upstream.name, other.name) for other in attempt.targets))
                if key not in self._queues:
                    self._queues[key] = Queue(self, attempt, most, partial(self._queues.pop, key))
                return self._queues[key].send(BatchWaiter(part, record, attempt.cost), attempt)
        return super().send(part, attempt, record)


class Queue:
    """Calls of a kind that wait for a key of one pool; ``end`` is called when none waits any more.

    They are asked for at ``target`` first, and may go on to the other ``targets``.
    """

    def __init__(self, client: BatchingClient, attempt: Failover, most: int, end: Callable[[], object]) -> None:
        self._client = client
        self._pool = attempt.pool
        self._target = attempt.target
        self._targets = attempt.targets
        self._most = most
        self._end = end
        self._lines: dict[str, deque[BatchWaiter]] = {}  # by caller; the one whose turn it is comes first
        self._task: asyncio.Task[None] | None = None

    async def send(self, member: BatchWaiter, attempt: Failover) -> Answered:
        """The answer to a member, out of its batch. Raises UpstreamError, also if no key is free in time."""
        await self._wait(member)
        attempt.last = True
        return await member.answered()

    async def _wait(self, member: BatchWaiter) -> None:
        """Returns when the member is in a batch."""
        self._lines.setdefault(member.record.caller, deque()).append(member)
        if self._task is None:
            self._task = asyncio.create_task(self._serve())
        self._pool.batching += 1
        try:
            async with asyncio.timeout(self._pool.until(member.cost) - time.monotonic()):
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

    def _elsewhere(self) -> bool:
        return self._client.retries.elsewhere(self._targets, self._pool.name)

    async def _serve(self) -> None:
        while self._lines:
            first = next(iter(self._lines.values()))[0].cost
            cost = Cost(first.tokens, batch=True)
            try:
                lease = await self._pool.lease(cost, elsewhere=self._elsewhere)
            except UpstreamError as failure:
                self._refuse(math.inf if self._elsewhere() else cost.since, failure)
                continue
            members = self._taken(lease)
            if members:
                Batch(self._client, self._target, self._targets, lease, members)
            else:
                lease.release()
        self._task = None
        self._end()

    def _taken(self, lease: Lease) -> list[BatchWaiter]:
        """The members that go with the lease, callers taking turns; one that does not fit is among the first
        of the next batch."""
        taken: list[BatchWaiter] = []
        inputs = tokens = 0
        turns = deque(self._lines)
        while turns:
            line = self._lines[caller := turns.popleft()]
            count, cost = len(line[0].inputs), line[0].cost
            fits = inputs + count <= self._most and tokens + cost.tokens <= MOST_TOKENS
            if taken and not (fits and lease.stretch(cost.tokens)):
                continue
            inputs, tokens = inputs + count, tokens + cost.tokens
            taken.append(line.popleft())
            del self._lines[caller]
            if line:
                self._lines[caller] = line
                turns.append(caller)
        return [member for member in taken if not member.admitted.done()]

    def _refuse(self, since: float, failure: UpstreamError) -> None:
        """Tells the members that came before ``since``: later ones have patience left, unless all can go elsewhere."""
        for member in [member for line in self._lines.values() for member in line]:
            if member.cost.since <= since:
                self._remove(member)
                if not member.admitted.done():
                    member.admitted.set_exception(copy(failure))

    def _leave(self, member: BatchWaiter) -> None:
        self._remove(member)
        if self._task is not None and not self._lines:
            self._task.cancel()
            self._task = None
            self._end()

    def _remove(self, member: BatchWaiter) -> None:
        line = self._lines.get(member.record.caller)
        if line and member in line:
            line.remove(member)
            if not line:
                del self._lines[member.record.caller]


class Batch:
    """One upstream call for several. The last member that leaves ends it."""

    def __init__(
        self,
        client: BatchingClient,
        target: Target,
        targets: Sequence[Target],
        lease: Lease,
        members: list[BatchWaiter],
    ) -> None:
        self._client = client
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
            del self._task  # its end knows the frames that hold this batch
            self._lease.release()  # the task may not have begun, and then does not release it

    async def _run(self, members: list[BatchWaiter], target: Target, lease: Lease) -> None:
        try:
            since = max(member.cost.since for member in members)
            await self._ask(members, self._failover(members, self._targets, since).start(target, lease))
        except UpstreamError as failure:
            await self._halve(members, failure)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait have to know
            _fail(members, error)

    async def _halve(self, members: list[BatchWaiter], failure: UpstreamError) -> None:
        """Asks the halves of what has failed, each once, if one input may be the reason."""
        wanted = still_wanted(members)
        if len(members) == 1 or not self._may_be_one_input(failure):
            _fail(wanted, failure if len(members) == 1 else of_all(failure))
            return
        middle = len(wanted) // 2
        halves = [half for half in (wanted[:middle], wanted[middle:]) if half]
        await asyncio.gather(*(self._half(half, failure) for half in halves))

    async def _half(self, members: list[BatchWaiter], why: UpstreamError) -> None:
        assert why.target is not None
        # What was found wrong says nothing of the half; of a fault all other targets were asked with the whole.
        targets = self._targets if isinstance(why, UpstreamRejected) else [why.target]
        try:
            await self._ask(members, self._failover(members, targets).start(why.target))
        except UpstreamError as failure:
            await self._halve(members, failure)
        except Exception as error:  # noqa: BLE001 - as above
            _fail(members, error)

    def _failover(self, members: list[BatchWaiter], targets: Sequence[Target], since: float | None = None) -> Failover:
        """The attempts of a whole batch, which has its patience from ``since``; those of a half have no repeats."""
        tokens = sum(member.cost.tokens for member in members)
        cost = Cost(tokens) if since is None else Cost(tokens, since=since)
        return self._client.retries.begin(targets, cost, Crowd(members), repeats=since is not None)

    async def _ask(self, members: list[BatchWaiter], failover: Failover) -> None:
        """Tells the members their answers. Raises UpstreamError."""
        for attempt in failover:
            with attempt:
                lease = attempt.take() or await self._client.lease(attempt)
                with lease:
                    await self._send(members, attempt.target.with_key(lease.key), lease)

    async def _send(self, members: list[BatchWaiter], target: Target, lease: Lease) -> None:
        asked = still_wanted(members)
        if not asked:
            raise CallerGone
        several = len(asked) > 1
        parts = [member.part for member in asked]
        begun = [(member.record.ask(target), member.part) for member in asked]
        part = merged(parts)
        try:
            request = target.upstream.request(part, target)
            going = partial(sent_together, lease, asked, begun)
            answer = read(part, target, await self._client.http.send(request, asked[0].record.started, going))
        except UpstreamError as failure:
            paying = [member.pays for member in asked]
            for (use, own), said in zip(begun, billed(failure.usage, parts, paying), strict=True):
                use.fail(own, failure, said, share=several)
            raise
        replies = divided(answer, parts, [member.pays for member in asked])
        for (use, own), member, reply in zip(begun, asked, replies, strict=True):
            use.end(own, reply["usage"], share=several)
            member.tell((target, reply))

    def _may_be_one_input(self, failure: UpstreamError) -> bool:
        """Always of what the upstream finds wrong. Of its own faults as often as it takes to find one input, if the
        repeat has met one too."""
        if isinstance(failure, UpstreamRejected):
            return True
        self._repeated = self._repeated or failure.repeated
        if not self._repeated or not _is_of_the_work(failure) or self._client.retries.broken(failure.upstream or ""):
            return False
        self._further -= 2
        return self._further >= 0


class Crowd:
    """The audience of a batch."""

    def __init__(self, members: list[BatchWaiter]) -> None:
        self._members = members

    @property
    def deserted(self) -> bool:
        return all(member.record.connection.deserted for member in self._members)


Begun = Sequence[tuple[Use, Call]]  # what a request is booked under, and as


def sent_together(lease: Lease, asked: Sequence[BatchWaiter], begun: Begun) -> None:
    """To be called before the first byte of a batch goes out. A member that has left by now is booked already, so the
    others pay for its inputs. Raises UpstreamError if the key rests by now."""
    lease.check()
    for member, (use, part) in zip(asked, begun, strict=True):
        member.pays = member.record.status is None
        if member.pays:
            use.send(part)


def still_wanted(members: list[BatchWaiter]) -> list[BatchWaiter]:
    """Those who still wait; the others are told that nothing more is asked for them."""
    _fail([member for member in members if not member.wanted], CallerGone())
    return [member for member in members if member.wanted]


def _is_of_the_work(failure: UpstreamError) -> bool:
    """A 500, a 502 or a broken answer, without a word of when to come back."""
    fault = isinstance(failure, UpstreamFailed) and failure.status == 502 and failure.retry_after is None
    return fault and failure.elsewhere and failure.repeatable


def _fail(members: list[BatchWaiter], failure: Exception) -> None:
    for member in members:
        member.fail(failure)
