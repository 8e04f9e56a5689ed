"""pyreqwest: Rust's reqwest and hyper, on a thread of their own."""

from __future__ import annotations

from datetime import timedelta

from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import ConnectError, ConnectTimeoutError, PyreqwestError
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from ..errors import UpstreamError, UpstreamFailed, UpstreamUnreachable
from ..types import Request
from .base import Wire


class PyreqwestEngine:
    def __init__(self, wire: Wire) -> None:
        builder = (
            ClientBuilder()
            .default_headers(wire.headers)
            .connect_timeout(timedelta(seconds=wire.connect))
            .max_connections(wire.connections)
            .follow_redirects(False)
            .referer(False)
            .no_proxy()
        )
        for unpacked in (builder.gzip, builder.deflate, builder.brotli, builder.zstd):
            unpacked(False)
        if wire.ca:
            builder.add_root_certificate_pem(wire.ca)
        self._client = builder.build()

    async def open(self, request: Request) -> PyreqwestAnswer:
        # The limit is what would be read before the first piece is given out: with any, a stream stalls.
        try:
            exchange = (
                self._client.post(request.url)
                .headers(request.headers)
                .body_bytes(request.body)
                .streamed_read_buffer_limit(0)
                .build_streamed()
            )
        except ValueError:  # its text has the value of a header, and so perhaps the key
            raise UpstreamUnreachable("the address or the key of the upstream cannot be sent over HTTP") from None
        try:
            return PyreqwestAnswer(exchange, await exchange.__aenter__())
        except PyreqwestError as error:
            raise _meaning(error) from None

    async def aclose(self) -> None:
        await self._client.close()


class PyreqwestAnswer:
    __slots__ = ("_exchange", "_reader", "_response", "status")

    def __init__(self, exchange: StreamRequest, response: Response) -> None:
        self._exchange: StreamRequest | None = exchange
        self._response = response
        self._reader = response.body_reader
        self.status = response.status

    def header(self, name: str) -> str | None:
        try:
            return self._response.get_header(name)
        except ValueError:
            return None

    async def chunk(self) -> bytes:
        try:
            piece = await self._reader.read_chunk()
        except PyreqwestError as error:
            raise _meaning(error) from None
        return b"" if piece is None else piece.to_bytes()

    async def aclose(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.__aexit__(None, None, None)


def _meaning(error: PyreqwestError) -> UpstreamError:
    """Its text has the address, so it is not passed on. A connection that broke later is a ConnectError too."""
    causes = [cause["message"] for cause in (getattr(error, "details", None) or {}).get("causes") or []]
    connecting = any("(Connect)" in cause for cause in causes)
    if isinstance(error, ConnectTimeoutError) or (isinstance(error, ConnectError) and connecting):
        return UpstreamUnreachable("the upstream cannot be reached")
    return UpstreamFailed("the upstream broke off the connection")
