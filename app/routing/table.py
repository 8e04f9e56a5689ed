"""The route table: the targets of each model, by all of its names. Built once; a call is one dictionary lookup.

jina-embeddings-v3            every upstream that serves it, in the order of the configuration
jina-ai/jina-embeddings-v3    the same; the ids in Jina's own model list
jinaai/..., jina_ai/...       the same; the names of Hugging Face and of LiteLLM
JINA-EMBEDDINGS-V3            the same, unless the table has this exact spelling
aihubmix/jina-embeddings-v3   that upstream only
aihubmix/anything             that upstream, with the model name "anything"
text-embedding-3-small        an alias, if the configuration has it
gpt-4o                        the upstream for unknown models, if there is one
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..core.errors import InvalidRequest, ModelNotFound, UpstreamRejected
from ..core.names import nearest, shown
from ..core.types import Call, Json, Key, Model, Route, Target, Upstream
from ..endpoints import ENDPOINTS
from ..upstreams.catalogue import BOTH, CATALOGUE, PREFIXES, bare, known, unlisted
from ..upstreams.options import parameters

NAME_LIMIT = 256
# Names beyond the table whose routes are remembered; with one more, all are forgotten.
REMEMBERED = 1000
# Names of unknown models that are passed on: words joined by slashes, no spaces, no "..".
_PLAIN = re.compile(r"[\w@~][\w.:@+~-]*(?:/\w[\w.:@+~-]*)*")


@dataclass(frozen=True, slots=True)
class Account:
    """An upstream and the gateway's key there. ``kind`` decides which models of the catalogue the upstream serves."""

    upstream: Upstream
    kind: str
    key: Key

    def target(self, model: Model, name: str | None = None, *, listed: bool = True) -> Target:
        """``name`` is the upstream's own name of the model; the model's id by default."""
        return Target(self.upstream, model, name or model.id, self.key, listed)

    def asked(self, name: str) -> str:
        """The model name to send to the upstream: the catalogue's id for the providers of the catalogue, the name as
        written for any other server, which may know the model by Hugging Face's name."""
        entry = known(name) if self.kind in BOTH else None
        return entry.model.id if entry else name

    def route(self, name: str) -> Route:
        """The route to this upstream only, even if the catalogue says that the upstream does not serve the model."""
        entry = known(name)
        model = entry.model if entry else unlisted(name, owned_by=self.upstream.name)
        listed = entry is not None and self.kind in entry.kinds
        return Route(model, (self.target(model, self.asked(name), listed=listed),))


