"""Servers that speak OpenAI's wire format: requests are passed through, answers are checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import msgspec

from ..core.errors import TooLarge
from ..core.replies import ChatReply, EmbeddingsReply, RerankReply
from ..core.types import Call, ChatCall, EmbeddingsCall, EndpointName, Fold, Json, Reply, Request, RerankCall, Target
from . import validation
from .chat import ChatFold, chat_body, chat_reply
from .deepsearch import DeepSearchRules, deepsearch_body, schema_of, wants_citations
from .deepsearch_stream import DeepSearchFold
from .errors import failure, not_there
from .parts import text_of

BODY_LIMIT = 10 * 1024 * 1024  # bytes of a whole request to DeepSearch (express.json of jina-ai/node-DeepResearch)


def json_request(upstream: OpenAICompatible, call: Call, target: Target) -> Request:
    """The body of ``write`` with the model, as JSON."""
    headers = {
        "authorization": f"Bearer {target.key.secret}",
        "content-type": "application/json",
        "accept": "text/event-stream" if upstream.streams(call, target) else "application/json",
        "x-request-id": call.id,  # DeepSearch uses it as its trace id
    }
    model = {"model": target.name} if upstream.endpoints[call.endpoint.name].named(call) else {}
    body = msgspec.json.encode({**model, **upstream.body(call, target)})
    if target.model.deepsearch and len(body) > BODY_LIMIT:
        raise TooLarge(
            f"DeepSearch takes {BODY_LIMIT:,} bytes in a request, files in base64 among them; this one has "
            f"{len(body):,}",
            param="messages",
        )
    schema = schema_of(call.body) if target.model.deepsearch else None
    return Request(upstream.url(call, target), headers, body, target.model.deepsearch or call.endpoint.once, schema)


def json_error(upstream: OpenAICompatible, call: Call, target: Target, reply: Reply) -> Exception:
    error = failure(reply, upstream=upstream.name, deepsearch=target.model.deepsearch)
    if target.listed and (error.status == 404 or reply.status == 405):
        return upstream.missing(call, target, reply, error.message)
    return error


class Translation(NamedTuple):
    """An endpoint at an upstream: the ``path`` after the upstream's base URL, and the functions that translate between
    the canonical form and the provider's.

    write   (upstream, call, target) -> the body of the request, without the model. Raises InvalidRequest if the
            provider cannot do what the call asks for.
    read    (upstream, call, body, status) -> the canonical reply for a body with a ``status`` of success. Raises
            UpstreamError for an error sent with that status. A canonical reply must be read unchanged, because cached
            replies are read by this function too.
    fold    (upstream, call, target, status) -> the fold of a stream; None if the endpoint is not streamed.
    answer  (upstream, call, reply) -> as ``read``, for an answer whose headers or media type matter; None: they do not.
    request (upstream, call, target) -> the whole request.
    error   (upstream, call, target, reply) -> the error for an answer with a status of 300 or more.
    named   (call) -> True if the body names the model.
    host    the name of the setting with the base URL.
    """

    path: str
    write: Callable[[Any, Any, Target], Json]
    read: Callable[[Any, Any, bytes, int], Any]
    fold: Callable[[Any, Any, Target, int], Fold] | None = None
    answer: Callable[[Any, Any, Reply], Any] | None = None
    request: Callable[[Any, Any, Target], Request] = json_request
    error: Callable[[Any, Any, Target, Reply], Exception] = json_error
    named: Callable[[Any], bool] = lambda call: True
    host: str = "base_url"


def write_embeddings(upstream: OpenAICompatible, call: EmbeddingsCall, target: Target) -> Json:
    """OpenAI's body. It always requests floats, because the values of the option differ between providers; the gateway
    encodes the vectors itself."""
    inputs = call.body["input"]
    if dict in map(type, inputs):
        inputs = [text_of(item) for item in inputs]
    return {**call.body, "input": inputs, "encoding_format": "float"}


def read_embeddings(upstream: OpenAICompatible, call: EmbeddingsCall, body: bytes, status: int) -> EmbeddingsReply:
    return validation.embeddings(call, body, upstream.name, status)


def write_rerank(upstream: OpenAICompatible, call: RerankCall, target: Target) -> Json:
    return cohere_rerank(call, "max_tokens_per_doc")


def cohere_rerank(call: RerankCall, doc_limit: str) -> Json:
    """Cohere's body, which other servers have adopted. ``doc_limit``: the server's name for the limit in tokens per
    document."""
    limits = {"top_n": call.top_n, doc_limit: call.max_doc_length}
    return {**call.body, **{name: limit for name, limit in limits.items() if limit is not None}}


def read_rerank(upstream: OpenAICompatible, call: RerankCall, body: bytes, status: int) -> RerankReply:
    """The reply, with ``top_n`` results or more; one per document if these are fewer or ``top_n`` was not given."""
    least = min(call.most_items, len(call.documents))
    return validation.ranking(call, body, upstream.name, least, status)


def write_chat(upstream: OpenAICompatible, call: ChatCall, target: Target) -> Json:
    return deepsearch_body(call, upstream.rules.system_messages) if target.model.deepsearch else chat_body(call)


def read_chat(upstream: OpenAICompatible, call: ChatCall, body: bytes, status: int) -> ChatReply:
    return chat_reply(body, upstream.name, status)


def fold_chat(upstream: OpenAICompatible, call: ChatCall, target: Target, status: int) -> Fold:
    if not target.model.deepsearch:
        return ChatFold(upstream.name, status)
    schema = schema_of(call.body) if upstream.rules.schema_mismatch == "error" else None
    return DeepSearchFold(upstream.name, status, citing=wants_citations(call.body), schema=schema)


@dataclass(frozen=True, slots=True)
class OpenAICompatible:
    """An upstream that speaks OpenAI's wire format, and the base class of upstreams that differ from it.

    ``base_url`` is the address before the paths of ``endpoints``, including ``/v1`` if the server has it.
    """

    endpoints: ClassVar[Mapping[EndpointName, Translation]] = {
        "embeddings": Translation("/embeddings", write_embeddings, read_embeddings),
        "rerank": Translation("/rerank", write_rerank, read_rerank),
        "chat": Translation("/chat/completions", write_chat, read_chat, fold_chat),
    }

    name: str
    base_url: str
    rules: DeepSearchRules = field(default=DeepSearchRules(), kw_only=True)

    def request(self, call: Call, target: Target) -> Request:
        return self.endpoints[call.endpoint.name].request(self, call, target)

    def url(self, call: Call, target: Target) -> str:
        base: str = getattr(self, self.setting(call, target))
        return base.rstrip("/") + self.endpoints[call.endpoint.name].path

    def body(self, call: Call, target: Target) -> Json:
        """The provider's body, without the model."""
        return self.endpoints[call.endpoint.name].write(self, call, target)

    def streams(self, call: Call, target: Target) -> bool:
        return call.stream or (target.model.deepsearch and call.endpoint.streamed)

    def reply(
        self, call: Call, target: Target, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Json:
        line = self.endpoints[call.endpoint.name]
        if line.answer is not None and headers is not None:
            reply: Json = line.answer(self, call, Reply(status, headers, body))
        else:
            reply = line.read(self, call, body, status)
        return reply

    def fold(self, call: Call, target: Target, status: int = 200) -> Fold:
        fold = self.endpoints[call.endpoint.name].fold
        if fold is None:
            raise TypeError(f"{self.name} has no stream of {call.endpoint.name}")
        return fold(self, call, target, status)

    def error(self, call: Call, target: Target, reply: Reply) -> Exception:
        return self.endpoints[call.endpoint.name].error(self, call, target, reply)

    def missing(self, call: Call, target: Target, reply: Reply, message: str) -> Exception:
        """The error for an answer that says that the upstream does not have the model, or the path."""
        setting = f"upstreams.{self.name}.{self.setting(call, target)}"
        return not_there(reply.status, message, upstream=self.name, model=target.name, setting=setting)

    def setting(self, call: Call, target: Target) -> str:
        """The name of the setting with the target's address."""
        return self.endpoints[call.endpoint.name].host
