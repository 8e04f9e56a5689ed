"""The tokens of a call: the upstream's counts if there are any, else estimates that are marked as such. No I/O.

An estimate counts text only, at four bytes per token; images and other files count as nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from .types import Call, Chunk, Event, Json, Reasoning, Text

BYTES_PER_TOKEN = 4
LARGEST = 2**53  # a larger number is not a token count

# The fields of an answer that hold text written by a model.
_WRITTEN = frozenset(("content", "reasoning_content", "reasoning", "text", "tool_calls", "function", "arguments"))
_ANSWERS = ("delta", "message", "text")
_SAID = (Text, Reasoning)
_FILES = ("data:", "http:", "https:")
_LONGEST_WORD = 1024


class Tokens(NamedTuple):
    """``estimated``: at least one of the counts is an estimate."""

    prompt: int = 0
    completion: int = 0
    total: int = 0
    estimated: bool = False

    def plus(self, other: Tokens) -> Tokens:
        return Tokens(
            self.prompt + other.prompt,
            self.completion + other.completion,
            self.total + other.total,
            self.estimated or other.estimated,
        )


def tokens(call: Call, usage: Any, written: int) -> Tokens:
    """The tokens of a call. Each valid count in the upstream's ``usage`` is used (0 is valid), and the missing ones are
    computed or estimated. ``written``: the bytes of the answer that were received."""
    said = usage if isinstance(usage, dict) else {}
    prompt, completion = _count(said.get("prompt_tokens")), _count(said.get("completion_tokens"))
    total = _count(said.get("total_tokens"))
    if not call.endpoint.writes:  # there are no completion tokens, and rerankers give the total only
        completion = completion or 0
        prompt = total if prompt is None else prompt
    estimated = (prompt, completion, total).count(None) > 1
    if prompt is None:
        prompt = _rest(total, completion, size(_read(call)) * call.passes // BYTES_PER_TOKEN)
    if completion is None:
        completion = _rest(total, prompt, written // BYTES_PER_TOKEN)
    return Tokens(prompt, completion, prompt + completion if total is None else total, estimated)


def counts(said: Any) -> Json:
    """The counts in an upstream's usage, with nested objects kept as they are; empty if there are none."""
    usage = said if isinstance(said, dict) else {}
    return {name: value for name, value in usage.items() if _count(value) is not None or isinstance(value, dict)}


def shares(tokens: int, lengths: list[int]) -> list[int]:
    """``tokens`` divided in proportion to ``lengths``: whole numbers whose sum is ``tokens``."""
    total, passed, given = sum(lengths), 0, 0
    parts = []
    for length in lengths:
        passed += length
        upto = tokens * passed // total
        parts.append(upto - given)
        given = upto
    return parts


def seen(events: Iterable[Event]) -> int:
    """The bytes of answer and reasoning in the events."""
    written = 0
    for event in events:
        if isinstance(event, _SAID):
            written += size(event.text)
        elif isinstance(event, Chunk):
            written += answered(event.body)
    return written


def counted(usage: Json | None) -> bool:
    """True if the upstream has given a count of completion tokens."""
    return usage is not None and _count(usage.get("completion_tokens")) is not None


def answered(reply: Json) -> int:
    """The bytes of answer and reasoning in a chat.completion, or in a chunk of one."""
    choices = reply.get("choices")
    if not isinstance(choices, list):
        return 0
    parts = [choice for choice in choices if isinstance(choice, dict)]
    return sum([_written(choice[name]) for choice in parts for name in _ANSWERS if name in choice])


def size(value: Any) -> int:
    """The bytes of text in a nested JSON value, without files and addresses of files."""
    if isinstance(value, str):
        return 0 if _is_file(value) else len(value.encode("utf-8", "replace"))
    if isinstance(value, dict):
        return sum(map(size, value.values()))
    return sum(map(size, value)) if isinstance(value, list) else 0


def _is_file(text: str) -> bool:
    """True if the text is an address, or a file encoded as text."""
    return (text.startswith(_FILES) or len(text) > _LONGEST_WORD) and " " not in text and text.isascii()


def _written(part: Any) -> int:
    """The bytes that the model wrote into a message or a delta, arguments of tool calls included."""
    if isinstance(part, str):
        return len(part.encode("utf-8", "replace"))
    if isinstance(part, list):
        return sum(map(_written, part))
    if not isinstance(part, dict):
        return 0
    return sum([_written(value) for name, value in part.items() if name in _WRITTEN])


def _read(call: Call) -> list[Any]:
    return [call.body[name] for name in call.endpoint.texts if name in call.body]


def _rest(total: int | None, other: int | None, estimate: int) -> int:
    """A missing count: ``total`` less ``other``; if either is unknown, the estimate, which is at most ``total``."""
    if total is None:
        return estimate
    return min(estimate, total) if other is None else max(total - other, 0)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= LARGEST else None
