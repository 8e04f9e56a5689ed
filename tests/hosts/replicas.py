"""Several gateways as on several hosts: a port and a folder each, and nothing in common but the stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx

from ..cli.test_cli import torii
from ..servers import PostgresServer, RedisServer
from ..team.gateway import TeamGateway, VirtualKey, crowd, team_gateway
from ..team.provider import Provider, provider
from ..team.shows import answers

REPLICAS = 3
STORES = ("postgres", "redis")  # PostgreSQL alone, and Redis beside it


@dataclass
class Stores:
    """The servers, and a database of this show alone."""

    postgres: PostgresServer
    redis: RedisServer | None
    database: str

    @property
    def kind(self) -> str:
        return "PostgreSQL + Redis" if self.redis else "PostgreSQL"

    @property
    def settings(self) -> dict[str, Any]:
        found: dict[str, Any] = {"storage": {"url": self.postgres.url(self.database)}}
        return found | ({"counters": {"url": self.redis.url()}} if self.redis else {})

    def query(self, statement: str) -> list[Any]:
        return self.postgres.execute(statement, self.database)


@dataclass
class Replicas:
    """``lost`` are the answers that a killed replica did not give."""

    folder: Path
    stores: Stores
    jina: Provider
    aihubmix: Provider
    values: dict[str, Any]
    gateways: dict[int, TeamGateway] = field(default_factory=dict)
    stacks: dict[int, AsyncExitStack] = field(default_factory=dict)

    @property
    def met(self) -> int:
        """The requests that reached a provider."""
        return self.jina.met + self.aihubmix.met

    @property
    def first(self) -> TeamGateway:
        return self.gateways[0]

    async def start(self, place: int) -> None:
        stack = self.stacks[place] = AsyncExitStack()
        values = {**self.stores.settings, **self.values}
        made = team_gateway(self.folder / f"host-{place}", (self.jina, self.aihubmix), **values)
        gateway = self.gateways[place] = await stack.enter_async_context(made)
        gateway.client.headers["connection"] = "close"  # a kept one may be closed just when it is used again

    async def kill(self, place: int) -> None:
        """SIGKILL, as when a host loses its power."""
        await self.stacks.pop(place).aclose()
        del self.gateways[place]

    async def end(self) -> None:
        for place in [*self.stacks]:
            await self.kill(place)

    async def key(self, name: str, **fields: Any) -> VirtualKey:
        """A new key, made at the first replica, once all know it."""
        made = await self.first.admin("POST", "keys", {"name": name, **fields}, 201)
        key = VirtualKey(made["id"], made["secret"])
        await self.everywhere(key, 200)
        return key

    async def everywhere(self, key: VirtualKey, status: int, seconds: float = 30.0) -> float:
        """Returns once each replica answers so, and the seconds that it took. Raises TimeoutError."""
        began = asyncio.get_running_loop().time()

        async def seen(gateway: TeamGateway) -> None:
            async def told() -> bool:
                return (await gateway.client.get("/v1/models", headers=key.headers)).status_code == status

            if not await soon(told, seconds):
                raise TimeoutError(f"a replica does not answer {status} after {seconds:g} seconds")

        await asyncio.gather(*map(seen, self.gateways.values()))
        return asyncio.get_running_loop().time() - began

    async def answers(self, key: VirtualKey, path: str, bodies: Sequence[Any]) -> list[httpx.Response | None]:
        """The answers to all bodies, sent at once, to one replica after the other; None for a lost connection."""
        async with AsyncExitStack() as stack:
            each = len(bodies) // len(self.gateways) + 1
            clients = [await stack.enter_async_context(crowd(gateway, each)) for gateway in self.gateways.values()]

            async def one(client: httpx.AsyncClient, body: Any) -> httpx.Response | None:
                (found,) = await answers(client, key, path, [body])
                return found

            return list(await asyncio.gather(*map(one, cycle(clients), bodies)))


async def soon(look: Callable[[], Awaitable[object]], seconds: float = 30.0) -> bool:
    """True once the coroutine function gives a true value; False if it gives none within ``seconds``."""
    end = asyncio.get_running_loop().time() + seconds
    while not await look():
        if asyncio.get_running_loop().time() > end:
            return False
        await asyncio.sleep(0.05)
    return True


@contextmanager
def stores(kind: str, postgres: PostgresServer | None = None) -> Any:
    """The stores of a show, in servers of its own, or in a database of ``postgres``."""
    own = postgres or PostgresServer()
    redis = RedisServer() if kind == "redis" else None
    try:
        yield Stores(own, redis, own.create())
    finally:
        if redis is not None:
            redis.close()
        if postgres is None:
            own.close()


@asynccontextmanager
async def replicas(folder: Path, kind: str, count: int = REPLICAS, **values: Any) -> AsyncIterator[Replicas]:
    """Replicas over new stores, in front of two providers."""
    folder.mkdir(exist_ok=True)
    with stores(kind) as there:
        async with provider() as jina, provider() as aihubmix:
            found = Replicas(folder, there, jina, aihubmix, values)
            await upgraded(folder, there)
            try:
                await asyncio.gather(*map(found.start, range(count)))
                yield found
            finally:
                await found.end()


async def upgraded(folder: Path, there: Stores) -> None:
    """The tables are made once, by the command for it."""
    done = await asyncio.to_thread(
        torii, "db", "upgrade", cwd=folder, TORII_STORAGE__URL=there.settings["storage"]["url"]
    )
    assert done.returncode == 0, done.stderr
