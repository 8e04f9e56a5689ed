"""What it costs: the operator's reports over a million rows, and the CPU time of a call whose key has limits."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bench.load import Outcome, Plan
from bench.processes import Running, free_port, python

from ..conftest import JINA_KEY
from ..program import started
from ..usage import million
from .gateway import CALLER, EMBED, OPERATOR, TeamGateway, VirtualKey, embed, team_gateway
from .provider import provider
from .shows import Lines

MILLISECONDS = 100.0
MORE_CPU = 0.20


# ---------------------------------------------------------------- 5: a million rows


async def reports(folder: Path, rows: int = million.ROWS) -> Lines:
    """The time of each report of `torii usage`, and of the operator's API over HTTP, over ``rows`` of a year, which are
    rolled up: the median of five."""
    lines = Lines(f"5 reports, {rows:,} rows")
    folder.mkdir(exist_ok=True)
    path = await asyncio.to_thread(million.made, folder / "torii.db", rows)
    for what, report in million.questions(path):
        if what.startswith("torii usage"):
            times = [_timed(report) for _ in range(6)][1:]  # the first one imports SQLAlchemy
            lines.true(what, statistics.median(times) < MILLISECONDS, f"{statistics.median(times):.1f} ms")
    async with provider() as jina, provider() as other:
        async with team_gateway(folder, (jina, other), ledger={"path": "torii.db", "keep_days": 400}) as gateway:
            await gateway.key("reader", budgets=[{"unit": "usd", "amount": "1000", "window": "month"}])
            for what, asked in _asked(rows).items():
                times = [await _took(gateway, asked) for _ in range(6)][1:]
                lines.true(what, statistics.median(times) < MILLISECONDS, f"{statistics.median(times):.1f} ms")
    return lines


def _asked(rows: int) -> dict[str, str]:
    """What is asked of the operator's API, by its name in the table."""
    end = int(million.END.timestamp())

    def days(count: int) -> str:
        return f"start_time={end - count * 86_400}&end_time={end}&bucket_width=1d&limit={count}"

    found = {
        f"GET {what}, 31 days by {by}": f"{what}?{days(31)}&group_by={by}"
        for what in ("usage", "costs")
        for by in ("key", "team", "model", "endpoint", "upstream")
    }
    found |= {f"GET {what}, 7 days by user": f"{what}?{days(7)}&group_by=user" for what in ("usage", "costs")}
    return found | {
        "GET usage, 365 days": f"usage?{days(365)}",
        "GET usage, 168 hours": f"usage?start_time={end - 7 * 86_400}&end_time={end}&bucket_width=1h&limit=168",
        "GET calls": "calls?limit=100",
        "GET calls of a key": "calls?key=key12&limit=100",
        "GET calls of a team": "calls?team=team-3&limit=100",
        "GET calls with status 429": "calls?status=429&limit=100",
        "GET calls of a model": "calls?model=gpt-4o-mini&limit=100",
        "GET calls, refusals": "calls?kind=refusal&limit=100",
        "GET calls, by request id": f"calls?request_id={rows // 2:032x}",
        "GET limits": "limits?limit=100",
        "GET keys": "keys?limit=100",
        "GET teams": "teams",
        "GET audit": "audit",
        "GET upstreams": "upstreams",
        "GET management_keys": "management_keys",
    }


def _timed(report: Callable[[], Any]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    report()
    return (time.perf_counter() - began) * 1000


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
