"""Batching: small calls of one kind that have to wait for a key share one upstream call.

    a key is free      the call is sent alone
    no key is free     BatchingClient -> Queue    the calls of a kind wait, for one key together
    a key gets free    Queue -> Batch             as many calls as fit, callers taking turns
    the answer         Batch -> its members       to each call its vectors and its share of the tokens

The members of a batch share one outcome: one failure, one retry, one failover to another key or target. If a batch
fails for good and a single input may be the reason, its halves are asked, and their halves, until that input is alone.
A call that leaves its batch does not affect the other members.
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
from .classifiers import Classifiers
from .client import Answered, LeasingClient, covered, read
from .shares import billed, divided, merged, of_all, weight

MOST_INPUTS = 64  # of a batch, if the model's limit is unknown
MOST_TOKENS = 100_000  # of a batch, by estimate; OpenAI takes 300,000 in a request


def future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class BatchWaiter:
    """A call that waits to be batched, and then a member of a batch.

    ``admitted`` is set when a batch with a leased key takes the call, ``answer`` to the target and its canonical reply.
    ``pays`` is False if the call had ended before the batch's request was sent.
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
        """True if another request may be made for the call."""
        return not self.answer.done() and self.record.connection.wants

    async def answered(self) -> Answered:
        """Waits for the answer. Then, or when cancelled, the member leaves its batch."""
        assert self.batch is not None
        try:
            return await self.answer
        finally:
            self.batch.leave()

    def resolve(self, answer: Answered) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, failure: Exception) -> None:
        """Fails the call with a copy of the failure, since each call marks its own error when it is recorded."""
        if not self.answer.done():
            self.answer.set_exception(copy(failure) if isinstance(failure, ToriiError) else failure)


class BatchingClient(LeasingClient):
    """A client that batches small calls of the same kind if they have to wait for a key."""

    def __init__(self, http: Client, retries: Retries, classifiers: Classifiers) -> None:
        super().__init__(http, classifiers)
        self.retries = retries
        self._queues: dict[Hashable, Queue] = {}

    def send(self, part: Call, attempt: Failover, record: CallRecord) -> Coroutine[Any, Any, Answered]:
        """The answer to a call or a part of one, sent alone or in a batch, and the target that gave it."""
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
    """The calls of one kind that wait for a key of one pool. ``end`` is called when no call waits any more.

    Their batches are sent to the attempt's ``target`` first, and may fail over to its other ``targets``.
    """

    def __init__(self, client: BatchingClient, attempt: Failover, most: int, end: Callable[[], object]) -> None:
        self._client = client
        self._pool = attempt.pool
        self._target = attempt.target
        self._targets = attempt.targets
        self._most = most
        self._end = end
        self._waiting: dict[str, deque[BatchWaiter]] = {}  # by caller; the first caller is the next to be served
        self._task: asyncio.Task[None] | None = None

    async def send(self, member: BatchWaiter, attempt: Failover) -> Answered:
        """The member's answer, from its batch. Raises UpstreamError, also if no key is free in time."""
        await self._wait(member)
        attempt.last = True
        return await member.answered()

    async def _wait(self, member: BatchWaiter) -> None:
        """Returns when the member is in a batch. Raises UpstreamError if no key is free within the queue timeout."""
        self._waiting.setdefault(member.record.caller, deque()).append(member)
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
        while self._waiting:
            first = next(iter(self._waiting.values()))[0].cost
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
        """The members to send with the lease, callers taking turns. A member that does not fit is among the first of
        the next batch."""
        taken: list[BatchWaiter] = []
        inputs = tokens = 0
        callers = deque(self._waiting)
        while callers:
            waiting = self._waiting[caller := callers.popleft()]
            count, cost = len(waiting[0].inputs), waiting[0].cost
            fits = inputs + count <= self._most and tokens + cost.tokens <= MOST_TOKENS
            if taken and not (fits and lease.stretch(cost.tokens)):
                continue
            inputs, tokens = inputs + count, tokens + cost.tokens
            taken.append(waiting.popleft())
            del self._waiting[caller]
            if waiting:
                self._waiting[caller] = waiting
                callers.append(caller)
        return [member for member in taken if not member.admitted.done()]

    def _refuse(self, since: float, failure: UpstreamError) -> None:
        """Fails the members that came no later than ``since``; the others still have time to wait."""
        for member in [member for waiting in self._waiting.values() for member in waiting]:
            if member.cost.since <= since:
                self._remove(member)
                if not member.admitted.done():
                    member.admitted.set_exception(copy(failure))

    def _leave(self, member: BatchWaiter) -> None:
        self._remove(member)
        if self._task is not None and not self._waiting:
            self._task.cancel()
            self._task = None
            self._end()

    def _remove(self, member: BatchWaiter) -> None:
        waiting = self._waiting.get(member.record.caller)
        if waiting and member in waiting:
            waiting.remove(member)
            if not waiting:
                del self._waiting[member.record.caller]


