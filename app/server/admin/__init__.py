"""The operator's API: one module for each resource, whose ``router`` is included here.

It exists only if there is an operator key or a management key, and callers' keys do not open it. It has an OpenAPI
document of its own, under the operator's key; the one at /openapi.json is for callers.
"""

from __future__ import annotations

from fastapi import APIRouter

from . import audit, calls, classifiers, document, keys, limits, management_keys, reload, teams, upstreams, usage

v1 = APIRouter(prefix="/admin/v1")
for resource in (
    keys.router,
    *(teams.seen, teams.changed),
    limits.router,
    usage.router,
    calls.router,
    classifiers.router,
    upstreams.router,
    management_keys.router,
    audit.router,
    reload.router,
):
    v1.include_router(resource)

router = APIRouter(include_in_schema=False)
router.include_router(upstreams.router, prefix="/admin")
router.include_router(v1)
router.include_router(document.of(v1), prefix="/admin/v1")
