"""The built-in catalogue: the properties of each known model, and the kinds of upstream that serve it.

Sources: Jina's OpenAPI description (2026-07) and the catalogue of its on-premises server for endpoints, sizes, tasks
and release days; AIHubMix's Jina page for the models of AIHubMix. The configuration adds to the catalogue. A model is
never refused because the catalogue does not have it.

``features`` are the names of request options that only some models have (``dimensions``, ``late_chunking``,
``normalized``, ``truncate``, ``return_multivector``, ``return_tokenized_input``, ``input_type``, ``max_doc_length``,
``return_embeddings``), of properties of the answer (``multivector``, ``sparse``, ``reasoning``, ``citations``), and
``listwise``: a reranker that reads all documents together, so that scores of two calls cannot be compared. A model has
the option ``task`` if ``tasks`` is not empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..core.classifiers import SEGMENTER
from ..core.types import EndpointName, Model

JINA = "jina"
BOTH = (JINA, "aihubmix")

# "Each input list can contain at most 512 items" (api.jina.ai, 422).
MAX_INPUTS = 512

# The prefix of every id in the public list of models at api.jina.ai.
PREFIX = "jina-ai/"
# Also the prefixes of Jina's models at Hugging Face and in LiteLLM.
PREFIXES = (PREFIX, "jinaai/", "jina_ai/")

QUERY_PASSAGE = ("retrieval.query", "retrieval.passage")
V3_TASKS = (*QUERY_PASSAGE, "text-matching", "classification", "separation")
V4_TASKS = (*QUERY_PASSAGE, "text-matching", "code.query", "code.passage")
V5_TASKS = (*QUERY_PASSAGE, "text-matching", "classification", "clustering")
CODE_TASKS = tuple(
    f"{use}.{side}"
    for use in ("nl2code", "qa", "code2code", "code2nl", "code2completion")
    for side in ("query", "passage")
)

# The embedding models also classify, and classifiers are trained for them, at Jina's own API; but for these.
CLASSIFIES = ("classify", "train")
UNCLASSIFIED = ("jina-embeddings-v5-omni-small", "jina-embeddings-v5-omni-nano", "elser-v2")

OMNI_INPUTS = ("text", "image", "audio", "video", "pdf")
DEEPSEARCH_INPUTS = ("text", "image", "file")
V3_RERANKING = ("max_doc_length", "return_embeddings", "listwise")


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model and the kinds of upstream that are documented to serve it.

    ``least``: the smallest vector for which it was trained; smaller ones are possible. ``defaults``: the values of
    options that differ from model to model, if they are left out.
    """

    model: Model
    kinds: tuple[str, ...] = (JINA,)
    least: int | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


def known(name: str) -> CatalogueEntry | None:
    """The entry of a model, whose id may be in any letter case and have one of PREFIXES; None if there is none."""
    return CATALOGUE.get(name) or CATALOGUE.get(bare(name).lower())


def bare(name: str) -> str:
    """The name without its prefix, if that is one of PREFIXES in any letter case."""
    prefix, slash, rest = name.partition("/")
    return rest if slash and f"{prefix.lower()}/" in PREFIXES else name


def unlisted(name: str, owned_by: str = "unknown") -> Model:
    """A model that is not in the catalogue: it has all endpoints of its upstreams, and no limits.

    Any name that begins as DeepSearch's names do is a DeepSearch model, because its server accepts all of them.
    """
    if name.startswith("jina-deepsearch-"):
        return Model(id=name, endpoints=("chat",), inputs=DEEPSEARCH_INPUTS, deepsearch=True)
    return Model(id=name, endpoints=(), owned_by=owned_by)


def _entry(
    name: str, *endpoints: EndpointName, released: str = "", kinds: tuple[str, ...] = (JINA,), **facts: Any
) -> CatalogueEntry:
    midnight = datetime.fromisoformat(f"{released}T00:00:00+00:00") if released else None
    created = int(midnight.timestamp()) if midnight else 0
    more = {fact: facts.pop(fact) for fact in ("least", "defaults") if fact in facts}
    return CatalogueEntry(Model(id=name, endpoints=endpoints, created=created, **facts), kinds, **more)


def _embeddings(name: str, **facts: Any) -> CatalogueEntry:
    classifies = () if name in UNCLASSIFIED else CLASSIFIES
    return _entry(name, "embeddings", *classifies, max_inputs=MAX_INPUTS, **facts)


def _v2(language: str, released: str, **facts: Any) -> CatalogueEntry:
    name, size = f"jina-embeddings-v2-base-{language}", {"dimensions": 768, "context": 8192}
    return _embeddings(name, released=released, features=("normalized", "truncate"), **size, **facts)


def _v5(name: str, released: str, **facts: Any) -> CatalogueEntry:
    size = {"dimensions": 1024, "context": 32768} if name.endswith("-small") else {"dimensions": 768, "context": 8192}
    features = ("dimensions", "normalized", "truncate")
    # Jina's description allows 1024 dimensions for all v5 models, even for those with 768.
    tasks: dict[str, Any] = {"tasks": V5_TASKS, "defaults": {"task": "text-matching"}}
    return _embeddings(name, released=released, features=features, largest=1024, least=32, **tasks, **size, **facts)


