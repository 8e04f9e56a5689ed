"""The application: settings in, one route for each endpoint out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import __version__
from ..config.settings import Settings
from ..core.errors import NotFound, Unavailable
from ..core.redaction import Redactor
from ..core.types import Json
from ..endpoints.chat import Chat
from ..endpoints.embeddings import Embeddings
from ..endpoints.rerank import Rerank
from ..endpoints.token_ids import decoder_or_none
from ..gateway.admission import Admission, Load
from ..gateway.batching import BatchingClient
from ..gateway.build import (
    WHOLE,
    Share,
    Shelf,
    build_callers,
    build_client,
    build_cors,
    build_disconnects,
    build_guard,
    build_operator,
    build_pools,
    build_routes,
    hosts,
    secrets,
)
from ..gateway.gateway import Gateway
from ..gateway.parts import Parts
from ..gateway.streaming import Streams
from ..routing.cooldowns import KeyStates
from ..routing.failover import Retries
from ..routing.pool import Pool
from ..storage.store import Database
from ..usage.ledger import Ledger
from ..usage.record import CallRecord, Recorder, log
from . import admin, docs, openapi
from .access import Access
from .handlers import Handlers, Limits
from .snapshots import Generation, Generations

T = TypeVar("T")

RESPONSES_HINT = (
    "Torii does not pass the Responses API on yet, which AIHubMix has. Use chat completions: "
    'in @ai-sdk/openai openai.chat("model"), in openai-agents OpenAIChatCompletionsModel, '
    "in the OpenAI SDKs client.chat.completions.create()"
)


Sink = Callable[[CallRecord], None]


@dataclass(frozen=True, slots=True)
class Process:
    """The parts that stay if settings change: other sinks of ended calls, the share of a worker, the open database,
    and what the cache keeps."""

    sinks: tuple[Sink, ...] = ()
    share: Share = WHOLE
    database: Database | None = None
    shelf: Shelf = field(default_factory=Shelf)


def create_app(settings: Settings, *sinks: Sink, share: Share = WHOLE, database: Database | None = None) -> FastAPI:
    """The gateway as an ASGI application; ``app.state.generations`` has what is in force, and changes it.

    ``sinks`` are handed the record of each call that has ended, beside the log and the ledger. ``share`` is for one
    worker of several. Without a ``database`` no ledger is kept; who has opened it closes it.
    """
    generations = Generations(partial(_generation, Process(sinks, share, database)), settings)
    # Only now: what this run finds out goes on with the keys.
    rests = KeyStates(database).remembered() if database else []
    for pool in generations.now.pools.values():
        pool.recall(rests)
    app = Torii(
        title="Torii",
        version=__version__,
        lifespan=_lifespan(generations),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.generations = generations
    app.state.generations = generations
    app.state.settings = settings
    app.router.routes += [RawRoute(path, generations.door(path), DOCUMENTS[path]) for path in generations.now.doors]
    if settings.docs_open:
        docs.add(app)
    docs.add_icon(app)
    app.add_exception_handler(HTTPException, generations.no_such_route)
    return app


class Torii(FastAPI):
    """Looks first whether a web page may ask. Posted calls, which is all that costs anything, then go straight to their
    doors; the rest through FastAPI's router, in which all of them are as well."""

    generations: Generations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        now = self.generations.now
        if scope["path"] not in now.doors:
            scope["path"] = meant(scope["path"], scope["raw_path"])
        send = now.access.sender(scope, send)
        door = now.access.door(scope)
        if door is None and scope["method"] == "POST":
            door = now.posted.get(scope["path"])
        await (door or super().__call__)(scope, receive, send)


def _generation(process: Process, settings: Settings, load: Load, others: Collection[str]) -> Generation:
    """Everything that depends on the settings. ``others`` are keys of configurations that are still at work."""
    own = frozenset(secrets(settings))
    redactor = Redactor({*own, *others}, hosts(settings))
    gateway, pools = _gateway(process, settings, redactor)
    limits = Limits(settings.max_body_megabytes, settings.timeouts.body_seconds, settings.ping_seconds)
    always = {"x-torii-sandbox": "true"} if settings.sandbox == "on" else {}
    handlers = Handlers(
        gateway,
        limits,
        _admission(process, settings, load, redactor),
        build_callers(settings),
        redactor,
        paths=openapi.PATHS,
        hints={} if settings.docs_open else docs.SWITCHED_OFF,
        always=always,
    )
    table = doors(handlers, Own(gateway, load, process.database), settings)
    table |= admin.doors(handlers, build_operator(settings), pools, redactor)
    return Generation(
        settings=settings,
        gateway=gateway,
        handlers=handlers,
        access=Access(handlers, build_cors(settings), build_guard(settings, PAGES)),
        pools=pools,
        doors=table,
        posted={path: door for path, door in table.items() if DOCUMENTS[path].method == "POST"},
        secrets=own,
    )


