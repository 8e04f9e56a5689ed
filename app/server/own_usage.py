"""GET /v1/usage: a caller's own limits and budgets, what is left of them, and its usage by day."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from starlette.requests import Request

from ..callers.accounts import Accounts
from ..callers.calendar import Calendar
from ..callers.keys import Caller
from ..callers.limits import Scope
from ..core.types import Json
from ..core.zones import zone_of
from .books import LedgerReader
from .routes import CallerRoute, Calling, InForce
from .standings import Shared, Standing, left, scope_or_empty, shared_balances

DAYS = 30


class OwnDay(BaseModel):
    """The calls that began on a day in the gateway's time zone."""

    date: str = Field(examples=["2026-11-30"])
    requests: int = Field(description="Calls, answers from the cache included.")
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = Field(description="What answers from the cache would have cost.")
    cost: str = Field(description="Dollars, as a decimal number in text.")


class OwnUsage(BaseModel):
    """The rest of the limits and budgets of the caller's key and its team, and the key's usage."""

    object: Literal["usage"] = "usage"
    key: str | None = Field(description="The key's public id, or the caller's name; null for an open gateway.")
    team: str | None = Field(description="The id of the key's team.")
    time_zone: str
    data: list[Standing] = Field(description="The key, then its team.")
    days: list[OwnDay] = Field(description=f"The last {DAYS} days, the earliest first; days without calls are missing.")


async def _reader(request: Request) -> LedgerReader:
    found: LedgerReader = request.app.state.own_usage_reader
    return found


router = APIRouter(route_class=CallerRoute, tags=["usage"])


@router.get(
    "/usage",
    operation_id="own_usage",
    summary="Your limits, budgets and usage",
    response_description="The answer.",
)
async def own_usage(
    caller: Calling, now: InForce, reader: Annotated[LedgerReader, Depends(_reader)], limits: Shared
) -> OwnUsage:
    """The rest of each limit and budget of your key and its team, when each frees, and your usage by day."""
    calendar = Calendar(now.settings.time_zone, now.settings.week_begins)
    scopes = own_scopes(caller, now.callers)
    shared = await shared_balances(limits, scopes, calendar)

    def read(path: Path) -> tuple[list[Json], list[Json]]:
        return left(path, scopes, calendar, shared), days(path, caller.id, calendar)

    data, by_day = await reader.run(read)
    whole = {"key": caller.id, "team": caller.team, "time_zone": calendar.zone, "data": data, "days": by_day}
    return OwnUsage.model_validate(whole)


def own_scopes(caller: Caller, accounts: Accounts) -> list[Scope]:
    """The scopes of the key and its team, also without limits. While the gateway is open, nobody has any."""
    if caller.id is None:
        return []
    own = [scope_or_empty(caller.scopes, f"key:{caller.id}", caller.name)]
    team = accounts.teams.get(caller.team or "")
    return [*own, scope_or_empty(caller.scopes, f"team:{team.id}", team.name)] if team else own


def days(path: Path, key: str | None, calendar: Calendar) -> list[Json]:
    """The sums of each day on which the key had calls. Raises StoreError."""
    from ..usage.pages import BucketsAsked, usage_buckets

    until = time.time()
    since = calendar.window("day", until)[0]
    for _ in range(DAYS - 1):
        since = calendar.window("day", since - 1)[0]
    asked = BucketsAsked(since, int(until) + 1, "1d", (), calendar.zone, key=key, limit=DAYS + 1)
    zone = zone_of(calendar.zone)
    return [
        {"date": datetime.fromtimestamp(bucket["start_time"], zone).date().isoformat(), **result}
        for bucket in usage_buckets(path, asked)["data"]
        for result in bucket["results"]
    ]
