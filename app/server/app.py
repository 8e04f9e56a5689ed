"""The ASGI application, built from the settings: one route for each endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
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
from ..callers.registry import Registry
from ..config.settings import Settings
from ..core.redaction import Redactor
from ..endpoints import ENDPOINTS, Endpoint, Options
from ..endpoints.pages import WebEndpoint
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
    build_web,
    hosts,
    secrets,
)
from ..gateway.classifiers import Classifiers
from ..gateway.gateway import Gateway
from ..gateway.parts import Parts
from ..gateway.streaming import Streams
from ..routing.cooldowns import SavedCooldowns
from ..routing.failover import Retries
from ..routing.pool import Pool
from ..storage.classifiers import ClassifierBook
from ..storage.ledger_file import LedgerFile
from ..storage.retention import Retention
from ..usage.ledger import unrecorded
from ..usage.record import CallRecord, Recorder
from . import access_log, classifiers, docs, models, own_usage, process
from .access import Access
from .accounting import Accounting, build_book, build_holds, build_prices
from .books import LedgerReader
from .handlers import BodyLimits, Handlers
from .replicas import Pushes, build_counters, build_pushes
from .snapshots import Generation, Generations
from .web import WebRoutes

Sink = Callable[[CallRecord], None]


@dataclass(frozen=True, slots=True)
class Process:
    """The parts that outlive a reload: additional sinks of call records, a worker's share of the limits, the open
    database, the created keys in it, the cache's contents, and what goes on between calls with limits."""

    sinks: tuple[Sink, ...] = ()
    share: Share = WHOLE
    database: LedgerFile | None = None
    registry: Registry = field(default_factory=Registry)
    tiers: SharedTiers = field(default_factory=SharedTiers)
    accounting: Accounting = field(default_factory=lambda: Accounting(None))
    classifiers: ClassifierBook = field(default_factory=lambda: ClassifierBook(None))


