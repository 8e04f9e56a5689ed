"""The domain types, in the order in which a request passes through them.

    bytes -> Call -> Route -> Target -> Request -> [network] -> Event ... | Reply -> bytes

All are plain values. This module imports nothing of this project, so that endpoints and upstreams can share its types.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol

import msgspec

Json = dict[str, Any]
EndpointName = str  # a key of app.endpoints.ENDPOINTS
Encoding = Literal["float", "base64", "binary", "ubinary"]
ReasoningMode = Literal["reasoning_content", "reasoning", "think_tags", "drop"]
SystemMessages = Literal["fold", "drop", "refuse"]
OnMismatch = Literal["error", "pass"]
OnDisconnect = Literal["cancel", "drain", "detach"]


class Value(msgspec.Struct, frozen=True):
    """The base class of values that are created for each call: creating a frozen dataclass takes ten times as long.

    ``hidden`` names the fields that the repr leaves out.
    """

    hidden: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        shown = (name for name in self.__struct_fields__ if name not in self.hidden)
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """The properties of an endpoint that the cache, the gateway and the ledger depend on.

    pure       equal calls have equal replies, so single-flight may share a reply, and the cache may keep it
    inputs     the field of a call's body with the list of inputs, each of which has one item in the reply's ``data``:
               a call may be split by inputs, and each input is cached by itself; empty if a call cannot be split
    batchable  calls may be batched: the inputs of several go upstream in one call
    items      the field of the reply with the list of results, each an object
    texts      the fields of a call's body that a model reads, for an estimate of its tokens
    writes     the model writes text, which is counted as completion tokens
    streamed   the answer may be a stream
    echoes     the answer may repeat texts of the call, so the cache keeps it in memory only
    api        the provider's API, if it has limits of its own there; else those of the key count
    once       a call that was sent is never sent again, because it changes something at the provider
    slow       an answer may take minutes, so a call that the upstream may have begun is not repeated
    owned      a call may be about something that its caller owns at the provider: a classifier
    """

    name: EndpointName
    pure: bool = False
    inputs: str = ""
    batchable: bool = False
    items: str = ""
    texts: tuple[str, ...] = ()
    writes: bool = False
    streamed: bool = False
    echoes: bool = False
    api: str = ""
    once: bool = False
    slow: bool = False
    owned: bool = False


EMBEDDINGS = EndpointFacts("embeddings", pure=True, inputs="input", batchable=True, items="data", texts=("input",))
RERANK = EndpointFacts("rerank", pure=True, items="results", texts=("query", "documents"))
CHAT = EndpointFacts("chat", items="choices", texts=("messages", "tools"), writes=True, streamed=True)


class Call(Value, frozen=True, kw_only=True):
    """One request, parsed into the canonical form, not yet routed.

    ``model`` is the name that the caller used, which the answer repeats. ``body`` is the body for an OpenAI-compatible
    upstream, without ``model`` and ``stream``; fields that the endpoint does not know are left untouched. ``id`` and
    ``created`` (Unix time in seconds) are set by the gateway, for answers that have an id of their own. ``encoding`` is
    the encoding of the vectors in the caller's answer. ``user`` is the caller's word for who asks, or empty. A model
    texts ``passes`` times. ``route`` is set if only one account can take the call.
    """

    endpoint: EndpointFacts
    model: str
    body: Json
    stream: bool = False
    encoding: Encoding = "float"
    id: str = ""
    created: int = 0
    user: str = ""
    passes: int = 1
    route: Route | None = None

    @property
    def most_items(self) -> int | None:
        """The most items that a valid reply can have; None if there is no bound."""
        return None


class EmbeddingsCall(Call, frozen=True, kw_only=True):
    """``body["input"]`` is always a list."""

    endpoint: EndpointFacts = EMBEDDINGS


class RerankCall(Call, frozen=True, kw_only=True):
    """``documents`` are the caller's documents, which the answer returns; those of ``body`` are sent upstream.

    ``top_n`` None means all. ``body`` holds ``query``, ``documents`` and whatever else the caller sent, except the
    fields of this class. ``cohere`` asks for the ``meta`` object that answers of Cohere's version 2 have.
    """

    endpoint: EndpointFacts = RERANK
    documents: list[Any] = []
    top_n: int | None = None
    return_documents: bool = True
    max_doc_length: int | None = None
    cohere: bool = False

    @property
    def most_items(self) -> int:
        return self.top_n or len(self.documents)


class ChatCall(Call, frozen=True, kw_only=True):
    """``body`` is the caller's body, including ``stream_options``. ``hides_usage``: the gateway asks for the usage of a
    stream, and the caller did not."""

    endpoint: EndpointFacts = CHAT
    include_usage: bool = False
    hides_usage: bool = False
    reasoning: ReasoningMode = "reasoning_content"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model as the catalogue and the configuration describe it. ``None`` and ``()`` mean unknown or unlimited.

    dimensions           the size of a full vector
    dimensions_allowed   the values of the ``dimensions`` option, if only certain ones are possible
    largest              the largest value of the ``dimensions`` option, if it differs from ``dimensions``
    context              the context length in tokens
    max_inputs           the most inputs of one upstream call
    created              the day of its release as a Unix time in seconds; 0 if unknown
    cached               its answers may be cached
    """

    id: str
    endpoints: tuple[EndpointName, ...]
    inputs: tuple[str, ...] = ("text",)
    dimensions: int | None = None
    dimensions_allowed: tuple[int, ...] = ()
    largest: int | None = None
    context: int | None = None
    tasks: tuple[str, ...] = ()
    max_inputs: int | None = None
    features: tuple[str, ...] = ()
    deepsearch: bool = False
    owned_by: str = "jina-ai"
    created: int = 0
    cached: bool = True


