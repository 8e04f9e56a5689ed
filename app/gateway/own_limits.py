"""The limits of callers while the store is away: this process's share of each, counted in memory.

a decision of the store -> see     what all processes have used, for the time when the store is away
a call without the store -> take   this process's share of what they had left -> end
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..storage.holds import FOREVER, MINUTE, OPEN, SLIDING, Balance, Charge, Decision
from ..storage.tallies import SlidingSum

LARGE = 10_000  # counters

Key = tuple[str, str, tuple[int, int], str]  # the first four of a Charge


class Used(SlidingSum):
    """The amounts of a limit; in second 0 those of a calendar window and of what is open."""

    __slots__ = ()

    def become(self, second: int, total: int) -> None:
        """The total is this now. What came is taken to have come in this second, what went to be the earliest, so that
        nothing leaves a sliding minute too early."""
        if total > self.total:
            self.add(second, total - self.total)
        while self.total > total:
            first = min(self.seconds)
            gone = min(self.seconds[first], self.total - total)
            self.add(first, -gone)
            if not self.seconds[first]:
                del self.seconds[first]


class OwnLimits:
    """``share`` is this process's part of a limit that several processes share. Of a minute or a day they share what
    the latest decisions of the store have left; what is open at once begins anew."""

    def __init__(self, share: Callable[[int], int] = int, clock: Callable[[], float] = time.time) -> None:
        self._share = share
        self._clock = clock
        self._taken: dict[Key, Used] = {}  # by this process, without the store
        self._seen: dict[Key, Used] = {}  # by all processes, as the store said

    def see(self, charged: Sequence[Charge], decision: Decision) -> None:
        """Notes a decision of the store."""
        now = int(self._clock())
        for charge, (spent, held, _) in zip(charged, decision.balances, strict=True):
            if charge.unit not in OPEN and not charge.is_budget:
                self._used(self._seen, charge, now).become(now if charge.window == MINUTE else 0, spent + held)

    def take(self, charged: Sequence[Charge]) -> tuple[tuple[Charge, ...], Decision]:
        """The charges with this process's share as their limits, and the decision on all of them. If they fit, ``end``
        must follow."""
        now = int(self._clock())
        own = tuple(charge._replace(limit=self._share(charge.limit)) for charge in charged)
        before = [self._before(charge, now) for charge in charged]
        taken = [self._used(self._taken, charge, now) for charge in own]
        balances = tuple(map(_balance, own, taken, before))
        for place, (charge, balance) in enumerate(zip(own, balances, strict=True)):
            if charge.amount and balance.spent + balance.held + charge.amount > charge.limit:
                return own, Decision(place, charge.unit in OPEN, balances)
        for charge, used in zip(own, taken, strict=True):
            used.add(now if charge.window == MINUTE else 0, charge.amount)
        return own, Decision(None, False, tuple(map(_balance, own, taken, before)))

    def reopen(self, charge: Charge, amount: int) -> None:
        """So much of what the charge counts is open in this process, the store's part included."""
        self._used(self._taken, charge, int(self._clock())).become(0, amount)

    def end(self, charged: Sequence[Charge]) -> None:
        """The call of these charges has ended."""
        for charge in charged:
            used = self._taken.get((charge.scope, charge.unit, charge.window, charge.filter))
            if charge.unit in OPEN and used is not None:
                used.become(0, max(used.total - charge.amount, 0))

    def _before(self, charge: Charge, now: int) -> dict[int, int]:
        """This process's part, by seconds, of what all had used of the charge's limit when the store went away."""
        if charge[:4] not in self._seen:
            return {}
        found, left = {}, charge.limit
        for second, amount in sorted(self._used(self._seen, charge, now).seconds.items()):
            rest = max(left - amount, 0)
            found[second], left = self._share(left) - self._share(rest), rest
        return found

    def _used(self, counters: dict[Key, Used], charge: Charge, now: int) -> Used:
        key = charge[:4]
        used = counters.get(key)
        if used is None:
            if len(counters) > LARGE:
                for name in [name for name, each in counters.items() if not _lives(name, each, now)]:
                    del counters[name]
            used = counters[key] = Used({})
        if charge.window == MINUTE:
            used.advance(now)
        return used


def _lives(key: Key, used: Used, now: int) -> bool:
    _, unit, window, _ = key
    if window == MINUTE:
        return any(second > now - SLIDING for second in used.seconds)
    return used.total > 0 if unit in OPEN else window[1] > now


def _balance(charge: Charge, taken: Used, before: dict[int, int]) -> Balance:
    used = taken.total + sum(before.values())
    if charge.unit in OPEN:
        return Balance(0, used, None)
    if charge.window != MINUTE:
        return Balance(used, 0, charge.window[1] if charge.window[1] < FOREVER else None)
    over = used + charge.amount - charge.limit
    for second in sorted({**taken.seconds, **before}):
        over -= taken.seconds.get(second, 0) + before.get(second, 0)
        if over <= 0:
            return Balance(used, 0, second + SLIDING)
    return Balance(used, 0, None)
