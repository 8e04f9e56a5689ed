"""Chat models that need no translation: everything is passed through, except the model's name.

An answer is checked only for errors sent in its place, and a stream for an end before it is complete.
"""

from __future__ import annotations

from typing import cast

from ..core.errors import UpstreamFailed, UpstreamTruncated
from ..core.json import Malformed, decode
from ..core.replies import ChatReply
from ..core.types import ChatCall, Chunk, Event, Json
from ..core.usage import counts
from .errors import event_of, hidden_failure, refuse_page


def chat_body(call: ChatCall) -> Json:
    """The caller's body with an explicit ``stream``: according to AIHubMix's page, its default is true."""
    return {**call.body, "stream": call.stream}


def chat_reply(body: bytes, upstream: str, status: int = 200) -> ChatReply:
    """A whole chat.completion. Raises UpstreamError for any other body, also for an error that was sent with
    ``status``, a status of success."""
    try:
        reply = decode(body)
    except Malformed as error:
        refuse_page(body, upstream=upstream, answered=status)
        raise UpstreamFailed(f"{upstream} sent an answer that is not JSON: {error}") from None
    if failure := hidden_failure(reply, upstream=upstream, answered=status):
        raise failure
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        raise UpstreamFailed(f"{upstream} sent an answer without choices")
    _refuse_failed(choices, upstream, status)
    return cast("ChatReply", _counted(reply))


class ChatFold:
    """Passes chunks through. The stream is complete if every choice that it began has finished.

    >>> fold = ChatFold("aihubmix")
    >>> fold.feed(b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}')
    [Chunk(body={'choices': [{'index': 0, 'delta': {}, 'finish_reason': 'stop'}]})]
    >>> fold.done, fold.end()
    (False, [])
    """

    def __init__(self, upstream: str, status: int = 200) -> None:
        self._upstream = upstream
        self._status = status
        self._open: set[str] = set()
        self._finished: set[str] = set()
        self.done = False
        self.usage: Json | None = None
        self.run: str | None = None

    def feed(self, data: bytes, event: str = "") -> list[Event]:
        if self.done:
            return []
        if data.strip() == b"[DONE]":
            self.done = True
            return []
        chunk = event_of(data, upstream=self._upstream, answered=self._status)
        if isinstance(chunk, dict) and chunk.get("usage") is not None:
            chunk = _counted(chunk)
            self.usage = chunk["usage"] or self.usage
        if failure := hidden_failure(chunk, upstream=self._upstream, answered=self._status):
            raise failure
        if not isinstance(chunk, dict):
            raise UpstreamFailed(f"{self._upstream} sent an event that is not an object")
        if chunk.get("object") == "chat.completion":
            chunk = _as_chunk(chunk)
        choices = _choices(chunk)
        _refuse_failed(choices, self._upstream, self._status)
        for choice in choices:
            index = str(choice.get("index", 0))
            self._open.add(index)
            if choice.get("finish_reason"):
                self._finished.add(index)
        return [Chunk(chunk)]

    def end(self) -> list[Event]:
        if not self._finished or self._open - self._finished:
            raise UpstreamTruncated(f"{self._upstream} ended the stream before the answer was complete")
        return []


def _as_chunk(reply: Json) -> Json:
    """A whole answer, sent although a stream was requested, as the only chunk of a stream."""
    choices = [
        {**{name: value for name, value in choice.items() if name != "message"}, "delta": choice.get("message") or {}}
        for choice in _choices(reply)
    ]
    return {**reply, "object": "chat.completion.chunk", "choices": choices}


def _refuse_failed(choices: list[Json], upstream: str, status: int) -> None:
    """Raises UpstreamError for a choice with the finish_reason ``error`` and the message as its text: relays report
    failures in this way, as DeepSearch does."""
    for choice in choices:
        if choice.get("finish_reason") == "error":
            part = choice.get("delta") or choice.get("message")
            text = part.get("content") if isinstance(part, dict) else None
            said = text.removeprefix("Error: ") if isinstance(text, str) else ""
            failure = hidden_failure({"error": said}, upstream=upstream, answered=status)
            raise failure or UpstreamFailed(f"{upstream} gave up on the answer")


def _counted(reply: Json) -> Json:
    """The reply with nothing but counts in its ``usage``, which is null if it has no counts."""
    return {**reply, "usage": counts(reply["usage"]) or None} if reply.get("usage") is not None else reply


def _choices(chunk: Json) -> list[Json]:
    choices = chunk.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
