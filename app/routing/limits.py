"""Limits of a key at its provider within a minute, and a call's share of them. Monotonic time."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from itertools import takewhile

import msgspec

from ..core.types import Value

MINUTE = 60.0
# A provider counts a call when it comes there, which may be this much later than when it was let go; so for this much
# longer it is counted here, lest the next one come too early.
ON_THE_WAY = 0.5
KEPT = MINUTE + ON_THE_WAY
BURST = 6.0  # seconds that tell of one: twice the limit's rate for so long
GRAIN = 0.1  # seconds that are counted as one moment, the last of them, so that a minute has few


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The limits of a key. None is no limit. ``weight`` is its share of the load among the others."""

    requests: int | None = None
    tokens: int | None = None
    deepsearch: int | None = None
    concurrency: int | None = None
    weight: float = 1.0


class Cost(Value, frozen=True):
    """The cost of a call: one request, about ``tokens``, and whether it is a DeepSearch run.

    ``since`` is when the call came, by the monotonic clock; its queue timeout counts from then. ``batch``: it may go
    together with others, and so may be held back for them.
    """

    tokens: int = 0
    deepsearch: bool = False
    since: float = msgspec.field(default_factory=time.monotonic)
    batch: bool = False

    def parted(self, parts: int, missing: int, inputs: int, *, batch: bool) -> list[Cost]:
        """The cost of each part of a call that asks for ``missing`` of its ``inputs``: the first has all their tokens.

        Only a call without parts may go together with others, if ``batch`` allows it.
        """
        first = Cost(self.tokens * missing // inputs, self.deepsearch, self.since, batch=batch and parts == 1)
        return [first, *[Cost(0, self.deepsearch, self.since)] * (parts - 1)]

    @property
    def kind(self) -> tuple[bool, bool]:
        """The kind of calls with which it waits for a minute to pass."""
        return self.deepsearch, self.batch

    def amount(self, window: str) -> int:
        if window == "tokens":
            return 0 if self.deepsearch else self.tokens
        return int(self.deepsearch) if window == "deepsearch" else 1


@dataclass(slots=True)
class Moment:
    began: float
    last: float
    amount: int


class SlidingWindow:
    """At most ``limit`` within any minute of the provider's; more at once only where the window is empty."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._spent: deque[Moment] = deque()
        self._sum = 0
        self._binds = False

    def used(self, now: float) -> int:
        """The part of the limit that the last minute has taken."""
        while self._spent and self._spent[0].last <= now - KEPT:
            self._sum -= self._spent.popleft().amount
        return self._sum

    def wait(self, now: float, amount: int) -> float:
        """Seconds until ``amount`` fits; 0 where it does now. What takes nothing always fits."""
        over = self.used(now) + amount - self.limit
        if over <= 0 or not amount or not self._spent:
            return 0.0
        for moment in self._spent:
            over -= moment.amount
            if over <= 0:
                break
        return max(moment.last + KEPT - now, 0.001)  # never 0 by rounding: that would be a yes

    def pace(self, now: float) -> float:
        """Seconds until the next one goes, so that what is left lasts until half of the limit is free again; 0 while
        it is. It begins when a minute at the rate until then would go beyond the limit, or a burst far beyond it."""
        over = self.used(now) + 1 - self.limit // 2
        left = self.limit - self._sum
        if over <= 0 or left <= 0 or not self._spent:
            self._binds = self._binds and over > 0
            return 0.0
        self._binds = self._binds or self._presses(now)
        if not self._binds:
            return 0.0
        for moment in self._spent:
            over -= moment.amount
            if over <= 0:
                break
        last = self._spent[-1].last
        return max(0.0, last + (moment.last + KEPT - last) / left - now)

    def _presses(self, now: float) -> bool:
        if self._sum * MINUTE > self.limit * (now - self._spent[0].began):
            return True
        recent = takewhile(lambda moment: moment.last > now - BURST, reversed(self._spent))
        return sum(moment.amount for moment in recent) * MINUTE > 2 * self.limit * BURST

    def add(self, now: float, amount: int) -> None:
        self._sum += amount
        if self._spent and now - self._spent[-1].began < GRAIN:
            self._spent[-1].last = now
            self._spent[-1].amount += amount
        else:
            self._spent.append(Moment(now, now, amount))
