"""The callers' requests and the providers' responses, in the formats of Jina and AIHubMix.

A place is the first segment of a path at the stub, and selects its response:

    e64-base64    64 embeddings of 1024 numbers, as base64
    e8-float      8 of them, as floats
    rerank, chat  100 results; a small answer of a chat model
    s800x100      a DeepSearch stream of 100 events, 800 a second; s0x100: as fast as the client reads
    capped500     embeddings of the request's inputs, at most 500 calls a minute
"""

from __future__ import annotations

import base64
import random
import re
import struct
import time
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import msgspec

Encoding = Literal["float", "base64"]

DIMENSIONS = 1024
DOCUMENTS = 100
UPSTREAM_KEY = "jina_bench00000000000000000000000000"
CALLER_KEY = "bench-caller-0000000000000000000"

STAMP = re.compile(rb"@(\d{16})")
"""In the text of each event: its send time, in nanoseconds of the monotonic clock."""

FRESH = b"#00000000"
"""A placeholder for a number that makes the text unique to its call, so that no gateway's cache has it."""

_WORDS = ("the", "moon", "pulls", "on", "sea", "and", "its", "water", "rises", "twice", "a", "day", "tides", "steady")


@dataclass(frozen=True, slots=True)
class Ask:
    """A call as a caller makes it: its place, endpoint, model and body."""

    place: str
    endpoint: Literal["embeddings", "rerank", "chat/completions"]
    model: str
    body: dict[str, Any]


def embeddings(inputs: int, *, sent: Encoding = "float", asked: Encoding = "float", fresh: bool = True) -> Ask:
    """``asked``: the encoding that the caller asks for; ``sent``: the encoding of the upstream's reply, in any case."""
    mark = f" {FRESH.decode()}" if fresh else ""
    body = {"input": [_text(seed, 12) + mark for seed in range(inputs)], "encoding_format": asked}
    return Ask(f"e{inputs}-{sent}", "embeddings", "jina-embeddings-v3", body)


def rerank() -> Ask:
    query = f"{_text(1, 8)} {FRESH.decode()}"
    body = {"query": query, "documents": [_text(seed, 30) for seed in range(DOCUMENTS)], "top_n": DOCUMENTS}
    return Ask("rerank", "rerank", "jina-reranker-v2-base-multilingual", body)


def chat() -> Ask:
    return Ask("chat", "chat/completions", "gpt-4o-mini", {"messages": [{"role": "user", "content": _text(2, 20)}]})


def stream(rate: int, count: int) -> Ask:
    """``count`` events of DeepSearch's thinking, ``rate`` per second; 0 means unpaced."""
    body = {"stream": True, "messages": [{"role": "user", "content": _text(3, 20)}]}
    return Ask(f"s{rate}x{count}", "chat/completions", "jina-deepsearch-v1", body)


def capped(per_minute: int) -> Ask:
    return Ask(
        f"capped{per_minute}", "embeddings", "jina-embeddings-v3", {"input": [f"{_text(4, 12)} {FRESH.decode()}"]}
    )


@cache
def answer(place: str) -> bytes:
    """The body of a place that always gives the same response."""
    if place == "rerank":
        return _reranked()
    if place == "chat":
        return _chatted()
    inputs, _, encoding = place.removeprefix("e").partition("-")
    return embedded(int(inputs), encoding)


def embedded(inputs: int, encoding: str = "float") -> bytes:
    model = {"model": "jina-embeddings-v3", "object": "list", "usage": {"total_tokens": 15 * inputs}}
    data = [{"object": "embedding", "index": i, "embedding": _vector(i, encoding)} for i in range(inputs)]
    return msgspec.json.encode({**model, "data": data})


def first_event() -> bytes:
    return _event({"role": "assistant", "content": "<think>", "type": "think"})


def stamped_event() -> bytes:
    head, tail = _around_the_stamp()
    return b"%b%016d%b" % (head, time.monotonic_ns(), tail)


def last_events() -> bytes:
    end = _event({"content": "</think>\n\n", "type": "think"}, "thinking_end")
    urls = ["https://example.org/tides"]
    more = {
        "usage": {"prompt_tokens": 61000, "completion_tokens": 9100, "total_tokens": 69650},
        "visitedURLs": urls,
        "readURLs": urls,
        "numURLs": 1,
    }
    said = {"content": "The Moon pulls on the sea.", "type": "text", "annotations": []}
    return end + _event(said, "stop", **more)


@cache
def _around_the_stamp() -> tuple[bytes, bytes]:
    head, _, tail = _event({"content": "@STAMP ", "type": "think"}).partition(b"STAMP")
    return head, tail


def _event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {
        "id": "1790000000123",
        "object": "chat.completion.chunk",
        "created": 1790000000,
        "model": "jina-deepsearch-v1",
        "system_fingerprint": "fp_1790000000123",
        "choices": [choice],
        **more,
    }
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def _text(seed: int, words: int) -> str:
    chance = random.Random(seed)  # noqa: S311 - filler, not a secret
    return " ".join(chance.choice(_WORDS) for _ in range(words))


@cache
def _vector(seed: int, encoding: str) -> list[float] | str:
    """A vector of length 1 with numbers rounded to 32 bits, as from a model."""
    chance = random.Random(seed)  # noqa: S311 - data, no secret
    packed = struct.pack(f"<{DIMENSIONS}f", *(round(chance.gauss(0, DIMENSIONS**-0.5), 9) for _ in range(DIMENSIONS)))
    if encoding == "base64":
        return base64.b64encode(packed).decode()
    return [round(number, 9) for number in struct.unpack(f"<{DIMENSIONS}f", packed)]


def _reranked() -> bytes:
    scores = sorted((round(random.Random(i).random(), 8) for i in range(DOCUMENTS)), reverse=True)  # noqa: S311 - the same
    order = random.Random(0).sample(range(DOCUMENTS), DOCUMENTS)  # noqa: S311 - the same
    texts = rerank().body["documents"]
    results = [
        {"index": i, "relevance_score": score, "document": texts[i]} for i, score in zip(order, scores, strict=True)
    ]
    model = {"model": "jina-reranker-v2-base-multilingual", "object": "list", "usage": {"total_tokens": 4200}}
    return msgspec.json.encode({**model, "results": results})


def _chatted() -> bytes:
    return msgspec.json.encode(
        {
            "id": "chatcmpl-0123456789",
            "object": "chat.completion",
            "created": 1790000000,
            "model": "gpt-4o-mini",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": _text(5, 60)}, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": 24, "completion_tokens": 70, "total_tokens": 94},
        }
    )
