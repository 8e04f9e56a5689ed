"""The fields of requests and how each is handled: one table for the translation and for docs/translation.md.

Sources: OpenAI's and Cohere's SDKs, Jina's OpenAPI description (2026-07), jina-ai/node-DeepResearch, AIHubMix's page.
A field that is not in the table is passed through unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from .types import EndpointName

Fate = Literal["done", "sent", "checked", "option", "dropped", "refused"]

FATES: Mapping[Fate, str] = {
    "done": "handled by Torii, or translated to the provider's form",
    "sent": "passed through unchanged",
    "checked": "passed through; an invalid value is a 400",
    "option": "passed to models that support it; for other models the default is dropped, and any other value is a 400",
    "dropped": "never sent to a provider",
    "refused": "a 400, unless the value requests nothing",
}


class Field(NamedTuple):
    """The handling of a field: ``jina`` for Jina's models at any upstream (in chat, for DeepSearch), ``other`` for all
    other models. ``default`` is the value that Jina assumes if an option is left out."""

    jina: Fate
    other: Fate
    default: Any = None


DONE = Field("done", "done")
SENT = Field("sent", "sent")
DROPPED = Field("dropped", "dropped")
CHECKED = Field("checked", "sent")
ONLY_OTHERS = Field("dropped", "sent")  # DeepSearch and Jina's rerankers do not read these fields
REFUSED = Field("refused", "sent")  # without these fields, the answer would not be the one that was asked for

# The prefix of the fields that LiteLLM's proxy adds for its own use.
LITELLM = "litellm_"

PROXYS = {"proxy_server_request": DROPPED, f"{LITELLM}*": DROPPED}

# Fields for the provider's records, of which Jina keeps none, and fields that identify a person.
BOOKS = ("metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user")

# Fields that every endpoint but chat drops.
UNREAD = {"stream": DROPPED, **dict.fromkeys(BOOKS, DROPPED), **PROXYS}

EMBEDDINGS: Mapping[str, Field] = {
    "model": DONE,
    "input": DONE,
    "encoding_format": DONE,
    "embedding_type": DONE,
    "encoding_type": DONE,
    "embedding_format": DONE,
    "dimensions": Field("option", "checked"),
    "input_type": Field("option", "sent", "document"),
    "late_chunking": Field("option", "sent", False),
    "normalized": Field("option", "sent", True),
    "return_multivector": Field("option", "sent", False),
    "return_tokenized_input": Field("option", "sent", False),
    "task": Field("option", "sent"),
    "truncate": Field("option", "sent", False),
    **UNREAD,
}

RERANK: Mapping[str, Field] = {
    "model": DONE,
    "query": DONE,
    "documents": DONE,
    "rank_fields": DONE,
    "return_documents": DONE,
    "top_n": DONE,
    "top_k": DONE,
    "max_doc_length": DONE,
    "max_tokens_per_doc": DONE,
    "max_chunk_per_doc": DONE,
    "truncation": SENT,
    "return_embeddings": Field("option", "sent", False),
    "max_chunks_per_doc": ONLY_OTHERS,
    "priority": ONLY_OTHERS,
    "relevant_spans": REFUSED,
    **UNREAD,
}

CHAT: Mapping[str, Field] = {
    "model": DONE,
    "messages": Field("done", "sent"),
    "stream": DONE,
    "x_reasoning": DONE,
    "response_format": Field("done", "sent"),
    "stream_options": Field("done", "sent"),
    "reasoning_effort": CHECKED,
    "budget_tokens": CHECKED,
    "max_attempts": CHECKED,
    "team_size": CHECKED,
    "max_returned_urls": CHECKED,
    "max_annotations": CHECKED,
    "min_annotation_relevance": CHECKED,
    "no_direct_answer": CHECKED,
    "with_images": CHECKED,
    "boost_hostnames": CHECKED,
    "bad_hostnames": CHECKED,
    "only_hostnames": CHECKED,
    "search_provider": CHECKED,
    "search_language_code": CHECKED,
    "language_code": CHECKED,
    "functions": REFUSED,
    "modalities": REFUSED,
    "moderation": REFUSED,
    "n": REFUSED,
    "tools": REFUSED,
    **dict.fromkeys(
        (
            "audio",
            "frequency_penalty",
            "function_call",
            "logit_bias",
            "logprobs",
            "max_completion_tokens",
            "max_tokens",
            "parallel_tool_calls",
            "prediction",
            "presence_penalty",
            "prompt_cache_options",
            "prompt_cache_retention",
            "seed",
            "stop",
            "temperature",
            "tool_choice",
            "top_k",
            "top_logprobs",
            "top_p",
            "verbosity",
            "web_search_options",
            *BOOKS,
        ),
        ONLY_OTHERS,
    ),
    **PROXYS,
}

TABLE: Mapping[EndpointName, Mapping[str, Field]] = {"embeddings": EMBEDDINGS, "rerank": RERANK, "chat": CHAT}


def dropped(endpoint: EndpointName) -> frozenset[str]:
    """The fields that are sent to no provider; for an endpoint without a table, those of UNREAD."""
    return frozenset(name for name, field in TABLE.get(endpoint, UNREAD).items() if field == DROPPED)


def with_fate(endpoint: EndpointName, *fates: Fate) -> frozenset[str]:
    """The fields that are handled in one of these ways for Jina's models (in chat, for DeepSearch)."""
    return frozenset(name for name, field in TABLE[endpoint].items() if field.jina in fates)
