"""Stock httpx. Each call has a connection of its own: httpx gives what is glued on to an answer to the next call."""

from __future__ import annotations

import asyncio
import ssl

import httpx

from ..errors import UpstreamBroken, UpstreamError, UpstreamUnreachable
from ..types import Request
from .base import (
    BROKE_OFF,
    HEAD_BYTES,
    HEADERS,
    LARGE_HEAD,
    LARGE_REST,
    MALFORMED,
    MANY_HEADERS,
    Going,
    Wire,
    nothing,
    unreachable,
)

# Of the library's words for an answer that is none, those for one that only ended too early: httpcore's and h11's.
ENDED = ("Server disconnected", "peer closed connection", "peer unexpectedly closed connection")
# h11's for a head, a chunk's line or trailers that are not whole after 100 kB.
ENDLESS = "Receive buffer too long"


class HttpxEngine:
    def __init__(self, wire: Wire) -> None:
        trusted = httpx.create_ssl_context(trust_env=False)
        if wire.ca:
            trusted.load_verify_locations(cadata=wire.ca.decode("ascii"))
        self._client = httpx.AsyncClient(
            headers={**wire.headers, "connection": "close"},
            timeout=httpx.Timeout(None, connect=wire.connect),
            limits=httpx.Limits(max_connections=wire.connections, max_keepalive_connections=0),
            verify=trusted,
            follow_redirects=False,
            trust_env=False,
        )

    async def open(self, request: Request, going: Going = nothing) -> HttpxAnswer:
        async def trace(event: str, about: object) -> None:
            nonlocal going
            if event == "http11.send_request_headers.started":
                told, going = going, nothing  # the library keeps this function, and what it knows, in cycles
                told()

        try:
            outgoing = self._client.build_request(
                "POST", request.url, content=request.body, headers=request.headers, extensions={"trace": trace}
            )
            response = await self._client.send(outgoing, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, UnicodeError) as error:
            raise _meaning(error) from None
        except AttributeError as error:
            if error.obj is not None:
                raise
            # anyio asks for the address of a socket that is not there: the connection was reset as it was made.
            raise UpstreamUnreachable("the upstream closed the connection before it was asked") from None
        if refused := _too_much(response):
            await response.aclose()
            raise UpstreamBroken(refused)
        return HttpxAnswer(response)

    async def aclose(self) -> None:
        await self._client.aclose()


class HttpxAnswer:
    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._body = response.aiter_raw()
        self._coming: asyncio.Task[bytes] | None = None
        self.status = response.status_code

    def header(self, name: str) -> str | None:
        values = self._response.headers.get_list(name)
        return values[0] if values else None

    async def chunk(self) -> bytes:
        """By a task of its own, because a read that is cancelled ends the whole answer in httpx."""
        self._coming = self._coming or asyncio.create_task(self._chunk())
        await asyncio.wait([self._coming])
        come, self._coming = self._coming, None
        return come.result()

    async def _chunk(self) -> bytes:
        """Never asked for in a size: httpx would hold it back until it has that much."""
        try:
            return await anext(self._body, b"")
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise _meaning(error, LARGE_REST) from None

    def at_hand(self) -> bytes | None:
        return None

    async def aclose(self) -> None:
        await asyncio.shield(self._close())

    async def _close(self) -> None:
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await self._response.aclose()


def _meaning(error: Exception, too_large: str = LARGE_HEAD) -> UpstreamError:
    """The library's exception as ours. Its text may hold hosts, so it is not passed on."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.InvalidURL | httpx.UnsupportedProtocol):
        return unreachable(error)
    if isinstance(error, httpx.LocalProtocolError | UnicodeError):
        return UpstreamUnreachable("the address or the key of the upstream cannot be sent over HTTP")
    if not isinstance(error, httpx.RemoteProtocolError) or str(error).startswith(ENDED):
        return UpstreamBroken(BROKE_OFF)
    return UpstreamBroken(too_large if str(error) == ENDLESS else MALFORMED)


def _too_much(response: httpx.Response) -> str | None:
    """Why a head that the library has taken is refused. Of its bytes the library keeps names, values and the reason."""
    found = response.headers.raw
    size = len("HTTP/1.1 200 \r\n\r\n") + len(response.reason_phrase)
    size += sum(len(name) + len(value) + len(": \r\n") for name, value in found)
    if size > HEAD_BYTES:
        return LARGE_HEAD
    return MANY_HEADERS if len(found) > HEADERS else None
