"""POST /v1/rerank for requests in the form of Jina or Cohere's version 1, POST /v2/rerank for Cohere's version 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from ..core.errors import InvalidRequest
from ..core.replies import RerankReply, RerankResult
from ..core.types import RERANK, Json, RerankCall
from .endpoint import Endpoint
from .fields import given, model_of, total_usage, unsent, usage_shown, whole_number

# The limit in tokens per document, under Jina's name, Cohere's, and AIHubMix's, whose page describes it as tokens.
# Cohere's max_chunks_per_doc counts chunks instead; it stays in the body for models that support it.
DOC_LIMITS = ("max_doc_length", "max_tokens_per_doc", "max_chunk_per_doc")

UNSENT = unsent("rerank")

COHERE_META = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}


@dataclass(frozen=True, slots=True)
class Rerank(Endpoint):
    """The rerank endpoint. A call is never split: a listwise reranker's scores are comparable only within one call."""

    facts: ClassVar = RERANK
    paths: ClassVar = ("/v1/rerank", "/v2/rerank")

    def parse(self, body: Json, path: str) -> RerankCall:
        """``path`` decides the default of ``return_documents``: false for Cohere's version 2, true otherwise."""
        cohere = path.startswith("/v2")
        body = given(body, UNSENT)
        model = model_of(body)
        if body.get("documents") is None:
            raise InvalidRequest(_missing("documents", body), param="documents")
        query = _query(body)
        documents = body.pop("documents")
        texts = _texts(documents, body.pop("rank_fields", None))
        top_n, doc_limit = _count(body, ("top_n", "top_k")), _count(body, DOC_LIMITS)
        return_documents = _flag(body, "return_documents", default=not cohere)
        return RerankCall(
            model=model,
            body={**body, "query": query, "documents": texts},
            documents=documents,
            top_n=top_n,
            return_documents=return_documents,
            max_doc_length=doc_limit,
            cohere=cohere,
        )

    def merge(self, call: RerankCall, replies: list[RerankReply]) -> RerankReply:
        """The reply, cut to ``top_n`` results."""
        [reply] = replies
        return {**reply, "results": reply["results"][: call.top_n], "usage": total_usage([reply["usage"]])}

    def render(self, call: RerankCall, reply: RerankReply) -> bytes:
        answer = {
            "id": f"rerank-{call.id}",
            "object": "list",
            **{name: value for name, value in reply.items() if name not in ("id", "object", "meta")},
            "model": call.model,
            "usage": usage_shown(reply["usage"]),
        }
        if call.return_documents:
            answer["results"] = _with_documents(reply["results"], call.documents)
        if call.cohere:
            answer["meta"] = COHERE_META
        return msgspec.json.encode(answer)


def _missing(field: str, body: Json) -> str:
    for other, path in (("input", "/v1/embeddings"), ("messages", "/v1/chat/completions")):
        if other in body:
            return f"{field} is missing. This looks like a request for POST {path}"
    forms = "a list of strings, {'text': ...} or {'image': ...}" if field == "documents" else "a text or {'image': ...}"
    return f"{field} is missing: send {forms}"


def _query(body: Json) -> Any:
    query = body.pop("query", None)
    if query is None:
        raise InvalidRequest(_missing("query", body), param="query")
    if isinstance(query, dict) and "text" in query and query.keys() <= {"text", "type"}:
        query = query["text"]
    if not isinstance(query, str | dict) or not query:
        raise InvalidRequest("query must be a non-empty text or {'image': ...}", param="query")
    return query


def _texts(documents: Any, rank_fields: Any) -> list[Any]:
    """The documents to be sent upstream: strings if all are texts, else objects, as both providers document it."""
    if not isinstance(documents, list) or not documents:
        raise InvalidRequest("documents must be a list of at least one document", param="documents")
    if rank_fields is not None and not _is_names(rank_fields):
        raise InvalidRequest("rank_fields must be a list of field names", param="rank_fields")
    if set(map(type, documents)) == {str}:
        return documents
    texts = [_text(document, rank_fields, place) for place, document in enumerate(documents)]
    if all(isinstance(text, str) for text in texts):
        return texts
    return [{"text": text} if isinstance(text, str) else text for text in texts]


def _is_names(fields: Any) -> bool:
    return isinstance(fields, list) and len(fields) > 0 and all(isinstance(field, str) for field in fields)


def _text(document: Any, rank_fields: list[str] | None, place: int) -> Any:
    if isinstance(document, str):
        return document
    if not isinstance(document, dict) or not document:
        raise InvalidRequest(f"documents[{place}] must be a string or an object", param="documents")
    if rank_fields is not None:
        fields = [str(document[field]) for field in rank_fields if document.get(field) is not None]
        if not fields:
            raise InvalidRequest(f"documents[{place}] has none of the fields of rank_fields", param="rank_fields")
        return "\n".join(fields)
    return document["text"] if isinstance(document.get("text"), str) else document


def _count(body: Json, names: tuple[str, ...]) -> int | None:
    """Removes an option from ``body`` under all its names, and returns the first that is given."""
    counts = [whole_number(name, body.pop(name)) for name in names if name in body]
    return counts[0] if counts else None


def _flag(body: Json, name: str, *, default: bool) -> bool:
    value = body.pop(name, None)
    if not isinstance(value, bool | None):
        raise InvalidRequest(f"{name} must be true or false", param=name)
    return default if value is None else value


def _with_documents(results: list[RerankResult], documents: list[Any]) -> list[Json]:
    """The results with their documents, always as objects: Cohere's clients and LiteLLM crash on a string."""
    return [
        {**result, "document": {"text": document} if isinstance(document, str) else document}
        for result in results
        for document in (documents[result["index"]],)
    ]
