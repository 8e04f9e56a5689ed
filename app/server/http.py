"""One HTTP exchange with a caller: the head is parsed once, the body read within limits, the response sent."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Receive, Scope, Send

from ..core.deadlines import Timeout
from ..core.disconnects import CallerGone
from ..core.errors import BodyTooSlow, TooLarge, ToriiError, UnsupportedMedia
from ..core.origins import Headers
from ..core.types import Json
from ..upstreams.client.decompression import Inflate, packed

LINGER_SECONDS = 2.0
LINGER_BYTES = 256 * 1024 * 1024
# Bytes up to which a body is decompressed without waiting for other calls.
SMALL = 256 * 1024

# Extensions of ASGI by the gateway's own server, as keys of the scope. WHOLE: the server takes a whole response in one
# message, or a stream's head with its first piece in a message of type BEGIN. BODY: a callable that returns the
# request's body, or None if the body has not arrived completely.
WHOLE = "torii.whole"
BEGIN = "torii.begin"
BODY = "torii.body"
# Key of the scope: all values of each header by its lower-case name, set by the first use of ``headers_of``.
HEADERS = "torii.headers"

Head = list[tuple[bytes, bytes]]


def headers_of(scope: Scope) -> Headers:
    """A request's headers: all values of each, by lower-case name."""
    found: dict[bytes, list[bytes]] | None = scope.get(HEADERS)
    if found is None:
        found = scope[HEADERS] = {}
        for name, value in scope["headers"]:
            found.setdefault(name, []).append(value)
    return found


def new_id() -> str:
    """A request id: 32 hexadecimal digits, of which the first 12 are the time. New ids lie side by side in the ledger's
    indexes, so that a group of calls changes few pages of the file."""
    return f"{time.time_ns() // 1_000_000 << 80 | random.getrandbits(80):032x}"


class HTTPExchange:
    """``begun``: True once a part of a response was sent, so that no other response can follow. ``limits`` returns
    headers of the response that say what is left of the caller's limits; None for a caller without limits. ``refusal``
    writes an error, given with its envelope, and says its media type; None for the envelope as JSON."""

    __slots__ = ("_at_hand", "_receive", "_send", "begun", "headers", "id", "limits", "refusal", "scope")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.id = new_id()
        self.begun = False
        self.limits: Callable[[], Awaitable[Mapping[str, str]]] | None = None
        self.refusal: Callable[[ToriiError, Json], tuple[bytes, str]] | None = None
        self._at_hand: Callable[[], bytes | None] | None = scope.pop(BODY, None)  # it refers to the scope
        self._receive = receive
        self._send = send
        self.headers = headers_of(scope)

    def follow(self, asked: HTTPExchange) -> None:
        """This exchange answers the request of ``asked``: it has the same id and limits."""
        self.id, self.limits = asked.id, asked.limits

    @property
    def path(self) -> str:
        path: str = self.scope["path"]
        return path

    @property
    def port(self) -> int | None:
        """The port at which the request arrived."""
        server = self.scope.get("server")
        return server[1] if server else None

    def header(self, name: bytes) -> list[bytes]:
        """All values of a header; ``name`` is in lower case."""
        return self.headers.get(name, [])

    def query(self) -> list[bytes]:
        """The fields of the query, percent-decoded."""
        query: bytes = self.scope["query_string"]
        return [unquote_to_bytes(field) for field in query.split(b"&")] if query else []

    async def body(self, megabytes: int, seconds: float, turn: asyncio.Lock, *, forms: bool = False) -> bytes:
        """The whole body, decompressed. ``turn`` is held while a large compressed body is decompressed. ``forms``: it
        may be a multipart form.

        Raises UnsupportedMedia, TooLarge (before the body is read, if its declared length is too large), BodyTooSlow
        and CallerGone.
        """
        headers = self.headers
        encoding = headers.get(b"content-encoding")
        inflate = packed(b",".join(encoding).decode("latin-1")) if encoding else None
        for kind in headers.get(b"content-type", ()):
            if kind.lower().startswith(b"multipart/") and not forms:
                raise UnsupportedMedia("send JSON, not a multipart form: content-type application/json")
        declared = headers.get(b"content-length")
        if declared and declared[0].isdigit() and int(declared[0]) > megabytes << 20:
            raise _too_large(megabytes)
        body = self._at_hand() if self._at_hand is not None else None
        if body is None:
            try:
                with Timeout(seconds):
                    body = await self._read(megabytes)
            except TimeoutError:
                raise BodyTooSlow(f"the body did not arrive within {seconds:g} seconds") from None
        if len(body) > megabytes << 20:
            raise _too_large(megabytes)
        return await _unpacked(inflate, body, megabytes, turn) if inflate else body

    async def _read(self, megabytes: int) -> bytes:
        body, more = b"", True
        while more:
            data, more = await self._received()
            # Appended rather than collected in a list: most bodies arrive in one piece.
            body = _bounded(body + data if body else data, megabytes)
        return body

    async def _received(self) -> tuple[bytes, bool]:
        """The next part of the body, and True if more follows. Raises CallerGone."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise CallerGone
        return message.get("body", b""), message.get("more_body", False)

    async def answer(
        self, status: int, body: bytes, head: Head, *, more: bool = False, media: str = "application/json"
    ) -> None:
        """Send a whole response, JSON unless ``media`` says otherwise; if ``more``, ``end`` must follow."""
        given = [*head, (b"content-type", media.encode("ascii")), (b"content-length", str(len(body)).encode())]
        if not more and WHOLE in self.scope and self.scope["method"] != "HEAD":
            self.begun = True
            await self._send({"type": WHOLE, "status": status, "headers": given, "body": body})
            return
        await self.begin(status, given)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def begin(self, status: int, head: Iterable[tuple[bytes, bytes]], first: bytes = b"") -> None:
        """Send the head; ``first`` is the first piece of the body, if one is available."""
        self.begun = True
        if first and WHOLE in self.scope and self.scope["method"] != "HEAD":
            await self._send({"type": BEGIN, "status": status, "headers": head, "body": first})
            return
        await self._send({"type": "http.response.start", "status": status, "headers": head})
        if first:
            await self.say(first)

    async def say(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def pass_to(self, application: ASGIApp) -> None:
        """Let another ASGI application respond."""
        self.begun = True
        await application(self.scope, self._receive, self._send)

    async def linger(self) -> None:
        """Read on for a while after a refusal: a connection closed while the caller still sends is reset, and the reset
        may arrive before the caller has read the response."""
        left = LINGER_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while left > 0:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body"):
                        return


async def _unpacked(inflate: Inflate, packed: bytes, megabytes: int, turn: asyncio.Lock) -> bytes:
    """The decompressed body. Raises TooLarge.

    A body is decompressed only after it has arrived completely, and large bodies one at a time: otherwise a few kB
    could hold megabytes while the rest is awaited, or in many calls at once. Other tasks run between two steps.
    """
    body = bytearray()
    async with AsyncExitStack() as mine:
        waiting = True
        for piece in inflate.steps(packed):
            body += piece
            if len(body) > megabytes << 20:
                raise _too_large(megabytes)
            if waiting and len(body) > SMALL:
                await mine.enter_async_context(turn)
                waiting = False
            await asyncio.sleep(0)
        inflate.end()
        return bytes(body)


def _bounded(body: bytes, megabytes: int) -> bytes:
    if len(body) > megabytes << 20:
        raise _too_large(megabytes)
    return body


def _too_large(megabytes: int) -> TooLarge:
    return TooLarge(f"the body is larger than {megabytes} MB (max_body_megabytes)")
