"""POST /v1/embeddings: the schemas, and examples from the pages of both providers."""

from __future__ import annotations

from typing import Any

from ...core.types import Json
from ...endpoints.embeddings import ENCODINGS, SPELLINGS, Embeddings
from ...upstreams.catalogue import CATALOGUE
from .exchanges import Exchange, Refusal
from .schema import option


def _tasks() -> str:
    """The tasks of the catalogue, for each set of them the models that know it."""
    models: dict[tuple[str, ...], list[str]] = {}
    for entry in CATALOGUE.values():
        if entry.model.tasks:
            models.setdefault(entry.model.tasks, []).append(f"`{entry.model.id}`")
    return "\n".join(f"- {', '.join(names)}: {', '.join(tasks)}" for tasks, names in models.items())


TOKENS: Json = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}

INPUT: Json = {
    "description": (
        "What to embed, each thing with a vector of its own. Token ids, which LangChain's `OpenAIEmbeddings` sends, "
        "are turned back into text; that needs the extra `torii-gateway[tokens]`, and is a 400 without it."
    ),
    "anyOf": [
        {"title": "A text", "type": "string", "minLength": 1},
        {"$ref": "#/components/schemas/EmbeddingsInput"},
        {
            "title": "A list of texts, objects or lists of token ids",
            "type": "array",
            "minItems": 1,
            "items": {
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {"$ref": "#/components/schemas/EmbeddingsInput"},
                    {"title": "Token ids", **TOKENS},
                ]
            },
        },
        {"title": "Token ids of one text", **TOKENS},
    ],
}

MEDIUM = "as a URL, base64 or a data URI"

THING: Json = {
    "type": "object",
    "description": (
        "One thing to embed, for the models that take more than text (`inputs` of `GET /v1/models`). "
        "Forms that are not named here go to the provider as they are."
    ),
    "minProperties": 1,
    "additionalProperties": True,
    "properties": {
        "text": {"type": "string", "minLength": 1},
        "image": {"type": "string", "description": f"A picture {MEDIUM}; at Jina up to 8 MB."},
        "pdf": {"type": "string", "description": f"A PDF {MEDIUM}; sent alone. It has a vector for each page."},
        "audio": {"type": "string", "description": f"A sound {MEDIUM}."},
        "video": {"type": "string", "description": f"A film {MEDIUM}."},
        "url": {"type": "string", "description": "A picture's URL, as older Jina clients name it."},
        "bytes": {"type": "string", "description": "A picture in base64, as older Jina clients name it."},
        "type": {
            "type": "string",
            "description": "`text` or `image_url`: OpenAI's parts of messages are taken as `text` and `image`.",
        },
        "image_url": {
            "description": "A picture in OpenAI's form, as `url` in it.",
            "anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": True}],
        },
        "content": {
            "type": "array",
            "description": "Several things that share one vector (`jina-embeddings-v5-omni-*`).",
            "items": {"type": "object", "additionalProperties": True},
        },
    },
}

ENCODING: Json = {
    "description": (
        "In what form vectors are given: `float` (the default), `base64` (little-endian float32), `ubinary` (a bit for "
        "each dimension, packed into bytes of 0 to 255) or `binary` (the same less 128). `uint8` and `binary_uint8` "
        "mean `ubinary`, `int8` and `binary_int8` mean `binary`. Of several spellings the first counts, in the order "
        f"{', '.join(f'`{name}`' for name in SPELLINGS)}."
    ),
    "anyOf": [
        {"type": "string", "enum": list(ENCODINGS)},
        {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "string", "enum": list(ENCODINGS)}},
        {"type": "null"},
    ],
}

SPELLED_BY = {
    "encoding_format": "OpenAI's spelling; its SDKs send `base64` unless told otherwise.",
    "embedding_type": "Jina's spelling.",
    "encoding_type": "LlamaIndex's spelling.",
    "embedding_format": "AIHubMix's spelling.",
}

