"""Rate limits of a key at its provider, by sliding windows of a minute, and the cost of a call. Times are of the
monotonic clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile

import msgspec
from msgspec.structs import replace

from ..core.types import Value

MINUTE = 60.0
# Seconds that a request may take to its provider, which counts it on arrival. The request is counted for this much
# longer here, so that the next one does not arrive too early.
ON_THE_WAY = 0.5
KEPT = MINUTE + ON_THE_WAY
BURST = 6.0  # seconds; a burst is more than twice the limit's rate over this time
GRAIN = 0.1  # seconds whose spending is one Moment, so that a minute has few; it expires with its last spending


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The limits of a key, None for no limit. ``requests``, ``tokens`` and ``deepsearch`` (runs) are per minute,
    ``concurrency`` is calls at a time, ``weight`` is the key's share of the load. ``apis`` are the limits of APIs that
    have their own, per minute: requests under the API's name, tokens under ``NAME_tokens``."""

    requests: int | None = None
    tokens: int | None = None
    deepsearch: int | None = None
    concurrency: int | None = None
    weight: float = 1.0
    apis: Mapping[str, int] = field(default_factory=dict)


class Cost(Value, frozen=True):
    """The cost of a call: one request, an estimate of its ``tokens``, and whether it is a DeepSearch run.

    ``since`` is when the call came, by the monotonic clock; its queue timeout counts from then. ``batch``: the call may
    be batched, and so may be held back until others join it. ``api`` names the provider's API if it has limits of its
    own. ``once``: the call must not be sent again once it was sent; ``slow``: nor if the upstream may have begun it.
    """

    tokens: int = 0
    deepsearch: bool = False
    since: float = msgspec.field(default_factory=time.monotonic)
    batch: bool = False
    api: str = ""
    once: bool = False
    slow: bool = False

    def parted(self, parts: int, missing: int, inputs: int, *, batch: bool) -> list[Cost]:
        """The cost of each part of a call that asks for ``missing`` of its ``inputs``. The first part has all their
        tokens.

        Only a call of one part may be batched, if ``batch`` allows it.
        """
        first = replace(self, tokens=self.tokens * missing // inputs, batch=batch and parts == 1)
        return [first, *[replace(self, tokens=0, batch=False)] * (parts - 1)]

    @property
    def kind(self) -> tuple[bool, bool, str]:
        """The class of calls that wait for the same windows: ``(deepsearch, batch, api)``."""
        return self.deepsearch, self.batch, self.api

    def amount(self, window: str) -> int:
        if self.api:
            return int(window == self.api) or self.tokens * (window == f"{self.api}_tokens")
        if window == "tokens":
            return 0 if self.deepsearch else self.tokens
        return int(self.deepsearch) if window == "deepsearch" else int(window == "requests")


@dataclass(slots=True)
class Moment:
    """Spending within GRAIN seconds: its sum, and the times of its first and its last."""

    began: float
    last: float
    amount: int


class SlidingWindow:
    """At most ``limit`` within any minute at the provider. A larger amount passes only if the window is empty."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._spent: deque[Moment] = deque()
        self._sum = 0
        self._binds = False

    def used(self, now: float) -> int:
        """The amount spent in the last KEPT seconds."""
        while self._spent and self._spent[0].last <= now - KEPT:
            self._sum -= self._spent.popleft().amount
        return self._sum

    def wait(self, now: float, amount: int) -> float:
        """Seconds until ``amount`` fits; 0 if it fits now. An amount of 0 always fits."""
        over = self.used(now) + amount - self.limit
        if over <= 0 or not amount or not self._spent:
            return 0.0
        for moment in self._spent:
            over -= moment.amount
            if over <= 0:
                break
        return max(moment.last + KEPT - now, 0.001)  # never rounded to 0, which would mean that it fits

    def pace(self, now: float) -> float:
        """Seconds until the next request should go, so that the remaining ones last until half of the limit is free
        again; 0 while half of it is free. Pacing begins if the present rate would exceed the limit within a minute, or
        a burst far exceeds it."""
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
