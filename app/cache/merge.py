"""A call at one target: its cached entries, its missing inputs, and one answer made of both."""

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
    """A canonical answer and the target that gave it.

    ``state`` is how much of the answer was cached: all (hit), some (partial) or nothing (miss); off if the cache was
    bypassed; None for a call that the cache does not handle.
    """

    hidden = ("reply",)

    target: Target
    reply: Json
    state: State | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {"x-torii-cache": self.state} if self.state else {}

    @property
    def cached_tokens(self) -> int:
        """The cost of the cached part, had it not been cached."""
        tokens: int = self.reply["usage"].get("cached_tokens", 0) if self.state in ("hit", "partial") else 0
        return tokens

    def free(self) -> MergedReply:
        """The same answer for a call that does not pay: a hit with 0 tokens, the paid ones as cached_tokens."""
        usage = self.reply["usage"]
        tokens = billed(usage) + usage.get("cached_tokens", 0)
        return MergedReply(self.target, {**self.reply, "usage": _free(tokens)}, "hit")


class Stale(UpstreamFailed):
    """The cached entries do not fit the new answer, and were dropped: the whole call has to be asked again."""

    def __init__(self) -> None:
        super().__init__("the cached part of the answer does not fit the new part")


class Partition:
    """A call's cached and missing inputs at one target.

    ``keys`` are those of the inputs, ``entries`` the cached ones by key; without keys nothing is read or stored.
    ``missing`` are the places of the inputs to ask for, one for several equal inputs. ``filled`` sets ``fresh``, the
    entries of the new answer.
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
        """The numbers of inputs to ask for and of all inputs; (1, 1) if nothing was looked up."""
        return (len(self.missing), len(self.keys)) if self.keys else (1, 1)

    @property
    def rest(self) -> Call:
        """The call with only the missing inputs."""
        if len(self.missing) == len(self.keys):
            return self.call
        name = self.call.endpoint.inputs
        inputs = [self.call.body[name][place] for place in self.missing]
        return replace(self.call, body={**self.call.body, name: inputs})

    def forget(self) -> None:
        """Drops the cached entries, because they cannot be used."""
        self.entries = {}
        self.missing = _missing(self.keys, {})

    def hit(self) -> MergedReply:
        """The answer from cached entries alone. Raises UpstreamFailed if their vectors differ in shape."""
        entries = [self.entries[key] for key in self.keys]
        return MergedReply(self.target, self._answer(entries, _free(sum(entry.tokens for entry in entries))), "hit")

    def filled(self, reply: Json, target: Target) -> MergedReply:
        """The whole answer, from the cached entries and the ``reply`` of ``target`` to ``rest``.

        Raises Stale if these do not fit together, UpstreamFailed if the reply alone has an error.
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
        if len(missing) == 1:  # one input, or the call as a whole: the answer is one entry
            return {self.keys[missing[0]]: whole}
        lengths = [len(msgspec.json.encode(self.call.body[self.call.endpoint.inputs][place])) for place in missing]
        parts = zip(missing, whole.items, shares(whole.tokens, lengths), strict=True)
        return {self.keys[place]: CacheEntry(whole.head, [item], share, whole.shape) for place, item, share in parts}

    def _answer(self, entries: list[CacheEntry], usage: Json) -> Json:
        """One answer of all entries, in order. Raises UpstreamFailed if their vectors differ in shape."""
        reply, holds = entries[0].head_with(usage), self.call.endpoint.items
        if not holds:
            return reply
        if not self.call.endpoint.inputs:
            reply[holds] = ranked(entries[0].head[holds])
            return reply
        items = [item for entry in entries for item in entry.items]
        if len(entries) > 1 and len(set(map(_shape, entries))) > 1:  # the model's dimensions may have changed
            raise UpstreamFailed("the vectors of the inputs have different sizes")
        reply[holds] = numbered(items)
        return reply


_shape = attrgetter("shape")


def _write_base64(items: list[Json]) -> None:
    """Encodes in place. Raises UpstreamFailed for a number that is too large for base64's float32. A vector keeps its
    numbers, for identical calls in another encoding."""
    for item in items:
        field = field_of(item)
        item[field] = vector = read(bytes(item[field]), "base64")
        vector.encoded("base64")


def _missing(keys: list[bytes], entries: dict[bytes, CacheEntry]) -> list[int]:
    if not keys:
        return []
    return list({key: place for place, key in enumerate(keys) if key not in entries}.values())


def _free(tokens: int) -> Json:
    return {"total_tokens": 0, "cached_tokens": tokens}
