"""Requests and answers of the stand-ins, before they become bytes.

An answer is whole or streamed. A streamed answer is a list of items, so a fault can be a change to the list: a
truncated event, a comment between events, a silence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeGuard

import msgspec

Json = dict[str, Any]
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. ``path`` is as sent, not decoded, and relative to the host's base: ``/embeddings``. Names of headers
    are in lower case."""

    method: str
    path: str
    body: bytes = field(default=b"", repr=False)
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")

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


Event = Json | list[Json]
Item = Event | bytes | Pause | Cut


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
    """A dict or a list among the items is sent as an SSE event, bytes as they are. ``event``: the events' name, if they
    have one."""

    items: list[Item]
    status: int = 200
    content_type: str = "text/event-stream"
    headers: dict[str, str] = field(default_factory=dict)
    event: str = ""

    def written(self, item: Event) -> bytes:
        return event(item, self.event)


Answer = Whole | StreamedAnswer
# Takes the body and the name of a quirk, "" for none. Raises errors.HostError.
Handler = Callable[[Json, str], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One server of a provider, at the path ``base``. ``authorise`` raises errors.HostError; ``unreadable`` answers a
    body that is not JSON. ``headers`` are added to every answer.

    ``bodiless``: paths of which a POST may come without a body. ``find``: the handler of a request that ``routes`` does
    not have. ``decode``: the body in another way than as JSON. ``finish``: the answer in the form that the request
    accepts.
    """

    name: str
    base: str
    routes: dict[tuple[str, str], Handler]
    authorise: Callable[[Ask], None]
    unreadable: Callable[[bytes], Whole]
    not_found: Callable[[Ask], Whole]
    headers: dict[str, str] = field(default_factory=dict)
    bodiless: tuple[str, ...] = ()
    find: Callable[[Ask], Handler | None] = lambda ask: None
    decode: Callable[[Ask], Json] | None = None
    finish: Callable[[Ask, Answer], Answer] = lambda ask, answer: answer

    def handler(self, ask: Ask) -> Handler | None:
        return self.routes.get((ask.method, ask.path.rstrip("/"))) or self.find(ask)

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


def is_event(item: Item) -> TypeGuard[Event]:
    return isinstance(item, dict | list)


def event(item: Event, name: str = "") -> bytes:
    head = b"event: " + name.encode() + b"\n" if name else b""
    return head + b"data: " + encode(item) + b"\n\n"


def milliseconds() -> int:
    """The time in ids and in ``created``, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
