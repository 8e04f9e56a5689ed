"""The engine on asyncio's transports and httptools (llhttp). Connections are kept, with one exchange at a time on each.

    open -> an idle connection, or else a new one -> request written -> head -> chunk, chunk ... b""
                 ^                                                                              |
                 `--- only if the answer ended by its own length, and no data came after it

An upstream may close an idle connection just when it is used again. The gateway sees this as an end of the connection
before any byte of an answer (RFC 9112, section 9.3.1), or as a 408 that ends it (RFC 9110, section 15.5.9), and sends
the request once more, on a new connection. A request that must be sent only once uses a new connection from the start.
After any other failure, the caller of this module decides about a retry, because only it knows the cost.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

import certifi

from ...core.errors import UpstreamBroken, UpstreamUnreachable
from ...core.types import Request
from .base import BeforeSend, Wire, in_use, nothing
from .connection import Connection, HttptoolsAnswer
from .origin import Origin
from .proxies import Place, place
from .proxy import unreached


class HttptoolsEngine:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._tls: ssl.SSLContext | None = None
        self._origins: dict[Place, Origin[Connection]] = {}
        self._heads: dict[str, tuple[Origin[Connection], str]] = {}
        self._open: set[Connection] = set()
        self._coming: set[Connection] = set()  # connections being opened

    async def open(self, request: Request, before_send: BeforeSend = nothing) -> HttptoolsAnswer:
        found = self._heads.get(request.url)
        if found is None:
            found = self._head(request.url)
            if request.method == "POST":  # to few URLs; those of other methods may hold an id
                self._heads[request.url] = found
        origin, head = found
        sent = _head(f"{request.method} {head}", request.headers, len(request.body)) + request.body
        kept = None if request.once else origin.take()
        if kept is not None:
            try:
                return await kept.exchange(sent, before_send)
            except UpstreamBroken:
                if kept.heard:
                    raise
        connection = await self._connect(origin)
        return await connection.exchange(sent, before_send)

    async def aclose(self) -> None:
        for connection in [*self._open]:
            connection.abort()
        for origin in self._origins.values():
            origin.stop()

    def _head(self, url: str) -> tuple[Origin[Connection], str]:
        """The origin of a URL, and the part of the head, after the method, that all requests to the URL have."""
        parts = urlsplit(url)
        if not parts.hostname or not (url.isascii() and url.isprintable()):
            raise _unsendable()
        there = place(url)
        proxy = self._wire.proxies.get(there)
        forwarded = proxy is not None and parts.scheme != "https"
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        lines = [f"{url if forwarded else path} HTTP/1.1", f"host: {parts.netloc}"]
        lines += [f"{name}: {value}" for name, value in self._wire.headers.items()]
        if proxy and forwarded and proxy.authorization:
            lines.append(f"proxy-authorization: {proxy.authorization}")
        return self._origins.setdefault(there, Origin(*there, proxy)), "\r\n".join(lines)

    async def _connect(self, origin: Origin[Connection]) -> Connection:
        self._make_room()
        connection = Connection(origin, self._open, asyncio.get_running_loop())
        self._coming.add(connection)
        try:
            async with asyncio.timeout(self._wire.connect):
                await connection.connect(self._trust() if origin.tls else None)
        except BaseException as error:
            connection.abort()
            if isinstance(error, OSError | UnicodeError):  # DNS, refusal, certificate, timeout
                raise unreached(error, origin.proxy) from None
            raise
        finally:
            self._coming.discard(connection)
        return connection

    def _make_room(self) -> None:
        """At the limit of connections, closes one that has been idle for long. Raises Overloaded if none is idle."""
        if len(self._open) + len(self._coming - self._open) < self._wire.connections:
            return
        idle = [next(iter(origin.idle)) for origin in self._origins.values() if origin.idle]
        if not idle:
            raise in_use()
        min(idle, key=lambda connection: connection.idle_until).abort()

    def _trust(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context(cafile=certifi.where())
            if self._wire.ca:
                self._tls.load_verify_locations(cadata=self._wire.ca.decode("ascii"))
        return self._tls


def _head(fixed: str, headers: Mapping[str, str], length: int) -> bytes:
    """The head of a request. Raises UpstreamUnreachable for a header value that could break out of its line."""
    values = "".join(headers.values())
    if not (values.isascii() and values.isprintable()):
        raise _unsendable()
    lines = "".join([f"\r\n{name}: {value}" for name, value in headers.items()])
    return f"{fixed}{lines}\r\ncontent-length: {length}\r\n\r\n".encode("ascii")


def _unsendable() -> UpstreamUnreachable:
    return UpstreamUnreachable("the address or the key of the upstream cannot be sent over HTTP")
