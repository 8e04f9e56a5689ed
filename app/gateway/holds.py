"""The hold of a call on the limits and budgets of its caller, their team and the organization.

count     for a cached or shared answer: the request
hold      before the first byte goes to an upstream: all that may be used, in one step; drawn from a slice if there is
          one (slices.py), else in the store
extend    before a further request of the same call, at that upstream's price
settle    with the end of the record: what was held becomes what the ledger's rows say

What replicas share in Redis (shared_limits.py) is asked first, and given back if the rest does not fit. A caller
without limits has none of this.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from ..callers.calendar import Calendar
from ..callers.keys import Caller
from ..callers.limits import Demand, Scope, charges, headers, refusal
from ..core.errors import StorageUnavailable, ToriiError
from ..core.types import Call, ChatCall, Target
from ..core.web import WebCall
from ..storage.counters import balances
from ..storage.errors import StoreError
from ..storage.holds import Balance, Charge, Decision, Draw, Hold
from ..storage.ledger_file import CallRow, LedgerFile
from ..storage.location import Location
from ..storage.redis.counters import SharedHold
from ..usage.bounds import Bound, less, page_budget, plus
from ..usage.bounds import bound as bound_of
from ..usage.ledger import Ledger, price_of
from ..usage.prices import Prices
from ..usage.record import CallRecord
from .alerts import Alerts
from .own_limits import OwnLimits
from .runs import METERED, RunBudgets, is_budgeted, with_budget
from .settlements import Settlements
from .shared_limits import Decided, SharedLimits, joined, split
from .slices import Drawn, Flow, Slices

LOOK_SECONDS = 0.25  # between two decisions on a call that waits for other calls to settle
AWAY_SECONDS = 1.0  # in which a store that failed is not asked again

NOTHING = Bound(0, 0)
FITS = Decision(None, False, ())
UNDECIDED: Decided = ((), FITS)


@dataclass(slots=True, kw_only=True)
class Holds:
    """The holds of the calls of one configuration.

    ``ledger`` None: there is no store. ``wait_seconds``: the time from its start in which a call may wait for others to
    settle. ``passes``: calls with budgets pass while the store is away. ``unpriced``: callers with budgets in dollars
    may use a model without a price. ``alerts`` see each decision of the store, and each overrun. ``slices`` None: each
    call is held for in the store. ``shared``: what replicas share in Redis, None without one.
    """

    ledger: Ledger | None
    calendar: Calendar
    prices: Prices
    runs: RunBudgets = field(default_factory=RunBudgets)
    own: OwnLimits = field(default_factory=OwnLimits)
    settlements: Settlements = field(default_factory=Settlements)
    wait_seconds: float = 4.0
    passes: bool = False
    unpriced: bool = False
    alerts: Alerts | None = None
    slices: Slices | None = None
    shared: SharedLimits | None = None
    away_until: float = field(default=0.0, repr=False)

    @property
    def store(self) -> Ledger | None:
        """The ledger; None if there is none, if it has failed just now, or if it is known to be away."""
        away = self.ledger is None or self.ledger.file.away or time.monotonic() < self.away_until
        return None if away else self.ledger

    def most(self, part: Call, target: Target) -> Bound:
        """The most that the requests for ``part`` to ``target`` can cost."""
        return bound_of(part, target.model, price_of(self.prices, target), self.runs.factor)


class CallHold:
    """The hold of one call, by its request id. ``admitted``: the call counts as a request."""

    __slots__ = (
        *("_away", "_budget", "_caller", "_drawn", "_flow", "_held", "_holds", "_latest", "_moved", "_open", "_owned"),
        *("_shared", "_shown", "_until", "admitted", "request_id", "started", "upstreams"),
    )

    def __init__(self, holds: Holds, caller: Caller, request_id: str) -> None:
        self.admitted = False
        self.request_id = request_id
        self.upstreams: dict[str, Bound] = {}  # what the requests to each may cost, added up
        self._holds = holds
        self._caller = caller
        self.started = time.time()
        self._until = time.monotonic() + holds.wait_seconds
        self._shown = self._latest = UNDECIDED
        self._shared = None if holds.shared is None else holds.shared.counters.new()
        self._held = NOTHING
        self._open = self._away = False
        self._budget: int | None = None
        self._owned: tuple[Charge, ...] = ()
        self._flow: Flow | None = None
        self._drawn: Drawn | None = None  # from a slice
        self._moved: Draw | None = None  # the same, once more was asked for than was drawn

    async def count(self, record: CallRecord) -> None:
        """Holds the request, once: all that a cached or shared answer takes. Raises as ``hold``."""
        try:
            while not self.admitted and not await self._fits(record, None, NOTHING):
                await self._wait()
        except ToriiError as error:
            error.own = True
            raise

    async def hold(self, record: CallRecord, part: Call, target: Target) -> None:
        """Holds all that the requests for ``part`` may use at ``target``, and the request if it is not held yet. A
        DeepSearch run gets a budget that fits, in a new ``record.call``, and so does a page.

        Waits while the call would fit if others settled for less than they hold. Raises LimitExceeded,
        BudgetExhausted, StorageUnavailable, InvalidRequest and ModelNotPriced, which are the caller's own.
        """
        try:
            run = target.model.deepsearch
            metered = (run or is_budgeted(part)) and any(map(is_metered, self._caller.scopes))
            if metered:
                record.connection.prepaid = run
                part = record.call = self._holds.runs.of(part)
            elif part.stream and not run and isinstance(part, ChatCall):
                part = record.call = _with_usage(part)
            whole, bound = part, self._holds.most(part, target)
            while not await self._fits(record, target, bound, run=run):
                smaller = self._holds.runs.smaller(part, *self._latest) if metered else None
                if smaller is None:
                    await self._wait()
                part = record.call = smaller or whole  # more may be left by now
                bound = self._holds.most(part, target)
        except ToriiError as error:
            error.own = True
            raise
        self.upstreams[target.upstream.name] = bound
        self._budget = page_budget(part) if metered and isinstance(part, WebCall) else None

    def limited(self, part: Call) -> Call:
        """The part as it is sent: a page with the token budget that was held for it."""
        return part if self._budget is None else with_budget(part, self._budget)

    async def extend(self, record: CallRecord, part: Call, target: Target, unused: Target | None) -> bool:
        """Holds what a further request for ``part`` may cost at ``target``; False if that does not fit. ``unused``: the
        target of a request that was not sent, whose part of the hold is used for this one."""
        part = self.limited(part)
        bound = more = self._holds.most(part, target)
        free = NOTHING if unused is None else self._holds.most(part, unused)
        if unused is not None:
            more = less(bound, free)
        try:
            while not await self._fits(record, target, more):
                if not self._latest[1].sliced or not await self._waited():
                    return False
        except ToriiError:
            return False
        if unused is not None:
            name = unused.upstream.name
            self.upstreams[name] = less(self.upstreams.get(name, NOTHING), free)
        self._add(target, bound)
        return True

    def bound(self, upstream: str) -> tuple[int, int | None] | None:
        """The most tokens and nano-dollars of the requests to an upstream; None if nobody knows."""
        held = self.upstreams.get(upstream)
        return None if held is None or held.tokens is None else (held.tokens, held.cost)

    def settle(self, rows: Sequence[CallRow]) -> None:
        """The call has ended, and the rows are what it has cost; without rows nothing was used."""
        if self._holds.ledger is not None:
            self._settle(self._holds.ledger.file, rows)
        if self._shared is not None and self._holds.shared is not None:
            self._holds.shared.counters.settle(self._shared, sum([row.total_tokens for row in rows]))
        self._open = False
        if self._flow is not None:
            self._flow.open -= 1
            self._flow = None
        if rows and self._holds.alerts is not None:
            self._compare(self._holds.alerts, rows)
        if self._owned:
            self._holds.own.end(self._owned)
            self._owned = ()

    def _settle(self, file: LedgerFile, rows: Sequence[CallRow]) -> None:
        if self._drawn is not None and self._moved is None:
            file.settle_drawn(self.request_id, rows, self._drawn.end())
        elif not self._open:
            for row in rows:
                file.record_call(row)
        elif rows or self._moved is not None:
            file.settle(self.request_id, rows, self._moved)
        else:
            file.release(self.request_id)

    def _compare(self, alerts: Alerts, rows: Sequence[CallRow]) -> None:
        """Tells if the call was billed more than was held for it."""
        tokens, cost = rows[0].total_tokens, rows[0].cost or 0
        for row in rows[1:]:
            tokens, cost = tokens + row.total_tokens, cost + (row.cost or 0)
        held = self._held
        over = held.tokens is not None and tokens > held.tokens
        if not over and (held.cost is None or cost <= held.cost):
            return
        if any(map(is_metered, self._caller.scopes)):
            unit, most, billed = ("tokens", held.tokens, tokens) if over else ("usd", held.cost, cost)
            alerts.overrun(self.request_id, f"key:{self._caller.id}", unit, most or 0, billed)

    async def headers(self) -> dict[str, str]:
        """The headers of an answer: what was left at the decision, or now if there was none."""
        if self._drawn is not None and self._shared is None:
            return self._drawn.headers(time.time())
        charged, decision = self._shown
        if not decision.balances:
            charged, decision = await self._now()
        return headers(charged, decision, time.time()) if decision.balances else {}

    async def _now(self) -> Decided:
        """The limits, as far as they can be read now."""
        holds = self._holds
        limits = charges(self._caller.scopes, holds.calendar, self.started, Demand("", "", NOTHING))
        charged = [charge._replace(amount=0) for charge in limits if not charge.is_budget]
        found = {} if holds.shared is None else await holds.shared.balances(charged)
        rest = [charge for charge in charged if charge not in found]
        if rest and (ledger := holds.store) is not None:
            reading = asyncio.ensure_future(asyncio.to_thread(_read, ledger.file.location, rest))
            await asyncio.wait([reading], timeout=LOOK_SECONDS)
            found |= reading.result() if reading.done() else {}
        return tuple(found), FITS._replace(balances=tuple(found.values()))

    async def _fits(self, record: CallRecord, target: Target | None, bound: Bound, *, run: bool = False) -> bool:
        """True if the bound is held now, and the request if it was not held yet; False if nothing more is held. Raises
        ToriiError if there can be no decision."""
        holds, first = self._holds, not self.admitted
        if first and not run and self._shared is None and self._draws(record, bound):
            self.admitted, self._held = True, bound
            return True
        demand = Demand(record.call.endpoint.name, record.model_id or "", bound, int(first), run, holds.unpriced)
        charged = charges(self._caller.scopes, holds.calendar, self.started, demand)
        if self._shared is None:
            charged, decision = await self._decided(record, target, bound, charged)
        else:
            charged, decision = await self._decided_with(self._shared, record, target, bound, charged)
        self._latest = charged, decision
        if first:
            self._shown = self._latest
            self.admitted = decision.refused is None
        if holds.alerts is not None:
            holds.alerts.observe(charged, decision)
        if decision.refused is not None:
            return False
        self._held = bound if self._held is NOTHING else plus(self._held, bound)
        return True

    async def _decided_with(
        self, hold: SharedHold, record: CallRecord, target: Target | None, bound: Bound, charged: tuple[Charge, ...]
    ) -> Decided:
        """The decision of Redis, then that of the store; all or nothing. Raises as ``_decided``."""
        limits, before = self._holds.shared, len(hold.taken)
        assert limits is not None
        shared, rest = split(charged)
        taken = await limits.take(hold, shared) if shared else UNDECIDED
        if taken[1].refused is not None or not rest:
            return taken
        try:
            run = target is not None and target.model.deepsearch
            if not self.admitted and not run and self._draws(record, bound) and self._drawn is not None:
                return joined(taken, self._drawn.decided())
            both = joined(taken, await self._decided(record, target, bound, rest))
        except ToriiError:
            limits.counters.undo(hold, before)
            raise
        if both[1].refused is not None:
            limits.counters.undo(hold, before)
        return both

    async def _decided(
        self, record: CallRecord, target: Target | None, bound: Bound, charged: tuple[Charge, ...]
    ) -> Decided:
        """The decision of the store, or of this process if the store is away. Raises ToriiError if there can be
        none."""
        holds = self._holds
        if not charged:
            return charged, FITS
        if self._away or (ledger := holds.store) is None:
            return self._decided_here(charged)
        hold = Hold(self.request_id, int(self.started * 1000), charged, ledger.draft(record, target, bound))
        begun, asked = self._asked(ledger.file, hold)
        try:
            decision = await asked
        except StoreError:
            holds.away_until = time.monotonic() + AWAY_SECONDS
            self._away = not begun
            return self._decided_here(charged)
        holds.own.see(charged, decision)
        self._open = begun or decision.refused is None
        return charged, decision

    def _draws(self, record: CallRecord, bound: Bound) -> bool:
        """True if the request and its bound are drawn from a slice."""
        slices = self._holds.slices
        if slices is None:
            return False
        if self._flow is None:
            self._flow = slices.flow(self._caller.scopes, record.call.endpoint.name, record.model_id or "", bound)
        self._drawn = slices.draw(self._flow, self.started, bound)
        return self._drawn is not None

    def _asked(self, file: LedgerFile, hold: Hold) -> tuple[bool, asyncio.Future[Decision]]:
        """Asks the store, and, if the caller is hot, for a slice in the same transaction. True for a further request of
        a call."""
        if self._drawn is not None and self._moved is None:
            self._moved = self._drawn.leave()
        # Open from now on: what is decided while this task is cancelled has to be released too.
        begun, self._open = self._open or self._moved is not None, True
        if begun:
            return True, file.extend(hold, self._moved)
        asked = file.hold(hold)
        if self._flow is not None and self._holds.slices is not None:
            self._holds.slices.take(self._flow, hold)
        return False, asked

    def _decided_here(self, charged: tuple[Charge, ...]) -> Decided:
        """The decision without the store. Raises StorageUnavailable if a budget is charged."""
        if not self._holds.passes and any(charge.is_budget and charge.amount for charge in charged):
            raise StorageUnavailable
        limits = tuple(charge for charge in charged if not charge.is_budget)
        own, decision = self._holds.own.take(limits)
        if decision.refused is None:
            self._owned += own
        return own, decision

    async def _wait(self) -> None:
        """Waits until the latest decision may be another. Raises its refusal if there is no time left, or no use."""
        if await self._waited():
            return
        charged, decision = self._latest
        assert decision.refused is not None
        now, reason = time.time(), charged[decision.refused].name
        if self._holds.ledger is not None:
            self._holds.ledger.file.refuse(int(now) // 60, self._caller.id or "", self._caller.team or "", reason)
        raise refusal(self._caller.scopes, charged, decision, now)

    async def _waited(self) -> bool:
        """False if there is no time left to wait, or no use. What this process has sliced of the limit is given
        back."""
        charged, decision = self._latest
        assert decision.refused is not None
        if decision.sliced and self._holds.slices is not None:
            self._holds.slices.give_back(charged[decision.refused])
        seconds = self._until - time.monotonic()
        final = not decision.sliced and any(map(_is_final, charged, decision.balances))
        if not decision.waits or seconds <= 0 or final:
            return False
        await self._holds.settlements.next(min(LOOK_SECONDS, seconds))
        return True

    def _add(self, target: Target, bound: Bound) -> None:
        name = target.upstream.name
        self.upstreams[name] = plus(self.upstreams.get(name, NOTHING), bound)


def _with_usage(call: ChatCall) -> ChatCall:
    """The call, which asks the upstream for the usage of its stream."""
    if call.include_usage:
        return call
    options = {**(call.body.get("stream_options") or {}), "include_usage": True}
    return replace(call, body={**call.body, "stream_options": options}, hides_usage=True)


def is_metered(scope: Scope) -> bool:
    """True if the scope limits tokens or dollars."""
    limits = scope.limits
    if limits.tokens_per_minute is not None or limits.tokens_per_day is not None:
        return True
    return any(budget.unit in METERED for budget in scope.budgets)


def _is_final(charge: Charge, balance: Balance) -> bool:
    """True if the charge does not fit, and no settlement changes that: a request that is held is spent."""
    return charge.unit == "requests" and balance.spent + balance.held + charge.amount > charge.limit


def _read(location: Location, charged: Sequence[Charge]) -> dict[Charge, Balance]:
    try:
        return dict(zip(charged, balances(location, charged), strict=True))
    except StoreError:
        return {}
