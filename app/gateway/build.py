"""Builds the objects of the gateway from the settings."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import SecretStr

from .. import __version__
from ..cache import Cache, Store, Tiers
from ..cache.memory import Memory
from ..cache.redis import Redis
from ..cache.sqlite_tier import Disk
from ..callers.accounts import Accounts, Configured, ConfiguredCaller, declared_key, declared_team
from ..callers.cors import Cors
from ..callers.keys import Caller, Callers, KnownKey, digest, new_key
from ..callers.registry import Registry
from ..config.fields import AUTO
from ..config.sections import ModelSettings, UpstreamSettings
from ..config.settings import SANDBOXED, Settings
from ..core.disconnects import DisconnectPolicy, Policies
from ..core.origins import Guard, Hosts
from ..core.types import Key, Model, Route, Upstream
from ..core.web import SVIP_MODEL, WebRules
from ..routing.key_state import Cooldown
from ..routing.limits import RateLimits
from ..routing.pool import Pool
from ..routing.probe import probe
from ..routing.table import Account, RouteTable
from ..storage.cache_file import CacheFile
from ..storage.ledger_file import LedgerFile
from ..storage.redis.address import passwords
from ..storage.redis.connection import RedisAddress
from ..storage.sqlite import NoFile
from ..upstreams import KINDS
from ..upstreams.catalogue import known, unlisted
from ..upstreams.client import Wire, engine
from ..upstreams.client.client import Client, Deadlines, Sizes
from ..upstreams.client.proxies import Place, Proxy, loopback, parse, place, variable
from ..upstreams.deepsearch import DeepSearchRules

MEGABYTE = 1024 * 1024

# Jina's hosts, whose names the gateway answers to with ``hosts``: clients that have them fixed in their code.
PROVIDER_HOSTS = (
    *("r.jina.ai", "s.jina.ai", "eu.r.jina.ai", "eu.s.jina.ai"),
    *("api.jina.ai", "deepsearch.jina.ai", "segment.jina.ai", "svip.jina.ai"),
)
DAY = 86_400.0

# The key that is sent to the sandbox, and to nobody else.
SANDBOX_KEY = "torii-sandbox-key-which-opens-nothing"


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's part of the limits that several workers share. Workers are counted from 0."""

    worker: int = 0
    workers: int = 1

    def of(self, limit: int | None) -> int | None:
        """This worker's part of the limit; the parts of all workers add up to it. A limit below the number of workers
        is a mistake in the settings."""
        return None if limit is None else self.part(limit)

    def part(self, limit: int) -> int:
        """As ``of``; 0 for some workers if the limit is below their number."""
        return limit // self.workers + (self.worker < limit % self.workers)


WHOLE = Share()


def build_upstreams(settings: Settings) -> dict[str, Upstream]:
    """The upstreams that have a key, best first."""
    rules = DeepSearchRules(settings.deepsearch.system_messages, settings.deepsearch.schema_mismatch)
    return {name: _upstream(name, settings.upstreams[name], rules) for name in settings.keyed}


def build_routes(settings: Settings) -> RouteTable:
    """The route table over the upstreams that have a key; of the others it has the names only."""
    upstreams = build_upstreams(settings)
    accounts = {name: _account(settings, name, upstreams.get(name)) for name in settings.upstreams}
    models: dict[str, Route | str | None] = {} if settings.svip else {SVIP_MODEL: None}
    for name, model in settings.models.items():
        if model is None or model.alias_of:
            models[name] = model.alias_of if model else None
        elif route := _route(name, model, accounts):
            models[name] = route
    return RouteTable(accounts, models, settings.seller)


def build_pools(
    settings: Settings,
    routes: RouteTable,
    client: Client,
    remember: Callable[[Cooldown], None] | None = None,
    share: Share = WHOLE,
) -> dict[str, Pool]:
    """The key pool of each upstream that has a key, with this worker's part of the limits.

    ``client`` sends the probes; ``remember`` is called with each change of a cooldown.
    """
    return {
        name: Pool(
            name,
            build_keys(settings, name, share),
            queue_timeout=settings.queue_timeout_seconds,
            probe=probe(client, routes, name),
            remember=remember,
        )
        for name in settings.keyed
    }


