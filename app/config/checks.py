"""Cross-field checks of the settings. Messages never contain a setting's value."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from ..core.names import nearest
from ..core.origins import ANYONE, NULL
from ..storage.key_records import created
from ..upstreams.catalogue import CATALOGUE, known
from ..upstreams.client.proxies import Place, parse, place, variable
from .fields import AUTO, OFF
from .sections import KeyLimits, ModelSettings
from .settings import Settings
from .sources import Keys

Found = Iterator[tuple[Keys, str]]


def violations(settings: Settings, bad: set[str], checks: Checks) -> list[tuple[Keys, str]]:
    """All mistakes that the checks find. Checks of ``bad`` sections are skipped, because their values are unknown."""
    return [found for needs, check in checks if not bad & needs for found in check(settings)]


def _callers(settings: Settings) -> Found:
    names = Counter(caller.name for caller in settings.callers)
    if settings.caller_key and "default" in names:
        yield ("caller_key",), "belongs to the caller named default, and callers also has a caller of that name"
    digests: set[str] = set()
    for index, caller in enumerate(settings.callers):
        if names[caller.name] > 1:
            yield ("callers", index, "name"), "duplicate name; each caller needs a name of its own"
        key = caller.key.get_secret_value() if caller.key else ""
        digest = caller.sha256 or hashlib.sha256(key.encode()).hexdigest()
        if digest in digests:
            yield ("callers", index), "duplicate key; each caller needs a key of its own"
        digests.add(digest)


def _virtual_keys(settings: Settings) -> Found:
    callers = {caller.name for caller in settings.callers} | ({"default"} if settings.caller_key else set())
    names = Counter(key.name for key in settings.keys)
    ids = Counter(key.id for key in settings.keys if key.id)
    known = {team.id for team in settings.teams}
    digests = _digests(settings)
    for index, key in enumerate(settings.keys):
        if names[key.name] > 1 or key.name in callers:
            yield ("keys", index, "name"), "duplicate name; each key and each caller needs a name of its own"
        if key.id and (ids[key.id] > 1 or key.id in callers):
            yield ("keys", index, "id"), "duplicate id; each key needs an id of its own"
        if key.sha256 in digests:
            yield ("keys", index, "sha256"), "duplicate key; each needs a key of its own"
        digests.add(key.sha256)
        if key.team is not None and key.team not in known:
            near = f"; nearest: {', '.join(nearest(key.team, known))}" if known else ", and teams declares none"
            yield ("keys", index, "team"), f"unknown team{near}. A declared key needs a declared team, by its id"


def _teams(settings: Settings) -> Found:
    for field in ("id", "name"):
        given = Counter(getattr(team, field) for team in settings.teams)
        for index, team in enumerate(settings.teams):
            if given[getattr(team, field)] > 1:
                yield ("teams", index, field), f"duplicate {field}; each team needs {_A[field]} of its own"


_A = {"id": "an id", "name": "a name"}


def _prices(settings: Settings) -> Found:
    for name in settings.prices:
        if name not in settings.upstreams:
            yield ("prices", name), _no_upstream(name, settings)


def _keys_without_ledger(settings: Settings) -> Found:
    """Virtual keys need the ledger's file: it has the created ones, and what all of them have spent."""
    if settings.ledger.path != OFF:
        return
    cure = "set ledger.path (TORII_LEDGER__PATH) to auto or a file"
    if settings.keys:
        yield ("ledger", "path"), f"is off, and keys declares virtual keys, whose limits need the ledger: {cure}"
    elif (file := settings.ledger.file_of(AUTO)) and created(file):
        yield (
            ("ledger", "path"),
            f"is off, and {file} has virtual keys, which nobody could use then: {cure}, or move the file away",
        )


def _keys(settings: Settings) -> Found:
    for name, upstream in settings.upstreams.items():
        names = [key.name or str(number) for number, key in enumerate(upstream.keys, 1)]
        if len(set(names)) < len(names):
            yield ("upstreams", name, "api_keys"), "duplicate name; each key needs a name of its own"
        keys = [key.key.get_secret_value() for key in upstream.keys if key.key]
        if len(set(keys)) < len(keys):
            yield ("upstreams", name, "api_keys"), "duplicate key; its limits would be counted twice"


def _operator(settings: Settings) -> Found:
    if settings.operator_key is None:
        return
    digest = hashlib.sha256(settings.operator_key.get_secret_value().encode()).hexdigest()
    if digest in _digests(settings) | {key.sha256 for key in settings.keys}:
        yield ("operator_key",), "is also a caller's key; the operator needs a separate key"


