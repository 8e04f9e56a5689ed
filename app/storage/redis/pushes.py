"""Pushes: a replica tells the others that keys have changed, so that they look at the store at once.

A push may be lost. So a look follows each new subscription, and the polling of the store goes on behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from .connection import RedisAddress, pool
from .turns import CONNECT_SECONDS

AGAIN_SECONDS = 1.0  # after a connection was lost
ALIVE_SECONDS = 10.0  # after which a silent connection is tried


async def listen(address: RedisAddress, channel: str, heard: Callable[[], Awaitable[None]]) -> None:
    """Calls ``heard`` for each push, until it is cancelled."""
    from redis.asyncio import Redis as Client

    while True:
        client: Any = None
        try:
            client = Client.from_pool(pool(address, CONNECT_SECONDS))
            async with client.pubsub() as subscription:
                await subscription.subscribe(channel)
                await _hear(subscription, heard)
        except Exception:  # noqa: BLE001, S110 - the counters tell if Redis is away, and the store is polled
            pass
        finally:
            if client is not None:
                with suppress(Exception):
                    await client.aclose()
        await asyncio.sleep(AGAIN_SECONDS)


async def _hear(subscription: Any, heard: Callable[[], Awaitable[None]]) -> None:
    """Raises what redis-py raises, and TimeoutError if a silent connection is dead."""
    waited = 0
    while True:
        message = await subscription.get_message(timeout=ALIVE_SECONDS)
        if message is None:
            waited += 1
            if waited > 1:
                raise TimeoutError
            await asyncio.wait_for(subscription.ping(), CONNECT_SECONDS)
            continue
        waited = 0
        if message["type"] in ("subscribe", "message"):
            await heard()
