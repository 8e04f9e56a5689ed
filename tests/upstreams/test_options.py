"""Options without a meaning for a model are not sent to it, and unsupported ones are refused, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.core.types import Json
from app.sandbox.server import Sandbox
from app.upstreams.catalogue import CATALOGUE, CatalogueEntry
from app.upstreams.options import parameters

from ..answering import both, seen_by
from ..conftest import RunningGateway, ScriptedUpstream, running_gateway, settings_for

Both = tuple[RunningGateway, ScriptedUpstream, ScriptedUpstream]

# Fields that gateways and SDKs add, and that no model uses.
SURPLUS: Json = {
    "metadata": {"team": "search"},
    "user": "ann",
    "store": False,
    "safety_identifier": "a1",
    "prompt_cache_key": "k",
    "service_tier": "auto",
    "proxy_server_request": {"url": "http://litellm/embeddings", "headers": {"authorization": "Bearer sk-theirs"}},
    "litellm_call_id": "c-1",
    "litellm_metadata": {"a": 1},
}
# All options, each with its default.
DEFAULTS: Json = {
    "dimensions": None,
    "task": None,
    "late_chunking": False,
    "truncate": False,
    "normalized": True,
    "return_multivector": False,
    "return_tokenized_input": False,
    "input_type": "document",
    "encoding_format": "float",
}
V2 = "jina-embeddings-v2-base-en"
RANK: Json = {"model": "jina-reranker-m0", "query": "q", "documents": ["a"]}
ASK: Json = {"model": "jina-deepsearch-v1", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
async def here() -> AsyncIterator[Both]:
    async with both() as there:
        yield there


@pytest.mark.parametrize(
    ("model", "given", "sent"),
    [
        (V2, {"return_multivector": False}, {}),
        (V2, {"dimensions": None}, {}),
        (V2, {"dimensions": 768, "late_chunking": False, "input_type": "document"}, {}),
        (V2, {"normalized": True, "truncate": False}, {"normalized": True, "truncate": False}),
        (V2, {**SURPLUS, "field_of_tomorrow": None}, {}),
        (V2, {"field_of_tomorrow": False}, {"field_of_tomorrow": False}),
        ("jina-embeddings-v4", {"normalized": True, "return_multivector": False}, {"return_multivector": False}),
        ("jina-colbert-v2", {"return_multivector": True, "truncate": False, "normalized": True}, {}),
        ("jina-embeddings-v3", {"late_chunking": False, "task": None}, {"late_chunking": False}),
        ("jina-embeddings-v9", {"task": "t", "return_multivector": False}, {"task": "t", "return_multivector": False}),
    ],
)
@pytest.mark.parametrize("upstream", ["jina", "aihubmix"])
async def test_embeddings_go_up_with_what_the_model_has(
    here: Both, upstream: str, model: str, given: Json, sent: Json
) -> None:
    gateway, jina, aihubmix = here
    response = await gateway.post("/v1/embeddings", {"model": f"{upstream}/{model}", "input": ["Hi"], **given})
    assert response.status_code == 200, response.text
    assert seen_by(jina if upstream == "jina" else aihubmix) == [{"model": model, "input": ["Hi"], **sent}]
    assert len(seen_by(jina, aihubmix)) == 1


async def test_other_models_are_not_sent_what_is_for_nobody_either(here: Both) -> None:
    gateway, _, aihubmix = here
    body = {"model": "text-embedding-3-small", "input": "Hi", "dimensions": None, "truncate": False, **SURPLUS}
    assert (await gateway.post("/v1/embeddings", body)).status_code == 200
    sent = {"model": "text-embedding-3-small", "input": ["Hi"], "truncate": False, "encoding_format": "float"}
    assert seen_by(aihubmix) == [sent]


@pytest.mark.parametrize("upstream", ["jina", "aihubmix"])
async def test_rerank_goes_up_with_what_the_model_has(here: Both, upstream: str) -> None:
    gateway, jina, aihubmix = here
    more = {"return_embeddings": False, "relevant_spans": {"mode": "disabled"}, "priority": 1, "top_n": None}
    body = {**RANK, **SURPLUS, **more, "model": f"{upstream}/jina-reranker-m0", "truncation": True}
    assert (await gateway.post("/v1/rerank", body)).status_code == 200
    sent = {**RANK, "truncation": True, "return_documents": False}
    assert seen_by(jina if upstream == "jina" else aihubmix) == [sent]


async def test_deepsearch_is_not_sent_what_is_null_or_for_nobody(here: Both) -> None:
    gateway, jina, _ = here
    body = {**ASK, **SURPLUS, "field_of_tomorrow": None, "budget_tokens": None, "audio": None}
    assert (await gateway.post("/v1/chat/completions", body)).status_code == 200
    assert seen_by(jina) == [{**ASK, "stream": True}]


async def test_other_chat_models_are_sent_all_but_what_litellm_adds_for_itself(here: Both) -> None:
    gateway, _, aihubmix = here
    body = {**ASK, **SURPLUS, "model": "gpt-4o-mini", "temperature": None}
    assert (await gateway.post("/v1/chat/completions", body)).status_code == 200
    kept = {name: value for name, value in body.items() if not name.startswith(("litellm_", "proxy_server_"))}
    assert seen_by(aihubmix) == [{**kept, "stream": False}]


def has_no(model: str, option: str, *others: str) -> str:
    return f"{model} has no option {option}: omit it, or use a model that has it: {', '.join(others)}"


NO_SCHEMA = "response_format.json_schema.schema must be an object"
V3_TASKS = "retrieval.query, retrieval.passage, text-matching, classification, separation"


@pytest.mark.parametrize(
    ("model", "option", "value", "says"),
    [
        (V2, "return_multivector", True, has_no(V2, "return_multivector", "jina-embeddings-v4")),
        (V2, "dimensions", 64, None),
        (V2, "task", "retrieval.passage", None),
        (V2, "late_chunking", True, has_no(V2, "late_chunking", "jina-embeddings-v4", "jina-embeddings-v3")),
        (V2, "input_type", "query", None),
        ("jina-embeddings-v4", "normalized", False, None),
        ("jina-colbert-v2", "truncate", True, None),
        ("jina-embeddings-v5-text-nano", "late_chunking", True, None),
        (
            "jina-embeddings-v3",
            "task",
            "clustering",
            f"task must be one of {V3_TASKS} for jina-embeddings-v3. Nearest: separation",
        ),
        (
            "jina-embeddings-v3",
            "task",
            "retrieval_query",
            f"task must be one of {V3_TASKS} for jina-embeddings-v3. Nearest: retrieval.query",
        ),
        ("jina-colbert-v2", "dimensions", 100, "dimensions must be one of 64, 96, 128 for jina-colbert-v2"),
        ("jina-embeddings-v3", "dimensions", 1025, "dimensions must be at most 1024 for jina-embeddings-v3"),
        ("jina-embeddings-v3", "dimensions", "64", "dimensions must be a whole number of at least 1"),
        ("jina-embeddings-v3", "dimensions", 0, "dimensions must be a whole number of at least 1"),
        ("jina-embeddings-v3", "dimensions", -1, "dimensions must be a whole number of at least 1"),
        ("jina-embeddings-v3", "dimensions", True, "dimensions must be a whole number of at least 1"),
        ("jina-embeddings-v3", "dimensions", 64.0, "dimensions must be a whole number of at least 1"),
        ("text-embedding-3-small", "dimensions", "64", "dimensions must be a whole number of at least 1"),
        ("jina-embeddings-v3", "late_chunking", "yes", "late_chunking must be true or false"),
        ("jina-embeddings-v5-text-nano", "normalized", 1, "normalized must be true or false"),
        (
            "jina-embeddings-v5-text-nano",
            "dimensions",
            1025,
            "dimensions must be at most 1024 for jina-embeddings-v5-text-nano",
        ),
        (
            "jina-code-embeddings-0.5b",
            "dimensions",
            897,
            "dimensions must be at most 896 for jina-code-embeddings-0.5b",
        ),
        (
            "jina-colbert-v2",
            "input_type",
            "search_query",
            "input_type must be one of query, document for jina-colbert-v2. Nearest: query",
        ),
    ],
)
async def test_what_a_model_cannot_do_is_a_400_that_names_field_and_model(
    here: Both, model: str, option: str, value: Any, says: str | None
) -> None:
    gateway, jina, aihubmix = here
    response = await gateway.post("/v1/embeddings", {"model": model, "input": ["Hi"], option: value})
    body = response.json()
    message = body["error"]["message"]
    assert (response.status_code, seen_by(jina, aihubmix)) == (400, [])
    error = {"message": message, "type": "invalid_request_error", "param": option, "code": "invalid_request"}
    assert body == {"error": error, "detail": message}
    assert message == says if says else message.startswith(has_no(model, option, "")), message


async def test_what_a_reranker_cannot_do_is_a_400(here: Both) -> None:
    gateway, jina, aihubmix = here
    answers = [
        await gateway.post("/v1/rerank", {**RANK, "return_embeddings": True}),
        await gateway.post("/v2/rerank", {**RANK, "relevant_spans": {"mode": "enabled"}}),
        await gateway.post("/v1/rerank", {**RANK, "model": "jina-reranker-v3", "return_embeddings": "all"}),
    ]
    assert [(answer.status_code, answer.json()["detail"]) for answer in answers] == [
        (400, has_no("jina-reranker-m0", "return_embeddings", "jina-reranker-v3", "jina-reranker-v3.5")),
        (400, "jina-reranker-m0 has no option relevant_spans: omit it"),
        (400, "return_embeddings must be true or false"),
    ]
    assert seen_by(jina, aihubmix) == []


async def test_a_vector_for_each_token_has_a_size_of_its_own(here: Both) -> None:
    gateway, jina, aihubmix = here
    body = {"model": "jina-embeddings-v4", "input": ["Hi"], "dimensions": 128, "return_multivector": True}
    response = await gateway.post("/v1/embeddings", body)
    error = response.json()["error"]
    says = "jina-embeddings-v4 takes dimensions or return_multivector, not both: omit one"
    assert (response.status_code, error["message"], error["param"]) == (400, says, "dimensions")
    assert seen_by(jina, aihubmix) == []
    assert (await gateway.post("/v1/embeddings", {**body, "return_multivector": False})).status_code == 200


async def test_sizes_below_those_a_model_was_trained_for_are_passed_on(here: Both) -> None:
    gateway, jina, _ = here
    body = {"model": "jina-embeddings-v5-text-small", "input": ["Hi"], "dimensions": 16}
    assert (await gateway.post("/v1/embeddings", body)).status_code == 200
    assert seen_by(jina) == [body]


@pytest.mark.parametrize("model", ["jina-reranker-v3", "jina-reranker-v3.5"])
async def test_a_listwise_reranker_gets_all_documents_in_one_call(here: Both, model: str) -> None:
    gateway, jina, _ = here
    documents = [f"document {number}" for number in range(700)]
    body = {"model": model, "query": "q", "documents": documents, "max_doc_length": 8192, "top_n": 1}
    assert (await gateway.post("/v1/rerank", body)).status_code == 200
    assert seen_by(jina) == [{**body, "return_documents": False}]


async def test_v5_nano_is_asked_for_as_many_dimensions_as_jinas_description_allows(here: Both) -> None:
    gateway, jina, _ = here
    body = {"model": "jina-embeddings-v5-text-nano", "input": ["Hi"], "dimensions": 1024}
    assert (await gateway.post("/v1/embeddings", body)).status_code == 200
    assert seen_by(jina) == [body]


async def test_the_configuration_adds_to_what_a_model_has() -> None:
    models = {"jina-embeddings-v3": {"features": ["return_multivector"], "tasks": ["a-new-task"]}}
    async with both(models=models) as (gateway, jina, aihubmix):
        body = {"model": "jina-embeddings-v3", "input": ["Hi"], "return_multivector": True, "late_chunking": False}
        assert (await gateway.post("/v1/embeddings", {**body, "task": "a-new-task"})).status_code == 200
        assert seen_by(jina, aihubmix) == [{**body, "task": "a-new-task"}]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        (
            "response_format",
            {"type": "json_object"},
            "DeepSearch supports JSON by schema only: instead of json_object, send response_format "
            '{"type": "json_schema", "json_schema": {"name": ..., "schema": ...}}',
        ),
        *(
            ("response_format", {"type": "json_schema", "json_schema": asked}, NO_SCHEMA)
            for asked in ({}, {"name": "a"}, {"name": "a", "strict": True, "schema": None})
        ),
        ("response_format", {"type": "jsonschema"}, "response_format.type must be one of text, json_schema"),
        ("modalities", ["text", "audio"], 'DeepSearch answers in text: modalities must be ["text"]'),
        ("moderation", {"model": "m"}, "DeepSearch does not support moderation: leave 'moderation' out"),
        (
            "reasoning_effort",
            "hihg",
            "reasoning_effort must be one of none, minimal, low, medium, auto, high, xhigh, max. Nearest: high",
        ),
        (
            "search_provider",
            "arxive",
            "search_provider must be one of jina, arxiv, duck, brave, serper. Nearest: arxiv",
        ),
        (
            "x_reasoning",
            "resoning",
            "x_reasoning must be one of reasoning_content, reasoning, think_tags, drop. Nearest: reasoning",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_deepsearch_does_not_do_is_refused(
    here: Both, field: str, value: Any, says: str, stream: bool
) -> None:
    gateway, jina, aihubmix = here
    response = await gateway.post("/v1/chat/completions", {**ASK, "stream": stream, field: value})
    error = response.json()["error"]
    assert (response.status_code, error["message"], error["param"]) == (400, says, field)
    assert seen_by(jina, aihubmix) == []


def test_the_options_of_a_model_as_schemas() -> None:
    def of(name: str) -> Json:
        return parameters(CATALOGUE[name].model, name)

    tasks = ["retrieval.query", "retrieval.passage", "text-matching", "classification", "clustering"]
    assert of("jina-embeddings-v5-text-nano") == {
        "dimensions": {"type": "integer", "minimum": 1, "maximum": 1024, "default": 768, "trained_from": 32},
        "normalized": {"type": "boolean", "default": True},
        "task": {"type": "string", "enum": tasks, "default": "text-matching"},
        "truncate": {"type": "boolean", "default": False},
    }
    assert of("jina-embeddings-v3")["dimensions"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 1024,
        "default": 1024,
    }
    assert "default" not in of("jina-embeddings-v3")["task"]
    assert of("jina-reranker-v3") == {
        "max_doc_length": {"type": "integer", "minimum": 1, "maximum": 8192, "default": 2048},
        "return_embeddings": {"type": "boolean", "default": False},
    }
    assert of("jina-reranker-m0") == of("jina-deepsearch-v1") == of("jina-vlm") == {}


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=CATALOGUE)
def test_every_option_of_a_model_is_described(entry: CatalogueEntry) -> None:
    answers = {"multivector", "sparse", "reasoning", "citations", "listwise"}
    options = set(entry.model.features) - answers | ({"task"} if entry.model.tasks else set())
    assert set(parameters(entry.model, entry.model.id)) == options


# --- against the sandbox, whose Jina has its own facts about the models -------------------------


EMBEDDERS = [name for name, entry in CATALOGUE.items() if "embeddings" in entry.model.endpoints]
RERANKERS = [name for name, entry in CATALOGUE.items() if "rerank" in entry.model.endpoints]
ASKING: Json = {
    "dimensions": 64,
    "late_chunking": True,
    "truncate": True,
    "normalized": False,
    "return_multivector": True,
    "return_tokenized_input": True,
    "input_type": "query",
}


@pytest.fixture(scope="module")
def sandbox() -> Any:
    with Sandbox() as running:
        yield running


@pytest.fixture
async def strict(sandbox: Sandbox) -> AsyncIterator[RunningGateway]:
    """The gateway in front of the sandbox's strict Jina."""
    url = sandbox.urls["jina"].removesuffix("/v1")
    async with running_gateway(settings_for(url)) as running:
        yield running


