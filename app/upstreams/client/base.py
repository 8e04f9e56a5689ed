"""The HTTP client's contract: follow no redirect, read no variable for a proxy, unpack nothing, keep no cookie."""

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

Going = Callable[[], None]

# Of an answer, with its status line; more of either is refused.
HEAD_BYTES = 64 * 1024
HEADERS = 100

# Why an answer is none, as callers are told. The connection has broken off only where it really ended.
BROKE_OFF = "the upstream closed the connection early"
MALFORMED = "the upstream sent malformed HTTP"
LARGE_HEAD = "the head of the upstream's answer is larger than 64 kB"
LARGE_REST = "the upstream sent more than 64 kB that is neither head nor body"  # a chunk's line, trailers
MANY_HEADERS = "the upstream's answer has more than 100 headers"


def nothing() -> None: ...


@dataclass(frozen=True, slots=True)
class Wire:
    """``connect`` is in seconds, a proxy and TLS included; ``ca`` is the PEM of an authority to trust beside the usual
    ones; ``proxies`` are on the way to these places, and none to others."""

    user_agent: str
    connect: float = 5.0
    connections: int = 2000
    ca: bytes = field(default=b"", repr=False)
    proxies: Mapping[Place, Proxy] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        """Those of every request, beside its own."""
        return {"accept-encoding": "identity", "user-agent": self.user_agent}


class EngineAnswer(Protocol):
    """An answer whose head has come. ``chunk`` raises UpstreamBroken if the rest breaks off or is malformed."""

    status: int

    def header(self, name: str) -> str | None:
        """A header's first value; None where there is none, or none that is text."""

    async def chunk(self) -> bytes:
        """The next piece of the body as soon as it is there, as it came; b"" at its end.

        Cancelled while it waits it may be asked again, and nothing is lost."""

    def at_hand(self) -> bytes | None:
        """The result of ``chunk`` if nobody has to wait for it; else None."""

    async def aclose(self) -> None:
        """Ends the connection unless the body was read to its end."""


class Engine(Protocol):
    async def open(self, request: Request, going: Going = nothing) -> EngineAnswer:
        """``going`` is called before the first byte goes out, on each connection; if it raises, nothing is sent.

        Raises UpstreamUnreachable if no connection came about, UpstreamBroken if no answer came of it, and Overloaded
        if this gateway has no connection or file descriptor left for it, which says nothing of the upstream.
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
    """There are as many connections as may be."""
    return Overloaded(
        "this gateway is at its limit of upstream connections (max_connections); try again in a second",
        retry_after=1,
    )


def unreachable(error: BaseException) -> Overloaded | UpstreamUnreachable:
    """No connection came about. Why is for the log alone, in our words: the library's may hold hosts."""
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
    """The error itself and all that it came of, be it in groups."""
    left: list[BaseException | None] = [error]
    seen = []
    while left:
        cause = left.pop(0)
        if cause is not None and cause not in seen:
            seen.append(cause)
            left += [cause.__cause__ or cause.__context__, *getattr(cause, "exceptions", ())]
            yield cause


def _out(found: list[BaseException]) -> str | None:
    """Of what there are no descriptors, if that is why. A name that cannot be looked up for it is just not known."""
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
