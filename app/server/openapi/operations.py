"""Each operation's request and answers, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.types import Json
from . import chat, completions, embeddings, failures, models, rerank
from .exchanges import Exchange, Refusal, broken, collected, embedded, ranked, streamed

# Where a key may stand; none of them at a gateway without callers.
SECURITY: list[Json] = [{"bearer": []}, {"api-key": []}, {"x-api-key": []}, {}]

HEADERS: Json = {
    "x-request-id": {"description": "The gateway's id of this call; its log has it.", "schema": {"type": "string"}},
    "x-torii-upstream": {"description": "The provider that answered.", "schema": {"type": "string"}, "example": "jina"},
    "x-torii-upstream-model": {
        "description": "The model as the provider names it.",
        "schema": {"type": "string"},
        "example": "jina-embeddings-v3",
    },
    "x-torii-cache": {
        "description": "How much of the answer was at hand: all, some or none; off where none was looked for.",
        "schema": {"enum": ["hit", "partial", "miss", "off"]},
    },
    "x-torii-sandbox": {
        "description": "There, and true, where the answer is the sandbox's.",
        "schema": {"const": "true"},
    },
    "retry-after": {"description": "Seconds until the next try.", "schema": {"type": "integer", "minimum": 1}},
    "x-should-retry": {
        "description": "Whether a second try can help; the OpenAI SDKs obey it.",
        "schema": {"enum": ["true", "false"]},
    },
    "allow": {"description": "The methods of this path.", "schema": {"type": "string"}, "example": "POST"},
}

CACHE_CONTROL: Json = {
    "name": "cache-control",
    "in": "header",
    "description": "`no-store`: go past the cache. `no-cache`: ask the provider, and keep the answer.",
    "schema": {"type": "string"},
    "examples": {name: {"value": name} for name in ("no-store", "no-cache")},
}

CALLED = (*failures.ALWAYS, "x-torii-upstream", "x-torii-upstream-model")

SHARED = (401, 403, 404, 405, 408, 413, 415, 429, 500, 502, 503, 504)


def components() -> Json:
    nouns = (embeddings, rerank, chat, completions, models, failures)
    return {
        "schemas": {name: schema for noun in nouns for name, schema in noun.SCHEMAS.items()},
        "responses": {str(status): failures.response(status, cases) for status, cases in failures.examples().items()},
        "headers": HEADERS,
        "securitySchemes": {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "A key of this gateway, not a provider's. Not needed where the gateway has none.",
            },
            **{name: {"type": "apiKey", "in": "header", "name": name} for name in ("api-key", "x-api-key")},
        },
    }


def operations() -> dict[str, Json]:
    """By operationId."""
    return {
        "embeddings": _kept(
            "EmbeddingsRequest",
            {**_requests(embeddings.EXCHANGES), "token_ids": _example("Token ids", embeddings.TOKEN_IDS)},
            {"application/json": _content("EmbeddingsResponse", _answers(embeddings.EXCHANGES, embedded))},
            embeddings.REFUSALS,
        ),
        "rerank": _kept(
            "RerankRequest",
            _requests(rerank.EXCHANGES),
            {"application/json": _content("RerankResponse", _answers(rerank.EXCHANGES, ranked, "/v1/rerank"))},
            rerank.REFUSALS,
        ),
        "rerank_v2": _kept(
            "RerankV2Request",
            _requests(rerank.EXCHANGES_V2),
            {"application/json": _content("RerankV2Response", _answers(rerank.EXCHANGES_V2, ranked, "/v2/rerank"))},
            rerank.REFUSALS,
        ),
        "chat": _posted("ChatRequest", _chat_requests(), _chat_answers(), chat.REFUSALS),
        "models": _got("ModelList", models.model_list(), (401, 403, 405, 500)),
        "model": {
            "parameters": [MODEL_PARAMETER],
            **_got("Model", models.routes().describe("jina-clip-v2"), (401, 403, 404, 405, 500)),
        },
        "healthz": {"security": [{}], "responses": {"200": _healthy(), **_refs(403, 405)}},
        "readyz": {"security": [{}], "responses": {"200": _alive("ready"), **_refs(403, 405), "503": _not_ready()}},
    }


MODEL_PARAMETER: Json = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "The model's name. It may have slashes, as they are.",
    "schema": {"type": "string"},
    "examples": {name: {"value": name} for name in ("jina-clip-v2", "aihubmix/jina-clip-v2", "jina-ai/jina-clip-v2")},
}


def _posted(schema: str, requests: Json, content: Json, refusals: Sequence[Refusal]) -> Json:
    return {
        "security": SECURITY,
        "requestBody": {"required": True, "content": {"application/json": _content(schema, requests)}},
        "responses": {
            "200": {"description": "The answer.", "headers": _headers(*CALLED), "content": content},
            "400": failures.response(400, failures.refusals(refusals)),
            **_refs(*SHARED),
        },
    }


def undescribed() -> Json:
    """An endpoint of the registry whose fields are not written down in this package."""
    content = {"application/json": {"schema": {"type": "object"}}}
    return {
        "security": SECURITY,
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {"description": "The answer.", "headers": _headers(*CALLED), "content": content},
            **_refs(*SHARED),
        },
    }


def _kept(schema: str, requests: Json, content: Json, refusals: Sequence[Refusal]) -> Json:
    """As ``_posted``, for what the cache may have."""
    operation = _posted(schema, requests, content, refusals)
    operation["responses"]["200"]["headers"] |= _headers("x-torii-cache")
    return {"parameters": [CACHE_CONTROL], **operation}


def _got(schema: str, answer: Json, statuses: Sequence[int]) -> Json:
    return {
        "security": SECURITY,
        "responses": {
            "200": {
                "description": "The answer.",
                "headers": _headers(*failures.ALWAYS),
                "content": {"application/json": {"schema": _schema(schema), "example": answer}},
            },
            **_refs(*statuses),
        },
    }


def _alive(status: str, **more: str) -> Json:
    strings = {name: {"type": "string"} for name in ("status", *more)}
    return {
        "description": "Yes.",
        "headers": _headers(*failures.ALWAYS),
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": list(strings), "properties": strings},
                "example": {"status": status, **more},
            }
        },
    }


def _healthy() -> Json:
    """With what is wrong with the database, while something is."""
    alive = _alive("ok", version="1.0.0")
    schema = alive["content"]["application/json"]["schema"]
    schema["properties"]["status"]["enum"] = ["ok", "degraded"]
    schema["properties"]["database"] = {
        "type": "object",
        "description": "Why rows cannot be written, how many wait and how many were lost. Only where it is degraded.",
        "required": ["what", "waiting", "lost"],
        "properties": {"what": {"type": "string"}, "waiting": {"type": "integer"}, "lost": {"type": "integer"}},
    }
    return alive


def _not_ready() -> Json:
    return failures.response(503, {"draining": ("Shutting down", failures.NOT_READY)})


def _chat_requests() -> Json:
    asked = _requests((*completions.STREAMED[:1], *completions.WHOLE[:1]))
    return {**asked, **chat.REQUESTS, "other_model": chat.OTHER_MODEL}


def _chat_answers() -> Json:
    # OpenAPI 3.1 has no word for a stream's items; those who check it take a "type" here for that of each event.
    stream = {"description": "Server-sent events; the data of each is a ChatCompletionChunk."}
    cut = _example("DeepSearch, streamed, cut short", broken(completions.STREAMED[0], failures.TRUNCATED))
    return {
        "application/json": _content("ChatCompletion", _answers(completions.WHOLE, collected)),
        "text/event-stream": {
            "schema": stream,
            "examples": {**_answers(completions.STREAMED, streamed), "cut_short": cut},
        },
    }


def _requests(exchanges: Sequence[Exchange]) -> Json:
    return {exchange.name: _example(exchange.summary, exchange.request) for exchange in exchanges}


def _answers(exchanges: Sequence[Exchange], answer: Any, *rest: Any) -> Json:
    return {
        exchange.name: _example(exchange.summary, answer(exchange, *rest))
        for exchange in exchanges
        if exchange.reply is not None
    }


def _example(summary: str, value: Any) -> Json:
    return {"summary": summary, "value": value}


def _content(schema: str, examples: Json) -> Json:
    return {"schema": _schema(schema), "examples": examples}


def _schema(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _refs(*statuses: int) -> Json:
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}
