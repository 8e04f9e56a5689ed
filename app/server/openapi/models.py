"""GET /v1/models and GET /v1/models/{model}: the schemas, and examples from the built-in catalogue."""

from __future__ import annotations

from functools import cache

from ...core.errors import ToriiError
from ...core.types import Json, Key
from ...endpoints import ENDPOINTS
from ...routing.table import Account, RouteTable
from ...upstreams.aihubmix import AIHubMix
from ...upstreams.jina import Jina
from .exchanges import refused

STRINGS: Json = {"type": "array", "items": {"type": "string"}}

MODEL: Json = {
    "type": "object",
    "description": "A model. What does not apply is null or empty, never absent.",
    "required": [
        *("id", "object", "created", "owned_by", "endpoints", "inputs", "dimensions", "dimensions_allowed"),
        *("context_length", "tasks", "max_inputs", "features", "upstreams", "alias_of"),
    ],
    "properties": {
        "id": {"type": "string", "description": "The name by which calls ask for it."},
        "object": {"const": "model"},
        "created": {
            "type": "integer",
            "description": "The day it came out, as a Unix time; 0 where that is not known.",
        },
        "owned_by": {"type": "string"},
        "endpoints": {"type": "array", "items": {"enum": list(ENDPOINTS)}},
        "inputs": {**STRINGS, "description": "What it reads: text, image, audio, video, pdf, file."},
        "dimensions": {"type": ["integer", "null"], "description": "The size of a full vector."},
        "dimensions_allowed": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "The values of the `dimensions` option, where only certain ones are possible.",
        },
        "context_length": {"type": ["integer", "null"], "description": "Tokens of one input."},
        "tasks": {**STRINGS, "description": "The values of the `task` option."},
        "max_inputs": {
            "type": ["integer", "null"],
            "description": "Inputs of one call to the provider; more are sent in parts.",
        },
        "features": {
            **STRINGS,
            "description": "Options that not every model takes, and answers of another form: multivector, sparse, "
            "reasoning, citations.",
        },
        "upstreams": {**STRINGS, "description": "Where it is asked for, the first first."},
        "alias_of": {"type": ["string", "null"], "description": "The name that an alias stands for."},
    },
}

LIST: Json = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
    },
}

SCHEMAS: Json = {"Model": MODEL, "ModelList": LIST}

ALIAS = "text-embedding-3-small"
SHOWN = ("jina-embeddings-v3", "jina-colbert-v2", "jina-reranker-m0", "jina-deepsearch-v1", ALIAS)


@cache
def routes() -> RouteTable:
    """Both providers and one alias, as a configuration could have them."""
    accounts = {"jina": Account(Jina(), "jina", Key("")), "aihubmix": Account(AIHubMix(), "aihubmix", Key(""))}
    return RouteTable(accounts, {ALIAS: "jina-embeddings-v3"})


def model_list() -> Json:
    return {"object": "list", "data": [routes().describe(name) for name in SHOWN]}


def unknown() -> ToriiError:
    return refused(lambda: routes().find("jina-embedding-v3"))
