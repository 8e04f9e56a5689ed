"""POST and GET /v1/segment: a text's tokens, and its chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from ..core.classifiers import SEGMENT, SEGMENTER, SegmentCall
from ..core.errors import InvalidRequest
from ..core.names import not_one_of
from ..core.types import Json
from .endpoint import Endpoint
from .fields import given, unsent, whole_number

UNSENT = unsent("segment") | {"_token", "model"}

MOST_CHARACTERS = 64_000  # UTF-16 units, as JavaScript counts; "less than 64k characters" (jina-ai/MCP)
TOKENIZERS = ("cl100k_base", "o200k_base", "p50k_base", "r50k_base", "p50k_edit", "gpt2")
FLAGS = ("return_tokens", "return_chunks")
NUMBERS = ("max_chunk_length", "head", "tail")


@dataclass(frozen=True, slots=True)
class Segment(Endpoint):
    """The segment endpoint. Positions in the answer count UTF-16 units, as the provider's do."""

    facts: ClassVar = SEGMENT
    paths: ClassVar = ("/v1/segment",)
    gets: ClassVar = ("/v1/segment",)

    def parse(self, body: Json, path: str) -> SegmentCall:
        body = given(body, UNSENT)
        _check_content(body.get("content"))
        tokenizer = body.get("tokenizer")
        if tokenizer is not None and tokenizer not in TOKENIZERS:
            raise not_one_of("tokenizer", tokenizer, TOKENIZERS)
        for name in FLAGS:
            if not isinstance(body.get(name, False), bool):
                raise InvalidRequest(f"{name} must be true or false", param=name)
        for name in NUMBERS:
            if name in body:
                whole_number(name, body[name])
        if "head" in body and "tail" in body:
            raise InvalidRequest("head and tail exclude each other: send one of them", param="tail")
        return SegmentCall(model=SEGMENTER, body=body)

    def from_query(self, fields: dict[str, str]) -> Json:
        return {name: _typed(name, value) for name, value in fields.items()}

    def render(self, call: SegmentCall, reply: Json) -> bytes:
        """The provider's own fields, without an envelope."""
        return msgspec.json.encode({**reply, "usage": {"tokens": reply["usage"].get("total_tokens", 0)}})


def _check_content(content: Any) -> None:
    if content is None:
        raise InvalidRequest("content is missing: send the text", param="content")
    if not isinstance(content, str) or not content:
        raise InvalidRequest("content must be a text that is not empty", param="content")
    units = len(content) if content.isascii() else len(content.encode("utf-16-le", "surrogatepass")) // 2
    if units >= MOST_CHARACTERS:
        raise InvalidRequest(
            f"content has {units:,} characters; it must have less than {MOST_CHARACTERS:,}. Send it in parts",
            param="content",
        )


def _typed(name: str, value: str) -> Any:
    """The value of a field of a query in the type that it has in a body; one that has no such value stays a text."""
    if name in FLAGS:
        return {"true": True, "false": False, "1": True, "0": False}.get(value.lower(), value)
    return int(value) if name in NUMBERS and value.isascii() and value.isdecimal() and len(value) < 16 else value
