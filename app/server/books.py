"""The ledger's file for routes: asked in threads, a few at a time, never on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ..core.errors import StorageUnavailable
from ..storage.errors import StoreError
from ..storage.location import Location
from .reload import aside

T = TypeVar("T")

SECONDS = 10.0  # for an answer of the file; another program may have locked it

NO_LEDGER = "this gateway keeps no ledger, so it knows no keys, limits and usage: its operator can set ledger.path"


class LedgerReader:
    """``location`` is the ledger's place, None without a ledger. ``at_once``: the most threads that it uses."""

    def __init__(self, location: Location | None, at_once: int) -> None:
        self.location = location
        self._turn = asyncio.Semaphore(at_once)

    async def run(self, work: Callable[[Location], T]) -> T:
        """The result of ``work`` in a thread. Raises StorageUnavailable, and what ``work`` raises besides
        StoreError."""
        if self.location is None:
            error = StorageUnavailable(NO_LEDGER)
            error.retry_after, error.should_retry = None, False
            raise error
        try:
            async with asyncio.timeout(SECONDS), self._turn:
                return await aside(partial(work, self.location), SECONDS)
        except StoreError as error:
            raise StorageUnavailable(f"the ledger's file: {error}") from None
        except TimeoutError:
            raise StorageUnavailable(f"the ledger's file did not answer within {SECONDS:g} seconds") from None
