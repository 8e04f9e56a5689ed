"""Limits and budgets of callers, their teams and the organization.

scopes, a call's demand -> charges -> [the ledger's file holds them] -> headers, or the refusal
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

from ..core.errors import (
    BudgetExhausted,
    InvalidRequest,
    LimitExceeded,
    ModelNotPriced,
    whole_seconds,
)
from ..core.money import dollars
from ..core.types import EndpointName
from ..storage import filters
from ..storage.holds import FOREVER, MINUTE, OPEN, SLIDING, Balance, Charge, Decision
from ..usage.bounds import Bound as Bound
from .calendar import Calendar, moment

Unit = Literal["usd", "tokens", "requests"]
Window = Literal["day", "week", "month", "total"]


@dataclass(frozen=True, slots=True)
class Limits:
    """None is no limit. A minute is any 60 seconds; a day is a calendar day. ``concurrent_runs`` counts DeepSearch."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_calls: int | None = None
    concurrent_runs: int | None = None
    requests_per_day: int | None = None
    tokens_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """``amount`` is in tokens, requests or nano-dollars. ``endpoints`` and ``models`` restrict the budget to such
    calls, None to none; a model may end in ``*``. ``warn_at`` are shares of the amount at which an alert is given."""

    unit: Unit
    amount: int
    window: Window
    endpoints: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    warn_at: tuple[float, ...] = (0.5, 0.8)