class Batch:
    """One upstream call for several calls. It is cancelled when its last member leaves."""

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
        self._half_requests = 2 * math.ceil(math.log2(len(members))) + 1  # requests for halves after a fault
        for member in members:
            member.batch = self
            member.admitted.set_result(None)
        self._task = asyncio.create_task(self._run(members, target, lease))

    def leave(self) -> None:
        self._held -= 1
        if not self._held:
            self._task.cancel()
            del self._task  # its exception holds the frames that hold this batch
            self._lease.release()  # a task that has not begun does not release it

    async def _run(self, members: list[BatchWaiter], target: Target, lease: Lease) -> None:
        try:
            since = max(member.cost.since for member in members)
            await self._ask(members, self._failover(members, self._targets, since).start(target, lease))
        except UpstreamError as failure:
            await self._halve(members, failure)
        except Exception as error:  # noqa: BLE001 - the members wait, and must get any error
            _fail(members, error)

    async def _halve(self, members: list[BatchWaiter], failure: UpstreamError) -> None:
        """Asks the halves of a failed batch, each once, if a single input may be the reason of the failure."""
        wanted = still_wanted(members)
        if len(members) == 1 or not self._may_be_one_input(failure):
            _fail(wanted, failure if len(members) == 1 else of_all(failure))
            return
        middle = len(wanted) // 2
        halves = [half for half in (wanted[:middle], wanted[middle:]) if half]
        await asyncio.gather(*(self._half(half, failure) for half in halves))

    async def _half(self, members: list[BatchWaiter], why: UpstreamError) -> None:
        assert why.target is not None
        # A rejected batch says nothing about its half. After a fault the batch has been to all other targets already.
        targets = self._targets if isinstance(why, UpstreamRejected) else [why.target]
        try:
            await self._ask(members, self._failover(members, targets).start(why.target), why)
        except UpstreamError as failure:
            await self._halve(members, failure)
        except Exception as error:  # noqa: BLE001 - as above
            _fail(members, error)

    def _failover(self, members: list[BatchWaiter], targets: Sequence[Target], since: float | None = None) -> Failover:
        """The attempts of a whole batch, whose queue timeout counts from ``since``; without ``since`` those of a half,
        which has no repeats."""
        tokens = sum(member.cost.tokens for member in members)
        cost = Cost(tokens) if since is None else Cost(tokens, since=since)
        return self._client.retries.begin(targets, cost, BatchAudience(members), repeats=since is not None)

    async def _ask(self, members: list[BatchWaiter], failover: Failover, why: UpstreamError | None = None) -> None:
        """Gives each member its answer. ``why`` a half is asked; the members have not held for it yet. Raises
        UpstreamError."""
        for attempt in failover:
            with attempt:
                if attempt.failures or why is not None:
                    await _cover(members, attempt, why)
                lease = attempt.take() or await self._client.lease(attempt)
                with lease:
                    await self._send(members, attempt, lease)

    async def _send(self, members: list[BatchWaiter], attempt: Failover, lease: Lease) -> None:
        asked = still_wanted(members)
        if not asked:
            raise CallerGone
        target = attempt.target.with_key(lease.key)
        several = len(asked) > 1
        parts = [member.part for member in asked]
        begun = [(member.record.ask(target), member.part) for member in asked]
        part = merged(parts)
        try:
            request = target.upstream.request(part, target)
            on_send = partial(mark_batch_sent, lease, asked, begun, attempt)
            answer = read(part, target, await self._client.http.send(request, asked[0].record.started, on_send))
        except UpstreamError as failure:
            for (use, own), reported in zip(begun, billed(failure.usage, weights(asked, target)), strict=True):
                use.fail(own, failure, reported, share=several)
            raise
        replies = divided(answer, parts, weights(asked, target))
        for (use, own), member, reply in zip(begun, asked, replies, strict=True):
            use.end(own, reply["usage"], share=several)
            member.resolve((target, reply))

    def _may_be_one_input(self, failure: UpstreamError) -> bool:
        """True if a single input may be the reason of the failure: always for a rejection; for an upstream's own fault
        only after a repeat has failed too, and for as many requests as it takes to find one input."""
        if isinstance(failure, UpstreamRejected):
            return True
        self._repeated = self._repeated or failure.repeated
        if not self._repeated or not _is_server_fault(failure) or self._client.retries.broken(failure.upstream or ""):
            return False
        self._half_requests -= 2
        return self._half_requests >= 0


