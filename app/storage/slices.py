"""Slices: what a process holds in advance of the counters of a hot caller, whose calls draw from it without asking.

    wanted -> fitting -> [a hold like a call's] -> draws -> part, rest -> ... -> nothing is left: the hold ends

A slice is taken far from every limit only, and belongs to the calls of one caller for one model within one second. It
is a hold like another: what is neither settled nor given back when its process dies becomes one row ``process_lost``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

from .connection import StoreConnection
from .counters import Counters
from .holds import Amounts, Balance, Charge, Decision, Draw, Hold, Slice
from .open_holds import HeldCharge, OpenHold
from .rows import CallRow
from .tallies import Key

PART = 64  # a slice is at most this part of what is left of any limit
PART_OF_CALLS = 8  # open at once: they come back as soon as the calls have ended
HOT = 8  # calls, for fewer of which no slice is taken
FRESH_SECONDS = 2  # from the second of a slice, after which all of it that was not drawn is back

PREFIX = "slice-"
END = "slice."  # after all of them


def slice_id(second: int, process: str, number: int) -> str:
    """The id of a slice's hold. ``second`` is the Unix time at which it is asked for."""
    return f"{PREFIX}{second}-{process}-{number}"


def fitting(wanted: Amounts, charges: Sequence[Charge], balances: Iterable[Balance]) -> Amounts | None:
    """As much of what is wanted as is a small part of what is left of every charge's limit; None if that is too little
    for HOT calls. ``wanted`` has one request or more."""
    most, calls = wanted.requests, wanted.calls
    for charge, balance in zip(charges, balances, strict=True):
        left = max(charge.limit - balance.spent - balance.held, 0)
        if charge.unit == "calls":
            calls = min(calls, left // PART_OF_CALLS)
        elif amount := wanted.of(charge.unit):
            most = min(most, left // PART * wanted.requests // amount)
    if most < HOT or calls < 1:
        return None
    return Amounts(most, wanted.tokens * most // wanted.requests, wanted.usd * most // wanted.requests, calls)


def row_of(row: CallRow, amounts: Amounts) -> CallRow:
    """The row of that part of a slice, which is charged if the process dies."""
    tokens, cost = amounts.tokens, amounts.usd or None
    return row._replace(requests=amounts.requests, prompt_tokens=tokens, total_tokens=tokens, cost=cost)


def part_of(hold: OpenHold, amounts: Amounts) -> tuple[HeldCharge, ...]:
    """The amounts as charges of the slice's counters."""
    return tuple([charge._replace(amount=amounts.of(charge.unit)) for charge in hold.charges])


def rest_of(hold: OpenHold, amounts: Amounts) -> OpenHold | None:
    """The slice without the amounts; None if nothing is left of it."""
    row = CallRow(*hold.rows[0])
    left = Amounts(
        max(row.requests - amounts.requests, 0),
        max(row.total_tokens - amounts.tokens, 0),
        max((row.cost or 0) - amounts.usd, 0),
        0,
    )
    charges = tuple(
        [charge._replace(amount=max(charge.amount - amounts.of(charge.unit), 0)) for charge in hold.charges]
    )
    if not any(left) and not any(charge.amount for charge in charges):
        return None
    return hold._replace(charges=charges, rows=(tuple(row_of(row, left)),))


class SlicedCounters(Counters):
    """Counters of which slices can be taken."""

    _of_slices: set[Key] | None = None  # the counters of fresh slices, None if they are not known

    def begin(self, connection: StoreConnection) -> None:
        self._of_slices = None
        super().begin(connection)

    def slice(self, hold: Hold, wanted: Amounts) -> Slice | None:
        """Takes a slice for calls that have the hold's charges, whose own amounts do not count; None if it would not be
        a small part of all that is left. Raises StoreError as ``hold`` does."""
        balances = [self._tallies.make(charge).balance(0, charge.limit) for charge in hold.charges]
        amounts = fitting(wanted, hold.charges, balances)
        if amounts is None:
            return None
        charges = tuple([charge._replace(amount=amounts.of(charge.unit)) for charge in hold.charges])
        row = row_of(CallRow(*hold.row), amounts)  # type: ignore[arg-type]  # a CallRow's own values
        decision = self.hold(hold._replace(charges=charges, row=row))
        self._of_slices = None
        return Slice(hold.request_id, self.now // 1000, amounts, decision)

    def extend(self, hold: Hold, draw: Draw | None = None) -> Decision:
        """The draw becomes the call's own hold before."""
        if draw is not None and not self.held(hold.request_id):
            self._move(hold.request_id, draw)
        return super().extend(hold)

    def settle_drawn(self, slice_id: str, amounts: Amounts, rows: Sequence[CallRow]) -> bool:
        """The amounts, drawn from the slice for calls that have ended, become what the rows say, which are in the
        ledger. Without rows they were not used. False if there is no such slice."""
        hold = self._holds.find(slice_id)
        if hold is None:
            for row in rows:
                self._tallies.book(row)
            return False
        sliding = [charge for charge in hold.charges if charge.sliding]
        charged = {(charge.scope, charge.unit) for charge in sliding}
        for row in rows:
            self._tallies.book(row, 1, charged)
        used = Amounts(sum([row.requests for row in rows]), sum([row.total_tokens for row in rows]), 0, 0)
        for charge in sliding:
            self._correct(charge, used.of(charge.unit) - amounts.of(charge.unit))
        self._give_back(part_of(hold, amounts))
        self._reduce(slice_id, hold, amounts)
        return True

    def _reduce(self, slice_id: str, hold: OpenHold, amounts: Amounts) -> None:
        rest = rest_of(hold, amounts)
        if hold.lost is not None:
            self._find_again(slice_id, hold)
        if rest is None:
            self._holds.end(slice_id)
            return
        if hold.lost is not None:
            self._book_lost(rest, hold.lost)
        self._holds.keep(slice_id, rest)

    def _move(self, request_id: str, draw: Draw) -> None:
        hold = self._holds.find(draw.slice)
        if hold is None or hold.lost is not None:
            return
        row = row_of(CallRow(*hold.rows[0]), draw.amounts)._replace(request_id=request_id)
        moved = OpenHold(hold.process, None, part_of(hold, draw.amounts), (tuple(row),))
        self._holds.keep(request_id, moved)
        self._reduce(draw.slice, hold, draw.amounts)

    def _sliced(self) -> Set[Key]:
        if self._of_slices is None:
            since = slice_id(self.now // 1000 - FRESH_SECONDS, "", 0)
            charges = (charge for hold in self._holds.since(since, END) for charge in hold.charges)
            self._of_slices = {charge[:5] for charge in charges if charge.amount}
        return self._of_slices
