"""Asking upstreams until one answers: the one retry loop there is, for a stream, a whole call, a part or a batch.

    Attempts -> failover: the next target -> pool: a key -> client: the request -> pool: the outcome

Which targets and keys a failed call may go on to is decided in ``failover``. Repeats at an upstream that has failed
by itself have a budget, so that a fault meets no storm. Nothing is asked again for a caller who has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from msgspec.structs import replace

from ..core.disconnects import CallerGone
from ..core.errors import UpstreamError, UpstreamRateLimited
from ..core.json import Malformed, decode
from ..core.types import Call, Fold, Json, Reply, Stream, Target
from ..core.usage import answered, counted, counts
from ..routing.failover import Failover, first_ready
from ..routing.lease import Lease
from ..routing.limits import KEPT, Need
from ..routing.pool import Pool
from ..upstreams.client.client import Client
from ..usage.record import Record, Use
from .batching import Answer, Batcher, Member, billed, divided, merged, still_wanted
from .conformity import usable

T = TypeVar("T")
Attempt = Callable[[Target, Lease], Awaitable[T]]
Ask = Callable[[asyncio.Lock | None], Awaitable[T]]  # for a part of a call

# Of all calls under way, how many may be repeats: a fifth, and always a few (Envoy's default).
RETRY_SHARE = 0.2
RETRIES_ALWAYS = 3

PARTS_AT_ONCE = 8  # of one call


class Audience(Protocol):
    """Those who wait for an answer."""

    @property
    def deserted(self) -> bool:
        """All have left."""


class Crowd:
    """The audience of a batch."""

    def __init__(self, members: list[Member]) -> None:
        self._members = members

    @property
    def deserted(self) -> bool:
        return all(member.record.presence.deserted for member in self._members)


class Attempts:
    """``most``: a call that has met so many faults of upstreams is not repeated. ``parts``: so many later parts of
    large calls are at work at once, so that they leave connections to the other calls."""

    def __init__(self, pools: Mapping[str, Pool], client: Client, *, most: int = 3, parts: int = 1000) -> None:
        self._pools = pools
        self._client = client
        self._most = most
        self._batcher = Batcher()
        self._later = asyncio.Semaphore(parts)
        self._under_way = 0
        self._repeats = 0

    def best(self, targets: Sequence[Target]) -> Target:
        """The target that is asked first, as things are."""
        return first_ready(targets, self._pools)

    def way(self, targets: Sequence[Target], need: Need, repeats: bool = True) -> Failover:
        """Through all of these targets. Without ``repeats`` none is asked again after a fault of its own."""
        return Failover(targets, self._pools, need, self._most if repeats else 0)

    def elsewhere(self, targets: Sequence[Target], upstream: str) -> bool:
        """True if another upstream than this one is ready for one of the targets."""
        names = {target.upstream.name for target in targets} - {upstream}
        return any(self._pools[name].ready for name in names)

    def broken(self, upstream: str) -> bool:
        return self._pools[upstream].breaker.open

    # ------------------------------------------------------------ whole answers

    async def ask(self, part: Call, way: Failover, record: Record, line: asyncio.Lock | None = None) -> Answer:
        """The answer to a call or a part of one, alone or in a batch, and the target that gave it.

        With a ``line`` the part waits there, and for its key as long as the call may take.
        """
        join = partial(Member, part, record, way.need) if way.need.batch else None
        way.line = line
        return await self.first(way, partial(self._send, part, record), record.presence, join=join)

    async def parts(self, asks: Sequence[Ask[T]]) -> list[T]:
        """The answers to all parts of a call, in order; the first part that fails for good ends the others.

        The later parts wait for their keys as long as the call may take, and one at a time, so that a large call does
        not stand in the small ones' way. Parts that nobody wants any more are not asked for; those at work come to
        their end, and then CallerGone is raised.
        """
        if len(asks) == 1:
            return [await asks[0](None)]
        line, room = asyncio.Lock(), asyncio.Semaphore(PARTS_AT_ONCE)
        first, *later = asks
        results = await _all([_in(room, first, None), *[_in(room, partial(self._late, ask), line) for ask in later]])
        if any(isinstance(result, CallerGone) for result in results):
            raise CallerGone
        return [result for result in results if not isinstance(result, CallerGone)]

    async def _late(self, ask: Ask[T], line: asyncio.Lock | None) -> T:
        async with self._later:
            return await ask(line)

    # ------------------------------------------------------------ batches

    async def together(self, members: list[Member], targets: Sequence[Target], target: Target, lease: Lease) -> None:
        need = Need(sum(member.need.tokens for member in members), since=max(member.need.since for member in members))
        way = self.way(targets, need)
        way.start(target, lease)
        await self.first(way, partial(self._send_together, members), Crowd(members))

    async def half(self, members: list[Member], targets: Sequence[Target], target: Target) -> None:
        way = self.way(targets, Need(sum(member.need.tokens for member in members)), repeats=False)
        way.start(target)
        await self.first(way, partial(self._send_together, members), Crowd(members))

    # ------------------------------------------------------------ the loop

    async def first(
        self,
        way: Failover,
        attempt: Attempt[T],
        audience: Audience,
        *,
        join: Join | None = None,
    ) -> T:
        """The result of the first attempt that succeeds. Raises the UpstreamError that tells the caller most.

        ``join`` makes a member that may wait for a key with others.
        """
        self._under_way += 1
        target = way.first()
        try:
            while True:
                repeats = way.repeats
                self._repeats += repeats
                key: Lease | Member | None = None
                try:
                    key, way.lease = way.lease, None
                    key = key or await self._key(way, target, join)
                    if not isinstance(key, Member):
                        return await self._with(key, target, attempt)
                except UpstreamError as failure:
                    way.failed(target, _told_by(failure, target), key.key if isinstance(key, Lease) else None)
                else:
                    return cast("T", await key.answered())
                finally:
                    self._repeats -= repeats
                if audience.deserted:
                    raise way.error()
                target = way.next(budget=self._repeats < max(RETRIES_ALWAYS, RETRY_SHARE * self._under_way))
        finally:
            self._under_way -= 1
            way.failures.clear()

    async def _key(self, way: Failover, target: Target, join: Join | None) -> Lease | Member:
        """A lease, or a member of a batch that has one."""
        pool, tried, need = self._pools[target.upstream.name], way.tried(target), way.need
        if (lease := pool.at_once(need, tried)) is not None:
            return lease
        if way.line is not None:
            return await _patiently(pool, way, target, way.line)
        if join is None:
            return await pool.lease(need, tried, way.can_go_elsewhere)
        member = join()
        if not tried and not way.repeats and await self._batcher.enter(self, pool, target, way.targets, member):
            return member
        return await pool.lease(replace(need, batch=False), tried, way.can_go_elsewhere)

    async def _with(self, lease: Lease, target: Target, attempt: Attempt[T]) -> T:
        pool = self._pools[target.upstream.name]
        try:
            answer = await attempt(target.with_key(lease.key), lease)
            pool.succeeded(lease)
            return answer
        except UpstreamError as failure:
            pool.failed(lease, failure)
            raise
        finally:
            if not lease.kept:
                lease.release()

    # ------------------------------------------------------------ one request

    async def open(self, call: Call, record: Record, target: Target, lease: Lease) -> tuple[Stream, Fold]:
        """A stream whose head has come. Raises UpstreamError, also for a status that is an error."""
        use = record.ask(target)
        try:
            request = target.upstream.request(call, target)
            if request.schema is not None:
                await usable(request.schema, "response_format.json_schema")
            stream = await self._client.open(request, record.started, partial(sent, lease, [(use, call)]))
            if stream.status < 300:
                if lease.seat.cause == "rate limited":  # a run may take minutes, and its head tells enough of the key
                    lease.lender.succeeded(lease)
                return stream, target.upstream.fold(call, target, stream.status)
            try:
                raise target.upstream.error(call, target, Reply(stream.status, stream.headers, await stream.read()))
            finally:
                await stream.aclose()
        except UpstreamError as failure:
            use.fail(call, failure)
            raise

    async def _send(self, part: Call, record: Record, target: Target, lease: Lease) -> Answer:
        record.presence.ask()
        use = record.ask(target)
        try:
            going = partial(sent, lease, [(use, part)])
            answer = await self._request(part, target, going, record.started)
        except UpstreamError as failure:
            use.fail(part, failure, failure.usage)
            raise
        said = answer.get("usage")
        use.end(part, said, 0 if counted(said) else answered(answer))
        return target, answer

    async def _send_together(self, members: list[Member], target: Target, lease: Lease) -> None:
        asked = still_wanted(members)
        if not asked:
            raise CallerGone
        several = len(asked) > 1
        begun = [(member.record.ask(target), member.part) for member in asked]
        try:
            going = partial(sent_together, lease, asked, begun)
            answer = await self._request(merged(asked), target, going, asked[0].record.started)
        except UpstreamError as failure:
            for (use, part), said in zip(begun, billed(failure.usage, asked), strict=True):
                use.fail(part, failure, said, share=several)
            raise
        for (use, part), member, own in zip(begun, asked, divided(answer, asked), strict=True):
            use.end(part, own["usage"], share=several)
            member.tell((target, own))

    async def _request(self, part: Call, target: Target, going: Callable[[], None], started: float) -> Json:
        reply = await self._client.send(target.upstream.request(part, target), started, going)
        if reply.status >= 300:
            raise target.upstream.error(part, target, reply)
        try:
            return target.upstream.reply(part, target, reply.body, reply.status)
        except UpstreamError as failure:
            failure.usage = _billed(reply.body)
            raise


Join = Callable[[], Member]
Begun = Sequence[tuple[Use, Call]]  # what a request is booked under, and as


def sent(lease: Lease, begun: Begun) -> None:
    """To be called before the first byte of a request goes out. Raises UpstreamError if the key rests by now."""
    lease.check()
    for use, part in begun:
        use.send(part)


def sent_together(lease: Lease, asked: Sequence[Member], begun: Begun) -> None:
    """The same for a batch. A member that has left by now is booked already, so the others pay for its inputs."""
    lease.check()
    for member, (use, part) in zip(asked, begun, strict=True):
        member.pays = member.record.status is None
        if member.pays:
            use.send(part)


def _told_by(failure: UpstreamError, target: Target) -> UpstreamError:
    failure.upstream, failure.target = target.upstream.name, target
    if target.model.deepsearch and not isinstance(failure, UpstreamRateLimited):
        failure.should_retry = False
    return failure


def _billed(body: bytes) -> Json | None:
    """The bill of a wrong answer: its counts, empty if it has none; None if it is no answer at all."""
    try:
        payload = decode(body)
    except Malformed:
        return None
    if not isinstance(payload, dict):
        return None
    said = counts(payload.get("usage"))
    return said if said or {"data", "results"} & payload.keys() else None


async def _in(room: asyncio.Semaphore, ask: Ask[T], line: asyncio.Lock | None) -> T | CallerGone:
    async with room:
        try:
            return await ask(line)
        except CallerGone as gone:
            return gone


async def _all(parts: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results, in order. The first part that fails ends the others.

    No TaskGroup: Python 3.11's leaves the task in which a part failed marked as one that is being cancelled, and a
    deadline that rings in a later attempt takes its own cancellation for another's.
    """
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise


async def _patiently(pool: Pool, way: Failover, target: Target, line: asyncio.Lock) -> Lease:
    """Leaves the pool's line between tries, so that calls with less patience go first."""
    async with line:
        while True:
            if not pool.ready and way.can_go_elsewhere():
                raise pool.refusal()
            try:
                return await pool.lease(Need(), way.tried(target))  # the first part has counted all tokens
            except UpstreamRateLimited as full:
                if way.can_go_elsewhere() or (full.retry_after or 0.0) > KEPT:
                    raise
                await asyncio.sleep(full.retry_after or 1.0)
