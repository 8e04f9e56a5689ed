"""The words of the gateway, in the order in which a request meets them.

    bytes -> Call -> Route -> Target -> Request -> [network] -> Event ... | Reply -> bytes

Nothing here does anything; everything here is passed along. This module imports
nothing of ours, so that endpoints and upstreams can meet in it without knowing
each other.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
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
    """A value that is made for each call: a frozen dataclass takes ten times as long. ``hidden`` is in no repr."""

    hidden: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        shown = (name for name in self.__struct_fields__ if name not in self.hidden)
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """What the cache, the gateway and the ledger have to know of an endpoint.

    pure       equal calls have equal replies, so that a reply may be shared by calls under way, and kept if it has no
               other fields than cache/entries.py knows
    inputs     the list in a call's body whose items have a vector each, in the reply's ``data``: they may be sent in
               several calls, and kept apart; empty if a call only makes sense as a whole
    batchable  calls with ``inputs`` may go to the upstream together
    items      the field of the reply that holds the list of results, each of them an object
    texts      the fields of a call's body that a model reads, for an estimate of its tokens
    writes     the model writes text, which is counted as completion tokens
    streamed   the answer may come as a stream
    """

    name: EndpointName
    pure: bool = False
    inputs: str = ""
    batchable: bool = False
    items: str = ""
    texts: tuple[str, ...] = ()
    writes: bool = False
    streamed: bool = False


EMBEDDINGS = EndpointFacts("embeddings", pure=True, inputs="input", batchable=True, items="data", texts=("input",))
RERANK = EndpointFacts("rerank", pure=True, items="results", texts=("query", "documents"))
CHAT = EndpointFacts("chat", items="choices", texts=("messages", "tools"), writes=True, streamed=True)


class Call(Value, frozen=True, kw_only=True):
    """One request, parsed into the canonical form, not yet routed.

    ``model`` is the name that the caller used, and is echoed to him. ``body`` is
    what an OpenAI-compatible upstream would be sent, without ``model`` and
    ``stream``; fields that no endpoint knows are in it untouched. ``id`` and ``created``
    (seconds) are stamped by the gateway, for the answers that carry an own id. ``encoding`` is that of the vectors in
    the caller's answer.
    """

    endpoint: EndpointFacts
    model: str
    body: Json
    stream: bool = False
    encoding: Encoding = "float"
    id: str = ""
    created: int = 0

    @property
    def most_items(self) -> int | None:
        """The most items of a right reply; None if there is no such number."""
        return None


class EmbeddingsCall(Call, frozen=True, kw_only=True):
    """``body["input"]`` is always a list."""

    endpoint: EndpointFacts = EMBEDDINGS


class RerankCall(Call, frozen=True, kw_only=True):
    """``documents`` are the caller's own, to be given back; those of ``body`` go upstream.

    ``top_n`` None means all. ``body`` holds ``query`` and ``documents`` and whatever
    else the caller sent, less what is a field here. ``cohere`` asks for the ``meta`` that
    Cohere's second version has in its answers.
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
    """``body`` is the caller's, with ``stream_options`` still in it."""

    endpoint: EndpointFacts = CHAT
    include_usage: bool = False
    reasoning: ReasoningMode = "reasoning_content"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The catalogue's entry of a model. ``None`` and ``()`` mean unknown or not limited.

    ``dimensions`` is the size of a full vector, ``dimensions_allowed`` the values that
    the ``dimensions`` option may take where only certain ones are possible,
    ``largest`` the most that it may be where that is not ``dimensions``, ``context`` tokens,
    ``max_inputs`` the most inputs of one upstream call, ``created`` the day it came out as a
    Unix time, 0 where that is not known, ``cached``
    whether its answers may be kept for the next caller.
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
    """An upstream's key. ``alias`` names it in logs and books; the secret is in no repr."""

    secret: str = field(repr=False)
    alias: str = "default"

    @property
    def tail(self) -> str:
        """The last four characters, for people to recognise it by."""
        return self.secret[-4:] if len(self.secret) >= 12 else ""


@dataclass(frozen=True, slots=True)
class Target:
    """One place where a model can be had: the upstream, its own name of the model, a key.

    ``listed``: the catalogue or the configuration says that the upstream serves it.
    """

    upstream: Upstream
    model: Model
    name: str
    key: Key
    listed: bool = False

    @property
    def space(self) -> str:
        """The vector space of its embeddings: a model has one, whichever upstream serves it."""
        return self.name.removeprefix("jina-ai/").lower()

    def with_key(self, key: Key) -> Target:
        return self if key == self.key else Target(self.upstream, self.model, self.name, key, self.listed)


