"""GET /healthz and GET /readyz: liveness and readiness of the process, for orchestrators and monitors."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from .. import __version__
from ..core.errors import Unavailable
from .routes import OpenRoute


class DatabaseTrouble(BaseModel):
    """Why ledger rows cannot be written, how many wait and how many were lost, and since when (a Unix time in seconds).
    Only present if degraded."""

    model_config = ConfigDict(from_attributes=True)

    what: str
    waiting: int
    lost: int
    since: int


class Health(BaseModel):
    status: Literal["ok", "degraded"]
    version: str
    database: DatabaseTrouble | None = None
    keys: str | None = Field(None, description="Why the created keys cannot be read; the last known ones hold.")
    counters: str | None = Field(
        None, description="Why Redis is away; limits are kept by each process for its share of them."
    )


class Readiness(BaseModel):
    status: Literal["ready"]
    away: list[Literal["database", "keys", "counters"]] | None = Field(
        None, description="What `/healthz` reports trouble of; only if there is any. Calls are accepted all the same."
    )


router = APIRouter(route_class=OpenRoute, tags=["process"])


@router.get(
    "/healthz",
    operation_id="healthz",
    summary="Whether the process is alive",
    response_description="The process is alive.",
    response_model_exclude_none=True,
)
async def healthz(request: Request) -> Health:
    """Does not check the providers. `degraded` is alive too: rows for the ledger wait to be written, keys cannot be
    read, or Redis is away."""
    found = _trouble(request)
    return Health(status="degraded" if found else "ok", version=__version__, **found)


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Whether calls are accepted",
    response_description="Calls are accepted.",
    response_model_exclude_none=True,
)
async def readyz(request: Request) -> Readiness:
    """Answers 503 as soon as the gateway begins to shut down, and until it has read the created keys once."""
    if request.app.state.generations.load.leaving:
        raise Unavailable("shutting down", retry_after=1)
    registry = request.app.state.registry
    if not registry.loaded:
        raise Unavailable(f"the keys were not read yet: {registry.trouble}", retry_after=1)
    return Readiness(status="ready", away=[*_trouble(request)] or None)


def _trouble(request: Request) -> dict[Any, Any]:
    """The stores that are away, and why, by the fields of Health."""
    state = request.app.state
    found = {
        "database": state.database.health if state.database else None,
        "keys": state.registry.trouble,
        "counters": state.shared.counters.trouble if state.shared else None,
    }
    return {name: trouble for name, trouble in found.items() if trouble}
