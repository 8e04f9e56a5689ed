"""Stock httpx. Each call has a connection of its own: httpx gives what is glued on to an answer to the next call."""

from __future__ import annotations

import asyncio
import ssl

import httpx

from ..errors import UpstreamBroken, UpstreamError, UpstreamUnreachable
from ..types import Request
from .base import Going, Wire, nothing, unreachable


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
            if event == "http11.send_request_headers.started":
                going()

        try:
            outgoing = self._client.build_request(
                "POST", request.url, content=request.body, headers=request.headers, extensions={"trace": trace}
            )
            return HttpxAnswer(await self._client.send(outgoing, stream=True))
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, UnicodeError) as error:
            raise _meaning(error) from None

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
            raise _meaning(error) from None

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


def _meaning(error: Exception) -> UpstreamError:
    """The library's exception as ours. Its text may hold hosts, so it is not passed on."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.InvalidURL | httpx.UnsupportedProtocol):
        return unreachable(error)
    if isinstance(error, httpx.LocalProtocolError | UnicodeError):
        return UpstreamUnreachable("the address or the key of the upstream cannot be sent over HTTP")
    return UpstreamBroken("the upstream broke off the connection")
