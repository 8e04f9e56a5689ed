"""What an HTTP library has to do: follow no redirect, read no variable for a proxy, unpack nothing, keep no cookie."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import UpstreamUnreachable
from ..types import Request

Going = Callable[[], None]

# Of an answer, with its status line; more of either is refused.
HEAD_BYTES = 64 * 1024
HEADERS = 100

# Why an answer is none, as callers are told. The connection has broken off only where it really ended.
BROKE_OFF = "the upstream broke off the connection"
MALFORMED = "the upstream sent malformed HTTP"
LARGE_HEAD = "the upstream's head is larger than 64 kB"
LARGE_REST = "the upstream sent more than 64 kB that is neither head nor body"  # a chunk's line, trailers
MANY_HEADERS = "the upstream's answer has more than 100 headers"


def nothing() -> None: ...


@dataclass(frozen=True, slots=True)
class Wire:
    """``connect`` is in seconds, TLS included; ``ca`` is the PEM of an authority to trust beside the usual ones."""

    user_agent: str
    connect: float = 5.0
    connections: int = 2000
    ca: bytes = field(default=b"", repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """Those of every request, beside its own."""
        return {"accept-encoding": "identity", "user-agent": self.user_agent}


class Answer(Protocol):
    """An answer whose head has come. ``chunk`` raises UpstreamBroken if the rest breaks off or is malformed."""

    status: int

    def header(self, name: str) -> str | None:
        """A header's first value; None where there is none, or none that is text."""

    async def chunk(self) -> bytes:
        """The next piece of the body as soon as it is there, as it came; b"" at its end.

        Cancelled while it waits it may be asked again, and nothing is lost."""

    def at_hand(self) -> bytes | None:
        """What ``chunk`` gives, where nobody has to wait for it; else None."""

    async def aclose(self) -> None:
        """Ends the connection unless the body was read to its end."""


class Engine(Protocol):
    async def open(self, request: Request, going: Going = nothing) -> Answer:
        """``going`` is called before the first byte goes out, on each connection; if it raises, nothing is sent.

        Raises UpstreamUnreachable if no connection came about, UpstreamBroken if no answer came of it.
        """

    async def aclose(self) -> None: ...


_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLCertVerificationError, "its certificate is not trusted"),
    (ssl.SSLError, "no TLS came about"),
    (socket.gaierror, "its name is not known"),
    (ConnectionRefusedError, "nobody listens there"),
    (TimeoutError, "it took no connection in time"),
    (OSError, "there is no way to it"),
)
_BY_NUMBER = {
    errno.EMFILE: "this process is out of file descriptors",
    errno.ENFILE: "this machine is out of file descriptors",
}


def unreachable(error: BaseException) -> UpstreamUnreachable:
    """No connection came about. Why is for the log alone, in our words: the library's may hold hosts."""
    failure = UpstreamUnreachable("the upstream cannot be reached")
    causes = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    failure.reason = _reason(causes)
    return failure


def _reason(causes: list[BaseException]) -> str | None:
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in _BY_NUMBER:
            return _BY_NUMBER[cause.errno]
    return next((why for kind, why in _REASONS for cause in causes if isinstance(cause, kind)), None)
