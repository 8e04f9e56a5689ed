"""The application: settings in, one route for each endpoint out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Scope

from . import __version__, openapi
from .assembly import build_callers, build_client, build_departures, build_pools, build_routes, hosts, secrets
from .attempts import Attempts
from .docs import add_docs
from .edge import Edge, Limits
from .endpoints.chat import Chat
from .endpoints.embeddings import Embeddings
from .endpoints.rerank import Rerank
from .errors import NotFound, Unavailable
from .gateway import Gateway
from .ledger import Ledger
from .meter import Meter, Record, log
from .redact import Redactor
from .settings import Settings
from .store import Database
from .tokens import decoder_or_none
from .types import Json

RESPONSES_HINT = (
    "Torii has no Responses API, because neither provider has one. Use chat completions: "
    'in @ai-sdk/openai openai.chat("model"), in openai-agents OpenAIChatCompletionsModel, '
    "in the OpenAI SDKs client.chat.completions.create()"
)


def create_app(settings: Settings, *sinks: Callable[[Record], None], database: Database | None = None) -> FastAPI:
    """The gateway as an ASGI application; ``app.state.gateway`` is its Gateway.

    ``sinks`` are handed the record of each call that has ended, beside the log and the ledger.
    Without a ``database`` no ledger is kept; who has opened it closes it.
    """
    redactor = Redactor(secrets(settings), hosts(settings))
    books = [Ledger(database, redactor.secrets)] if database else []
    limits = settings.timeouts
    gateway = Gateway(
        callers=build_callers(settings),
        routes=build_routes(settings),
        client=build_client(settings),
        attempts=Attempts(build_pools(settings), most=settings.max_attempts),
        meter=Meter(log, *books, *sinks),
        seconds=limits.total_seconds,
        message=redactor.message,
    )
    departures = build_departures(settings)
    edge = Edge(
        gateway,
        Limits(settings.max_body_megabytes, limits.body_seconds, settings.ping_seconds),
        paths=openapi.PATHS,
        always={"x-torii-sandbox": "true"} if settings.sandbox == "on" else {},
        departures=departures,
    )
    app = FastAPI(
        title="Torii",
        version=__version__,
        lifespan=_lifespan(gateway),
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs_open else None,
        redirect_slashes=False,
    )
    # FastAPI's own would leave out every null, also from the examples. This one is built when it is first asked for.
    app.openapi = partial(openapi.document, __version__)  # type: ignore[method-assign]
    app.state.gateway = gateway
    app.state.departures = departures
    app.state.settings = settings
    app.router.routes += routes(edge, Own(gateway, database), settings)
    if settings.docs_open:
        add_docs(app)
    app.add_exception_handler(HTTPException, edge.no_such_route)
    return app


def _lifespan(gateway: Gateway) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        yield
        await gateway.aclose()

    return lifespan


class RawRoute(APIRoute):
    """In FastAPI's router like any route, but served by ``asgi`` itself,
    without the work that FastAPI does for each call of an endpoint function."""

    def __init__(self, path: str, asgi: ASGIApp, document: openapi.Document) -> None:
        super().__init__(path, lambda: None, methods=[document.method], include_in_schema=False)
        self.app = asgi


def routes(edge: Edge, own: Own, settings: Settings) -> list[RawRoute]:
    chat = Chat(settings.deepsearch.reasoning, settings.deepsearch.answer_chunk_characters)
    embeddings = Embeddings(decoder_or_none(settings.token_encoding))
    rerank = Rerank()
    table: list[tuple[str, ASGIApp, openapi.Document]] = [
        ("/v1/embeddings", edge.posted(embeddings), openapi.EMBEDDINGS),
        ("/v1/rerank", edge.posted(rerank), openapi.RERANK),
        ("/v2/rerank", edge.posted(rerank), openapi.RERANK_V2),
        ("/v1/chat/completions", edge.posted(chat), openapi.CHAT),
        ("/v1/models", edge.simple(own.models), openapi.MODELS),
        ("/v1/models/{model:path}", edge.simple(own.model), openapi.MODEL),
        ("/healthz", edge.simple(own.healthz, known=False), openapi.HEALTHZ),
        ("/readyz", edge.simple(own.readyz, known=False), openapi.READYZ),
        ("/v1/responses", edge.simple(own.responses, known=False), openapi.RESPONSES),
    ]
    named = [RawRoute(path, asgi, document) for path, asgi, document in table]
    # The base URL without /v1 is a common slip; it answers too, undocumented.
    bare = [
        RawRoute(path.removeprefix("/v1"), asgi, document) for path, asgi, document in table if path.startswith("/v1/")
    ]
    return [*named, *bare]


class Own:
    """What the gateway answers by itself."""

    def __init__(self, gateway: Gateway, database: Database | None) -> None:
        self._gateway = gateway
        self._database = database

    def models(self, scope: Scope) -> Json:
        return {"object": "list", "data": self._gateway.routes.models()}

    def model(self, scope: Scope) -> Json:
        return self._gateway.routes.describe(scope["path_params"]["model"])

    def healthz(self, scope: Scope) -> Json:
        trouble = self._database.health if self._database else None
        alive: Json = {"status": "degraded" if trouble else "ok", "version": __version__}
        return {**alive, "database": asdict(trouble)} if trouble else alive

    def readyz(self, scope: Scope) -> Json:
        if self._gateway.draining:
            raise Unavailable("shutting down", retry_after=1)
        return {"status": "ready"}

    def responses(self, scope: Scope) -> Json:
        raise NotFound(RESPONSES_HINT)
