"""FastAPI routes for everything but the hot paths, with typed parameters, bodies and responses.

Each resource is one file with an ``APIRouter``. Its ``route_class`` decides who may call it: anyone (``OpenRoute``),
callers (``CallerRoute``) or the operator (``OperatorRoute``). The key is checked before the body is read, the body has
the limits of the models' endpoints, and every failure has the error envelope. Route functions must be ``async``:
FastAPI runs others in threads, and the gateway's state belongs to the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, ClassVar

from fastapi import Depends
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ..callers.keys import Caller
from ..config.sources import dotted, worded
from ..core.errors import InvalidRequest
from ..core.types import Json
from ..endpoints.incoming import json_object
from .http import HTTPExchange
from .openapi import CALLER_KEY, merged, refusals
from .snapshots import Generation

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

    def admit(self, generation: Generation, exchange: HTTPExchange) -> None:
        """Called before the body is read. Raises Unauthorized, or NotFound if the route is disabled."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        respond = super().get_route_handler()

        async def handler(request: Request) -> Response:
            request.scope["method"] = request.scope.pop(ASKED, request.method)
            generation = in_force(request)
            handlers = generation.handlers
            exchange = HTTPExchange(request.scope, request.receive, _unsent)
            try:
                self.admit(generation, exchange)
                if self.body_field is not None:
                    request = _Read(
                        request.scope, await handlers.body(exchange), self.body_field.field_info.is_required()
                    )
                answer = handlers.response_handler(await respond(request))
            except RequestValidationError as error:
                answer = handlers.error_handler(self._invalid(error))
            except Exception as error:  # noqa: BLE001 - raised again in the handler, which logs and answers it
                answer = handlers.error_handler(error)
            return answer  # type: ignore[return-value]  # any ASGI application will do

        return handler

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", ASKED: "HEAD"}
        await super().handle(scope, receive, send)

    def _invalid(self, error: RequestValidationError) -> InvalidRequest:
        """The first mistake of a request: the field and what is allowed, never the value that was sent."""
        first = error.errors()[0]
        place, *names = first["loc"]
        if place == "body" and self.body_field is not None:
            form, within = self.body_field.field_info.annotation, tuple(names)
        else:
            known = [*self.dependant.path_params, *self.dependant.query_params, *self.dependant.header_params]
            form = next((field.field_info.annotation for field in known if field.alias == names[0]), None)
            within = ()
        param = dotted(tuple(names)) or None
        words = worded(first, within, form)
        if first["type"] == "extra_forbidden":
            return InvalidRequest(f"{param}: {words.replace('key', 'field', 1)}", param=param)
        return InvalidRequest(f"{param or 'the body'} {words}", param=param)


class CallerRoute(OpenRoute):
    """A route for authenticated callers, as the models' endpoints are."""

    SAID: ClassVar[Json] = {
        "security": [*CALLER_KEY, {}],
        **refusals(401, 403, 405, 500),
    }

    def admit(self, generation: Generation, exchange: HTTPExchange) -> None:
        exchange.scope[CALLER] = generation.handlers.caller(exchange)


class OperatorRoute(OpenRoute):
    """A route for the operator's key only. If no operator key is set, it answers 404, as an unknown path does."""

    SAID: ClassVar[Json] = {
        "security": CALLER_KEY,
        **refusals(401, 403, 404, 405, 500),
    }

    def admit(self, generation: Generation, exchange: HTTPExchange) -> None:
        if generation.operator is None:
            raise generation.handlers.not_found(exchange.path)
        generation.handlers.caller(exchange, generation.operator)


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


async def _unsent(message: Message) -> None:
    raise AssertionError("this exchange is for reading only")
