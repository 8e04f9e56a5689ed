"""The interface of an endpoint: its paths, the parsing of requests, the rendering of answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import msgspec

from ..core.errors import InvalidRequest
from ..core.types import Call, EndpointFacts, Event, Json, ReasoningMode
from ..core.web import WebRules


class Options(NamedTuple):
    """The settings of endpoints.

    token_encoding            the tokenizer encoding of token ids in inputs
    reasoning                 the field for DeepSearch's reasoning
    answer_chunk_characters   the length of the deltas into which an answer that arrives in one event is cut; 0: not cut
    web                       those of reader and search
    public_classifiers        a caller may make a classifier public
    """

    token_encoding: str = "cl100k_base"  # noqa: S105 - no password
    reasoning: ReasoningMode = "reasoning_content"
    answer_chunk_characters: int = 200
    web: WebRules = WebRules()
    public_classifiers: bool = False


class Answer(NamedTuple):
    """A whole answer for a caller. ``headers`` have lower-case names."""

    body: bytes
    status: int = 200
    media: str = "application/json"
    headers: Mapping[str, str] = {}


class StreamWriter(Protocol):
    """Renders events as the bytes of the caller's stream."""

    def write(self, events: Iterable[Event]) -> bytes:
        """Complete server-sent events, as one piece of bytes; empty if there is nothing to send yet."""

    def end(self) -> bytes:
        """The end of a complete stream."""

    def fail(self, envelope: Json, status: int = 502) -> bytes:
        """The end of a broken stream, with the envelope of the error, and the status that an answer would have."""


class Endpoint(ABC):
    """The base class of endpoints.

    ``facts`` are the properties that the cache, the gateway and the ledger depend on. ``paths`` are full paths, the
    usual one first; a path under ``/v1/`` is also served without that prefix. ``gets`` are those that take a GET, as
    OpenAPI writes them. ``summary`` and ``description`` are used by the OpenAPI document if it has no text of its own
    for the path. ``optional`` names the setting that must be on for the endpoint to be served; empty: it always is.

    Canonical replies are the types of core/replies.py. A streamed endpoint overrides ``writer``, and ``collect`` for
    callers that want a whole answer of an upstream that streams.
    """

    __slots__ = ()

    facts: ClassVar[EndpointFacts]
    paths: ClassVar[tuple[str, ...]]
    gets: ClassVar[tuple[str, ...]] = ()
    method: ClassVar[str] = "POST"
    optional: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    description: ClassVar[str] = ""

    @classmethod
    def configured(cls, options: Options) -> Endpoint:
        """The endpoint, set up with its part of the options."""
        return cls()

    @classmethod
    def served(cls) -> list[tuple[str, str]]:
        """Methods and paths, as OpenAPI writes them."""
        found = []
        for path in dict.fromkeys((*cls.paths, *cls.gets)):
            found += [(cls.method, path)] if path in cls.paths else []
            found += [("GET", path)] if path in cls.gets else []
        return found

    @abstractmethod
    def parse(self, body: Json, path: str) -> Call:
        """The canonical call for a body. Raises InvalidRequest, which names the field."""

    def from_query(self, fields: dict[str, str]) -> Json:
        """The body that the fields of a query stand for, if the endpoint takes a GET."""
        return dict(fields)

    def split(self, call: Any, cap: int | None) -> list[Call]:
        """The call in parts of at most ``cap`` inputs, in order. By default one part, the call itself."""
        return [call]

    def merge(self, call: Any, replies: list[Any]) -> Any:
        """The canonical replies of the parts, in order, as one reply to the call."""
        [reply] = replies
        return reply

    def render(self, call: Any, reply: Any) -> bytes:
        """The bytes of the caller's answer, in the encoding that the call asks for and under the call's model name."""
        return msgspec.json.encode({**reply, "model": call.model})

    def answer(self, call: Any, reply: Any) -> Answer:
        """The caller's answer: by default status 200, with the bytes of ``render`` as JSON."""
        return Answer(self.render(call, reply))

    def writer(self, call: Any) -> StreamWriter:
        """The writer of the caller's stream. Raises InvalidRequest if the endpoint has no streams."""
        raise self._unstreamed()

    def collect(self, call: Any, events: Iterable[Event]) -> Any:
        """The events of a stream as one canonical reply. Raises UpstreamFailed if they are not a complete answer."""
        raise self._unstreamed()

    def _unstreamed(self) -> InvalidRequest:
        return InvalidRequest(f"{self.facts.name} has no streams; leave out stream", param="stream")