def build_keys(settings: Settings, upstream: str, share: Share = WHOLE) -> list[tuple[Key, RateLimits]]:
    """The keys of an upstream with their limits. A key's alias is the upstream's name, followed by the key's own name,
    or by its number if there are several keys."""
    given = settings.upstreams[upstream]
    keys = []
    for number, key in enumerate(given.keys, 1):
        alias = upstream if len(given.keys) == 1 and not key.name else f"{upstream}-{key.name or number}"
        limits = given.limits_of(key)
        rate_limits = RateLimits(
            requests=share.of(limits.requests_per_minute),
            tokens=share.of(limits.tokens_per_minute),
            deepsearch=share.of(limits.deepsearch_per_minute),
            concurrency=share.of(limits.concurrency),
            weight=key.weight,
            apis={name: share.part(limit) for name, limit in limits.apis.items()},
        )
        keys.append((Key(key.key.get_secret_value() if key.key else "", alias), rate_limits))
    return keys


def keep_key_states(new: Settings, pools: Mapping[str, Pool], old: Settings, before: Mapping[str, Pool]) -> None:
    """Keeps the key states of each upstream whose kind and URLs are unchanged."""
    for name, pool in pools.items():
        if name in before and _place(new.upstreams[name]) == _place(old.upstreams[name]):
            pool.take_over(before[name])


def _place(upstream: UpstreamSettings) -> tuple[str, ...]:
    return upstream.kind, *upstream.urls


def build_client(settings: Settings, *, seconds: float | None = None) -> Client:
    """The HTTP client for upstreams. ``seconds`` caps each deadline of the settings."""
    times = settings.timeouts
    waits = (times.headers_seconds, times.reply_seconds, times.idle_seconds, times.event_seconds, times.total_seconds)
    wire = Wire(
        user_agent=f"torii/{__version__}",
        connect=times.connect_seconds,
        connections=settings.max_connections,
        ca=settings.ca_file.pem if settings.ca_file else b"",
        proxies=build_proxies(settings),
    )
    return Client(
        engine(settings.http_client, wire),
        Deadlines(*(min(wait, seconds or wait) for wait in waits)),
        Sizes(settings.max_reply_megabytes * MEGABYTE, settings.max_event_megabytes * MEGABYTE),
    )


def build_proxies(settings: Settings) -> dict[Place, Proxy]:
    """The proxies between the gateway and its upstreams; none for addresses of this machine."""
    found = {}
    for upstream in settings.upstreams.values():
        for there in map(place, upstream.urls):
            url = upstream.proxy_url.get_secret_value() if upstream.proxy_url else None
            if url is None and settings.proxy_from_environment and (name := variable(there, os.environ)):
                url = os.environ[name]
            if url and not loopback(there[0]):
                found[there] = parse(url)
    return found


class SharedTiers:
    """The tiers of the cache across configurations, built again only if their place or size in the settings changes."""

    def __init__(self) -> None:
        self._tiers: Tiers | None = None
        self._given: tuple[object, ...] = ()

    def cache(self, settings: Settings) -> Cache:
        """A cache over the tiers; one that stores nothing if the cache is off."""
        given = settings.cache
        if given.store == "off":
            return Cache()
        place = (given.store, given.memory_megabytes, given.path, given.megabytes, settings.redis_of_cache)
        if self._tiers is None or self._tiers.closed or self._given != place:
            self._tiers, self._given = build_tiers(settings), place
        return Cache(self._tiers, seconds=given.ttl_days * DAY, per_caller=given.per_caller)


def build_tiers(settings: Settings) -> Tiers:
    given = settings.cache
    store: Store | None = None
    if given.store == "sqlite":
        store = Disk(CacheFile(given.path), given.megabytes * MEGABYTE)
    elif given.store == "redis" and (address := redis_address(settings, settings.redis_of_cache)):
        store = Redis(address)
    return Tiers(Memory(given.memory_megabytes * MEGABYTE), store)


def redis_address(settings: Settings, url: SecretStr | None) -> RedisAddress | None:
    return RedisAddress(url.get_secret_value(), settings.ca_file.pem if settings.ca_file else b"") if url else None


