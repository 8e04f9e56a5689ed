"""The engine on stock httpx. Each call has a connection of its own, because httpx passes data after the end of an
answer to the connection's next call.

If httpx is cancelled while it opens or closes a connection, the connection leaks, and its place in the pool stays
taken. So each request is sent in a task of its own. If its caller leaves, the phase decides what happens to the task:

    connecting      runs to its end, within the connect timeout
    on the wire     is cancelled
    closing         runs to its end, at once
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial

import httpx

from ...core.errors import ToriiError, UpstreamBroken, UpstreamUnreachable
from ...core.types import Request
from .base import (
    BROKE_OFF,
    HEAD_BYTES,
    HEADERS,
    LARGE_HEAD,
    LARGE_REST,
    MALFORMED,
    MANY_HEADERS,
    BeforeSend,
    Wire,
    in_use,
    nothing,
)
from .proxies import Proxy, authority, place
from .proxy import refused, unreached

# The messages of httpcore and h11 for an answer that ended too early; all others mean a malformed answer.
ENDED = ("Server disconnected", "peer closed connection", "peer unexpectedly closed connection")
# The message of h11 for a head, a chunk line or trailers that are incomplete after 100 kB.
ENDLESS = "Receive buffer too long"


class HttpxEngine:
    def __init__(self, wire: Wire) -> None:
        trusted = httpx.create_ssl_context(trust_env=False)
        if wire.ca:
            trusted.load_verify_locations(cadata=wire.ca.decode("ascii"))
        self._most = wire.connections
        self._open: set[HttpxExchange] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        self._proxies = wire.proxies
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._client = httpx.AsyncClient(
            headers={**wire.headers, "connection": "close"},
            timeout=httpx.Timeout(None, connect=wire.connect),
            limits=limits,
            verify=trusted,
            follow_redirects=False,
            trust_env=False,
            mounts={
                f"{'https' if tls else 'http'}://{authority(host, port)}": httpx.AsyncHTTPTransport(
                    proxy=_proxy(proxy), verify=trusted, limits=limits, trust_env=False
                )
                for (host, port, tls), proxy in wire.proxies.items()
            },
        )

    async def open(self, request: Request, before_send: BeforeSend = nothing) -> HttpxAnswer:
        if len(self._open) >= self._most:
            raise in_use()
        exchange = HttpxExchange(before_send)
        self._open.add(exchange)
        sending = asyncio.create_task(self._send(request, exchange))
        try:
            await asyncio.wait([sending])
        except BaseException:
            exchange.left = True  # now, before the call is settled: ``_leave`` runs later than the task that sends
            leaving = asyncio.create_task(_leave(sending, exchange))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            raise
        try:
            return sending.result()
        finally:
            del sending  # the traceback of its failure refers to this frame: a cycle

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _send(self, request: Request, exchange: HttpxExchange) -> HttpxAnswer:
        closed = partial(self._open.discard, exchange)
        try:
            outgoing = self._client.build_request(
                request.method,
                request.url,
                content=request.body,
                headers=request.headers,
                extensions={"trace": exchange.trace},
            )
            response = await self._client.send(outgoing, stream=True)
        except BaseException as error:
            closed()
            if (failure := _meaning(error, proxy=self._proxies.get(place(request.url)))) is None:
                raise
            raise failure from None
        answer = HttpxAnswer(response, exchange, closed)
        if wrong := _too_much(response):
            await answer.aclose()
            raise UpstreamBroken(wrong)
        return answer


class HttpxExchange:
    """The progress of a request, reported by httpx's trace extension. httpx keeps this object in reference cycles, so
    ``before_send`` is dropped once it has been called.

    ``left``: nobody waits for the request any more. ``on_wire``: the request may be cancelled.
    """

    __slots__ = ("_before_send", "left", "on_wire")

    def __init__(self, before_send: BeforeSend) -> None:
        self._before_send = before_send
        self.left = self.on_wire = False

    async def trace(self, event: str, about: object) -> None:
        if event in ("connection.connect_tcp.started", "http11.send_request_headers.started") and self.left:
            raise asyncio.CancelledError
        if event == "http11.send_request_headers.started" and not _is_for_the_proxy(about):
            self.on_wire = True
            before_send, self._before_send = self._before_send, nothing
            before_send()
        elif event == "http11.response_closed.started":
            self.on_wire = False


async def _leave(sending: asyncio.Task[HttpxAnswer], exchange: HttpxExchange) -> None:
    """Ends a request that nobody waits for any more."""
    await _end(sending, exchange)
    if not sending.cancelled() and not sending.exception():
        await sending.result().aclose()


async def _end(task: asyncio.Task[HttpxAnswer] | asyncio.Task[bytes], exchange: HttpxExchange) -> None:
    if exchange.on_wire:
        task.cancel()
    await asyncio.wait([task])


class HttpxAnswer:
    def __init__(self, response: httpx.Response, exchange: HttpxExchange, closed: Callable[[], None]) -> None:
        self._response = response
        self._exchange = exchange
        self._closed = closed
        self._body = response.aiter_raw()
        self._coming: asyncio.Task[bytes] | None = None
        self.status = response.status_code

    def header(self, name: str) -> str | None:
        values = self._response.headers.get_list(name)
        return values[0] if values else None

    async def chunk(self) -> bytes:
        """Reads in a task of its own, because httpx closes the whole answer if a read is cancelled."""
        self._coming = self._coming or asyncio.create_task(self._chunk())
        await asyncio.wait([self._coming])
        come, self._coming = self._coming, None
        return come.result()

    async def _chunk(self) -> bytes:
        """Reads without a chunk size, because with one, httpx holds data back until a whole chunk has arrived."""
        try:
            return await anext(self._body, b"")
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise _meaning(error, LARGE_REST) or error from None

    def at_hand(self) -> bytes | None:
        return None

    async def aclose(self) -> None:
        await asyncio.shield(self._close())

    async def _close(self) -> None:
        coming, self._coming = self._coming, None
        if coming is not None:
            await _end(coming, self._exchange)
            await asyncio.gather(coming, return_exceptions=True)
        await self._response.aclose()
        self._closed()


def _proxy(proxy: Proxy) -> httpx.Proxy:
    auth = (proxy.user, proxy.password) if proxy.authorization else None
    return httpx.Proxy(f"http://{proxy.name}", auth=auth)


def _is_for_the_proxy(about: object) -> bool:
    """True if a traced request is a CONNECT, which asks the proxy for a tunnel before the request itself is sent."""
    request = about.get("request") if isinstance(about, dict) else None
    return getattr(request, "method", None) == b"CONNECT"


def _meaning(error: BaseException, too_large: str = LARGE_HEAD, proxy: Proxy | None = None) -> ToriiError | None:
    """The error for an exception of httpx; None for any other. The exception's text is not shown: it may name hosts."""
    match error:
        case httpx.ProxyError():  # its text begins with the status that the proxy answered
            status = str(error)[:3]
            return unreached(refused(int(status)) if status.isdecimal() else error, proxy)
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.InvalidURL() | httpx.UnsupportedProtocol():
            return unreached(error, proxy)
        case OSError() if not isinstance(error, ssl.SSLError):
            return unreached(error, proxy)  # for example from httpx's own imports during the first request
        case httpx.LocalProtocolError() | UnicodeError():
            return UpstreamUnreachable("the address or the key of the upstream cannot be sent over HTTP")
        case AttributeError(obj=None):
            # The connection was reset as soon as it was opened: anyio reads the address of a socket that is gone.
            return UpstreamUnreachable("the upstream closed the connection before it was asked")
        case httpx.RemoteProtocolError() if not str(error).startswith(ENDED):
            return UpstreamBroken(too_large if str(error) == ENDLESS else MALFORMED)
        case httpx.HTTPError() | ssl.SSLError():
            return UpstreamBroken(BROKE_OFF)
    return None


def _too_much(response: httpx.Response) -> str | None:
    """The reason to refuse a head that httpx has accepted; None if it is within the limits. The size is computed from
    the names, the values and the reason phrase, since httpx keeps nothing else of the head."""
    found = response.headers.raw
    size = len("HTTP/1.1 200 \r\n\r\n") + len(response.reason_phrase)
    size += sum(len(name) + len(value) + len(": \r\n") for name, value in found)
    if size > HEAD_BYTES:
        return LARGE_HEAD
    return MANY_HEADERS if len(found) > HEADERS else None
