"""Cache entries: a canonical answer as bytes, without anything of the request.

The values of an answer stay the bytes that the upstream wrote, so that any encoding made of them equals that of a new
answer. An entry from a store is validated like an answer of the upstream: another version or another program may have
written it, and it may be damaged.
"""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any, NamedTuple

import msgspec

from ..core.errors import ToriiError
from ..core.types import Call, Json, Target
from ..core.usage import LARGEST
from ..core.vectors import Shape, Vector, field_of

# The fields of an answer that may be stored. Any other field might repeat the request, as tokenized_input does. Answers
# that do so by their nature are kept in memory only (``echoes`` of the endpoint).
HEAD = frozenset(["created", "data", "id", "meta", "model", "object", "provider", "request_id", "results", "usage"])
ITEM = frozenset(["embedding", "embeddings", "index", "object", "page", "relevance_score"])

JSON = (msgspec.Raw, Vector)  # values that are JSON bytes already

Fields = dict[str, bytes]
# Bytes that Python takes around the values of a head and of an item.
HEAD_SIZE, ITEM_SIZE = 400, 300


class CacheEntry(NamedTuple):
    """``head`` is the top level of the answer, with empty values for the items and the usage. The items of a call
    without ``inputs``, such as a ranking, are one piece of JSON in ``head``; ``items`` then has only the names of their
    fields. ``tokens`` is what the entry was billed, its share by length if several inputs were billed together.
    ``shape`` is that of its vectors, None for a ranking. ``echoes``: it may repeat texts of the request, so it is kept
    in memory only."""

    head: Fields
    items: list[Fields]
    tokens: int
    shape: Shape | None = None
    echoes: bool = False

    @property
    def storable(self) -> bool:
        """True if no field of the entry can repeat the request, or if it is kept in memory only."""
        return self.echoes or (self.head.keys() <= HEAD and ITEM.issuperset(chain.from_iterable(self.items)))

    @property
    def size(self) -> int:
        """The bytes that the entry takes in the process, approximately."""
        values = chain(self.head.values(), *map(dict.values, self.items))
        return sum(map(len, values)) + HEAD_SIZE + ITEM_SIZE * len(self.items)

    def pack(self) -> bytes:
        """The entry as MessagePack, without the shape, which is found again on reading."""
        return msgspec.msgpack.encode(self[:3])

    def head_with(self, usage: Json) -> Json:
        """The top level with this usage and empty items, its fields in the upstream's order."""
        return {name: usage if name == "usage" else msgspec.Raw(value) for name, value in self.head.items()}


Tokens = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]

_packed = msgspec.msgpack.Decoder(tuple[Fields, list[Fields], Tokens])
_items = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def unpacked(value: bytes, call: Call, target: Target) -> CacheEntry | None:
    """The entry in ``value``; None if it is no entry, or no valid answer of ``target`` to ``call``."""
    holds, most = call.endpoint.items, call.most_items
    try:
        head, items, tokens = _packed.decode(value)
        if not {holds or "usage", "usage"} <= head.keys():
            return None
        reply = target.upstream.reply(call, target, _answer(head, items, tokens, call))
    except (msgspec.MsgspecError, UnicodeDecodeError, ToriiError):
        return None
    if most is not None and holds and len(reply[holds]) > most:
        return None
    entry = entry_of(reply, call)
    return entry if entry.storable else None


def _answer(head: Fields, items: list[Fields], tokens: int, call: Call) -> bytes:
    """The upstream's answer, as far as it was stored. Files of earlier versions have a ranking in ``items``."""
    if not call.endpoint.inputs and head[call.endpoint.items]:
        held: Any = msgspec.Raw(head[call.endpoint.items])
    else:
        held = numbered(items) if call.endpoint.inputs else list(map(_raw, items))
    return msgspec.json.encode({**_raw(head), call.endpoint.items: held, "usage": {"total_tokens": tokens}})


def entry_of(reply: Json, call: Call) -> CacheEntry:
    """The entry of a whole canonical answer."""
    holds = call.endpoint.items
    head = {name: b"" if name in (holds, "usage") else _bytes(value) for name, value in reply.items()}
    tokens = billed(reply["usage"])
    if not holds:
        return CacheEntry(head, [], tokens, echoes=call.endpoint.echoes)
    if not call.endpoint.inputs:
        head[holds] = msgspec.json.encode(reply[holds])
        names = dict.fromkeys(chain.from_iterable(reply[holds]), b"")
        return CacheEntry(head, [names], tokens, echoes=call.endpoint.echoes)
    items = [{name: _bytes(value) for name, value in item.items()} for item in reply[holds]]
    first = reply[holds][0]  # all have one shape
    return CacheEntry(head, items, tokens, first[field_of(first)].shape)


def ranked(results: bytes) -> list[Json]:
    """The items of a call without ``inputs``, such as the results of a ranking. ``index``, a place in its documents, is
    an int; all other values are raw JSON."""
    items: list[Json] = _items.decode(results)
    for item in items:
        if "index" in item:
            item["index"] = int(bytes(item["index"]))
    return items


def numbered(items: list[Fields]) -> list[Json]:
    """Items with their indexes in this call, which differ from those in the call that paid for them."""
    return [
        {name: place if name == "index" else msgspec.Raw(value) for name, value in item.items()}
        for place, item in enumerate(items)
    ]


def billed(usage: Json) -> int:
    """The tokens of an answer: its total_tokens, or its prompt_tokens if it has no total."""
    tokens = usage.get("total_tokens", usage.get("prompt_tokens", 0))
    return tokens if isinstance(tokens, int) else 0


def _raw(fields: Fields) -> Json:
    return {name: msgspec.Raw(value) for name, value in fields.items()}


def _bytes(value: Any) -> bytes:
    return bytes(value) if type(value) in JSON else msgspec.json.encode(value)
