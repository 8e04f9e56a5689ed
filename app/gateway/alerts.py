"""Alerts on budgets: when a share of one is spent, once for each window and share, whatever process sees it first.

    decisions, settlements -> what is spent -> thresholds passed -> [the ledger's file: first?] -> log, count, webhook

Held amounts do not count: most calls settle for much less. What a settlement has changed is read from the file a moment
later, once for all settlements in between.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple
from uuid import uuid4

import msgspec

from ..callers.calendar import moment, resets_at
from ..callers.limits import said, said_of
from ..core.money import amount_of
from ..core.types import Json
from ..storage.errors import StoreError
from ..storage.holds import Balance, Charge, Decision
from .webhooks import Webhook

logger = logging.getLogger("torii.alerts")

# True if no process has given the alert before: scope, unit, filter, since, amount, percent. Raises StoreError.
First = Callable[[str, str, str, int, int, int], Awaitable[bool]]
# What is spent and held of each charge's counter now. Called in a thread. Raises StoreError.
Read = Callable[[Sequence[Charge]], Sequence[Balance]]

LOOK_SECONDS = 1.0  # from a settlement to the look at what it has changed
AWAY_SECONDS = 5.0  # in which a store that failed is not asked again
NEARLY = 0.9  # of a budget: if a call is refused above it, the rest is too little for the calls that come
LARGE = 10_000  # budgets in memory

_Place = tuple[str, str, str, int, int]  # scope, unit, filter, since and amount of a budget


class Passed(NamedTuple):
    """A threshold of a budget that was passed. ``spent`` is in tokens, requests or nano-dollars."""

    charge: Charge
    percent: int
    spent: int


class Alerts:
    """The alerts of one process. ``first`` decides between processes; without ``read`` settlements are seen with the
    next decision only. All methods are for the event loop, and none waits.

    ``counts``: ``budget_alerts``, ``budget_overruns``.
    """

    def __init__(
        self,
        first: First,
        read: Read | None = None,
        webhook: Webhook | None = None,
        *,
        look_seconds: float = LOOK_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.counts: Counter[str] = Counter(budget_alerts=0, budget_overruns=0)
        self.webhook = webhook
        self._first = first
        self._read = read
        self._look_seconds = look_seconds
        self._clock = clock
        self._next: dict[_Place, int] = {}  # what has to be spent for the next alert
        self._open: dict[_Place, Charge] = {}  # budgets that calls hold something of
        self._look: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._away_until = 0.0

    def observe(self, charged: Sequence[Charge], decision: Decision) -> None:
        """Looks at a decision of the ledger's file."""
        for number, (charge, balance) in enumerate(zip(charged, decision.balances, strict=True)):
            if charge.is_budget:
                place = _place(charge)
                reached = balance.spent + balance.held
                if decision.refused is None and reached < self._next.get(place, 0):
                    continue  # no settlement of an open call can be the reason of the next alert
                whole = number == decision.refused and _is_exhausted(charge, balance)
                self._see(charge, place, balance.spent, whole=whole)
                near = reached >= self._next[place] <= charge.limit
                if near and charge.amount and decision.refused is None:
                    self._open[place] = charge

    def settled(self) -> None:
        """Something was settled here: a callback of the ledger's file."""
        if self._open and self._look is None and self._read is not None:
            self._look = asyncio.get_running_loop().call_later(self._look_seconds, self._begin, self._look_again)

    def overrun(self, request_id: str, scope: str, unit: str, held: int, billed: int) -> None:
        """A call was billed more than its bound: ``scope`` is its key's or team's, ``unit`` tokens or usd."""
        self.counts["budget_overruns"] += 1
        logger.warning(
            "%s: a call was billed %s, more than the %s that were held for it",
            scope,
            said(unit, billed),
            said(unit, held),
            extra={"scope": scope, "unit": unit, "held": held, "billed": billed, "request_id": request_id},
        )

    async def aclose(self, seconds: float = 0) -> None:
        """Ends; alerts that are on their way have ``seconds``."""
        if self._look is not None:
            self._look.cancel()
            if seconds > 0:
                await self._look_again()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=max(seconds, 0.01))
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self.webhook is not None:
            await self.webhook.aclose(seconds)

    def _see(self, charge: Charge, place: _Place, spent: int, *, whole: bool = False) -> None:
        """``whole``: the rest of the budget is too little for any call, so all of it counts as spent."""
        reached = max(spent, charge.limit) if whole else spent
        following = self._next.get(place)
        if following is None:
            if len(self._next) > LARGE:
                self._next.clear()  # the file knows which were given
            following = self._next[place] = _thresholds(charge)[0][0]
        if reached < following or self._clock() < self._away_until:
            return
        thresholds = _thresholds(charge)
        passed = [Passed(charge, percent, spent) for amount, percent in thresholds if following <= amount <= reached]
        self._next[place] = next((amount for amount, _ in thresholds if amount > reached), charge.limit + 1)
        self._begin(self._give, passed, place)

    def _begin(self, act: Callable[..., Awaitable[None]], *about: object) -> None:
        task = asyncio.ensure_future(act(*about))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _give(self, passed: list[Passed], place: _Place) -> None:
        for alert in passed:
            try:
                if await self._first(*place, alert.percent):
                    self._tell(alert)
            except StoreError as error:
                logger.warning("an alert waits until the database can be written: %s", error)
                self._away_until = self._clock() + AWAY_SECONDS
                self._next.pop(place, None)
                return

    def _tell(self, alert: Passed) -> None:
        self.counts["budget_alerts"] += 1
        charge, percent, spent = alert
        until = resets_at(charge.window)
        about = {
            "scope": charge.scope,
            "unit": charge.unit,
            "window": charge.name.partition("/")[2],
            "percent": percent,
            "spent": amount_of(charge.unit, spent),
            "amount": amount_of(charge.unit, charge.limit),
            "filter": charge.filter,
        }
        logger.warning(
            "%s: the budget %s is at %d %%, %s%s",
            charge.scope,
            charge.name,
            percent,
            said_of(charge.unit, spent, charge.limit),
            f", until {until}" if until else "",
            extra=about,
        )
        if self.webhook is not None:
            self.webhook.send(event(alert, self._clock()))

    async def _look_again(self) -> None:
        self._look = None
        charged, self._open = [*self._open.values()], {}
        assert self._read is not None
        try:
            balances = await asyncio.to_thread(self._read, charged)
        except StoreError:
            return  # the next decision tells
        for charge, balance in zip(charged, balances, strict=True):
            place = _place(charge)
            self._see(charge, place, balance.spent)
            if balance.held and self._next.get(place, 0) <= charge.limit:
                self._open.setdefault(place, charge)


