"""ASGI handlers for callers' requests: authentication, admission, the endpoint's call, the error envelope."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from ..callers.keys import Caller, Callers, UnknownKey
from ..core.disconnects import CallerGone
from ..core.errors import (
    Barred,
    BodyTooSlow,
    Forbidden,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    TooLarge,
    ToriiError,
    Unauthorized,
    UnsupportedMedia,
    drop_traceback,
    public_error,
)
from ..core.redaction import Redactor
from ..core.web import WebRequest
from ..endpoints import Endpoint
from ..endpoints.incoming import RequestContext
from ..gateway.admission import Admission
from ..gateway.gateway import CallResult, Gateway
from .event_stream import EventStreamResponse
from .http import Head, HTTPExchange

logger = logging.getLogger("torii.edge")

Work = Callable[[HTTPExchange], Awaitable[None]]
Reading = Callable[[HTTPExchange], Awaitable[RequestContext]]
Begin = Callable[[HTTPExchange], object]

# Key in a request's scope: the callback that the server runs if the connection is lost; None outside a call.
LEAVE = "torii.leave"


def nothing(exchange: HTTPExchange) -> None: ...


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits of a request's body, and the seconds between two keep-alive comments of a silent stream."""

    body_megabytes: int = 32
    body_seconds: float = 60.0
    ping_seconds: float = 15.0


