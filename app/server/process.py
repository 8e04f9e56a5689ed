"""GET /healthz and GET /readyz: liveness and readiness of the process, for orchestrators and monitors."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from .. import __version__
from ..core.errors import Unavailable
from .routes import OpenRoute


class DatabaseTrouble(BaseModel):
    """Why ledger rows cannot be written, how many wait and how many were lost. Only present if degraded."""

    model_config = ConfigDict(from_attributes=True)

    what: str
    waiting: int
    lost: int


class Health(BaseModel):
    status: Literal["ok", "degraded"]
    version: str
    database: DatabaseTrouble | None = None
    keys: str | None = Field(None, description="Why the created keys cannot be read; the last known ones hold.")


class Readiness(BaseModel):
    status: Literal["ready"]


router = APIRouter(route_class=OpenRoute, tags=["process"])


@router.get(
    "/healthz",
    operation_id="healthz",
    summary="Whether the process is alive",
    response_description="The process is alive.",
    response_model_exclude_none=True,
)
async def healthz(request: Request) -> Health:
    """Does not check the providers. `degraded` is alive too: rows for the ledger wait to be written, or keys cannot be
    read."""
    database = request.app.state.database
    trouble = database.health if database else None
    keys = request.app.state.registry.trouble
    return Health(status="degraded" if trouble or keys else "ok", version=__version__, database=trouble, keys=keys)


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Whether calls are accepted",
    response_description="Calls are accepted.",
)
async def readyz(request: Request) -> Readiness:
    """Answers 503 as soon as the gateway begins to shut down."""
    if request.app.state.generations.load.leaving:
        raise Unavailable("shutting down", retry_after=1)
    return Readiness(status="ready")
