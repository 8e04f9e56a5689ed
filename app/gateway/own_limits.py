"""The limits of callers while the store is away: this process's share of each, counted in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..storage.holds import FOREVER, MINUTE, OPEN, SLIDING, Balance, Charge, Decision

LARGE = 10_000  # counters

Key = tuple[str, str, tuple[int, int], str]  # the first four of a Charge
Counter = dict[int, int]  # amounts by the second in which they were taken; 0 for those of a calendar window


class OwnLimits:
    """``share`` is this process's part of a limit that several processes share. What they used before the store went
    away is not known here, so each begins with all of its share."""

    def __init__(self, share: Callable[[int], int] = int, clock: Callable[[], float] = time.time) -> None:
        self._share = share
        self._clock = clock
        self._counters: dict[Key, Counter] = {}

    def take(self, charged: Sequence[Charge]) -> tuple[tuple[Charge, ...], Decision]:
        """The charges with this process's share as their limits, and the decision on all of them. If they fit, ``end``
        must follow."""
        now = int(self._clock())
        own = tuple(charge._replace(limit=self._share(charge.limit)) for charge in charged)
        counters = [self._counter(charge, now) for charge in own]
        balances = tuple(map(_balance, own, counters))
        for place, (charge, balance) in enumerate(zip(own, balances, strict=True)):
            if charge.amount and balance.spent + balance.held + charge.amount > charge.limit:
                return own, Decision(place, charge.unit in OPEN, balances)
        for charge, counter in zip(own, counters, strict=True):
            second = now if charge.window == MINUTE else 0
            counter[second] = counter.get(second, 0) + charge.amount
        return own, Decision(None, False, tuple(map(_balance, own, counters)))

    def end(self, charged: Sequence[Charge]) -> None:
        """The call of these charges has ended."""
        for charge in charged:
            counter = self._counters.get((charge.scope, charge.unit, charge.window, charge.filter))
            if charge.unit in OPEN and counter is not None:
                counter[0] = max(counter.get(0, 0) - charge.amount, 0)

    def _counter(self, charge: Charge, now: int) -> Counter:
        key = charge.scope, charge.unit, charge.window, charge.filter
        counter = self._counters.get(key)
        if counter is None:
            if len(self._counters) > LARGE:
                self._counters = {name: each for name, each in self._counters.items() if _lives(name, each, now)}
            counter = self._counters[key] = {}
        if charge.window == MINUTE:
            for second in [second for second in counter if second <= now - SLIDING]:
                del counter[second]
        return counter


def _lives(key: Key, counter: Counter, now: int) -> bool:
    _, unit, window, _ = key
    if window == MINUTE:
        return any(second > now - SLIDING for second in counter)
    return any(counter.values()) if unit in OPEN else window[1] > now


def _balance(charge: Charge, counter: Counter) -> Balance:
    used = sum(counter.values())
    if charge.unit in OPEN:
        return Balance(0, used, None)
    if charge.window != MINUTE:
        return Balance(used, 0, charge.window[1] if charge.window[1] < FOREVER else None)
    over = used + charge.amount - charge.limit
    for second in sorted(counter):
        over -= counter[second]
        if over <= 0:
            return Balance(used, 0, second + SLIDING)
    return Balance(used, 0, None)