class RouteTable:
    """``accounts`` by upstream name, best first; None is an upstream without a key.

    ``models`` overrides the catalogue: a Route is the targets of a configured model, a string is the name that an alias
    stands for, None disables a model. ``unknown`` names the upstream for unknown models, if there is one.
    """

    def __init__(
        self,
        accounts: Mapping[str, Account | None],
        models: Mapping[str, Route | str | None] | None = None,
        unknown: str | None = None,
    ) -> None:
        self._accounts = accounts
        self._unknown = accounts.get(unknown) if unknown else None
        self._keyless = unknown if unknown in accounts and self._unknown is None else None
        models = models or {}
        own = {name: route for name, route in models.items() if isinstance(route, Route)}
        self._removed = frozenset(_meant(name) for name, route in models.items() if route is None)
        self._gone_names = frozenset(name.lower() for name in self._removed)
        self._served = _served(accounts) | own
        self._alias_of = _ends({name: end for name, end in models.items() if isinstance(end, str)})
        aliases = {name: route for name, end in self._alias_of.items() if (route := self._resolve(end))}
        self._listed = {name: r for name, r in (self._served | aliases).items() if name not in self._removed}
        self._routes = self._prefixed() | self._forced() | self._listed
        self._spelled = {name.lower(): route for name, route in reversed(self._routes.items())}
        self._beyond: dict[str, Route] = {}  # of names that were found though they are not in the table

    @property
    def accounts(self) -> dict[str, Account]:
        """The upstreams that have a key, best first."""
        return {name: account for name, account in self._accounts.items() if account is not None}

    def find(self, name: str) -> Route:
        """The targets of a model, by any of its names.

        Raises ModelNotFound, naming the nearest known names, and InvalidRequest for an empty name.
        """
        return self._routes.get(name) or self._beyond.get(name) or self._remembered(name)

    def of(self, call: Call) -> Route:
        """The targets of a call. Raises as ``find`` does, and InvalidRequest for a model of another endpoint."""
        if call.route is not None:
            return call.route
        found = self.find(call.model)
        route = found.to(call.endpoint.name)
        if route is None:
            right = " or ".join(f"POST {ENDPOINTS[name].paths[0]}" for name in found.endpoints)
            raise InvalidRequest(f"{found.model.id} does not serve this endpoint; use {right}", param="model")
        return route

    def models(self) -> list[Json]:
        """Every listed model in the shape of OpenAI's ``GET /v1/models``, with its abilities as further fields.

        Fields that do not apply are null or empty, never absent. Aliases are listed like models, with the name that
        they stand for in ``alias_of``.
        """
        return [self._described(name, route) for name, route in self._listed.items()]

    def describe(self, name: str) -> Json:
        """One model in the same shape, by any name that ``find`` takes. Raises as ``find`` does."""
        return self._described(name, self.find(name))

    def _described(self, name: str, route: Route) -> Json:
        model = route.model
        return {
            "id": name,
            "object": "model",
            "created": model.created,
            "owned_by": model.owned_by,
            "endpoints": route.endpoints,
            "inputs": list(model.inputs),
            "dimensions": model.dimensions,
            "dimensions_allowed": list(model.dimensions_allowed),
            "context_length": model.context,
            "tasks": list(model.tasks),
            "max_inputs": model.max_inputs,
            "features": list(model.features),
            "parameters": parameters(model, route.targets[0].name),
            "upstreams": [target.upstream.name for target in route.targets],
            "alias_of": self._alias_of.get(name),
        }

    def _resolve(self, name: str) -> Route | None:
        """The route of the name that an alias stands for; None if no upstream with a key serves it."""
        if name in self._served:
            return self._served[name]
        upstream, rest = self._pinned(name)
        if rest:
            account = self._accounts[upstream]
            return account.route(rest) if account else None
        return self._served.get(_meant(bare(name))) or (self._unknown.route(bare(name)) if self._unknown else None)

    def _pinned(self, name: str) -> tuple[str, str]:
        """The upstream at the start of a name, in any letter case, and the rest; both empty if there is none."""
        upstream, _, rest = name.partition("/")
        return (upstream.lower(), rest) if rest and upstream.lower() in self._accounts else ("", "")

    def _forced(self) -> dict[str, Route]:
        """``upstream/model`` for all known models: the catalogue at every upstream, and configured targets."""
        routes = {
            f"{upstream}/{name}": account.route(name)
            for upstream, account in self._accounts.items()
            for name in CATALOGUE
            if account and name not in self._removed
        }
        for name, route in self._served.items():
            for target in route.targets:
                if target.name not in self._removed and (target.name == name or target.name not in CATALOGUE):
                    routes[f"{target.upstream.name}/{target.name}"] = Route(route.model, (target,))
        return routes

    def _prefixed(self) -> dict[str, Route]:
        return {
            f"{prefix}{name}": route for prefix in PREFIXES for name, route in self._listed.items() if name in CATALOGUE
        }

    def _remembered(self, name: str) -> Route:
        route = self._unlisted(name)
        if len(self._beyond) >= REMEMBERED:
            self._beyond.clear()
        self._beyond[name] = route
        return route

    def _unlisted(self, name: str) -> Route:
        """The route of a name that is not in the table as written: by another spelling, at the upstream that it names,
        or at the upstream for unknown models."""
        if not name:
            raise InvalidRequest("The model's name is empty.", param="model")
        if len(name) > NAME_LIMIT or not _PLAIN.fullmatch(name):
            raise self._not_found(name, "is not a valid model name")
        upstream, rest = self._pinned(name)
        if meant := self._spelled.get((name if rest else bare(name)).lower()):
            return meant
        if self._gone_names and self._gone(name, rest):
            raise self._not_found(name, "is disabled in this gateway's configuration")
        if rest:
            account = self._accounts[upstream]
            if account is None:
                raise self._not_found(name, f"names the upstream {upstream}, which has no key")
            return account.route(rest)
        if self._unknown is None:
            entry = known(name)
            serving = f"is served by {' and '.join(entry.kinds)}, for which no key is set" if entry else "is unknown"
            if not entry and self._keyless:
                serving = f"is unknown, and {self._keyless}, the upstream for unknown models, has no key"
            raise self._not_found(name, serving)
        return self._unknown.route(bare(name))

    def advise(self, name: str, error: Exception) -> None:
        """Adds the nearest names to an upstream's error for an unknown model, if the model is unknown here too."""
        if not isinstance(error, UpstreamRejected) or error.code != ModelNotFound.code:
            return
        if name.lower() in self._spelled or bare(name).lower() in self._spelled or not self._listed:
            return
        near = f" Nearest: {', '.join(nearest(name, self._listed))}. GET /v1/models lists all models."
        if not error.message.endswith(near):  # identical calls share one error
            error.message = f"{error.message.rstrip('.')}.{near}"

    def _gone(self, *names: str) -> bool:
        return any(name.lower() in self._gone_names or bare(name).lower() in self._gone_names for name in names)

    def _not_found(self, name: str, why: str) -> ModelNotFound:
        near = nearest(name, self._listed)
        hint = f" Nearest: {', '.join(near)}." if near else ""
        return ModelNotFound(f"The model '{shown(name)}' {why}.{hint} GET /v1/models lists all models.", param="model")


def _served(accounts: Mapping[str, Account | None]) -> dict[str, Route]:
    """The catalogue's models that the accounts serve."""
    return {
        name: Route(entry.model, targets)
        for name, entry in CATALOGUE.items()
        if (targets := tuple(a.target(entry.model) for a in accounts.values() if a and a.kind in entry.kinds))
    }


def _meant(name: str) -> str:
    """The catalogue's id of the model, or the name itself if the catalogue does not have it."""
    entry = known(name)
    return entry.model.id if entry else name


def _ends(aliases: Mapping[str, str]) -> dict[str, str]:
    """For each alias the name at the end of its chain; in a cycle, the last name before the cycle closes."""
    return {name: last for name in aliases for last in list(_chain(name, aliases))[-1:]}


def _chain(name: str, aliases: Mapping[str, str]) -> Iterator[str]:
    seen = {name}
    while name in aliases and aliases[name] not in seen:
        name = aliases[name]
        seen.add(name)
        yield name