@dataclass(frozen=True, slots=True)
class Route:
    """A model of ours and its targets, best first; never empty."""

    model: Model
    targets: tuple[Target, ...]

    @property
    def endpoints(self) -> list[EndpointName]:
        """The endpoints that the model may be called at: those of its targets' upstreams, if it is limited to none."""
        served = dict.fromkeys(name for target in self.targets for name in target.upstream.endpoints)
        return [name for name in self.model.endpoints or served if name in served]

    def to(self, endpoint: EndpointName) -> Route | None:
        """The route of a call to ``endpoint``, without the targets that do not have it; None if there is none."""
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
    """A request to an upstream: always a POST of JSON. The key is in ``headers``, so no repr of them.

    ``once``: it will not be sent again, whatever comes of it, so it is not put where it may get lost: it has a new
    connection. Any other may ride a kept one, and be sent once more over a new one where that was just being closed.
    ``schema``: what the answer is to fit, still to be read whole.
    """

    hidden = ("headers", "body", "schema")

    url: str
    headers: dict[str, str]
    body: bytes
    once: bool = False
    schema: Json | None = None


class Reply(Value, frozen=True):
    """A whole answer of an upstream, whatever its status."""

    hidden = ("body",)

    status: int
    headers: Mapping[str, str]
    body: bytes


class Stream(Protocol):
    """An upstream's answer whose head has come. ``aclose`` ends the connection; any time, any number of times.

    ``pieces`` gives what has come of the body since it was last asked, None at its end, and nothing where the time
    ``look`` (monotonic clock) is reached first; nothing is lost by that.
    ``headers`` are those that say more of an error, ``event_bytes`` is the most that one event may have.
    ``progressed`` tells that an event has come, because only who reads the stream knows what is one.
    """

    status: int
    headers: Mapping[str, str]
    event_bytes: int

    def progressed(self) -> None: ...
    async def pieces(self, look: float = math.inf) -> Iterable[bytes] | None: ...
    async def read(self) -> bytes: ...
    async def aclose(self) -> None: ...


# What comes out of a stream, whichever provider sent it. An upstream's fold makes these
# of the provider's events; the chat endpoint makes the caller's chunks of these.


class Head(Value, frozen=True):
    """The stream's own facts; once, first."""

    created: int | None = None
    system_fingerprint: str | None = None


class Reasoning(Value, frozen=True):
    text: str


class Step(Value, frozen=True):
    """A search or a visit of DeepSearch: ``search`` with the query, ``visit`` with the URL."""

    type: Literal["search", "visit"]
    value: str


class Text(Value, frozen=True):
    text: str


class Citations(Value, frozen=True):
    """OpenAI's ``url_citation`` annotations; indexes are code points of the whole answer."""

    annotations: list[Json]


class Extras(Value, frozen=True):
    """Top-level fields beyond OpenAI's: ``visitedURLs``, ``readURLs``, ``numURLs``, ``relatedImages``."""

    fields: Json


class Structured(Value, frozen=True):
    """The whole answer to a call that asked for JSON, and the schema that it is to fit. The text comes behind it: an
    SDK that reads JSON as it comes fails on prose."""

    text: str
    schema: Json


class Finish(Value, frozen=True):
    reason: str


class Usage(Value, frozen=True):
    """Token counts as the upstream gives them; they need not add up, and are not made to."""

    fields: Json


class Chunk(Value, frozen=True):
    """A chunk of a model that needs no translation: passed on, but for the model's name."""

    body: Json


Event = Head | Reasoning | Step | Text | Citations | Extras | Structured | Finish | Usage | Chunk


class Fold(Protocol):
    """The state of one stream. Errors of the upstream are raised, never returned, and Malformed for no JSON.

    ``feed`` takes the data of one SSE event and its name; ``end`` is called when the
    upstream has closed, and raises where the stream was not complete. ``done`` is true
    once nothing more is expected, ``usage`` the last token counts seen.
    """

    @property
    def done(self) -> bool: ...

    @property
    def usage(self) -> Json | None: ...

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
        """The call in the provider's form. Raises InvalidRequest for what the provider cannot do, and KeyError for a
        call to an endpoint that is not one of ``endpoints``."""

    def url(self, call: Call, target: Target) -> str:
        """The URL of the request."""

    def body(self, call: Call, target: Target) -> Json:
        """The body of the request, without the model."""

    def streams(self, call: Call, target: Target) -> bool:
        """True if the upstream is asked to stream; DeepSearch is, also for a caller who wants the answer whole."""

    def reply(self, call: Call, target: Target, body: bytes, status: int = 200) -> Json:
        """The canonical answer out of a body that came with a ``status`` of success. Raises UpstreamError for an error
        sent as one."""

    def fold(self, call: Call, target: Target, status: int = 200) -> Fold: ...

    def error(self, call: Call, target: Target, reply: Reply) -> Exception:
        """The error for a status of 300 or more, one of ``errors``; not raised here."""