def create_app(settings: Settings, *sinks: Sink, share: Share = WHOLE, database: LedgerFile | None = None) -> FastAPI:
    """The gateway as an ASGI application. ``app.state.generations`` holds the configuration in force and replaces it.

    ``sinks`` receive the record of each finished call, in addition to the access log and the ledger. ``share`` is the
    share of one worker out of several. Without a ``database`` no ledger is kept; the code that opened it closes it.
    """
    counters = build_counters(settings, database)
    registry, accounting = Registry(database.path if database else None), Accounting(database, share, counters)
    book = ClassifierBook(database)
    process = Process(sinks, share, database, registry, accounting=accounting, classifiers=book)
    generations = Generations(partial(_generation, process), settings)
    # Only at the start: a reload carries over the state of the keys.
    rests = SavedCooldowns(database).remembered() if database else []
    for pool in generations.now.pools.values():
        pool.recall(rests)
    app = Torii(
        title="Torii",
        version=__version__,
        lifespan=_lifespan(generations, registry, accounting, build_pushes(settings, registry, counters)),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.generations = generations
    app.state.generations = generations
    app.state.settings = settings
    app.state.database = database
    app.state.registry = registry
    app.state.shared = accounting.shared
    path = database.path if database else None
    app.state.ledger_reader, app.state.own_usage_reader = LedgerReader(path, at_once=4), LedgerReader(path, at_once=2)
    hot = Hot(generations)
    app.router.routes += [Route(path, hot, methods=["POST", *["GET"] * (path in QUERIED)]) for path in ROUTED]
    for prefix, router in (*SHOWN, *HIDDEN):
        app.include_router(router, prefix=prefix, include_in_schema=(prefix, router) in SHOWN)
    if generations.now.operator is not None or registry.now.management:
        app.add_operator()
    if settings.docs_open:
        docs.add(app)
    docs.add_icon(app)
    app.add_exception_handler(HTTPException, generations.no_such_route)
    return app


class Torii(FastAPI):
    """Checks first whether a web page may call. Calls to the hot paths then go straight to their handlers, all others
    through FastAPI's router."""

    generations: Generations
    operated = False

    def add_operator(self) -> None:
        """Adds the operator's API. Its forms take a tenth of a second to build, so a gateway that has no operator when
        it starts adds them with the first request for them."""
        from . import admin

        if not self.operated:
            self.operated = True
            self.include_router(admin.router)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        now = self.generations.now
        dropin = now.web.find(scope)
        if not self.operated and scope["path"].startswith("/admin"):
            self.add_operator()
        if scope["path"] not in FIXED:
            scope["path"] = meant(scope["path"], scope["raw_path"])
        send = now.access.sender(scope, send)
        handler = now.access.handler(scope) or dropin or now.web.paths.get(scope["path"])
        if handler is None and (scope["method"] == "POST" or (scope["method"] == "GET" and scope["path"] in QUERIED)):
            handler = now.hot.get(scope["path"])
        if b"%" in scope["raw_path"] and scope["path"].startswith("/admin/"):  # it would evade a proxy's rule
            handler = now.handlers.error_handler(now.handlers.not_found(scope["path"]))
        if handler is not None:
            await handler(scope, receive, send)
            return
        scope.setdefault("state", {})["generation"] = now
        await super().__call__(scope, receive, send)


# The hot paths are the only ones without FastAPI routes: their bodies must pass unchanged, unknown fields included, and
# a response is bytes that a provider wrote. FastAPI's router, dependencies, validation and serialization would cost
# each call more than all the rest of the gateway.
# A base URL without /v1 is a common mistake; its paths work too, undocumented.
HOT = {
    path: endpoint
    for endpoint in ENDPOINTS.values()
    for documented in endpoint.paths
    for path in (documented, documented.removeprefix("/v1"))
}


# The hot paths with a route: pages and searches answer other methods themselves.
ROUTED = tuple(path for path, endpoint in HOT.items() if not issubclass(endpoint, WebEndpoint))
# The hot paths that take a GET too.
QUERIED = frozenset(path for path, endpoint in HOT.items() if f"/v1{path.removeprefix('/v1')}" in endpoint.gets)


def _endpoints(settings: Settings) -> list[Endpoint]:
    options = Options(
        settings.token_encoding,
        settings.deepsearch.reasoning,
        settings.deepsearch.answer_chunk_characters,
        build_web(settings),
        settings.classifiers.public,
    )
    return [endpoint.configured(options) for endpoint in ENDPOINTS.values() if _is_on(endpoint, settings)]


def _is_on(endpoint: type[Endpoint], settings: Settings) -> bool:
    return not endpoint.optional or getattr(settings, endpoint.optional) is True


def _hints(settings: Settings) -> dict[str, str]:
    """404 messages for paths that other settings would enable."""
    off = {path: endpoint.optional for path, endpoint in HOT.items() if not _is_on(endpoint, settings)}
    hints = {path: f"{path} is off; set {name}: true to serve it" for path, name in off.items()}
    return hints if settings.docs_open else {**hints, **docs.SWITCHED_OFF}


def _hot(handlers: Handlers, endpoints: list[Endpoint]) -> dict[str, ASGIApp]:
    """The handler of each hot path but those of pages and searches, which ``_web`` has."""
    made = {type(own): handlers.posted(own) for own in endpoints if not isinstance(own, WebEndpoint)}
    return {path: made[endpoint] for path, endpoint in HOT.items() if endpoint in made}


def _web(handlers: Handlers, endpoints: list[Endpoint], *, hosts: bool) -> WebRoutes:
    """The handlers of pages and searches."""
    return WebRoutes(handlers, [own for own in endpoints if isinstance(own, WebEndpoint)], hosts=hosts)


# Prefixes and routers: SHOWN are in the OpenAPI document, HIDDEN are not.
SHOWN = (("/v1", models.router), ("/v1", classifiers.router), ("/v1", own_usage.router), ("", process.router))
HIDDEN = (
    ("", models.router),
    ("", classifiers.router),
    ("", own_usage.router),
    ("/v1", models.not_offered),
    ("", models.not_offered),
)


def _listed(*routers: tuple[str, APIRouter]) -> list[tuple[str, str]]:
    """Methods and paths, as OpenAPI writes them."""
    routes = [(prefix, route) for prefix, router in routers for route in router.routes if isinstance(route, APIRoute)]
    return [(method, prefix + route.path_format) for prefix, route in routes for method in sorted(route.methods or ())]


def served(endpoints: Iterable[type[Endpoint] | Endpoint]) -> tuple[str, ...]:
    """The paths that the 404 message lists, if these are the endpoints."""
    paths = [served for endpoint in endpoints for served in endpoint.served()]
    return tuple(f"{method} {path}" for method, path in (*paths, *_listed(*SHOWN)))


# All paths of the OpenAPI document.
PATHS = served(ENDPOINTS.values())
# Paths that ``meant`` restores. The operator's are left out: a variant would evade a proxy's rule that closes them.
FIXED = frozenset((*HOT, *(path for _, path in _listed(*SHOWN, *HIDDEN) if "{" not in path)))


class Hot:
    """The hot paths in FastAPI's router, for the 405 of other methods: a POST is handled before it gets there."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._generations.now.hot[scope["path"]](scope, receive, send)


def _generation(process: Process, settings: Settings, load: Load, others: Collection[str]) -> Generation:
    """Everything that depends on the settings. ``others``: secrets of earlier configurations that still serve."""
    own = frozenset(secrets(settings))
    redactor = Redactor({*own, *others}, hosts(settings))
    gateway, pools = _gateway(process, settings, redactor)
    callers = build_callers(settings, process.registry)
    limits = BodyLimits(settings.max_body_megabytes, settings.timeouts.request_body_seconds, settings.ping_seconds)
    always = {"x-torii-sandbox": "true"} if settings.sandbox == "on" else {}
    endpoints = _endpoints(settings)
    handlers = Handlers(
        gateway,
        limits,
        _admission(process, settings, load, redactor),
        callers,
        redactor,
        paths=served(endpoints),
        hints=_hints(settings),
        always=always,
    )
    return Generation(
        settings=settings,
        gateway=gateway,
        handlers=handlers,
        access=Access(handlers, build_cors(settings), build_guard(settings, PAGES)),
        pools=pools,
        hot=_hot(handlers, endpoints),
        web=_web(handlers, endpoints, hosts=settings.hosts),
        callers=callers,
        operator=build_operator(settings),
        clean=redactor.message,
        secrets=own,
    )


def _gateway(process: Process, settings: Settings, redactor: Redactor) -> tuple[Gateway, dict[str, Pool]]:
    routes = build_routes(settings)
    client = build_client(settings)
    remember = SavedCooldowns(process.database).remember if process.database else None
    pools = build_pools(settings, routes, client, remember, process.share)
    retries = Retries(pools, most=settings.max_attempts)
    held = Classifiers(process.classifiers, routes, pools, client, settings.classifiers.foreign)
    gateway = Gateway(
        routes=routes,
        cache=process.tiers.cache(settings),
        retries=retries,
        client=BatchingClient(client, retries, held),
        parts=Parts(max(1, settings.max_connections // 2)),
        streams=Streams(redactor, settings.ping_seconds),
    )
    return gateway, pools


def _admission(process: Process, settings: Settings, load: Load, redactor: Redactor) -> Admission:
    prices = build_prices(settings)
    ledger = build_book(settings, process.database, redactor.secrets, prices)
    process.accounting.renew(settings)
    return Admission(
        load,
        settings.max_concurrent_calls,
        Recorder(access_log.write, ledger or unrecorded, *process.sinks),
        build_disconnects(settings),
        settings.timeouts.total_seconds,
        build_holds(settings, ledger, process.accounting, prices),
    )


def _lifespan(
    generations: Generations, registry: Registry, accounting: Accounting, pushes: Pushes | None
) -> Callable[[FastAPI], Any]:
    def keep_days() -> int:
        return generations.now.settings.ledger.keep_days

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        retention = Retention(registry.path, keep_days) if registry.path else None
        generations.start()
        registry.start()
        if retention:
            retention.start()
        if pushes:
            await pushes.start()
        with suppress(asyncio.CancelledError):  # raised by a second Ctrl+C
            yield
        if pushes:
            await pushes.stop()
        registry.close()
        await generations.aclose()
        await accounting.aclose()
        if retention:
            await asyncio.to_thread(retention.close)

    return lifespan


def meant(path: str, raw: bytes) -> str:
    """The fixed path that was meant, if a client joined base URL and path with too many slashes or two versions. Any
    other path is returned unchanged: it may hold a URL, or a name with slashes."""
    if b"%" in raw:
        return path
    parts = [part for part in path.split("/") if part]
    while parts[:1] == ["v1"] and parts[1:2] in (["v1"], ["v2"]):
        del parts[0]
    plain = "/" + "/".join(parts)
    return plain if plain in FIXED else path


# Paths that a link on another site may open, even if the gateway is open. None of them calls a provider.
PAGES = frozenset(("/", "/healthz", "/readyz", "/v1/models", "/models", *docs.PATHS))
