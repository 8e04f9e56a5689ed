"""A call at one target: what of it is at hand, what is left to ask for, and one answer out of both."""

from __future__ import annotations

from operator import attrgetter
from typing import Literal

import msgspec
from msgspec.structs import replace

from ..core.errors import UpstreamFailed
from ..core.types import Call, Json, Target, Value
from ..core.usage import shares
from ..core.vectors import field_of, read
from .entries import CacheEntry, billed, entry_of, numbered, ranked

State = Literal["hit", "partial", "miss", "off"]


class MergedReply(Value, frozen=True):
    """A canonical answer and where it is from.

    ``state`` is how much of it the cache had: all (hit), some (partial) or nothing (miss); None where it has no say.
    """

    hidden = ("reply",)

    target: Target
    reply: Json
    state: State | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {"x-torii-cache": self.state} if self.state else {}

    def free(self) -> MergedReply:
        """The same for one who does not pay for it."""
        usage = self.reply["usage"]
        tokens = billed(usage) + usage.get("cached_tokens", 0)
        return MergedReply(self.target, {**self.reply, "usage": _free(tokens)}, "hit")


class Stale(Exception):
    """The entries at hand do not fit the answer for the rest, and were forgotten: all of the call is to be asked
    for."""


class Partition:
    """``keys`` are those of the inputs, ``entries`` those at hand. Without keys nothing is, and nothing is kept.

    ``missing`` are the places of the inputs that are to be asked for, one of equal ones.
    """

    __slots__ = ("call", "entries", "fresh", "keys", "missing", "state", "target")

    def __init__(
        self,
        call: Call,
        target: Target,
        keys: list[bytes],
        entries: dict[bytes, CacheEntry],
        state: State | None = None,
    ) -> None:
        self.call = call
        self.target = target
        self.keys = keys
        self.entries = entries
        self.state = state
        self.missing = _missing(keys, entries)
        self.fresh: dict[bytes, CacheEntry] = {}

    @property
    def complete(self) -> bool:
        return bool(self.keys) and not self.missing

    @property
    def counts(self) -> tuple[int, int]:
        """The number of inputs still to be asked for, and of all inputs; (1, 1) if nothing was looked for."""
        return (len(self.missing), len(self.keys)) if self.keys else (1, 1)

    @property
    def rest(self) -> Call:
        """The call with what is left to ask for."""
        if len(self.missing) == len(self.keys):
            return self.call
        name = self.call.endpoint.inputs
        inputs = [self.call.body[name][place] for place in self.missing]
        return replace(self.call, body={**self.call.body, name: inputs})

    def forget(self) -> None:
        """Forgets the entries at hand: they are of no use."""
        self.entries = {}
        self.missing = _missing(self.keys, {})

    def hit(self) -> MergedReply:
        entries = [self.entries[key] for key in self.keys]
        return MergedReply(self.target, self._answer(entries, _free(sum(entry.tokens for entry in entries))), "hit")

    def filled(self, reply: Json, target: Target) -> MergedReply:
        """The answer with the ``reply`` of ``target`` to the rest in it, whose entries are ``fresh`` from then on.

        Raises Stale.
        """
        if not self.keys:
            return MergedReply(target, reply, self.state)
        self.fresh = self._entries(reply)
        if len(self.missing) == len(self.keys):
            return MergedReply(target, reply, "miss")
        asked = set(self.missing)
        entries = [self.fresh.get(key) or self.entries[key] for key in self.keys]
        cached = sum(entry.tokens for place, entry in enumerate(entries) if place not in asked)
        try:
            answer = self._answer(entries, {**reply["usage"], "cached_tokens": cached})
            if self.call.encoding == "base64":
                _write_base64(answer["data"])
        except UpstreamFailed:
            if not self.entries:
                raise
            self.forget()
            raise Stale from None
        return MergedReply(target, answer, "partial")

    def _entries(self, reply: Json) -> dict[bytes, CacheEntry]:
        whole, missing = entry_of(reply, self.call), self.missing
        if len(missing) == 1:  # one input, or the call as a whole, has all that came
            return {self.keys[missing[0]]: whole}
        lengths = [len(msgspec.json.encode(self.call.body[self.call.endpoint.inputs][place])) for place in missing]
        parts = zip(missing, whole.items, shares(whole.tokens, lengths), strict=True)
        return {self.keys[place]: CacheEntry(whole.head, [item], share, whole.shape) for place, item, share in parts}

    def _answer(self, entries: list[CacheEntry], usage: Json) -> Json:
        """One answer of all entries, in order. Raises UpstreamFailed for those that are not of one shape."""
        reply, holds = entries[0].head_with(usage), self.call.endpoint.items
        if not self.call.endpoint.inputs:
            reply[holds] = ranked(entries[0].head[holds])
            return reply
        items = [item for entry in entries for item in entry.items]
        if len(entries) > 1 and len(set(map(_shape, entries))) > 1:  # a model may have got other dimensions meanwhile
            raise UpstreamFailed("the vectors of the inputs have different sizes")
        reply[holds] = numbered(items)
        return reply


_shape = attrgetter("shape")


def _write_base64(items: list[Json]) -> None:
    """Raises UpstreamFailed for a number that is too large for it; all other encodings have every number. A vector
    keeps its numbers, for identical calls in another encoding."""
    for item in items:
        field = field_of(item)
        item[field] = vector = read(bytes(item[field]), "base64")
        vector.encoded("base64")


def _missing(keys: list[bytes], entries: dict[bytes, CacheEntry]) -> list[int]:
    return list({key: place for place, key in enumerate(keys) if key not in entries}.values())


def _free(tokens: int) -> Json:
    return {"total_tokens": 0, "cached_tokens": tokens}