def build_callers(settings: Settings, registry: Registry | None = None) -> Accounts:
    """The callers, declared keys and teams of the settings, and the created ones of the registry."""
    named = [(caller, caller.key, caller.sha256) for caller in settings.callers]
    callers = [
        ConfiguredCaller(
            caller.name,
            digest(key.get_secret_value()) if key else bytes.fromhex(sha256 or ""),
            caller.model_dump(mode="json", include={"limits", "budgets"}, exclude_none=True),
        )
        for caller, key, sha256 in named
    ]
    if settings.caller_key:
        callers.append(ConfiguredCaller("default", digest(settings.caller_key.get_secret_value()), {}))
    configured = Configured(
        tuple(callers),
        tuple(map(declared_key, settings.keys)),
        tuple(map(declared_team, settings.teams)),
        settings.organization.model_dump(mode="json", exclude_none=True),
        tuple(settings.trusted_proxies),
        reachable=settings.waiting,
    )
    return Accounts(configured, registry or Registry())


def build_cors(settings: Settings) -> Cors:
    return Cors([origin.encode() for origin in settings.cors.allowed_origins])


def build_guard(settings: Settings, pages: Collection[str]) -> Guard | None:
    """The guard of a gateway against web pages while it is open; None if callers always need a key. Links may lead to
    ``pages``."""
    if not settings.open or settings.waiting:
        return None
    machine = socket.gethostname().lower()
    names = [machine, machine.partition(".")[0], *settings.allowed_hosts, *(PROVIDER_HOSTS if settings.hosts else ())]
    origins = frozenset(origin.encode() for origin in settings.cors.allowed_origins)
    return Guard(Hosts(filter(None, names)), origins, pages)


def build_web(settings: Settings) -> WebRules:
    """The settings of reader and search."""
    times = settings.timeouts
    return WebRules(
        frozenset(settings.reader.allow),
        settings.reader.cache_seconds,
        settings.search.cache_seconds,
        times.reader_seconds,
        times.search_seconds,
    )


def build_disconnects(settings: Settings) -> DisconnectPolicy:
    """The disconnect policies: the general one, those of models and those of callers, with their limits."""
    models = {name: model.on_disconnect for name, model in settings.models.items() if model and model.on_disconnect}
    callers = {caller.name: caller.on_disconnect for caller in settings.callers if caller.on_disconnect}
    limits = settings.disconnect
    return DisconnectPolicy(
        Policies(limits.policy, models, callers),
        seconds=limits.seconds,
        calls=limits.calls,
        total=settings.timeouts.total_seconds,
    )


def ledger_file(settings: Settings) -> Path | None:
    """The path of the ledger's file, even if there is no file yet; None if the ledger is off or no folder is known."""
    return settings.ledger.file


def open_ledger(settings: Settings) -> tuple[LedgerFile | None, str]:
    """The ledger's file if there is to be one, and a text that says where it is or why there is none.

    Raises StoreError if the file must not be used, or if the settings name a file that cannot be used; and if a gateway
    without callers cannot see whether its file has keys.
    """
    auto = settings.ledger.path == AUTO
    path = None if auto and settings.sandboxed else ledger_file(settings)
    if path is None:
        return None, NO_FOLDER if auto and not settings.sandboxed else ""
    try:
        file = LedgerFile(path)
    except NoFile as error:
        if not auto or (settings.open and _there(path)):  # it may have keys, without which the gateway would be open
            raise
        return None, f"none, calls are not recorded: {path}: {error}; set ledger.path to another file"
    return file, f"{path} ({file.migrated})" if file.migrated else str(path)


def _there(path: Path) -> bool:
    """True if there is a file, or if nobody can tell."""
    try:
        path.lstat()
    except OSError as error:
        return not isinstance(error, FileNotFoundError | NotADirectoryError)
    return True


NO_FOLDER = "none, calls are not recorded: neither XDG_STATE_HOME nor HOME is set; set ledger.path to a file"


def build_operator(settings: Settings) -> Callers | None:
    """The key that opens the operator's endpoints; None if they are off."""
    key = settings.operator_key
    return Callers([KnownKey(digest(key.get_secret_value()), Caller("operator"))]) if key else None


