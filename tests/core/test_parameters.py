"""The parameter table has every field that a caller may send; the documentation and the bodies of upstream requests
over real sockets agree with the table."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from app.core.parameters import FATES, TABLE, Fate, Field
from app.core.types import EndpointName, Json
from app.endpoints.embeddings import SPELLINGS
from app.endpoints.rerank import DOC_LIMITS
from app.upstreams.catalogue import CATALOGUE
from app.upstreams.deepsearch import PARAMETERS

from ..answering import both

PAGE = Path(__file__).parents[2] / "docs" / "translation.md"
TITLES: dict[EndpointName, str] = {
    "embeddings": "### Fields of embeddings",
    "rerank": "### Fields of rerank",
    "chat": "### Fields of chat",
}

PATHS = {"embeddings": "/v1/embeddings", "rerank": "/v1/rerank", "chat": "/v1/chat/completions"}
EMBED: Json = {"model": "jina-embeddings-v3", "input": ["Hi"]}
RANK: Json = {"model": "jina-reranker-m0", "query": "q", "documents": ["a"]}
ASK: Json = {"model": "jina-deepsearch-v1", "messages": [{"role": "user", "content": "Hi"}]}
MINIMAL: dict[EndpointName, Json] = {"embeddings": EMBED, "rerank": RANK, "chat": ASK}
OTHER: dict[EndpointName, str] = {
    "embeddings": "text-embedding-3-small",
    "rerank": "rerank-v3.5",
    "chat": "gpt-4o-mini",
}
RESEARCHED: Json = {**ASK, "stream": True}


# --- the table is complete ---------------------------------------------------------------------


def fields_of(*kinds: type) -> set[str]:
    return {name for kind in kinds for name in kind.__annotations__}


def test_every_field_of_openais_sdk_is_in_it() -> None:
    pytest.importorskip("openai", reason="openai is in the extra `clients`: run `make clients`")
    from openai.types import EmbeddingCreateParams
    from openai.types.chat import CompletionCreateParams

    chat = fields_of(*get_args(CompletionCreateParams))
    embeddings = fields_of(EmbeddingCreateParams)
    assert {"messages", "stream", "web_search_options"} <= chat
    assert {"input", "dimensions"} <= embeddings
    assert chat - set(TABLE["chat"]) == set()
    assert embeddings - set(TABLE["embeddings"]) == set()


def test_every_field_of_coheres_sdk_is_in_it() -> None:
    cohere = pytest.importorskip("cohere", reason="cohere is in the extra `clients`: run `make clients`")
    ours = {"self", "request_options"}
    for client in (cohere.Client, cohere.ClientV2):
        fields = set(inspect.signature(client.rerank).parameters) - ours
        assert {"query", "documents", "top_n"} <= fields
        assert fields - set(TABLE["rerank"]) == set()


def test_every_field_that_the_code_reads_is_in_it() -> None:
    features = {feature for entry in CATALOGUE.values() for feature in entry.model.features}
    answers = {"multivector", "sparse", "reasoning", "citations", "listwise"}
    options = {name for fields in TABLE.values() for name, field in fields.items() if field.jina == "option"}
    assert options == (features - answers - {"max_doc_length"}) | {"task"}
    assert {*SPELLINGS} <= set(TABLE["embeddings"])
    assert {*DOC_LIMITS} <= set(TABLE["rerank"])
    assert {name for name, field in TABLE["chat"].items() if field.jina == "checked"} == set(PARAMETERS)


def test_a_default_is_only_of_an_option() -> None:
    for fields in TABLE.values():
        assert all(field.default is None for field in fields.values() if field.jina != "option")


def rows(page: str, title: str) -> Iterator[tuple[str, tuple[str, str]]]:
    table = page.partition(title)[2].partition("\n## ")[0].partition("\n### ")[0]
    for names, jina, other in re.findall(r"^\| (`[^|]+) \| ([^|]+) \| ([^|]+) \|$", table, re.M):
        for name in re.findall(r"`([^`]+)`", names):
            yield name, (jina.strip(), other.strip())


@pytest.mark.parametrize("endpoint", TABLE)
def test_the_page_of_translation_says_the_same_of_each_field(endpoint: EndpointName) -> None:
    told = list(rows(PAGE.read_text(encoding="utf-8"), TITLES[endpoint]))
    assert sorted(told) == sorted((name, (field.jina, field.other)) for name, field in TABLE[endpoint].items())


def test_the_page_of_translation_says_what_each_fate_is() -> None:
    told = re.findall(r"^\| (\w+) \| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    assert [(fate, words) for fate, words in told if fate in get_args(Fate)] == list(FATES.items())


# --- each field does what the table says -------------------------------------------------------


SAMPLES: dict[str, Any] = {
    "dimensions": 1,
    "task": "retrieval.query",
    "input_type": "query",
    "normalized": False,
    "n": 2,
    "modalities": ["text", "audio"],
    "moderation": {"model": "omni-moderation-latest"},
    "relevant_spans": {"mode": "enabled"},
    "reasoning_effort": "high",
    "search_provider": "arxiv",
    "min_annotation_relevance": 0.5,
    "search_language_code": "en",
    "language_code": "de",
    "no_direct_answer": True,
    "with_images": True,
    **{name: ["a.example"] for name in ("boost_hostnames", "bad_hostnames", "only_hostnames")},
    **dict.fromkeys(("max_chunks_per_doc", "priority"), 3),
    **dict.fromkeys(
        (
            "budget_tokens",
            "max_attempts",
            "team_size",
            "max_returned_urls",
            "max_annotations",
            "max_tokens",
            "max_completion_tokens",
        ),
        7,
    ),
    **{name: [{"type": "function", "function": {"name": "f"}}] for name in ("tools", "functions")},
}
TRUE = ("late_chunking", "return_multivector", "return_tokenized_input", "truncate", "truncation", "return_embeddings")
SAMPLES |= dict.fromkeys(TRUE, True)

# For a field that Torii handles itself: a value, the fields sent to Jina's models or DeepSearch, and those sent to
# others.
DONE: dict[tuple[EndpointName, str], tuple[Any, Json, Json]] = {
    **{("embeddings", name): ("base64", {}, {"encoding_format": "float"}) for name in SPELLINGS},
    ("embeddings", "input"): ("Hi", {}, {"encoding_format": "float"}),
    ("rerank", "query"): ({"text": "q"}, {"return_documents": False}, {}),
    ("rerank", "documents"): ([{"text": "a"}], {"return_documents": False}, {}),
    ("rerank", "rank_fields"): (["a"], {"return_documents": False}, {}),
    ("rerank", "return_documents"): (True, {"return_documents": False}, {}),
    ("rerank", "top_n"): (1, {"return_documents": False, "top_n": 1}, {"top_n": 1}),
    ("rerank", "top_k"): (1, {"return_documents": False, "top_n": 1}, {"top_n": 1}),
    **{("rerank", name): (9, {"return_documents": False}, {"max_chunk_per_doc": 9}) for name in DOC_LIMITS},
    ("chat", "stream"): (False, {"stream": True}, {"stream": False}),
    ("chat", "x_reasoning"): ("drop", {"stream": True}, {"stream": False}),
    ("chat", "messages"): (
        [{"role": "user", "content": "Hi", "name": "ann"}],
        {"stream": True},
        {"stream": False, "messages": [{"role": "user", "content": "Hi", "name": "ann"}]},
    ),
    ("chat", "response_format"): (
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        {"stream": True, "response_format": {"type": "json_schema", "json_schema": {"type": "object"}}},
        {
            "stream": False,
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        },
    ),
    ("chat", "stream_options"): (
        {"include_usage": True},
        {"stream": True},
        {"stream": False, "stream_options": {"include_usage": True}},
    ),
}


def every_field() -> Iterator[Any]:
    for endpoint, fields in TABLE.items():
        for name, field in fields.items():
            yield pytest.param(endpoint, name, field, id=f"{endpoint}-{name}")


def having(option: str) -> str:
    """A model that has the option."""
    models = [entry.model for entry in CATALOGUE.values()]
    return next(m.id for m in models if (m.tasks if option == "task" else option in m.features))


def base(endpoint: EndpointName, model: str, jina: bool) -> Json:
    """The upstream request for the smallest call."""
    own: dict[EndpointName, tuple[Json, Json]] = {
        "embeddings": ({}, {"encoding_format": "float"}),
        "rerank": ({"return_documents": False}, {}),
        "chat": ({"stream": True}, {"stream": False}),
    }
    return {**MINIMAL[endpoint], "model": model, **own[endpoint][0 if jina else 1]}


@pytest.mark.parametrize("jina", [True, False], ids=["jina", "other"])
@pytest.mark.parametrize(("endpoint", "name", "field"), [*every_field()])
async def test_a_field_meets_its_fate(endpoint: EndpointName, name: str, field: Field, jina: bool) -> None:
    fate = field.jina if jina else field.other
    model = OTHER[endpoint] if not jina else having(name) if fate == "option" else MINIMAL[endpoint]["model"]
    given, at_jina, elsewhere = DONE.get((endpoint, name), (SAMPLES.get(name, "x"), {}, {}))
    sent = name.replace("*", "call_id")
    expected = base(endpoint, model, jina) | (at_jina if jina else elsewhere)
    if name == "model":
        given = model
    elif fate not in ("done", "dropped", "refused"):
        expected = {**expected, sent: given}
    async with both() as (gateway, *upstreams):
        response = await gateway.post(PATHS[endpoint], {**MINIMAL[endpoint], "model": model, sent: given})
        seen = [request.body for upstream in upstreams for request in upstream.seen]
    if fate == "refused":
        error = response.json()["error"]
        assert (response.status_code, error["param"], seen) == (400, name, [])
        assert name in error["message"]
    else:
        assert (response.status_code, seen) == (200, [expected])
