"""Single-flight: identical calls under way share one upstream call, which goes on while any caller waits for it.

the first    asks, as it would alone --+
the second   waits for the result    --+--> the result for each of them, the bill for the first
the third    waits for the result    --+

A caller that leaves does not affect the others, even if it was the first: its task goes on for them. The call ends when
the last caller leaves. This module does not know what the bill is; its users do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

from ..core.disconnects import CallerGone, ClientConnection

T = TypeVar("T")
W = TypeVar("W")  # the user's own object for a call


class SingleFlight(Generic[T, W]):
    """The calls under way, by key. Equal keys mean identical calls."""

    def __init__(self) -> None:
        self._open: dict[Hashable, Flight[T, W]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def waiting(self) -> int:
        """The number of callers that wait, in all flights together."""
        return sum(flight.connection.awaited for flight in self._open.values())

    def join(self, key: Hashable, connection: ClientConnection, call: W) -> Flight[T, W]:
        """The flight of one call, to be entered at once. It leads unless an equal key is under way; None equals no
        key."""
        if key is None:
            return Flight(connection, call)
        leader = self._open.get(key)
        if leader is not None and leader.open:
            return Flight(connection, call, leader)
        flight = self._open[key] = Flight(connection, call)
        flight.entry = self._open, key
        return flight


class Flight(Generic[T, W]):
    """One call among identical ones. A call without others is a flight too.

        async with flight:
            if flight.leads:
                flight.result = await ...

    Each call has the ``result`` when its ``with`` has ended. The leader's error is raised for all calls; if the leader
    was cancelled from outside, the others get TimeoutError. ``first`` is the leader's call. ``pays``: this call has the
    bill. If the leader's caller has left, the ``successor`` has the bill, and the leader's ``with`` raises CallerGone.
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
        """True if others may join; False for a flight that was given up, even if it has not ended yet."""
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
            self._leader = None  # it may refer to this flight as its successor: a cycle
            if delivery.done() and not delivery.cancelled():
                delivery.exception()  # retrieved, or asyncio logs it if this task is cancelled at the same moment
            self.connection.unfollow()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self.entry is not None:
            flights, key = self.entry
            if flights.get(key) is self:
                del flights[key]
        if self._followers:
            self._deliver(error)

    def _deliver(self, error: BaseException | None) -> None:
        """Gives the followers the result or the error. If the leader's caller has left, the bill is for the first
        follower that still waits; else it stays the leader's."""
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
