"""Segment, at api.jina.ai/v1/segment: the tokens of a text, and chunks of it.

Source: jina-ai/meta-prompt v9. Positions of chunks count UTF-16 units, as JavaScript does. White space before the first
chunk is in no chunk. How the real server cuts long paragraphs is unknown: here at the ends of sentences, else anywhere.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

from . import errors
from .errors import HostError
from .tokenizers import TOKENIZERS, Token, tokenized
from .wire import Answer, Json, Whole

_LONGEST = 64_000
_USUAL = 1000
# A line with the white space after it.
_LINES = re.compile(r"\S[^\n]*(?:\n\s*)?")
_SENTENCES = re.compile(r".+?(?:[.!?。!?]\s*|$)", re.DOTALL)


def segment(body: Json, quirk: str) -> Answer:
    content, tokenizer = body.get("content"), body.get("tokenizer") or "cl100k_base"
    if not isinstance(content, str) or not content:
        raise _wrong("content is required and must be a text")
    if len(content) >= _LONGEST:
        raise _wrong(f"content must have fewer than {_LONGEST} characters")
    if tokenizer not in TOKENIZERS:
        raise _wrong(f"tokenizer must be one of {', '.join(TOKENIZERS)}")
    head, tail = _count(body, "head"), _count(body, "tail")
    if head is not None and tail is not None:
        raise _wrong("head and tail cannot be used together")
    longest = _count(body, "max_chunk_length") or _USUAL
    kept = _kept(tokenized(content, tokenizer), head, tail)
    content = "".join(text for text, _ in kept)
    found: Json = {"num_tokens": sum(len(ids) for _, ids in kept), "tokenizer": tokenizer, "usage": {"tokens": 0}}
    spans = _chunks(content, longest) if _true(body.get("return_chunks")) else None
    if spans is not None:
        found |= {"num_chunks": len(spans), "chunk_positions": [_units(content, span) for span in spans]}
    if _true(body.get("return_tokens")):
        found["tokens"] = kept if spans is None else [tokenized(content[a:b], tokenizer) for a, b in spans]
    if spans is not None:
        found["chunks"] = [content[a:b] for a, b in spans]
    return Whole(found)


def _wrong(message: str) -> HostError:
    return HostError(errors.jina(400, message, "INPUT_INVALID"))


def _true(value: Any) -> bool:
    """A boolean of a body, or of a query's text."""
    return value is True or (isinstance(value, str) and value.lower() in ("true", "1"))


def _count(body: Json, name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _wrong(f"{name} must be a whole number of at least 1")
    return value


def _kept(tokens: list[Token], head: int | None, tail: int | None) -> list[Token]:
    """The first or the last tokens; all if neither is asked for."""
    return tokens[:head] if head is not None else tokens[-tail:] if tail is not None else tokens


def _chunks(content: str, longest: int) -> list[tuple[int, int]]:
    """Starts and ends of the chunks, in characters."""
    return [span for line in _LINES.finditer(content) for span in _pieces(line[0], line.start(), longest)]


def _pieces(line: str, start: int, longest: int) -> list[tuple[int, int]]:
    if len(line) <= longest:
        return [(start, start + len(line))]
    ends = [0]
    for sentence in _SENTENCES.finditer(line):
        if sentence.end() - ends[-1] > longest and sentence.start() > ends[-1]:
            ends.append(sentence.start())
        while sentence.end() - ends[-1] > longest:
            ends.append(ends[-1] + longest)
    ends += [len(line)] if ends[-1] < len(line) else []
    return [(start + begin, start + end) for begin, end in itertools.pairwise(ends)]


def _units(content: str, span: tuple[int, int]) -> list[int]:
    """A span in UTF-16 units."""
    return [len(content[:place].encode("utf-16-le", "surrogatepass")) // 2 for place in span]
