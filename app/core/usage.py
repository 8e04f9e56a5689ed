"""The tokens of a call: as the upstream counts them, else estimated, and marked as such. No I/O.

An estimate is of the texts alone, four bytes a token; pictures and other files in a call count for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from .types import Call, Chunk, Event, Json, Reasoning, Text

BYTES_PER_TOKEN = 4
LARGEST = 2**53  # no count of tokens is larger

# What a model writes into an answer.
_WRITTEN = frozenset(("content", "reasoning_content", "reasoning", "text", "tool_calls", "function", "arguments"))
_ANSWERS = ("delta", "message", "text")
_SAID = (Text, Reasoning)
_FILES = ("data:", "http:", "https:")
_LONGEST_WORD = 1024


class Tokens(NamedTuple):
    """``estimated`` where any of the counts is."""

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
    """The upstream's own counts, where they are counts; a 0 is one. ``written`` are bytes of answer that were seen."""
    said = usage if isinstance(usage, dict) else {}
    prompt, completion = _count(said.get("prompt_tokens")), _count(said.get("completion_tokens"))
    total = _count(said.get("total_tokens"))
    if not call.endpoint.writes:  # nothing is written, and rerankers say the total alone
        completion = completion or 0
        prompt = total if prompt is None else prompt
    estimated = (prompt, completion, total).count(None) > 1
    if prompt is None:
        prompt = _rest(total, completion, size(_read(call)) // BYTES_PER_TOKEN)
    if completion is None:
        completion = _rest(total, prompt, written // BYTES_PER_TOKEN)
    return Tokens(prompt, completion, prompt + completion if total is None else total, estimated)


def counts(said: Any) -> Json:
    """The counts in an upstream's usage, those in objects of their own too; empty if there are none."""
    usage = said if isinstance(said, dict) else {}
    return {name: value for name, value in usage.items() if _count(value) is not None or isinstance(value, dict)}


def shares(tokens: int, lengths: list[int]) -> list[int]:
    """``tokens`` divided by length; the shares are whole and their sum is ``tokens``."""
    total, passed, given = sum(lengths), 0, 0
    parts = []
    for length in lengths:
        passed += length
        upto = tokens * passed // total
        parts.append(upto - given)
        given = upto
    return parts


def seen(events: Iterable[Event]) -> int:
    """Bytes of answer and thinking in the events."""
    written = 0
    for event in events:
        if isinstance(event, _SAID):
            written += size(event.text)
        elif isinstance(event, Chunk):
            written += answered(event.body)
    return written


def counted(usage: Json | None) -> bool:
    """True if the upstream has counted what it wrote."""
    return usage is not None and _count(usage.get("completion_tokens")) is not None


def answered(reply: Json) -> int:
    """Bytes of answer and thinking in a chat.completion, or a chunk of one."""
    choices = reply.get("choices")
    if not isinstance(choices, list):
        return 0
    parts = [choice for choice in choices if isinstance(choice, dict)]
    return sum([_written(choice[name]) for choice in parts for name in _ANSWERS if name in choice])


def size(value: Any) -> int:
    """Bytes of text in a value of any depth, without what is a file or its address."""
    if isinstance(value, str):
        return 0 if _is_file(value) else len(value.encode("utf-8", "replace"))
    if isinstance(value, dict):
        return sum(map(size, value.values()))
    return sum(map(size, value)) if isinstance(value, list) else 0


def _is_file(text: str) -> bool:
    """True if the input is an address, or a file's bytes as text."""
    return (text.startswith(_FILES) or len(text) > _LONGEST_WORD) and " " not in text and text.isascii()


def _written(part: Any) -> int:
    """Of a message or a delta what the model wrote, also into the calls of tools."""
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
    """The total less the other count; the estimate if one of the two is not known."""
    if total is None:
        return estimate
    return min(estimate, total) if other is None else max(total - other, 0)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= LARGEST else None