@dataclass(frozen=True, slots=True)
class Key:
    """An upstream's key. ``alias`` names it in the log and the ledger; the repr leaves the secret out."""

    secret: str = field(repr=False)
    alias: str = "default"

    @property
    def tail(self) -> str:
        """The last four characters, by which an operator recognises the key; empty if the key is shorter than 12."""
        return self.secret[-4:] if len(self.secret) >= 12 else ""


@dataclass(frozen=True, slots=True)
class Target:
    """A model at an upstream: the upstream, its own ``name`` for the model, and a key, ``pinned`` if no other will do.

    ``listed``: the catalogue or the configuration says that the upstream serves it.
    """

    upstream: Upstream
    model: Model
    name: str
    key: Key
    listed: bool = False
    pinned: bool = False

    @property
    def space(self) -> str:
        """The vector space of its embeddings, which is the same at every upstream that serves the model."""
        return self.name.removeprefix("jina-ai/").lower()

    def with_key(self, key: Key) -> Target:
        return self if key == self.key else replace(self, key=key)


@dataclass(frozen=True, slots=True)
class Route:
    """A model and its targets, best first; never empty."""

    model: Model
    targets: tuple[Target, ...]

    @property
    def endpoints(self) -> list[EndpointName]:
        """The endpoints that serve the model: those of its targets' upstreams, limited to its own if it has any."""
        served = dict.fromkeys(name for target in self.targets for name in target.upstream.endpoints)
        return [name for name in self.model.endpoints or served if name in served]

    def to(self, endpoint: EndpointName) -> Route | None:
        """The route for a call to ``endpoint``: only the targets that serve it; None if there is no such target."""
        if self.model.endpoints and endpoint not in self.model.endpoints:
            return None
        for target in self.targets:
            if endpoint not in target.upstream.endpoints:
                break
        else:
            return self
        targets = tuple(target for target in self.targets if endpoint in target.upstream.endpoints)
        return Route(self.model, targets) if targets else None


class Request(Value, frozen=True):
    """A request to an upstream, usually a POST of JSON. ``headers`` hold the key, so the repr leaves them out.

    ``once``: the request must never be sent twice, so it gets a new connection. Any other request may use a kept
    connection, and is sent again over a new one if the upstream was just closing the kept one. ``schema`` is the JSON
    schema that the answer has to fit; it is not fully checked yet. ``seconds`` bounds the whole answer, or in a stream
    each event, in place of the client's deadlines. ``kept`` names the headers of an answer that are read.
    """

    hidden = ("headers", "body", "schema")

    url: str
    headers: dict[str, str]
    body: bytes
    once: bool = False
    schema: Json | None = None
    seconds: float | None = None
    kept: tuple[str, ...] = ()
    method: str = "POST"


