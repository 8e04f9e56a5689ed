"""HTTP on the wire: uvicorn's httptools protocol, with limits on a request's head and timeouts for clients that stall.

The parser (llhttp) itself refuses conflicting or malformed lengths and bad chunks. Requests that the parser accepts,
but that would waste memory or descriptors, are refused here: with the error envelope, and the connection is closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from ..core.errors import HeadTooLarge, HeadTooSlow, InvalidRequest, Overloaded, TargetTooLong, ToriiError
from ..core.transport import CoalescingTransport
from .cycle import Cycle, OldCycle
from .descriptors import Descriptors
from .handlers import LEAVE
from .http import BODY, LINGER_SECONDS, WHOLE, headers_of
from .offers import NO_PROXY, Offers

logger = logging.getLogger("torii.protocol")

HEAD_BYTES = 64 * 1024
HEADERS = 100
TARGET_BYTES = 8 * 1024
# Bytes that the system buffers for a caller who does not read. Its default is megabytes for each stream, and it takes
# nothing new until a third of them is gone: a slow caller would look like a stalled one.
UNSENT_BYTES = 128 * 1024
UNSENT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)

# Connections beyond the limit that stay open until they have received the refusal; others are closed at once.
LINGERING = 100


@dataclass(slots=True)
class Bounds:
    """The seconds in which a head must arrive, the seconds for which a caller may read nothing of a response, and the
    maximum number of connections. A change applies from then on, also to open connections."""

    head_seconds: float = 10.0
    write_seconds: float = 60.0
    connections: int = 4000
    descriptors: Descriptors = field(default_factory=Descriptors)


def within(bounds: Bounds) -> type[Protocol]:
    """The protocol class with these limits."""
    return type("Protocol", (Protocol,), {"bounds": bounds})


class Protocol(Offers):
    """One connection. Pipelined requests are answered in their order.

    One timer runs while a head is awaited, another while the caller does not read the response.
    """

    bounds = Bounds()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False  # it would show the query, which may hold a key by mistake
        self._head_size = 0
        self._unparsed = 0  # bytes since the parser's latest callback
        self._refusal: ToriiError | None = None
        self._refusal_id = ""
        self._serving: RequestResponseCycle | None = None
        self._idle_since: float | None = None  # by the loop's clock
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    # The connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(CoalescingTransport(transport, self.loop))  # type: ignore[arg-type]  # it has every method in use
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6) and UNSENT is not None:
            connection.setsockopt(socket.IPPROTO_TCP, UNSENT, UNSENT_BYTES)
        if len(self.connections) > self.bounds.connections:
            self._one_too_many()
        elif connection is not None and self.bounds.descriptors.refuses(len(self.connections), connection.fileno()):
            self._one_too_many_files(connection.fileno())
        else:
            self._await_head()

    def _one_too_many(self) -> None:
        """Refuse a connection beyond the limit. No request has arrived, so the caller's key is not known."""
        if len(self.connections) > self.bounds.connections + LINGERING:
            self.transport.abort()
        else:
            self._refuse(Overloaded(_TOO_MANY, retry_after=1))

    def _one_too_many_files(self, number: int) -> None:
        """Refuse a connection for lack of descriptors, logged at DEBUG: ``Descriptors.look`` logs the count."""
        descriptors = self.bounds.descriptors
        descriptors.refused += 1
        if descriptors.closes(len(self.connections), number):
            self.transport.abort()
        else:
            self._refuse(Overloaded(_NO_FILES, retry_after=1), logging.DEBUG)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._write_timer, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        if self._serving is not None:  # uvicorn notifies only the last of several requests
            self._serving.disconnected = True
            self._serving.message_event.set()
            leave: Callable[[], None] | None = self._serving.scope.get(LEAVE)  # type: ignore[assignment]  # a scope's values have no types
            if leave is not None:
                leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return  # discarded; a caller who still sends must not be reset before reading the refusal
        self._unset_keepalive_if_required()
        self._unparsed += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._refuse(error.__context__ if isinstance(error.__context__, ToriiError) else InvalidRequest(_NO_HTTP))
        else:
            if self._unparsed > HEAD_BYTES:
                self._refuse(_too_large())
            elif self._in_head or self._idle:
                self._await_head()

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    # The head.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unparsed = 0
        self._in_head = True
        self._head_size = 0

    def on_url(self, url: bytes) -> None:
        self._unparsed = 0
        self.url += url
        if len(self.url) > TARGET_BYTES:
            raise TargetTooLong(f"the path and query are longer than {TARGET_BYTES // 1024} kB")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._unparsed = 0
        self._head_size += len(name) + len(value) + 4
        if self._head_size > HEAD_BYTES:
            raise _too_large()
        if not self._in_head:
            return  # a trailer must not become a header: the headers have been checked already
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        if len(self.headers) > HEADERS:
            raise HeadTooLarge(f"there are more than {HEADERS} headers")

    def on_headers_complete(self) -> None:
        if self._has_offer:
            return
        version = self._checked()
        self._in_head = False
        self._unparsed = 0
        self._have_head()
        before, self.cycle = self.cycle, self._cycle(version)
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _cycle(self, version: str) -> Cycle:
        """The request as uvicorn builds it, without what this server lacks: upgrades, a root path, a limit of tasks."""
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]  # its type has ASGI's keys only
        target = httptools.parse_url(self.url)
        path = target.path.decode("ascii")
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = target.path
        scope["query_string"] = target.query or b""
        cycle = (Cycle if version == "1.1" else OldCycle)(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        scope[WHOLE] = True
        scope[BODY] = cycle.whole_body
        return cycle

    def _checked(self) -> str:
        """The HTTP version of a valid head. Raises InvalidRequest if the head is not valid."""
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise InvalidRequest(_NO_HTTP)
        if not self.url.startswith(b"/"):
            raise InvalidRequest(NO_PROXY)
        codings = headers_of(self.scope).get(b"transfer-encoding")  # type: ignore[arg-type]  # as in _cycle
        if codings and (version == "1.0" or [coding.lower() for coding in codings] != [b"chunked"]):
            raise InvalidRequest("the only supported transfer-encoding is chunked, and HTTP/1.0 has none")
        return version

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def _await_head(self) -> None:
        if self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.bounds.head_seconds, self._head_too_slow)

    def _have_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if self._in_head:
            seconds = self.bounds.head_seconds
            self._refuse(HeadTooSlow(f"the head of the request did not arrive within {seconds:g} seconds"))
        elif self._idle:
            self.transport.close()

    # Refusals.

    def _refuse(self, error: ToriiError, level: int = logging.INFO) -> None:
        """Send the error now, or after the responses to earlier requests on this connection."""
        self._refusal = error
        self._refusal_id = uuid4().hex
        about = {"status": error.status, "error": error.code, "request_id": self._refusal_id}
        logger.log(level, "a request was refused: %s", error.message, extra=about)
        self._have_head()
        if not self._in_head and self.cycle is not None and self.cycle.more_body:
            self._refuse_body()
        elif self._idle:
            self._send_refusal()

    def _refuse_body(self) -> None:
        """Refuse a request with a valid head and a malformed body: it is not served, or its response is cut off."""
        broken = self.cycle
        if self.pipeline and self.pipeline[0][0] is broken:
            self.pipeline.popleft()
            return
        broken.disconnected = True
        broken.message_event.set()
        if broken.response_started:
            self.transport.close()
        else:
            self._send_refusal()

    def _send_refusal(self) -> None:
        assert self._refusal is not None
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self.transport.write(_envelope(self._refusal, self._refusal_id))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    # Responses.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._serving = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self._serving is not None:
            self._serving.scope.pop(BODY, None)  # type: ignore[misc]  # not of ASGI
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            else:
                self._keep_alive()
        if self._refusal is not None and self._serving is not None and self._serving.response_complete:
            self._send_refusal()
        self._watch_closing()

    def shutdown(self) -> None:
        super().shutdown()
        self._watch_closing()

    # Keep-alive. The timer that one response started checks, when it fires, when the latest response ended: starting
    # and stopping a timer for each response would cost more than everything else here.

    def _keep_alive(self) -> None:
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_after(self.timeout_keep_alive)

    def _look_after(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return  # the end of the response starts it again
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._look_after(left)
        else:
            super().timeout_keep_alive_handler()
            self._watch_closing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _watch_closing(self) -> None:
        """Time a closing connection too: it stays open until the caller has read the last bytes, which may be never."""
        if self.transport.is_closing() and self._write_timer is None:
            self._watch_writing()

    def _watch_writing(self) -> None:
        """Start the write timer. Unsent bytes only shrink while nothing is written; if not, the caller has stalled."""
        self._write_timer = None
        if unsent := self.transport.get_write_buffer_size():
            self._unsent = unsent
            self._write_timer = self.loop.call_later(self.bounds.write_seconds, self._check_writing)

    def _check_writing(self) -> None:
        if self.transport.get_write_buffer_size() < self._unsent:
            self._watch_writing()
            return
        seconds = self.bounds.write_seconds
        logger.info("a caller read nothing of a response for %g seconds; the connection was closed", seconds)
        self.transport.abort()


_NO_HTTP = "malformed HTTP/1.1: check the request line, the lengths and the chunks"
_TOO_MANY = "this gateway is at its limit of connections (max_caller_connections); try again in a second"
_NO_FILES = "this gateway is about to run out of file descriptors (ulimit -n); try again in a second"


def _too_large() -> HeadTooLarge:
    return HeadTooLarge(f"the head of the request is larger than {HEAD_BYTES // 1024} kB")


def _envelope(error: ToriiError, request_id: str) -> bytes:
    body = msgspec.json.encode(error.envelope())
    headers = {
        **error.headers(),
        "x-request-id": request_id,
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
    }
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body
