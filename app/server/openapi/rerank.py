"""POST /v1/rerank and POST /v2/rerank: the schemas, and examples from the pages of both providers."""

from __future__ import annotations

from ...core.types import Json
from ...endpoints.rerank import Rerank
from .exchanges import Exchange, Refusal
from .schema import option


def _count(words: str) -> Json:
    return option("integer", words, minimum=1)


MODEL: Json = {"type": "string", "description": "A name of `GET /v1/models`.", "examples": ["jina-reranker-m0"]}

QUERY: Json = {
    "description": "What to look for; `jina-reranker-m0` takes a picture too.",
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "object", "minProperties": 1, "additionalProperties": True, "examples": [{"image": "https://..."}]},
    ],
}

DOCUMENTS: Json = {
    "type": "array",
    "minItems": 1,
    "description": (
        "Texts, or objects with `text`, or with `image` (a URL, base64 or a data URI) for `jina-reranker-m0`. "
        "Both may be mixed. Never sent in parts: scores hold only among the documents that were read together."
    ),
    "items": {"anyOf": [{"type": "string"}, {"type": "object", "minProperties": 1, "additionalProperties": True}]},
}

TOP_N = _count("The most results to give; null and absent mean all.")
DOC_LIMIT = _count(
    "Tokens of a document that are read, for the models that have such a limit (`jina-reranker-v3` and newer: at most "
    "8192). Left out for others of Jina's."
)

COMMON: Json = {"model": MODEL, "query": QUERY, "documents": DOCUMENTS, "top_n": TOP_N}

REQUEST: Json = {
    "type": "object",
    "required": ["model", "query", "documents"],
    "additionalProperties": True,
    "properties": {
        **COMMON,
        "top_k": _count("The same as `top_n`."),
        "return_documents": option("boolean", "Whether results have their `document`.", default=True),
        "max_doc_length": DOC_LIMIT,
        "max_tokens_per_doc": _count("Cohere's name of `max_doc_length`."),
        "max_chunk_per_doc": _count("AIHubMix's name of `max_doc_length`."),
        "max_chunks_per_doc": _count("Of Cohere's first version: chunks, not tokens. Not sent to Jina's models."),
        "rank_fields": {
            "type": ["array", "null"],
            "minItems": 1,
            "items": {"type": "string"},
            "description": "Of Cohere's first version: which fields of the documents are read, joined by line ends.",
        },
        "return_embeddings": option("boolean", "An `embedding` in each result (`jina-reranker-v3` and newer)."),
        "user": option("string", "Accepted, and not passed on."),
    },
}

REQUEST_V2: Json = {
    "type": "object",
    "required": ["model", "query", "documents"],
    "additionalProperties": True,
    "properties": {
        **COMMON,
        "max_tokens_per_doc": DOC_LIMIT,
        "return_documents": option("boolean", "Whether results have their `document`.", default=False),
    },
}

RESULT: Json = {
    "type": "object",
    "required": ["index", "relevance_score"],
    "additionalProperties": True,
    "properties": {
        "index": {"type": "integer", "minimum": 0, "description": "The place in the request's `documents`."},
        "relevance_score": {"type": "number", "description": "The model's own; not always between 0 and 1."},
        "document": {
            "type": "object",
            "additionalProperties": True,
            "description": "The caller's document, always an object. Absent where it was not asked for.",
        },
        "embedding": {"description": "With `return_embeddings`."},
    },
}

ANSWER: Json = {
    "type": "object",
    "required": ["id", "object", "model", "results", "usage"],
    "additionalProperties": True,
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "list"},
        "model": {"type": "string", "description": "The name that the caller used."},
        "results": {
            "type": "array",
            "description": "The best first.",
            "items": {"$ref": "#/components/schemas/RerankResult"},
        },
        "usage": {"$ref": "#/components/schemas/Usage"},
    },
}

META: Json = {
    "type": "object",
    "properties": {
        "api_version": {"type": "object", "properties": {"version": {"type": "string"}}},
        "billed_units": {"type": "object", "properties": {"search_units": {"type": "integer"}}},
    },
}

ANSWER_V2: Json = {
    **ANSWER,
    "required": [*ANSWER["required"], "meta"],
    "properties": {**ANSWER["properties"], "meta": META},
}

SCHEMAS: Json = {
    "RerankRequest": REQUEST,
    "RerankV2Request": REQUEST_V2,
    "RerankResponse": ANSWER,
    "RerankV2Response": ANSWER_V2,
    "RerankResult": RESULT,
}

SKINCARE = [
    "Organic skincare for sensitive skin with aloe vera and chamomile",
    "New makeup trends focus on bold colors and innovative techniques",
    "针对敏感肌专门设计的天然有机护肤产品",
]
PREVIEWS = "https://raw.githubusercontent.com/jina-ai/multimodal-reranker-test/main"


def _results(*scores: tuple[int, float]) -> list[Json]:
    return [{"index": index, "relevance_score": score} for index, score in scores]


TEXTS = Exchange(
    "texts",
    "Texts",
    {
        "model": "jina-reranker-v2-base-multilingual",
        "query": "Organic skincare products for sensitive skin",
        "top_n": 2,
        "documents": SKINCARE,
    },
    {
        "model": "jina-reranker-v2-base-multilingual",
        "usage": {"total_tokens": 96},
        "results": _results((0, 0.87415754), (2, 0.76483965)),
    },
)

EXCHANGES = (
    TEXTS,
    Exchange(
        "images",
        "Texts and images",
        {
            "model": "jina-reranker-m0",
            "query": "small language model data extraction",
            "return_documents": False,
            "documents": [
                {"image": f"{PREVIEWS}/handelsblatt-preview.png"},
                {"image": f"{PREVIEWS}/paper-11.png"},
                {"text": "数据提取么?为什么不用正则啊,你用正则不就全解决了么?"},
            ],
        },
        {
            "model": "jina-reranker-m0",
            "usage": {"total_tokens": 2894},
            "results": _results((1, 0.8814517277012487), (2, 0.7756727858283531), (0, 0.6128658982982312)),
        },
    ),
    Exchange(
        "image_query",
        "A picture as the query",
        {
            "model": "jina-reranker-m0",
            "query": {"image": f"{PREVIEWS}/paper-11.png"},
            "documents": ["A paper on small language models", "A recipe for bread"],
        },
    ),
    Exchange(
        "fields",
        "Fields of records, as Cohere's first version has it",
        {
            "model": "jina-reranker-v3",
            "query": "capital of Germany",
            "documents": [
                {"title": "Berlin", "text": "A city on the Spree"},
                {"title": "Bonn", "text": "On the Rhine"},
            ],
            "rank_fields": ["title", "text"],
            "max_doc_length": 1024,
        },
    ),
)

EXCHANGES_V2 = (TEXTS,)


def _parsed(body: Json) -> object:
    return Rerank().parse(body, "/v1/rerank")


REFUSALS = (
    Refusal(
        "embeddings_body",
        "An embeddings request, as printed for this path on AIHubMix's page",
        {"model": "jina-embeddings-v3", "input": ["A beautiful sunset over the beach"]},
        _parsed,
    ),
    Refusal(
        "top_n",
        "A number that cannot be",
        {"model": "jina-reranker-m0", "query": "bread", "documents": ["A recipe for bread"], "top_n": 0},
        _parsed,
    ),
)
