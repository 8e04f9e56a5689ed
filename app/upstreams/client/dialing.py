"""Dialing: opens a connection to a host that may have several addresses, some of them dead (Happy Eyeballs).

aiohappyeyeballs was tried and does not keep this gateway's promises: see docs/decisions.md, "Libraries".
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from itertools import chain, zip_longest
from typing import Any

# The delay after which the next address is tried in parallel: RFC 8305, "Happy Eyeballs", section 5.
HEAD_START_SECONDS = 0.25
OPTIONS = (("TCP_NODELAY", 1), ("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


async def dial(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    """Returns a connected socket. Raises OSError, and UnicodeError for a host that is not a name."""
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await _one(loop, found[0]) if len(found) == 1 else await race(loop, _by_turns(found))


async def race(loop: asyncio.AbstractEventLoop, addresses: list[Any]) -> socket.socket:
    """Returns a socket connected to the first address that accepts. ``addresses`` have the form of ``getaddrinfo``; the
    list is emptied. Raises OSError, the last failure, if no address accepts."""
    trying: set[asyncio.Task[socket.socket]] = set()
    failure: OSError = OSError("the host has no address")
    try:
        while addresses or trying:
            if addresses:
                trying.add(loop.create_task(_one(loop, addresses.pop(0))))
            wait = HEAD_START_SECONDS if addresses else None
            done, _ = await asyncio.wait(trying, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    trying.remove(task)
                    return task.result()
                trying.remove(task)
                failure = error if isinstance(error, OSError) else failure
        raise failure
    finally:
        for task in trying:
            task.add_done_callback(_close)
            task.cancel()


def _by_turns(found: list[Any]) -> list[Any]:
    """The addresses in the system's order, with IPv6 and IPv4 alternating: often a whole family is unreachable."""
    first = [address for address in found if address[0] == found[0][0]]
    other = [address for address in found if address[0] != found[0][0]]
    return [address for address in chain.from_iterable(zip_longest(first, other)) if address is not None]


async def _one(loop: asyncio.AbstractEventLoop, address: Any) -> socket.socket:
    family, kind, protocol, _, place = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in OPTIONS:
            if hasattr(socket, name):  # not every system has all options
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        await _connect(loop, sock, place)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect(loop: asyncio.AbstractEventLoop, sock: socket.socket, place: Any) -> None:
    """Connects without uvloop's ``sock_connect``, which looks the address up again in a thread and so takes longer than
    connecting. Windows has no uvloop, and its event loop has no ``add_writer``."""
    if sys.platform == "win32":
        await loop.sock_connect(sock, place)
        return
    error = sock.connect_ex(place)
    if error == errno.EINPROGRESS:
        ready = asyncio.Event()
        loop.add_writer(sock, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(sock)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def _close(task: asyncio.Task[socket.socket]) -> None:
    """Closes a connection that was opened too late."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
