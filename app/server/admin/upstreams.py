"""GET /admin/upstreams: whether each key works, what it does now, and how much of its limits is used."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from ..routes import InForce, OperatorRoute


class WindowUse(BaseModel):
    """A limit of the provider's within a minute."""

    used: int
    limit: int


class UpstreamKey(BaseModel):
    """A key of an upstream, which is ``broken`` while it keeps failing; ``waiting`` calls wait for any of its keys."""

    upstream: str
    broken: bool
    waiting: int
    key: str = Field(description="Its name in logs and in the ledger.")
    tail: str = Field(description="Its last four characters, where it is long enough.")
    state: Literal["healthy", "resting", "trial"] = Field(description="trial: the next call decides.")
    cause: str | None
    until: str | None = Field(description="The end of its rest, RFC 3339.")
    at_work: int
    concurrency: int | None
    weight: int | float
    minute: dict[str, WindowUse]
    calls: int
    failures: int


class UpstreamKeys(BaseModel):
    object: Literal["list"]
    data: list[UpstreamKey]


router = APIRouter(route_class=OperatorRoute)


@router.get("/upstreams", operation_id="admin_upstreams")
async def upstreams(now: InForce) -> UpstreamKeys:
    """One entry for each key, in the order of the upstreams."""
    rows = [row for pool in now.pools.values() for row in pool.state()]
    # A key may have been given to itself as a name.
    return UpstreamKeys.model_validate(
        {"object": "list", "data": [{**row, "key": now.clean(row["key"])} for row in rows]}
    )
