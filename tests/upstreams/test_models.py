"""The catalogue against the facts in the providers' own descriptions."""

from __future__ import annotations

import pytest

from app.core.types import Model
from app.upstreams.catalogue import CATALOGUE, known, unlisted

EMBEDDINGS = {
    "jina-embeddings-v2-base-en": (768, 8192),
    "jina-embeddings-v2-base-zh": (768, 8192),
    "jina-embeddings-v2-base-de": (768, 8192),
    "jina-embeddings-v2-base-es": (768, 8192),
    "jina-embeddings-v2-base-code": (768, 8192),
    "jina-embeddings-v3": (1024, 8192),
    "jina-embeddings-v4": (2048, 32768),
    "jina-embeddings-v5-text-nano": (768, 8192),
    "jina-embeddings-v5-text-small": (1024, 32768),
    "jina-embeddings-v5-omni-nano": (768, 8192),
    "jina-embeddings-v5-omni-small": (1024, 32768),
    "jina-code-embeddings-0.5b": (896, 32768),
    "jina-code-embeddings-1.5b": (1536, 32768),
    "jina-clip-v1": (768, 8192),
    "jina-clip-v2": (1024, 8192),
    "jina-colbert-v1-en": (128, 8192),
    "jina-colbert-v2": (128, 8192),
    "elser-v2": (None, None),
}
RERANKERS = {
    "jina-reranker-v1-tiny-en",
    "jina-reranker-v1-turbo-en",
    "jina-reranker-v1-base-en",
    "jina-reranker-v2-base-multilingual",
    "jina-reranker-m0",
    "jina-reranker-v3",
    "jina-reranker-v3.5",
    "jina-colbert-v1-en",
    "jina-colbert-v2",
}
UNCLASSIFIED = {"jina-embeddings-v5-omni-nano", "jina-embeddings-v5-omni-small", "elser-v2"} | {
    name for name in EMBEDDINGS if "colbert" in name
}
CHAT = {"jina-deepsearch-v1", "jina-deepsearch-v2", "jina-vlm", "jina-ocr-v1"}
WEB = {"jina-reader", "jina-search", "jina-svip"}


def models(endpoint: str) -> dict[str, Model]:
    return {name: entry.model for name, entry in CATALOGUE.items() if endpoint in entry.model.endpoints}


def test_every_documented_model_is_there_and_no_other() -> None:
    assert set(models("embeddings")) == set(EMBEDDINGS)
    assert set(models("rerank")) == RERANKERS
    assert set(models("chat")) == CHAT
    assert set(models("reader")) | set(models("search")) | set(models("svip")) == WEB
    assert set(models("classify")) == set(models("train")) == set(EMBEDDINGS) - UNCLASSIFIED
    assert set(models("segment")) == {"jina-segment"}
    assert set(CATALOGUE) == set(EMBEDDINGS) | RERANKERS | CHAT | WEB | {"jina-segment"}


@pytest.mark.parametrize(("name", "sizes"), EMBEDDINGS.items())
def test_embedding_models_have_their_size_context_and_cap(name: str, sizes: tuple[int, int]) -> None:
    model = CATALOGUE[name].model
    assert (model.dimensions, model.context) == sizes
    assert model.max_inputs == 512


def test_only_embedding_models_have_a_cap() -> None:
    uncapped = {name for name, entry in CATALOGUE.items() if entry.model.max_inputs is None}
    assert uncapped == (RERANKERS | CHAT | WEB | {"jina-segment"}) - set(EMBEDDINGS)


def test_aihubmix_serves_what_its_page_names() -> None:
    assert {name for name, entry in CATALOGUE.items() if "aihubmix" in entry.kinds} == {
        "jina-clip-v2",
        "jina-embeddings-v3",
        "jina-colbert-v2",
        "jina-embeddings-v2-base-code",
        "jina-reranker-m0",
        "jina-reranker-v2-base-multilingual",
        "jina-deepsearch-v1",
    }
    assert all(entry.kinds[0] == "jina" for entry in CATALOGUE.values())


def test_only_deepsearch_is_deepsearch() -> None:
    assert {name for name, e in CATALOGUE.items() if e.model.deepsearch} == {"jina-deepsearch-v1", "jina-deepsearch-v2"}


