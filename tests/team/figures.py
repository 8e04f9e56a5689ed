"""What it costs: the operator's reports over a million rows, and the CPU time of a call whose key has limits."""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import subprocess
import time
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from app.storage.ledger_file import LedgerFile
from app.storage.rows import INSERT_CALL
from bench.load import Outcome, Plan
from bench.processes import Running, free_port, python

from ..conftest import JINA_KEY
from ..ledger import call
from ..program import started
from .gateway import CALLER, EMBED, OPERATOR, TeamGateway, VirtualKey, embed, team_gateway
from .provider import provider
from .shows import Lines

MILLISECONDS = 100.0
MORE_CPU = 0.20
DAY = 86_400_000


# ---------------------------------------------------------------- 5: a million rows


async def reports(folder: Path, rows: int = 1_000_000, *, settle_seconds: float = 240.0) -> Lines:
    """The time of each report of the operator's API over ``rows`` of 80 days, the median of five."""
    lines = Lines(f"5 reports, {rows:,} rows")
    folder.mkdir(exist_ok=True)
    await asyncio.to_thread(_fill, folder / "torii.db", rows)
    async with provider() as jina, provider() as other, team_gateway(folder, (jina, other)) as gateway:
        budgets = [{"unit": "usd", "amount": "1000", "window": "month"}]
        await gateway.key("reader", budgets=budgets)
        now = int(time.time())
        start = now - 80 * 86_400
        await _rolled_up(gateway, start, settle_seconds)
        asked = {
            f"{what} by {by}, 30 days": f"{what}?start_time={now - 30 * 86_400}&bucket_width=1d&group_by={by}&limit=31"
            for what in ("usage", "costs")
            for by in ("key", "team", "model", "endpoint", "upstream", "user")
        }
        asked |= {
            "usage, 80 days": f"usage?start_time={start}&bucket_width=1d&limit=100",
            "usage by hour, 7 days": f"usage?start_time={now - 7 * 86_400}&bucket_width=1h&limit=168",
            "calls": "calls?limit=100",
            "calls of a key": "calls?key=key7&limit=100",
            "calls of a team": "calls?team=team1&limit=100",
            "calls with status 429": "calls?status=429&limit=100",
            "calls of a model": "calls?model=model3&limit=100",
            "a call by its id": f"calls?request_id={_id(rows // 2)}",
            "keys": "keys?limit=100",
            "teams": "teams",
            "audit": "audit",
            "upstreams": "upstreams",
        }
        for what, path in asked.items():
            took = [await _took(gateway, path) for _ in range(5)]
            lines.true(what, statistics.median(took) < MILLISECONDS, f"{statistics.median(took):.1f} ms")
    return lines


def _id(number: int) -> str:
    return f"{number:032x}"


def _fill(path: Path, rows: int) -> None:
    """A ledger of ``rows`` calls by fifty keys of five teams, for eight models, in the last 80 days."""
    LedgerFile(path).close()
    chance = Random(5)
    now = int(time.time() * 1000)
    step = 80 * DAY // rows
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("BEGIN")
        connection.executemany(
            INSERT_CALL, (_row(chance, number, now - (rows - number) * step) for number in range(rows))
        )
        connection.execute("COMMIT")


def _row(chance: Random, number: int, when: int) -> tuple[Any, ...]:
    key = chance.randrange(50)
    tokens = chance.randrange(10, 2000)
    return tuple(
        call(
            time=when,
            caller=f"key{key}",
            key_id=f"key{key}",
            team=f"team{key % 5}",
            endpoint=chance.choice(("embeddings", "embeddings", "rerank", "chat")),
            model=f"model{key % 8}",
            model_id=f"model{key % 8}",
            upstream=chance.choice(("jina", "aihubmix")),
            status=200 if number % 50 else 429,
            prompt_tokens=tokens,
            total_tokens=tokens,
            cost=tokens * 20,
            user=f"user{number % 200}",
            request_id=_id(number),
        )
    )


async def _rolled_up(gateway: TeamGateway, start: int, seconds: float) -> None:
    """Wait for the first pass of retention, which makes the roll-ups: until a sum over all days is fast."""
    path = f"usage?start_time={start}&bucket_width=1d&group_by=key&limit=100"
    for _ in range(round(seconds / 2)):
        if min([await _took(gateway, path) for _ in range(3)]) < MILLISECONDS:
            break
        await asyncio.sleep(2)


async def _took(gateway: TeamGateway, path: str) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    await gateway.admin("GET", path)
    return (time.perf_counter() - began) * 1000


# ---------------------------------------------------------------- 6: the cost of a call


async def cost(folder: Path, rounds: int = 7, seconds: float = 3.0) -> Lines:
    """CPU time of the gateway for each call at 32 in flight, in turns: a configured caller without limits, and a key
    with limits and two budgets; the ledger is on for both."""
    lines = Lines("6 cost of a call, 1 worker")
    folder.mkdir(exist_ok=True)
    port = free_port()
    stub = subprocess.Popen(python("bench.stub", str(port), ""), stdin=subprocess.DEVNULL)
    try:
        async with started(TeamGateway, folder, _configured(port)) as gateway:
            limits = {"requests_per_minute": 10**7, "tokens_per_minute": 10**10, "concurrent_calls": 1000}
            budgets = [
                {"unit": "tokens", "amount": 10**12, "window": "day"},
                {"unit": "requests", "amount": 10**9, "window": "month"},
            ]
            key = await gateway.key("limited", limits=limits, budgets=budgets)
            plain = VirtualKey("plain", CALLER)
            taken: dict[str, list[float]] = {"plain": [], "limited": []}
            for turn in range(rounds + 1):
                for caller, each in ((plain, "plain"), (key, "limited")):
                    found = await _microseconds(gateway, caller, seconds)
                    if turn:  # the first round warms up
                        taken[each].append(found)
            less, more = statistics.median(taken["plain"]), statistics.median(taken["limited"])
            lines.true("a configured caller, us of CPU a call", True, f"{less:.0f}")
            share = more / less - 1
            lines.true("a key with limits and two budgets", share <= MORE_CPU, f"{more:.0f} ({share:+.1%})")
    finally:
        stub.terminate()
        stub.wait()
    return lines


def _configured(port: int) -> bytes:
    place = f"http://127.0.0.1:{port}/e1-float/v1"
    return msgspec.json.encode(
        {
            "operator_key": OPERATOR,
            "callers": [{"name": "plain", "key": CALLER}],
            "ledger": {"path": "torii.db"},
            "cache": {"store": "off"},
            "log_level": "warning",
            "upstreams": {"jina": {"base_url": place, "deepsearch_base_url": place, "api_key": JINA_KEY}},
        }
    )


async def _microseconds(gateway: TeamGateway, key: VirtualKey, seconds: float) -> float:
    """CPU time of the gateway's process for each call, in microseconds."""
    body = msgspec.json.encode(embed("Hello, gate"))
    head = (
        f"POST {EMBED} HTTP/1.1\r\nhost: 127.0.0.1:{gateway.port}\r\nauthorization: Bearer {key.secret}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    plan = Plan("closed", gateway.port, [head.encode() + body], connections=32, seconds=seconds)
    running = Running("torii", gateway.process, gateway.folder / "log")
    before = running.cpu()
    process = await asyncio.create_subprocess_exec(
        *python("bench.load"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(msgspec.json.encode(plan))
    spent = running.cpu() - before
    outcome = msgspec.json.decode(out, type=Outcome)
    assert outcome.failed == 0, outcome.first_failure
    return spent / outcome.done * 1e6