class Reply(Value, frozen=True):
    """A complete answer of an upstream, of any status."""

    hidden = ("body",)

    status: int
    headers: Mapping[str, str]
    body: bytes


# The events of a stream of any provider: an upstream's fold translates the provider's events into these, and the chat
# endpoint translates these into the caller's chunks.


class Head(Value, frozen=True):
    """The stream's metadata: once, as the first event. ``created`` is a Unix time in seconds."""

    created: int | None = None
    system_fingerprint: str | None = None


class Reasoning(Value, frozen=True):
    text: str


class Step(Value, frozen=True):
    """A step of DeepSearch. ``value`` is the query of a ``search``, the URL of a ``visit``."""

    type: Literal["search", "visit"]
    value: str


class Text(Value, frozen=True):
    text: str


class Citations(Value, frozen=True):
    """OpenAI's ``url_citation`` annotations. Indexes count code points of the whole answer."""

    annotations: list[Json]


class Extras(Value, frozen=True):
    """Top-level fields beyond OpenAI's: ``visitedURLs``, ``readURLs``, ``numURLs``, ``relatedImages``."""

    fields: Json


class Structured(Value, frozen=True):
    """The whole answer to a call that asked for JSON, and the schema that the answer has to fit.

    The answer's Text comes after this event, so that it can be checked first: an SDK that parses JSON while it arrives
    fails on prose.
    """

    text: str
    schema: Json


class Finish(Value, frozen=True):
    reason: str


class Usage(Value, frozen=True):
    """Token counts as the upstream gives them; they may not add up, and are not corrected."""

    fields: Json


class Chunk(Value, frozen=True):
    """A chunk of a model that needs no translation: only the model's name is replaced."""

    body: Json


Event = Head | Reasoning | Step | Text | Citations | Extras | Structured | Finish | Usage | Chunk


class Fold(Protocol):
    """Translates one stream, event by event.

    feed    takes the data and the name of one server-sent event; raises UpstreamError for an upstream's error, and
            Malformed for data that is not JSON
    end     is called when the upstream has closed the stream; raises UpstreamError if it is not complete
    done    nothing more is expected
    usage   the latest token counts; None if there were none
    run     the upstream's id of a DeepSearch run; None if it sent none, and for other models
    """

    @property
    def done(self) -> bool: ...

    @property
    def usage(self) -> Json | None: ...

    @property
    def run(self) -> str | None: ...

    def feed(self, data: bytes, event: str = "") -> list[Event]: ...
    def end(self) -> list[Event]: ...


class Upstream(Protocol):
    """A provider's wire format: pure translation, never I/O."""

    @property
    def name(self) -> str: ...

    @property
    def endpoints(self) -> Collection[EndpointName]:
        """The names of the endpoints that it serves."""

    def request(self, call: Call, target: Target) -> Request:
        """The call in the provider's form. Raises InvalidRequest if the provider cannot do what the call asks for, and
        KeyError if the call's endpoint is not one of ``endpoints``."""

    def url(self, call: Call, target: Target) -> str:
        """The URL of the request."""

    def body(self, call: Call, target: Target) -> Json:
        """The body of the request, without the model."""

    def streams(self, call: Call, target: Target) -> bool:
        """True if the upstream is asked for a stream. DeepSearch always is, even if the caller wants a whole answer."""

    def reply(
        self, call: Call, target: Target, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Json:
        """The canonical reply for a body that came with a ``status`` of success; without ``headers`` for one of the
        cache. Raises UpstreamError if the body holds an error, or is not a valid answer."""

    def fold(self, call: Call, target: Target, status: int = 200) -> Fold: ...

    def error(self, call: Call, target: Target, reply: Reply) -> Exception:
        """The error for an answer with a status of 300 or more, an UpstreamError; returned, not raised."""
