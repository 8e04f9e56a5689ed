"""Calls under way. Identical ones share one, which goes on as long as anybody waits for it.

the first    asks, and so would they alone --+
the second   waits for what comes          --+--> to each the result, to the first of them the bill
the third    waits for what comes          --+

A caller who leaves takes nothing from the others, not even the first: their task goes on for them. The last who leaves
ends it. What the bill is, is known to those who use this alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

from ..core.disconnects import CallerGone, ClientConnection

T = TypeVar("T")
W = TypeVar("W")  # what a call is to those who use this


class SingleFlight(Generic[T, W]):
    """Each by a key: equal keys, the same call."""

    def __init__(self) -> None:
        self._open: dict[Hashable, Flight[T, W]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def waiting(self) -> int:
        """The number of those who wait, for all flights together."""
        return sum(flight.connection.awaited for flight in self._open.values())

    def join(self, key: Hashable, connection: ClientConnection, call: W) -> Flight[T, W]:
        """The flight of one call, to be entered at once: it leads unless an equal one flies. None equals no other."""
        if key is None:
            return Flight(connection, call)
        leader = self._open.get(key)
        if leader is not None and leader.open:
            return Flight(connection, call, leader)
        flight = self._open[key] = Flight(connection, call)
        flight.entry = self._open, key
        return flight


class Flight(Generic[T, W]):
    """One call's part in those that are equal. Without others it is a flight all the same.

        async with flight:
            if flight.leads:
                flight.result = await ...

    ``result`` is there for each when the ``with`` has ended. The leader's error is everybody's; if the leader was ended
    from outside, the others have a TimeoutError. ``first`` is the call of the leader. ``pays``: this call has the bill;
    if its caller has left, that is the ``successor``, and the leader's ``with`` raises CallerGone in place of a result.
    """

    __slots__ = (
        *("_delivery", "_followers", "_leader"),
        *("call", "connection", "entry", "first", "pays", "result", "successor"),
    )

    result: T

    def __init__(self, connection: ClientConnection, call: W, leader: Flight[T, W] | None = None) -> None:
        self.connection = connection
        self.call = call
        self.first = call if leader is None else leader.call
        self.pays = leader is None
        self.successor: Flight[T, W] | None = None
        self.entry: tuple[dict[Hashable, Flight[T, W]], Hashable] | None = None
        self._leader = leader
        self._followers: list[Flight[T, W]] = []
        self._delivery: asyncio.Future[T] | None = None

    @property
    def leads(self) -> bool:
        return self.first is self.call

    @property
    def open(self) -> bool:
        """True if others may join; false for a flight that was given up, though it may be there still."""
        return self.connection.awaited > 0 and not self.connection.over

    async def __aenter__(self) -> None:
        """A follower waits for the result."""
        if (leader := self._leader) is None:
            return
        delivery = self._delivery = asyncio.get_running_loop().create_future()
        leader._followers.append(self)
        self.connection.follow(leader.connection)
        try:
            self.result = await delivery
        finally:
            leader._followers.remove(self)
            self._leader = None  # it may know this one, as its successor
            if delivery.done() and not delivery.cancelled():
                delivery.exception()  # else it is complained of where this one is cancelled at the same moment
            self.connection.unfollow()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self.entry is not None:
            flights, key = self.entry
            if flights.get(key) is self:
                del flights[key]
        if self._followers:
            self._deliver(error)

    def _deliver(self, error: BaseException | None) -> None:
        """The bill is for the first who is still there; for the very first where nobody is."""
        ended = error is not None and not isinstance(error, Exception)
        waiting = [(flight, flight._delivery) for flight in self._followers if flight._delivery]
        waiting = [(flight, delivery) for flight, delivery in waiting if not delivery.done()]
        if waiting and self.connection.gone and not ended:
            self.successor = waiting[0][0]
            self.pays, self.successor.pays = False, True
        for _, delivery in waiting:
            if error is None:
                delivery.set_result(self.result)
            else:
                delivery.set_exception(TimeoutError() if ended else error)
        if error is None and self.successor is not None:
            raise CallerGone
