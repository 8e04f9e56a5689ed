"""The scripts of the soak's upstreams: correct answers, which carry the number of their call, and all kinds of faults.

The fault of a call follows from the seed, its number and how often it was tried, not from the time.
"""

from __future__ import annotations

import gzip
import math
import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from random import Random
from struct import pack
from typing import Any, Literal

import msgspec

from ..conftest import Script, Seen
from ..faults.scripts import (
    CHUNKED,
    LAST,
    STREAM_HEAD,
    USAGE,
    answer,
    chunk,
    delta,
    dripping,
    endless,
    forever,
    hang,
    head,
    sse,
    thought,
    whole,
    wire,
)

Kind = Literal["embeddings", "rerank", "chat", "deepsearch"]

# Larger than the gateway's limits for an answer and an event.
TOO_LARGE = 3 * 1024 * 1024
TOKENS, STREAM_TOKENS = 9, 7
LONG = 600_000  # in characters; such an answer fits into no socket buffer


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as an upstream reads it. ``number`` is the call's and part of each of its ``inputs``; None for a
    probe, and for a call ``again`` with shared texts."""

    kind: Kind
    number: int | None
    inputs: list[str]
    stream: bool
    long: bool = False
    again: bool = False

    @classmethod
    def read(cls, request: Seen) -> Asked:
        body = request.body
        found = re.search(rb"soak (\d+)", request.raw)
        number = int(found[1]) if found else None
        again = number is None and b'"again ' in request.raw
        if request.path.endswith("/embeddings"):
            return cls("embeddings", number, body["input"], stream=False, again=again)
        if request.path.endswith("/rerank"):
            return cls("rerank", number, body["documents"], stream=False, again=again)
        kind: Kind = "deepsearch" if "deepsearch" in body["model"] else "chat"
        return cls(kind, number, [], stream=body["stream"], long=b" long" in request.raw)


# -------------------------------------------------------------- correct answers


def text_of(number: int | None, *, long: bool = False) -> str:
    said = f"the answer of {number}, in some words; "
    return said * (LONG // len(said)) if long else said


def vector_of(text: str) -> list[float]:
    """A vector that identifies its input: the numbers of the call and of the input."""
    return [float(part) for part in text.split()[1:]] or [0.5]


def body_of(asked: Asked) -> bytes:
    if asked.kind == "embeddings":
        data = [{"object": "embedding", "embedding": vector_of(text)} for text in asked.inputs]
        reply: Any = {"model": "m", "object": "list", "data": [{**item, "index": n} for n, item in enumerate(data)]}
    elif asked.kind == "rerank":
        scores = [{"index": place, "relevance_score": vector_of(text)[0]} for place, text in enumerate(asked.inputs)]
        reply = {"model": "m", "object": "list", "results": scores}
    else:
        message = {"role": "assistant", "content": text_of(asked.number, long=asked.long)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        reply = {"id": "u", "object": "chat.completion", "model": "m", "choices": [choice]}
    usage = {"total_tokens": TOKENS, "prompt_tokens": TOKENS, "completion_tokens": 0}
    return msgspec.json.encode({**reply, "usage": usage})


def tokens_of(asked: Asked) -> int:
    """The tokens in the usage of a correct answer."""
    return STREAM_TOKENS if asked.stream and asked.kind == "chat" else TOKENS


def events_of(asked: Asked) -> list[bytes]:
    """The events of a stream; the event before the last has the finish reason."""
    text = text_of(asked.number, long=asked.long)
    if asked.kind == "deepsearch":
        thoughts = [sse(thought(word)) for word in ("<think>", "What ", "is ", "asked?", "</think>")]
        return [*thoughts, sse(answer(text)), b": the end\n\n"]
    size = max(8, len(text) // 20)
    deltas = [sse(delta(text[place : place + size])) for place in range(0, len(text), size)]
    return [*deltas, sse(delta(finish="stop"), USAGE), sse(b"[DONE]")]


def right(asked: Asked, chance: Random) -> Script:
    if not asked.stream:
        return wire(_pause(chance), whole(body_of(asked)), end="open")
    pieces = [piece for event in events_of(asked) for piece in (chunk(event), _pause(chance) / 4)]
    return wire(_pause(chance), STREAM_HEAD, *pieces, LAST, end="open")


def _pause(chance: Random) -> float:
    return chance.choice((0.0, 0.0, 0.0, 0.05, chance.uniform(0.0, 0.6)))


# ---------------------------------------------------------------- faults


@dataclass(frozen=True, slots=True)
class Fault:
    """``of``: any, whole, stream or a kind. ``finishes``: the script sends a correct answer, even if an odd one.
    ``bills``: whether it bills tokens; None if unknown. ``closes``: the range of seconds after which it closes the
    connection."""

    name: str
    make: Callable[[Asked, Random], Script]
    of: str = "any"
    weight: float = 1.0
    finishes: bool = False
    bills: bool | None = None
    closes: tuple[float, float] | None = None


def fixed(script: Callable[[], Script]) -> Callable[[Asked, Random], Script]:
    return lambda asked, chance: script()


def says(status: str, body: Any, *lines: str, kind: str = "application/json") -> Callable[[Asked, Random], Script]:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return fixed(lambda: wire(whole(raw, *lines, status=status, kind=kind), end="open"))


def body(change: Callable[[bytes], bytes], *lines: str) -> Callable[[Asked, Random], Script]:
    """A correct head with a body made by ``change`` from the correct one."""
    return lambda asked, chance: wire(whole(change(body_of(asked)), *lines), end="open")


def begun(*rest: bytes | float, end: str) -> Callable[[Asked, Random], Script]:
    """The first events of a stream, then ``rest``. The stream never finishes."""

    def make(asked: Asked, chance: Random) -> Script:
        events = events_of(asked)[:-2]
        few = events[: chance.randint(0, max(len(events) - 1, 1))]
        return wire(STREAM_HEAD, *map(chunk, few), *rest, end=end)

    return make


def cut_body(end: str) -> Callable[[Asked, Random], Script]:
    def make(asked: Asked, chance: Random) -> Script:
        sent = whole(body_of(asked))
        return wire(sent[: len(sent) - chance.randint(1, 40)], end=end)

    return make


def as_chunks(*pieces: bytes) -> Callable[[Asked, Random], Script]:
    return lambda asked, chance: wire(head(CHUNKED), chunk(body_of(asked)[:20]), *pieces)


def glued(asked: Asked, chance: Random) -> Script:
    """After the answer, an unrequested one with another call's number."""
    stranger = Asked(asked.kind, 0, ["soak 0 0"] * len(asked.inputs), asked.stream)
    return wire(whole(body_of(asked)) + whole(body_of(stranger)), end="open")


