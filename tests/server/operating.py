"""A gateway with a ledger and an operator, for the tests of the operator's API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from app.config.settings import Settings
from app.storage.ledger_file import LedgerFile

from ..conftest import RunningGateway, running_gateway

OPERATOR = "operator-key-0123456789"
API = "/admin/v1"


class OperatorClient:
    """Asks the operator's API of a gateway with a key."""

    def __init__(self, gateway: RunningGateway, key: str = OPERATOR) -> None:
        self.gateway = gateway
        self._headers = {"authorization": f"Bearer {key}"}

    def by(self, key: str) -> OperatorClient:
        return OperatorClient(self.gateway, key)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        kind = {"content": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        return await self.gateway.client.request(method, f"{API}{path}", headers={**self._headers, **given}, **kind)

    async def get(self, path: str) -> Any:
        return whole(await self.ask("GET", path))

    async def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return whole(await self.ask("POST", path, body, **headers))

    async def patch(self, path: str, body: Any) -> Any:
        return whole(await self.ask("PATCH", path, body))

    async def delete(self, path: str) -> Any:
        return whole(await self.ask("DELETE", path))


def whole(answer: httpx.Response) -> Any:
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def refused(answer: httpx.Response) -> tuple[int, str | None, str]:
    """``(status, field, message)`` of an error."""
    error = answer.json()["error"]
    assert error["message"] == answer.json()["detail"]
    return answer.status_code, error["param"], error["message"]


@asynccontextmanager
async def operated(folder: Path, url: str = "http://127.0.0.1:1", **settings: Any) -> AsyncIterator[OperatorClient]:
    """A gateway with the ledger ``ledger.db`` in the folder, in front of Jina at ``url``."""
    upstreams = {
        "jina": {"base_url": f"{url}/v1", "deepsearch_base_url": f"{url}/deepsearch/v1", "api_key": "jina-key"}
    }
    common = {"operator_key": OPERATOR, "cache": {"store": "off"}, "upstreams": upstreams}
    given = Settings.model_validate({**common, **settings})
    database = LedgerFile(folder / "ledger.db", flush_seconds=0.01)
    try:
        async with running_gateway(given, database) as gateway:
            yield OperatorClient(gateway)
    finally:
        database.close()
