"""The steps of one call through the cache.

hit        the answer, if all of it is cached for one target: no key is leased, no upstream asked
key        the key of the single-flight that identical calls share
at         the cached entries for the target that is asked; the rest goes upstream
keep       stores the entries of the answer

``Cache-Control: no-store`` bypasses the cache. With ``no-cache`` nothing is read, and the answer is stored.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from typing import Protocol

import msgspec

from ..core.errors import UpstreamFailed
from ..core.types import Call, Json, Route, Target
from ..core.vectors import encoded
from ..core.web import WebCall
from .digests import keys_of, part_of
from .entries import CacheEntry, unpacked
from .memory import Memory
from .merge import MergedReply, Partition


class Store(Protocol):
    """A tier behind the memory: values with the Unix times at which they expire.

    A store never raises. If it fails, it reads nothing or drops the writes, and logs that.
    """

    async def read(self, keys: Iterable[bytes], now: float) -> Mapping[bytes, tuple[bytes, float]]: ...

    def write(self, values: Mapping[bytes, bytes], now: float, expires: float) -> None:
        """Returns at once; the values are written in the background."""

    async def aclose(self) -> None: ...


class Tiers:
    """The tiers of one cache, or of several during a reload; closed with the last of these.

    ``places`` has the upstream and the model of each target whose answers were stored.
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
    """The cache over ``tiers``; off without them. ``seconds`` is the lifetime of an entry. ``per_caller``: callers
    share no entries. ``clock`` tells Unix time."""

    def __init__(
        self,
        tiers: Tiers | None = None,
        *,
        seconds: float = 0.0,
        per_caller: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tiers = tiers
        self._memory = tiers.memory if tiers else None
        self._store = tiers.store if tiers else None
        self._seconds = seconds
        self._per_caller = per_caller
        self._clock = clock
        if tiers:
            tiers.open()

    def lookup(self, call: Call, route: Route, owner: tuple[str, bool], control: bytes = b"") -> Lookup:
        """The lookup of a call. ``owner`` is the caller, and whether they share no entries. ``control`` is the value of
        the call's Cache-Control header."""
        directives = {directive.strip().lower() for directive in control.split(b",")} if control else ()
        pure = call.endpoint.pure
        on = pure and self._memory is not None and route.model.cached and b"no-store" not in directives
        caller, private = owner
        lookup = Lookup(self, call, route, caller if private or self._per_caller else "")
        lookup.pure = pure
        lookup.writes = on
        fresh = isinstance(call, WebCall) and call.fresh
        lookup.reads = on and not fresh and b"no-cache" not in directives
        return lookup

    def in_memory(self, keys: list[bytes]) -> dict[bytes, CacheEntry]:
        """The entries in the memory of this process, by key."""
        memory, now = self._memory, self._clock()
        assert memory is not None
        return {key: entry for key in keys if (entry := memory.get(key, now)) is not None}

    async def in_store(
        self, keys: list[bytes], missing: Set[bytes], call: Call, target: Target
    ) -> dict[bytes, CacheEntry]:
        """The entries in the store that are valid answers of ``target`` to ``call``; copied into the memory."""
        memory, store, now = self._memory, self._store, self._clock()
        assert memory is not None
        assert store is not None
        found: dict[bytes, CacheEntry] = {}
        stored = await store.read(missing, now)
        places = {key: place for place, key in enumerate(keys)} if stored else {}
        for key, (value, expires) in stored.items():
            if (entry := unpacked(value, part_of(call, places[key], keys), target)) is not None:
                memory.put(key, entry, expires)
                found[key] = entry
        return found

    @property
    def stored(self) -> bool:
        """True if there is a store behind the memory."""
        return self._store is not None

    def in_base64(self, keys: list[bytes], reply: Json) -> None:
        """Replaces the vectors of ``reply`` by their base64 form, which most callers ask for. The form is kept in
        memory: making it costs more than all other work on a hit."""
        if self._memory is None or len(keys) != len(reply["data"]):
            return
        for key, item in zip(keys, reply["data"], strict=True):
            if "embedding" in item:
                if not (form := self._memory.form(key)):
                    form = msgspec.json.encode(encoded(bytes(item["embedding"]), "base64"))
                    self._memory.add_form(key, form)
                item["embedding"] = msgspec.Raw(form)

    def may_have(self, target: Target) -> bool:
        """True if ``target`` is worth a lookup: digests cost the most here, and most upstreams are never asked."""
        return self._store is not None or (self._tiers is not None and _place(target) in self._tiers.places)

    def write(
        self, entries: Mapping[bytes, CacheEntry], target: Target | None = None, seconds: float = math.inf
    ) -> None:
        """Stores entries in the memory and the store, for at most ``seconds``. ``target`` is the one that answered."""
        now = self._clock()
        if self._tiers is not None and target is not None:
            self._tiers.places.add(_place(target))
        lifetime = min(self._seconds, seconds)
        storable = {key: entry for key, entry in entries.items() if entry.storable}
        if self._memory is not None:
            for key, entry in storable.items():
                self._memory.put(key, entry, now + lifetime)
        values = {key: entry.pack() for key, entry in storable.items() if not entry.echoes}
        if self._store is not None and values:
            self._store.write(values, now, now + lifetime)

    async def aclose(self) -> None:
        if self._tiers is not None:
            await self._tiers.aclose()


class Lookup:
    """The lookup of one call. A target is looked up only once. ``pure``: equal calls have equal answers. ``reads`` and
    ``writes`` tell whether entries may be read and stored."""

    __slots__ = ("_cache", "_call", "_found", "_owner", "_route", "pure", "reads", "writes")

    def __init__(self, cache: Cache, call: Call, route: Route, owner: str) -> None:
        self.pure = self.reads = self.writes = False
        self._cache = cache
        self._call = call
        self._route = route
        self._owner = owner
        self._found: dict[tuple[str, str], Partition] = {}

    async def hit(self) -> MergedReply | None:
        """The cached answer, if the entries of one target are enough for it."""
        first = self._route.targets[0]
        for target in self._route.targets:
            # The first target is always looked up: its keys tell single-flight which calls are identical.
            if (target is first or self._cache.may_have(target)) and (found := await self.at(target)).complete:
                try:
                    outcome = found.hit()
                    if self._call.encoding == "base64":
                        self._cache.in_base64(found.keys, outcome.reply)
                except UpstreamFailed:  # the entries give no single answer, or none in this encoding
                    found.forget()
                else:
                    return outcome
        return None

    def forget(self, outcome: MergedReply) -> None:
        """Drops the entries of a hit from this lookup, because they cannot be rendered for this caller."""
        self._found[_place(outcome.target)].forget()

    @property
    def key(self) -> Hashable:
        """The single-flight key, equal for identical calls, known after ``hit``. None for a call that shares
        nothing."""
        return tuple((place, *found.keys) for place, found in self._found.items()) if self.reads else None

    async def at(self, target: Target) -> Partition:
        """The call's cached entries and missing inputs at ``target``."""
        place = _place(target)
        found = self._found.get(place)
        if found is not None:
            return found
        if not self.writes:
            found = Partition(self._call, target, [], {}, "off" if self.pure else None)
        else:
            keys, cache = keys_of(self._call, target, self._owner), self._cache
            entries = cache.in_memory(keys) if self.reads else {}
            stored = cache.stored and not self._call.endpoint.echoes
            if self.reads and stored and len(entries) < len(keys):
                entries |= await cache.in_store(keys, set(keys) - entries.keys(), self._call, target)
            found = Partition(self._call, target, keys, entries)
        self._found[place] = found
        return found

    def compatible(self, found: Partition, targets: Sequence[Target]) -> Sequence[Target]:
        """The targets whose vectors may be in one answer: only ``found.target`` if it has cached entries, else those of
        its vector space. Answers without vectors have no such limit."""
        if len(targets) == 1 or not self._call.endpoint.inputs:
            return targets
        if found.entries:
            return [found.target]
        if len({target.name for target in targets}) == 1:
            return targets
        return [target for target in targets if target.space == found.target.space]

    def keep(self, found: Partition, parts: Sequence[Call], answers: Sequence[tuple[Target, Json]]) -> None:
        """Stores the answers, each part under the keys of the target that answered it."""
        if not found.keys:
            return
        seconds = self._call.keeps if isinstance(self._call, WebCall) else math.inf
        if {_place(target) for target, _ in answers} == {_place(found.target)}:
            self._cache.write(found.fresh, found.target, seconds)
            return
        for part, (target, reply) in zip(parts, answers, strict=True):
            own = Partition(part, target, keys_of(part, target, self._owner), {})
            if len(own.missing) < len(own.keys):
                continue  # inputs with equal keys at this target only: their vectors cannot be assigned
            own.filled(reply, target)
            self._cache.write(own.fresh, target, seconds)


def _place(target: Target) -> tuple[str, str]:
    return target.upstream.name, target.name
