"""Entries in Redis, which several gateways may share. Redis bounds its own memory: set maxmemory and a policy there.

If Redis fails or is slow, calls bypass it for COOLDOWN_SECONDS.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import suppress
from struct import Struct
from typing import TYPE_CHECKING, Any, cast

from ..storage.redis.connection import RedisAddress, pool

if TYPE_CHECKING:
    from redis.asyncio import Redis as Connection

logger = logging.getLogger("torii.cache")

PREFIX = b"torii:cache:"
SECONDS = 0.25  # timeout of one request
COOLDOWN_SECONDS = 10.0  # for which calls bypass Redis after a failure
WAITING = 2048  # entries that may wait to be written; further ones are dropped
AT_ONCE = 256  # entries of one pipeline
EXPIRES = Struct("<d")  # in front of each value


class Redis:
    """The address may hold a password, and is never shown."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._connection: Connection | None = None
        self._cooldown_until = 0.0
        self._waiting: deque[tuple[bytes, bytes, int]] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def read(self, keys: Iterable[bytes], now: float) -> dict[bytes, tuple[bytes, float]]:
        wanted = list(keys)
        values = await self._asked(lambda redis: redis.mget([PREFIX + key for key in wanted]))
        found = {}
        for key, value in zip(wanted, values or [], strict=False):
            if value is not None and len(value) > EXPIRES.size:
                [expires] = EXPIRES.unpack_from(value)
                if expires > now:
                    found[key] = (value[EXPIRES.size :], expires)
        return found

    def write(self, values: Mapping[bytes, bytes], now: float, expires: float) -> None:
        head, milliseconds = EXPIRES.pack(expires), max(1, int((expires - now) * 1000))
        for key, value in values.items():
            if len(self._waiting) < WAITING:
                self._waiting.append((PREFIX + key, head + value, milliseconds))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def aclose(self) -> None:
        if self._writing is not None:
            await self._writing
        if self._connection is not None:
            with suppress(Exception):
                await self._connection.aclose()

    async def _write(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
            await self._asked(lambda redis, batch=batch: _stored(redis, batch))

    async def _asked(self, ask: Any) -> Any:
        """The answer; None if Redis fails, and during the cooldown after a failure."""
        if time.monotonic() < self._cooldown_until:
            return None
        try:
            if self._connection is None:
                self._connection = _connection(self._address)
            async with asyncio.timeout(SECONDS):
                return await cast("Awaitable[Any]", ask(self._connection))
        except Exception as error:  # noqa: BLE001 - no error of the cache may fail a call
            self._cooldown_until = time.monotonic() + COOLDOWN_SECONDS
            # The error's text may hold the URL, and so the password.
            logger.warning(
                "Redis did not answer (%s); calls bypass Redis for %g seconds", type(error).__name__, COOLDOWN_SECONDS
            )
            return None


def _connection(address: RedisAddress) -> Connection:
    from redis.asyncio import Redis as Connection

    return Connection.from_pool(pool(address, SECONDS, SECONDS))


async def _stored(redis: Connection, batch: list[tuple[bytes, bytes, int]]) -> None:
    async with redis.pipeline(transaction=False) as pipeline:
        for key, value, milliseconds in batch:
            pipeline.set(key, value, px=milliseconds)
        await pipeline.execute()
