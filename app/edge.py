"""HTTP on the callers' side: requests read within their limits, answers written, every failure in the one envelope."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes
from uuid import uuid4

import msgspec
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .departures import CallerGone, Departures, Presence
from .endpoints import Endpoint
from .errors import (
    BodyTooSlow,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    TooLarge,
    ToriiError,
    Unauthorized,
    UnsupportedMedia,
    told,
)
from .gateway import Answer, Gateway, Incoming
from .keys import Caller, Callers

logger = logging.getLogger("torii.edge")

Work = Callable[[Scope, Receive, Send, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a request's body, in megabytes and seconds; how many seconds apart a silent stream says that it lives;
    and how many calls may be open at once, a stream until its end."""

    body_megabytes: int = 32
    body_seconds: float = 60.0
    ping_seconds: float = 15.0
    calls: int = 1000


@dataclass(slots=True)
class Load:
    """The open calls of a process, whichever configuration serves them; and whether it is about to go."""

    calls: int = 0
    leaving: bool = False


def _nothing() -> None: ...


@dataclass(slots=True)
class Open:
    """The open calls of one configuration, each a ``with``. ``ended`` is called when there are none any more."""

    load: Load
    most: int
    calls: int = 0
    ended: Callable[[], None] = field(default=_nothing, repr=False)

    def __enter__(self) -> None:
        if self.load.calls >= self.most:
            raise Overloaded(
                f"this gateway has {self.load.calls} calls open and takes no more at once (max_calls)", retry_after=1
            )
        self.load.calls += 1
        self.calls += 1

    def __exit__(self, *error: object) -> None:
        self.load.calls -= 1
        self.calls -= 1
        if not self.calls:
            self.ended()


