"""The keys of an upstream: which key takes the next call, when, and which keys are in cooldown.

    lease -> the least loaded key that is neither in cooldown nor at a limit
          -> else, within the call's queue timeout, the first key that becomes free
          -> else UpstreamRateLimited, with the time to come back

A 429 puts a key into cooldown until the time that it states. A refused key, or one of an empty account, is shut: in
cooldown until a probe succeeds, or until the end of the cooldown if there is no probe. Then one call at a time tries
the key. If all keys are shut, one call at a time tries one of them before that, and the others wait for its outcome. A
limited key is never used before its time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable

from ..core.errors import (
    ToriiError,
    UpstreamAuth,
    UpstreamError,
    UpstreamMisplaced,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamRejected,
)
from ..core.types import Json, Key
from .breaker import Breaker
from .key_state import SHUT, Cause, Cooldown, KeyState, fingerprint, refused
from .lease import KeyWaiter, Lease, Succession, granted
from .limits import Cost, RateLimits

logger = logging.getLogger("torii.pool")

COOLDOWN_SECONDS = 600.0  # of a shut key, and at most of one that was saved before the start
LIMITED_SECONDS = 5.0  # of a key after a 429 that states no time
PROBE_FIRST_SECONDS = 60.0  # before an empty account is probed; doubled each time, up to COOLDOWN_SECONDS
PROBE_SECONDS = 30.0  # of a probe, at most
BATCH_DELAY = 0.5  # share of the queue timeout for which a call may be held back to be batched with others

# Raises ToriiError if the upstream does not accept the key.
Probe = Callable[[Key], Awaitable[None]]


class Pool:
    """The keys of one upstream. ``queue_timeout``: seconds from a call's arrival for which it may wait for a key;
    clients such as Haystack's give up after five. ``batching`` counts the calls that wait to be batched, for which one
    entry is in the queue. ``remember`` is called with each cooldown that begins, changes or ends."""

    def __init__(
        self,
        name: str,
        keys: Iterable[tuple[Key, RateLimits]],
        *,
        queue_timeout: float = 4.0,
        probe: Probe | None = None,
        remember: Callable[[Cooldown], None] | None = None,
    ) -> None:
        self.name = name
        self.states = [KeyState(key, limits) for key, limits in keys]
        self.breaker = Breaker(name)
        self.batching = 0
        self._queue_timeout = queue_timeout
        self._probe = probe
        self._remember = remember
        self._virtual_time = 0.0
        self._queue: dict[KeyWaiter, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._succession: Succession[Pool] = Succession(self)

    # ------------------------------------------------------------ a key for a call

    async def lease(
        self, cost: Cost, tried: Collection[str] = (), elsewhere: Callable[[], bool] = lambda: False
    ) -> Lease:
        """Leases a key that is not in ``tried``, unless all are. ``elsewhere``: the call can go to another upstream
        now.

        Raises UpstreamError if no key is free in time, or if none is ready and the call can go elsewhere; no request
        was sent then.
        """
        return self.at_once(cost, tried) or await self._wait(cost, tried, elsewhere)

    def at_once(self, cost: Cost, tried: Collection[str] = ()) -> Lease | None:
        """The lease of a key if one is free now and no call is queued, else None."""
        if self._queue:
            return None
        now = time.monotonic()
        state = self._free(now, cost, tried)[0]
        return None if state is None else self._take(now, state, cost)

    @property
    def ready(self) -> bool:
        """True if the upstream is asked before others: its breaker does not put it last, and a key is usable."""
        if self.breaker.open and self.breaker.last:
            return False
        return not self.states[0].cause or any(state.usable(time.monotonic()) for state in self.states)

    def refusal(self, state: KeyState | None = None, seconds: float = 1.0) -> UpstreamError:
        """The error if ``state``, or any key by default, cannot be used now; ``asked`` is False, as no request was
        sent."""
        failure = refused([state] if state else self.states, self.name, self.breaker.last, max(1.0, seconds))
        failure.asked = False
        failure.upstream = self.name
        return failure

    def until(self, cost: Cost) -> float:
        """The end of the call's queue timeout, by the monotonic clock."""
        return cost.since + self._queue_timeout

    def others(self, tried: Collection[str], cost: Cost | None = None) -> bool:
        """True if a key that is not in ``tried`` is usable; with a ``cost``, also if its limits allow that now."""
        now = time.monotonic()
        states = [state for state in self.states if state.usable(now) and state.key.alias not in tried]
        return any(cost is None or state.room(now, cost) == 0 for state in states)

    def can_wait(self, cost: Cost, seconds: float) -> bool:
        """True if the queue timeout allows the call to wait ``seconds`` from now."""
        return time.monotonic() + seconds <= self.until(cost)

    @property
    def waiting(self) -> int:
        """The number of calls that wait for a key, alone or to be batched."""
        return self.batching + sum(not waiter.cost.batch for waiter in self._queue)

    def leave(self, lease: Lease) -> None:
        lease.state.leave()
        if lease.state.trial is lease:
            lease.state.trial = None  # the next call tries the key
        if self._succession.queued:
            self._changed()

    def take_over(self, before: Pool) -> None:
        """Keeps the states of the keys that ``before`` has too: its open calls still count against their limits."""
        for state in before.states:
            if state.probing is not None:
                state.probing.cancel()
                state.probing = None
        known = {state.key.secret: state for state in before.states}
        self.states = [old.reconfigure(new) if (old := known.pop(new.key.secret, None)) else new for new in self.states]
        self.breaker, self._virtual_time = before.breaker, before._virtual_time
        self._succession = before._succession
        self._succession.current = self

    def _take(self, now: float, state: KeyState, cost: Cost) -> Lease:
        self.breaker.called(now)
        self._virtual_time = state.virtual_time = max(self._virtual_time, state.virtual_time)
        state.take(now, cost)
        lease = Lease(self, state, now, cost.api)
        if state.cause:
            state.trial = lease
        return lease

    def _free(self, now: float, cost: Cost, tried: Collection[str]) -> tuple[KeyState | None, float | None]:
        """``(key, None)`` if a key is free, ``(None, seconds)`` until one is, ``(None, None)`` if only the end of a
        call can free one."""
        states = (
            [state for state in self.states if state.key.alias not in tried] or self.states if tried else self.states
        )
        delay_until = cost.since + self._queue_timeout * BATCH_DELAY if cost.batch else 0.0
        best: KeyState | None = None
        for state in states:
            better = (not state.cause or state.usable(now)) and (best is None or state.load < best.load)
            # If the call may be batched, ``room`` is called for every key with limits: it also detects bursts.
            if (better or (delay_until and state.windows)) and state.room(now, cost, delay_until) == 0 and better:
                best = state
        return (best, None) if best is not None else self._soonest(now, cost, states, delay_until)

    def _soonest(
        self, now: float, cost: Cost, states: list[KeyState], delay_until: float
    ) -> tuple[KeyState | None, float | None]:
        """As ``_free``, if none of these keys is free now."""
        candidates = [state for state in states if not (state.shut and state.in_cooldown(now))]
        if not candidates:
            return self._last(now, cost, states)
        waits = [state.wait(now, cost, delay_until) for state in candidates]
        soon = min((wait for wait in waits if wait is not None), default=None)
        if None in waits and (soon is None or now + soon > self.until(cost)):
            return None, None
        return None, soon

    def _last(self, now: float, cost: Cost, states: list[KeyState]) -> tuple[KeyState | None, float | None]:
        """As ``_free``, if all of these keys are shut: one call at a time tries the key whose cooldown ends first."""
        if any(state.trial for state in states):
            return None, None
        last = min(states, key=lambda state: state.cooldown_until)
        wait = last.room(now, cost)
        return (None if wait != 0 else last), wait

    # ------------------------------------------------------------ the queue

    async def _wait(self, cost: Cost, tried: Collection[str], elsewhere: Callable[[], bool]) -> Lease:
        """Waits in the queue, so that no later call for the same keys overtakes this one."""
        waiter = KeyWaiter(cost, tried, asyncio.get_running_loop().create_future(), elsewhere)
        self._queue[waiter] = None
        self._succession.queued[self] = None
        self._serve()
        lease = None
        try:
            async with asyncio.timeout(self.until(cost) - time.monotonic()):
                lease = await granted(waiter.granted)
        except TimeoutError:
            pass
        finally:
            del self._queue[waiter]
            if not self._queue:
                del self._succession.queued[self]
            if lease is None:
                self._serve()
        if lease is None:
            raise self.refusal(seconds=waiter.seconds)
        return lease

    def _serve(self) -> None:
        """Grants keys in the order of the queue. A call that waits for a rate limit blocks only calls of its kind; one
        that waits for another call to end blocks all; one that cannot use every key blocks none."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now, ready = time.monotonic(), self.ready
        soonest, blocked = math.inf, set[tuple[bool, bool, str]]()
        for waiter in self._queue:
            if not ready and not waiter.granted.done() and waiter.elsewhere():
                waiter.granted.set_result(None)
            if waiter.granted.done() or waiter.cost.kind in blocked:
                continue
            state, wait = self._free(now, waiter.cost, waiter.tried)
            if state is not None:
                waiter.granted.set_result(self._take(now, state, waiter.cost))
            elif wait is None:
                if not waiter.tried:
                    break
            else:
                waiter.seconds = wait
                if now + wait > self.until(waiter.cost):
                    waiter.granted.set_result(None)
                    continue
                soonest = min(soonest, wait)
                if not waiter.tried:
                    blocked.add(waiter.cost.kind)
        if soonest < math.inf:
            self._timer = asyncio.get_running_loop().call_later(soonest, self._serve)

    def _changed(self) -> None:
        """Serves all calls that wait for these keys, also in the pools before and after a reload."""
        for pool in self._succession.queued:
            pool._serve()

    # ------------------------------------------------------------ the outcome of a call

    def succeeded(self, lease: Lease) -> None:
        self.breaker.succeeded()
        if lease.state.cause and lease.taken >= lease.state.since:
            self._end_cooldown(lease.state)

    def failed(self, lease: Lease, failure: UpstreamError) -> None:
        """Puts the key into cooldown, or counts the failure against the upstream, whichever is at fault."""
        if not failure.asked:
            return
        if (isinstance(failure, UpstreamRejected) and not failure.at_fault) or not failure.repeatable:
            self.breaker.succeeded()
            if lease.state.cause == "rate limited" and lease.taken >= lease.state.since:
                self._end_cooldown(lease.state)
            return
        lease.state.failures += 1
        if isinstance(failure, UpstreamRateLimited):
            self._limit(lease, LIMITED_SECONDS if failure.retry_after is None else failure.retry_after)
        elif isinstance(failure, UpstreamAuth | UpstreamQuota):
            self._shut(lease.state, failure)
        elif failure.elsewhere or failure.at_fault:
            self.breaker.failed()
            if self.breaker.last:
                self._changed()

    # ------------------------------------------------------------ cooldowns

    def _limit(self, lease: Lease, seconds: float) -> None:
        state, now = lease.state, time.monotonic()
        if lease.api:  # the key's other calls go on
            state.rests[lease.api] = now + seconds
        elif not state.shut and now + seconds > state.cooldown_until:
            self._cool_down(state, "rate limited", now, seconds)

    def _shut(self, state: KeyState, failure: UpstreamError) -> None:
        """Shuts the key. An error is logged only if the cause is new, not each time that the key fails again."""
        cause: Cause = "refused" if isinstance(failure, UpstreamAuth) else "account empty"
        now = time.monotonic()
        if state.cause != cause:
            logger.error("%s: key %s is in cooldown: %s", self.name, state.key.alias, cause)
            self._cool_down(state, cause, now, COOLDOWN_SECONDS)
            self._watch(state)
        elif state.probing is None and not state.in_cooldown(now):
            state.cooldown_until = now + COOLDOWN_SECONDS  # the trial call has failed
            self._remember_cooldown(state)
        # If all keys are shut, the failure of the trial call is the outcome of all that wait for it.
        for pool in self._succession.queued:
            if state in pool.states and all(other.shut for other in pool.states):
                pool._refuse()

    def _refuse(self) -> None:
        for waiter in self._queue:
            if not waiter.granted.done():
                waiter.granted.set_result(None)

    def _cool_down(self, state: KeyState, cause: Cause, now: float, seconds: float) -> None:
        state.cause, state.since, state.cooldown_until = cause, now, now + seconds
        self._remember_cooldown(state)
        self._changed()

    def _end_cooldown(self, state: KeyState) -> None:
        if state.shut:
            logger.warning("%s: key %s works again", self.name, state.key.alias)
        state.cause, state.cooldown_until, state.trial = "", 0.0, None
        if state.probing is not None:
            state.probing.cancel()
        state.probing = None
        self._remember_cooldown(state)
        self._changed()

    def _remember_cooldown(self, state: KeyState) -> None:
        if self._remember is not None:
            until = time.time() + max(0.0, state.cooldown_until - time.monotonic())
            self._remember(Cooldown(self.name, fingerprint(self.name, state.key), state.key.alias, state.cause, until))

    def recall(self, cooldowns: Iterable[Cooldown]) -> None:
        """Restores cooldowns of an earlier run, for COOLDOWN_SECONDS at most, in case the wall clock was set back."""
        now, clock = time.monotonic(), time.time()
        known = {cooldown.fingerprint: cooldown for cooldown in cooldowns if cooldown.upstream == self.name}
        for state in self.states:
            cooldown = known.get(fingerprint(self.name, state.key))
            if cooldown is not None and cooldown.cause and (cooldown.until > clock or cooldown.cause in SHUT):
                state.cause, state.since = cooldown.cause, now
                state.cooldown_until = now + min(max(cooldown.until - clock, 0.0), COOLDOWN_SECONDS)
                logger.warning("%s: key %s is still in cooldown: %s", self.name, state.key.alias, state.cause)

    # ------------------------------------------------------------ probes

    def start(self) -> None:
        """Starts probing the keys that were shut before the start. Needs a running loop."""
        for state in self.states:
            if state.shut:
                self._watch(state)

    async def stop(self) -> None:
        """Ends all probes, unless a newer pool has taken them over."""
        self._probe = None
        tasks = [state.probing for state in self.states if state.probing and self._succession.current is self]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _watch(self, state: KeyState) -> None:
        pool = self._succession.current
        if pool._probe is not None and state.probing is None and state in pool.states:
            state.probing = asyncio.create_task(pool._probed(state, pool._probe))

    async def _probed(self, state: KeyState, probe: Probe) -> None:
        """Probes the key with growing gaps until it works. Its cooldown lasts until each probe is answered."""
        gap = PROBE_FIRST_SECONDS if state.cause == "account empty" else COOLDOWN_SECONDS
        works: bool | None = False
        while works is False:
            state.cooldown_until = time.monotonic() + gap + PROBE_SECONDS
            self._remember_cooldown(state)
            await asyncio.sleep(gap)
            works = await self._works(state, probe)
            gap = min(2 * gap, COOLDOWN_SECONDS)
        state.probing = None
        if works:
            self._end_cooldown(state)
        else:
            state.cooldown_until = 0.0  # the next call tries the key

    async def _works(self, state: KeyState, probe: Probe) -> bool | None:
        """True if the key works, False if it does not yet, None if the upstream rejects the probe itself as wrong."""
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await probe(state.key)
            return True
        except (UpstreamAuth, UpstreamQuota) as failure:
            self._shut(state, failure)
        except (UpstreamRejected, UpstreamMisplaced):
            return None
        except (ToriiError, TimeoutError):
            logger.info("%s: key %s did not answer a probe", self.name, state.key.alias)
        except Exception:
            logger.exception("%s: a probe failed", self.name)
        return False

    # ------------------------------------------------------------ for the operator

    def state(self) -> list[Json]:
        """The state of each key as JSON values, with the upstream's ``broken`` (breaker open) and ``waiting``
        (calls)."""
        now, clock = time.monotonic(), time.time()
        upstream = {"upstream": self.name, "broken": self.breaker.open, "waiting": self.waiting}
        return [{**upstream, **state.described(now, clock)} for state in self.states]
