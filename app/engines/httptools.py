"""asyncio's transports with httptools (llhttp) over them: connections that are kept, one exchange at a time on each.

    open -> a connection that is idle, else a new one -> request written -> head -> chunk, chunk ... b""
                 ^                                                                              |
                 `--- only where the answer has ended, by its own length, and nothing came after it

What llhttp lets pass and would cost memory is refused here: endless heads, endless chunk lines. A request is
written once: whether a call is made again is decided by who knows what it costs.
"""

from __future__ import annotations

import asyncio
import select
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import certifi
import httptools

from ..errors import UpstreamBroken, UpstreamUnreachable
from ..types import Request
from .base import Going, Wire, nothing
from .reach import reach

HEAD_BYTES = 64 * 1024
HEADERS = 100
# What of a body may wait to be taken before its upstream is held back.
WAITING_BYTES = 256 * 1024
# What of it is taken in one turn, so that a stream that is always ahead leaves the others theirs.
TURN_BYTES = 32 * 1024
# Shorter than servers keep a connection, so that few calls meet one that is just being closed.
IDLE_SECONDS = 20.0


@dataclass(slots=True)
class Origin:
    """Where connections go, and those that are idle, the one that was used last at the end."""

    host: str
    port: int
    tls: bool
    idle: dict[Connection, None] = field(default_factory=dict)