def event(alert: Passed, now: float) -> Json:
    """An alert as the webhook sends it. Money is a decimal string, times are RFC 3339 in UTC."""
    charge = alert.charge
    kind, _, name = charge.scope.partition(":")
    return {
        "id": f"evt_{uuid4().hex}",
        "object": "event",
        "type": "budget.exhausted" if alert.percent >= 100 else "budget.warning",
        "created": int(now),
        "created_at": moment(int(now)),
        "data": {
            "scope": kind,
            "id": name or None,
            "unit": charge.unit,
            "window": charge.name.partition("/")[2],
            "filter": msgspec.json.decode(charge.filter) if charge.filter else None,
            "percent": alert.percent,
            "amount": amount_of(charge.unit, charge.limit),
            "spent": amount_of(charge.unit, alert.spent),
            "starts_at": moment(charge.window[0]),
            "resets_at": resets_at(charge.window),
        },
    }


def _place(charge: Charge) -> _Place:
    return charge.scope, charge.unit, charge.filter, charge.window[0], charge.limit


def _thresholds(charge: Charge) -> list[tuple[int, int]]:
    """The amounts at which alerts are given and their percents, the least first; the last one is the whole budget. None
    of a budget of 0 can be spent."""
    amount = max(charge.limit, 1)
    shares = [share for share in charge.warn_at if 0 < share < 1]
    found = {round(share * 100): math.ceil(round(share * amount, 6)) for share in shares}
    return sorted([*((each, percent) for percent, each in found.items()), (amount, 100)])


def _is_exhausted(charge: Charge, balance: Balance) -> bool:
    """True if hardly anything is left of a budget that has refused a call."""
    return charge.amount <= charge.limit and balance.spent >= charge.limit * NEARLY