def commented(asked: Asked, chance: Random) -> Script:
    comments: list[bytes | float] = [piece for _ in range(chance.randint(1, 8)) for piece in (chunk(b": x\n\n"), 0.15)]
    first, *events = map(chunk, events_of(asked))
    return wire(STREAM_HEAD, first, *comments, *events, LAST, end="open")


def comments_first(asked: Asked, chance: Random) -> Script:
    """Comments for longer than the deadline for a head: they are signs of life."""
    comments: list[bytes | float] = [
        piece for _ in range(chance.randint(14, 16)) for piece in (chunk(b": x\n\n"), 0.15)
    ]
    return wire(STREAM_HEAD, *comments, *map(chunk, events_of(asked)), LAST, end="open")


def written_in_one(asked: Asked, chance: Random) -> Script:
    odd = b"".join(events_of(asked)).replace(b"\n", b"\r\n")
    return wire(head(kind="text/plain") + b"\xef\xbb\xbf" + odd)


def dripped_thoughts(asked: Asked, chance: Random) -> Script:
    event = sse(thought("and ")) if asked.kind == "deepsearch" else sse(delta("and "))
    return endless(STREAM_HEAD, forever(chunk(event)), every=0.2)


def wrong_count(asked: Asked, chance: Random) -> Script:
    """One item too few or one too many. For a ranking always too many, since it may have fewer results than
    documents."""
    fewer = asked.kind == "embeddings" and chance.random() < 0.5
    inputs = asked.inputs[1:] if fewer else [*asked.inputs, asked.inputs[0]]
    return wire(whole(body_of(Asked(asked.kind, asked.number, inputs, stream=False))), end="open")


