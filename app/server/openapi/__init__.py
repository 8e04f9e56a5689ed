"""The document of /docs and /openapi.json: each route with its request, its answers, real examples of both.

FastAPI does not write the document, because it leaves out every null, also from the examples,
and in an error's envelope ``param`` and ``code`` are there even where they are null.
"""

from __future__ import annotations

from functools import cache

from ...core.types import Json
from .documents import (
    DESCRIPTION,
    DOCUMENTS,
    ENDPOINTS,
    HEALTHZ,
    MODEL,
    MODELS,
    PATHS,
    READYZ,
    RESPONSES,
    TAGS,
    Document,
)

__all__ = [
    "DESCRIPTION",
    "ENDPOINTS",
    "HEALTHZ",
    "MODEL",
    "MODELS",
    "PATHS",
    "READYZ",
    "RESPONSES",
    "Document",
    "document",
]


def document(version: str, address: str = "http://localhost:8000") -> Json:
    """The OpenAPI 3.1 document of this ``version`` of the gateway, which is at ``address``."""
    info = {"title": "Torii", "version": version, "description": DESCRIPTION.replace("{address}", address)}
    return {"openapi": "3.1.0", "info": info, "servers": [{"url": address}], **_contents()}


@cache
def _contents() -> Json:
    """All of it that is the same wherever the gateway is."""
    # Not at the top: the examples are made by the endpoints' own code, which is work for who wants to read them.
    from .operations import components, operations, undescribed

    contents = operations()
    paths: Json = {}
    for page in DOCUMENTS:
        head = {"tags": [page.tag], "summary": page.summary, "description": page.description}
        operation = {"operationId": page.operation, **head, **(contents.get(page.operation) or undescribed())}
        paths.setdefault(page.path, {})[page.method.lower()] = operation
    return {
        "tags": [{"name": name, "description": words} for name, words in TAGS.items()],
        "paths": paths,
        "components": components(),
    }