def test_options_that_not_every_model_takes() -> None:
    def having(feature: str) -> set[str]:
        return {name for name, entry in CATALOGUE.items() if feature in entry.model.features}

    assert having("late_chunking") == {"jina-embeddings-v3", "jina-embeddings-v4"}
    assert having("return_multivector") == {"jina-embeddings-v4"}
    assert having("multivector") == {"jina-colbert-v1-en", "jina-colbert-v2"}
    assert having("sparse") == {"elser-v2"}
    assert having("max_doc_length") == {"jina-reranker-v3", "jina-reranker-v3.5"}
    fixed_size = {name for name in EMBEDDINGS if name not in having("dimensions")}
    assert fixed_size == {n for n in EMBEDDINGS if "-v2-base-" in n} | {
        "jina-clip-v1",
        "jina-colbert-v1-en",
        "elser-v2",
    }


def test_the_smallest_size_that_a_model_was_trained_for() -> None:
    least = {name: entry.least for name, entry in CATALOGUE.items() if entry.least}
    assert least == {
        **{f"jina-embeddings-v5-{kind}": 32 for kind in ("text-small", "text-nano", "omni-small", "omni-nano")},
        "jina-embeddings-v4": 128,
        "jina-code-embeddings-0.5b": 64,
        "jina-code-embeddings-1.5b": 128,
    }


def test_the_task_of_a_call_without_one() -> None:
    tasks = {name: entry.defaults["task"] for name, entry in CATALOGUE.items() if "task" in entry.defaults}
    assert tasks == {
        **dict.fromkeys((name for name in EMBEDDINGS if "-v5-" in name), "text-matching"),
        "jina-embeddings-v4": "text-matching",
        **dict.fromkeys((name for name in EMBEDDINGS if "-code-embeddings-" in name), "nl2code.query"),
    }
    assert all(task in CATALOGUE[name].model.tasks for name, task in tasks.items())


def test_rerankers_that_read_all_documents_together() -> None:
    listwise = {name: entry for name, entry in CATALOGUE.items() if "listwise" in entry.model.features}
    read = {name: (entry.model.context, entry.defaults["max_doc_length"]) for name, entry in listwise.items()}
    assert read == {"jina-reranker-v3": (131_072, 2048), "jina-reranker-v3.5": (131_072, 8192)}
    assert CATALOGUE["jina-reranker-m0"].model.context == 10_240


def test_the_vision_model_is_a_chat_model_of_jinas_own_api() -> None:
    model = CATALOGUE["jina-vlm"].model
    assert (model.endpoints, model.inputs, model.context) == (("chat",), ("text", "image"), 32_768)
    assert not model.deepsearch


def test_tasks_and_inputs_of_the_families() -> None:
    assert CATALOGUE["jina-embeddings-v3"].model.tasks == (
        "retrieval.query",
        "retrieval.passage",
        "text-matching",
        "classification",
        "separation",
    )
    assert "code.query" in CATALOGUE["jina-embeddings-v4"].model.tasks
    assert "clustering" in CATALOGUE["jina-embeddings-v5-text-nano"].model.tasks
    assert len(CATALOGUE["jina-code-embeddings-0.5b"].model.tasks) == 10
    assert CATALOGUE["jina-clip-v2"].model.tasks == ("retrieval.query",)
    assert CATALOGUE["jina-embeddings-v2-base-en"].model.tasks == ()
    assert CATALOGUE["jina-embeddings-v5-omni-nano"].model.inputs == ("text", "image", "audio", "video", "pdf")
    assert CATALOGUE["jina-reranker-m0"].model.inputs == ("text", "image")
    assert CATALOGUE["jina-colbert-v2"].model.dimensions_allowed == (64, 96, 128)


def test_the_day_is_midnight_utc() -> None:
    assert CATALOGUE["jina-embeddings-v3"].model.created == 1726617600  # 2024-09-18
    assert CATALOGUE["jina-ocr-v1"].model.created == 0


def test_trap_33_prefixed_ids_are_the_same_model() -> None:
    assert known("jina-ai/jina-embeddings-v3") is known("jina-embeddings-v3") is CATALOGUE["jina-embeddings-v3"]
    assert known("other/jina-embeddings-v3") is None
    assert known("") is None


def test_an_unlisted_model_is_limited_to_no_endpoint() -> None:
    assert unlisted("gpt-4o", "aihubmix") == Model(id="gpt-4o", endpoints=(), owned_by="aihubmix")


def test_an_unlisted_deepsearch_model_is_deepsearch() -> None:
    model = unlisted("jina-deepsearch-v9")
    assert model.deepsearch
    assert model.endpoints == ("chat",)
