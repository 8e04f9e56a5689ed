"""One connection to an upstream: writes requests, and parses their answers with llhttp.

Input that llhttp accepts, but that would cost memory, is refused here: large heads, endless chunk lines.
"""

from __future__ import annotations

import asyncio
import select
import ssl
import time

import httptools

from ...core.errors import UpstreamBroken, UpstreamUnreachable
from ...core.transport import CoalescingTransport
from .base import BROKE_OFF, HEAD_BYTES, HEADERS, LARGE_HEAD, LARGE_REST, MALFORMED, MANY_HEADERS, BeforeSend
from .origin import Origin, idle_seconds
from .proxy import open_socket

# The most bytes of a body that are buffered before reading from the upstream is paused.
WAITING_BYTES = 256 * 1024
# The most bytes of a body that are taken at once, so that a fast stream does not starve the others.
TURN_BYTES = 32 * 1024


class Connection(asyncio.Protocol):
    """A connection, with at most one exchange at a time. ``idle_until``: the time on the monotonic clock until which it
    is kept; 0 if it has not been kept yet."""

    def __init__(self, origin: Origin[Connection], opened: set[Connection], loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.idle_until = 0.0
        self._origin = origin
        self._opened = opened
        self._transport: CoalescingTransport | None = None
        self._come: select.poll | None = None  # tells whether data has arrived; None on Windows, which has no poll
        self._answer: HttptoolsAnswer | None = None
        self._interim = False
        self._interims = 0
        self._unparsed = 0  # bytes received since the last head or piece of a body
        self._headers = 0
        self._odd = MALFORMED  # the message if the parser fails
        self._sound = False  # whether the connection may be used for another exchange

    async def connect(self, tls: ssl.SSLContext | None) -> None:
        """Raises OSError or UnicodeError."""
        sock = await open_socket(self.loop, self._origin)
        try:
            name = self._origin.host if tls else None
            await self.loop.create_connection(lambda: self, sock=sock, ssl=tls, server_hostname=name)
        except BaseException:
            sock.close()
            raise

    async def exchange(self, sent: bytes, before_send: BeforeSend) -> HttptoolsAnswer:
        """Writes a request, unless ``before_send`` raises; returns when the head of the answer has arrived."""
        if self._transport is None or self._transport.is_closing():  # closed as soon as it was opened
            self.abort()
            raise UpstreamUnreachable("the upstream closed the connection before it was asked")
        answer = self._answer = HttptoolsAnswer(self)
        self._unparsed = self._headers = self._interims = 0
        try:
            before_send()
            self._transport.write(sent)
            while not answer.status:
                await answer.wait()
        except BaseException:
            self.abort()
            raise
        return answer

    @property
    def heard(self) -> bool:
        """True if a failed exchange received any bytes of an answer; a 408 for the idle time before does not count."""
        return self._unparsed > 0

    def silent(self) -> bool:
        """True if the connection is open and has received nothing, not even into the system's buffer: neither its end
        nor an unrequested answer."""
        if self._transport is None or self._transport.is_closing():
            return False
        return self._come is None or not self._come.poll(0)

    def abort(self) -> None:
        self._opened.discard(self)
        self._origin.idle.pop(self, None)
        if self._transport is not None:
            self._transport.abort()

    def hold(self, back: bool) -> None:
        """Pauses reading from the upstream, or resumes it."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading() if back else self._transport.resume_reading()

    # asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP's and TLS's
        self._transport = CoalescingTransport(transport, self.loop)
        self._parser = httptools.HttpResponseParser(self)  # it calls the methods named on_... below
        self._opened.add(self)
        if hasattr(select, "poll"):
            self._come = select.poll()
            self._come.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self.abort()  # there is no request that this could answer
            return
        room = HEAD_BYTES - self._unparsed
        self._unparsed += len(data)
        try:
            if answer.status or len(data) <= room:
                self._parser.feed_data(data)
            else:
                self._feed_head(answer, data, room)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(self._odd)
        else:
            if answer.ended:
                self._next(answer)
            elif self._unparsed > HEAD_BYTES:
                self._fail(LARGE_REST if answer.status else LARGE_HEAD)

    def _feed_head(self, answer: HttptoolsAnswer, data: bytes, room: int) -> None:
        """Parses data larger than the rest of a head may be: the head has to end within ``room`` bytes. The body after
        it is passed to the parser in one piece."""
        end = min(data.find(b"\r\n\r\n", 0, room) + 4, room)
        self._parser.feed_data(data[:end])
        if not answer.status:  # an interim head (1xx), or a head that has not ended
            self._parser.feed_data(data[end:room])
            end = room
        if answer.status:
            self._parser.feed_data(memoryview(data)[end:])

    def eof_received(self) -> bool:
        if self._answer is None:
            self.abort()
        elif not self._answer.framed:
            self._answer.end()  # an answer without a length ends with the connection
        elif self._answer.coded:
            self._fail(MALFORMED)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._fail()
        self._transport = None
        del self._parser  # it refers to this connection: a cycle that the garbage collector would free late

    # httptools

    def on_message_begin(self) -> None:
        if self._answer is None or self._answer.ended:
            self._sound = False  # data after the answer
        self._interim = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        if self._headers > HEADERS:
            self._odd = MANY_HEADERS
        if self._answer is None or self._headers > HEADERS:
            raise ValueError
        if not self._answer.status:  # trailers are ignored
            self._answer.headers.setdefault(name.lower(), value)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._interim = status < 200
        if self._answer is None or self._answer.ended or status < 100 or status == 101:
            raise ValueError
        if self._interim:
            self._interims += 1
            self._headers = 0
            self._answer.headers.clear()
        elif status == 408 and self._is_of_before():
            self._unparsed = 0
            raise ValueError
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

    def _is_of_before(self) -> bool:
        """True if a 408 is about the time for which the kept connection was idle: it was sent before our request was
        read. RFC 9110, section 15.5.9; some servers send it as HTTP/1.0, without ``Connection: close``."""
        return self.idle_until > 0 and not self._interims and not self._parser.should_keep_alive()

    # The end of an answer.

    def _next(self, answer: HttptoolsAnswer) -> None:
        """Keeps the connection if it is safe to use for another exchange, and closes it otherwise."""
        self._answer = None
        transport = self._transport
        seconds = idle_seconds(answer.headers.get(b"keep-alive"))
        # If part of the request has not been sent yet, the next one would have to wait behind it.
        sent = transport and not transport.is_closing() and not transport.get_write_buffer_size()
        if self._sound and sent and seconds:
            answer.let_go()
            self.idle_until = time.monotonic() + seconds
            self._origin.keep(self)
        else:
            self.abort()

    def _fail(self, why: str = BROKE_OFF) -> None:
        """Fails the answer and closes the connection. An answer that has ended stays valid, whatever follows it."""
        if self._answer is not None:
            self._answer.fail(why)
        self._answer = None
        self.abort()


class HttptoolsAnswer:
    """An answer, filled by its connection.

    ``framed``: the head says how long the body is. ``ended``: the answer has arrived completely. ``headers``: the first
    value of each header, by its lower-case name.
    """

    __slots__ = (
        *("_broken", "_connection", "_held", "_loop", "_pieces", "_rest", "_size", "_waiter"),
        *("ended", "framed", "headers", "status"),
    )

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.framed = True
        self.ended = False
        self._connection: Connection | None = connection
        self._loop = connection.loop
        self._broken = ""  # the error message if the answer failed
        self._held = False
        self._pieces: list[bytes] = []
        self._rest = False  # whether the last turn left pieces
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None

    def header(self, name: str) -> str | None:
        value = self.headers.get(name.encode())
        return value.decode("ascii") if value is not None and value.isascii() else None

    async def chunk(self) -> bytes:
        """The part of the body that has arrived, in one piece of about 32 kB at most. Other tasks run before the rest
        is returned."""
        if self._rest:
            self._rest = False
            await asyncio.sleep(0)
        while (data := self.at_hand()) is None:
            await self.wait()
        return data

    def at_hand(self) -> bytes | None:
        if self._rest or not (self._pieces or self.ended):
            return None
        data = self._turn() if self._pieces else b""
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

    # Called by the connection.

    def begin(self, status: int) -> None:
        self.framed = b"content-length" in self.headers or b"transfer-encoding" in self.headers
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

    def fail(self, why: str) -> None:
        if not self.ended:
            self._broken = why
            self._wake()

    @property
    def coded(self) -> bool:
        """True if the body's transfer coding is one that does not mark its end."""
        return not self.headers.get(b"transfer-encoding", b"chunked").lower().endswith(b"chunked")

    def let_go(self) -> None:
        """Detaches the answer from its connection, which the next exchange may use."""
        if self._held and self._connection is not None:
            self._connection.hold(False)
        self._connection = None

    async def wait(self) -> None:
        """Waits until more of the answer has arrived. Raises UpstreamBroken if it failed."""
        if self._broken:
            raise UpstreamBroken(self._broken)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
