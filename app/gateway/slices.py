"""Slices of the limits and budgets of hot callers, taken in advance, from which calls draw without asking the store.

    a call -> its flow: draw -> a slice of this second                     admitted at once
                             -> none: hold in the store, as ever -> take   if the flow is hot, for the next calls

A slice is a hold in the store (storage/slices.py), far from every limit, and ends with its second: a sliding minute
counts by seconds. What was not drawn is given back then, or at once if a call of this process does not fit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import NamedTuple

from ..callers.limits import KINDS, Scope, headers
from ..storage.holds import FOREVER, MINUTE, Amounts, Charge, Decision, Draw, Hold, Slice
from ..storage.ledger_file import LedgerFile
from ..storage.rows import CallRow
from ..storage.slices import HOT, slice_id
from ..usage.bounds import Bound

LARGE = 10_000  # flows in memory


class Flow:
    """The calls of a caller for a model: what they use in this second and used in the one before, how many are open,
    and the slice from which they draw. ``shut``: the second in which the store refused one."""

    __slots__ = ("asked", "before", "most", "open", "requests", "scopes", "second", "shut", "slice", "tokens", "usd")

    def __init__(self, scopes: Sequence[Scope]) -> None:
        self.scopes = scopes  # kept, because the flow is found by their identity
        self.before = Amounts(0, 0, 0, 0)
        self.open = self.most = self.second = self.shut = 0
        self.requests = self.tokens = self.usd = 0
        self.slice: LiveSlice | None = None
        self.asked = False

    def see(self, second: int, bound: Bound) -> None:
        if second != self.second:
            used = Amounts(self.requests, self.tokens, self.usd, self.most)
            self.before = used if second == self.second + 1 else Amounts(0, 0, 0, 0)
            self.second, self.most = second, self.open
            self.requests = self.tokens = self.usd = 0
        self.requests += 1
        self.tokens += bound.tokens or 0
        self.usd += bound.cost or 0
        if self.open > self.most:
            self.most = self.open

    @property
    def wanted(self) -> Amounts:
        """The use of about a second."""
        return max(self.before, Amounts(self.requests, self.tokens, self.usd, self.most))

    @property
    def idle(self) -> bool:
        return not self.open and not self.asked and self.slice is None


class LiveSlice:
    """The rest of a slice, for calls whose start lies between ``since`` and ``until``, in Unix seconds. ``calls``:
    how many more may be open; who has ended makes room for another."""

    __slots__ = (
        *("_asked_at", "_headers", "_left", "calls", "charged", "counters", "decision", "ended", "id", "priced"),
        *("requests", "second", "since", "timer", "tokens", "until", "usd"),
    )

    def __init__(self, taken: Slice, charged: Sequence[Charge]) -> None:
        self.id, self.second, amounts, self.decision = taken
        self.requests, self.tokens, self.usd, self.calls = amounts
        self.charged = charged
        self.counters = {charge[:4] for charge in charged}
        self.priced = any(charge.unit == "usd" for charge in charged)
        windows = [charge.window for charge in charged if charge.window != MINUTE]
        self.since = max((since for since, _ in windows), default=0)
        self.until = min((until for _, until in windows), default=FOREVER)
        self.timer: asyncio.TimerHandle | None = None
        self.ended = False
        self._asked_at = 0
        self._headers: dict[str, str] = {}
        self._left: list[tuple[str, int, int]] = []

    def headers(self, left: tuple[int, int], now: float) -> dict[str, str]:
        """The headers of an answer; ``left`` are the requests and the tokens of the slice after the call's own."""
        if int(now) != self._asked_at:
            self._asked_at, self._headers = int(now), headers(self.charged, self.decision, now)
            names = [(KINDS[unit][1], place) for place, unit in enumerate(("requests", "tokens"))]
            self._left = [(name, place, int(self._headers[name])) for name, place in names if name in self._headers]
        shown = self._headers.copy()
        for name, place, remaining in self._left:
            shown[name] = str(remaining + left[place])
        return shown


class Drawn(NamedTuple):
    """The part of a slice that a call took. ``left`` are the requests and tokens of the slice after it."""

    slice: LiveSlice
    tokens: int
    usd: int
    left: tuple[int, int]

    def end(self) -> Draw:
        """The call has ended: what it took, to be settled. Its place among the open calls is free for another."""
        if self.slice.ended:
            return self.leave()
        self.slice.calls += 1
        return Draw(self.slice.id, Amounts(1, self.tokens, self.usd, 0))

    def leave(self) -> Draw:
        """The call's part, to become a hold of its own."""
        return Draw(self.slice.id, Amounts(1, self.tokens, self.usd, 1))

    def headers(self, now: float) -> dict[str, str]:
        return self.slice.headers(self.left, now)

    def decided(self) -> tuple[tuple[Charge, ...], Decision]:
        """The slice's charges, with what was left after the call as the decision."""
        charged, decision = self.slice.charged, self.slice.decision
        left = dict(zip(("requests", "tokens"), self.left, strict=True))
        balances = [
            balance._replace(held=balance.held - left.get(charge.unit, 0))
            for charge, balance in zip(charged, decision.balances, strict=True)
        ]
        return tuple(charged), decision._replace(balances=tuple(balances))


