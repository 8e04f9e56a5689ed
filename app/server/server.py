"""The gateway's uvicorn server: the settings that it needs, and a shutdown that lets open calls finish."""

from __future__ import annotations

import _thread
import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from sse_starlette.sse import AppStatus

from ..config.settings import Settings
from . import writer
from .protocol import Bounds, within
from .snapshots import Generations

logger = logging.getLogger("torii")

# After the drain: time for error events to reach the callers before uvicorn cuts the remaining connections.
GRACE_SECONDS = 5
# An immediate end: time for the ledger and for closing connections; and time from cutting calls off from their
# upstreams to cancelling the calls that this did not end, such as those that wait for a key.
LAST_SECONDS = 2.0
CANCEL_SECONDS = 0.3
BACKLOG = 2048


class Server(uvicorn.Server):
    """On SIGTERM the server is no longer ready; after ``drain_delay_seconds`` it accepts no more connections, gives
    open calls ``drain_seconds`` to finish, and then ends them with an error. A second signal ends the delay; a second
    Ctrl+C or the third of any signals ends everything.

    sse-starlette would end every open stream at the signal, which is switched off: Torii's streams end themselves.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]  # has no types
        self._generations: Generations = app.state.generations
        self._bounds = Bounds()
        self._bind(settings)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening: list[socket.socket] = []
        self._heard = 0
        self.hangup: Callable[[], None] = _nothing
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
                http=within(self._bounds),
                ws="none",
            )
        )

    def renew(self, settings: Settings) -> None:
        """Serve by new settings from now on; must run in the server's loop. If it raises, nothing has changed."""
        self._generations.renew(settings)
        self._bind(settings)

    @property
    def secrets(self) -> frozenset[str]:
        """The secrets that the log must not show: those of every configuration that still serves calls."""
        return self._generations.secrets

    def _bind(self, settings: Settings) -> None:
        self._bounds.head_seconds = settings.timeouts.request_head_seconds
        self._bounds.write_seconds = settings.timeouts.write_seconds
        self._bounds.connections = settings.max_caller_connections
        self._bounds.descriptors.allow(settings.max_caller_connections + settings.max_connections)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = sockets or []
        try:
            await super().serve(sockets)
        finally:
            self._loop = None

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second until shutdown."""
        self._bounds.descriptors.look(self._listening)
        return await super().on_tick(counter)

    def take_signals(self) -> None:
        """Ctrl+C and SIGTERM end this server from now on, even before it runs; ``run`` then returns at once. SIGHUP
        calls ``hangup`` in the server's loop."""
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, self.handle_exit)
        if sys.platform != "win32":
            signal.signal(signal.SIGHUP, self._handle_hangup)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End with exit code 0; uvicorn would raise the signal again after the shutdown."""
        self._heard += 1
        cause = signal.Signals(sig).name
        if ends_now(sig, self._heard):
            self.end_now(cause)
        else:
            self._soon(self._leave, cause)

    def end_now(self, cause: str) -> None:
        """End all open calls at once, with an error. For any thread, and for a signal handler."""
        last_resort()
        self._soon(self._cut, cause)

    def _soon(self, work: Callable[[str], None], cause: str) -> None:
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(work, cause)

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` in the loop of the running server, from another thread. Raises what ``work`` raises."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.hangup)

    def _leave(self, cause: str) -> None:
        """Stop being ready now, and accepting calls after the delay or at the next signal."""
        delay, again = self._generations.now.settings.drain_delay_seconds, self._generations.load.leaving
        self._generations.load.leaving = True
        if again or not delay:
            self._drain(cause)
        else:
            logger.info("%s: no longer ready; new calls are accepted for another %g seconds", cause, delay)
            asyncio.get_running_loop().call_later(delay, self._drain, cause)

    def _drain(self, cause: str) -> None:
        seconds = self._generations.now.settings.drain_seconds
        if not self.should_exit:
            hint = "; a second Ctrl+C ends them at once" if cause == "SIGINT" else ""
            logger.info("%s: new calls are refused; open calls have %g seconds to finish%s", cause, seconds, hint)
        self._generations.drain(seconds)
        self.config.timeout_graceful_shutdown = int(seconds) + GRACE_SECONDS
        self.should_exit = True

    def _cut(self, cause: str) -> None:
        logger.info("%s again: open calls end now", cause)
        self._generations.load.leaving = True
        self._generations.drain(0)
        self.should_exit = True
        asyncio.get_running_loop().call_later(CANCEL_SECONDS, self._cancel)

    def _cancel(self) -> None:
        """Cancel all calls; ``ClientConnection.ended`` turns the cancellation into an error."""
        for task in self.server_state.tasks:
            task.cancel()
        self.force_exit = True


def _nothing() -> None: ...


def ends_now(sig: int, heard: int) -> bool:
    """True if this signal ends everything at once; ``heard`` counts the signals to end, this one included."""
    return heard > 2 or (heard == 2 and sig == signal.SIGINT)


def last_resort() -> None:
    """End this process after ``LAST_SECONDS``, even if it hangs. For signal handlers too, which must not take a lock
    that the interrupted code may hold, as `threading` would."""
    _thread.start_new_thread(_exit, ())


def _exit() -> None:
    time.sleep(LAST_SECONDS)  # noqa: TID251 - there is no event loop in this thread
    writer.drain()
    os._exit(0)


def listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on every address of ``host``; port 0 picks any free port, the same for all.

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
    except UnicodeError:  # an invalid host name, such as "a..b"
        raise socket.gaierror(socket.EAI_NONAME, "no host name") from None
    return sockets


def _listener(sock: socket.socket, address: tuple[object, ...]) -> socket.socket:
    try:
        if os.name == "posix":  # on Windows it would let two programs share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        # Before the address is printed: a client can connect at once, and is answered as soon as the gateway is up.
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
