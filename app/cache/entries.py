"""What is kept under a key: a canonical answer of its own, as bytes, with nothing of what was asked in it.

An answer's values stay the bytes that the upstream wrote, so what is made of them, in any encoding, is what would
have been made of a new answer.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import msgspec

from ..types import EndpointName, Json
from ..vectors import Vector

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


def unpacked(value: bytes) -> Entry | None:
    """The entry, or None for what is none."""
    try:
        return _packed.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def head_of(reply: Json, holds: str) -> Fields:
    return {name: b"" if name in (holds, "usage") else _bytes(value) for name, value in reply.items()}


def item_of(item: Json) -> Fields:
    return {name: _bytes(value) for name, value in item.items()}


def names_of(items: list[Json]) -> Fields:
    """An item in place of them all."""
    return dict.fromkeys(chain.from_iterable(items), b"")


def restored(entry: Entry, holds: str) -> list[Json]:
    """As they came; a ranking's indexes are places in its documents."""
    if together := entry.head.get(holds):
        return [{**item, "index": int(bytes(item["index"]))} for item in _items.decode(together)]
    return [
        {name: int(value) if name == "index" else msgspec.Raw(value) for name, value in item.items()}
        for item in entry.items
    ]


def numbered(items: list[Fields]) -> list[Json]:
    """With the indexes that they have here."""
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