class Slices:
    """The slices of a process. All methods are for the event loop. ``observe`` sees the decision on each; ``clock`` is
    the store's."""

    def __init__(
        self,
        file: LedgerFile,
        observe: Callable[[Sequence[Charge], Decision], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._file, self._observe, self._clock = file, observe, clock
        self._flows: dict[tuple[int, str, str], Flow] = {}
        self._live: dict[LiveSlice, Flow] = {}
        self._numbers = count(1)
        self._asked: set[asyncio.Future[Slice | None]] = set()
        self._closed = False

    def flow(self, scopes: Sequence[Scope], endpoint: str, model: str, bound: Bound) -> Flow:
        """The flow of a call that begins. ``open`` is to be lowered at its end."""
        flow = self._flows.get((id(scopes), endpoint, model))
        if flow is None:
            if len(self._flows) > LARGE:
                self._flows = {name: each for name, each in self._flows.items() if not each.idle}
            flow = self._flows[id(scopes), endpoint, model] = Flow(scopes)
        flow.open += 1
        flow.see(int(self._clock()), bound)
        return flow

    def draw(self, flow: Flow, started: float, bound: Bound) -> Drawn | None:
        """Takes a request and its bound from the flow's slice; None if there is none, or if it is too small."""
        slice_, tokens, usd = flow.slice, bound.tokens, bound.cost
        if slice_ is None or tokens is None or not slice_.since <= started < slice_.until or slice_.calls < 1:
            return None
        if usd is None:
            if slice_.priced:
                return None
            usd = 0
        if int(self._clock()) != slice_.second or slice_.requests < 1 or slice_.tokens < tokens or slice_.usd < usd:
            self._end(slice_)
            return None
        slice_.requests -= 1
        slice_.tokens -= tokens
        slice_.usd -= usd
        slice_.calls -= 1
        return Drawn(slice_, tokens, usd, (slice_.requests, slice_.tokens))

    def take(self, flow: Flow, hold: Hold) -> None:
        """Asks for a slice if the flow is hot and has none. ``hold`` is that of a call which is asked for now."""
        wanted, second = flow.wanted, int(self._clock())
        if flow.asked or flow.slice is not None or flow.shut == second or wanted.requests < HOT or self._closed:
            return
        name = slice_id(second, self._file.process, next(self._numbers))
        row = CallRow(*hold.row)._replace(request_id=name, stream=0, user=None, tag=None)  # type: ignore[arg-type]  # a CallRow's own values
        flow.asked = True
        asked = self._file.slice(hold._replace(request_id=name, row=row), wanted)
        self._asked.add(asked)
        asked.add_done_callback(partial(self._begin, flow, hold.charges))

    def give_back(self, charge: Charge) -> None:
        """Ends the slices of the charge's counter: a call does not fit."""
        for slice_ in [each for each in self._live if charge[:4] in each.counters]:
            self._end(slice_)

    async def aclose(self) -> None:
        """Ends all slices, and takes no more."""
        self._closed = True
        if self._asked:
            await asyncio.wait(self._asked)
        for slice_ in [*self._live]:
            self._end(slice_)

    def _begin(self, flow: Flow, charged: Sequence[Charge], asked: asyncio.Future[Slice | None]) -> None:
        flow.asked = False
        self._asked.discard(asked)
        if asked.cancelled() or asked.exception() is not None:
            return
        taken = asked.result()
        if taken is None:
            flow.shut = int(self._clock())
            return
        slice_ = flow.slice = LiveSlice(taken, charged)
        self._live[slice_] = flow
        left = min(max(slice_.second + 1 - self._clock(), 0), 1)  # the clock may have been set
        slice_.timer = asyncio.get_running_loop().call_later(left, self._end, slice_)
        if self._observe is not None:
            self._observe(charged, slice_.decision)

    def _end(self, slice_: LiveSlice) -> None:
        flow = self._live.pop(slice_)
        flow.slice, slice_.ended = None, True
        if slice_.timer is not None:
            slice_.timer.cancel()
        rest = Amounts(slice_.requests, slice_.tokens, slice_.usd, slice_.calls)
        if any(rest):
            self._file.give_back(Draw(slice_.id, rest))
