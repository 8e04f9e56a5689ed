"""Streams of DeepSearch, translated to events that are the same for both providers.

    Jina        delta.content with type think, wrapped in <think> ... </think>; query and url deltas; no [DONE]
    AIHubMix    delta.reasoning_content with the same tags inside; [DONE]

Both then send the whole answer as one delta, together with its annotations, the finish reason and the usage. A failure
has status 200: it is sent as two chunks with the finish_reason ``error`` and the message as content, or as an error
object. Each delta is read by its fields alone, so that relays may re-chunk the stream.
"""

from __future__ import annotations

from typing import Any, Literal

from ..core.errors import UpstreamError, UpstreamFailed, UpstreamTruncated
from ..core.types import Citations, Event, Extras, Finish, Head, Json, Reasoning, Step, Structured, Text, Usage
from ..core.usage import counts
from .citations import cite, is_web
from .errors import event_of, hidden_failure, told_as_text
from .thoughts import CLOSE, OPEN, Thoughts

FINISHES = ("stop", "length", "content_filter")
URL_LISTS = ("visitedURLs", "readURLs", "relatedImages")
RUN_LIMIT = 128  # characters of a run's id
STEPS = 10_000  # maximum number of steps remembered per run; a long run of a team has some hundreds


class DeepSearchFold:
    """The fold of a DeepSearch stream. Raises UpstreamError for a failure that the stream reports.

    ``citing`` False drops the citations: the server reads ``max_annotations`` 0 as 1. ``schema``: the JSON schema that
    the answer has to fit; the answer is then emitted as a whole once it is complete.
    """

    def __init__(self, upstream: str, status: int = 200, *, citing: bool = True, schema: Json | None = None) -> None:
        self._upstream = upstream
        self._status = status
        self._citing = citing
        self._schema = schema
        self._thoughts = Thoughts()
        self._answer: list[str] = []
        self._half = ""
        self._undecided: str | None = ""  # start of untyped content that may still be an inline <think>; None: decided
        self._annotations: list[Any] = []
        self._steps: set[int] = set()
        self._begun = False
        self._failing = False
        self._finish: str | None = None
        self._closed = False
        self.usage: Json | None = None
        self.run: str | None = None

    @property
    def done(self) -> bool:
        return self._closed or (self._finish is not None and self.usage is not None)

    def feed(self, data: bytes, event: str = "") -> list[Event]:
        said = data.strip()
        if not said or self.done:
            return []
        if said == b"[DONE]":
            self._closed = True
            return []
        chunk = event_of(data, upstream=self._upstream, answered=self._status)
        if isinstance(chunk, dict) and chunk.get("usage") is not None:
            self.usage = counts(chunk["usage"]) or self.usage
        if failure := hidden_failure(chunk, upstream=self._upstream, answered=self._status):
            raise _final(failure)
        if event == "error" or not isinstance(chunk, dict):
            raise _final(UpstreamFailed(f"{self._upstream} reported an error in its stream"))
        return self._chunk(chunk)

    def end(self) -> list[Event]:
        """The usage. Raises UpstreamTruncated if the stream is not complete, UpstreamFailed if it reported a
        failure."""
        if self._failing:
            raise _final(UpstreamFailed(f"{self._upstream} gave up on the search"))
        if self._finish is None:
            raise UpstreamTruncated(f"{self._upstream} ended the stream before the answer was complete")
        return [Usage(self.usage)] if self.usage is not None else []

    def _chunk(self, chunk: Json) -> list[Event]:
        events: list[Event] = []
        if not self._begun:
            self._begun = True
            self.run = _string(chunk.get("id"))[:RUN_LIMIT] or None
            events.append(Head(chunk.get("created"), chunk.get("system_fingerprint")))
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        delta = choice.get("delta") or choice.get("message")
        delta = delta if isinstance(delta, dict) else {}
        finish = choice.get("finish_reason")
        if finish == "error" or delta.get("type") == "error":
            self._fail(delta)
        elif self._finish is None:
            events += self._delta(delta)
            if finish == "thinking_end":
                events += self._think_end()
            elif finish in FINISHES:
                events += self._complete(finish, chunk)
        return events

    def _fail(self, delta: Json) -> None:
        """Raises UpstreamError for the second of the two error chunks, which has the message; the first one only closes
        the reasoning."""
        text = delta.get("content")
        if delta.get("type") == "think" or not isinstance(text, str) or text.strip() in ("", CLOSE):
            self._failing = True
            return
        raise _final(told_as_text(text, upstream=self._upstream, answered=self._status))

    def _delta(self, delta: Json) -> list[Event]:
        events: list[Event] = []
        if isinstance(delta.get("query"), str):
            events += self._step("search", delta["query"])
        if "url" in delta and is_web(delta["url"]):
            events += self._step("visit", delta["url"])
        thought = _string(delta.get("reasoning_content")) or _string(delta.get("reasoning"))
        text = _string(delta.get("content"))
        kind = delta.get("type")
        if kind == "think":
            thought, text = thought + text, ""
        if thought:
            self._undecided = None
            events += _reasoning(self._thoughts.feed(self._whole(thought)))
        if text:
            if kind is not None:
                self._undecided = None
            events += self._content(self._whole(text))
        if self._citing and isinstance(delta.get("annotations"), list):
            self._annotations += delta["annotations"]
        return events

    def _step(self, kind: Literal["search", "visit"], value: str) -> list[Event]:
        """A Step, if it is new. The server sends a step when it is decided, when it is done, and again with every later
        thought; for a visit, it also sends an index, which is no URL and is ignored."""
        step = hash((kind, value))
        if step in self._steps:
            return []
        if len(self._steps) < STEPS:
            self._steps.add(step)
        return [Step(kind, value)]

    def _whole(self, text: str) -> str:
        """The text with surrogate pairs that were split between two events joined again."""
        text, self._half = self._half + text, ""
        if text.isascii():
            return text
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def _content(self, text: str) -> list[Event]:
        """The events of untyped content: it is the answer, unless the stream began with an inline <think>."""
        if self._undecided is None:
            if self._thoughts.inline:
                return self._inline(text)
            return [*self._think_end(), *self._text(text)]
        self._undecided += text
        start = self._undecided.lstrip()
        if len(start) < len(OPEN) and OPEN.startswith(start):
            return []
        text, self._undecided = self._undecided, None
        if start.startswith(OPEN):
            self._thoughts.inline = True
            return self._inline(start)
        return self._text(text)

    def _inline(self, text: str) -> list[Event]:
        thought, rest = self._thoughts.feed_inline(text)
        events = _reasoning(thought)
        return events + self._text(rest) if rest else events

    def _text(self, text: str) -> list[Event]:
        if not self._answer and self._thoughts.was_inline:
            text = text.lstrip("\n")
        if not text:
            return []
        self._answer.append(text)
        return [Text(text)] if self._schema is None else []

    def _think_end(self) -> list[Event]:
        self._undecided = None
        return _reasoning(self._thoughts.close())

    def _complete(self, finish: str, chunk: Json) -> list[Event]:
        events: list[Event] = []
        if self._undecided:
            events += self._text(self._undecided)
        if self._half:
            self._half = ""
            events += self._text("\ufffd")
        events += self._think_end()
        answer = "".join(self._answer)
        if self._schema is not None:
            events += [Structured(answer, self._schema)] if finish == "stop" else []
            events += [Text(answer)] if answer else []
        if annotations := cite(answer, self._annotations):
            events.append(Citations(annotations))
        if extras := _extras(chunk):
            events.append(Extras(extras))
        self._finish = finish
        return [*events, Finish(finish)]


def _reasoning(text: str) -> list[Event]:
    return [Reasoning(text)] if text else []


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _extras(chunk: Json) -> Json:
    extras: Json = {}
    for name in URL_LISTS:
        if isinstance(chunk.get(name), list):
            extras[name] = list(dict.fromkeys(url for url in chunk[name] if is_web(url)))
    if isinstance(chunk.get("numURLs"), int):
        extras["numURLs"] = chunk["numURLs"]
    return extras


def _final(failure: UpstreamError) -> UpstreamError:
    """The failure, marked so that neither the gateway nor an SDK retries it: the run was accepted and is billed."""
    failure.accepted = True
    failure.should_retry = False
    return failure
