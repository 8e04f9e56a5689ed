"""The rest of limits and budgets, as callers and the operator read it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from fastapi import Depends
from pydantic import BaseModel, Field
from starlette.requests import Request

from ..callers.accounts import ORGANIZATION
from ..callers.calendar import Calendar
from ..callers.limits import Scope
from ..callers.standing import counted, standing
from ..core.types import Json
from ..gateway.shared_limits import SharedLimits
from ..storage.counters import balances
from ..storage.holds import Balance, Charge
from ..storage.used import used_scopes
from .forms import Moment

FEW = 3  # scopes, as of one key
UNUSED = Balance(0, 0, None)
NOTHING_SHARED: Mapping[Charge, Balance] = MappingProxyType({})


class LimitState(BaseModel):
    """A limit. A day is a calendar day in the gateway's time zone, a minute is any 60 seconds."""

    limit: str = Field(examples=["tokens_per_minute"])
    amount: int
    used: int = Field(description="What calls used, and what open calls hold.")
    remaining: int
    resets_at: Moment | None = Field(description="When all of it is free again; null if nothing says so.")


class BudgetState(BaseModel):
    """A budget in its present window. Dollars are decimal numbers in text."""

    unit: str
    window: str
    amount: int | str
    spent: int | str
    held: int | str = Field(description="What open calls hold; what they do not use comes back.")
    remaining: int | str
    resets_at: Moment | None = Field(description="The end of the window; null for `total`.")
    endpoints: list[str] | None = Field(description="The endpoints that it counts; null for all.")
    models: list[str] | None = Field(description="The models that it counts; null for all.")


class Standing(BaseModel):
    """The rest of the limits and budgets of a key, a team or the organization."""

    scope: str = Field(description="`key`, `team` or `organization`.")
    id: str
    name: str
    limits: list[LimitState]
    budgets: list[BudgetState]


def scope_or_empty(scopes: Iterable[Scope], scope: str, name: str) -> Scope:
    """The scope with the id ``scope``; without limits and budgets if it is not among ``scopes``."""
    return next((each for each in scopes if each.id == scope), Scope(scope, name))


async def shared_balances(
    limits: SharedLimits | None, scopes: Sequence[Scope], calendar: Calendar
) -> dict[Charge, Balance]:
    """The balances of what replicas share; none without Redis, or while it is away."""
    if limits is None:
        return {}
    return await limits.balances([charge for scope in scopes for charge in counted(scope, calendar, time.time())])


def left(
    path: Path, scopes: Sequence[Scope], calendar: Calendar, shared: Mapping[Charge, Balance] = NOTHING_SHARED
) -> list[Json]:
    """A ``Standing`` of each scope. Reads the ledger's file but for the ``shared`` balances. Raises StoreError."""
    now = time.time()
    charges = [counted(scope, calendar, now) for scope in scopes]
    # A counter that there is not yet is summed up from the ledger, which takes some milliseconds each.
    used = used_scopes(path) | {ORGANIZATION} if len(scopes) > FEW else {scope.id for scope in scopes}
    asked = [charge for each in charges for charge in each if charge.scope in used and charge not in shared]
    found = {**shared, **dict(zip(asked, balances(path, asked), strict=True))}
    return [
        standing(scope, each, [found.get(charge, UNUSED) for charge in each])
        for scope, each in zip(scopes, charges, strict=True)
    ]


async def _shared(request: Request) -> SharedLimits | None:
    found: SharedLimits | None = request.app.state.shared
    return found


Shared = Annotated[SharedLimits | None, Depends(_shared)]
