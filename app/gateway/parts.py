"""The parts of large calls, sent in parallel and beside the small calls.

Later parts may wait for keys as long as the whole call may take, but one at a time, so that a large call does not hold
up small ones.
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
    """``later`` is how many later parts of all calls may be at work at once, so that connections are left for other
    calls; 1000 by default."""

    def __init__(self, later: int = 1000) -> None:
        self._later = asyncio.Semaphore(later)

    async def gather(self, parts: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """The results of all parts of a call, in order. The first part that fails cancels the others.

        If nobody wants the answer any more, parts that wait are not sent, those at work come to their end, and then
        CallerGone is raised.

        No TaskGroup: after a part has failed, Python 3.11's leaves this task marked as being cancelled, and a deadline
        that expires in a later attempt takes its own cancellation for another's.
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
                if getcoroutinestate(part) == CORO_CREATED:  # a part that has begun may still be ending
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
