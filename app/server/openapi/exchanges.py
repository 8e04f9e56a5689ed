"""Examples: what a caller sends and what the provider answers are written down, the gateway's part is its own code's.

So no example can say what the gateway does not do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace

from ...core.errors import ToriiError
from ...core.json import decode
from ...core.types import ChatCall, Event, Json
from ...endpoints.chat import Chat, collect
from ...endpoints.embeddings import Embeddings
from ...endpoints.rerank import Rerank
from ...upstreams import validation
from ...upstreams.deepsearch_stream import DeepSearchFold

UPSTREAM = "jina"
ID = "7f3c1be0a4d24c6f9c5e1b7a2d8e4f60"


@dataclass(frozen=True, slots=True)
class Exchange:
    """``request`` is the caller's body. ``reply`` is the provider's, for DeepSearch the deltas of its stream,
    with ``last`` beside the last one; None where the answer is like another one and not shown."""

    name: str
    summary: str
    request: Json
    reply: Any = None
    last: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A body that is refused by ``attempt``, and so an example of a status."""

    name: str
    summary: str
    request: Json
    attempt: Callable[[Json], object]

    def error(self) -> ToriiError:
        return refused(lambda: self.attempt(self.request))


def refused(attempt: Callable[[], object]) -> ToriiError:
    """The error with which ``attempt`` ends."""
    try:
        attempt()
    except ToriiError as error:
        return error
    raise AssertionError("an example of a refusal was accepted")


def embedded(exchange: Exchange) -> Json:
    endpoint = Embeddings()
    call = endpoint.parse(exchange.request, "/v1/embeddings")
    reply = validation.embeddings(call, msgspec.json.encode(exchange.reply), UPSTREAM)
    answer: Json = decode(endpoint.render(call, endpoint.merge(call, [reply])))
    return answer


def ranked(exchange: Exchange, path: str) -> Json:
    endpoint = Rerank()
    call = replace(endpoint.parse(exchange.request, path), id=ID)
    reply = validation.ranking(call, msgspec.json.encode(exchange.reply), UPSTREAM)
    answer: Json = decode(endpoint.render(call, endpoint.merge(call, [reply])))
    return answer


def collected(exchange: Exchange) -> Json:
    """The whole answer of a DeepSearch run."""
    call = _chat_call(exchange)
    answer: Json = decode(Chat().render(call, collect(call, _events(exchange))))
    return answer


def streamed(exchange: Exchange) -> str:
    """The stream of a DeepSearch run, as it goes over the wire."""
    writer = Chat().writer(_chat_call(exchange))
    return (writer.write(_events(exchange)) + writer.end()).decode()


def broken(exchange: Exchange, error: ToriiError) -> str:
    """The stream of a run that fails with ``error`` while it thinks."""
    fold, writer = DeepSearchFold(UPSTREAM), Chat().writer(_chat_call(exchange))
    events = [event for delta in exchange.reply[:2] for event in fold.feed(_chunk(delta))]
    return (writer.write(events) + writer.fail(error.envelope())).decode()


def _chat_call(exchange: Exchange) -> ChatCall:
    return replace(Chat().parse(exchange.request, "/v1/chat/completions"), id=ID)


def _events(exchange: Exchange) -> list[Event]:
    fold, events = DeepSearchFold(UPSTREAM), list[Event]()
    *earlier, final = exchange.reply
    for delta in earlier:
        events += fold.feed(_chunk(delta))
    return events + fold.feed(_chunk(final, "stop", exchange.last)) + fold.end()


def _chunk(delta: Json, finish: str | None = None, last: Json | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {"created": 1742181758, "system_fingerprint": "fp_1742181758589"}
    return msgspec.json.encode({**head, "choices": [choice], **(last or {})})
