"""What the stores cost, side by side in one run: round trips of a turn, CPU time and latency of a call."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench.load import Outcome, Plan
from bench.processes import Running, free_port, python

from ..conftest import JINA_KEY
from ..program import started
from ..team.gateway import CALLER, EMBED, OPERATOR, TeamGateway, VirtualKey, embed
from ..team.shows import Lines
from .meter import Meter, meter
from .replicas import STORES, Stores, stores, upgraded

MOST = 10**12
LIMITS = {"requests_per_minute": 10**7, "tokens_per_minute": 10**10, "concurrent_calls": 1000}
BUDGETS = [
    {"unit": "tokens", "amount": MOST, "window": "day"},
    {"unit": "requests", "amount": 10**9, "window": "month"},
]
NEAR = [{"unit": "requests", "amount": 500, "window": "total", "warn_at": []}]  # too near its end for slices
FLIGHTS = 32
# Of a transaction that decides calls: lock, look-up of counters that others may have changed, writes and commit; and
# one for what else goes on meanwhile.
MOST_TRIPS = 4


@dataclass
class Metered:
    """A gateway of one process, and the meters before its stores: PostgreSQL's, then Redis's."""

    gateway: TeamGateway
    stores: Stores | None
    meters: list[Meter]
    keys: dict[str, VirtualKey] = field(default_factory=dict)

    @property
    def trips(self) -> list[int]:
        return [each.trips for each in self.meters]

    @property
    def turns(self) -> int:
        """Transactions at PostgreSQL that may write."""
        return self.meters[0].locks


@asynccontextmanager
async def upstream() -> AsyncIterator[int]:
    """The port of a provider that answers all at once, in a process of its own."""
    port = free_port()
    stub = subprocess.Popen(python("bench.stub", str(port), ""), stdin=subprocess.DEVNULL)
    try:
        yield port
    finally:
        stub.terminate()
        stub.wait()


@asynccontextmanager
async def metered(folder: Path, kind: str, provider: int, *, counted: bool) -> AsyncIterator[Metered]:
    """``kind``: one of STORES, or ``sqlite``. ``counted``: there are meters, which take time themselves."""
    folder.mkdir(parents=True)
    async with AsyncExitStack() as stack:
        there: Stores | None = None
        meters: list[Meter] = []
        settings: dict[str, Any] = {}
        if kind != "sqlite":
            there = stack.enter_context(stores(kind))
            await upgraded(folder, there)
            settings = there.settings
        if there and counted:
            meters.append(await stack.enter_async_context(meter(there.postgres.port)))
            settings["storage"] = {"url": there.postgres.url(there.database, port=meters[0].port)}
            if there.redis is not None:
                meters.append(await stack.enter_async_context(meter(there.redis.port)))
                settings["counters"] = {"url": there.redis.url(port=meters[1].port)}
        gateway = await stack.enter_async_context(started(TeamGateway, folder, _configured(provider, **settings)))
        found = Metered(gateway, there, meters)
        found.keys["far"] = await gateway.key("far", limits=LIMITS, budgets=BUDGETS)
        found.keys["near"] = await gateway.key("near", budgets=NEAR)
        found.keys["plain"] = VirtualKey("plain", CALLER)
        yield found


def _configured(port: int, **more: Any) -> bytes:
    place = f"http://127.0.0.1:{port}/e1-float/v1"
    return msgspec.json.encode(
        {
            "operator_key": OPERATOR,
            "callers": [{"name": "plain", "key": CALLER}],
            "ledger": {"path": "torii.db"},
            "cache": {"store": "off"},
            "log_level": "warning",
            "upstreams": {"jina": {"base_url": place, "deepsearch_base_url": place, "api_key": JINA_KEY}},
            **more,
        }
    )


async def load(where: Metered, key: VirtualKey, seconds: float, flights: int = FLIGHTS) -> tuple[float, Outcome]:
    """CPU time of the gateway for each call in microseconds, and what the load saw."""
    body = msgspec.json.encode(embed("Hello, gate"))
    head = (
        f"POST {EMBED} HTTP/1.1\r\nhost: 127.0.0.1:{where.gateway.port}\r\nauthorization: Bearer {key.secret}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    plan = Plan("closed", where.gateway.port, [head.encode() + body], connections=flights, seconds=seconds)
    running = Running("torii", where.gateway.process, where.gateway.folder / "log")
    before = running.cpu()
    process = await asyncio.create_subprocess_exec(
        *python("bench.load"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(msgspec.json.encode(plan))
    outcome = msgspec.json.decode(out, type=Outcome)
    return (running.cpu() - before) / max(outcome.done, 1) * 1e6, outcome


# ---------------------------------------------------------------- 6: round trips


async def trips(folder: Path, seconds: float = 2.0) -> Lines:
    """Round trips to each store: of a gateway at rest, for calls that draw from slices, and for those that cannot."""
    lines = Lines("6 round trips, 1 process")
    async with upstream() as port:
        for kind in STORES:
            async with metered(folder / kind, kind, port, counted=True) as there:
                rest = await _resting(there, seconds)
                lines.true(f"{_name(there)}: a second at rest", True, " + ".join(f"{each:.1f}" for each in rest))
                for name, what in (("far", "far from limits (slices)"), ("near", "near a limit (each decided)")):
                    await _counted(there, name, what, seconds, rest, lines)
    return lines


def _name(there: Metered) -> str:
    return there.stores.kind if there.stores else "SQLite"


async def _resting(there: Metered, seconds: float) -> list[float]:
    before = there.trips
    await asyncio.sleep(seconds)
    return [(after - each) / seconds for after, each in zip(there.trips, before, strict=True)]


async def _counted(there: Metered, name: str, what: str, seconds: float, rest: list[float], lines: Lines) -> None:
    """``near`` has few calls to spend, so each of them is made one flight after the other. Many rows in one pipeline
    count as more than one round trip, since the first answers come while the last rows are sent."""
    trips, turns, began = there.trips, there.turns, asyncio.get_running_loop().time()
    if name == "near":
        done = 0
        async with _client(there) as client:
            for turn in range(12):
                asked = [
                    client.post(EMBED, json=embed(f"{turn} {n}"), headers=there.keys[name].headers) for n in range(32)
                ]
                done += sum(each.status_code == 200 for each in await asyncio.gather(*asked))
    else:
        _, outcome = await load(there, there.keys[name], seconds)
        done = outcome.done
    await asyncio.sleep(0.5)
    took, turns = asyncio.get_running_loop().time() - began, there.turns - turns
    spent = [after - each - idle * took for after, each, idle in zip(there.trips, trips, rest, strict=True)]
    calls = " + ".join(f"{each / max(done, 1):.3f}" for each in spent)
    lines.true(f"{_name(there)}, {what}: round trips a call", done > 0, f"{calls} ({done:,} calls)")
    each = f"{spent[0] / max(turns, 1):.2f} of {turns:,} transactions, {done / max(turns, 1):.1f} calls in each"
    lines.true(f"{_name(there)}, {what}: a transaction", name == "far" or spent[0] <= MOST_TRIPS * turns, each)


def _client(there: Metered) -> Any:
    from ..team.gateway import crowd

    return crowd(there.gateway, FLIGHTS)


# ---------------------------------------------------------------- 6: CPU and latency


async def cost(folder: Path, rounds: int = 3, seconds: float = 1.5) -> Lines:
    """A caller without limits, and a key with limits and two budgets, at each store in turn."""
    lines = Lines("6 cost of a call, 1 process")
    kinds = ("sqlite", *STORES)
    async with upstream() as port, AsyncExitStack() as stack:
        places = {
            kind: await stack.enter_async_context(metered(folder / kind, kind, port, counted=False)) for kind in kinds
        }
        cpu: dict[tuple[str, str], list[float]] = {}
        latency: dict[tuple[str, str], list[float]] = {}
        for turn in range(rounds + 1):
            for kind, there in places.items():
                for name in ("plain", "far"):
                    spent, outcome = await load(there, there.keys[name], seconds if turn else 0.5)
                    assert outcome.failed == 0, outcome.first_failure
                    if turn:  # the first round warms up
                        cpu.setdefault((kind, name), []).append(spent)
                        latency.setdefault((kind, name), []).append(statistics.median(outcome.latencies) * 1000)
        for kind, there in places.items():
            for name, what in (("plain", "no limits"), ("far", "limits, 2 budgets")):
                found = (statistics.median(cpu[kind, name]), statistics.median(latency[kind, name]))
                ratio = found[0] / statistics.median(cpu[kind, "plain"]) - 1
                more = f" ({ratio:+.0%})" if name == "far" else ""
                told = f"{found[0]:.0f} us{more}, {found[1]:.1f} ms"
                lines.true(f"{_name(there)}, {what}: CPU a call, latency", True, told)
    return lines
