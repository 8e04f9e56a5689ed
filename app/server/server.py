"""The gateway's own uvicorn: settings that it needs, and a shutdown that finishes what is open."""

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

# Beyond the drain: time for error events to reach the callers before uvicorn cuts what is left.
GRACE_SECONDS = 5
# Of an end that waits for nothing: time for the books, and to close what is open; and until calls are cancelled that
# did not end by themselves when they were cut off from their upstreams, such as those in line for a key.
LAST_SECONDS = 2.0
CANCEL_SECONDS = 0.3
BACKLOG = 2048


class Server(uvicorn.Server):
    """On SIGTERM it is no longer ready, after ``drain_delay_seconds`` takes no connections any more, lets open calls
    end for ``drain_seconds``, then ends them with an error. A second signal ends the delay; a second Ctrl+C and the
    third of any signals end everything.

    sse-starlette would end every open stream at the signal; Torii's streams end themselves.
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
        """Serves by other settings from now on; in its loop. Where it raises, nothing has changed."""
        self._generations.renew(settings)
        self._bind(settings)

    @property
    def secrets(self) -> frozenset[str]:
        """The secrets that no log may show, as long as the calls are open that they were used for."""
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
        """Ten times a second, until it is to end."""
        self._bounds.descriptors.look(self._listening)
        return await super().on_tick(counter)

    def take_signals(self) -> None:
        """Ctrl+C and SIGTERM end this server from now on, even before it runs; ``run`` then simply returns.
        SIGHUP calls ``hangup`` in its loop."""
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, self.handle_exit)
        if sys.platform != "win32":
            signal.signal(signal.SIGHUP, self._handle_hangup)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ends with exit code 0. uvicorn would raise the signal once more when all is done."""
        self._heard += 1
        cause = signal.Signals(sig).name
        if ends_now(sig, self._heard):
            self.end_now(cause)
        else:
            self._soon(self._leave, cause)

    def end_now(self, cause: str) -> None:
        """Waits for no call any more: all that are open are told so. For any thread, and for a signal's handler."""
        last_resort()
        self._soon(self._cut, cause)

    def _soon(self, work: Callable[[str], None], cause: str) -> None:
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(work, cause)

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Has it done in the loop of this server, while it runs; for other threads. Raises what it raises."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.hangup)

    def _leave(self, cause: str) -> None:
        """From here on not ready; from the end of the delay, or the next signal, on without new calls."""
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
        """Cancels all calls; ``ClientConnection.ended`` says which error that becomes."""
        for task in self.server_state.tasks:
            task.cancel()
        self.force_exit = True


def _nothing() -> None: ...


def ends_now(sig: int, heard: int) -> bool:
    """True if nothing is waited for any more; ``heard`` counts the signals to end, this one included."""
    return heard > 2 or (heard == 2 and sig == signal.SIGINT)


def last_resort() -> None:
    """Ends this process after ``LAST_SECONDS``, whatever stands still in it by then. Also for a signal's handler,
    which must not take a lock that the interrupted code may have: `threading` would."""
    _thread.start_new_thread(_exit, ())


def _exit() -> None:
    time.sleep(LAST_SECONDS)  # noqa: TID251 - there is no event loop in this thread
    writer.drain()
    os._exit(0)


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
