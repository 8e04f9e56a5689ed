"""The operator's endpoints, which are there only where he has a key of his own; no caller's key opens them.

They are not in the OpenAPI document, which is for callers.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp

from ...callers.keys import Callers
from ...core.redaction import Redactor
from ...routing.pool import Pool
from ..handlers import Handlers
from ..openapi import Document
from .upstreams import Upstreams

UPSTREAMS = Document("admin_upstreams", "GET", "/admin/upstreams", "The state of each key of each upstream", "operator")


DOCUMENTS = {UPSTREAMS.path: UPSTREAMS}


def doors(
    handlers: Handlers, operator: Callers | None, pools: Mapping[str, Pool], redactor: Redactor
) -> dict[str, ASGIApp]:
    """The application of each path. Without an operator there is nothing, as at any unknown path."""
    if operator is None:
        return dict.fromkeys(DOCUMENTS, handlers.nothing())
    upstreams = Upstreams(list(pools.values()), redactor.message)
    return {UPSTREAMS.path: handlers.simple(upstreams.states, callers=operator)}
