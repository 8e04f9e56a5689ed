"""The models of the stand-ins, with the properties that affect the wire format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_RETRIEVAL = ("retrieval.query", "retrieval.passage")
_CODE_TASKS = tuple(
    f"{task}.{side}"
    for task in ("nl2code", "qa", "code2code", "code2nl", "code2completion")
    for side in ("query", "passage")
)
_V3_TASKS = (*_RETRIEVAL, "text-matching", "classification", "separation")
_V4_TASKS = ("text-matching", *_RETRIEVAL, "code.query", "code.passage")
_V5_TASKS = (*_RETRIEVAL, "text-matching", "clustering", "classification")

# Fields of every request (Jina's OpenAPI description, 2026-07), with the aliases that only Jina's server knows.
_EMBED_FIELDS = ("model", "input", "embedding_type", "encoding_format")
_RERANK_FIELDS = ("model", "query", "documents", "top_n", "top_k", "return_documents", "truncation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedder:
    """``sizes``: the allowed values of ``dimensions``; empty if every size up to ``size`` is allowed.

    ``prompt_tokens``: whether the usage has the field. v3 sends it only with late chunking or with objects as input, v4
    never (measured at api.jina.ai). ``kind``: an item of ``data`` holds one vector, one vector per token, or a dict of
    weights.
    """

    id: str
    size: int
    context: int = 8192
    inputs: tuple[str, ...] = ("text",)
    tasks: tuple[str, ...] = ()
    takes_dimensions: bool = True
    sizes: tuple[int, ...] = ()
    late_chunking: bool = False
    multivector_option: bool = False
    truncates: bool = True
    normalizes: bool = True
    prompt_tokens: Literal["always", "sometimes", "never"] = "always"
    kind: Literal["vector", "multivector", "sparse"] = "vector"

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a request; Jina refuses all others."""
        options = {
            "dimensions": self.takes_dimensions,
            "task": bool(self.tasks),
            "late_chunking": self.late_chunking,
            "truncate": self.truncates,
            "normalized": self.normalizes,
            "return_multivector": self.multivector_option,
            "return_tokenized_input": self.multivector_option,
            "input_type": self.kind == "multivector",
        }
        return (*_EMBED_FIELDS, *(name for name, there in options.items() if there))


_OMNI = ("text", "image", "audio", "video", "pdf")

JINA_EMBEDDERS = {
    model.id: model
    for model in (
        *(
            Embedder(id=f"jina-embeddings-v2-base-{part}", size=768, takes_dimensions=False)
            for part in ("en", "zh", "de", "es", "code")
        ),
        Embedder(id="jina-embeddings-v3", size=1024, tasks=_V3_TASKS, late_chunking=True, prompt_tokens="sometimes"),
        Embedder(
            id="jina-embeddings-v4",
            size=2048,
            context=32768,
            inputs=("text", "image", "pdf"),
            tasks=_V4_TASKS,
            late_chunking=True,
            multivector_option=True,
            normalizes=False,
            prompt_tokens="never",
        ),
        Embedder(id="jina-embeddings-v5-text-nano", size=768, tasks=_V5_TASKS),
        Embedder(id="jina-embeddings-v5-text-small", size=1024, context=32768, tasks=_V5_TASKS),
        Embedder(id="jina-embeddings-v5-omni-nano", size=768, inputs=_OMNI, tasks=_V5_TASKS),
        Embedder(id="jina-embeddings-v5-omni-small", size=1024, context=32768, inputs=_OMNI, tasks=_V5_TASKS),
        Embedder(id="jina-code-embeddings-0.5b", size=896, context=32768, tasks=_CODE_TASKS, normalizes=False),
        Embedder(id="jina-code-embeddings-1.5b", size=1536, context=32768, tasks=_CODE_TASKS, normalizes=False),
        Embedder(id="jina-clip-v1", size=768, inputs=("text", "image"), takes_dimensions=False),
        Embedder(id="jina-clip-v2", size=1024, inputs=("text", "image"), tasks=("retrieval.query",)),
        *(
            Embedder(
                id=name,
                size=128,
                sizes=sizes,
                takes_dimensions=bool(sizes),
                truncates=False,
                normalizes=False,
                kind="multivector",
            )
            for name, sizes in (("jina-colbert-v1-en", ()), ("jina-colbert-v2", (64, 96, 128)))
        ),
        Embedder(
            id="elser-v2",
            size=1024,
            context=512,
            tasks=_RETRIEVAL,
            takes_dimensions=False,
            truncates=False,
            normalizes=False,
            kind="sparse",
        ),
    )
}

# The models that classify and train: not v5-omni, ColBERT and ELSER.
CLASSIFYING = tuple(
    name for name, model in JINA_EMBEDDERS.items() if model.kind == "vector" and "-v5-omni-" not in name
)

OPENAI_EMBEDDER = Embedder(id="text-embedding-3-small", size=1536)

AIHUBMIX_EMBEDDERS = {
    OPENAI_EMBEDDER.id: OPENAI_EMBEDDER,
    **{
        name: JINA_EMBEDDERS[name]
        for name in ("jina-clip-v2", "jina-embeddings-v3", "jina-colbert-v2", "jina-embeddings-v2-base-code")
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranker:
    """``listwise``: v3 and v3.5, whose scores may be negative and whose documents are always objects.

    ``echoes``: a result returns the document as sent, string or object (cross encoders do).
    """

    id: str
    listwise: bool = False
    images: bool = False
    echoes: bool = True
    document_tokens: int = 8192
    context: int = 8192

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a request; Jina refuses all others."""
        return (*_RERANK_FIELDS, *(("max_doc_length", "return_embeddings") if self.listwise else ()))


JINA_RERANKERS = {
    model.id: model
    for model in (
        Reranker(id="jina-reranker-v1-tiny-en"),
        Reranker(id="jina-reranker-v1-turbo-en"),
        Reranker(id="jina-reranker-v1-base-en"),
        Reranker(id="jina-reranker-v2-base-multilingual"),
        Reranker(id="jina-reranker-m0", images=True, context=10_240),
        Reranker(id="jina-reranker-v3", listwise=True, echoes=False, document_tokens=2048, context=131_072),
        Reranker(id="jina-reranker-v3.5", listwise=True, echoes=False, context=131_072),
        Reranker(id="jina-colbert-v1-en", echoes=False),
        Reranker(id="jina-colbert-v2", echoes=False),
    )
}

AIHUBMIX_RERANKERS = {name: JINA_RERANKERS[name] for name in ("jina-reranker-m0", "jina-reranker-v2-base-multilingual")}

DEEPSEARCH = ("jina-deepsearch-v1", "jina-deepsearch-v2")
JINA_CHAT = ("jina-vlm",)
AIHUBMIX_DEEPSEARCH = ("jina-deepsearch-v1",)
AIHUBMIX_CHAT = ("gpt-4o-mini",)