def _operator_port(settings: Settings) -> Found:
    if settings.operator_port is not None and settings.operator_port == settings.port:
        yield ("operator_port",), "is also the port of callers (port); leave it out to serve both there"


def _digests(settings: Settings) -> set[str]:
    """The SHA-256 of the keys of all callers, in hexadecimal."""
    keys = [caller.key for caller in settings.callers] + [settings.caller_key]
    digests = {hashlib.sha256(key.get_secret_value().encode()).hexdigest() for key in keys if key}
    return digests | {caller.sha256 for caller in settings.callers if caller.sha256}


def _unknown_models(settings: Settings) -> Found:
    name = settings.unknown_models_upstream
    if name is not None and name != "auto" and name not in settings.upstreams:
        yield ("unknown_models_upstream",), _no_upstream(name, settings)


def _models(settings: Settings) -> Found:
    for name, model in settings.models.items():
        if model is not None:
            check = _alias if model.alias_of else _targets
            yield from ((("models", name, *keys), what) for keys, what in check(name, model, settings))


def _alias(name: str, model: ModelSettings, settings: Settings) -> Found:
    chain = [name]
    end = model.alias_of
    while end and end not in chain:
        chain.append(end)
        following = settings.models.get(end)
        end = following.alias_of if following else None
    if end == name:
        yield (), f"is an alias of itself: {' -> '.join([*chain, name])}"
    elif len(chain) == 2 and not _exists(chain[1], settings):
        near = ", ".join(nearest(chain[1], _names(settings)))
        yield (), f"is an alias of an unknown model; nearest: {near}"


def _exists(name: str, settings: Settings) -> bool:
    if known(name) or settings.models.get(name) or name.partition("/")[0].lower() in settings.upstreams:
        return True
    return settings.unknown_upstream is not None and name not in settings.models


def _targets(name: str, model: ModelSettings, settings: Settings) -> Found:
    if not model.targets and not known(name):
        yield (), f"needs targets, because the model is unknown; one or more of {', '.join(settings.upstreams)}"
    places = [(target.upstream, target.model or name) for target in model.targets]
    for index, target in enumerate(places):
        if target[0] not in settings.upstreams:
            yield ("targets", index), _no_upstream(target[0], settings)
        if target in places[:index]:
            yield ("targets", index), "duplicate target"
    spaces = dict.fromkeys(entry.model.id for _, there in places if (entry := known(there)))
    if len(spaces) > 1:
        different = f"name different models, {' and '.join(spaces)}"
        yield ("targets",), f"{different}: their vectors and scores are not comparable, so one cannot replace another"


def _proxies(settings: Settings) -> Found:
    """Upstreams at the same address must have the same proxy, because proxies are found by address."""
    given: dict[Place, str | None] = {}
    for name, upstream in settings.upstreams.items():
        url = upstream.proxy_url.get_secret_value() if upstream.proxy_url else None
        if any(given.setdefault(place(there), url) != url for there in upstream.urls):
            yield ("upstreams", name, "proxy_url"), "differs from the proxy_url of another upstream at the same address"


def _proxies_of_the_environment(settings: Settings) -> Found:
    if not settings.proxy_from_environment:
        return
    places = [place(url) for upstream in settings.upstreams.values() if not upstream.proxy_url for url in upstream.urls]
    for name in sorted({name for there in places if (name := variable(there, os.environ))}):
        try:
            parse(os.environ[name])
        except ValueError as error:
            yield ("proxy_from_environment",), f"the variable {name} {error}"


def _redis(settings: Settings) -> Found:
    if settings.cache.store == "redis" and settings.cache.redis_url is None and settings.counters.url is None:
        yield ("cache", "redis_url"), "is required if cache.store is redis, such as redis://127.0.0.1:6379/0"


def _redis_here(settings: Settings) -> Found:
    if find_spec("redis") is not None:
        return
    needs = "needs a package that is not installed: in the checkout, pip install '.[redis]'"
    if settings.cache.store == "redis":
        yield ("cache", "store"), f"redis {needs}"
    if settings.counters.url is not None:
        yield ("counters", "url"), needs


def _postgres_here(settings: Settings) -> Found:
    if settings.storage.url is not None and find_spec("psycopg") is None:
        yield ("storage", "url"), "needs a package that is not installed: in the checkout, pip install '.[postgres]'"


def _cache_folder(settings: Settings) -> Found:
    folder = settings.cache.path.absolute().parent
    if settings.cache.store == "sqlite" and not (folder.is_dir() and os.access(folder, os.W_OK)):
        yield ("cache", "path"), "the folder is missing or not writable; create the folder, or set another file"


