"""A gateway over PostgreSQL as a team uses it: processes of its own, real sockets, the commands beside it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec

from ..cli.test_cli import torii
from ..conftest import ScriptedUpstream, replies
from ..program import started
from .operating import OPERATOR
from .test_process import RANK, RANKED, Gateway, configuration

ADMIN = {"authorization": f"Bearer {OPERATOR}"}


async def test_a_team_over_postgresql(upstream: ScriptedUpstream, tables_url: str, tmp_path: Path) -> None:
    """Two workers: a budget is spent to the last request, and every report and command says so."""
    upstream.plays(replies(RANKED))
    given = {"storage": {"url": tables_url}, "ledger": {"path": "torii.db"}, "operator_key": OPERATOR, "workers": 2}
    async with started(Gateway, tmp_path, configuration(upstream.url, **given)) as gateway:
        await gateway.ready(2)
        client, password = gateway.client, httpx.URL(tables_url).password

        async def admin(method: str, path: str, body: Any = None) -> Any:
            answer = await client.request(method, f"/admin/v1{path}", json=body, headers=ADMIN)
            assert answer.status_code in (200, 201), answer.text
            return answer.json()

        async def run(*words: str) -> str:
            variables = {"XDG_RUNTIME_DIR": str(tmp_path), "TORII_OPERATOR_KEY": OPERATOR}
            done = await asyncio.to_thread(partial(torii, *words, cwd=tmp_path, **variables))
            assert done.returncode == 0, done.stderr
            assert password not in done.stdout + done.stderr
            return done.stdout + done.stderr

        await run("teams", "create", "search", "--id", "s", "--limit", "requests_per_minute=1000")
        budget = {"unit": "requests", "amount": 5, "window": "total"}
        key = await admin("POST", "/keys", {"name": "ann", "team": "s", "budgets": [budget]})
        ann = {"authorization": f"Bearer {key['secret']}"}

        async def ask(headers: dict[str, str] = ann) -> str:
            # A new connection each: both workers are asked.
            answer = await client.post("/v1/rerank", json=RANK, headers={"connection": "close", **headers})
            return "200" if answer.status_code == 200 else f"{answer.status_code} {answer.json()['error']['code']}"

        async def seen(expected: str, times: int = 20) -> None:
            """As all workers answer."""
            for _ in range(100):
                if {await ask({"authorization": ann["authorization"]}) for _ in range(times)} == {expected}:
                    return
            raise TimeoutError(expected)

        # Before both workers know the key, a call of it is refused and costs nothing.
        async def models() -> int:
            return (await client.get("/v1/models", headers={"connection": "close", **ann})).status_code

        for _ in range(2000):
            if {await models() for _ in range(10)} == {200}:
                break
        found = Counter(await asyncio.gather(*(ask() for _ in range(12))))
        assert found == {"200": 5, "429 insufficient_quota": 7}
        assert len(upstream.seen) == 5

        async def settled() -> tuple[int, ...]:
            """What the budget has spent and holds, and the counts of calls and refusals."""
            limits, *_ = (await admin("GET", f"/limits?key={key['id']}"))["data"]
            (left,) = limits["budgets"]
            rows = (await admin("GET", "/calls"))["data"]
            counts = (sum(row["count"] for row in rows if row["kind"] == kind) for kind in ("call", "refusal"))
            return (left["spent"], left["held"], *counts)

        for _ in range(500):
            if await settled() == (5, 0, 5, 7):
                break
        rows = msgspec.json.decode(await run("calls", "--key", "ann", "--json"))["data"]
        assert sum(row["count"] for row in rows) == 12
        today = int(time.time()) // 86400 * 86400
        usage = await admin("GET", f"/usage?start_time={today}&end_time={today + 2 * 86400}&group_by=key&limit=1")
        assert [sum(each["requests"] for each in bucket["results"]) for bucket in usage["data"]] == [5]
        own = (await client.get("/v1/usage", headers=ann)).json()
        assert "'spent': 5" in str(own)
        await admin("PATCH", f"/keys/{key['id']}", {"budgets": [{**budget, "amount": 6}]})
        for _ in range(500):
            if len(upstream.seen) == 6:
                break
            assert await ask() in ("200", "429 insufficient_quota")
        assert await ask() == "429 insufficient_quota"
        await run("keys", "revoke", "ann")
        await seen("401 key_revoked")
        actions = [line["action"] for line in (await admin("GET", "/audit"))["data"]]
        assert actions == ["key.revoke", "key.edit", "key.create", "team.create"]
        gateway.signal(signal.SIGTERM)
        assert await gateway.ends() == 0
        assert password not in gateway.log
        assert "what is counted equals the ledger's rows" in await run("ledger", "verify")
        assert len(upstream.seen) == 6
