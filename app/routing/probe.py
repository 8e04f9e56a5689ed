"""A minimal embeddings call, to see whether an upstream accepts a key."""

from __future__ import annotations

from dataclasses import replace

from ..core.types import EmbeddingsCall, Key, Target
from ..upstreams.client.client import Client
from .pool import Probe
from .table import RouteTable

# Both providers serve this model, and a word costs next to nothing.
PREFERRED = "jina-embeddings-v3"


def probe(client: Client, routes: RouteTable, upstream: str) -> Probe | None:
    """A probe for the keys of an upstream; None if the upstream has no embeddings model."""
    found = target(routes, upstream)
    if found is None:
        return None

    async def ask(key: Key) -> None:
        await call(client, replace(found, key=key))

    return ask


async def call(client: Client, target: Target) -> None:
    """Embeds one word. Raises ToriiError if the upstream does not return a vector for it."""
    call = EmbeddingsCall(model=target.model.id, body={"input": ["hello"]})
    reply = await client.send(target.upstream.request(call, target))
    if reply.status >= 300:
        raise target.upstream.error(call, target, reply)
    target.upstream.reply(call, target, reply.body)


def target(routes: RouteTable, upstream: str) -> Target | None:
    """The upstream's target for the preferred model, else for any embeddings model."""
    names = [model["id"] for model in routes.models() if "embeddings" in model["endpoints"]]
    targets = [target for name in names for target in routes.find(name).targets if target.upstream.name == upstream]
    return next((target for target in targets if target.name == PREFERRED), targets[0] if targets else None)
