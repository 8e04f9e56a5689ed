"""Another key, another target, once more: the one retry loop there is.

A request that is wrong is wrong everywhere, so that ends the loop. A DeepSearch run that an upstream
may have begun is paid for, so it is not begun again. Everything else is tried at the next key that the
failure does not touch, then at the next target, and a pure call once more from the first, up to ``most``
upstream calls in all and within the budget for retries, so that a fault meets no storm. A call that met a 429
is made once more too where the time that was stated is within its patience. For a caller who has left nothing
is tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

from .departures import CallerGone, Presence
from .errors import UpstreamAuth, UpstreamError, UpstreamQuota, UpstreamRateLimited
from .joining import Joining
from .pool import Lease, Pool
from .quota import MINUTE, Need
from .types import Route, Target

T = TypeVar("T")
Attempt = Callable[[Target, Lease], Awaitable[T]]

# Of all calls under way, how many may be repeats: a fifth, and always a few (Envoy's default).
RETRY_SHARE = 0.2
RETRIES_ALWAYS = 3

PARTS_AT_ONCE = 8  # of one call


class Attempts:
    def __init__(self, pools: Mapping[str, Pool], *, most: int = 3) -> None:
        self._pools = pools
        self._most = most
        self._joining = Joining()
        self._under_way = 0
        self._repeats = 0

    async def first(self, route: Route, need: Need, attempt: Attempt[T], presence: Presence) -> T:
        """What the first attempt that succeeds gives. Raises the UpstreamError that tells the caller most."""
        failures: list[UpstreamError] = []
        again: list[Target] = []
        self._under_way += 1
        try:
            for target in chain(self._best_first(route), again):
                tried: set[str] = set()
                while len(failures) < self._most and (not failures or self._may_repeat(presence)):
                    try:
                        return await self._once(target, need, tried, attempt, repeat=bool(failures))
                    except UpstreamError as failure:
                        failures.append(failure)
                        presence.target = None
                        if _ends(failure, target):
                            raise
                        if _is_of_the_key(failure) and self._pools[target.upstream.name].others(tried):
                            continue
                        if target not in again and self._may_help(target, need, failure):
                            again.append(target)
                        break
            raise _telling(failures)
        finally:
            self._under_way -= 1
            failures.clear()  # each knows this frame by its traceback

    async def _once(self, target: Target, need: Need, tried: set[str], attempt: Attempt[T], *, repeat: bool) -> T:
        pool = self._pools[target.upstream.name]
        self._repeats += repeat
        try:
            lease = pool.at_once(need, tried) or await self._joining.lease(pool, target, need, tried)
            tried.add(lease.key.alias)
            try:
                answer = await attempt(target.with_key(lease.key), lease)
            except UpstreamError as failure:
                if not self._blame(lease, target, failure):
                    tried.discard(lease.key.alias)  # another key failed, that of a part
                raise
            finally:
                if not lease.kept:
                    lease.release()
            pool.succeeded(lease)
            return answer
        except UpstreamError as failure:
            failure.upstream = target.upstream.name
            if target.model.deepsearch and not isinstance(failure, UpstreamRateLimited):
                failure.should_retry = False
            raise
        finally:
            self._repeats -= repeat

    async def parts(self, target: Target, lease: Lease, asks: Sequence[Callable[[Target], Awaitable[T]]]) -> list[T]:
        """What all the parts of a call give, in order, each with a key of its own; the first with the call's.

        The first that fails ends the others. Once a call has begun, its parts wait for their keys as long as the call
        may take, and one at a time, so that a large call does not stand in the small ones' way. Parts that nobody
        wants any more are not asked for; those at work come to their end, and then CallerGone is raised.
        """
        if len(asks) == 1:
            return [await asks[0](target)]
        line, room = asyncio.Lock(), asyncio.Semaphore(PARTS_AT_ONCE - 1)
        later = [self._later(target, ask, line, room) for ask in asks[1:]]
        results = await _together([self._part(target, lease, asks[0]), *later])
        if any(isinstance(result, CallerGone) for result in results):
            raise CallerGone
        return [result for result in results if not isinstance(result, CallerGone)]

    async def _later(
        self, target: Target, ask: Callable[[Target], Awaitable[T]], line: asyncio.Lock, room: asyncio.Semaphore
    ) -> T | CallerGone:
        pool = self._pools[target.upstream.name]
        async with room:
            async with line:
                lease = await _patiently(pool)
            result = await self._part(target.with_key(lease.key), lease, ask)
        if not isinstance(result, CallerGone):
            pool.succeeded(lease)
        return result

    async def _part(self, target: Target, lease: Lease, ask: Callable[[Target], Awaitable[T]]) -> T | CallerGone:
        try:
            return await ask(target)
        except CallerGone as gone:
            return gone
        except UpstreamError as failure:
            self._blame(lease, target, failure)
            raise
        finally:
            lease.release()

    def _blame(self, lease: Lease, target: Target, failure: UpstreamError) -> bool:
        """Counts a failure against its key, unless that was done: it has the upstream's name from then on."""
        if failure.upstream is not None:
            return False
        failure.upstream = target.upstream.name
        self._pools[target.upstream.name].failed(lease, failure)
        return True

    def _best_first(self, route: Route) -> Sequence[Target]:
        """In order, but those of an upstream that keeps failing last."""
        if len(route.targets) == 1:
            return route.targets
        return sorted(route.targets, key=lambda target: self._pools[target.upstream.name].breaker.last)

    def _may_help(self, target: Target, need: Need, failure: UpstreamError) -> bool:
        """Whether to ask the target once more after all others: not a refused key, nor one whose rest is too long."""
        if isinstance(failure, UpstreamRateLimited):
            seconds = failure.retry_after
            return seconds is not None and self._pools[target.upstream.name].patient(need, seconds)
        return not _is_of_the_key(failure)

    def _may_repeat(self, presence: Presence) -> bool:
        return not presence.deserted and self._repeats < max(RETRIES_ALWAYS, RETRY_SHARE * self._under_way)


async def _together(parts: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """What they give, in order. The first that fails ends the others.

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


async def _patiently(pool: Pool) -> Lease:
    """Out of the line in between, so that those with less patience go first where the wait is long."""
    while True:
        try:
            return await pool.lease(Need())  # the tokens of all parts were counted with the first
        except UpstreamRateLimited as full:
            await asyncio.sleep(full.retry_after or 1.0)


def _ends(failure: UpstreamError, target: Target) -> bool:
    return not failure.elsewhere or (failure.accepted and target.model.deepsearch)


def _is_of_the_key(failure: UpstreamError) -> bool:
    return isinstance(failure, UpstreamRateLimited | UpstreamAuth | UpstreamQuota)


def _telling(failures: list[UpstreamError]) -> UpstreamError:
    """The last failure, unless an earlier one says when to come back."""
    waits = [failure for failure in failures if isinstance(failure, UpstreamRateLimited)]
    return min(waits, key=lambda failure: failure.retry_after or MINUTE) if waits else failures[-1]
