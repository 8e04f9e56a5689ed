"""Jina AI: api.jina.ai for embeddings, rerank and chat models, deepsearch.jina.ai for DeepSearch, r.jina.ai,
s.jina.ai and svip.jina.ai for pages and searches.

Source: Jina's OpenAPI description, versions of 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..core.classifiers import ClassifyCall, TrainCall
from ..core.types import Call, EmbeddingsCall, EndpointName, Json, Reply, RerankCall, Target
from ..core.web import WebCall
from . import classifier
from .openai import OpenAICompatible, Translation, json_error, read_embeddings, read_rerank
from .options import MAX_DOC_LENGTH, fitting
from .page_errors import page_failure
from .pages import fold_page, page_request, read_kept, read_page, svip_request, write_page
from .parts import thing

MEDIA = ("image", "pdf", "audio", "video")  # each "as a URL or base64-encoded string"
DATA_URI = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)

# The Jina classes of LangChain and LlamaIndex still use these names for an image, from jina-clip-v1's first API. Jina's
# ImageDoc now has "image" only, for URLs and bytes.
OLD_NAMES = ("url", "bytes")


def write_embeddings(upstream: Jina, call: EmbeddingsCall, target: Target) -> Json:
    body = jina_embeddings(call, target)
    inputs = body["input"]
    # "PDFs must be sent as single inputs, not in a list."
    alone = len(inputs) == 1 and isinstance(inputs[0], dict) and "pdf" in inputs[0]
    return {**body, "input": inputs[0]} if alone else body


def write_rerank(upstream: Jina, call: RerankCall, target: Target) -> Json:
    body = jina_rerank(call, target)
    if call.max_doc_length is not None and target.name.removeprefix("jina-ai/").startswith("jina-reranker-v3"):
        body["max_doc_length"] = min(call.max_doc_length, MAX_DOC_LENGTH)
    return body


def write_classifier(upstream: Jina, call: ClassifyCall | TrainCall, target: Target) -> Json:
    """The inputs or examples in Jina's form, and the classifier that is asked or trained further."""
    named = {"classifier_id": call.classifier} if call.classifier else {}
    return {**named, **call.body, "input": _inputs(call.body["input"])}


def jina_embeddings(call: EmbeddingsCall, target: Target) -> Json:
    """Jina's body. It has no encoding option, because float is Jina's default, and the only value that is valid under
    all names of the option.

    Raises InvalidRequest for an option that the model does not have.
    """
    body = call.body if len(call.body) == 1 else fitting(call.body, target, "embeddings")
    return {**body, "input": _inputs(body["input"])}


def jina_rerank(call: RerankCall, target: Target) -> Json:
    """Jina's body. The answer is requested without documents: the gateway adds the caller's own.

    Raises InvalidRequest for an option that the model does not have.
    """
    body = {**call.body} if len(call.body) == 2 else fitting(call.body, target, "rerank")
    body["query"] = _input(body["query"])
    body["documents"] = _inputs(body["documents"])
    if call.top_n is not None:
        body["top_n"] = call.top_n
    body["return_documents"] = False
    return body


def _inputs(items: list[Any]) -> list[Any]:
    """The inputs in Jina's form; a list of texts only, the common case, is returned as it is."""
    return [_input(item) for item in items] if dict in map(type, items) else items


def _input(item: Any) -> Any:
    """An input in Jina's form. Unknown forms are passed through unchanged, for future models."""
    if not isinstance(item, dict):
        return item
    if "type" in item:
        item = thing(item)
    item = {"image" if name in OLD_NAMES and len(item) == 1 else name: value for name, value in item.items()}
    for name in MEDIA:
        if isinstance(item.get(name), str):
            item[name] = DATA_URI.sub("", item[name], count=1) if item[name][:5].lower() == "data:" else item[name]
    if isinstance(item.get("content"), list):  # several parts that are embedded as one vector
        item["content"] = _inputs(item["content"])
    return item


def by_model(call: ClassifyCall | TrainCall) -> bool:
    """False if the call names a classifier, which has its model."""
    return not call.classifier


def classifier_error(upstream: Jina, call: ClassifyCall | TrainCall, target: Target, reply: Reply) -> Exception:
    refused = classifier.refused(reply, upstream.name, of_one=bool(call.classifier))
    return json_error(upstream, call, target, reply) if refused is None else refused


def page_error(upstream: Jina, call: WebCall, target: Target, reply: Reply) -> Exception:
    """The error of a page. A path that is missing is no page's fault, but that of the upstream's address."""
    error = page_failure(reply, call, upstream.name)
    missing = error.status == 404 and error.code != "nothing_found"
    return upstream.missing(call, target, reply, error.message) if missing else error


PAGE = Translation("/", write_page, read_kept, fold_page, read_page, page_request, page_error)


@dataclass(frozen=True, slots=True)
class Jina(OpenAICompatible):
    """Jina AI. ``base_url`` and ``deepsearch_base_url`` include ``/v1``; the others are the bare hosts."""

    endpoints: ClassVar[Mapping[EndpointName, Translation]] = {
        "embeddings": Translation("/embeddings", write_embeddings, read_embeddings),
        "rerank": Translation("/rerank", write_rerank, read_rerank),
        "chat": OpenAICompatible.endpoints["chat"],
        "reader": PAGE._replace(host="reader_base_url"),
        "search": PAGE._replace(host="search_base_url"),
        "svip": PAGE._replace(host="svip_base_url", request=svip_request, fold=None),
        "classify": Translation(
            "/classify", write_classifier, classifier.read_classify, error=classifier_error, named=by_model
        ),
        "train": Translation("/train", write_classifier, classifier.read_train, error=classifier_error, named=by_model),
        "segment": Translation("/segment", classifier.write_segment, classifier.read_segment, named=lambda call: False),
    }

    name: str = "jina"
    base_url: str = "https://api.jina.ai/v1"
    deepsearch_base_url: str = "https://deepsearch.jina.ai/v1"
    reader_base_url: str = "https://r.jina.ai"
    search_base_url: str = "https://s.jina.ai"
    svip_base_url: str = "https://svip.jina.ai"

    def setting(self, call: Call, target: Target) -> str:
        return "deepsearch_base_url" if target.model.deepsearch else OpenAICompatible.setting(self, call, target)
