"""A real redis-server of a test: on a socket in a folder, without persistence."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

from ...conftest import LOOK_SECONDS, PATIENCE, until
from ...servers import redis_binaries
from ...servers.process import free_port

__all__ = ["RedisServer", "free_port", "redis_server", "soon"]


class RedisServer:
    """``url`` leads to the socket. ``options`` are those of its command line."""

    def __init__(self, folder: Path, *options: str, port: int = 0) -> None:
        folder.mkdir(exist_ok=True)
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.port = port
        words = ["--port", str(port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket)]
        words += ["--save", "", "--dir", str(folder), *options]
        lines = " ".join(word or "''" for word in words).removeprefix("--").replace(" --", "\n")
        configuration = folder / "redis.conf"
        configuration.write_text(f"{lines}\n")
        self._command = [str(next(iter(redis_binaries().values()))), str(configuration)]
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        await until(self._answers)

    def _answers(self) -> bool:
        with closing(socket.socket(socket.AF_UNIX)) as sock:
            try:
                sock.connect(str(self.socket))
                sock.sendall(b"PING\r\n")
                return sock.recv(100)[:1] in (b"+", b"-")
            except OSError:
                return False

    def send(self, sig: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(sig)

    def stop(self) -> None:
        """Ends it, even if it was stopped by a signal."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def run(self, *words: str | bytes | int) -> Any:
        """The answer to a command. Raises what redis-py raises."""
        from redis.asyncio import Redis

        client = Redis.from_url(self.url, protocol=2)
        try:
            return await client.execute_command(*words)  # type: ignore[no-untyped-call]  # has no types
        finally:
            await client.aclose()

    async def count(self, command: str) -> int:
        """How often it was called."""
        stats = await self.run("INFO", "commandstats")
        return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


@asynccontextmanager
async def redis_server(folder: Path, *options: str, port: int = 0) -> AsyncIterator[RedisServer]:
    server = RedisServer(folder, *options, port=port)
    try:
        await server.start()
        yield server
    finally:
        with suppress(ProcessLookupError):
            server.stop()


async def soon(look: Callable[[], Awaitable[object]]) -> None:
    """Returns once the coroutine function gives a true value. Raises TimeoutError as ``until`` does."""
    for _ in range(round(PATIENCE / LOOK_SECONDS)):
        if await look():
            return
        await asyncio.sleep(LOOK_SECONDS)
    raise TimeoutError
