"""The operator's endpoints: one module for each resource, whose ``router`` is named here.

They are there only where the operator has a key of their own, no caller's key opens them, and they are not in the
OpenAPI document, which is for callers.
"""

from __future__ import annotations

from fastapi import APIRouter

from . import upstreams

router = APIRouter(prefix="/admin", include_in_schema=False)
router.include_router(upstreams.router)
