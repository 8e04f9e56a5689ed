"""Counts what a client asks of a server, in round trips: a pipeline that is sent together is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Meter:
    """``trips``: how often a client sent something after it had an answer, thus waited for another one. ``locks``:
    how often PostgreSQL was asked for the lock of those that write."""

    target: int
    port: int = 0
    trips: int = 0
    locks: int = 0
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self._pass(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the end of a process, or of the meter
        finally:
            self.tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        answered = True

        async def requests() -> None:
            nonlocal answered
            while data := await reader.read(2**16):
                self.trips += answered
                self.locks += data.count(b"pg_advisory_xact_lock")
                answered = False
                to_server.write(data)

        async def replies() -> None:
            nonlocal answered
            while data := await from_server.read(2**16):
                answered = True
                writer.write(data)

        pumps = [asyncio.ensure_future(requests()), asyncio.ensure_future(replies())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for each in (writer, to_server):
                with suppress(OSError, RuntimeError):
                    each.close()


@asynccontextmanager
async def meter(target: int) -> AsyncIterator[Meter]:
    """One before the server on that port of this machine."""
    found = Meter(target)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        for task in [*found.tasks]:
            task.cancel()
        await asyncio.gather(*found.tasks, return_exceptions=True)
