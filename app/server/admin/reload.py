"""POST /admin/v1/reload: read the configuration again, as SIGHUP and ``torii reload`` do."""

from __future__ import annotations

from functools import partial
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request

from ...core.errors import ChangeRefused
from ..openapi import refusals
from ..reload import aside
from ..routes import OperatorRoute
from ..runfile import SECONDS, NotReloaded, reloaded


class Reloaded(BaseModel):
    """The result of a reload that was applied. Settings are given by name, never by value."""

    object: Literal["reload"] = "reload"
    changed: list[str] = Field(description="The settings that differ from before.")
    restart: list[str] = Field(description="Changed settings that only a restart applies.")
    notes: list[str] = Field(description="Possible causes if nothing changed.")


router = APIRouter(route_class=OperatorRoute, tags=["reload"])


@router.post(
    "/reload",
    operation_id="reload",
    summary="Read the configuration again",
    response_description="The configuration is in force, in all processes of this gateway.",
    openapi_extra=refusals(409),
)
async def reload(request: Request) -> Reloaded:
    """Open calls finish with the configuration that they began with. If the new configuration has mistakes, the answer
    is a 409 that lists them, and nothing has changed."""
    port: int | None = getattr(request.app.state, "port", None)
    if port is None:
        raise ChangeRefused("this process cannot reload its configuration: only a gateway under torii serve can")
    try:
        result = await aside(partial(reloaded, port), SECONDS + 1)
    except (NotReloaded, TimeoutError) as error:
        raise ChangeRefused(f"the configuration was not reloaded: {error}") from None
    if result.mistakes:
        raise ChangeRefused(
            f"the gateway kept its configuration: {'; '.join(result.mistakes)}", code="invalid_configuration"
        )
    return Reloaded(changed=result.changed, restart=result.restart, notes=result.notes)
