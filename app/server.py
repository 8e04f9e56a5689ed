"""The gateway's own uvicorn: settings that it needs, and a shutdown that finishes what is open."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI
from sse_starlette.sse import AppStatus

from .protocol import within
from .settings import Settings

logger = logging.getLogger("torii")

# Beyond the drain: time for error events to reach the callers before uvicorn cuts what is left.
GRACE_SECONDS = 5
BACKLOG = 2048


class Server(uvicorn.Server):
    """Stops taking connections on SIGTERM, lets open calls end for ``drain_seconds``, then ends them with an error.

    sse-starlette would end every open stream at the signal; Torii's streams end themselves.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]
        self._gateway = app.state.gateway
        self._drain_seconds = settings.drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                http=within(settings.timeouts.head_seconds, settings.timeouts.write_seconds),
                ws="none",
                timeout_graceful_shutdown=int(settings.drain_seconds) + GRACE_SECONDS,
            )
        )

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await super().serve(sockets)
        finally:
            self._loop = None

    def take_signals(self) -> None:
        """Ctrl+C and SIGTERM end this server from now on, even before it runs; ``run`` then simply returns."""
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, self.handle_exit)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ends with exit code 0. uvicorn would raise the signal once more when all is done."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._drain, signal.Signals(sig).name)
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    def _drain(self, cause: str) -> None:
        if not self._gateway.draining:
            logger.info("%s: no new calls; open ones have %g seconds to end", cause, self._drain_seconds)
        self._gateway.drain(self._drain_seconds)


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that take connections on every address of ``host``; port 0 is any free one, the same for all.

    Raises OSError: socket.gaierror for an unknown host, else by its errno.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sockets.append(_listener(socket.socket(family, kind, protocol), (address[0], port, *address[2:])))
            port = sockets[0].getsockname()[1]
    except OSError:
        for opened in sockets:
            opened.close()
        raise
    except UnicodeError:  # a name that cannot be one, such as "a..b"
        raise socket.gaierror(socket.EAI_NONAME, "no host name") from None
    return sockets


def _listener(sock: socket.socket, address: tuple[object, ...]) -> socket.socket:
    try:
        if os.name == "posix":  # elsewhere it would let two programs have the same port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        # Already here: who reads the address can connect, and is answered once the gateway is up.
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
