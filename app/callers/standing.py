"""How the limits and budgets of a scope stand: what is used, what is left, and when it frees, for reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from ..core.money import dollars
from ..core.types import Json
from ..storage.holds import FOREVER, MINUTE, Balance, Charge
from .calendar import Calendar, moment, resets_at
from .limits import ALWAYS, Budget, Limits, Scope, filter_of, name_of

# The unit of each limit, and its window: None is a calendar day.
COUNTED = {
    "requests_per_minute": ("requests", MINUTE),
    "tokens_per_minute": ("tokens", MINUTE),
    "concurrent_calls": ("calls", ALWAYS),
    "concurrent_runs": ("runs", ALWAYS),
    "requests_per_day": ("requests", None),
    "tokens_per_day": ("tokens", None),
}
LIMITS = tuple(field.name for field in fields(Limits))


def counted(scope: Scope, calendar: Calendar, now_s: float) -> list[Charge]:
    """A charge of the whole amount for each limit and each budget of the scope, as they stand at ``now_s``. They serve
    to ask for the balances, never to hold."""
    return [*_limits(scope, calendar, now_s), *_budgets(scope, calendar, now_s)]


def _limits(scope: Scope, calendar: Calendar, now_s: float) -> Iterator[Charge]:
    for name in LIMITS:
        limit: int | None = getattr(scope.limits, name)
        unit, window = COUNTED[name]
        if limit is not None:
            yield Charge(scope.id, unit, window or calendar.window("day", now_s), "", limit, limit, name)


def _budgets(scope: Scope, calendar: Calendar, now_s: float) -> Iterator[Charge]:
    for budget in scope.budgets:
        window = calendar.window(budget.window, now_s)
        amount = budget.amount
        yield Charge(scope.id, budget.unit, window, filter_of(budget), amount, amount, name_of(budget))


def standing(scope: Scope, charges: Sequence[Charge], balances: Sequence[Balance]) -> Json:
    """``{scope, id, name, limits: [{limit, amount, used, remaining, resets_at}], budgets: [{unit, window, amount,
    spent, held, remaining, resets_at, endpoints, models}]}``: the ``counted`` charges with their balances.

    ``scope`` is key, team or organization. Dollars are decimal strings. ``resets_at`` is RFC 3339 in UTC: the end of
    the window, of a minute the time at which all of it is free; null if there is none, and for an unused minute.
    """
    kind, _, scope_id = scope.id.partition(":")
    limits = len(charges) - len(scope.budgets)
    stood = list(zip(charges, balances, strict=True))
    return {
        "scope": kind,
        "id": scope_id or kind,
        "name": scope.name,
        "limits": [_limit(*each) for each in stood[:limits]],
        "budgets": [_budget(budget, *each) for budget, each in zip(scope.budgets, stood[limits:], strict=True)],
    }


def _limit(charge: Charge, balance: Balance) -> Json:
    used = balance.spent + balance.held
    resets = resets_at(charge.window)
    if charge.window == MINUTE and used > 0 and balance.frees_at is not None:
        resets = moment(balance.frees_at)
    return {
        "limit": charge.name,
        "amount": charge.limit,
        "used": used,
        "remaining": max(charge.limit - used, 0),
        "resets_at": resets,
    }


def _budget(budget: Budget, charge: Charge, balance: Balance) -> Json:
    def said(amount: int) -> str | int:
        return dollars(amount) if charge.unit == "usd" else amount

    return {
        "unit": charge.unit,
        "window": budget.window,
        "amount": said(charge.limit),
        "spent": said(balance.spent),
        "held": said(balance.held),
        "remaining": said(max(charge.limit - balance.spent - balance.held, 0)),
        "resets_at": None if charge.window[1] >= FOREVER else resets_at(charge.window),
        "endpoints": budget.endpoints,
        "models": budget.models,
    }
