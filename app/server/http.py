"""One request of a caller, and its answer: the head looked at once, the body read within limits, the answer sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, suppress
from urllib.parse import unquote_to_bytes

from starlette.types import Receive, Scope, Send

from ..core.deadlines import Timeout
from ..core.disconnects import CallerGone
from ..core.errors import BodyTooSlow, TooLarge, UnsupportedMedia
from ..core.origins import Headers
from ..upstreams.client.decompression import Inflate, packed

LINGER_SECONDS = 2.0
LINGER_BYTES = 256 * 1024 * 1024
# Up to which a body is unpacked without waiting for others.
SMALL = 256 * 1024

# What the gateway's own server has beside what ASGI has, by its name in the scope. WHOLE: it takes an answer in one
# message, or, of the type BEGIN, a stream's head with its first piece. BODY: gives the request's body, or None where
# not all of it has come.
WHOLE = "torii.whole"
BEGIN = "torii.begin"
BODY = "torii.body"
# All values of each header, by its name in lower case: put there by who looks at them first.
HEADERS = "torii.headers"

Head = list[tuple[bytes, bytes]]


def headers_of(scope: Scope) -> Headers:
    """A request's headers."""
    found: dict[bytes, list[bytes]] | None = scope.get(HEADERS)
    if found is None:
        found = scope[HEADERS] = {}
        for name, value in scope["headers"]:
            found.setdefault(name, []).append(value)
    return found


class HTTPExchange:
    """``begun``: something of an answer was sent, so that there can be no other."""

    __slots__ = ("_at_hand", "_receive", "_send", "begun", "headers", "id", "scope")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.id = os.urandom(16).hex()
        self.begun = False
        self._at_hand: Callable[[], bytes | None] | None = scope.pop(BODY, None)  # it knows the scope
        self._receive = receive
        self._send = send
        self.headers = headers_of(scope)

    @property
    def path(self) -> str:
        path: str = self.scope["path"]
        return path

    def header(self, name: bytes) -> list[bytes]:
        """All values of a header, whose name is in lower case."""
        return self.headers.get(name, [])

    def query(self) -> list[bytes]:
        """The fields of the query, as they are meant."""
        query: bytes = self.scope["query_string"]
        return [unquote_to_bytes(field) for field in query.split(b"&")] if query else []

    async def body(self, megabytes: int, seconds: float, turn: asyncio.Lock) -> bytes:
        """The whole body. Refused before it is read where its head says enough. ``turn`` is for packed ones that
        become large. Raises CallerGone."""
        encoding = self.header(b"content-encoding")
        inflate = packed(b",".join(encoding).decode("latin-1")) if encoding else None
        for kind in self.header(b"content-type"):
            if kind.lower().startswith(b"multipart/"):
                raise UnsupportedMedia("send JSON, not a multipart form: content-type application/json")
        declared = self.header(b"content-length")
        if declared and declared[0].isdigit() and int(declared[0]) > megabytes << 20:
            raise _too_large(megabytes)
        body = self._at_hand() if self._at_hand is not None else None
        if body is None:
            try:
                with Timeout(seconds):
                    body = await self._read(megabytes)
            except TimeoutError:
                raise BodyTooSlow(f"the body did not arrive within {seconds:g} seconds") from None
        body = _bounded(body, megabytes)
        return await _unpacked(inflate, body, megabytes, turn) if inflate else body

    async def _read(self, megabytes: int) -> bytes:
        body, more = b"", True
        while more:
            data, more = await self._received()
            # Appended to, not collected: most bodies come in one piece.
            body = _bounded(body + data if body else data, megabytes)
        return body

    async def _received(self) -> tuple[bytes, bool]:
        """The part of the body that has come, and True if there is more of it."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise CallerGone
        return message.get("body", b""), message.get("more_body", False)

    async def answer(self, status: int, body: bytes, head: Head, *, more: bool = False) -> None:
        """A whole answer in JSON; with ``more`` its end is still to be said."""
        given = [*head, (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if not more and WHOLE in self.scope and self.scope["method"] != "HEAD":
            self.begun = True
            await self._send({"type": WHOLE, "status": status, "headers": given, "body": body})
            return
        await self.begin(status, given)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def begin(self, status: int, head: Iterable[tuple[bytes, bytes]], first: bytes = b"") -> None:
        """``first`` is of the body, where something of it is at hand."""
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

    async def linger(self) -> None:
        """Reads on for a while after a refusal: a connection closed on a caller who still sends is reset,
        and the reset may reach him before he has read why."""
        left = LINGER_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while left > 0:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body"):
                        return


async def _unpacked(inflate: Inflate, packed: bytes, megabytes: int, turn: asyncio.Lock) -> bytes:
    """Only when all of it has come, and of the large ones one at a time: a few kB sent would else hold megabytes for as
    long as the rest is awaited, or in each of many calls at once. Between two steps others have their turn."""
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
