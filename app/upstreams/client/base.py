"""The interface of an HTTP engine. An engine follows no redirects, reads no proxy variables of the environment, does
not decompress, and keeps no cookies."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ...core.errors import Overloaded, UpstreamUnreachable
from ...core.types import Request
from .proxies import Place, Proxy

BeforeSend = Callable[[], None]

# Limits of an answer's head, which includes the status line. An answer over either limit is refused.
HEAD_BYTES = 64 * 1024
HEADERS = 100

# Error messages for callers. BROKE_OFF is used only if the connection has really been closed.
BROKE_OFF = "the upstream closed the connection early"
MALFORMED = "the upstream sent malformed HTTP"
LARGE_HEAD = "the head of the upstream's answer is larger than 64 kB"
LARGE_REST = "the upstream sent more than 64 kB that is neither head nor body"  # a chunk's line, trailers
MANY_HEADERS = "the upstream's answer has more than 100 headers"


def nothing() -> None: ...


@dataclass(frozen=True, slots=True)
class Wire:
    """The settings of an engine.

    connect       seconds for a new connection, including a proxy's tunnel and TLS
    connections   the most open connections
    ca            the PEM of a certificate authority to trust in addition to the usual ones; may be empty
    proxies       the proxy for each place that is reached through one
    """

    user_agent: str
    connect: float = 5.0
    connections: int = 2000
    ca: bytes = field(default=b"", repr=False)
    proxies: Mapping[Place, Proxy] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that are added to every request."""
        return {"accept-encoding": "identity", "user-agent": self.user_agent}


class EngineAnswer(Protocol):
    """An answer whose head has arrived. ``chunk`` raises UpstreamBroken if the body breaks off or is malformed."""

    status: int

    def header(self, name: str) -> str | None:
        """The first value of a header; None if it is missing or not text."""

    async def chunk(self) -> bytes:
        """The next piece of the body as soon as it has arrived, unchanged; b"" at the end of the body.

        May be cancelled and called again; no data is lost."""

    def at_hand(self) -> bytes | None:
        """The result of ``chunk`` if it is available without waiting; else None."""

    async def aclose(self) -> None:
        """Closes the connection, unless the body was read to its end."""


class Engine(Protocol):
    async def open(self, request: Request, before_send: BeforeSend = nothing) -> EngineAnswer:
        """Sends a request, and returns when the head of the answer has arrived.

        ``before_send`` is called before the first byte is sent, on each connection; if it raises, nothing is sent.
        Raises UpstreamUnreachable if no connection could be opened, UpstreamBroken if the connection gave no valid
        answer, and Overloaded if this gateway has no connection or file descriptor left, which is no fault of the
        upstream.
        """

    async def aclose(self) -> None: ...


_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLCertVerificationError, "the certificate is not trusted"),
    (ssl.SSLError, "TLS handshake failed"),
    (socket.gaierror, "DNS lookup failed"),
    (ConnectionRefusedError, "connection refused"),
    (TimeoutError, "connect timeout"),
    (OSError, "network unreachable"),
)
_OUT = {
    errno.EMFILE: "this process is out of file descriptors",
    errno.ENFILE: "this machine is out of file descriptors",
}


def in_use() -> Overloaded:
    """The error if the limit of connections is reached."""
    return Overloaded(
        "this gateway is at its limit of upstream connections (max_connections); try again in a second",
        retry_after=1,
    )


def unreachable(error: BaseException) -> Overloaded | UpstreamUnreachable:
    """The error for a connection that could not be opened. Its reason is shown in the log only, in the gateway's own
    words, because the library's may contain host names."""
    failure: Overloaded | UpstreamUnreachable
    found = [*causes(error)]
    if (reason := _out(found)) is not None:
        failure = Overloaded(
            "this gateway is out of file descriptors (ulimit -n); try again in a second", retry_after=1
        )
    else:
        failure = UpstreamUnreachable("the upstream cannot be reached")
        reason = next((why for kind, why in _REASONS for cause in found if isinstance(cause, kind)), None)
    failure.reason = reason
    return failure


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all its causes, including the members of exception groups."""
    left: list[BaseException | None] = [error]
    seen = []
    while left:
        cause = left.pop(0)
        if cause is not None and cause not in seen:
            seen.append(cause)
            left += [cause.__cause__ or cause.__context__, *getattr(cause, "exceptions", ())]
            yield cause


def _out(found: list[BaseException]) -> str | None:
    """The reason if file descriptors have run out; else None.

    A DNS lookup that gets no descriptor fails as if the name were unknown, so in that case a socket is opened to test.
    """
    for cause in found:
        error = _none_is_left() if isinstance(cause, socket.gaierror) else cause
        if isinstance(error, OSError) and error.errno in _OUT:
            return _OUT[error.errno]
    return None


def _none_is_left() -> OSError | None:
    try:
        socket.socket().close()
    except OSError as error:
        return error
    return None
