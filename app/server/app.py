"""The application: settings in, one route for each endpoint out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import __version__
from ..config.settings import Settings
from ..core.redaction import Redactor
from ..endpoints import ENDPOINTS, Options
from ..gateway.admission import Admission, Load
from ..gateway.batching import BatchingClient
from ..gateway.build import (
    WHOLE,
    Share,
    SharedTiers,
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
from ..storage.ledger_file import LedgerFile
from ..usage.ledger import Ledger
from ..usage.record import CallRecord, Recorder
from . import access_log, admin, docs, models, process
from .access import Access
from .handlers import Handlers, Limits
from .snapshots import Generation, Generations

Sink = Callable[[CallRecord], None]


@dataclass(frozen=True, slots=True)
class Process:
    """The parts that stay if settings change: other sinks of ended calls, the share of a worker, the open database,
    and what the cache keeps."""

    sinks: tuple[Sink, ...] = ()
    share: Share = WHOLE
    database: LedgerFile | None = None
    tiers: SharedTiers = field(default_factory=SharedTiers)


def create_app(settings: Settings, *sinks: Sink, share: Share = WHOLE, database: LedgerFile | None = None) -> FastAPI:
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
    app.state.database = database
    hot = Hot(generations)
    app.router.routes += [Route(path, hot, methods=["POST"]) for path in HOT]
    for prefix, router in (*SHOWN, *HIDDEN):
        app.include_router(router, prefix=prefix, include_in_schema=(prefix, router) in SHOWN)
    app.include_router(admin.router)
    if settings.docs_open:
        docs.add(app)
    docs.add_icon(app)
    app.add_exception_handler(HTTPException, generations.no_such_route)
    return app


class Torii(FastAPI):
    """Looks first whether a web page may ask. Calls to the hot paths then go straight to their doors; the rest through
    FastAPI's router."""

    generations: Generations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        now = self.generations.now
        if scope["path"] not in FIXED:
            scope["path"] = meant(scope["path"], scope["raw_path"])
        send = now.access.sender(scope, send)
        door = now.access.door(scope)
        if door is None and scope["method"] == "POST":
            door = now.hot.get(scope["path"])
        if door is not None:
            await door(scope, receive, send)
            return
        scope.setdefault("state", {})["generation"] = now
        await super().__call__(scope, receive, send)


# The hot paths, and the only ones that are no routes of FastAPI's: their bodies must pass unharmed, with fields that
# nobody here knows, and an answer is bytes that a provider wrote. FastAPI's router, its dependencies, validation and
# serialising would cost each call more than the gateway does.
_HOT = tuple(path for endpoint in ENDPOINTS.values() for path in endpoint.paths)
HOT = (*_HOT, *(path.removeprefix("/v1") for path in _HOT if path.startswith("/v1/")))


def _hot(handlers: Handlers, settings: Settings) -> dict[str, ASGIApp]:
    """The application of each hot path."""
    options = Options(
        settings.token_encoding, settings.deepsearch.reasoning, settings.deepsearch.answer_chunk_characters
    )
    table: dict[str, ASGIApp] = {}
    for endpoint in ENDPOINTS.values():
        table |= dict.fromkeys(endpoint.paths, handlers.posted(endpoint.configured(options)))
    # The base URL without /v1 is a common slip; it answers too, undocumented.
    return {path: table.get(path) or table[f"/v1{path}"] for path in HOT}


# The routes of ``routes.py``, below their prefixes, that are in the OpenAPI document, and those that are not.
SHOWN = (("/v1", models.router), ("", process.router))
HIDDEN = (("", models.router), ("/v1", models.not_offered), ("", models.not_offered))


def _listed(*routers: tuple[str, APIRouter]) -> list[tuple[str, str]]:
    """Methods and paths, as OpenAPI writes them."""
    routes = [(prefix, route) for prefix, router in routers for route in router.routes if isinstance(route, APIRoute)]
    return [(method, prefix + route.path_format) for prefix, route in routes for method in sorted(route.methods or ())]


# The paths that a caller who is lost is told of.
PATHS = (*(f"POST {path}" for path in _HOT), *(f"{method} {path}" for method, path in _listed(*SHOWN)))
# The operator's are not among them: a rule of a proxy that closes their path must not be gone round.
FIXED = frozenset((*HOT, *(path for _, path in _listed(*SHOWN, *HIDDEN) if "{" not in path)))


class Hot:
    """The hot paths in FastAPI's router, which a POST does not come to: for the refusals of other methods."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._generations.now.hot[scope["path"]](scope, receive, send)


def _generation(process: Process, settings: Settings, load: Load, others: Collection[str]) -> Generation:
    """Everything that depends on the settings. ``others`` are keys of configurations that are still at work."""
    own = frozenset(secrets(settings))
    redactor = Redactor({*own, *others}, hosts(settings))
    gateway, pools = _gateway(process, settings, redactor)
    limits = Limits(settings.max_body_megabytes, settings.timeouts.request_body_seconds, settings.ping_seconds)
    always = {"x-torii-sandbox": "true"} if settings.sandbox == "on" else {}
    handlers = Handlers(
        gateway,
        limits,
        _admission(process, settings, load, redactor),
        build_callers(settings),
        redactor,
        paths=PATHS,
        hints={} if settings.docs_open else docs.SWITCHED_OFF,
        always=always,
    )
    return Generation(
        settings=settings,
        gateway=gateway,
        handlers=handlers,
        access=Access(handlers, build_cors(settings), build_guard(settings, PAGES)),
        pools=pools,
        hot=_hot(handlers, settings),
        operator=build_operator(settings),
        clean=redactor.message,
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
        cache=process.tiers.cache(settings),
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
        settings.max_concurrent_calls,
        Recorder(access_log.write, *books, *process.sinks),
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
