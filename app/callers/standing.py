"""The standing of the limits and budgets of a scope: what is used, what is left, and when it frees, for reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from ..core.money import amount_of
from ..core.types import Json
from ..storage.holds import FOREVER, MINUTE, Balance, Charge
from .calendar import Calendar, moment, resets_at
from .limits import Budget, Limits, Scope, window_of

PLACES = {field.name: place for place, field in enumerate(fields(Limits))}


def counted(scope: Scope, calendar: Calendar, now_s: float) -> list[Charge]:
    """A charge of the whole amount for each limit and each budget of the scope, as they stand at ``now_s``. They serve
    to ask for the balances, never to hold."""
    rules = sorted(scope.rules, key=lambda rule: PLACES.get(rule.name, len(PLACES)))
    return [
        Charge(scope.id, rule.unit, window_of(rule, calendar, now_s), rule.filter, rule.limit, rule.limit, rule.name)
        for rule in rules
    ]


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
    unit = charge.unit
    return {
        "unit": unit,
        "window": budget.window,
        "amount": amount_of(unit, charge.limit),
        "spent": amount_of(unit, balance.spent),
        "held": amount_of(unit, balance.held),
        "remaining": amount_of(unit, max(charge.limit - balance.spent - balance.held, 0)),
        "resets_at": None if charge.window[1] >= FOREVER else resets_at(charge.window),
        "endpoints": budget.endpoints,
        "models": budget.models,
    }
