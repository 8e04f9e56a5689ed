"""Cache entries: a canonical answer as bytes, with nothing of the request in it.

An answer's values stay the bytes that the upstream wrote, so what is made of them, in any encoding, is what would
have been made of a new answer. What a store gives back may have been written by another version or another program,
or be damaged: it is read as an answer of the upstream is.
"""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any, NamedTuple

import msgspec

from ..core.errors import ToriiError
from ..core.types import Call, Json, Target
from ..core.usage import LARGEST
from ..core.vectors import Shape, Vector, field_of

# What an answer may have in it to be kept. Anything else might repeat what was asked, as tokenized_input does.
HEAD = frozenset(["created", "data", "id", "meta", "model", "object", "provider", "request_id", "results", "usage"])
ITEM = frozenset(["embedding", "embeddings", "index", "object", "relevance_score"])

JSON = (msgspec.Raw, Vector)  # what is its bytes already

Fields = dict[str, bytes]
# Bytes that Python has around the values of a head and of an item.
HEAD_SIZE, ITEM_SIZE = 400, 300


class CacheEntry(NamedTuple):
    """``head`` is the top level of the answer, empty where the items and the usage were; but the items of a call
    without ``inputs``, such as a ranking, are one piece of JSON in it, and ``items`` tell only the names of their
    fields. ``tokens`` is what the entry was billed; where several inputs were billed together, its share by length.
    ``shape`` is of its vectors, None for a ranking."""

    head: Fields
    items: list[Fields]
    tokens: int
    shape: Shape | None = None

    @property
    def storable(self) -> bool:
        """True if nothing in it can be what was asked."""
        return self.head.keys() <= HEAD and ITEM.issuperset(chain.from_iterable(self.items))

    @property
    def size(self) -> int:
        """Bytes that it takes in the process, about."""
        values = chain(self.head.values(), *map(dict.values, self.items))
        return sum(map(len, values)) + HEAD_SIZE + ITEM_SIZE * len(self.items)

    def pack(self) -> bytes:
        """Without the shape, which is seen again when it is read."""
        return msgspec.msgpack.encode(self[:3])

    def head_with(self, usage: Json) -> Json:
        """The top level, its fields in the order in which they came, without the items."""
        return {name: usage if name == "usage" else msgspec.Raw(value) for name, value in self.head.items()}


Tokens = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]

_packed = msgspec.msgpack.Decoder(tuple[Fields, list[Fields], Tokens])
_items = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def unpacked(value: bytes, call: Call, target: Target) -> CacheEntry | None:
    """The entry; None for what is none, and for what would be no right answer of ``target`` to ``call``."""
    holds, most = call.endpoint.items, call.most_items
    try:
        head, items, tokens = _packed.decode(value)
        if not {holds, "usage"} <= head.keys():
            return None
        reply = target.upstream.reply(call, target, _answer(head, items, tokens, call))
    except (msgspec.MsgspecError, UnicodeDecodeError, ToriiError):
        return None
    if most is not None and len(reply[holds]) > most:
        return None
    entry = entry_of(reply, call)
    return entry if entry.storable else None


def _answer(head: Fields, items: list[Fields], tokens: int, call: Call) -> bytes:
    """The upstream's answer, as far as it was kept. In files of earlier versions a ranking is among the items."""
    if not call.endpoint.inputs and head[call.endpoint.items]:
        held: Any = msgspec.Raw(head[call.endpoint.items])
    else:
        held = numbered(items) if call.endpoint.inputs else list(map(_raw, items))
    return msgspec.json.encode({**_raw(head), call.endpoint.items: held, "usage": {"total_tokens": tokens}})


def entry_of(reply: Json, call: Call) -> CacheEntry:
    """The whole of a canonical answer."""
    holds = call.endpoint.items
    head = {name: b"" if name in (holds, "usage") else _bytes(value) for name, value in reply.items()}
    tokens = billed(reply["usage"])
    if not call.endpoint.inputs:
        head[holds] = msgspec.json.encode(reply[holds])
        return CacheEntry(head, [dict.fromkeys(chain.from_iterable(reply[holds]), b"")], tokens)
    items = [{name: _bytes(value) for name, value in item.items()} for item in reply[holds]]
    first = reply[holds][0]  # all have one shape
    return CacheEntry(head, items, tokens, first[field_of(first)].shape)


def ranked(results: bytes) -> list[Json]:
    """The items of a call without ``inputs``, such as the results of a ranking, whose indexes are places in its
    documents. All but the indexes are JSON."""
    items: list[Json] = _items.decode(results)
    for item in items:
        if "index" in item:
            item["index"] = int(bytes(item["index"]))
    return items


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


def _raw(fields: Fields) -> Json:
    return {name: msgspec.Raw(value) for name, value in fields.items()}


def _bytes(value: Any) -> bytes:
    return bytes(value) if type(value) in JSON else msgspec.json.encode(value)