def _two_files(settings: Settings) -> Found:
    """The cache sets a damaged file aside, and writes to any other."""
    if settings.cache.store != "sqlite" or settings.ledger.path in (AUTO, OFF):
        return
    if os.path.realpath(Path(settings.ledger.path).expanduser()) == os.path.realpath(settings.cache.path):
        yield ("cache", "path"), "is the file of the ledger; set another file"


def _open_to_all(settings: Settings) -> Found:
    if settings.waiting and (settings.operator_key is None or settings.ledger.path == OFF):
        yield (
            ("host",),
            "other machines can reach this address and, without callers, could spend your upstream keys. Set "
            "TORII_CALLER_KEY or callers, or TORII_OPERATOR_KEY to create keys while the gateway runs (with a ledger), "
            "or generate_caller_key: true for a random key, or host: 127.0.0.1",
        )


def _open_to_all_pages(settings: Settings) -> Found:
    if not settings.open or not settings.loopback:
        return
    for index, origin in enumerate(settings.cors.allowed_origins):
        if origin in (ANYONE, NULL):
            which = "any page" if origin == ANYONE else "null is the origin of any page in a sandboxed frame, which"
            yield (
                ("cors", "allowed_origins", index),
                f"{which} could spend your upstream keys, because the gateway has no callers. "
                "Name the intended origins, or set TORII_CALLER_KEY or callers",
            )


def _nothing_to_ask(settings: Settings) -> Found:
    if not settings.active:
        yield (
            (),
            "No upstream has a key. Set JINA_API_KEY or AIHUBMIX_API_KEY or both, "
            "or try Torii without any key: torii serve --sandbox",
        )


def _workers(settings: Settings) -> Found:
    """Each worker gets a share of every limit, and the share must be at least 1."""
    for name, upstream in settings.upstreams.items():
        places: list[tuple[Keys, KeyLimits]] = [(("upstreams", name, "limits"), upstream.limits)]
        places += [
            (("upstreams", name, "api_keys", index, "limits"), key.limits)
            for index, key in enumerate(upstream.api_keys)
        ]
        for keys, limits in places:
            for limit, most in limits:
                if most is not None and most < settings.workers:
                    yield (
                        (*keys, limit),
                        f"must be at least {settings.workers}, one for each worker; or set fewer workers",
                    )


def _no_upstream(name: str, settings: Settings) -> str:
    near = nearest(name, settings.upstreams)[0]
    return f"unknown upstream; did you mean {near}? Known: {', '.join(settings.upstreams)}"


def _names(settings: Settings) -> list[str]:
    return [*CATALOGUE, *(name for name, model in settings.models.items() if model)]


Checks = tuple[tuple[frozenset[str], Callable[[Settings], Found]], ...]
# The settings that decide whether a gateway is open, and to whom.
REACH = frozenset({"host", "callers", "caller_key", "keys", "operator_key", "generate_caller_key"})
ALWAYS: Checks = (
    (frozenset({"callers", "caller_key"}), _callers),
    (frozenset({"upstreams"}), _keys),
    (frozenset({"callers", "caller_key", "keys", "teams"}), _virtual_keys),
    (frozenset({"teams"}), _teams),
    (frozenset({"callers", "caller_key", "keys", "operator_key"}), _operator),
    (frozenset({"port", "operator_port"}), _operator_port),
    (frozenset({"prices", "upstreams"}), _prices),
    (frozenset({"upstreams", "unknown_models_upstream"}), _unknown_models),
    (frozenset({"models", "upstreams", "unknown_models_upstream", "sandbox"}), _models),
    (frozenset({"upstreams", "workers"}), _workers),
    (frozenset({"upstreams"}), _proxies),
    (frozenset({"upstreams", "proxy_from_environment"}), _proxies_of_the_environment),
    (frozenset({"cache", "counters"}), _redis),
    (frozenset({"cache", "ledger"}), _two_files),
    (frozenset({"storage"}), _postgres_here),
)
AT_START: Checks = (
    (REACH | {"ledger"}, _open_to_all),
    (REACH | {"cors"}, _open_to_all_pages),
    (frozenset({"ledger", "keys"}), _keys_without_ledger),
    (frozenset({"cache", "counters"}), _redis_here),
    (frozenset({"cache"}), _cache_folder),
)
KEYED: Checks = ((frozenset({"upstreams", "sandbox"}), _nothing_to_ask),)
