"""FastAPI routes for everything but the hot paths, with typed parameters, bodies and responses.

Each resource is one file with an ``APIRouter``. Its ``route_class`` decides who may call it: anyone (``OpenRoute``),
callers (``CallerRoute``) or the operator (``OperatorRoute``). The key is checked before the body is read, the body has
the limits of the models' endpoints, and every failure has the error envelope. Route functions must be ``async``:
FastAPI runs others in threads, and the gateway's state belongs to the event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import parse_qsl

import msgspec
from fastapi import Depends
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ..callers.keys import Caller
from ..config.sources import dotted, unknown_key, worded
from ..core.errors import InvalidRequest
from ..core.names import shown
from ..core.types import Json
from ..endpoints.incoming import json_object
from .handlers import no_key_in_query
from .http import HTTPExchange
from .openapi import CALLER_KEY, merged, refusals
from .operators import Operator, operator_of
from .snapshots import Generation

# Key in a request's scope: who asks the operator's API.
OPERATOR = "torii.operator"
# Key in a request's scope: the authenticated caller of a CallerRoute.
CALLER = "torii.caller"
# Key in a request's scope: its original method, HEAD. It is served as a GET, and the server leaves out the body.
ASKED = "torii.method"


def in_force(request: Request) -> Generation:
    """The configuration in force when the request arrived, even if a reload has replaced it since."""
    found: Generation = request.state.generation
    return found


async def _in_force(request: Request) -> Generation:
    return in_force(request)


async def _calling(request: Request) -> Caller:
    found: Caller = request.scope[CALLER]
    return found


InForce = Annotated[Generation, Depends(_in_force)]
Calling = Annotated[Caller, Depends(_calling)]


class OpenRoute(APIRoute):
    """A route that anyone may call. ``SAID``: the part of the OpenAPI document that all routes of the class share."""

    SAID: ClassVar[Json] = {"security": [{}], **refusals(403, 405)}

    def __init__(self, *path_and_endpoint: Any, openapi_extra: Json | None = None, **options: Any) -> None:
        headers = {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", "x-torii-sandbox")}
        status = str(options.get("status_code") or 200)
        said = merged(self.SAID, {"responses": {status: {"headers": headers}}})
        super().__init__(*path_and_endpoint, openapi_extra=merged(said, openapi_extra or {}), **options)

    async def admit(self, generation: Generation, exchange: HTTPExchange) -> None:
        """Called before the body is read. Raises Unauthorized or PermissionDenied, or NotFound if the route is
        disabled."""

    async def serve(
        self, generation: Generation, exchange: HTTPExchange, respond: Callable[[], Awaitable[Response]]
    ) -> Response:
        """The response of the route's function, once the request was admitted and read."""
        return await respond()

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        respond = super().get_route_handler()

        async def handler(request: Request) -> Response:
            request.scope["method"] = request.scope.pop(ASKED, request.method)
            generation = in_force(request)
            handlers = generation.handlers
            exchange = HTTPExchange(request.scope, request.receive, _unsent)
            try:
                await self.admit(generation, exchange)
                if self.body_field is not None:
                    request = _Read(
                        request.scope, await handlers.body(exchange), self.body_field.field_info.is_required()
                    )
                response = await self.serve(generation, exchange, partial(self._validated, respond, request))
                answer = handlers.response_handler(response, exchange)
            except Exception as error:  # noqa: BLE001 - raised again in the handler, which logs and answers it
                answer = handlers.error_handler(error, exchange)
            return answer  # type: ignore[return-value]  # any ASGI application will do

        return handler

    async def _validated(self, respond: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
        try:
            return await respond(request)
        except RequestValidationError as error:
            raise self._invalid(error) from None

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", ASKED: "HEAD"}
        await super().handle(scope, receive, send)

    def _invalid(self, error: RequestValidationError) -> InvalidRequest:
        """The first mistake of a request: the field, what is allowed, and what came. No key gets any further: the
        envelope and the log are redacted."""
        first = error.errors()[0]
        place, *names = first["loc"]
        if place == "body" and self.body_field is not None:
            form, within = self.body_field.field_info.annotation, tuple(names)
        else:
            form = next((field.field_info.annotation for field in self._parameters() if field.alias == names[0]), None)
            within = ()
        param = dotted(tuple(names)) or None
        words = worded(first, within, form)
        if first["type"] == "extra_forbidden":
            return InvalidRequest(f"{param}: {words.replace('key', 'field', 1)}", param=param)
        came = "" if first["type"] == "missing" else f"; it is {_shown(first['input'])}"
        return InvalidRequest(f"{param or 'the body'} {words}{came}", param=param)

    def _parameters(self, *places: Literal["path", "query", "header"]) -> list[Any]:
        """The parameters of the route and of its dependencies; all ``places`` if none are given."""
        found, left = list[Any](), [self.dependant]
        while left:
            each = left.pop()
            left += each.dependencies
            for place in places or ("path", "query", "header"):
                found += getattr(each, f"{place}_params")
        return found


class CallerRoute(OpenRoute):
    """A route for authenticated callers, as the models' endpoints are."""

    SAID: ClassVar[Json] = {
        "security": [*CALLER_KEY, {}],
        **refusals(401, 403, 405, 500),
    }

    async def admit(self, generation: Generation, exchange: HTTPExchange) -> None:
        exchange.scope[CALLER] = await generation.handlers.caller(exchange)


class OperatorRoute(OpenRoute):
    """A route of the operator's API: for the operator's key, and for management keys with the scope admin, or read_only
    for a GET. Without an operator key and management keys it answers 404, as an unknown path does; so it does on the
    port of callers if the operator has a port of its own.

    A query with a parameter that the route does not have is refused. ``FOR_TEAMS``: the route is also for management
    keys of one team; what they may see and change is the route's part.
    """

    SAID: ClassVar[Json] = {"security": CALLER_KEY, **refusals(400, 401, 403, 404, 405, 500, 503)}
    FOR_TEAMS: ClassVar[bool] = False

    async def admit(self, generation: Generation, exchange: HTTPExchange) -> None:
        port = generation.settings.operator_port
        elsewhere = port is not None and exchange.port != port
        operator = None if elsewhere else await operator_of(exchange, generation.operator, generation.callers)
        if operator is None:
            raise generation.handlers.not_found(exchange.path)
        operator.check(exchange.scope["method"], teams=self.FOR_TEAMS)
        self._check_query(exchange)
        exchange.scope[OPERATOR] = operator

    def _check_query(self, exchange: HTTPExchange) -> None:
        """Raises Unauthorized for a key in the query, InvalidRequest for a parameter that the route does not have. A
        parameter ``key`` of the route takes a public id."""
        known = {field.alias for field in self._parameters("query")}
        no_key_in_query(exchange, known)
        for name, _ in parse_qsl(exchange.scope["query_string"].decode("latin-1"), keep_blank_values=True):
            if name not in known:
                words = unknown_key(name, known).replace("key", "parameter", 1) if known else "this path takes no query"
                raise InvalidRequest(f"{shown(name)}: {words}", param=shown(name))


class TeamRoute(OperatorRoute):
    """A route of the operator's API that is also for management keys of one team."""

    FOR_TEAMS = True


async def _operator(request: Request) -> Operator:
    found: Operator = request.scope[OPERATOR]
    return found


Asked = Annotated[Operator, Depends(_operator)]


class _Read(Request):
    """A request whose body has been read. The body is taken as JSON, whatever its content type, as on the hot paths."""

    def __init__(self, scope: Scope, body: bytes, required: bool) -> None:
        super().__init__(scope)
        self._given = body
        self._value = json_object(body) if body or required else None

    @property
    def headers(self) -> Headers:
        headers = super().headers.mutablecopy()
        headers["content-type"] = "application/json"
        return headers

    async def body(self) -> bytes:
        return self._given

    async def json(self) -> Any:
        return self._value


def _shown(value: Any) -> str:
    """A value that was sent, short and on one line."""
    if isinstance(value, str):
        return f"'{shown(value)}'"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return shown(msgspec.json.encode(value).decode())


async def _unsent(message: Message) -> None:
    raise AssertionError("this exchange is for reading only")
