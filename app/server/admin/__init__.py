"""The operator's routes: one module for each resource, whose ``router`` is included here.

The routes exist only if an operator key is set, and callers' keys do not open them. They are not in the OpenAPI
document, which is for callers.
"""

from __future__ import annotations

from fastapi import APIRouter

from . import upstreams

router = APIRouter(prefix="/admin", include_in_schema=False)
router.include_router(upstreams.router)