REQUEST: Json = {
    "type": "object",
    "required": ["model", "input"],
    "additionalProperties": True,
    "properties": {
        "model": {"type": "string", "description": "A name of `GET /v1/models`.", "examples": ["jina-embeddings-v3"]},
        "input": INPUT,
        **{name: {"$ref": "#/components/schemas/Encoding", "description": words} for name, words in SPELLED_BY.items()},
        "dimensions": option(
            "integer",
            "The size of the vectors, where the model can make smaller ones. Of this and the other options of Jina's "
            "models, what the model has not is a 400, but for its default.",
            minimum=1,
        ),
        "task": option(
            "string",
            f"What the vectors are for; the model is tuned to it. Known:\n{_tasks()}",
            examples=["text-matching"],
        ),
        "late_chunking": option(
            "boolean",
            "Reads all inputs as one text, so that each vector knows the others' context. Never sent in parts.",
        ),
        "normalized": option("boolean", "Whether vectors have the length 1. Jina's default is true."),
        "truncate": option(
            "boolean", "Whether inputs that are too long are cut. Jina's default is false: they are a 400."
        ),
        "return_multivector": option(
            "boolean", "A vector for each token (`jina-embeddings-v4`); comes back under `embeddings`."
        ),
        "return_tokenized_input": option("boolean", "The tokens of each input, together with `return_multivector`."),
        "input_type": option(
            "string", "Which side of the search, for `jina-colbert-*`.", enum=["query", "document", None]
        ),
        "user": option("string", "Accepted, and not passed on."),
    },
}

VECTOR: Json = {
    "type": "object",
    "required": ["object", "index"],
    "additionalProperties": True,
    "properties": {
        "object": {"type": "string", "examples": ["embedding", "embeddings"]},
        "index": {"type": "integer", "minimum": 0, "description": "The place in `input`."},
        "embedding": {
            "description": "A list of numbers, or base64; an object of weights from sparse models.",
            "anyOf": [
                {"type": "array", "items": {"type": "number"}},
                {"type": "string", "contentEncoding": "base64"},
                {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                {"type": "object", "additionalProperties": True},
            ],
        },
        "embeddings": {
            "description": "In place of `embedding`, from models with several vectors for one input. Never encoded.",
            "type": "array",
            "items": {"type": "array", "items": {"type": "number"}},
        },
    },
}

ANSWER: Json = {
    "type": "object",
    "required": ["object", "model", "data", "usage"],
    "additionalProperties": True,
    "properties": {
        "object": {"const": "list"},
        "model": {"type": "string", "description": "The name that the caller used."},
        "data": {"type": "array", "items": {"$ref": "#/components/schemas/Embedding"}},
        "usage": {"$ref": "#/components/schemas/Usage"},
    },
}

USAGE: Json = {
    "type": "object",
    "description": (
        "What this call was billed, by the provider's counts; `prompt_tokens` is the total where the provider does not "
        "give it. 0 where all was in the cache."
    ),
    "required": ["prompt_tokens", "total_tokens"],
    "additionalProperties": True,
    "properties": {
        "prompt_tokens": {"type": "integer", "minimum": 0},
        "total_tokens": {"type": "integer", "minimum": 0},
        "cached_tokens": {
            "type": "integer",
            "minimum": 0,
            "description": (
                "What the inputs that were in the cache were billed when they were paid for; of several that were "
                "billed together, their share by length. Not part of `total_tokens`."
            ),
        },
    },
}

SCHEMAS: Json = {
    "EmbeddingsRequest": REQUEST,
    "EmbeddingsInput": THING,
    "Encoding": ENCODING,
    "EmbeddingsResponse": ANSWER,
    "Embedding": VECTOR,
    "Usage": USAGE,
}

GIF = (
    "R0lGODlhEAAQAMQAAORHHOVSKudfOulrSOp3WOyDZu6QdvCchPGolfO0o/XBs/fNwfjZ0frl3/zy7////wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACH5BAkAABAALAAAAAAQABAAAAVVICSOZGlCQAosJ6mu7fiyZeKqNKToQGDsM8hBADgUXoGAiqhSvp5Q"
    "AnQKGIgUhwFUYLCVDFCrKUE1lBavAViFIDlTImbKC5Gm2hB0SlBCBMQiB0UjIQA7"
)

SUNSETS = (
    [0.4175, -0.1355, 0.5722, 0.0903, -0.34, 0.2207, 0.5459, -0.0971],
    [0.3974, -0.15, 0.584, 0.1116, -0.3292, 0.2062, 0.5516, -0.1047],
)


def _data(*vectors: Any) -> list[Json]:
    return [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)]