def _gateway(process: Process, settings: Settings, redactor: Redactor) -> tuple[Gateway, dict[str, Pool]]:
    routes = build_routes(settings)
    client = build_client(settings)
    remember = KeyStates(process.database).remember if process.database else None
    pools = build_pools(settings, routes, client, remember, process.share)
    retries = Retries(pools, most=settings.max_attempts)
    gateway = Gateway(
        routes=routes,
        cache=process.shelf.cache(settings),
        retries=retries,
        client=BatchingClient(client, retries),
        parts=Parts(max(1, settings.max_connections // 2)),
        streams=Streams(redactor, settings.ping_seconds),
    )
    return gateway, pools


def _admission(process: Process, settings: Settings, load: Load, redactor: Redactor) -> Admission:
    books = [Ledger(process.database, redactor.secrets)] if process.database else []
    return Admission(
        load,
        settings.max_calls,
        Recorder(log, *books, *process.sinks),
        build_disconnects(settings),
        settings.timeouts.total_seconds,
    )


def _lifespan(generations: Generations) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        generations.start()
        with suppress(asyncio.CancelledError):  # by a second Ctrl+C
            yield
        await generations.aclose()

    return lifespan


class RawRoute(APIRoute):
    """In FastAPI's router like any route, but served by ``asgi`` itself,
    without the work that FastAPI does for each call of an endpoint function."""

    def __init__(self, path: str, asgi: ASGIApp, document: openapi.Document) -> None:
        super().__init__(path, lambda: None, methods=[document.method], include_in_schema=False)
        self.app = asgi

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """HEAD is a GET whose answer has no body, which is left out where it is sent."""
        if scope["method"] == "HEAD" and "GET" in (self.methods or ()):
            await self.app(scope, receive, send)
        else:
            await super().handle(scope, receive, send)


_DOCUMENTS: dict[str, openapi.Document] = {
    "/v1/embeddings": openapi.EMBEDDINGS,
    "/v1/rerank": openapi.RERANK,
    "/v2/rerank": openapi.RERANK_V2,
    "/v1/chat/completions": openapi.CHAT,
    "/v1/models": openapi.MODELS,
    "/v1/models/{model:path}": openapi.MODEL,
    "/healthz": openapi.HEALTHZ,
    "/readyz": openapi.READYZ,
    "/v1/responses": openapi.RESPONSES,
}


def _bare(paths: Mapping[str, T]) -> dict[str, T]:
    """The base URL without /v1 is a common slip; it answers too, undocumented."""
    return {path.removeprefix("/v1"): value for path, value in paths.items() if path.startswith("/v1/")}


DOCUMENTS = {**_DOCUMENTS, **_bare(_DOCUMENTS), **admin.DOCUMENTS}
# The operator's are not among them: a rule of a proxy that closes their path must not be gone round.
FIXED = frozenset(path for path in DOCUMENTS if "{" not in path) - admin.DOCUMENTS.keys()


def meant(path: str, raw: bytes) -> str:
    """The fixed path that a client means whose base URL and path were joined with slashes too many, or with a version
    before the version. Any other path as it is: what it holds may be a URL, or a name with slashes."""
    if b"%" in raw:
        return path
    parts = [part for part in path.split("/") if part]
    while parts[:1] == ["v1"] and parts[1:2] in (["v1"], ["v2"]):
        del parts[0]
    plain = "/" + "/".join(parts)
    return plain if plain in FIXED else path


# Where a link on a page elsewhere may lead to, also of an open gateway. Nothing here asks a provider.
PAGES = frozenset(("/", "/healthz", "/readyz", "/v1/models", "/models", *docs.PATHS))


def doors(handlers: Handlers, own: Own, settings: Settings) -> dict[str, ASGIApp]:
    """The application of each path."""
    rerank = handlers.posted(Rerank())
    table: dict[str, ASGIApp] = {
        "/v1/embeddings": handlers.posted(Embeddings(decoder_or_none(settings.token_encoding))),
        "/v1/rerank": rerank,
        "/v2/rerank": rerank,
        "/v1/chat/completions": handlers.posted(
            Chat(settings.deepsearch.reasoning, settings.deepsearch.answer_chunk_characters)
        ),
        "/v1/models": handlers.simple(own.models),
        "/v1/models/{model:path}": handlers.simple(own.model),
        "/healthz": handlers.simple(own.healthz, known=False),
        "/readyz": handlers.simple(own.readyz, known=False),
        "/v1/responses": handlers.simple(own.responses, known=False),
    }
    return {**table, **_bare(table)}


class Own:
    """Answers of the gateway itself."""

    def __init__(self, gateway: Gateway, load: Load, database: Database | None) -> None:
        self._gateway = gateway
        self._load = load
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
        if self._load.leaving:
            raise Unavailable("shutting down", retry_after=1)
        return {"status": "ready"}

    def responses(self, scope: Scope) -> Json:
        raise NotFound(RESPONSES_HINT)
