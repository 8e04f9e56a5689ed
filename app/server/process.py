"""GET /healthz and GET /readyz: the process itself, for whatever watches over it."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request

from .. import __version__
from ..core.errors import Unavailable
from .routes import OpenRoute


class DatabaseTrouble(BaseModel):
    """Why rows cannot be written, how many wait and how many were lost. Only where it is degraded."""

    model_config = ConfigDict(from_attributes=True)

    what: str
    waiting: int
    lost: int


class Health(BaseModel):
    status: Literal["ok", "degraded"]
    version: str
    database: DatabaseTrouble | None = None


class Readiness(BaseModel):
    status: Literal["ready"]


router = APIRouter(route_class=OpenRoute, tags=["process"])


@router.get(
    "/healthz",
    operation_id="healthz",
    summary="Whether the process is alive",
    response_description="Yes.",
    response_model_exclude_none=True,
)
async def healthz(request: Request) -> Health:
    """Says nothing of the providers. `degraded` is alive too: what is to be written to the ledger waits."""
    database = request.app.state.database
    trouble = database.health if database else None
    return Health(status="degraded" if trouble else "ok", version=__version__, database=trouble)


@router.get("/readyz", operation_id="readyz", summary="Whether calls are taken", response_description="Yes.")
async def readyz(request: Request) -> Readiness:
    """503 from the moment the gateway shuts down."""
    if request.app.state.generations.load.leaving:
        raise Unavailable("shutting down", retry_after=1)
    return Readiness(status="ready")
