"""A call at one target: what of it is at hand, what is left to ask for, and one answer out of both."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec

from ..errors import UpstreamFailed
from ..types import Call, Json, Target
from ..usage import shares
from .entries import HOLDS, Entry, billed, head_of, item_of, numbered, restored

State = Literal["hit", "partial", "miss", "off"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A canonical answer and where it is from; ``body`` as it is sent, where that is written already.

    ``state`` is how much of it the cache had: all (hit), some (partial) or nothing (miss); None where it has no say.
    """

    target: Target
    reply: Json
    state: State | None = None
    body: bytes | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"x-torii-cache": self.state} if self.state else {}

    def free(self) -> Outcome:
        """The same for one who does not pay for it."""
        usage = self.reply["usage"]
        tokens = billed(usage) + usage.get("cached_tokens", 0)
        return Outcome(self.target, {**self.reply, "usage": _free(tokens)}, "hit")


@dataclass(slots=True)
class Found:
    """``keys`` are those of the inputs, ``entries`` those at hand. Without keys nothing is, and nothing is kept."""

    call: Call
    target: Target
    keys: list[bytes] = field(default_factory=list)
    entries: dict[bytes, Entry] = field(default_factory=dict)
    state: State | None = None
    fresh: dict[bytes, Entry] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return bool(self.keys) and all(key in self.entries for key in self.keys)

    @property
    def missing(self) -> list[int]:
        """The places of the inputs that are to be asked for, one of equal ones."""
        return list({key: place for place, key in enumerate(self.keys) if key not in self.entries}.values())

    @property
    def rest(self) -> Call:
        """The call with what is left to ask for."""
        missing = self.missing
        if len(missing) == len(self.keys):
            return self.call
        inputs = self.call.body["input"]
        return replace(self.call, body={**self.call.body, "input": [inputs[place] for place in missing]})

    def hit(self) -> Outcome:
        entries = [self.entries[key] for key in self.keys]
        return Outcome(self.target, self._answer(entries, _free(sum(entry.tokens for entry in entries))), "hit")

    def filled(self, reply: Json) -> Outcome:
        """The answer with the ``reply`` to the rest in it, whose entries are ``fresh`` from then on."""
        if not self.keys:
            return Outcome(self.target, reply, self.state)
        missing = self.missing
        asked = set(missing)
        self.fresh = self._entries(reply, missing)
        if len(missing) == len(self.keys):
            return Outcome(self.target, reply, "miss")
        entries = [self.fresh.get(key) or self.entries[key] for key in self.keys]
        cached = sum(entry.tokens for place, entry in enumerate(entries) if place not in asked)
        return Outcome(self.target, self._answer(entries, {**reply["usage"], "cached_tokens": cached}), "partial")

    def _entries(self, reply: Json, missing: list[int]) -> dict[bytes, Entry]:
        holds = HOLDS[self.call.endpoint]
        head, tokens = head_of(reply, holds), billed(reply["usage"])
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
        reply = entries[0].head_with(usage)
        reply[HOLDS[self.call.endpoint]] = restored(items) if len(entries) == 1 else numbered(items)
        return reply


def _free(tokens: int) -> Json:
    return {"total_tokens": 0, "cached_tokens": tokens}
