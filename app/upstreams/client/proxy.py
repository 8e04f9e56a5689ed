"""Connections through a proxy: TLS in a tunnel opened by CONNECT (RFC 9110, section 9.3.6).

Plain HTTP is sent to the proxy itself, with the whole URL in the request line.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

from ...core.errors import PROXY_REFUSED, Overloaded, UpstreamUnreachable
from .base import HEAD_BYTES, causes, unreachable
from .dialing import dial
from .origin import Origin
from .proxies import Proxy, authority


class ProxyRefused(OSError):
    """The proxy opened no tunnel. ``strerror`` is the reason, in the gateway's words."""

    def __init__(self, why: str) -> None:
        super().__init__(None, why)


async def open_socket(loop: asyncio.AbstractEventLoop, origin: Origin[Any]) -> socket.socket:
    """Returns a socket connected to the origin, or to its proxy for plain HTTP. Raises as ``dial`` does, and
    ProxyRefused."""
    proxy = origin.proxy
    if proxy is None:
        return await dial(loop, origin.host, origin.port)
    sock = await dial(loop, proxy.host, proxy.port)
    if origin.tls:
        try:
            await _tunnel(loop, sock, proxy, authority(origin.host, origin.port))
        except BaseException:
            sock.close()
            raise
    return sock


async def _tunnel(loop: asyncio.AbstractEventLoop, sock: socket.socket, proxy: Proxy, there: str) -> None:
    said = f"proxy-authorization: {proxy.authorization}\r\n" if proxy.authorization else ""
    await loop.sock_sendall(sock, f"CONNECT {there} HTTP/1.1\r\nhost: {there}\r\n{said}\r\n".encode("ascii"))
    head = b""
    while b"\r\n\r\n" not in head:
        piece = await loop.sock_recv(sock, 4096)
        head += piece
        if not piece:
            raise ProxyRefused("the proxy closed the connection before the tunnel was open")
        if len(head) > HEAD_BYTES:
            raise ProxyRefused("the proxy's response is not HTTP")
    line = head.partition(b"\r\n")[0]
    version, _, status = line[:12].partition(b" ")
    if not version.startswith(b"HTTP/1.") or not status.isdigit():
        raise ProxyRefused("the proxy's response is not HTTP")
    if not 200 <= int(status) < 300:
        raise refused(int(status))
    if not head.endswith(b"\r\n\r\n"):
        raise ProxyRefused("the proxy sent data before the request")


def refused(status: int) -> ProxyRefused:
    if status == 407:
        return ProxyRefused(PROXY_REFUSED)
    return ProxyRefused(f"the proxy refused the tunnel ({status})")


def unreached(error: BaseException, proxy: Proxy | None) -> Overloaded | UpstreamUnreachable:
    """As ``unreachable``, with the reason marked if the proxy caused it. TLS errors are the upstream's."""
    failure = unreachable(error)
    if isinstance(error, ProxyRefused):
        failure.reason = error.strerror
    elif proxy is not None and isinstance(failure, UpstreamUnreachable) and failure.reason and not _is_of_tls(error):
        failure.reason = f"proxy: {failure.reason}"
    return failure


def _is_of_tls(error: BaseException) -> bool:
    return any(isinstance(cause, ssl.SSLError) for cause in causes(error))
