"""The attempts of one call: which target and key are asked next, and when to give up.

    another key       after a failure of the key (401, 402, 403, 429): each other key of the upstream, once; before the
                      other targets if one is free now, else after them. After the upstream's own fault (5xx, a broken
                      answer) each that is free and has not just met faults too, after the other targets: so a fault of
                      one key is no caller's
    another target    after any failure that is not the caller's: each other target, once
    a repeat          after the upstream's own fault (5xx, a timeout, a broken answer): the same target again; a page or
                      a search, which may have taken minutes, only if no work had begun (unreachable, 503)
    a wait            after a 429: the same target again, if its time comes within the call's queue timeout

A target whose keys are all in cooldown, or whose upstream keeps failing, is skipped while another target can be asked.
Only repeats have a budget, so that a fault of an upstream does not cause a retry storm.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from ..core.errors import (
    UpstreamAuth,
    UpstreamError,
    UpstreamFailed,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamUnreachable,
)
from ..core.types import Key, Target
from .lease import Lease
from .limits import KEPT, MINUTE, Cost
from .pool import Pool

NONE: frozenset[str] = frozenset()

# Repeats may be this share of the attempts under way, or RETRIES_ALWAYS if that is more (Envoy's defaults).
RETRY_SHARE = 0.2
RETRIES_ALWAYS = 3


class Audience(Protocol):
    """The callers that wait for an answer."""

    @property
    def deserted(self) -> bool:
        """True if all of them have left."""


class Retries:
    """The pools and the retry budget of all calls. ``most``: a call that has met this many faults of upstreams is not
    repeated. ``under_way`` is the number of attempts at work, ``repeats`` how many of these are repeats."""

    def __init__(self, pools: Mapping[str, Pool], *, most: int = 3) -> None:
        self.pools = pools
        self.most = most
        self.under_way = 0
        self.repeats = 0

    def begin(self, targets: Sequence[Target], cost: Cost, audience: Audience, *, repeats: bool = True) -> Failover:
        """The attempts of one call at these targets. Without ``repeats`` a target is neither repeated after a fault of
        its own nor waited for after a 429."""
        return Failover(self, targets, cost, audience, self.most if repeats else 0)

    def best(self, targets: Sequence[Target]) -> Target:
        """The target that is asked first in the present state of the pools."""
        return first_ready(targets, self.pools) if len(targets) > 1 else targets[0]

    def elsewhere(self, targets: Sequence[Target], upstream: str) -> bool:
        """True if an upstream other than ``upstream`` is ready for one of the targets."""
        names = {target.upstream.name for target in targets} - {upstream}
        return any(self.pools[name].ready for name in names)

    def broken(self, upstream: str) -> bool:
        """True if the upstream's breaker is open."""
        return self.pools[upstream].breaker.open

    @property
    def may_repeat(self) -> bool:
        """True if the budget allows one more repeat."""
        return self.repeats < max(RETRIES_ALWAYS, RETRY_SHARE * (self.under_way + 1))


