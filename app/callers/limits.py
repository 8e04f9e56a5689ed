"""Limits and budgets of callers, their teams and the organization.

scopes, a call's bound -> charges -> [the ledger's file holds them] -> headers, or the refusal
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

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


@dataclass(frozen=True, slots=True)
class Scope:
    """The limits and budgets of a key, a team or the organization. ``id`` is ``key:ID``, ``team:ID`` or
    ``organization``; ``name`` is the key's or the team's name, for messages."""

    id: str
    name: str
    limits: Limits = Limits()
    budgets: tuple[Budget, ...] = ()


class Bound(NamedTuple):
    """The most that a call can cost. ``tokens`` None: nobody knows. ``cost`` is in nano-dollars, None without a price.
    ``field`` names what a caller can send to bound the call, ``max_tokens`` for instance."""

    tokens: int | None
    cost: int | None = None
    field: str = ""
