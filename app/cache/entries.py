"""What is kept under a key: a canonical answer of its own, as bytes, with nothing of what was asked in it.

An answer's values stay the bytes that the upstream wrote, so what is made of them, in any encoding, is what would
have been made of a new answer.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import msgspec

from ..jsontext import decode, numbers
from ..types import Call, EndpointName, Json, RerankCall
from ..usage import LARGEST
from ..vectors import Vector, checked

HOLDS: dict[EndpointName, str] = {"embeddings": "data", "rerank": "results", "chat": "choices"}

# What an answer may have in it to be kept. Anything else might repeat what was asked, as tokenized_input does.
HEAD = frozenset(["created", "data", "id", "meta", "model", "object", "provider", "request_id", "results", "usage"])
ITEM = frozenset(["embedding", "embeddings", "index", "object", "relevance_score"])

JSON = (msgspec.Raw, Vector)  # what is its bytes already

Fields = dict[str, bytes]
# Bytes that Python has around the values of a head and of an item.
HEAD_SIZE, ITEM_SIZE = 400, 300


class Entry(NamedTuple):
    """``head`` is the top level of the answer, empty where the items and the usage were; but a ranking is one piece
    of JSON in it, and ``items`` tell only the names of its fields. ``tokens`` is what the entry was billed; where
    several inputs were billed together, its share by length."""

    head: Fields
    items: list[Fields]
    tokens: int

    @property
    def silent(self) -> bool:
        """Whether nothing in it can be what was asked."""
        return self.head.keys() <= HEAD and ITEM.issuperset(chain.from_iterable(self.items))

    @property
    def size(self) -> int:
        """Bytes that it takes in the process, about."""
        values = chain(self.head.values(), *map(dict.values, self.items))
        return sum(map(len, values)) + HEAD_SIZE + ITEM_SIZE * len(self.items)

    def pack(self) -> bytes:
        return msgspec.msgpack.encode(self)

    def head_with(self, usage: Json) -> Json:
        """The top level, its fields in the order in which they came, without the items."""
        return {name: usage if name == "usage" else msgspec.Raw(value) for name, value in self.head.items()}


_packed = msgspec.msgpack.Decoder(Entry)
_items = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def unpacked(value: bytes, call: Call) -> Entry | None:
    """The entry of an answer to ``call``; None for what is none, whoever has written it."""
    try:
        entry = _packed.decode(value)
        return entry if _sound(entry, call) else None
    except (msgspec.MsgspecError, LookupError, ValueError, RecursionError):
        return None


def size_of(entry: Entry) -> int | None:
    """The dimensions of its vector; None for a ranking, for several vectors and for sparse ones."""
    vectors = [item["embedding"] for item in entry.items if item.get("embedding")]
    return checked(vectors[0]) if len(vectors) == 1 else None


def _sound(entry: Entry, call: Call) -> bool:
    """True if an answer can be made of it. Raises ValueError or LookupError for most of what is wrong with it."""
    holds = HOLDS[call.endpoint]
    if not (entry.silent and entry.items and {holds, "usage"} <= entry.head.keys() and 0 <= entry.tokens <= LARGEST):
        return False
    for name, field in entry.head.items():
        if name not in (holds, "usage"):
            decode(field)
    if isinstance(call, RerankCall):
        results = ranked(entry)
        places = {result["index"] for result in results}
        numbers([result["relevance_score"] for result in results])
        return len(places) == len(results) > 0 and min(places) >= 0 and max(places) < len(call.documents)
    sizes = {_vector(item) for item in entry.items} - {None}
    asked = call.body.get("dimensions")
    return len(sizes) <= 1 and not (sizes and isinstance(asked, int) and not sizes & {asked, asked // 8})


def _vector(item: Fields) -> int | None:
    """The dimensions of an item's vector, all of whose fields are JSON. Raises ValueError."""
    for name, field in item.items():
        if name != "embedding":
            decode(field)
    if "embedding" in item:
        return checked(item["embedding"])
    decode(item.get("embeddings", b""), list[Any])
    return None


def head_of(reply: Json, holds: str) -> Fields:
    return {name: b"" if name in (holds, "usage") else _bytes(value) for name, value in reply.items()}


def item_of(item: Json) -> Fields:
    return {name: _bytes(value) for name, value in item.items()}


def names_of(items: list[Json]) -> Fields:
    """An item in place of them all."""
    return dict.fromkeys(chain.from_iterable(items), b"")


def ranked(entry: Entry) -> list[Json]:
    """The results of a ranking; their indexes are places in its documents."""
    if together := entry.head.get("results"):
        return [{**item, "index": int(bytes(item["index"]))} for item in _items.decode(together)]
    return [
        {name: int(value) if name == "index" else msgspec.Raw(value) for name, value in item.items()}
        for item in entry.items
    ]


def numbered(items: list[Fields]) -> list[Json]:
    """Vectors with the indexes that they have in this call: in the call that paid for them they had others."""
    return [
        {name: place if name == "index" else msgspec.Raw(value) for name, value in item.items()}
        for place, item in enumerate(items)
    ]


def billed(usage: Json) -> int:
    """The tokens of an answer, however the upstream counts them."""
    tokens = usage.get("total_tokens", usage.get("prompt_tokens", 0))
    return tokens if isinstance(tokens, int) else 0


def _bytes(value: Any) -> bytes:
    return bytes(value) if type(value) in JSON else msgspec.json.encode(value)