class Rule(NamedTuple):
    """A limit or a budget as the charges need it. ``window``: the name of a calendar window, or the window itself."""

    unit: str
    window: str | tuple[int, int]
    filter: str
    limit: int
    name: str
    warn_at: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Scope:
    """The limits and budgets of a key, a team or the organization. ``id`` is ``key:ID``, ``team:ID`` or
    ``organization``; ``name`` is the key's or the team's name, for messages."""

    id: str
    name: str
    limits: Limits = Limits()
    budgets: tuple[Budget, ...] = ()
    rules: tuple[Rule, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", (*_of_limits(self.limits), *map(_of_budget, self.budgets)))


ALWAYS = (0, FOREVER)  # the window of what is open now


# The unit and the window of each limit, in the order in which they are charged.
COUNTED: dict[str, tuple[str, str | tuple[int, int]]] = {
    "requests_per_minute": ("requests", MINUTE),
    "requests_per_day": ("requests", "day"),
    "concurrent_calls": ("calls", ALWAYS),
    "concurrent_runs": ("runs", ALWAYS),
    "tokens_per_minute": ("tokens", MINUTE),
    "tokens_per_day": ("tokens", "day"),
}


def _of_limits(limits: Limits) -> Iterator[Rule]:
    for name, (unit, window) in COUNTED.items():
        limit = getattr(limits, name)
        if limit is not None:
            yield Rule(unit, window, filters.NONE, limit, name)


def _of_budget(budget: Budget) -> Rule:
    return Rule(budget.unit, budget.window, filter_of(budget), budget.amount, name_of(budget), budget.warn_at)


def filter_of(budget: Budget) -> str:
    """The canonical text of the budget's filter, a part of its counter's name; "" if it counts all calls."""
    return filters.written(budget.endpoints, budget.models)


def name_of(budget: Budget) -> str:
    """The name of a budget in messages and in Charge: ``usd/month``."""
    return f"{budget.unit}/{budget.window}"


class Demand(NamedTuple):
    """The demand of a call, or of a further request of it, on its caller's limits and budgets.

    ``model`` is the resolved id. ``requests`` counts calls of callers: 1 once for each call, 0 for all further requests
    of it. ``run``: a DeepSearch run begins. ``bound`` None: nothing is sent to an upstream yet, so neither tokens nor
    dollars are charged. ``unpriced``: a model without a price may be used all the same.
    """

    endpoint: EndpointName
    model: str
    bound: Bound | None
    requests: int = 1
    run: bool = False
    unpriced: bool = False


_made = tuple.__new__  # a third of the time of a named tuple's own constructor


def charges(scopes: Sequence[Scope], calendar: Calendar, now_s: float, demand: Demand) -> tuple[Charge, ...]:
    """The charges of a demand: one for each limit and budget of the scopes that it counts for, in the scopes' order.
    Several may share a counter, as ``tokens_per_day`` and a budget ``tokens/day``, which is charged once.

    ``now_s`` is the call's start in Unix seconds: a call belongs to the windows of its start. Amounts of 0 are charged
    too if a bound is given, and always fit: so an answer from the cache can be told what is left.

    Raises InvalidRequest, which names the field to send, if nobody knows the bound and a limit or budget needs it, and
    ModelNotPriced.
    """
    requests, bound = demand.requests, demand.bound
    found: list[Charge] = []
    for scope in scopes:
        for rule in scope.rules:
            unit, window, chosen, limit, name, warn_at = rule
            if chosen and not filters.fits(chosen, demand.endpoint, demand.model):
                continue
            if unit == "tokens" or unit == "usd":
                if bound is None:
                    continue
                amount = bound.tokens if unit == "tokens" else bound.cost
                if amount is None:
                    amount = _unknown(demand, bound, scope, rule)
            else:
                amount = demand.run if unit == "runs" else requests if unit == "requests" else requests > 0
                if not amount:
                    continue
            if isinstance(window, str):
                window = calendar.window(window, now_s)
            found.append(_made(Charge, (scope.id, unit, window, chosen, limit, int(amount), name, warn_at)))
    return tuple(found)


def window_of(rule: Rule, calendar: Calendar, now_s: float) -> tuple[int, int]:
    return calendar.window(rule.window, now_s) if isinstance(rule.window, str) else rule.window


def _unknown(demand: Demand, bound: Bound, scope: Scope, rule: Rule) -> int:
    """The amount to charge if the tokens or the dollars are not known. Raises InvalidRequest or ModelNotPriced."""
    if bound.tokens is None:
        how = bound.hint or (f"send {bound.field}" if bound.field else "it cannot be sent")
        raise InvalidRequest(
            f"{_whose(scope)} has the {_kind(rule.name)} {rule.name}, so this gateway must know the most tokens that a "
            f"call can cost: {how}",
            param=bound.field or None,
        )
    if demand.unpriced:
        return 0
    raise ModelNotPriced(
        f"{_whose(scope)} has the budget {rule.name}, and {demand.model} has no price at the upstream that would "
        "be asked. The gateway's operator can set one (prices), or allow models without a price (unpriced: allow)",
        param="model",
    )


def refusal(
    scopes: Sequence[Scope], charged: Sequence[Charge], decision: Decision, now_s: float
) -> LimitExceeded | BudgetExhausted:
    """The error for a decision that refused. It says which limit, whose, how much is left, and when it frees.

    Only for a decision whose ``refused`` is not None. ``now_s`` is the present Unix time.
    """
    assert decision.refused is not None
    charge, balance = charged[decision.refused], decision.balances[decision.refused]
    whose = next((_whose(scope) for scope in scopes if scope.id == charge.scope), charge.scope)
    frees_at = _frees_at(charge, balance, now_s)
    kind = _kind(charge.name)
    error = (BudgetExhausted if kind == "budget" else LimitExceeded)(
        f"{whose} has the {kind} {charge.name}: {_state(charge, balance, frees_at)}",
        retry_after=None if frees_at is None else max(frees_at - now_s, 0),
    )
    # The SDKs of OpenAI obey no longer wait than a minute, and ask again at once instead, so they are told not to.
    if frees_at is None or whole_seconds(frees_at - now_s) > SLIDING:
        error.should_retry = False
    return error


def _frees_at(charge: Charge, balance: Balance, now_s: float) -> float | None:
    """The Unix time at which the charge fits again if nothing else is used; None if never."""
    if charge.amount > charge.limit:
        return None
    if balance.frees_at is not None:
        return balance.frees_at
    if charge.unit in OPEN:  # until one of the open calls ends, which nobody can foretell
        return now_s + 1
    if charge.window == MINUTE:
        return now_s + SLIDING
    return None if charge.window[1] >= FOREVER else charge.window[1]


def _state(charge: Charge, balance: Balance, frees_at: float | None) -> str:
    if charge.amount > charge.limit:
        return (
            f"this call needs {said_of(charge.unit, charge.amount, charge.limit)}, more than there ever is. {_SMALLER}"
        )
    if charge.unit in OPEN:
        return f"{balance.held} of {charge.limit} are open, so this call has to wait until one ends"
    left = max(charge.limit - balance.spent - balance.held, 0)
    text = f"{said_of(charge.unit, left, charge.limit)} left, and this call may need {said(charge.unit, charge.amount)}"
    if balance.held:
        text += f"; open calls hold {said(charge.unit, balance.held)}, and what they do not use comes back"
    return f"{text}. {'It does not free by itself' if frees_at is None else f'It fits again at {moment(frees_at)}'}"


_SMALLER = "Send a smaller call, or ask the gateway's operator for more"


def said(unit: str, amount: int) -> str:
    """An amount in words: ``$2.5``, ``1 request``, ``20 tokens``."""
    return f"${dollars(amount)}" if unit == "usd" else f"{amount} {unit.removesuffix('s') if amount == 1 else unit}"


def said_of(unit: str, amount: int, limit: int) -> str:
    """A part of a limit in words: ``$2.5 of $10``, ``3 of 20 tokens``."""
    return f"{said(unit, amount) if unit == 'usd' else amount} of {said(unit, limit)}"


def _kind(name: str) -> str:
    return "budget" if "/" in name else "limit"


def _whose(scope: Scope) -> str:
    kind = scope.id.partition(":")[0]
    return "the organization" if kind == "organization" else f"the {kind} {scope.name!r}"


def headers(charged: Sequence[Charge], decision: Decision, now_s: float) -> dict[str, str]:
    """OpenAI's headers of the tightest limit by minute or day of each kind, requests and tokens; none of a kind without
    a limit. What is left may be 0. A minute is wholly free when all of its seconds have passed."""
    tightest: dict[str, tuple[int, Charge, Balance]] = {}
    for charge, balance in zip(charged, decision.balances, strict=True):
        _, unit, _, _, limit, _, name, warn_at = charge
        if unit in KINDS and not warn_at and "/" not in name:
            left = limit - balance[0] - balance[1]
            other = tightest.get(unit)
            if other is None or left < other[0]:
                tightest[unit] = (left, charge, balance)
    found: dict[str, str] = {}
    admitted = decision.refused is None
    for unit, (left, charge, balance) in tightest.items():
        names = KINDS[unit]
        found[names[0]] = str(charge.limit)
        found[names[1]] = str(max(left, 0))
        found[names[2]] = duration(_rest(charge, balance, now_s, admitted=admitted))
    return found


KINDS = {
    unit: tuple(f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset"))
    for unit in ("requests", "tokens")
}


def _rest(charge: Charge, balance: Balance, now_s: float, *, admitted: bool) -> float:
    """Seconds until the window of a limit is wholly free. What the store says of a minute is that, unless the charge
    does not fit; then it is when the charge fits, and the last call may have been in this second."""
    used = balance.spent + balance.held
    if used <= 0:
        return 0
    if charge.window != MINUTE:
        return max(charge.window[1] - now_s, 0)
    if balance.frees_at is not None and (admitted or used + charge.amount <= charge.limit):
        return max(balance.frees_at - now_s, 0)
    return SLIDING


def duration(seconds: float) -> str:
    """Seconds in OpenAI's form, rounded up: ``59ms``, ``1s``, ``6m0s``, ``23h59m59s``; ``0s`` for none."""
    thousandths = math.ceil(seconds * 1000 - 0.0005)  # so much is an error of a float
    if thousandths < 1000:
        return f"{thousandths}ms" if thousandths > 0 else "0s"
    return _duration(-(-thousandths // 1000))


@lru_cache(256)
def _duration(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s" if minutes else f"{rest}s"
