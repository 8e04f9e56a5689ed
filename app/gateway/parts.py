"""Large calls: the parts of one at the same time, and all of them beside the small ones.

The later parts wait for their keys as long as the call may take, and one at a time, so that a large call does not stand
in the small ones' way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, TypeVar

from ..core.disconnects import CallerGone

T = TypeVar("T")

PARTS_AT_ONCE = 8  # of one call


class Parts:
    """``later``: so many later parts of all calls are at work at once, so that they leave connections to the others."""

    def __init__(self, later: int = 1000) -> None:
        self._later = asyncio.Semaphore(later)

    async def gather(self, parts: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """The results of all parts of a call, in order. The first part that fails ends the others.

        Parts that nobody wants any more are not asked for; those at work come to their end, and then CallerGone is
        raised.

        No TaskGroup: Python 3.11's leaves the task in which a part failed marked as one that is being cancelled, and a
        deadline that rings in a later attempt takes its own cancellation for another's.
        """
        room = asyncio.Semaphore(PARTS_AT_ONCE)
        first, *later = parts
        tasks = [
            asyncio.create_task(_in(room, first)),
            *[asyncio.create_task(self._late(room, part)) for part in later],
        ]
        try:
            results = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            raise
        finally:
            for part in parts:
                if getcoroutinestate(part) == CORO_CREATED:  # one that has begun may still be ending
                    part.close()
        if any(isinstance(result, CallerGone) for result in results):
            raise CallerGone
        return [result for result in results if not isinstance(result, CallerGone)]

    async def _late(self, room: asyncio.Semaphore, part: Coroutine[Any, Any, T]) -> T | CallerGone:
        async with room, self._later:
            return await _ended(part)


async def _in(room: asyncio.Semaphore, part: Coroutine[Any, Any, T]) -> T | CallerGone:
    async with room:
        return await _ended(part)


async def _ended(part: Coroutine[Any, Any, T]) -> T | CallerGone:
    try:
        return await part
    except CallerGone as gone:
        return gone
