"""GET /admin/v1/openapi.json: the OpenAPI document of the operator's API."""

from __future__ import annotations

from functools import cache

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from ... import __version__
from ...core.types import Json
from .. import openapi
from ..routes import OperatorRoute


def of(api: APIRouter) -> APIRouter:
    """A router with the document of ``api``. The document is made when it is first requested."""

    @cache
    def contents() -> Json:
        whole = APIRouter()
        whole.include_router(api)
        return openapi.operator_contents(whole.routes)

    router = APIRouter(route_class=OperatorRoute)

    @router.get("/openapi.json")
    async def document() -> JSONResponse:
        return JSONResponse({**contents(), "info": {**contents()["info"], "version": __version__}})

    return router