def as_base64(*vectors: bytes) -> Callable[[Asked, Random], Script]:
    """Vectors as base64 text, taken from ``vectors`` in turn."""

    def make(asked: Asked, chance: Random) -> Script:
        texts = [b64encode(vector).decode() for vector, _ in zip(cycle(vectors), asked.inputs, strict=False)]
        data = [{"object": "embedding", "index": place, "embedding": text} for place, text in enumerate(texts)]
        return wire(whole(msgspec.json.encode({"model": "m", "object": "list", "data": data, "usage": {}})), end="open")

    return make


# Words of a proxy's error page, which no caller may see.
PAGE_WORDS = ("203.0.113.7", "8a1b2c3d4e5f")
PAGE = b"<html><h1>Bad gateway</h1><p>Your IP: 203.0.113.7; Ray ID: 8a1b2c3d4e5f</p></html>"
BOMB = gzip.compress(b" " * 20 * 1024 * 1024)
ERROR = {"error": {"message": "the model is overloaded", "type": "server_error", "code": None}}
FAILING = {"choices": [{"index": 0, "delta": {"content": "Error: no", "type": "error"}, "finish_reason": "error"}]}

RIGHT = Fault("right", right, weight=60, finishes=True, bills=True)
# Faults of a call ``again``, beside the correct answer.
AGAIN = (
    "429",
    "429 without a time",
    "500",
    "503",
    "closed",
    "reset",
    "HTML with 200",
    "half JSON",
    "NaN",
    "closed soon",
)
AGAIN_SHARE = 0.2
FAULTS: tuple[Fault, ...] = (
    RIGHT,
    # Instead of an answer.
    Fault("400", says("400 Bad Request", {"detail": "no such task"}), bills=False),
    Fault("404", says("404 Not Found", {"detail": "Incorrect model id"}), weight=0.5, bills=False),
    Fault(
        "422",
        says("422 Unprocessable", {"detail": [{"loc": ["body", "input"], "msg": "too long"}]}),
        weight=0.5,
        bills=False,
    ),
    Fault("401", says("401 Unauthorized", {"detail": "Invalid API key"}), weight=0.1, bills=False),
    Fault("402", says("402 Payment Required", {"detail": "Insufficient balance"}), weight=0.1, bills=False),
    Fault("429", says("429 Too Many", {"detail": "slow down"}, "retry-after: 0.3"), bills=False),
    Fault("429 without a time", says("429 Too Many", {"detail": "slow down"}), weight=0.3, bills=False),
    Fault("500", says("500 Oops", ERROR), bills=False),
    Fault("502 of a proxy", says("502 Bad Gateway", PAGE, kind="text/html"), bills=False),
    Fault("503", says("503 Unavailable", ERROR, "retry-after: 1"), bills=False),
    Fault("529", says("529 Overloaded", b""), bills=False),
    Fault("redirect", says("302 Found", b"", "location: http://127.0.0.1:9/elsewhere"), weight=0.5, bills=False),
    Fault("no answer", fixed(lambda: hang)),
    Fault("closed", fixed(wire)),
    Fault("reset", fixed(lambda: wire(end="reset"))),
    Fault("no HTTP", fixed(lambda: wire(b"SSH-2.0-OpenSSH_9.2\r\n"))),
    Fault(
        "giant head", fixed(lambda: endless(b"HTTP/1.1 200 OK\r\n", forever(b"x-padding: " + b"x" * 8000 + b"\r\n")))
    ),
    Fault("dripping head", fixed(lambda: dripping(head("content-length: 2")))),
    Fault("half a head", fixed(lambda: wire(head("content-length: 2")[:30], end="hang"))),
    Fault("endless 102", fixed(lambda: endless(b"", forever(b"HTTP/1.1 102 Processing\r\n\r\n"), every=0.05))),
    # A correct answer; then the connection is closed while idle, or just as it is reused.
    Fault("closed later", right, weight=5, finishes=True, bills=True, closes=(0.0, 0.3)),
    Fault("closed soon", right, weight=5, finishes=True, bills=True, closes=(0.002, 0.004)),
    # An invalid answer.
    Fault("error as an answer", says("200 OK", ERROR)),
    Fault("empty 200", says("200 OK", b""), of="whole"),
    Fault("null", says("200 OK", None), of="whole"),
    Fault("HTML with 200", says("200 OK", PAGE, kind="text/html")),
    Fault("half JSON", body(lambda right: right[:-9]), of="whole"),
    Fault("NaN", body(lambda right: right.replace(b'"usage":', b'"x":NaN,"usage":')), of="whole"),
    Fault(
        "usage that is none",
        body(lambda right: re.sub(rb'"usage":{.*?}', b'"usage":{"total_tokens":-1}', right)),
        of="whole",
        finishes=True,
    ),
    Fault("length too long", cut_body("fin"), of="whole"),
    Fault("length too long, hangs", cut_body("hang"), of="whole"),
    Fault("reset in the body", cut_body("reset"), of="whole"),
    Fault("bad chunk", as_chunks(b"zz\r\nabc\r\n"), of="whole"),
    Fault("chunks cut short", as_chunks(), of="whole"),
    Fault("dripping body", lambda asked, chance: dripping(body_of(asked), head=head()), of="whole"),
    Fault("glued on", glued, of="whole", weight=2, finishes=True, bills=True),
    Fault(
        "byte-order mark", body(lambda right: b"\xef\xbb\xbf" + right), of="whole", weight=2, finishes=True, bills=True
    ),
    Fault("base64 with NaN", as_base64(pack("<2f", math.nan, 1.0)), of="embeddings"),
    Fault("base64 of three bytes", as_base64(b"abc"), of="embeddings", weight=0.5),
    Fault("base64 with an infinity", as_base64(pack("<2f", 1.0, math.inf)), of="embeddings", weight=0.5),
    Fault("packed", body(gzip.compress, "content-encoding: gzip"), of="whole", finishes=True, bills=True),
    Fault(
        "packed, corrupt", body(lambda right: gzip.compress(right)[:-12] + b"!", "content-encoding: gzip"), of="whole"
    ),
    Fault("bomb", body(lambda _: BOMB, "content-encoding: gzip"), of="whole", weight=0.3),
    Fault("too large", body(lambda right: right + b" " * TOO_LARGE), of="whole", weight=0.3),
    # An invalid stream, or one in an odd format.
    Fault("stream reset", begun(end="reset"), of="stream", weight=2),
    Fault("stream closed", begun(end="fin"), of="stream", weight=2),
    Fault("stream ends early", begun(LAST, end="open"), of="stream", weight=2),
    Fault("half an event", begun(chunk(b'data: {"choices": [{"index": 0, "del'), end="fin"), of="stream"),
    Fault("falls silent", begun(end="hang"), of="stream", weight=2),
    Fault("error event", begun(chunk(b"event: error\n" + sse(ERROR)), LAST, end="open"), of="stream"),
    Fault("finish_reason error", begun(chunk(sse(FAILING)), LAST, end="open"), of="deepsearch"),
    Fault("event that is no JSON", begun(chunk(sse(b"{nonsense")), LAST, end="open"), of="stream"),
    Fault("[DONE] without a finish", begun(chunk(sse(b"[DONE]")), LAST, end="open"), of="stream"),
    Fault(
        "endless event",
        lambda a, c: endless(STREAM_HEAD + chunk(b"data: "), forever(chunk(b"x" * 50_000))),
        of="stream",
    ),
    Fault("comments for ever", lambda a, c: endless(STREAM_HEAD, forever(chunk(b": x\n\n")), every=0.1), of="stream"),
    Fault("events for ever", dripped_thoughts, of="stream", weight=0.5),
    Fault("comments, then the answer", commented, of="stream", weight=2, finishes=True, bills=True),
    Fault("comments first", comments_first, of="stream", weight=0.5, finishes=True, bills=True),
    Fault("written in one", written_in_one, of="stream", weight=2, finishes=True, bills=True),
)
COUNTED = Fault("wrong count", wrong_count, weight=2)


def fault(asked: Asked, chance: Random) -> Fault:
    """The fault for this request. A probe always gets an answer."""
    if asked.number is None:
        few = [*(fault for fault in FAULTS if fault.name in AGAIN), COUNTED]
        return chance.choice(few) if asked.again and chance.random() < AGAIN_SHARE else RIGHT
    own = ("any", "stream" if asked.stream else "whole", asked.kind)
    faults = [fault for fault in FAULTS if fault.of in own]
    faults += [COUNTED] if asked.inputs else []
    return chance.choices(faults, [fault.weight for fault in faults])[0]
