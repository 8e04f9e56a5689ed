"""Calls under way. Identical ones share one, which goes on as long as anybody waits for it.

the first    begins it  --+
the second   joins it   --+--> one task --> to each its outcome, to the first of them the bill
the third    joins it   --+

Who leaves takes nothing from the others; the last who leaves ends it, and has the bill. The bill is the record
of what was asked of upstreams: the others' records say that none was asked for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar

from ..departures import Company
from ..meter import Record

T = TypeVar("T")
Begin = Callable[[Record], Coroutine[Any, Any, T]]


class Flight(Generic[T]):
    """``record`` is of what it asks of upstreams; it is nobody's until it is taken."""

    def __init__(self, begin: Begin[T], first: Record) -> None:
        self.company = Company()
        self.record = replace(first, presence=self.company)
        self.task = asyncio.create_task(begin(self.record))
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())  # else it is complained of
        self._billed = False

    async def wait(self, record: Record) -> tuple[T, bool]:
        """Its result and whether this one is billed for it; or its error."""
        self.company.join(record.presence)
        try:
            await asyncio.wait([self.task])
        finally:
            self.company.leave(record.presence)
            billed = self._bill(record)
            if not self.company:
                self.task.cancel()
        return self.task.result(), billed

    def _bill(self, record: Record) -> bool:
        """Whether it is for this one: the first at its end, or the last who leaves before."""
        record.target = self.record.target
        if self._billed or (self.company and not self.task.done()):
            return False
        self._billed = True
        record.take(self.record)
        return True


class Flights(Generic[T]):
    """Each by a key: equal keys, the same call."""

    def __init__(self) -> None:
        self._open: dict[Hashable, Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def waiting(self) -> int:
        """How many wait, for all of them together."""
        return sum(len(flight.company) for flight in self._open.values())

    async def join(self, key: Hashable, record: Record, begin: Begin[T]) -> tuple[T, bool, bool]:
        """The result; whether it was begun for this one; whether this one is billed."""
        flight = self._open.get(key)
        begun = flight is None or flight.company.over or not flight.company  # one that was given up may be there still
        if flight is None or begun:
            flight = self._open[key] = Flight(begin, record)
            flight.task.add_done_callback(partial(self._land, key))
        result, billed = await flight.wait(record)
        return result, begun, billed

    def _land(self, key: Hashable, task: asyncio.Task[T]) -> None:
        if (flight := self._open.get(key)) is not None and flight.task is task:
            del self._open[key]
