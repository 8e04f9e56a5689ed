"""The way out: the only module that knows the HTTP library.

``send`` gets a whole answer, ``open`` one whose body is still to come. Both give every status
back and raise UpstreamError only where there is no answer at all. Deadlines are deadlines:
httpx's own read timeout counts from the last byte, and a dripping upstream never meets it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import httpx

from .errors import ToriiError, UpstreamError, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from .types import Reply, Request, Stream

HEADERS = {"accept": "application/json", "content-type": "application/json", "accept-encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds: to connect, until the answer's head, between two pieces of a body, and for a call in all."""

    connect: float = 5.0
    headers: float = 120.0
    idle: float = 300.0
    total: float = 1800.0


class Client:
    """One connection pool for all upstreams. No redirect is followed and no proxy variable read."""

    def __init__(
        self, deadlines: Deadlines, *, user_agent: str, connections: int = 2000, reply_limit: int = 64 * 1024 * 1024
    ) -> None:
        self._deadlines = deadlines
        self._reply_limit = reply_limit
        self._waits: set[asyncio.Timeout] = set()
        self._cut: ToriiError | None = None
        self._http = httpx.AsyncClient(
            headers={**HEADERS, "user-agent": user_agent},
            timeout=httpx.Timeout(None, connect=deadlines.connect),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            follow_redirects=False,
            trust_env=False,
        )

    async def send(self, request: Request) -> Reply:
        """The whole answer, its body too within the headers deadline."""
        stream = await self.open(request)
        try:
            return Reply(stream.status, stream.headers, await stream.read())
        finally:
            await stream.aclose()

    async def open(self, request: Request) -> Stream:
        """The answer once its head has come. Raises UpstreamTimeout, UpstreamUnreachable, UpstreamFailed."""
        outgoing = self._http.build_request("POST", request.url, content=request.body, headers=request.headers)
        async with self.until_head():
            response = await self._http.send(outgoing, stream=True)
        return HttpxStream(response, self, self._deadlines, self._reply_limit)

    def cut(self, error: ToriiError) -> None:
        """Ends every wait, now and from now on, with ``error``: the process has to go."""
        self._cut = error
        for wait in self._waits:
            wait.reschedule(0)

    async def aclose(self) -> None:
        await self._http.aclose()

    def until_head(self) -> AbstractAsyncContextManager[None]:
        """The deadline for the beginning of an answer: its head, or a stream's first event."""
        return self.within(self._deadlines.headers)

    @asynccontextmanager
    async def within(self, seconds: float) -> AsyncGenerator[None, None]:
        """A deadline around something of the HTTP library, whose exceptions become ours."""
        wait = asyncio.timeout(seconds if self._cut is None else 0)
        try:
            async with wait:
                self._waits.add(wait)
                yield
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise self._cut or _meaning(error) from None
        finally:
            self._waits.discard(wait)


class HttpxStream:
    def __init__(self, response: httpx.Response, client: Client, deadlines: Deadlines, limit: int) -> None:
        self._response = response
        self._client = client
        self._deadlines = deadlines
        self._limit = limit
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Never asked for in a size: httpx would hold it back until it has that much."""
        body = self._response.aiter_bytes()
        while True:
            async with self._client.within(self._deadlines.idle):
                chunk = await anext(body, None)
            if chunk is None:
                return
            yield chunk

    async def read(self) -> bytes:
        pieces: list[bytes] = []
        size = 0
        body = self._response.aiter_bytes()
        async with self._client.within(self._deadlines.headers):
            async for chunk in body:
                pieces.append(chunk)
                size += len(chunk)
                if size > self._limit:
                    raise UpstreamFailed(f"the upstream's answer is larger than {self._limit} bytes")
        return b"".join(pieces)

    async def aclose(self) -> None:
        await asyncio.shield(self._response.aclose())


def _meaning(error: Exception) -> UpstreamError:
    """The library's exception as ours. Its text may hold hosts, so it is not passed on."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.InvalidURL | httpx.UnsupportedProtocol):
        return UpstreamUnreachable("the upstream cannot be reached")
    if isinstance(error, httpx.PoolTimeout):
        return UpstreamUnreachable("every upstream connection is in use")
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return UpstreamTimeout("the upstream did not answer in time")
    if isinstance(error, httpx.DecodingError):
        return UpstreamFailed("the upstream's answer cannot be decompressed")
    return UpstreamFailed("the upstream broke off the connection")
