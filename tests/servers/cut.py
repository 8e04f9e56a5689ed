"""The network between a client and a server, in the hands of a test."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakSet

T = TypeVar("T")
NOW = struct.pack("ii", 1, 0)  # SO_LINGER: what is closed sends a reset


class Thread:
    """An event loop in a thread of its own, and a listener on it: a test may block its own loop meanwhile."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.tasks: set[asyncio.Task[Any]] = set()
        self.writers: WeakSet[asyncio.StreamWriter] = WeakSet()
        self.thread.start()
        self.server = self.run(lambda: asyncio.start_server(self.accept, "127.0.0.1", 0, ssl=tls, backlog=1024))
        self.port: int = self.server.sockets[0].getsockname()[1]

    def run(self, act: Callable[[], Awaitable[T]]) -> T:
        async def awaited() -> T:
            return await act()

        return asyncio.run_coroutine_threadsafe(awaited(), self.loop).result(30)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.writers.add(writer)
        try:
            await self.serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self.tasks.discard(task)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    async def connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Finished also if the task is cancelled meanwhile, so that ``end`` knows each connection."""
        opening = asyncio.ensure_future(asyncio.open_connection("127.0.0.1", port))
        try:
            both = await asyncio.shield(opening)
        except asyncio.CancelledError:
            with suppress(OSError):
                (await opening)[1].close()
            raise
        self.writers.add(both[1])
        return both

    async def end(self) -> None:
        self.server.close()
        for _ in range(3):  # a connection that was accepted in this turn starts its task in the next ones
            await asyncio.sleep(0)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks)
        for writer in list(self.writers):
            writer.close()
            writer.transport.abort()
        for _ in range(3):  # turns of the loop in which the transports close
            await asyncio.sleep(0)

    def close(self) -> None:
        self.run(self.end)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Cut(Thread):
    """Passes bytes between clients of ``port`` and the server at ``target``, and fails as a network does.

    ``tls`` is the context with which clients are answered; the server is spoken to in plain text.
    """

    def __init__(self, target: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self.accepted = 0
        self.delay_seconds = 0.0
        self.open = {"requests": asyncio.Event(), "answers": asyncio.Event()}
        for each in self.open.values():
            each.set()
        super().__init__(tls)

    def cut(self, *, requests: bool = True, answers: bool = True) -> None:
        """Nothing passes, and both sides still see an open connection; a new one is taken, and silent too.

        What was sent arrives when the cut is healed, as TCP sends it again. One direction alone may be cut.
        """
        self.run(lambda: self._set(requests=requests, answers=answers))

    def heal(self) -> None:
        self.delay_seconds = 0.0
        self.run(lambda: self._set(requests=False, answers=False))

    async def _set(self, **closed: bool) -> None:
        for name, shut in closed.items():
            if shut:
                self.open[name].clear()
            else:
                self.open[name].set()

    def delay(self, seconds: float) -> None:
        """Each piece of data takes as long in either direction, until ``heal``."""
        self.delay_seconds = seconds

    def reset(self) -> None:
        """Both sides of all connections get a reset; new ones are served."""
        self.run(self._reset)

    async def _reset(self) -> None:
        for writer in list(self.writers):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NOW)
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        await self.open["requests"].wait()
        from_server, to_server = await self.connect(self.target)
        pumps = [
            asyncio.ensure_future(self.pump("requests", reader, to_server)),
            asyncio.ensure_future(self.pump("answers", from_server, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            to_server.close()  # before the wait, in which ``end`` may cancel this task
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def pump(self, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            await self.open[direction].wait()
            writer.write(data)
            await writer.drain()
        await self.open[direction].wait()  # a closed connection is not seen through the cut
