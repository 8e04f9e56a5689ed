"""One cheap call to each upstream, to see whether its address and key are right."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from .assembly import build_client, hosts, secrets
from .client import Client
from .config import CREDENTIALS
from .errors import (
    ToriiError,
    UpstreamAuth,
    UpstreamFailed,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamRedirected,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from .redact import Redactor
from .routing import RouteTable
from .settings import Settings
from .types import EmbeddingsCall, Target

# The model that both providers serve, for nothing to speak of.
PREFERRED = "jina-embeddings-v3"
SECONDS = 30.0

ADVICE: dict[type[ToriiError], str] = {
    UpstreamAuth: "Set the right key: {key}.",
    UpstreamQuota: "Top up the account, or set the key of another one: {key}.",
    UpstreamRateLimited: "The address and the key are right; try again in a while.",
    UpstreamUnreachable: "See whether this machine reaches {url}, and whether upstreams.{name}.base_url is right.",
    UpstreamTimeout: "See whether {url} is the right address, and whether the provider has an outage.",
    UpstreamRedirected: "Set upstreams.{name}.base_url to the address that the server itself has.",
    UpstreamRejected: "See whether upstreams.{name}.base_url is the part of the address before /embeddings.",
    UpstreamFailed: "See whether {url} is the right address; if it is, the fault is at the provider.",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    upstream: str
    ok: bool
    words: str


async def run(settings: Settings, routes: RouteTable) -> list[Outcome]:
    """An outcome for each upstream that is used, all called at once."""
    client = build_client(settings, seconds=SECONDS)
    try:
        return list(await asyncio.gather(*(_outcome(settings, routes, client, name) for name in settings.active)))
    finally:
        await client.aclose()


async def _outcome(settings: Settings, routes: RouteTable, client: Client, name: str) -> Outcome:
    target = _target(routes, name)
    if target is None:
        return Outcome(name, True, "not called: no embeddings model is to be had there")
    started = time.monotonic()
    try:
        await _call(client, target)
    except ToriiError as error:
        message = Redactor(secrets(settings), hosts(settings)).message(error.message).rstrip(".")
        return Outcome(name, False, f"failed: {message}. {_advice(settings, name, error)}")
    return Outcome(name, True, f"ok in {(time.monotonic() - started) * 1000:.0f} ms ({target.name})")


async def _call(client: Client, target: Target) -> None:
    """Raises ToriiError where the upstream does not give a vector for a word."""
    call = EmbeddingsCall(model=target.model.id, body={"input": ["hello"]})
    reply = await client.send(target.upstream.request(call, target))
    if reply.status >= 300:
        raise target.upstream.error(call, target, reply)
    target.upstream.reply(call, target, reply.body)


def _target(routes: RouteTable, upstream: str) -> Target | None:
    """The upstream's target for the preferred model, else for any embeddings model."""
    names = [model["id"] for model in routes.models() if "embeddings" in model["endpoints"]]
    targets = [target for name in names for target in routes.find(name).targets if target.upstream.name == upstream]
    return next((target for target in targets if target.name == PREFERRED), targets[0] if targets else None)


def _advice(settings: Settings, name: str, error: ToriiError) -> str:
    advice = next((ADVICE[kind] for kind in type(error).__mro__ if kind in ADVICE), ADVICE[UpstreamFailed])
    return advice.format(name=name, url=settings.upstreams[name].base_url, key=_key(name))


def _key(upstream: str) -> str:
    """What the upstream's key is called where it can be set."""
    keys = ("upstreams", upstream, "api_key")
    return " or ".join([*(variable for variable, path in CREDENTIALS.items() if path == keys), ".".join(keys)])
