"""Requests to upstreams, each with a leased key and recorded for its call.

attempt -> pool: a lease -> HTTP: the request -> pool: the outcome
                                              `-> record: the cost
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from msgspec.structs import replace

from ..core.errors import UpstreamError, UpstreamRateLimited
from ..core.json import Malformed, decode
from ..core.types import Call, Json, Reply, Target
from ..core.usage import answered, counted, counts
from ..core.web import is_answer
from ..routing.failover import Failover
from ..routing.lease import Lease
from ..routing.limits import KEPT, Cost
from ..upstreams.client.client import Client
from ..usage.record import CallRecord, Use
from .classifiers import Classifiers, Training, Update
from .conformity import usable
from .streaming import UpstreamStream

# The target that answered, and its canonical answer.
Answered = tuple[Target, Json]

UNTRAINED: AbstractContextManager[Training | Update | None] = nullcontext()  # for a call that trains nothing


class LeasingClient:
    """An HTTP client that leases a key for each request. Raises UpstreamError, also if no key is free in time."""

    def __init__(self, http: Client, classifiers: Classifiers) -> None:
        self.http = http
        self.classifiers = classifiers

    async def cover(self, part: Call, attempt: Failover, record: CallRecord) -> None:
        """Adds the cost of a further request to the call's hold. Raises the last failure if it does not fit."""
        if not await covered(part, attempt, record):
            raise attempt.given_up()
        attempt.covered = attempt.target

    async def send(self, part: Call, attempt: Failover, record: CallRecord) -> Answered:
        """The answer to a call or a part of one, and the target that gave it."""
        lease = attempt.take() or await self.lease(attempt)
        with lease:
            record.connection.ask()
            target = attempt.target.with_key(lease.key)
            use = record.ask(target)
            begun = await self.classifiers.begin(part, target, record, use) if part.endpoint.once else UNTRAINED
            with begun as training:
                try:
                    request = target.upstream.request(limited(part, record), target)
                    reply = await self.http.send(request, record.started, partial(mark_sent, lease, use, part, attempt))
                    answer = read(part, target, reply)
                except UpstreamError as failure:
                    use.fail(part, failure, failure.usage)
                    raise
                reported = answer.get("usage")
                use.end(part, reported, 0 if counted(reported) else answered(answer))
                if training is not None:
                    await training.end(answer)
                return target, answer

    async def open(self, attempt: Failover, record: CallRecord) -> UpstreamStream:
        """A stream whose head has come; the stream holds the lease. Raises UpstreamError if the status is an error."""
        if attempt.further:
            await self.cover(record.call, attempt, record)
        lease = attempt.take() or await self.lease(attempt)
        target, call = attempt.target.with_key(lease.key), record.call
        use = record.ask(target)
        try:
            request = target.upstream.request(limited(call, record), target)
            if request.schema is not None:
                await usable(request.schema, "response_format.json_schema")
            stream = await self.http.open(request, record.started, partial(mark_sent, lease, use, call, attempt))
            if stream.status < 300:
                lease.works()
                return UpstreamStream(stream, target.upstream.fold(call, target, stream.status), lease, target)
            try:
                raise target.upstream.error(call, target, Reply(stream.status, stream.headers, await stream.read()))
            finally:
                await stream.aclose()
        except BaseException as failure:
            if isinstance(failure, UpstreamError):
                use.fail(call, failure)
            lease.fail(failure)
            lease.release()
            raise

    async def lease(self, attempt: Failover) -> Lease:
        """The lease of a key for an attempt that is sent alone, even if its cost says that it may be batched."""
        if attempt.key_queue is not None:
            lease = await _lease_in_turn(attempt, attempt.key_queue)
        else:
            cost = replace(attempt.cost, batch=False) if attempt.cost.batch else attempt.cost
            lease = await attempt.pool.lease(cost, attempt.tried, attempt.can_go_elsewhere)
        attempt.lease = lease
        return lease


def mark_sent(lease: Lease, use: Use, part: Call, attempt: Failover) -> None:
    """Called before the first byte of a request is sent. Raises UpstreamError if the key has gone into cooldown."""
    lease.check()
    use.send(part)
    attempt.covered = None


def limited(part: Call, record: CallRecord) -> Call:
    """The part as it is sent: with the token budget that its caller's limits leave it, if it takes one."""
    return part if record.account is None else record.account.limited(part)


async def covered(part: Call, attempt: Failover, record: CallRecord) -> bool:
    """True if the limits and budgets of the call's caller allow a further request, which is held for then."""
    account = record.account
    return account is None or await account.extend(record, part, attempt.target, attempt.covered)


def read(part: Call, target: Target, reply: Reply) -> Json:
    """The canonical answer in a reply. Raises UpstreamError, which has the usage of an invalid answer."""
    if reply.status >= 300 and not is_answer(part, reply.status):
        raise target.upstream.error(part, target, reply)
    try:
        return target.upstream.reply(part, target, reply.body, reply.status, reply.headers)
    except UpstreamError as failure:
        failure.usage = _billed(reply.body)
        raise


def _billed(body: bytes) -> Json | None:
    """The usage in an invalid answer: its counts, empty if it has none; None if the body is no answer at all."""
    try:
        payload = decode(body)
    except Malformed:
        return None
    if not isinstance(payload, dict):
        return None
    reported = counts(payload.get("usage"))
    return reported if reported or {"data", "results"} & payload.keys() else None


async def _lease_in_turn(attempt: Failover, key_queue: asyncio.Lock) -> Lease:
    """Leaves the pool's queue between tries, so that calls with a shorter timeout are served first."""
    pool = attempt.pool
    async with key_queue:
        while True:
            if not pool.ready and attempt.can_go_elsewhere():
                raise pool.refusal()
            try:
                return await pool.lease(
                    Cost(api=attempt.cost.api), attempt.tried
                )  # the first part has counted all tokens
            except UpstreamRateLimited as full:
                if attempt.can_go_elsewhere() or (full.retry_after or 0.0) > KEPT:
                    raise
                await asyncio.sleep(full.retry_after or 1.0)
