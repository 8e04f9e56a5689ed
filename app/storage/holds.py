"""Charges, holds and decisions: the values between the gateway and the ledger's file.

    hold(Hold) -> Decision          before the first byte goes to an upstream: all charges or none
    extend(Hold) -> Decision        before a further request of the same call: its charges are added
    settle(request_id, rows)        the hold becomes what the rows say; idempotent
    slice(Hold, Amounts) -> Slice   in advance, for calls that come soon: they draw from it without asking
    settle_drawn(request_id, rows, Draw)  what a call drew becomes what the rows say; idempotent

A counter belongs to a scope (``key:ID``, ``team:ID`` or ``organization``), and counts one unit in one window:

    tokens, usd, requests   held by open calls, spent by the ledger's rows; usd are nano-dollars
    calls, runs             open at once: held only

What is spent is the sum of the rows of the scope whose ``time`` lies in the window and whose endpoint and model fit the
filter: each row that is written adds to every counter that it belongs to, in the same transaction.
"""

from __future__ import annotations

from typing import NamedTuple

FOREVER = 2**53  # the end of the window of a total budget and of calls and runs, Unix seconds
MINUTE = (0, 0)  # the window of a sliding minute: the present second and the 60 before it
SLIDING = 61  # the seconds of a sliding minute
OPEN = ("calls", "runs")  # the units of what is open now


class Charge(NamedTuple):
    """An amount that a call takes from one limit or budget.

    ``window`` is in Unix seconds, from and until; MINUTE is sliding. ``filter`` is "" or canonical JSON: an object with
    the lists ``endpoints`` and ``models``, either may be missing; a model may end in ``*``. ``name`` is the limit's
    name for the refusal, as ``tokens_per_minute`` or ``usd/month``. ``warn_at`` are the shares of a budget at which an
    alert is given.
    """

    scope: str
    unit: str
    window: tuple[int, int]
    filter: str
    limit: int
    amount: int
    name: str
    warn_at: tuple[float, ...] = ()

    @property
    def is_budget(self) -> bool:
        """True for a charge to a budget, False for one to a limit."""
        return "/" in self.name


class Balance(NamedTuple):
    """A charge's counter after the decision. ``frees_at``: the Unix time in seconds at which enough is free for the
    charge again if nothing else is used, None if never or unknown."""

    spent: int
    held: int
    frees_at: int | None


class Hold(NamedTuple):
    """``started`` is the call's start in Unix milliseconds. ``row`` is a CallRow without outcome, which becomes the row
    ``process_lost`` if this process dies; its tokens and cost are the bound."""

    request_id: str
    started: int
    charges: tuple[Charge, ...]
    row: tuple[object, ...]


class Decision(NamedTuple):
    """``refused`` is the index of the first charge that does not fit, None if all fit and are held. ``waits``: it would
    fit if open calls settled below their holds. ``balances`` has one for each charge. ``sliced``: a slice of the
    last seconds holds a part of what does not fit, so that some of it may come back soon."""

    refused: int | None
    waits: bool
    balances: tuple[Balance, ...]
    sliced: bool = False


class Amounts(NamedTuple):
    """Amounts by unit, of a slice or of what a call draws from one. All charges of a unit have the same amount."""

    requests: int
    tokens: int
    usd: int
    calls: int

    def of(self, unit: str) -> int:
        amount: int = getattr(self, unit)
        return amount


class Slice(NamedTuple):
    """``second`` is that of the store's clock in which it was taken, and may be drawn on. ``decision`` is the one on
    all of its amounts, which are held."""

    id: str
    second: int
    amounts: Amounts
    decision: Decision


class Draw(NamedTuple):
    """An amount that is taken from a slice for a call, or given back unused."""

    slice: str
    amounts: Amounts
