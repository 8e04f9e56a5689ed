"""A call's way through the cache.

hit        all of it is at hand, at one of its targets -> the answer; no key is leased, no upstream asked
shared     the same call is under way -> its outcome
at         what is at hand at the target that is asked -> the rest goes upstream
keep       what came of it

``Cache-Control: no-store`` goes past all of this; with ``no-cache`` nothing is read, and what comes is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

import msgspec
from msgspec.structs import replace

from ..core.errors import UpstreamFailed
from ..core.types import Call, Json, Route, Target
from ..core.vectors import encoded
from ..usage.record import Record
from .digests import keys_of, part_of
from .entries import Entry, unpacked
from .memory import Memory
from .merge import Found, Outcome, Stale
from .singleflight import Begin, Flights


class Store(Protocol):
    """A tier behind the memory: values with the Unix time until which they hold.

    Its trouble is its own. Where it cannot, it reads nothing or drops what is to be written, and its log says so.
    """

    async def read(self, keys: Iterable[bytes], now: float) -> Mapping[bytes, tuple[bytes, float]]: ...

    def write(self, values: Mapping[bytes, bytes], now: float, expires: float) -> None:
        """Returns at once; the writing is done elsewhere."""

    async def aclose(self) -> None: ...


class Tiers:
    """The tiers of one cache, or of several at the same time; closed with the last of them.

    ``places`` are those of which anything was kept in memory, by upstream and model.
    """

    def __init__(self, memory: Memory, store: Store | None = None) -> None:
        self.memory = memory
        self.store = store
        self.places: set[tuple[str, str]] = set()
        self.closed = False
        self._caches = 0

    def open(self) -> None:
        self._caches += 1

    async def aclose(self) -> None:
        self._caches -= 1
        if not self._caches:
            self.closed = True
            if self.store is not None:
                await self.store.aclose()


class Cache:
    """Without ``tiers`` it is off. ``apart``: callers share nothing with each other. ``seconds``: how long
    an entry holds."""

    def __init__(
        self,
        tiers: Tiers | None = None,
        *,
        seconds: float = 0.0,
        apart: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.flights: Flights[Outcome] = Flights()
        self._tiers = tiers
        self._memory = tiers.memory if tiers else None
        self._store = tiers.store if tiers else None
        self._seconds = seconds
        self._apart = apart
        self._clock = clock
        if tiers:
            tiers.open()

    def lookup(self, record: Record, route: Route, control: bytes = b"") -> Lookup:
        """``record`` is of the call and learns what becomes of it here, ``control`` the header Cache-Control."""
        directives = {directive.strip().lower() for directive in control.split(b",")} if control else ()
        on = self._memory is not None and route.model.cached and b"no-store" not in directives
        lookup = Lookup(self, record, route, record.caller if self._apart else "")
        lookup.writes = on and record.call.endpoint.pure
        lookup.reads = lookup.writes and b"no-cache" not in directives
        return lookup

    async def read(self, keys: list[bytes], call: Call, target: Target) -> dict[bytes, Entry]:
        """The entries at hand of an answer of ``target`` to ``call``. An entry of the store that would be no right one
        is none."""
        memory, now = self._memory, self._clock()
        assert memory is not None
        found = {key: entry for key in keys if (entry := memory.get(key, now)) is not None}
        if self._store is not None and len(found) < len(keys):
            stored = await self._store.read(set(keys) - found.keys(), now)
            places = {key: place for place, key in enumerate(keys)} if stored else {}
            for key, (value, expires) in stored.items():
                if (entry := unpacked(value, part_of(call, places[key], keys), target)) is not None:
                    memory.put(key, entry, expires)
                    found[key] = entry
        return found

    def in_base64(self, keys: list[bytes], reply: Json) -> None:
        """Turns the vectors of ``reply`` into what most callers ask for: making it anew costs more than all else."""
        if self._memory is None or len(keys) != len(reply["data"]):
            return
        for key, item in zip(keys, reply["data"], strict=True):
            if "embedding" in item:
                if not (form := self._memory.form(key)):
                    form = msgspec.json.encode(encoded(bytes(item["embedding"]), "base64"))
                    self._memory.add_form(key, form)
                item["embedding"] = msgspec.Raw(form)

    def may_have(self, target: Target) -> bool:
        """True if it is worth a look: digests cost more than all else here, and most upstreams are never asked."""
        return self._store is not None or (self._tiers is not None and _place(target) in self._tiers.places)

    def write(self, entries: Mapping[bytes, Entry], target: Target | None = None) -> None:
        """``target`` has answered these."""
        now = self._clock()
        if self._tiers is not None and target is not None:
            self._tiers.places.add(_place(target))
        silent = {key: entry for key, entry in entries.items() if entry.silent}
        if self._memory is not None:
            for key, entry in silent.items():
                self._memory.put(key, entry, now + self._seconds)
        if self._store is not None and silent:
            values = {key: entry.pack() for key, entry in silent.items()}
            self._store.write(values, now, now + self._seconds)

    async def aclose(self) -> None:
        if self._tiers is not None:
            await self._tiers.aclose()


class Lookup:
    """One call. What is found at a target is looked for once."""

    __slots__ = ("_cache", "_call", "_found", "_owner", "_record", "_route", "reads", "writes")

    def __init__(self, cache: Cache, record: Record, route: Route, owner: str) -> None:
        self.reads = self.writes = False
        self._cache = cache
        self._record = record
        self._call = record.call
        self._route = route
        self._owner = owner
        self._found: dict[tuple[str, str], Found] = {}

    async def hit(self, render: Callable[[Json], bytes]) -> Outcome | None:
        """The answer, where one target's entries are enough for it; ``render`` writes it for the caller."""
        if self.reads:
            first = self._route.targets[0]
            for target in self._route.targets:
                # The first is always looked at: by its keys identical calls know each other.
                if (target is first or self._cache.may_have(target)) and (found := await self.at(target)).complete:
                    try:
                        outcome = self._rendered(found, render)
                    except UpstreamFailed:  # no one answer, or none that can be written for this caller
                        found.forget()
                        continue
                    self._record.hit = target
                    return self._free(outcome)
        return None

    def _rendered(self, found: Found, render: Callable[[Json], bytes]) -> Outcome:
        outcome = found.hit()
        if self._call.encoding == "base64":
            self._cache.in_base64(found.keys, outcome.reply)
        return replace(outcome, body=render(outcome.reply))

    def missing(self) -> tuple[int, int]:
        """The number of inputs still to be asked for, and of all inputs; (1, 1) if nothing was looked for."""
        found = next(iter(self._found.values()), None)
        return (len(found.missing), len(found.keys)) if found and found.keys else (1, 1)

    async def shared(self, begin: Begin[Outcome]) -> Outcome:
        """The outcome of ``begin``, or of an identical call that is under way. One of them gets the bill."""
        if not self.reads:
            outcome = await begin(self._record)
        else:
            keys = tuple((place, *found.keys) for place, found in self._found.items())
            outcome, billed = await self._cache.flights.join(keys, self._record, partial(_begun, begin))
            if not billed:
                return self._free(outcome.free())
        self._record.cache = outcome.state
        return outcome

    def _free(self, outcome: Outcome) -> Outcome:
        """Books the answer as one that this call did not pay for."""
        self._record.cache = outcome.state
        self._record.free = outcome.reply["usage"]
        return outcome

    async def at(self, target: Target) -> Found:
        place = _place(target)
        found = self._found.get(place)
        if found is None:
            found = self._found[place] = await self._look(target)
        return found

    def beside(self, found: Found, targets: Sequence[Target]) -> Sequence[Target]:
        """Those of ``targets`` whose vectors may be in one answer: of one space, and of one upstream with what is at
        hand. Only vectors have a space."""
        if len(targets) == 1 or not self._call.endpoint.inputs:
            return targets
        if found.entries:
            return [found.target]
        if len({target.name for target in targets}) == 1:
            return targets
        return [target for target in targets if target.space == found.target.space]

    def keep(self, found: Found, parts: Sequence[Call], answers: Sequence[tuple[Target, Json]]) -> None:
        """Keeps the answers, each part under the keys of the target that has answered it."""
        if not found.keys:
            return
        if {_place(target) for target, _ in answers} == {_place(found.target)}:
            self._cache.write(found.fresh, found.target)
            return
        for part, (target, reply) in zip(parts, answers, strict=True):
            own = Found(part, target, keys_of(part, target, self._owner), {})
            if len(own.missing) < len(own.keys):
                continue  # inputs that are the same there alone: their vectors are not told apart
            own.filled(reply, target)
            self._cache.write(own.fresh, target)

    async def _look(self, target: Target) -> Found:
        if not self.writes:
            return Found(self._call, target, [], {}, "off" if self._call.endpoint.pure else None)
        keys = keys_of(self._call, target, self._owner)
        entries = await self._cache.read(keys, self._call, target) if self.reads else {}
        return Found(self._call, target, keys, entries)


async def _begun(begin: Begin[Outcome], record: Record) -> Outcome:
    """Begins the call anew if entries at the target are stale, which happens once: nothing is at hand after that."""
    while True:
        try:
            return await begin(record)
        except Stale:
            continue


def _place(target: Target) -> tuple[str, str]:
    return target.upstream.name, target.name
