"""POST /v1/chat/completions: parses the request, and renders events as OpenAI's chunks or as one whole answer."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import msgspec

from ..core.errors import InvalidRequest, UpstreamFailed
from ..core.json import encode as encode_json
from ..core.names import not_one_of
from ..core.replies import ChatReply
from ..core.sse import DONE, encode
from ..core.types import (
    CHAT,
    ChatCall,
    Chunk,
    Citations,
    Event,
    Extras,
    Finish,
    Head,
    Json,
    Reasoning,
    ReasoningMode,
    Step,
    Text,
    Usage,
)
from .endpoint import Endpoint, Options
from .fields import copied, model_of, unsent

UNSENT = unsent("chat")
MODES: tuple[ReasoningMode, ...] = ("reasoning_content", "reasoning", "think_tags", "drop")


@dataclass(frozen=True, slots=True)
class Chat(Endpoint):
    """The chat endpoint.

    ``reasoning`` is the field for DeepSearch's reasoning, unless a call sets ``x_reasoning``. ``piece`` is the length,
    in characters, of the deltas into which an answer that arrives in one event is cut; 0 does not cut it.
    """

    facts: ClassVar = CHAT
    paths: ClassVar = ("/v1/chat/completions",)

    reasoning: ReasoningMode = "reasoning_content"
    piece: int = 200

    @classmethod
    def configured(cls, options: Options) -> Chat:
        return cls(options.reasoning, options.answer_chunk_characters)

    def parse(self, body: Json, path: str) -> ChatCall:
        body = copied(body, UNSENT)
        model = model_of(body)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise InvalidRequest(_missing_messages(body), param="messages")
        stream = body.pop("stream", None)
        if not isinstance(stream, bool | None):
            raise InvalidRequest("stream must be true or false", param="stream")
        options = body.get("stream_options")
        if not isinstance(options, dict | None):
            raise InvalidRequest("stream_options must be an object", param="stream_options")
        return ChatCall(
            model=model,
            body=body,
            stream=bool(stream),
            include_usage=bool(options and options.get("include_usage")),
            reasoning=self._mode(body.pop("x_reasoning", None)),
        )

    def writer(self, call: ChatCall) -> ChunkWriter:
        return ChunkWriter(call, self.piece)

    def collect(self, call: ChatCall, events: Iterable[Event]) -> ChatReply:
        return collect(call, events)

    def _mode(self, mode: Any) -> ReasoningMode:
        if mode is None:
            return self.reasoning
        if mode not in MODES:
            raise not_one_of("x_reasoning", mode, MODES)
        return mode  # type: ignore[no-any-return] # it is one of MODES


def _missing_messages(body: Json) -> str:
    for field, path in (("documents", "/v1/rerank"), ("input", "/v1/embeddings")):
        if field in body:
            return f"messages is missing. This looks like a request for POST {path}"
    return "messages must be a list of at least one message"


class ChunkWriter:
    """Renders events as OpenAI chunks: one id, one finish reason, usage only if requested, [DONE] only at the end of a
    complete stream."""

    def __init__(self, call: ChatCall, piece: int) -> None:
        self._call = call
        self._piece = piece
        self._voice = Voice(call.reasoning)
        self._same = b""  # the JSON that each of our chunks begins with; empty before the first one
        self._usage: Json | None = None
        self._extras: Json = {}

    def write(self, events: Iterable[Event]) -> bytes:
        """The chunks of these events, as one piece of bytes; empty if the events give no chunk yet."""
        chunks: list[bytes] = []
        for event in events:
            if isinstance(event, Chunk):
                if self._call.hides_usage and not event.body.get("choices") and event.body.get("usage"):
                    continue
                chunks.append(encode(encode_json({**event.body, "model": self._call.model})))
            else:
                if not self._same:
                    chunks.append(self._begin(event))
                chunks += [self._delta(delta) for delta in self._deltas(event)]
                if isinstance(event, Finish):
                    chunks.append(self._delta({}, event.reason))
        return b"".join(chunks)

    def end(self) -> bytes:
        """The end of a complete stream."""
        usage = b""
        if self._same and self._call.include_usage:
            usage = self._encode({"choices": [], "usage": self._usage})
        return usage + DONE

    def fail(self, envelope: Json, status: int = 502) -> bytes:
        """The end of a broken stream: an error event without [DONE]."""
        return encode(msgspec.json.encode(envelope))

    def _begin(self, event: Event) -> bytes:
        """The first chunk, with the role."""
        head = event if isinstance(event, Head) else Head()
        same = {
            "id": f"chatcmpl-{self._call.id}",
            "object": "chat.completion.chunk",
            "created": head.created or self._call.created,
            "model": self._call.model,
            "system_fingerprint": head.system_fingerprint,
        }
        self._same = msgspec.json.encode(same)[:-1] + b","
        return self._delta({"role": "assistant", "content": ""})

    def _deltas(self, event: Event) -> list[Json]:
        """The deltas of one event; some events only add fields to later chunks."""
        if isinstance(event, Text):
            return [delta for text in pieces(event.text, self._piece) for delta in self._voice.deltas(Text(text))]
        if isinstance(event, Usage):
            self._usage = event.fields
        elif isinstance(event, Extras):
            self._extras = event.fields
        return self._voice.close() if isinstance(event, Finish) else self._voice.deltas(event)

    def _delta(self, delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        body: Json = {"choices": [choice]}
        if finish is not None:
            body |= self._extras
        if self._call.include_usage:
            body["usage"] = None
        return self._encode(body)

    def _encode(self, body: Json) -> bytes:
        return encode(self._same + msgspec.json.encode(body)[1:])


class Voice:
    """Renders reasoning, answer, steps and citations as deltas, by the reasoning mode.

    ``think_tags`` puts the reasoning into the content, so the indexes of citations are moved by its length.
    """

    def __init__(self, mode: ReasoningMode) -> None:
        self._mode = mode
        self._thinking = False
        self._shift = 0
        self._steps = 0

    def deltas(self, event: Event) -> list[Json]:
        if isinstance(event, Reasoning):
            return self._thought(event.text)
        if isinstance(event, Text):
            return [*self.close(), {"content": event.text}]
        if isinstance(event, Citations):
            return [*self.close(), {"annotations": [self._moved(annotation) for annotation in event.annotations]}]
        if isinstance(event, Step):
            step = {"index": self._steps, "type": event.type, "query" if event.type == "search" else "url": event.value}
            self._steps += 1
            return [{"x_steps": [step]}]
        return []

    def close(self) -> list[Json]:
        """The closing tag, if an opening tag has been written and not closed; else nothing."""
        return self._tagged("</think>\n\n") if self._thinking else []

    def _thought(self, text: str) -> list[Json]:
        if self._mode == "drop":
            return []
        if self._mode != "think_tags":
            return [{self._mode: text}]
        opening = [] if self._thinking else self._tagged("<think>")
        self._shift += len(text)
        return [*opening, {"content": text}]

    def _tagged(self, tag: str) -> list[Json]:
        self._thinking = not self._thinking
        self._shift += len(tag)
        return [{"content": tag}]

    def _moved(self, annotation: Json) -> Json:
        source = annotation["url_citation"]
        if not self._shift or not source["end_index"]:
            return annotation
        moved = {name: source[name] + self._shift for name in ("start_index", "end_index")}
        return {**annotation, "url_citation": {**source, **moved}}


def collect(call: ChatCall, events: Iterable[Event]) -> ChatReply:
    """A stream's events as one chat.completion, with the reasoning in the message.

    Raises UpstreamFailed if the events have no Finish.
    """
    voice, head, usage = Voice(call.reasoning), Head(), None
    message: Json = {"role": "assistant", "content": ""}
    extras: Json = {}
    finish: str | None = None
    for event in events:
        if isinstance(event, Head):
            head = event
        elif isinstance(event, Usage):
            usage = event.fields
        elif isinstance(event, Extras):
            extras = event.fields
        elif isinstance(event, Finish):
            finish = event.reason
            _gather(message, voice.close())
        else:
            _gather(message, voice.deltas(event))
    if finish is None:
        raise UpstreamFailed("the upstream ended without an answer")
    reply: ChatReply = {
        "id": f"chatcmpl-{call.id}",
        "object": "chat.completion",
        "created": head.created or call.created,
        "model": call.model,
        "system_fingerprint": head.system_fingerprint,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": usage or {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }
    return cast("ChatReply", {**reply, **extras})


def _gather(message: Json, deltas: list[Json]) -> None:
    for delta in deltas:
        for name, value in delta.items():
            message[name] = message[name] + value if name in message else value


def pieces(text: str, length: int) -> Iterator[str]:
    """``text`` cut into pieces of about ``length`` characters, after white space if possible and never inside a
    character that is displayed as one. The concatenated pieces equal ``text``."""
    start = 0
    while length and len(text) - start > length:
        cut = start + length
        space = max(text.rfind(" ", start, cut), text.rfind("\n", start, cut)) + 1
        cut = space if space > start else cut
        while cut < len(text) and _joins(text, cut):
            cut += 1
        yield text[start:cut]
        start = cut
    if start < len(text):
        yield text[start:]


def _joins(text: str, place: int) -> bool:
    """True if the characters before and at ``place`` are displayed as one."""
    after, before = text[place], text[place - 1]
    return (
        unicodedata.combining(after) != 0
        or unicodedata.category(after) in ("Mn", "Me", "Mc")
        or after in "\u200d\ufe0f\ufe0e"
        or before == "\u200d"
        or "\U0001f3fb" <= after <= "\U0001f3ff"
        or ("\U0001f1e6" <= after <= "\U0001f1ff" and "\U0001f1e6" <= before <= "\U0001f1ff")
        or (before == "\r" and after == "\n")
    )
