"""Requests and answers of the stand-ins, before they become bytes.

An answer is whole or streamed. A streamed answer is a list of items, so a fault can be a change to the list: a
truncated event, a comment between events, a silence.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec

Json = dict[str, Any]
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. ``path`` is relative to the provider's base URL: ``/embeddings``."""

    method: str
    path: str
    authorization: str | None = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def key(self) -> str | None:
        """The bearer key; "" if the header has another form, None if there is no header."""
        if self.authorization is None:
            return None
        scheme, _, key = self.authorization.partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""


@dataclass(frozen=True, slots=True)
class Pause:
    """Silence, in seconds at pace 1."""

    seconds: float


class Cut(Enum):
    """Abnormal ends of an answer: silence for ever, or a closed connection."""

    HANG = "hang"
    CLOSE = "close"


Item = Json | bytes | Pause | Cut


@dataclass(frozen=True, slots=True)
class Whole:
    """``body``: a JSON value, or bytes to send as they are. ``wait``: seconds at pace 1 before the first byte."""

    body: Any
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    wait: float = 0.0

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else encode(self.body)


@dataclass(frozen=True, slots=True)
class StreamedAnswer:
    """A dict among the items is sent as an SSE event, bytes as they are."""

    items: list[Item]
    status: int = 200
    content_type: str = "text/event-stream"
    headers: dict[str, str] = field(default_factory=dict)


Answer = Whole | StreamedAnswer
# Takes the body and the name of a quirk, "" for none. Raises errors.HostError.
Handler = Callable[[Json, str], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One server of a provider. ``authorise`` raises errors.HostError; ``unreadable`` answers a body that is not JSON.

    ``headers`` are added to every answer.
    """

    name: str
    routes: dict[tuple[str, str], Handler]
    authorise: Callable[[Ask], None]
    unreadable: Callable[[bytes], Whole]
    not_found: Callable[[Ask], Whole]
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def provider(self) -> str:
        return "aihubmix" if self.name == "aihubmix" else "jina"


def count(value: Any) -> int | None:
    """The value if it is an integer above 0, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def encode(value: Any) -> bytes:
    """JSON as JSON.stringify writes it: no spaces, no unnecessary escapes, U+2028 raw."""
    return msgspec.json.encode(value)


def pretty(value: Any) -> str:
    """JSON as JSON.stringify(value, null, 2) writes it."""
    return msgspec.json.format(encode(value), indent=2).decode()


def event(item: Json) -> bytes:
    return b"data: " + encode(item) + b"\n\n"


def milliseconds() -> int:
    """The time in ids and in ``created``, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