class Handlers:
    """Makes ASGI handlers, one for each endpoint. ``always``: headers of every response; ``paths``: listed in the 404
    message; ``hints``: 404 messages by path, for paths that other settings would enable."""

    def __init__(
        self,
        gateway: Gateway,
        limits: BodyLimits,
        admission: Admission,
        callers: Callers,
        redactor: Redactor,
        *,
        paths: tuple[str, ...] = (),
        hints: Mapping[str, str] | None = None,
        always: Mapping[str, str] | None = None,
    ) -> None:
        self.admission = admission
        self._callers = callers
        self._redactor = redactor
        self._gateway = gateway
        self._limits = limits
        self._paths = paths
        self._hints = hints or {}
        self._always = encoded(tuple((always or {}).items()))

    def posted(self, endpoint: Endpoint) -> ASGIApp:
        """A handler for an endpoint whose requests are JSON, or, if it takes a GET, a query."""
        return self.called(endpoint, partial(self._queried, endpoint) if endpoint.gets else self._posted)

    def called(self, endpoint: Endpoint, read: Reading, *, begin: Begin = nothing, queried: bool = True) -> ASGIApp:
        """A handler for an endpoint. The key and the overload limit are checked before ``read`` reads the body.
        ``begin`` is called first. Without ``queried`` the query is not the gateway's, and may hold anything."""

        async def work(exchange: HTTPExchange) -> None:
            begin(exchange)
            caller = await self.caller(exchange, endpoint.facts.name, queried=queried)
            with self.admission.admit(caller, exchange.id) as admitted:
                if admitted.account is not None:
                    exchange.limits = admitted.account.headers
                exchange.scope[LEAVE] = admitted.connection.leave
                try:
                    incoming = await read(exchange)
                    await self._answer(exchange, await self._gateway.handle(endpoint, incoming, admitted))
                except asyncio.CancelledError as error:
                    raise admitted.connection.ended() from error
                finally:
                    exchange.scope[LEAVE] = None

        return self._handler(work)

    async def _posted(self, exchange: HTTPExchange) -> RequestContext:
        return context(exchange, await self.body(exchange))

    async def _queried(self, endpoint: Endpoint, exchange: HTTPExchange) -> RequestContext:
        if exchange.scope["method"] == "POST":
            return await self._posted(exchange)
        query = exchange.scope["query_string"].decode("latin-1")
        fields = dict(parse_qsl(query, keep_blank_values=True, encoding="utf-8", errors="replace"))
        return context(exchange, msgspec.json.encode(endpoint.from_query(fields)))

    def response_handler(self, response: Response, asked: HTTPExchange) -> ASGIApp:
        """A handler that sends a response made by FastAPI, with the headers of every response. ``asked`` is the
        exchange in which the request was admitted."""

        async def work(exchange: HTTPExchange) -> None:
            exchange.follow(asked)
            head = [*self._head(exchange.id), *await what_is_left(exchange)]
            if response.media_type == "application/json":
                given = [header for header in response.raw_headers if header[0] not in CONTENT]
                await exchange.answer(response.status_code, bytes(response.body), [*given, *head])
                return
            response.raw_headers = [*response.raw_headers, *head]
            await exchange.pass_to(response)

        return self._handler(work)

    def body(self, exchange: HTTPExchange, *, forms: bool = False) -> Coroutine[Any, Any, bytes]:
        """The whole body of a request, within the limits. Raises as ``HTTPExchange.body``."""
        limits, turn = self._limits, self.admission.load.unpacking
        return exchange.body(limits.body_megabytes, limits.body_seconds, turn, forms=forms)

    def error_handler(self, error: Exception, asked: HTTPExchange | None = None) -> ASGIApp:
        """A handler that answers with ``error``. ``asked`` is as in ``response_handler``."""

        async def work(exchange: HTTPExchange) -> None:
            if asked is not None:
                exchange.follow(asked)
            raise error

        return self._handler(work)

    def empty(self, headers: Iterable[tuple[bytes, bytes]]) -> ASGIApp:
        """A handler that answers 204 with these headers and no body."""

        async def work(exchange: HTTPExchange) -> None:
            await exchange.begin(204, [*headers, *self._head(exchange.id)])
            await exchange.end()

        return self._handler(work)

    async def no_such_route(self, request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        path = request.scope["path"]
        failure: ToriiError = self.not_found(path)
        if status == 405:
            allow = ", ".join(methods_of(request)) or "POST"
            wrong = f"{request.method} is not allowed for {path[:200]}; use {allow}"
            failure = MethodNotAllowed(wrong, allow=allow)
        request_id = uuid4().hex
        note(request.scope, request_id, failure)
        body, head = self._refusal(failure, request_id)
        headers = {name.decode(): value.decode() for name, value in head}
        return Response(body, failure.status, headers, media_type="application/json")

    def _handler(self, work: Work) -> ASGIApp:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            exchange = HTTPExchange(scope, receive, send)
            try:
                await work(exchange)
            except CallerGone:
                return
            except Exception as error:
                if exchange.begun:  # too late for an envelope; the server closes the connection
                    raise
                if not isinstance(error, ToriiError):
                    logger.exception("request %s failed", exchange.id)
                await self._refuse(exchange, public_error(error))
                drop_traceback(error)

        return handler

    @property
    def open(self) -> bool:
        """True while anyone who reaches the gateway may use it."""
        return self._callers.open

    async def caller(self, exchange: HTTPExchange, endpoint: str | None = None, *, queried: bool = True) -> Caller:
        """The authenticated caller. Raises Unauthorized, also for a valid key in the query: queries get into logs; and
        Barred if the key may not be used for the endpoint, or from the caller's address."""
        if queried and exchange.scope["query_string"]:
            no_key_in_query(exchange)
        if not self.open and not KEY_HEADERS & exchange.headers.keys():
            no_token_alone(exchange)
        peer = exchange.scope.get("client")
        address = peer[0] if peer else None
        try:
            return self._callers.check(exchange.headers, address, endpoint)
        except UnknownKey:
            await self._callers.look()
        return self._callers.check(exchange.headers, address, endpoint)

    async def _answer(self, exchange: HTTPExchange, answer: CallResult) -> None:
        head = self._head(exchange.id, answer.headers)
        if exchange.limits is not None:
            head += await what_is_left(exchange)
        if answer.events is None:
            await exchange.answer(answer.status, answer.body, head, media=answer.media)
            return
        try:
            await EventStreamResponse(aiter(answer.events), head, self._limits.ping_seconds).serve(exchange)
        finally:
            await answer.events.aclose()

    async def _refuse(self, exchange: HTTPExchange, error: ToriiError) -> None:
        if not error.logged:
            note(exchange.scope, exchange.id, error)
        body, head = self._refusal(error, exchange.id)
        media = "application/json"
        if exchange.refusal is not None:
            body, media = exchange.refusal(error, self._redactor.envelope(error))
            head.append((b"x-content-type-options", b"nosniff"))
        head += await what_is_left(exchange)
        unread = isinstance(error, UNREAD)
        await exchange.answer(error.status, body, head, more=unread, media=media)
        if unread:
            await exchange.linger()
            await exchange.end()

    def _refusal(self, error: ToriiError, request_id: str) -> tuple[bytes, Head]:
        head = self._head(request_id, error.headers())
        if isinstance(error, UNREAD):
            head.append((b"connection", b"close"))
        return msgspec.json.encode(self._redactor.envelope(error)), head

    def _head(self, request_id: str, headers: Mapping[str, str] | None = None) -> Head:
        given = encoded(tuple(headers.items())) if headers else ()
        return [*given, *self._always, (b"x-request-id", request_id.encode())]

    def not_found(self, path: str) -> NotFound:
        has = f"This gateway serves {', '.join(self._paths)}"
        return NotFound(self._hints.get(path) or f"there is nothing at {path[:200]!r}. {has}")


def context(exchange: HTTPExchange, body: bytes, web: WebRequest | None = None) -> RequestContext:
    """The request as the endpoints read it."""
    headers = exchange.headers
    control = b",".join(headers.get(b"cache-control", ()))
    tag = b",".join(headers.get(b"x-torii-tag", ()))
    return RequestContext(exchange.path, body, exchange.id, control, tag, web)


def no_key_in_query(exchange: HTTPExchange, ids: Collection[str] = ()) -> None:
    """Raises Unauthorized if the query has a field in which clients of other services send their key. ``ids`` are
    fields that take a key's public id: a whole virtual key is refused there too."""
    for field in exchange.query():
        name, _, value = field.partition(b"=")
        if name.lower() in IN_QUERY and (name.decode("latin-1") not in ids or VIRTUAL.match(value)):
            raise Unauthorized("The query contains a key. Send keys in the header 'Authorization: Bearer <key>' only.")


def no_token_alone(exchange: HTTPExchange) -> None:
    """Raises InvalidRequest for a request whose only key is where Jina's reader would read one: in ``_token``."""
    if any(field.partition(b"=")[0] == b"_token" for field in exchange.query()):
        raise InvalidRequest(
            "a key in _token is not read here. Send the header 'Authorization: Bearer <key>'", param="_token"
        )


def methods_of(request: Request) -> list[str]:
    """The methods of all routes at the request's path; the router's own 405 names those of the first route only."""
    routes = request.app.router.routes
    return [name for name in METHODS if any(_serves(route, {**request.scope, "method": name}) for route in routes)]


def _serves(route: BaseRoute, scope: Scope) -> bool:
    return route.matches(scope)[0] is Match.FULL


async def what_is_left(exchange: HTTPExchange) -> Head:
    """The headers on the limits of the exchange's caller; none for a caller without limits."""
    if exchange.limits is None:
        return []
    return [(name.encode(), value.encode()) for name, value in (await exchange.limits()).items()]


def note(scope: Scope, request_id: str, error: ToriiError) -> None:
    """Log a refused request that has no line in the access log."""
    about = {"status": error.status, "error": error.code, "request_id": request_id}
    logger.info("%s %s was refused: %s", scope["method"], scope["path"][:200], error.message, extra=about)


@lru_cache(maxsize=1024)
def encoded(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[bytes, bytes], ...]:
    """Headers as bytes. Characters that are not printable ASCII become ``?``: a model's name may be in any script."""
    plain = ((name, "".join(char if char.isprintable() else "?" for char in value)) for name, value in headers)
    return tuple((name.encode(), value.encode("ascii", "replace")) for name, value in plain)


METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

# Headers that ``HTTPExchange.answer`` sets itself.
CONTENT = (b"content-type", b"content-length")

# Headers that may hold a caller's key.
KEY_HEADERS = frozenset((b"authorization", b"api-key", b"x-api-key"))

# Query parameters in which clients of other services send their key.
IN_QUERY = frozenset((b"key", b"api_key", b"api-key", b"apikey", b"access_token", b"token", b"authorization"))

# The beginning of virtual keys and management keys.
VIRTUAL = re.compile(rb"[sm]k-torii-")

# Errors that are sent before the whole body has been read.
UNREAD = (Unauthorized, Barred, Forbidden, Overloaded, BodyTooSlow, TooLarge, UnsupportedMedia)
