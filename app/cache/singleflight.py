"""Calls under way. Identical ones share one, which goes on as long as anybody waits for it.

the first    asks, and so would he alone --+
the second   waits for what comes        --+--> to each its outcome, to the first of them the bill
the third    waits for what comes        --+

Who leaves takes nothing from the others, not even the first: his task goes on for them. The last who leaves ends it.
The bill is the record of what was asked of upstreams: the others' records say that none was asked for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from ..core.disconnects import CallerGone
from ..usage.record import Record

T = TypeVar("T")
Begin = Callable[[Record], Awaitable[T]]


class Flight(Generic[T]):
    """``record`` is of the call that asks."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._followers: dict[asyncio.Future[T], Record] = {}
        self._billed = record

    @property
    def open(self) -> bool:
        """True if others may join; false for a flight that was given up, though it may be there still."""
        return self.record.presence.awaited > 0 and not self.record.presence.over

    async def lead(self, begin: Begin[T]) -> T:
        """The result, or its error. Raises CallerGone where the first is not there to have it."""
        try:
            result = await begin(self.record)
        except Exception as error:
            self._bill()
            for follower in self._waiting():
                follower.set_exception(error)
            raise
        except asyncio.CancelledError:
            for follower in self._waiting():
                follower.set_exception(self.record.late())
            raise
        if not self._followers:
            return result
        self._bill()
        for follower in self._waiting():
            follower.set_result(result)
        if self._billed is not self.record:
            raise CallerGone
        return result

    async def follow(self, record: Record) -> tuple[T, bool]:
        """The result and whether this one is billed for it; or its error."""
        landed: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._followers[landed] = record
        record.presence.follow(self.record.presence)
        try:
            return await landed, self._billed is record
        finally:
            del self._followers[landed]
            record.hit = self.record.target
            if landed.done() and not landed.cancelled():
                landed.exception()  # else it is complained of where this one is cancelled at the same moment
            record.presence.unfollow()

    def _bill(self) -> None:
        """For the first who is still there; for the very first where nobody is."""
        if self.record.presence.gone and (waiting := self._waiting()):
            self._billed = self._followers[waiting[0]]
            self._billed.take(self.record)

    def _waiting(self) -> list[asyncio.Future[T]]:
        return [follower for follower in self._followers if not follower.done()]


class Flights(Generic[T]):
    """Each by a key: equal keys, the same call."""

    def __init__(self) -> None:
        self._open: dict[Hashable, Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def waiting(self) -> int:
        """The number of those who wait, for all flights together."""
        return sum(flight.record.presence.awaited for flight in self._open.values())

    async def join(self, key: Hashable, record: Record, begin: Begin[T]) -> tuple[T, bool]:
        """The result, and whether this call is billed for it."""
        flight = self._open.get(key)
        if flight is not None and flight.open:
            return await flight.follow(record)
        flight = self._open[key] = Flight(record)
        try:
            return await flight.lead(begin), True
        finally:
            if self._open.get(key) is flight:
                del self._open[key]
