"""The wait of calls for others to settle."""

from __future__ import annotations

import asyncio


class Settlements:
    """Wakes the calls of a process that wait for others to settle."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def __call__(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def next(self, seconds: float) -> None:
        """Returns after the next settlement, or after ``seconds``."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=seconds)
        finally:
            self._waiting.discard(waiter)
            waiter.cancel()
