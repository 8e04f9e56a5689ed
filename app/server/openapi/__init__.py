"""The document of /docs and /openapi.json: reviewed files for the hot paths, FastAPI's description of its own routes.

The files are parts of one OpenAPI document, laid over each other. They are read when the document is first asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

import msgspec
from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from ...core.types import Json
from ...endpoints import ENDPOINTS, Endpoint

FILES = ("gateway.yaml", "embeddings.yaml", "rerank.yaml", "chat.yaml", "own.yaml", "failures.yaml")

# FastAPI's own form of a request that is refused, which no route answers with: all have the gateway's envelope.
_UNUSED_STATUS = "422"
_UNUSED_SCHEMAS = ("HTTPValidationError", "ValidationError")


def contents(routes: Sequence[BaseRoute]) -> Json:
    """The part of the document that is the same at each address; ``routes`` are those of the application."""
    described = get_openapi(title="", version="", routes=routes)
    for item in described["paths"].values():
        for operation in item.values():
            operation["responses"].pop(_UNUSED_STATUS, None)
    for name in _UNUSED_SCHEMAS:
        described["components"]["schemas"].pop(name, None)
    found: Json = {}
    for name in FILES:
        found = merged(found, msgspec.yaml.decode((files(__package__ or "") / name).read_bytes()))
    for endpoint in ENDPOINTS.values():
        for path in endpoint.paths:
            if path not in found["paths"]:
                found["paths"][path] = {endpoint.method.lower(): _undescribed(endpoint, path, found)}
    return merged(found, {part: described[part] for part in ("paths", "components")})


def document(contents: Json, version: str, address: str) -> Json:
    """The OpenAPI 3.1 document of this ``version`` of the gateway, which is at ``address``."""
    said = contents["info"]["description"].replace("{address}", address)
    info = {**contents["info"], "version": version, "description": said}
    return {**contents, "info": info, "servers": [{"url": address}]}


def merged(one: Json, other: Json) -> Json:
    """Both, mappings in mappings likewise; where both have a value that is none, the other's."""
    both = {**one, **other}
    for name in one.keys() & other.keys():
        if isinstance(one[name], dict) and isinstance(other[name], dict):
            both[name] = merged(one[name], other[name])
    return both


def _undescribed(endpoint: type[Endpoint], path: str, found: Json) -> Json:
    """The operation at a path of the registry that no file describes, in the words of its endpoint."""
    content = {"application/json": {"schema": {"type": "object"}}}
    refusals = {status: {"$ref": f"#/components/responses/{status}"} for status in found["components"]["responses"]}
    return {
        "operationId": path[1:].replace("/", "_"),
        "tags": ["models"],
        "summary": endpoint.summary,
        "description": endpoint.description,
        "security": [{"bearer": []}, {"api-key": []}, {"x-api-key": []}, {}],
        "requestBody": {"required": True, "content": content},
        "responses": {"200": {"description": "The answer.", "content": content}, **refusals},
    }
