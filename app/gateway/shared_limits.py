"""Limits that all replicas share: by minute, and of what is open at once. Redis decides; while it is away, each process
decides for its share.

    charges -> split: shared -> take: Redis, else this process's share
                      rest   -> the ledger's store, a slice (holds.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..storage.holds import MINUTE, OPEN, Balance, Charge, Decision
from ..storage.redis.counters import SharedCounters, SharedHold
from ..storage.sqlite import StoreError
from .own_limits import OwnLimits

Decided = tuple[tuple[Charge, ...], Decision]


def split(charged: Sequence[Charge]) -> tuple[tuple[Charge, ...], tuple[Charge, ...]]:
    """The charges that the shared counters decide, and the rest."""
    shared = tuple([charge for charge in charged if charge[2] == MINUTE or charge[1] in OPEN])
    return shared, tuple([charge for charge in charged if charge[2] != MINUTE and charge[1] not in OPEN])


def joined(one: Decided, other: Decided) -> Decided:
    """Two decisions as one. Both may not refuse."""
    (charged, first), (more, second) = one, other
    refused = first.refused if second.refused is None else len(charged) + second.refused
    waits, sliced = first.waits or second.waits, first.sliced or second.sliced
    return charged + more, Decision(refused, waits, first.balances + second.balances, sliced)


@dataclass(frozen=True, slots=True)
class SharedLimits:
    counters: SharedCounters
    own: OwnLimits

    async def take(self, hold: SharedHold, charged: tuple[Charge, ...]) -> Decided:
        """Takes all charges or none, and adds what was taken to the hold. While Redis is away, the charges come back
        with this process's share as their limits."""
        if self.counters.trouble is None:
            try:
                decision = await self.counters.hold(hold, charged)
            except StoreError:
                pass
            else:
                self.own.see(charged, decision)
                return charged, decision
        for charge in charged:
            if charge.unit in OPEN:
                self.own.reopen(charge, self.counters.open(charge))
        shares, decision = self.own.take(charged)
        if decision.refused is None:
            self.counters.take_here(hold, shares)
        return shares, decision

    async def balances(self, charged: Sequence[Charge]) -> dict[Charge, Balance]:
        """The balances of those of the charges that are shared; none while Redis is away."""
        shared, _ = split(charged)
        if not shared or self.counters.trouble is not None:
            return {}
        try:
            return dict(zip(shared, (await self.counters.look(shared)).balances, strict=True))
        except StoreError:
            return {}