@pytest.mark.parametrize("model", EMBEDDERS)
async def test_a_strict_provider_takes_every_default(strict: RunningGateway, model: str) -> None:
    size = CATALOGUE[model].model.dimensions
    for more in ({}, {"dimensions": size}):
        body = {"model": model, "input": ["Hi"], **DEFAULTS, **SURPLUS, **more}
        response = await strict.post("/v1/embeddings", body)
        assert response.status_code == 200, response.text


@pytest.mark.parametrize("model", EMBEDDERS)
async def test_the_catalogue_and_a_strict_provider_agree_on_every_option(strict: RunningGateway, model: str) -> None:
    entry = CATALOGUE[model].model
    for option, value in {**ASKING, "task": "retrieval.query", "no_option_of_all": 1}.items():
        task = next(iter(entry.tasks), value)
        response = await strict.post(
            "/v1/embeddings", {"model": model, "input": ["Hi"], option: task if option == "task" else value}
        )
        has = option in entry.features or (option == "task" and bool(entry.tasks))
        always = option == "return_multivector" and "multivector" in entry.features
        assert response.status_code == (200 if has or always else 400), (option, response.text)
        if not has and not always and option in ASKING:
            assert "Extra inputs" not in response.text


@pytest.mark.parametrize("model", RERANKERS)
async def test_a_strict_provider_takes_every_rerank_option(strict: RunningGateway, model: str) -> None:
    more = {"top_k": 1, "max_tokens_per_doc": 9, "max_chunks_per_doc": 3, "return_embeddings": False, "priority": 1}
    response = await strict.post("/v1/rerank", {**RANK, **SURPLUS, **more, "model": model})
    assert response.status_code == 200, response.text


async def test_a_strict_providers_word_names_the_field_alone(strict: RunningGateway) -> None:
    response = await strict.post("/v1/embeddings", {"model": V2, "input": ["Hi"], "field_of_tomorrow": "x" * 9})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "upstream_rejected", "field_of_tomorrow")
    assert error["message"] == "jina: field_of_tomorrow: Extra inputs are not permitted"
