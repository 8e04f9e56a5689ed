"""The keys of an upstream: which of them takes the next call, when, and which of them rest.

    lease -> the least loaded of the keys that neither rest nor are at a limit
          -> else, within the caller's patience, the first that becomes free
          -> else UpstreamRateLimited, with the time to come back

A key that was refused rests: until the time that a 429 states, long where the key or its account is
refused. The last key is never locked out: where all rest, the one that rests the shortest is tried.
Times are of the monotonic clock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from .errors import UpstreamAuth, UpstreamError, UpstreamQuota, UpstreamRateLimited
from .types import Key, Route

logger = logging.getLogger("torii.pool")

MINUTE = 60.0
REST_SECONDS = 600.0  # of a key that was refused, or whose account is empty
LIMITED_SECONDS = 5.0  # of a key that met a 429 which does not say until when
BREAK_AFTER = 5  # failures in a row
BREAK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Quota:
    """What a key may do. None is no limit. ``weight`` is its share of the load among the others."""

    requests: int | None = None
    tokens: int | None = None
    deepsearch: int | None = None
    concurrency: int | None = None
    weight: float = 1.0


class Window:
    """At most ``limit`` within any minute; more than the limit at once only where the window is empty."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._spent: deque[tuple[float, int]] = deque()
        self._sum = 0

    def wait(self, now: float, amount: int) -> float:
        """Seconds until ``amount`` fits."""
        while self._spent and self._spent[0][0] <= now - MINUTE:
            self._sum -= self._spent.popleft()[1]
        over = self._sum + amount - self.limit
        for when, spent in self._spent:
            if over <= 0:
                break
            over -= spent
            if over <= 0 or when == self._spent[-1][0]:
                return max(when + MINUTE - now, 0.001)  # never 0 by rounding: that would be a yes
        return 0.0

    def add(self, now: float, amount: int) -> None:
        self._spent.append((now, amount))
        self._sum += amount


@dataclass(slots=True)
class Seat:
    """A key at work."""

    key: Key
    quota: Quota
    at_work: int = 0
    rests_until: float = 0.0
    cause: str = ""
    windows: dict[str, Window] = field(init=False)

    def __post_init__(self) -> None:
        limits = {"requests": self.quota.requests, "tokens": self.quota.tokens, "deepsearch": self.quota.deepsearch}
        self.windows = {name: Window(limit) for name, limit in limits.items() if limit is not None}

    def becomes(self, new: Seat) -> Seat:
        """The same key with the name and the limits of ``new``; its rest, its calls and what it has spent stay."""
        for name, window in new.windows.items():
            if name in self.windows:
                self.windows[name].limit = window.limit
                new.windows[name] = self.windows[name]
        self.key, self.quota, self.windows = new.key, new.quota, new.windows
        return self

    @property
    def load(self) -> float:
        return (self.at_work + 1) / self.quota.weight

    def rests(self, now: float) -> bool:
        return now < self.rests_until

    def wait(self, now: float, need: Need) -> float | None:
        """Seconds until the limits allow it; None where another call has to end first."""
        if self.quota.concurrency is not None and self.at_work >= self.quota.concurrency:
            return None
        return max((window.wait(now, need.amount(name)) for name, window in self.windows.items()), default=0.0)

    def take(self, now: float, need: Need) -> None:
        self.at_work += 1
        for name, window in self.windows.items():
            if amount := need.amount(name):
                window.add(now, amount)


