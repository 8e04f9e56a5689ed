"""Servers that speak OpenAI's wire format: everything passes, and the answer is checked."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from ..core.errors import TooLarge
from ..core.types import Call, ChatCall, EmbeddingsCall, Fold, Json, Reply, Request, RerankCall, Target
from . import validation
from .chat import ChatFold, chat_body, chat_reply
from .deepsearch import DeepSearchRules, deepsearch_body, schema_of, wants_citations
from .deepsearch_stream import DeepSearchFold
from .errors import failure, not_there
from .parts import text_of

BODY_LIMIT = 10 * 1024 * 1024  # of the whole body, at DeepSearch (express.json of jina-ai/node-DeepResearch)

PATHS = {"embeddings": "/embeddings", "rerank": "/rerank", "chat": "/chat/completions"}


@dataclass(frozen=True, slots=True)
class OpenAICompatible:
    """``base_url`` is what the paths of ``PATHS`` are put behind: with ``/v1``, where the server has it."""

    name: str
    base_url: str
    rules: DeepSearchRules = field(default=DeepSearchRules(), kw_only=True)

    def request(self, call: Call, target: Target) -> Request:
        headers = {
            "authorization": f"Bearer {target.key.secret}",
            "content-type": "application/json",
            "accept": "text/event-stream" if self.streams(call, target) else "application/json",
            "x-request-id": call.id,  # DeepSearch takes it for its trace id
        }
        body = msgspec.json.encode({"model": target.name, **self.body(call, target)})
        if target.model.deepsearch and len(body) > BODY_LIMIT:
            raise TooLarge(
                f"DeepSearch takes {BODY_LIMIT:,} bytes in a request, files in base64 among them; this one has "
                f"{len(body):,}",
                param="messages",
            )
        schema = schema_of(call.body) if isinstance(call, ChatCall) and target.model.deepsearch else None
        return Request(self.url(call, target), headers, body, target.model.deepsearch, schema)

    def url(self, call: Call, target: Target) -> str:
        return self.base_url.rstrip("/") + PATHS[call.endpoint]

    def body(self, call: Call, target: Target) -> Json:
        """The provider's body, without the model."""
        if isinstance(call, EmbeddingsCall):
            return self.embeddings(call, target)
        if isinstance(call, RerankCall):
            return self.rerank(call, target)
        if isinstance(call, ChatCall):
            return deepsearch_body(call, self.rules.system_messages) if target.model.deepsearch else chat_body(call)
        raise TypeError(f"no upstream takes a {type(call).__name__}")

    def embeddings(self, call: EmbeddingsCall, target: Target) -> Json:
        return openai_embeddings(call)

    def rerank(self, call: RerankCall, target: Target) -> Json:
        return cohere_rerank(call, "max_tokens_per_doc")

    def least_results(self, call: RerankCall) -> int:
        """The least number of results in an answer."""
        return min(call.top_n or len(call.documents), len(call.documents))

    def streams(self, call: Call, target: Target) -> bool:
        return call.stream or target.model.deepsearch

    def reply(self, call: Call, target: Target, body: bytes, status: int = 200) -> Json:
        if isinstance(call, EmbeddingsCall):
            return validation.embeddings(call, body, self.name, status)
        if isinstance(call, RerankCall):
            return validation.ranking(call, body, self.name, self.least_results(call), status)
        return chat_reply(body, self.name, status)

    def fold(self, call: Call, target: Target, status: int = 200) -> Fold:
        if not target.model.deepsearch:
            return ChatFold(self.name, status)
        schema = schema_of(call.body) if self.rules.schema_mismatch == "error" else None
        return DeepSearchFold(self.name, status, citing=wants_citations(call.body), schema=schema)

    def error(self, call: Call, target: Target, reply: Reply) -> Exception:
        error = failure(reply, upstream=self.name, deepsearch=target.model.deepsearch)
        if target.listed and (error.status == 404 or reply.status == 405):
            setting = f"upstreams.{self.name}.{self.setting(target)}"
            return not_there(reply.status, error.message, upstream=self.name, model=target.name, setting=setting)
        return error

    def setting(self, target: Target) -> str:
        """The setting that says where the target is."""
        return "base_url"


def openai_embeddings(call: EmbeddingsCall) -> Json:
    """OpenAI's form. Floats are asked for, whatever the caller wants: the values of the option differ, and are made
    here."""
    inputs = call.body["input"]
    if dict in map(type, inputs):
        inputs = [text_of(item) for item in inputs]
    return {**call.body, "input": inputs, "encoding_format": "float"}


def cohere_rerank(call: RerankCall, doc_limit: str) -> Json:
    """Cohere's form, which other servers have taken over; ``doc_limit`` is their name for a document's tokens."""
    limits = {"top_n": call.top_n, doc_limit: call.max_doc_length}
    return {**call.body, **{name: limit for name, limit in limits.items() if limit is not None}}