def _code(size: str, dimensions: int, least: int) -> CatalogueEntry:
    return _embeddings(
        f"jina-code-embeddings-{size}",
        released="2025-09-01",
        dimensions=dimensions,
        least=least,
        context=32768,
        tasks=CODE_TASKS,
        defaults={"task": "nl2code.query"},
        features=("dimensions", "truncate"),
    )


def _colbert(version: str, *features: str, **facts: Any) -> CatalogueEntry:
    return _entry(
        f"jina-colbert-{version}",
        "embeddings",
        "rerank",
        dimensions=128,
        context=8192,
        max_inputs=MAX_INPUTS,
        features=("input_type", "multivector", *features),
        **facts,
    )


def _listwise(version: str, document_tokens: int, **facts: Any) -> CatalogueEntry:
    defaults = {"max_doc_length": document_tokens}
    name, features = f"jina-reranker-{version}", V3_RERANKING
    return _entry(name, "rerank", context=131_072, features=features, defaults=defaults, **facts)


def _deepsearch(version: str, **facts: Any) -> CatalogueEntry:
    name = f"jina-deepsearch-{version}"
    return _entry(name, "chat", inputs=DEEPSEARCH_INPUTS, features=("reasoning", "citations"), deepsearch=True, **facts)


_ENTRIES = (
    _v5("jina-embeddings-v5-text-small", "2026-02-18"),
    _v5("jina-embeddings-v5-text-nano", "2026-02-18"),
    _v5("jina-embeddings-v5-omni-small", "2026-05-07", inputs=OMNI_INPUTS),
    _v5("jina-embeddings-v5-omni-nano", "2026-05-07", inputs=OMNI_INPUTS),
    _embeddings(
        "jina-embeddings-v4",
        released="2025-06-24",
        inputs=("text", "image", "pdf"),
        dimensions=2048,
        least=128,
        context=32768,
        tasks=V4_TASKS,
        defaults={"task": "text-matching"},
        features=("dimensions", "late_chunking", "return_multivector", "return_tokenized_input", "truncate"),
    ),
    _embeddings(
        "jina-embeddings-v3",
        released="2024-09-18",
        dimensions=1024,
        context=8192,
        tasks=V3_TASKS,
        features=("dimensions", "late_chunking", "normalized", "truncate"),
        kinds=BOTH,
    ),
    _v2("en", "2023-10-28"),
    _v2("zh", "2024-01-09"),
    _v2("de", "2024-01-15"),
    _v2("es", "2024-02-14"),
    _v2("code", "2024-02-05", kinds=BOTH),
    _code("0.5b", 896, 64),
    _code("1.5b", 1536, 128),
    _embeddings(
        "jina-clip-v2",
        released="2024-11-05",
        inputs=("text", "image"),
        dimensions=1024,
        context=8192,
        tasks=("retrieval.query",),
        features=("dimensions", "normalized", "truncate"),
        kinds=BOTH,
    ),
    _embeddings(
        "jina-clip-v1",
        released="2024-06-05",
        inputs=("text", "image"),
        dimensions=768,
        context=8192,
        features=("normalized", "truncate"),
    ),
    _colbert("v2", "dimensions", released="2024-08-31", dimensions_allowed=(64, 96, 128), kinds=BOTH),
    _colbert("v1-en", released="2024-02-17"),
    _embeddings("elser-v2", tasks=QUERY_PASSAGE, features=("sparse",), owned_by="elastic"),
    _listwise("v3.5", 8192),
    _listwise("v3", 2048, released="2025-10-01"),
    _entry("jina-reranker-m0", "rerank", released="2025-04-08", inputs=("text", "image"), context=10240, kinds=BOTH),
    _entry("jina-reranker-v2-base-multilingual", "rerank", released="2024-06-25", context=1024, kinds=BOTH),
    _entry("jina-reranker-v1-base-en", "rerank", released="2024-02-29", context=8192),
    _entry("jina-reranker-v1-turbo-en", "rerank", released="2024-04-18", context=8192),
    _entry("jina-reranker-v1-tiny-en", "rerank", released="2024-04-18", context=8192),
    _deepsearch("v1", kinds=BOTH),
    _deepsearch("v2"),
    _entry("jina-vlm", "chat", released="2025-12-04", inputs=("text", "image"), context=32768),
    _entry("jina-ocr-v1", "chat", inputs=("text", "image")),
    _entry("jina-reader", "reader"),
    _entry("jina-search", "search"),
    _entry("jina-svip", "svip"),
    _entry(SEGMENTER, "segment"),  # no model: its name in the ledger, in permissions and in prices
)

CATALOGUE: Mapping[str, CatalogueEntry] = {entry.model.id: entry for entry in _ENTRIES}