class Failover:
    """The attempts of one call: an iterator, and for each step a context that classifies the outcome.

        for attempt in failover:
            with attempt:
                reply = await client.send(part, attempt, record)

    An attempt names its ``target`` and ``cost``; the sender of the request takes the ``lease``. After an UpstreamError
    the next target is chosen, or the error of ``_error`` is raised if there is none; any other exception passes
    through.

    ``repeats``: the attempt repeats a target after a fault of its own. ``covered``: the target whose request the call's
    hold pays for and that was not asked yet; at first the first target of the call. ``last``: no attempt follows,
    because this one went into a batch, which has attempts of its own, or was given up. ``key_queue`` is set for the
    parts of a large call, which wait for their keys one at a time. ``most`` is that of ``Retries``, 0 for no repeats.
    """

    __slots__ = (
        *("_again", "_asked_again", "_done", "_faults", "_last", "_left", "_most", "_retries", "_tried"),
        *("audience", "cost", "covered", "failures", "last", "lease", "key_queue", "repeats", "target", "targets"),
    )

    def __init__(self, retries: Retries, targets: Sequence[Target], cost: Cost, audience: Audience, most: int) -> None:
        self.targets = targets
        self.target = targets[0]  # replaced by the first step
        self.cost = cost
        self.audience = audience
        self.repeats = self.last = False
        self.key_queue: asyncio.Lock | None = None
        self.lease: Lease | None = None
        self.covered: Target | None = None
        self.failures: list[UpstreamError] = []
        self._retries = retries
        self._most = most
        self._left = targets
        self._again: list[tuple[Target, bool]] = []  # target, and whether asking it is a repeat
        self._asked_again: list[Target] = []
        self._tried: dict[str, set[str]] = {}
        self._faults = 0
        self._last: Target | None = None
        self._done = False

    def start(self, target: Target, lease: Lease | None = None) -> Failover:
        """Makes ``target`` the first one to be asked, with ``lease`` if a key is leased already."""
        self._last, self.lease = target, lease
        self._leave(target)
        return self

    def parted(self, costs: Sequence[Cost]) -> list[Failover]:
        """One Failover for each part of the call, with these costs; the first of them is this object."""
        self.cost = costs[0]
        if len(costs) == 1:
            return [self]
        parts = [Failover(self._retries, self.targets, cost, self.audience, self._most) for cost in costs[1:]]
        key_queue = asyncio.Lock()
        for part in parts:
            part.key_queue = key_queue
            part.covered = self._last  # a later part may begin at another target
        return [self, *parts]

    def __iter__(self) -> Failover:
        self.target = self._last or self._take()
        self.covered = self.covered or self.target
        return self

    def __next__(self) -> Failover:
        if self._done:
            raise StopIteration
        return self

    def __enter__(self) -> None:
        self._retries.under_way += 1
        self._retries.repeats += self.repeats

    def __exit__(self, kind: type[BaseException] | None, failure: BaseException | None, _: object) -> bool:
        self._retries.under_way -= 1
        self._retries.repeats -= self.repeats
        if isinstance(failure, UpstreamError) and not self.last and self._goes_on(failure):
            if (target := self._next()) is not None:
                self.target = target
                return True
            if (last := self._error()) is not failure:
                self.failures.clear()
                try:
                    raise last
                finally:
                    del last, failure  # each would know the frame that holds it
        self._done = True
        self.failures.clear()  # their tracebacks refer to the frame that holds this object: a cycle
        return False

    @property
    def pool(self) -> Pool:
        """The keys of the target's upstream."""
        return self._retries.pools[self.target.upstream.name]

    @property
    def tried(self) -> AbstractSet[str]:
        """The aliases of the upstream's keys that have failed in this call, by failures of the key, or for which the
        upstream has failed while it has another; all but one if the target is pinned to that."""
        if self.target.pinned:
            return {state.key.alias for state in self.pool.states} - {self.target.key.alias}
        return self._tried.get(self.target.upstream.name, NONE)

    @property
    def further(self) -> bool:
        """True if the request to the target is not covered by the call's hold yet."""
        return self.covered is not self.target

    def given_up(self) -> UpstreamError:
        """The error for a call that must not make this further attempt; no other follows. The reason is the caller's
        own."""
        self.last = True
        error = self._error()
        error.own = True
        return error

    def take(self) -> Lease | None:
        """The lease of a key if one is leased or free now, else None."""
        if self.lease is None:
            self.lease = self.pool.at_once(self.cost, self.tried)
        return self.lease

    def can_go_elsewhere(self) -> bool:
        """True if a target that was not asked yet is ready."""
        return any(self._retries.pools[target.upstream.name].ready for target in self._left)

    def _goes_on(self, failure: UpstreamError) -> bool:
        """False if another attempt is useless: the request is wrong, or must not be sent again, or a DeepSearch run may
        have begun."""
        target = self.target
        failure.upstream, failure.target = target.upstream.name, target
        if target.model.deepsearch and not isinstance(failure, UpstreamRateLimited):
            failure.should_retry = False
        if not failure.elsewhere or (failure.accepted and target.model.deepsearch):
            return False
        if self.cost.once and failure.asked and not isinstance(failure, UpstreamUnreachable):
            failure.should_retry = False if failure.accepted else failure.should_retry
            return False
        self.failures.append(failure)
        pool, of_the_key = self.pool, _is_of_the_key(failure)
        key, self.lease = self.lease.key if self.lease else None, None
        self._faults += failure.asked and not of_the_key
        self.repeats = False
        self._last = None
        if key and of_the_key:
            self._tried.setdefault(pool.name, set()).add(key.alias)
        if key and of_the_key and not target.pinned and pool.others(self.tried):
            self._ask_another_key(target, pool, failure, key)
        elif key and self._may_be_of_the_key(target, pool, failure, key):
            self._again.append((target, False))
        elif not self._was_asked_again(target):
            self._ask_again(target, pool, failure)
        return True

    def _next(self) -> Target | None:
        """The target to ask after a failure; None to give up."""
        if self.audience.deserted:
            return None
        if self._last is not None:
            return self._last
        if self._left:
            return self._take()
        for target, repeats in self._again:
            if not repeats or (self._retries.may_repeat and self._faults < self._most):
                self._again.remove((target, repeats))
                self._asked_again.append(target)
                self.repeats = repeats
                return target
        return None

    def _error(self) -> UpstreamError:
        """The error for the caller: the 429 with the shortest wait if there is one, else the last failure."""
        waits = [failure for failure in self.failures if isinstance(failure, UpstreamRateLimited)]
        error = min(waits, key=lambda failure: failure.retry_after or MINUTE) if waits else self.failures[-1]
        error.repeated = self._faults > 1
        return error

    def _take(self) -> Target:
        target = first_ready(self._left, self._retries.pools)
        self._leave(target)
        return target

    def _leave(self, target: Target) -> None:
        if self._left[0] is target:
            self._left = self._left[1:]
        else:
            self._left = [other for other in self._left if other is not target]

    def _ask_another_key(self, target: Target, pool: Pool, failure: UpstreamError, key: Key) -> None:
        """Asks another key of the upstream: next if one is free or no other target is ready, else after the ready
        targets. After a 429 the limited ``key`` may be asked once more too, if its cooldown has ended by then."""
        if pool.others(self.tried, self.cost):
            self._last = target
            return
        if isinstance(failure, UpstreamRateLimited) and not self._was_asked_again(target):
            self._asked_again.append(target)
            self._tried[pool.name].discard(key.alias)
        if self.can_go_elsewhere():
            self._again.append((target, False))
        else:
            self._last = target

    def _may_be_of_the_key(self, target: Target, pool: Pool, failure: UpstreamError, key: Key) -> bool:
        """True if the upstream's fault may be one for this key alone: there is a key for which it works, as far as
        anybody knows. That key is no repeat, and needs no budget: if the upstream fails for all keys, none is left to
        be asked after a few calls."""
        if not self._repeats(failure) or not isinstance(failure, UpstreamFailed) or target.pinned:
            return False
        tried, now = self._tried.setdefault(pool.name, set()), time.monotonic()
        others = [state for state in pool.states if state.key.alias not in tried and state.key != key]
        if self._faults >= self._most or not any(state.sound(now, self.cost) for state in others):
            return False
        tried.add(key.alias)
        return True

    def _repeats(self, failure: UpstreamError) -> bool:
        """True if the same request may be sent again after this fault of the upstream."""
        return failure.repeatable and not (self.cost.slow and failure.accepted)

    def _was_asked_again(self, target: Target) -> bool:
        return any(target is other for other in self._asked_again)

    def _ask_again(self, target: Target, pool: Pool, failure: UpstreamError) -> None:
        if isinstance(failure, UpstreamRateLimited):
            seconds = failure.retry_after
            in_time = pool.can_wait(self.cost, seconds or 0.0)
            in_time = in_time or (self.key_queue is not None and (seconds or 0.0) <= KEPT)
            if seconds is not None and in_time and self._most:
                self._again.append((target, False))
        elif not _is_of_the_key(failure) and self._repeats(failure):
            self._again.append((target, True))


def first_ready(targets: Sequence[Target], pools: Mapping[str, Pool]) -> Target:
    """The first target that can be asked now; the first of all if there is none."""
    if len(targets) > 1:
        for target in targets:
            if pools[target.upstream.name].ready:
                return target
    return targets[0]


def _is_of_the_key(failure: UpstreamError) -> bool:
    return isinstance(failure, UpstreamRateLimited | UpstreamAuth | UpstreamQuota)