class Edge:
    """Makes doors: ASGI applications, one for each endpoint. ``always`` are headers of every answer,
    ``paths`` what a caller who is lost is told that there is, ``departures`` what becomes of calls
    whose caller leaves."""

    def __init__(
        self,
        gateway: Gateway,
        limits: Limits,
        load: Load,
        *,
        paths: tuple[str, ...] = (),
        always: Mapping[str, str] | None = None,
        departures: Departures | None = None,
    ) -> None:
        self.open = Open(load, limits.calls)
        self._gateway = gateway
        self.departures = departures or Departures()
        self._limits = limits
        self._bytes = limits.body_megabytes * 1024 * 1024
        self._paths = paths
        self._always = dict(always or {})

    def posted(self, endpoint: Endpoint) -> ASGIApp:
        """A door to an endpoint: the key is checked before the body is read, and so is whether there is room."""

        async def work(scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
            caller = self._caller(scope)
            with self.open:
                body = await self._body(scope, receive)
                presence = Presence(self.departures, caller.name)
                incoming = Incoming(scope["path"], body, caller.name, request_id, presence)
                receive = until_over(receive, presence)
                try:
                    answer = await until_gone(receive, self._gateway.handle(endpoint, incoming))
                    await self._answer(answer, request_id, scope, receive, send)
                finally:
                    presence.end()

        return self._door(work)

    def simple(self, respond: Callable[[Scope], Any], *, known: bool = True, callers: Callers | None = None) -> ASGIApp:
        """A door to something of our own that is at hand; ``known`` callers only, or anybody.
        ``callers`` are those whom it is for, if others than the gateway's."""

        async def work(scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
            if known:
                self._caller(scope, callers)
            await self._send(send, 200, msgspec.json.encode(respond(scope)), self._headers(request_id))

        return self._door(work)

    def _door(self, work: Work) -> ASGIApp:
        async def door(scope: Scope, receive: Receive, send: Send) -> None:
            request_id = uuid4().hex
            begun = False

            async def sending(message: Message) -> None:
                nonlocal begun
                begun = True
                await send(message)

            try:
                await work(scope, receive, sending, request_id)
            except CallerGone:
                return
            except Exception as error:
                if begun:  # too late for an envelope; the server breaks the connection off
                    raise
                if not isinstance(error, ToriiError):
                    logger.exception("request %s failed", request_id)
                await self._refuse(told(error), request_id, receive, send)

        return door

    def nothing(self) -> ASGIApp:
        """A door to a path at which there is nothing, as things are."""

        async def work(scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
            raise self._not_found(scope["path"])

        return self._door(work)

    async def no_such_route(self, request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        path = request.scope["path"]
        if status == 405:
            allow = (getattr(error, "headers", None) or {}).get("Allow", "POST")
            failure: ToriiError = MethodNotAllowed(
                f"{request.method} is not for {path[:200]}; use {allow}", allow=allow
            )
        else:
            failure = self._not_found(path)
        body, headers = self._refusal(failure, uuid4().hex)
        return Response(body, failure.status, headers, media_type="application/json")

    def _not_found(self, path: str) -> NotFound:
        return NotFound(f"there is nothing at {path[:200]!r}. This gateway has {', '.join(self._paths)}")

    def _caller(self, scope: Scope, callers: Callers | None = None) -> Caller:
        """Who calls. A key in the query is refused even where it would be right: what is there gets into logs."""
        if any(field.partition(b"=")[0].lower() in IN_QUERY for field in fields(scope["query_string"])):
            raise Unauthorized("There is a key in the query. Send it in one header 'Authorization: Bearer <key>' only.")
        return (callers or self._gateway.callers).check(header(scope, b"authorization"))

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body. Refused before it is read where its head says enough."""
        if header(scope, b"content-encoding") not in ([], [b"identity"]):
            raise UnsupportedMedia("send the body uncompressed, without content-encoding")
        if any(kind.startswith(b"multipart/") for kind in header(scope, b"content-type")):
            raise UnsupportedMedia("send JSON, not a multipart form: content-type application/json")
        declared = header(scope, b"content-length")
        if declared and declared[0].isdigit() and int(declared[0]) > self._bytes:
            raise self._too_large()
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise CallerGone
                    pieces.append(message.get("body", b""))
                    size += len(pieces[-1])
                    if size > self._bytes:
                        raise self._too_large()
                    if not message.get("more_body"):
                        return b"".join(pieces)
        except TimeoutError:
            raise BodyTooSlow(f"the body did not arrive within {self._limits.body_seconds:g} seconds") from None

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self._limits.body_megabytes} MB (max_body_megabytes)")

    async def _answer(self, answer: Answer, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {**_plain(answer.headers), **self._headers(request_id)}
        if answer.events is None:
            await self._send(send, 200, answer.body, headers)
            return
        response = EventSourceResponse(
            answer.events, headers=headers, sep="\n", ping=self._limits.ping_seconds, ping_message_factory=_ping
        )
        try:
            await response(scope, *until_told(receive, send))
        finally:
            await answer.events.aclose()

    async def _refuse(self, error: ToriiError, request_id: str, receive: Receive, send: Send) -> None:
        body, headers = self._refusal(error, request_id)
        unread = isinstance(error, UNREAD)
        await self._send(send, error.status, body, headers, more=unread)
        if unread:
            await linger(receive)
            await send({"type": "http.response.body", "body": b""})

    def _refusal(self, error: ToriiError, request_id: str) -> tuple[bytes, dict[str, str]]:
        headers = {**_plain(error.headers()), **self._headers(request_id)}
        if isinstance(error, UNREAD):
            headers["connection"] = "close"
        return msgspec.json.encode(self._gateway.envelope(error)), headers

    def _headers(self, request_id: str) -> dict[str, str]:
        return {**self._always, "x-request-id": request_id}

    async def _send(
        self, send: Send, status: int, body: bytes, headers: Mapping[str, str], *, more: bool = False
    ) -> None:
        head = [(name.encode(), value.encode("ascii")) for name, value in headers.items()]
        head += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body, "more_body": more})


# Names under which clients of other services put their key into the query.
IN_QUERY = frozenset((b"key", b"api_key", b"api-key", b"apikey", b"access_token", b"token", b"authorization"))

# Refusals that are told before the body has been read.
UNREAD = (Unauthorized, Overloaded, BodyTooSlow, TooLarge, UnsupportedMedia)
LINGER_SECONDS = 2.0
LINGER_BYTES = 256 * 1024 * 1024


async def linger(receive: Receive) -> None:
    """Reads on for a while after a refusal: a connection closed on a caller who still sends is reset,
    and the reset may reach him before he has read why."""
    left = LINGER_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):
                    return


def until_over(receive: Receive, presence: Presence) -> Receive:
    """``receive`` as it is, but that a caller has left is told only when the call has to end with that."""

    async def receiving() -> Message:
        message = await receive()
        if message["type"] == "http.disconnect":
            await presence.gone()
        return message

    return receiving


async def until_gone(receive: Receive, work: Any) -> Any:
    """The work's result; the work is cancelled when the caller leaves. Raises CallerGone then."""
    task = asyncio.current_task()
    assert task is not None
    gone = finished = False

    def leave(watch: asyncio.Task[Any]) -> None:
        nonlocal gone
        if not watch.cancelled() and not finished:
            gone = True
            task.cancel()

    watch = asyncio.ensure_future(_disconnect(receive))
    watch.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:
            raise CallerGone from None
        raise
    finally:
        finished = True
        watch.cancel()


def until_told(receive: Receive, send: Send) -> tuple[Receive, Send]:
    """Both as they are, until ``receive`` tells that the caller has left; then ``send`` raises CallerGone.

    A stream is cancelled only where it waits, which one with an upstream that is always ahead may never do.
    """
    gone = False

    async def receiving() -> Message:
        nonlocal gone
        message = await receive()
        gone = gone or message["type"] == "http.disconnect"
        return message

    async def sending(message: Message) -> None:
        if gone:
            raise CallerGone
        await send(message)

    return receiving, sending


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def header(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def fields(query: bytes) -> list[bytes]:
    """The fields of a query, as they are meant."""
    return [unquote_to_bytes(field) for field in query.split(b"&")]


def _plain(headers: Mapping[str, str]) -> dict[str, str]:
    """A model's name may be in any script; a header's value is ASCII."""
    return {name: value.encode("ascii", "replace").decode() for name, value in headers.items()}


def _ping() -> ServerSentEvent:
    """A comment: an event in its place breaks 9 of 22 clients."""
    return ServerSentEvent(comment="ping", sep="\n")
