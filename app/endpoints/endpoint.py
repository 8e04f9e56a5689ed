"""An endpoint: its paths, what a caller may send to them, and the form in which they get the answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple, Protocol

import msgspec

from ..core.types import Call, EndpointFacts, Event, Json, ReasoningMode


class Options(NamedTuple):
    """The settings that endpoints have: the encoding of token ids among inputs, where DeepSearch's thinking goes, and
    the characters of a piece of an answer that came whole."""

    token_encoding: str = "cl100k_base"  # noqa: S105 - no password
    reasoning: ReasoningMode = "reasoning_content"
    answer_chunk_characters: int = 200


class StreamWriter(Protocol):
    """Events into the bytes of the caller's stream."""

    def write(self, events: Iterable[Event]) -> bytes:
        """Whole server-sent events, as one piece for the wire; empty if there is nothing to say yet."""

    def end(self) -> bytes:
        """The end of a complete stream."""

    def fail(self, envelope: Json) -> bytes:
        """The end of a broken one."""


class Endpoint:
    """``facts`` are what the cache, the gateway and the ledger have to know of it. ``paths`` are whole, the usual one
    first; one that begins with ``/v1/`` is answered without that too. ``summary`` and ``description`` are for the
    OpenAPI document, if that has no words of its own for a path.

    The canonical replies are those of core/replies.py. An endpoint whose answers are streamed has its own ``writer``,
    and ``collect`` for callers who want them whole.
    """

    __slots__ = ()

    facts: ClassVar[EndpointFacts]
    paths: ClassVar[tuple[str, ...]]
    method: ClassVar[str] = "POST"
    summary: ClassVar[str] = ""
    description: ClassVar[str] = ""

    @classmethod
    def configured(cls, options: Options) -> Endpoint:
        """The endpoint with the settings that concern it."""
        return cls()

    def parse(self, body: Json, path: str) -> Call:
        """The canonical call. Raises InvalidRequest naming the field."""
        raise NotImplementedError

    def split(self, call: Any, cap: int | None) -> list[Call]:
        """The call in parts of at most ``cap`` inputs, in order; mostly the call alone."""
        return [call]

    def merge(self, call: Any, replies: list[Any]) -> Any:
        """The canonical answers of the parts as one; checks that they answer this call."""
        [reply] = replies
        return reply

    def render(self, call: Any, reply: Any) -> bytes:
        """The caller's answer, in the encoding and under the model name that they used."""
        return msgspec.json.encode({**reply, "model": call.model})

    def writer(self, call: Any) -> StreamWriter:
        raise NotImplementedError

    def collect(self, call: Any, events: Iterable[Event]) -> Any:
        """The events of a stream as one canonical answer. Raises UpstreamFailed if there is none."""
        raise NotImplementedError