EXCHANGES = (
    Exchange(
        "texts",
        "Texts, with a task and small vectors",
        {
            "model": "jina-embeddings-v3",
            "task": "text-matching",
            "dimensions": 8,
            "input": ["A beautiful sunset over the beach", "浜辺に沈む美しい夕日"],
        },
        # Version 3 gives no prompt_tokens for plain texts.
        {"model": "jina-embeddings-v3", "object": "list", "usage": {"total_tokens": 20}, "data": _data(*SUNSETS)},
    ),
    Exchange(
        "base64",
        "As the OpenAI SDKs ask for it",
        {
            "model": "jina-embeddings-v3",
            "input": "A beautiful sunset over the beach",
            "dimensions": 8,
            "encoding_format": "base64",
        },
        {"model": "jina-embeddings-v3", "object": "list", "usage": {"total_tokens": 8}, "data": _data(SUNSETS[0])},
    ),
    Exchange(
        "binary",
        "A bit for each dimension",
        {
            "model": "jina-embeddings-v3",
            "input": ["A beautiful sunset over the beach"],
            "dimensions": 8,
            "embedding_type": "ubinary",
        },
        {"model": "jina-embeddings-v3", "object": "list", "usage": {"total_tokens": 8}, "data": _data(SUNSETS[0])},
    ),
    Exchange(
        "multivector",
        "A vector for each token",
        {"model": "jina-embeddings-v4", "input": [{"text": "sunset"}], "return_multivector": True},
        {
            "model": "jina-embeddings-v4",
            "object": "list",
            "usage": {"total_tokens": 2},
            "data": [
                {
                    "object": "embeddings",
                    "index": 0,
                    "embeddings": [[0.0812, -0.0391, 0.1176], [0.1094, 0.0217, -0.0658]],
                }
            ],
        },
    ),
    Exchange(
        "images",
        "Texts and images for one vector space",
        {
            "model": "jina-clip-v2",
            "input": [
                {"text": "A beautiful sunset over the beach"},
                {"image": "https://i.ibb.co/nQNGqL0/beach1.jpg"},
                {"image": GIF},
            ],
        },
    ),
    Exchange(
        "late_chunking",
        "The parts of one text",
        {
            "model": "jina-embeddings-v3",
            "task": "retrieval.passage",
            "late_chunking": True,
            "truncate": True,
            "input": ["Berlin is the capital of Germany.", "The city has 3.9 million inhabitants."],
        },
    ),
    Exchange("text", "One text", {"model": "jina-embeddings-v3", "input": "Hello, world", "normalized": True}),
)

# Not parsed here: the vocabulary of token ids is an extra.
TOKEN_IDS: Json = {"model": "jina-embeddings-v3", "input": [[9906, 11, 1917]], "encoding_format": "base64"}


def _parsed(body: Json) -> object:
    return Embeddings().parse(body, "/v1/embeddings")


def _split(body: Json) -> object:
    endpoint = Embeddings()
    return endpoint.split(endpoint.parse(body, "/v1/embeddings"), 512)


REFUSALS = (
    Refusal("no_input", "Nothing to embed", {"model": "jina-embeddings-v3", "input": []}, _parsed),
    Refusal(
        "encoding",
        "An encoding that there is not",
        {"model": "jina-embeddings-v3", "input": "Hello", "encoding_format": "hex"},
        _parsed,
    ),
    Refusal(
        "late_chunking",
        "Too many inputs for late_chunking",
        {"model": "jina-embeddings-v3", "input": ["Hello"] * 513, "late_chunking": True},
        _split,
    ),
)