@dataclass(frozen=True, slots=True)
class Need:
    """What a call will use: one request, about ``tokens``, and whether it is a DeepSearch run."""

    tokens: int = 0
    deepsearch: bool = False

    @classmethod
    def of(cls, body: bytes, route: Route) -> Need:
        """An estimate, by the four characters that a token has on average."""
        return cls(len(body) // 4, route.model.deepsearch)

    def amount(self, window: str) -> int:
        if window == "tokens":
            return 0 if self.deepsearch else self.tokens
        return int(self.deepsearch) if window == "deepsearch" else 1


class Lease:
    """A key for one call. ``keep`` leaves the release to somebody else; releasing twice is nothing."""

    def __init__(self, pool: Pool, seat: Seat) -> None:
        self._pool = pool
        self._seat: Seat | None = seat
        self.key = seat.key
        self.kept = False

    def keep(self) -> None:
        self.kept = True

    def release(self) -> None:
        if self._seat is not None:
            self._pool.leave(self._seat)
            self._seat = None


class Pool:
    """``patience`` is how many seconds a call may wait for a key; clients such as Haystack's give up after five."""

    def __init__(self, name: str, keys: Collection[tuple[Key, Quota]], *, patience: float = 4.0) -> None:
        self.name = name
        self.seats = [Seat(key, quota) for key, quota in keys]
        self._patience = patience
        self._freed = asyncio.Event()
        self._line = asyncio.Lock()
        self._failures = 0
        self._broken_until = 0.0

    async def lease(self, need: Need, tried: Collection[str] = ()) -> Lease:
        """A key that is not of the ``tried``. Raises UpstreamRateLimited where none is free in time."""
        seat = None if self._line.locked() else self._free(need, tried)[0]
        if seat is None:
            seat = await self._wait(need, tried)
        seat.take(time.monotonic(), need)
        return Lease(self, seat)

    def take_over(self, before: Pool) -> None:
        """Goes on with those of its keys that ``before`` has too, whose open calls still count against their limits."""
        known = {seat.key.secret: seat for seat in before.seats}
        self.seats = [old.becomes(new) if (old := known.pop(new.key.secret, None)) else new for new in self.seats]
        self._freed = before._freed
        self._failures, self._broken_until = before._failures, before._broken_until

    def others(self, tried: Collection[str]) -> bool:
        """Whether there is a key that neither rests nor was tried."""
        now = time.monotonic()
        return any(not seat.rests(now) and seat.key.alias not in tried for seat in self.seats)

    def leave(self, seat: Seat) -> None:
        seat.at_work -= 1
        self._freed.set()

    @property
    def broken(self) -> bool:
        """Whether so many calls failed in a row that others are asked first for a while."""
        return time.monotonic() < self._broken_until

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, key: Key, failure: UpstreamError) -> None:
        """Lets the key rest, or counts against the upstream, whichever the failure is about."""
        if isinstance(failure, UpstreamRateLimited):
            wait = LIMITED_SECONDS if failure.retry_after is None else failure.retry_after
            self._rest(key, wait, "rate limited")
        elif isinstance(failure, UpstreamAuth | UpstreamQuota):
            refused = isinstance(failure, UpstreamAuth)
            self._rest(key, REST_SECONDS, "refused" if refused else "account empty")
            logger.error("%s: key %s was %s", self.name, key.alias, "refused" if refused else "out of balance")
        elif failure.elsewhere:
            self._failures += 1
            if self._failures >= BREAK_AFTER:
                self._failures = 0
                self._broken_until = time.monotonic() + BREAK_SECONDS
                logger.warning("%s: %d calls failed in a row; others are asked first", self.name, BREAK_AFTER)

    def _rest(self, key: Key, seconds: float, cause: str) -> None:
        for seat in self.seats:
            if seat.key.secret == key.secret:
                seat.rests_until = max(seat.rests_until, time.monotonic() + seconds)
                seat.cause = cause

    def _free(self, need: Need, tried: Collection[str]) -> tuple[Seat | None, float]:
        """The best key that is free now, or None and the seconds until one may be."""
        now = time.monotonic()
        fresh = [seat for seat in self.seats if seat.key.alias not in tried] or self.seats
        awake = [seat for seat in fresh if not seat.rests(now)] or [min(fresh, key=lambda seat: seat.rests_until)]
        waits = [(seat, wait) for seat in awake if (wait := seat.wait(now, need)) is not None]
        ready = [seat for seat, wait in waits if wait <= 0]
        if ready:
            return min(ready, key=lambda seat: seat.load), 0.0
        return None, min((wait for _, wait in waits), default=MINUTE)

    async def _wait(self, need: Need, tried: Collection[str]) -> Seat:
        """Callers stand in line, so that nobody is overtaken."""
        seconds = 0.0
        try:
            async with asyncio.timeout(self._patience), self._line:
                while True:
                    self._freed.clear()
                    seat, seconds = self._free(need, tried)
                    if seat is not None:
                        return seat
                    if seconds > self._patience and seconds < MINUTE:
                        break
                    try:
                        await asyncio.wait_for(self._freed.wait(), seconds)
                    except TimeoutError:
                        continue
        except TimeoutError:
            pass
        raise UpstreamRateLimited(
            f"every key of {self.name} is at the limit that this gateway keeps for it", retry_after=max(1.0, seconds)
        )