class BatchAudience:
    """The callers that wait for a batch."""

    def __init__(self, members: list[BatchWaiter]) -> None:
        self._members = members

    @property
    def deserted(self) -> bool:
        return all(member.record.connection.deserted for member in self._members)


Begun = Sequence[tuple[Use, Call]]  # for each member: the use that counts its request, and its part


def mark_batch_sent(lease: Lease, asked: Sequence[BatchWaiter], begun: Begun, attempt: Failover) -> None:
    """Called before the first byte of a batch is sent. A member that has ended by now is settled already, so the others
    pay for its inputs. Raises UpstreamError if the key has gone into cooldown."""
    lease.check()
    attempt.covered = None
    for member, (use, part) in zip(asked, begun, strict=True):
        member.pays = member.record.status is None
        if member.pays:
            use.send(part)


def weights(asked: Sequence[BatchWaiter], target: Target) -> list[int]:
    """The share of each member in what the request costs; 0 for a member that does not pay."""
    return [weight(member.part, target.model) if member.pays else 0 for member in asked]


def still_wanted(members: list[BatchWaiter]) -> list[BatchWaiter]:
    """The members that still wait for an answer; the others are failed with CallerGone."""
    _fail([member for member in members if not member.wanted], CallerGone())
    return [member for member in members if member.wanted]


async def _cover(members: list[BatchWaiter], attempt: Failover, why: UpstreamError | None) -> None:
    """Adds each member's cost of a further request to its hold. A member whose limits or budgets do not allow it gets
    the last failure."""
    failure = attempt.failures[-1] if attempt.failures else why
    assert failure is not None
    if not attempt.failures:
        attempt.covered = None  # the first request for a half
    if attempt.further:
        asked = still_wanted(members)
        fit = await asyncio.gather(*(covered(member.part, attempt, member.record) for member in asked))
        attempt.covered = attempt.target
        spent = [member for member, fits in zip(asked, fit, strict=True) if not fits]
        error = copy(failure) if len(members) == 1 else of_all(failure)
        error.own = True
        _fail(spent, error)


def _is_server_fault(failure: UpstreamError) -> bool:
    """True for a 500, a 502 or a broken answer, without a time to come back."""
    fault = isinstance(failure, UpstreamFailed) and failure.status == 502 and failure.retry_after is None
    return fault and failure.elsewhere and failure.repeatable


def _fail(members: list[BatchWaiter], failure: Exception) -> None:
    for member in members:
        member.fail(failure)
