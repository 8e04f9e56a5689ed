"""A call at one target: what of it is at hand, what is left to ask for, and one answer out of both."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec.structs import replace

from ..errors import UpstreamFailed
from ..types import Call, Json, Target, Value
from ..usage import shares
from .entries import HOLDS, Entry, billed, head_of, item_of, names_of, numbered, ranked

State = Literal["hit", "partial", "miss", "off"]


class Outcome(Value, frozen=True):
    """A canonical answer and where it is from; ``body`` as it is sent, where that is written already.

    ``state`` is how much of it the cache had: all (hit), some (partial) or nothing (miss); None where it has no say.
    """

    hidden = ("reply", "body")

    target: Target
    reply: Json
    state: State | None = None
    body: bytes | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {"x-torii-cache": self.state} if self.state else {}

    def free(self) -> Outcome:
        """The same for one who does not pay for it."""
        usage = self.reply["usage"]
        tokens = billed(usage) + usage.get("cached_tokens", 0)
        return Outcome(self.target, {**self.reply, "usage": _free(tokens)}, "hit")


class Found:
    """``keys`` are those of the inputs, ``entries`` those at hand. Without keys nothing is, and nothing is kept.

    ``missing`` are the places of the inputs that are to be asked for, one of equal ones.
    """

    __slots__ = ("call", "entries", "fresh", "keys", "missing", "state", "target")

    def __init__(
        self, call: Call, target: Target, keys: list[bytes], entries: dict[bytes, Entry], state: State | None = None
    ) -> None:
        self.call = call
        self.target = target
        self.keys = keys
        self.entries = entries
        self.state = state
        self.missing = _missing(keys, entries)
        self.fresh: dict[bytes, Entry] = {}

    @property
    def complete(self) -> bool:
        return bool(self.keys) and not self.missing

    @property
    def rest(self) -> Call:
        """The call with what is left to ask for."""
        if len(self.missing) == len(self.keys):
            return self.call
        inputs = self.call.body["input"]
        return replace(self.call, body={**self.call.body, "input": [inputs[place] for place in self.missing]})

    def forget(self) -> None:
        """What is at hand is of no use."""
        self.entries = {}
        self.missing = _missing(self.keys, {})

    def hit(self) -> Outcome:
        entries = [self.entries[key] for key in self.keys]
        return Outcome(self.target, self._answer(entries, _free(sum(entry.tokens for entry in entries))), "hit")

    def filled(self, reply: Json, target: Target) -> Outcome:
        """The answer with the ``reply`` of ``target`` to the rest in it, whose entries are ``fresh`` from then on."""
        if not self.keys:
            return Outcome(target, reply, self.state)
        self.fresh = self._entries(reply, self.missing)
        if len(self.missing) == len(self.keys):
            return Outcome(target, reply, "miss")
        asked = set(self.missing)
        entries = [self.fresh.get(key) or self.entries[key] for key in self.keys]
        cached = sum(entry.tokens for place, entry in enumerate(entries) if place not in asked)
        return Outcome(target, self._answer(entries, {**reply["usage"], "cached_tokens": cached}), "partial")

    def _entries(self, reply: Json, missing: list[int]) -> dict[bytes, Entry]:
        holds = HOLDS[self.call.endpoint]
        head, tokens = head_of(reply, holds), billed(reply["usage"])
        if holds == "results":
            head[holds] = msgspec.json.encode(reply[holds])
            items = [names_of(reply[holds])]
        else:
            items = [item_of(item) for item in reply[holds]]
        if len(missing) == 1:  # one input, or the call as a whole, has all that came
            return {self.keys[missing[0]]: Entry(head, items, tokens)}
        lengths = [len(msgspec.json.encode(self.call.body["input"][place])) for place in missing]
        parts = zip(missing, items, shares(tokens, lengths), strict=True)
        return {self.keys[place]: Entry(head, [item], share) for place, item, share in parts}

    def _answer(self, entries: list[Entry], usage: Json) -> Json:
        """One answer of all entries, in order."""
        items = [item for entry in entries for item in entry.items]
        if len(entries) > 1 and len(items) != len(entries):
            raise UpstreamFailed(f"{len(entries)} inputs were answered with {len(items)} vectors")
        reply, holds = entries[0].head_with(usage), HOLDS[self.call.endpoint]
        reply[holds] = ranked(entries[0]) if holds == "results" else numbered(items)
        return reply


def _missing(keys: list[bytes], entries: dict[bytes, Entry]) -> list[int]:
    return list({key: place for place, key in enumerate(keys) if key not in entries}.values())


def _free(tokens: int) -> Json:
    return {"total_tokens": 0, "cached_tokens": tokens}
