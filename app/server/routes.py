"""The gateway's own routes: FastAPI's, with typed parameters, bodies and answers.

A resource is one file with an ``APIRouter`` whose ``route_class`` says who may call it: anyone (``OpenRoute``), the
callers (``CallerRoute``) or the operator (``OperatorRoute``). The key is checked before the body is read, the body is
read within the limits of the models' endpoints, and each failure has the one envelope. Functions are ``async``: FastAPI
runs others on threads, and what they look at belongs to the event loop.
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

from ..config.sources import dotted, worded
from ..core.errors import InvalidRequest
from ..core.types import Json
from ..endpoints.incoming import json_object
from .http import HTTPExchange
from .openapi import merged
from .snapshots import Generation

# The method of a HEAD request, which is served as a GET whose body the server leaves out.
ASKED = "torii.method"


def in_force(request: Request) -> Generation:
    """The configuration that the request met, also if a reload has come since."""
    found: Generation = request.state.generation
    return found


async def _in_force(request: Request) -> Generation:
    return in_force(request)


InForce = Annotated[Generation, Depends(_in_force)]


def refusals(*statuses: int) -> Json:
    """For ``openapi_extra``: the answers that all operations have in common, by their statuses."""
    return {"responses": {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}}


class OpenRoute(APIRoute):
    """A route that anyone may call. ``SAID`` is the part of the OpenAPI document that all such routes have."""

    SAID: ClassVar[Json] = {"security": [{}], **refusals(403, 405)}

    def __init__(self, *path_and_endpoint: Any, openapi_extra: Json | None = None, **options: Any) -> None:
        headers = {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", "x-torii-sandbox")}
        status = str(options.get("status_code") or 200)
        said = merged(self.SAID, {"responses": {status: {"headers": headers}}})
        super().__init__(*path_and_endpoint, openapi_extra=merged(said, openapi_extra or {}), **options)

    def admit(self, generation: Generation, exchange: HTTPExchange) -> None:
        """Raises Unauthorized, or NotFound where the route is not there, before anything of the body is read."""

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
        """The first mistake of a request: the field, and what would be right; never the value that was found."""
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
    """A route for whoever may use the models."""

    SAID: ClassVar[Json] = {
        "security": [{"bearer": []}, {"api-key": []}, {"x-api-key": []}, {}],
        **refusals(401, 403, 405, 500),
    }

    def admit(self, generation: Generation, exchange: HTTPExchange) -> None:
        generation.handlers.caller(exchange)


class OperatorRoute(OpenRoute):
    """A route that the operator's key alone opens. Without such a key there is nothing, as at any unknown path."""

    SAID: ClassVar[Json] = {
        "security": [{"bearer": []}, {"api-key": []}, {"x-api-key": []}],
        **refusals(401, 403, 404, 405, 500),
    }

    def admit(self, generation: Generation, exchange: HTTPExchange) -> None:
        if generation.operator is None:
            raise generation.handlers.not_found(exchange.path)
        generation.handlers.caller(exchange, generation.operator)


class _Read(Request):
    """A request whose body has been read. It is JSON whatever its content type says, as everywhere in the gateway."""

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
    raise AssertionError("an exchange that is only read from")
