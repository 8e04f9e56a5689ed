"""One of several replicas: it keeps its lease in Redis, and tells and hears changes of keys."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from ..callers.registry import Registry
from ..config.settings import Settings
from ..gateway.build import redis_address
from ..storage.ledger_file import LedgerFile
from ..storage.redis.connection import RedisAddress
from ..storage.redis.counters import SharedCounters
from ..storage.redis.pushes import listen


class Pushes:
    """A change of keys that is made here is told to all replicas; one that is told is read at once."""

    def __init__(self, address: RedisAddress, registry: Registry, counters: SharedCounters) -> None:
        self._address, self._registry, self._counters = address, registry, counters
        self._listening: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._counters.start()
        self._registry.push = self._push
        self._listening = self._loop.create_task(listen(self._address, self._counters.channel, self._registry.look))

    async def stop(self) -> None:
        """Hears no more. The counters serve on, for the calls that end now."""
        self._registry.push = None
        if self._listening is not None:
            self._listening.cancel()
            with suppress(asyncio.CancelledError):
                await self._listening

    def _push(self) -> None:
        """For any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._counters.publish)


def build_counters(settings: Settings, file: LedgerFile | None) -> SharedCounters | None:
    """The counters that replicas share; None without a Redis. ``file`` remembers whether they were begun."""
    address = redis_address(settings, settings.counters.url)
    if address is None:
        return None
    return SharedCounters(
        address,
        settings.counters.prefix,
        remembered=file.remembered() if file else {},
        remember=file.remember if file else None,
        workers=settings.workers,
    )


def build_pushes(settings: Settings, registry: Registry, counters: SharedCounters | None) -> Pushes | None:
    address = redis_address(settings, settings.counters.url)
    return Pushes(address, registry, counters) if address and counters else None
