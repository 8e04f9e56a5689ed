"""`torii check --live`: one cheap call with each key, to test the key and its upstream's address."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, replace

from ..config.settings import Settings
from ..config.sources import CREDENTIALS
from ..core.errors import (
    Overloaded,
    ToriiError,
    UpstreamAuth,
    UpstreamFailed,
    UpstreamMisplaced,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamRedirected,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from ..core.redaction import Redactor
from ..core.types import Key
from ..gateway.build import build_client, build_keys, hosts, secrets
from ..routing import probe
from ..routing.table import RouteTable
from ..upstreams.client.client import Client

SECONDS = 30.0

ADVICE: dict[type[ToriiError], str] = {
    Overloaded: "Raise the limit of open files (ulimit -n).",
    UpstreamAuth: "Set the right key: {key}.",
    UpstreamQuota: "Top up the account, or set the key of another account: {key}.",
    UpstreamRateLimited: "The address and the key are right; try again later.",
    UpstreamUnreachable: "Check that this machine can reach {url} and that upstreams.{name}.base_url is right.",
    UpstreamTimeout: "Check that {url} is the right address, and whether the provider has an outage.",
    UpstreamRedirected: "Set upstreams.{name}.base_url to an address that does not redirect.",
    UpstreamMisplaced: "Check that upstreams.{name}.base_url is the part of the address before /embeddings, usually "
    "with /v1.",
    UpstreamRejected: "Check that upstreams.{name}.base_url is the part of the address before /embeddings.",
    UpstreamFailed: "Check that {url} is the right address; if it is, the fault is the provider's.",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one call. ``key``: the key's name; empty if the upstream has a single unnamed key."""

    upstream: str
    key: str
    ok: bool
    words: str


async def live_calls(settings: Settings, routes: RouteTable) -> list[Outcome]:
    """One outcome for each key of the active upstreams; all keys are called at once."""
    client = build_client(settings, seconds=SECONDS)
    check = _Check(settings, routes, client)
    try:
        return list(await asyncio.gather(*check.outcomes()))
    finally:
        await client.aclose()


@dataclass(frozen=True, slots=True)
class _Check:
    settings: Settings
    routes: RouteTable
    client: Client

    def outcomes(self) -> Iterator[Awaitable[Outcome]]:
        for name in self.settings.active:
            for number, (key, _) in enumerate(build_keys(self.settings, name)):
                yield self._outcome(name, key, number)

    async def _outcome(self, name: str, key: Key, number: int) -> Outcome:
        alias = "" if key.alias == name else key.alias
        target = probe.target(self.routes, name)
        if target is None:
            return Outcome(name, alias, True, "not called: the upstream serves no embeddings model")
        started = time.monotonic()
        try:
            await probe.call(self.client, replace(target, key=key))
        except ToriiError as error:
            said = f"{error.message}: {reason}" if (reason := getattr(error, "reason", None)) else error.message
            message = Redactor(secrets(self.settings), hosts(self.settings)).message(said).rstrip(".")
            return Outcome(name, alias, False, f"failed: {message}. {self._advice(name, number, error)}")
        return Outcome(name, alias, True, f"ok in {(time.monotonic() - started) * 1000:.0f} ms ({target.name})")

    def _advice(self, name: str, number: int, error: ToriiError) -> str:
        advice = next((ADVICE[kind] for kind in type(error).__mro__ if kind in ADVICE), ADVICE[UpstreamFailed])
        url = self.settings.upstreams[name].base_url
        return advice.format(name=name, url=url, key=self._place(name, number))

    def _place(self, upstream: str, number: int) -> str:
        """The setting that holds the key; for ``api_key`` also the variables that set it."""
        given = self.settings.upstreams[upstream]
        if given.api_key is None or number > 0:
            written = [index for index, key in enumerate(given.api_keys) if key.key]
            return f"upstreams.{upstream}.api_keys[{written[number - (given.api_key is not None)]}].key"
        keys = ("upstreams", upstream, "api_key")
        return " or ".join([*(variable for variable, path in CREDENTIALS.items() if path == keys), ".".join(keys)])
