"""The way of one call through targets and keys: which is asked next, and when to give up.

    free       after a failure of the key (401, 402, 403, 429): each other key of the upstream, once; before the other
               targets if it is free now, else after them
    free       after any failure that is not the caller's: each other target, once
    a repeat   after an upstream's own fault (5xx, a timeout, a broken answer): that upstream again
    a wait     after a 429: that target again, if its time comes within the call's patience

A target whose keys all rest, or whose upstream keeps failing, is passed over as long as another one can be asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from ..core.errors import UpstreamAuth, UpstreamError, UpstreamQuota, UpstreamRateLimited
from ..core.types import Key, Target
from .lease import Lease
from .limits import KEPT, MINUTE, Need
from .pool import Pool

NONE: frozenset[str] = frozenset()


class Failover:
    """``repeats``: the target that is asked now is asked again after a fault of its own. ``lease`` is for the first
    target, if there is one already. In the ``line`` the parts of a large call, which have time, wait for their keys.
    ``failures`` are those so far; each knows the frame that holds this object."""

    __slots__ = (
        *("_again", "_asked_again", "_faults", "_last", "_left", "_most", "_pools", "_tried"),
        *("failures", "lease", "line", "need", "repeats", "targets"),
    )

    def __init__(self, targets: Sequence[Target], pools: Mapping[str, Pool], need: Need, most: int) -> None:
        self.targets = targets
        self.need = need
        self.repeats = False
        self.line: asyncio.Lock | None = None
        self.lease: Lease | None = None
        self._pools = pools
        self._most = most
        self._left = targets
        self._again: list[tuple[Target, bool]] = []  # and whether that is a repeat
        self._asked_again: list[Target] = []
        self._tried: dict[str, set[str]] = {}
        self.failures: list[UpstreamError] = []
        self._faults = 0
        self._last: Target | None = None

    def parted(self, needs: Sequence[Need]) -> list[Failover]:
        """One for each part of the call, whose needs these are; it serves as the first of them itself."""
        self.need = needs[0]
        if len(needs) == 1:
            return [self]
        return [self, *(Failover(self.targets, self._pools, need, self._most) for need in needs[1:])]

    def first(self) -> Target:
        """The target to begin with."""
        return self._last or self._take()

    def start(self, target: Target, lease: Lease | None = None) -> None:
        """Begins at ``target``."""
        self._last, self.lease = target, lease
        self._leave(target)

    def next(self, *, budget: bool) -> Target:
        """The target to ask after a failure. ``budget``: it may be a repeat. Raises UpstreamError to give up."""
        if self._last is not None:
            return self._last
        if self._left:
            return self._take()
        for target, repeats in self._again:
            if not repeats or (budget and self._faults < self._most):
                self._again.remove((target, repeats))
                self._asked_again.append(target)
                self.repeats = repeats
                return target
        raise self.error()

    def tried(self, target: Target) -> AbstractSet[str]:
        """The aliases of the upstream's keys that have failed; a fault of the upstream is none of the key's."""
        return self._tried.get(target.upstream.name, NONE)

    def can_go_elsewhere(self) -> bool:
        return any(self._pools[target.upstream.name].ready for target in self._left)

    def failed(self, target: Target, failure: UpstreamError, key: Key | None) -> None:
        """``key`` is the one that was used, None if there was none to use. Raises the failure if it is no use to go on:
        the request is wrong, or a DeepSearch run may have begun."""
        if not failure.elsewhere or (failure.accepted and target.model.deepsearch):
            raise failure
        self.failures.append(failure)
        pool, of_the_key = self._pools[target.upstream.name], _is_of_the_key(failure)
        self._faults += failure.asked and not of_the_key
        self.repeats = False
        self._last = None
        if key and of_the_key:
            self._tried.setdefault(pool.name, set()).add(key.alias)
        if key and of_the_key and pool.others(self.tried(target)):
            self._ask_another_key(target, pool, failure, key)
        elif not self._was_asked_again(target):
            self._ask_again(target, pool, failure)

    def error(self) -> UpstreamError:
        """The last failure, unless an earlier one says when to come back."""
        waits = [failure for failure in self.failures if isinstance(failure, UpstreamRateLimited)]
        error = min(waits, key=lambda failure: failure.retry_after or MINUTE) if waits else self.failures[-1]
        error.repeated = self._faults > 1
        return error

    def _take(self) -> Target:
        target = first_ready(self._left, self._pools)
        self._leave(target)
        return target

    def _leave(self, target: Target) -> None:
        if self._left[0] is target:
            self._left = self._left[1:]
        else:
            self._left = [other for other in self._left if other is not target]

    def _ask_another_key(self, target: Target, pool: Pool, failure: UpstreamError, key: Key) -> None:
        """Now, if one is free; else after the targets that are ready, with the limited ``key`` too if its time has come
        by then."""
        if pool.others(self.tried(target), self.need):
            self._last = target
            return
        if isinstance(failure, UpstreamRateLimited) and not self._was_asked_again(target):
            self._asked_again.append(target)
            self._tried[pool.name].discard(key.alias)
        if self.can_go_elsewhere():
            self._again.append((target, False))
        else:
            self._last = target

    def _was_asked_again(self, target: Target) -> bool:
        return any(target is other for other in self._asked_again)

    def _ask_again(self, target: Target, pool: Pool, failure: UpstreamError) -> None:
        if isinstance(failure, UpstreamRateLimited):
            seconds = failure.retry_after
            patient = pool.patient(self.need, seconds or 0.0) or (self.line is not None and (seconds or 0.0) <= KEPT)
            if seconds is not None and patient and self._most:
                self._again.append((target, False))
        elif not _is_of_the_key(failure) and failure.repeatable:
            self._again.append((target, True))


def first_ready(targets: Sequence[Target], pools: Mapping[str, Pool]) -> Target:
    """The first target that can be asked now, else the first."""
    if len(targets) > 1:
        for target in targets:
            if pools[target.upstream.name].ready:
                return target
    return targets[0]


def _is_of_the_key(failure: UpstreamError) -> bool:
    return isinstance(failure, UpstreamRateLimited | UpstreamAuth | UpstreamQuota)
