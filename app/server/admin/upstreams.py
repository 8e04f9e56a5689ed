"""GET /admin/v1/upstreams, and /admin/upstreams of earlier versions.

The state, the calls in flight and the used limits of each upstream key.
"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from ..routes import InForce, OperatorRoute


class WindowUse(BaseModel):
    """A provider's limit for one minute, and how much of it is used."""

    used: int
    limit: int


class UpstreamKey(BaseModel):
    """A key. ``broken``: its upstream keeps failing; ``waiting``: calls that wait for any key of its upstream."""

    upstream: str
    broken: bool
    waiting: int
    key: str = Field(description="The key's name in logs and in the ledger.")
    tail: str = Field(description="The key's last four characters, if it is long enough.")
    state: Literal["healthy", "resting", "trial"] = Field(
        description="resting: in cooldown; trial: the next call decides."
    )
    cause: str | None
    until: str | None = Field(description="The end of the cooldown, RFC 3339.")
    at_work: int
    concurrency: int | None
    weight: int | float
    minute: dict[str, WindowUse]
    calls: int
    failures: int


class UpstreamKeys(BaseModel):
    object: Literal["list"]
    data: list[UpstreamKey]


router = APIRouter(route_class=OperatorRoute, tags=["upstreams"])


@router.get(
    "/upstreams",
    operation_id="upstreams",
    summary="The upstreams' keys",
    response_description="All keys.",
)
async def upstreams(now: InForce) -> UpstreamKeys:
    """One entry for each key, in the order of the upstreams."""
    rows = [row for pool in now.pools.values() for row in pool.state()]
    # The operator may have used the key itself as its name.
    return UpstreamKeys.model_validate(
        {"object": "list", "data": [{**row, "key": now.clean(row["key"])} for row in rows]}
    )