def secrets(settings: Settings) -> list[str]:
    """The secrets that must not be in logs and messages: the keys of all upstreams, callers and the operator, and the
    passwords of Redis and the proxies."""
    keys = [key.key for upstream in settings.upstreams.values() for key in upstream.keys]
    keys += [caller.key for caller in settings.callers]
    keys += [settings.caller_key, settings.operator_key]
    keys += settings.alerts.webhook.secrets if settings.alerts.webhook else []
    found = [key.get_secret_value() for key in keys if key]
    for redis in filter(None, (settings.cache.redis_url, settings.counters.url)):
        found += [redis.get_secret_value(), *passwords(redis.get_secret_value())]
    found += [secret for proxy in build_proxies(settings).values() for secret in proxy.secrets]
    return found + [url.get_secret_value() for upstream in settings.upstreams.values() if (url := upstream.proxy_url)]


def hosts(settings: Settings) -> list[str]:
    """The host names that must not be in messages to callers: those of the upstreams and of their proxies."""
    names = {place(url)[0] for upstream in settings.upstreams.values() for url in upstream.urls}
    return sorted(names | {proxy.host for proxy in build_proxies(settings).values()})


def in_sandbox(settings: Settings, urls: Mapping[str, str]) -> Settings:
    """The same settings with the sandbox as upstreams. ``urls`` are its base URLs: jina, deepsearch and aihubmix.

    Upstreams of another kind have no stand-in and lose their key, so that nothing leaves this machine.
    """
    upstreams = {name: _stand_in(upstream, urls) for name, upstream in settings.upstreams.items()}
    return settings.model_copy(update={"upstreams": upstreams, "sandbox": "on"})


def as_if_keyed(settings: Settings) -> Settings:
    """The same settings with a made-up key for each upstream, to list what could be served. They send no request."""
    update = {"api_key": SecretStr(SANDBOX_KEY)}
    upstreams = {name: upstream.model_copy(update=update) for name, upstream in settings.upstreams.items()}
    return settings.model_copy(update={"upstreams": upstreams})


def with_caller_key(settings: Settings) -> tuple[Settings, str | None]:
    """The settings with a random caller key, and that key, if generate_caller_key asks for one."""
    if not settings.generate_caller_key or settings.loopback or not settings.open:
        return settings, None
    key = new_key()
    return settings.model_copy(update={"caller_key": SecretStr(key)}), key


def _upstream(name: str, settings: UpstreamSettings, rules: DeepSearchRules) -> Upstream:
    return KINDS[settings.kind](name, **settings.addresses, rules=rules)


def _account(settings: Settings, name: str, upstream: Upstream | None) -> Account | None:
    return Account(upstream, settings.upstreams[name].kind, build_keys(settings, name)[0][0]) if upstream else None


def _route(name: str, settings: ModelSettings, accounts: Mapping[str, Account | None]) -> Route | None:
    """The route of a configured model over the upstreams that have a key; None if none of them has."""
    entry = known(name)
    own = entry.model.id if entry else name
    places = [(target.upstream, target.model or own) for target in settings.targets]
    if entry and not places:
        places = [(upstream, own) for upstream, a in accounts.items() if a and a.kind in entry.kinds]
    model = replace(_base(name, [there for _, there in places]), **settings.facts())
    targets = tuple(a.target(model, a.asked(there)) for upstream, there in places if (a := accounts[upstream]))
    return Route(model, targets) if targets else None


def _base(name: str, names: list[str]) -> Model:
    """The catalogue's facts of a model, by its own name or by its names at the upstreams."""
    entries = [entry for there in (name, *names) if (entry := known(there))]
    return replace(entries[0].model, id=name) if entries else unlisted(name)


def _stand_in(upstream: UpstreamSettings, urls: Mapping[str, str]) -> UpstreamSettings:
    if upstream.kind not in SANDBOXED:
        return upstream.model_copy(update={"api_key": None, "api_keys": []})
    update = {"base_url": urls[upstream.kind], "api_key": SecretStr(SANDBOX_KEY), "api_keys": []}
    if upstream.kind == "jina":
        own = ("deepsearch", "reader", "search", "svip")
        # A host that the sandbox does not play leads to one that it does: nothing leaves this machine.
        update |= {f"{host}_base_url": urls.get(host, urls["jina"]) for host in own}
    return upstream.model_copy(update=update)