class HttptoolsEngine:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._tls: ssl.SSLContext | None = None
        self._origins: dict[tuple[str, int, bool], Origin] = {}
        self._heads: dict[str, tuple[Origin, str]] = {}
        self._open: set[Connection] = set()
        self._coming = 0  # connections that are just being made

    async def open(self, request: Request, going: Going = nothing) -> HttptoolsAnswer:
        origin, head = self._heads.get(request.url) or self._head(request.url)
        sent = _head(head, request.headers, len(request.body)) + request.body
        # An idle connection may be closed at the other end at the same moment, which is seen when all has been sent.
        connection = (None if request.once else self._idle(origin)) or await self._connect(origin)
        return await connection.exchange(sent, going)

    async def aclose(self) -> None:
        for connection in [*self._open]:
            connection.abort()

    def _head(self, url: str) -> tuple[Origin, str]:
        """What is the same in each request to this address."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        if not parts.hostname or not (url.isascii() and url.isprintable()):
            raise _unsendable()
        place = (parts.hostname, parts.port or (443 if tls else 80), tls)
        lines = [f"POST {parts.path or '/'} HTTP/1.1", f"host: {parts.netloc}"]
        lines += [f"{name}: {value}" for name, value in self._wire.headers.items()]
        found = (self._origins.setdefault(place, Origin(*place)), "\r\n".join(lines))
        self._heads[url] = found
        return found

    def _idle(self, origin: Origin) -> Connection | None:
        """One that has not been idle for long and is silent; the others are closed."""
        now = time.monotonic()
        while origin.idle and now - (oldest := next(iter(origin.idle))).idle_since > IDLE_SECONDS:
            oldest.abort()
        while origin.idle:
            connection, _ = origin.idle.popitem()
            if connection.silent():
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: Origin) -> Connection:
        self._make_room()
        connection = Connection(origin, self._open, asyncio.get_running_loop())
        self._coming += 1
        try:
            async with asyncio.timeout(self._wire.connect):
                await connection.connect(self._trust() if origin.tls else None)
        except BaseException as error:
            connection.abort()
            if isinstance(error, OSError | UnicodeError):  # no such name, refused, a wrong certificate, out of time
                raise UpstreamUnreachable("the upstream cannot be reached") from None
            raise
        finally:
            self._coming -= 1
        return connection

    def _make_room(self) -> None:
        """Closes an idle connection to another place where there are as many as may be. Raises UpstreamUnreachable."""
        if len(self._open) + self._coming < self._wire.connections:
            return
        idle = [next(iter(origin.idle)) for origin in self._origins.values() if origin.idle]
        if not idle:
            raise UpstreamUnreachable("every upstream connection is in use")
        min(idle, key=lambda connection: connection.idle_since).abort()

    def _trust(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context(cafile=certifi.where())
            if self._wire.ca:
                self._tls.load_verify_locations(cadata=self._wire.ca.decode("ascii"))
        return self._tls


class Connection(asyncio.Protocol):
    """``idle_since`` is of the monotonic clock."""

    def __init__(self, origin: Origin, opened: set[Connection], loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.idle_since = 0.0
        self._origin = origin
        self._opened = opened
        self._transport: asyncio.Transport | None = None
        self._come: select.poll | None = None  # tells whether something has come; there is none on Windows
        self._answer: HttptoolsAnswer | None = None
        self._interim = False
        self._unparsed = 0  # bytes since the parser last made something of them
        self._headers = 0
        self._sound = False  # whether another answer may follow

    async def connect(self, tls: ssl.SSLContext | None) -> None:
        """Raises OSError or UnicodeError."""
        sock = await reach(self.loop, self._origin.host, self._origin.port)
        try:
            name = self._origin.host if tls else None
            await self.loop.create_connection(lambda: self, sock=sock, ssl=tls, server_hostname=name)
        except BaseException:
            sock.close()
            raise

    async def exchange(self, sent: bytes, going: Going) -> HttptoolsAnswer:
        """Writes a request; returns when the head of its answer has come."""
        if self._transport is None or self._transport.is_closing():  # it was closed as soon as it was made
            self.abort()
            raise UpstreamUnreachable("the upstream closed the connection before it was asked")
        answer = self._answer = HttptoolsAnswer(self)
        self._unparsed = self._headers = 0
        going()
        self._transport.write(sent)
        try:
            await answer.have_head()
        except BaseException:
            self.abort()
            raise
        return answer

    def silent(self) -> bool:
        """Whether it is open and nothing has come on it: neither its end nor an answer that nobody asked for,
        be it only in the system's buffer yet."""
        if self._transport is None or self._transport.is_closing():
            return False
        return self._come is None or not self._come.poll(0)

    def abort(self) -> None:
        self._opened.discard(self)
        self._origin.idle.pop(self, None)
        if self._transport is not None:
            self._transport.abort()

    def hold(self, back: bool) -> None:
        """Stops what the upstream sends, or lets it go on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading() if back else self._transport.resume_reading()

    # asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)  # it calls the methods named on_... below
        self._opened.add(self)
        if hasattr(select, "poll"):
            self._come = select.poll()
            self._come.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self.abort()  # nobody asked
            return
        self._unparsed += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail()
        else:
            if self._answer.ended:
                self._next()
            elif self._unparsed > HEAD_BYTES:
                self._fail()

    def eof_received(self) -> bool:
        if self._answer is None:
            self.abort()
        elif not self._answer.framed:
            self._answer.end()  # its end is the end of the connection
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._fail()
        self._transport = None
        del self._parser  # it knows this one, and the collector does not come by often

    # httptools

    def on_message_begin(self) -> None:
        if self._answer is None or self._answer.ended:
            self._sound = False  # more has come than one answer
        self._interim = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        if self._answer is None or self._headers > HEADERS:
            raise ValueError
        if not self._answer.status:  # what comes behind the body says nothing of it
            self._answer.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._interim = status < 200
        if self._answer is None or self._answer.ended or status < 100 or status == 101:
            raise ValueError
        if self._interim:
            self._answer.headers.clear()
        else:
            self._unparsed = 0
            self._answer.begin(status)

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        if self._answer is not None and not self._answer.ended:
            self._answer.put(body)

    def on_message_complete(self) -> None:
        if self._answer is not None and not self._interim and not self._answer.ended:
            self._sound = self._parser.should_keep_alive()
            self._answer.end()

    # The end of an answer.

    def _next(self) -> None:
        """Keeps the connection for another exchange, if it can be trusted with one."""
        answer, self._answer = self._answer, None
        transport = self._transport
        # Where not all of the request has gone out yet, the next one would only wait behind it.
        if self._sound and transport and not transport.is_closing() and not transport.get_write_buffer_size():
            if answer is not None:
                answer.let_go()
            self.idle_since = time.monotonic()
            self._origin.idle[self] = None
        else:
            self.abort()

    def _fail(self) -> None:
        """An answer that has ended stays one, whatever was glued on to it."""
        if self._answer is not None:
            self._answer.fail()
        self._answer = None
        self.abort()


class HttptoolsAnswer:
    """``framed``: its head says where its body ends; ``ended``: nothing of it is still to come."""

    __slots__ = (
        *("_broken", "_connection", "_held", "_loop", "_pieces", "_rest", "_size", "_waiter"),
        *("ended", "framed", "headers", "status"),
    )

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.framed = True
        self.ended = False
        self._connection: Connection | None = connection
        self._loop = connection.loop
        self._broken = False
        self._held = False
        self._pieces: list[bytes] = []
        self._rest = False  # whether a turn left some of them
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None

    def header(self, name: str) -> str | None:
        wanted = name.encode()
        values = [value for given, value in self.headers if given == wanted]
        return values[0].decode("ascii") if values and values[0].isascii() else None

    async def have_head(self) -> None:
        while not self.status:
            await self._wait()

    async def chunk(self) -> bytes:
        """What is there, in one piece of some 32 kB; others have their turn before the rest of it."""
        if self._rest:
            self._rest = False
            await asyncio.sleep(0)
        while not self._pieces:
            if self.ended:
                return b""
            await self._wait()
        data = self._turn()
        if self._held and not self._pieces and self._connection is not None:
            self._held = False
            self._connection.hold(False)
        return data

    def _turn(self) -> bytes:
        if self._size <= TURN_BYTES:
            data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            self._size = 0
            return data
        size = count = 0
        while size < TURN_BYTES:
            size += len(self._pieces[count])
            count += 1
        data = b"".join(self._pieces[:count])
        del self._pieces[:count]
        self._size -= size
        self._rest = bool(self._pieces)
        return data

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and not self.ended:
            connection.abort()

    # The connection's side.

    def begin(self, status: int) -> None:
        self.framed = any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)
        self.status = status
        self._wake()

    def put(self, body: bytes) -> None:
        self._pieces.append(body)
        self._size += len(body)
        if self._size > WAITING_BYTES and not self._held and self._connection is not None:
            self._held = True
            self._connection.hold(True)
        self._wake()

    def end(self) -> None:
        self.ended = True
        self._wake()

    def fail(self) -> None:
        if not self.ended:
            self._broken = True
            self._wake()

    def let_go(self) -> None:
        """The connection is another's from now on."""
        if self._held and self._connection is not None:
            self._connection.hold(False)
        self._connection = None

    async def _wait(self) -> None:
        if self._broken:
            raise UpstreamBroken("the upstream broke off the connection")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _head(fixed: str, headers: Mapping[str, str], length: int) -> bytes:
    """The head of a request. Raises UpstreamUnreachable for what would not stay in its line."""
    for value in headers.values():
        if not (value.isascii() and value.isprintable()):
            raise _unsendable()
    lines = "".join([f"\r\n{name}: {value}" for name, value in headers.items()])
    return f"{fixed}{lines}\r\ncontent-length: {length}\r\n\r\n".encode("ascii")


def _unsendable() -> UpstreamUnreachable:
    return UpstreamUnreachable("the address or the key of the upstream cannot be sent over HTTP")
