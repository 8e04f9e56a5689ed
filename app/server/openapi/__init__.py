"""The OpenAPI document of /docs and /openapi.json: reviewed files for the hot paths, FastAPI's output for its routes.

The files are parts of one document and are merged in order. They are read when the document is first requested. The
operator's API has a document of its own, whose beginning is in OPERATOR_FILE.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

import msgspec
from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from ...core.types import Json
from ...endpoints import ENDPOINTS, Endpoint

FILES = (
    *("gateway.yaml", "embeddings.yaml", "rerank.yaml", "chat.yaml", "web.yaml", "svip.yaml", "classify.yaml"),
    *("own.yaml", "failures.yaml"),
)
OPERATOR_FILE = "operator.yaml"

# FastAPI's validation error, which no route sends: the gateway's error envelope replaces it.
_UNUSED_STATUS = "422"
_UNUSED_SCHEMAS = ("HTTPValidationError", "ValidationError")

# Headers that may hold a caller's key. An open gateway needs none of them.
CALLER_KEY: list[Json] = [{"bearer": []}, {"api-key": []}, {"x-api-key": []}]


def contents(routes: Sequence[BaseRoute]) -> Json:
    """The document without version and address; ``routes`` are the application's."""
    described = _described(routes)
    found: Json = {}
    for name in FILES:
        found = merged(found, _read(name))
    for endpoint in ENDPOINTS.values():
        for path in endpoint.paths:
            if path not in found["paths"]:
                found["paths"][path] = {endpoint.method.lower(): _undescribed(endpoint, path, found)}
    return merged(found, {part: described[part] for part in ("paths", "components")})


def operator_contents(routes: Sequence[BaseRoute]) -> Json:
    """The document of the operator's API without its version; ``routes`` are those of the API."""
    common, failures = _read("gateway.yaml")["components"], _read("failures.yaml")["components"]
    said = merged({"components": {**common, "schemas": failures["schemas"]}}, _read(OPERATOR_FILE))
    described = _described(routes)
    return merged(said, {part: described[part] for part in ("paths", "components")})


def _described(routes: Sequence[BaseRoute]) -> Json:
    """What FastAPI says of the routes, without the validation error that none of them sends."""
    found: Json = get_openapi(title="", version="", routes=routes)
    for item in found["paths"].values():
        for operation in item.values():
            operation["responses"].pop(_UNUSED_STATUS, None)
    for name in _UNUSED_SCHEMAS:
        found["components"]["schemas"].pop(name, None)
    return found


def _read(name: str) -> Json:
    found: Json = msgspec.yaml.decode((files(__package__ or "") / name).read_bytes())
    return found


def document(contents: Json, version: str, address: str) -> Json:
    """The OpenAPI 3.1 document for this ``version`` of the gateway at ``address``."""
    said = contents["info"]["description"].replace("{address}", address)
    info = {**contents["info"], "version": version, "description": said}
    return {**contents, "info": info, "servers": [{"url": address}]}


def merged(one: Json, other: Json) -> Json:
    """Both mappings, merged recursively. If two values are not both mappings, the value of ``other`` wins."""
    both = {**one, **other}
    for name in one.keys() & other.keys():
        if isinstance(one[name], dict) and isinstance(other[name], dict):
            both[name] = merged(one[name], other[name])
    return both


def refusals(*statuses: int | str) -> Json:
    """The error responses that operations share, by status, for ``openapi_extra``."""
    return {"responses": {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}}


def _undescribed(endpoint: type[Endpoint], path: str, found: Json) -> Json:
    """The operation at a registered path that no file describes, made from the endpoint's own texts."""
    content = {"application/json": {"schema": {"type": "object"}}}
    answer = {"responses": {"200": {"description": "The answer.", "content": content}}}
    return {
        "operationId": path[1:].replace("/", "_"),
        "tags": ["models"],
        "summary": endpoint.summary,
        "description": endpoint.description,
        "security": [*CALLER_KEY, {}],
        "requestBody": {"required": True, "content": content},
        **merged(answer, refusals(*found["components"]["responses"])),
    }
