"""Single-flight: identical calls under way share one upstream call, which goes on while any caller waits for it.

the first    asks, as it would alone --+
the second   waits for the result    --+--> the result for each of them, the bill for the first
the third    waits for the result    --+

A caller that leaves does not affect the others, even if it was the first: its task goes on for them, and it keeps the
bill. The call ends when the last caller leaves. An error that concerns the first caller alone, such as a refusal by
their own limits, is not shared: the next one leads. This module does not know what the bill is; its users do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

from ..core.disconnects import CallerGone, ClientConnection
from ..core.errors import ToriiError

T = TypeVar("T")
W = TypeVar("W")  # the user's own object for a call


class NotShared(Exception):
    """The leader failed for a reason of its own: a follower has to join again, and may lead."""


class SingleFlight(Generic[T, W]):
    """The calls under way, by key. Equal keys mean identical calls."""

    def __init__(self) -> None:
        self._open: dict[Hashable, Flight[T, W]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def waiting(self) -> int:
        """The number of callers that wait, in all flights together."""
        return sum(flight.connection.awaited for flight in self._open.values())

    def under_way(self, key: Hashable) -> bool:
        """True if a call with this key would follow another one."""
        leader = self._open.get(key)
        return leader is not None and leader.open

    def join(self, key: Hashable, connection: ClientConnection, call: W) -> Flight[T, W]:
        """The flight of one call, to be entered at once. It leads unless an equal key is under way."""
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

    Each call has the ``result`` when its ``with`` has ended. The leader's error is raised for all calls; the others get
    NotShared if the error is the leader's own, TimeoutError if the leader was cancelled from outside. ``first`` is the
    leader's call, which has the bill. If the leader's caller has left, the leader's ``with`` raises CallerGone.
    """

    __slots__ = (
        *("_delivery", "_followers", "_leader"),
        *("call", "connection", "entry", "first", "result"),
    )

    result: T

    def __init__(self, connection: ClientConnection, call: W, leader: Flight[T, W] | None = None) -> None:
        self.connection = connection
        self.call = call
        self.first = call if leader is None else leader.call
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
            if error is None and self.connection.gone:
                raise CallerGone

    def _deliver(self, error: BaseException | None) -> None:
        """Gives the followers the result or the error."""
        for flight in self._followers:
            delivery = flight._delivery
            if delivery is None or delivery.done():
                continue
            if error is None:
                delivery.set_result(self.result)
            elif not isinstance(error, Exception):
                delivery.set_exception(TimeoutError())
            else:
                delivery.set_exception(NotShared() if isinstance(error, ToriiError) and error.own else error)
