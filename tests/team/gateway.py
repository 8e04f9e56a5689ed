"""The gateway of the shows: `torii serve` as a process of its own, asked over HTTP only."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from ..cli.test_cli import SECONDS, torii
from ..conftest import AIHUBMIX_KEY, JINA_KEY
from ..program import Program, started
from .provider import Provider

CALLER = "torii-team-configured-caller-0123456789"
OPERATOR = "torii-team-operator-key-0123456789"
EMBED = "/v1/embeddings"
CONNECTIONS = 40
SEEN_SECONDS = 1.5  # three looks of a worker at the keys
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table."""

    show: str
    what: str
    found: str
    held: bool


@dataclass(frozen=True, slots=True)
class VirtualKey:
    id: str
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secret}"}


class NotAnswered(Exception):
    """The operator's API gave another answer than it should; the text has both."""


class TeamGateway(Program):
    async def admin(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """The answer of the operator's API. Raises NotAnswered for another status."""
        response = await self.client.request(
            method, f"/admin/v1/{path}", json=body, headers={"authorization": f"Bearer {OPERATOR}"}
        )
        if response.status_code != status:
            raise NotAnswered(f"{method} {path} answered {response.status_code}, not {status}: {response.text[:500]}")
        return response.json() if response.content else None

    async def key(self, name: str, **fields: Any) -> VirtualKey:
        """A new key, once every worker knows it."""
        made = await self.admin("POST", "keys", {"name": name, **fields}, 201)
        key = VirtualKey(made["id"], made["secret"])
        await self.known(key)
        return key

    async def known(self, key: VirtualKey) -> None:
        """Returns once all workers know the key."""

        async def taken() -> bool:
            return (await self.fresh("/v1/models", key)).status_code == 200

        await everywhere(taken)

    async def fresh(self, path: str, key: VirtualKey) -> httpx.Response:
        """GET over a new connection, thus at any worker."""
        return await self.client.get(path, headers={**key.headers, "connection": "close"})

    async def budgets(self, key: VirtualKey) -> list[Any]:
        """The budgets of the key's own scope, with what is spent and held."""
        (scope,) = [
            each for each in (await self.admin("GET", f"limits?key={key.id}"))["data"] if each["scope"] == "key"
        ]
        found: list[Any] = scope["budgets"]
        return found

    async def amount(self, key: VirtualKey, amount: int) -> None:
        """Give the key one budget, of ``amount`` requests; returns once all workers know it."""
        budgets = [{"unit": "requests", "amount": amount, "window": "total"}]
        await self.admin("PATCH", f"keys/{key.id}", {"budgets": budgets})

        async def known() -> bool:
            said = (await self.fresh("/v1/usage", key)).json()
            return any(int(budget["amount"]) == amount for scope in said["data"] for budget in scope["budgets"])

        await everywhere(known)

    async def rests(self, key: VirtualKey, seconds: float = 20.0) -> list[Any]:
        """The budgets once nothing is held; after ``seconds`` as they are."""
        for _ in range(round(seconds / 0.1)):
            if not any(int(float(budget["held"])) for budget in await self.budgets(key)):
                break
            await asyncio.sleep(0.1)
        return await self.budgets(key)

    async def rows(self, **filters: Any) -> list[Any]:
        """All rows of the ledger that fit, the latest first."""
        found: list[Any] = []
        more = True
        while more:
            query = {**filters, "limit": 100, **({"after": found[-1]["id"]} if found else {})}
            page = await self.admin("GET", f"calls?{httpx.QueryParams(query)}")
            found += page["data"]
            more = page["has_more"]
        return found

    async def verified(self) -> list[str]:
        """What `torii ledger verify` finds; nothing if counters and rows agree."""
        done = await asyncio.to_thread(torii, "ledger", "verify", "--config", "config.yaml", cwd=self.folder)
        return [] if done.returncode == 0 else (done.stdout + done.stderr).splitlines()

    def workers(self) -> list[int]:
        """The process ids of the workers that are alive, by number."""
        ready = [msgspec.json.decode(line)["message"] for line in self.lines if "is ready: process" in line]
        found = [re.fullmatch(r"worker (\d+) is ready: process (\d+)", message) for message in ready]
        return list({int(each[1]): int(each[2]) for each in found if each}.values())


def configuration(jina: Provider, aihubmix: Provider, **values: Any) -> bytes:
    """JSON, which is YAML."""
    return msgspec.json.encode(
        {
            "operator_key": OPERATOR,
            # So that no worker is open in the moment before it knows the first key.
            "callers": [{"name": "other", "key": CALLER}],
            "ledger": {"path": "torii.db"},
            "cache": {"store": "off"},
            "disconnect": {"policy": "cancel"},
            "upstreams": {
                "jina": {
                    "base_url": f"{jina.url}/v1",
                    "deepsearch_base_url": f"{jina.url}/v1",
                    "api_key": JINA_KEY,
                },
                "aihubmix": {"base_url": f"{aihubmix.url}/v1", "api_key": AIHUBMIX_KEY},
            },
            **values,
        }
    )


async def at_once(ask: Callable[[], Awaitable[bool]]) -> list[bool]:
    """The answers to one question, asked over CONNECTIONS new connections at once, so that every worker gets some."""
    return list(await asyncio.gather(*(ask() for _ in range(CONNECTIONS))))


async def everywhere(true: Callable[[], Awaitable[bool]]) -> None:
    """Returns once ``true`` was true of all workers for SEEN_SECONDS: on a busy machine one worker may take no
    connection for a while."""
    since = end = asyncio.get_running_loop().time() + 60
    while (now := asyncio.get_running_loop().time()) < end:
        since = min(since, now) if all(await at_once(true)) else end
        if now - since > SEEN_SECONDS:
            return
    raise TimeoutError("not all workers know it")


@asynccontextmanager
async def team_gateway(
    folder: Path, providers: Sequence[Provider], workers: int = 1, **values: Any
) -> AsyncIterator[TeamGateway]:
    """The program with the ledger ``folder``/torii.db, in front of the providers: Jina, AIHubMix."""
    folder.mkdir(exist_ok=True)
    given = configuration(*providers, workers=workers, **values)
    async with started(TeamGateway, folder, given) as running:
        running.client.timeout = httpx.Timeout(SECONDS)
        yield running


@asynccontextmanager
async def crowd(gateway: TeamGateway, connections: int) -> AsyncIterator[httpx.AsyncClient]:
    """A client with as many connections as calls."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=gateway.client.base_url, timeout=SECONDS, limits=limits, trust_env=False
    ) as client:
        yield client


def embed(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "jina/jina-embeddings-v3", "input": [text], **fields}


def chat(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "aihubmix/gpt-4o-mini", "max_tokens": 20, "messages": messages, **fields}
