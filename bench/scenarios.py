"""The scenarios: each is a plan for the load generator and a reading of its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from . import wire
from .load import Outcome, Plan
from .statistic import percentile
from .wire import Ask

Figures = dict[str, float]
"""Figures of one gateway in one round. CPU times in microseconds, latencies in milliseconds, memory in KB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """``unit``: the unit that CPU time is divided by; ``tell``: the figures in the scenario's table.

    If ``direct``, the stub is also measured without a gateway, and ``added_*`` is the difference. ``least``: the
    minimum duration in seconds. ``apart``: the gateways that take no part.
    """

    name: str
    title: str
    ask: Ask
    kind: Literal["closed", "steady", "streams"] = "closed"
    connections: int = 32
    rate: float = 0.0
    first_event: bool = False
    tell: tuple[str, ...] = ("cpu_us", "per_core_second", "p50_ms")
    direct: bool = False
    least: float = 0.0
    rounds: int | None = None
    group: str = "main"
    apart: tuple[str, ...] = ()

    def plan(self, port: int, request: bytes, seconds: float, cores: str) -> Plan:
        return Plan(
            kind=self.kind,
            port=port,
            requests=[request],
            connections=self.connections,
            seconds=max(seconds, self.least),
            rate=self.rate,
            cores=cores,
            first_event=self.first_event,
        )


def figures(scenario: Scenario, outcome: Outcome, cpu: float) -> Figures:
    """``cpu``: the gateway's CPU time in seconds."""
    done = max(outcome.done, 1)
    found = {
        "cpu_us": cpu / done * 1e6,
        "per_core_second": done / max(cpu, 1e-6),
        "per_second": outcome.done / max(outcome.elapsed, 1e-6),
        "failed": float(outcome.failed),
        "load_busy": outcome.cpu / max(outcome.elapsed, 1e-6),
        "gateway_busy": cpu / max(outcome.elapsed, 1e-6),
    }
    if outcome.latencies:
        found["p50_ms"] = percentile(outcome.latencies, 50) * 1e3
        found["p99_ms"] = percentile(outcome.latencies, 99) * 1e3
    if scenario.kind == "streams":
        found |= {"ended": float(outcome.ended), "progress": outcome.least_progress}
        if outcome.late:
            found["late_p50_ms"] = percentile(outcome.late, 50) * 1e3
            found["late_p99_ms"] = percentile(outcome.late, 99) * 1e3
    return found


SMALL = wire.embeddings(1)
STREAMED = ("cpu_us", "per_core_second", "added_late_p50_ms", "added_late_p99_ms", "ended")


def _closed(name: str, title: str, ask: Ask, connections: int = 32, **more: object) -> Scenario:
    return Scenario(name=name, title=title, ask=ask, connections=connections, **more)  # type: ignore[arg-type]  # its own fields


def _steady(rate: int) -> Scenario:
    title = f"latency added, one small embeddings call at a time, {rate} a second"
    tell = ("added_p50_ms", "added_p99_ms", "cpu_us")
    return Scenario(
        name=f"latency-{rate}",
        title=title,
        ask=SMALL,
        kind="steady",
        connections=1,
        rate=rate,
        tell=tell,
        direct=True,
        least=400 / rate,
    )


MAIN = (
    # First, so that the memory figure is that of a gateway that has done no other work.
    Scenario(
        name="stream-500",
        title="500 streams, 2,000 events a second in all",
        ask=wire.stream(4, 24),
        kind="streams",
        connections=500,
        rate=4,
        tell=(*STREAMED, "memory_kb_per_stream", "memory_mb"),
        direct=True,
        least=20,
    ),
    _closed("embeddings", "embeddings, one small input", SMALL, direct=True),
    _closed("chat", "chat, a small call that needs no translation", wire.chat()),
    _closed("rerank", "rerank, 100 documents", wire.rerank()),
    *(
        _closed(
            f"embeddings-64-{sent}-as-{asked}",
            f"embeddings, 64 x 1024, upstream sends {sent}, caller asks for {asked}",
            wire.embeddings(64, sent=sent, asked=asked),
            4,
        )
        for sent in ("float", "base64")
        for asked in ("float", "base64")
    ),
    _steady(50),
    _steady(200),
    Scenario(
        name="first-event",
        title="time added to a stream's first event",
        ask=wire.stream(0, 3),
        kind="steady",
        connections=1,
        rate=50,
        first_event=True,
        tell=("added_p50_ms", "added_p99_ms", "cpu_us"),
        direct=True,
        least=4,
    ),
    Scenario(
        name="stream-paced",
        title="16 streams, 12,800 events a second in all",
        ask=wire.stream(800, 3200),
        kind="streams",
        connections=16,
        rate=800,
        tell=STREAMED,
        direct=True,
        least=15,
    ),
    Scenario(
        name="stream-burst",
        title="16 streams as fast as they go",
        ask=wire.stream(0, 4000),
        kind="streams",
        connections=16,
        tell=("per_core_second", "cpu_us", "progress", "ended"),
        least=10,
    ),
    Scenario(
        name="capped",
        title="256 callers of an upstream that takes 500 calls a minute",
        ask=wire.capped(500),
        connections=256,
        tell=("per_second", "failed", "p50_ms"),
        least=60,
        rounds=1,
        group="capped",
        apart=("litellm", "portkey"),
    ),
)

# Only for a Torii that has a cache.
CACHED = (
    _closed(
        "cached", "embeddings, the same 64 inputs again and again", wire.embeddings(64, fresh=False), 4, group="special"
    ),
)

KEYED = ("torii-10-keys", "torii-1000-keys")
ROWED = ("torii-100000-rows", "torii-1000000-rows")

GROWTH = (
    _closed(
        "keys",
        "embeddings, with 1, 10 and 1000 callers and upstream keys",
        SMALL,
        apart=ROWED,
        group="growth",
    ),
    _closed(
        "rows",
        "embeddings, with an empty ledger, and with 100,000 and 1,000,000 rows in it",
        SMALL,
        apart=KEYED,
        group="growth",
    ),
    *(
        _closed(
            f"inputs-{count}",
            f"embeddings, {count} inputs",
            wire.embeddings(count),
            4,
            apart=(*KEYED, *ROWED),
            group="growth",
        )
        for count in (1, 8, 64, 512)
    ),
    *(
        Scenario(
            name=f"chunks-{count}",
            title=f"one stream after another, {count} events each",
            ask=wire.stream(0, count),
            connections=4,
            tell=("cpu_us",),
            apart=(*KEYED, *ROWED),
            group="growth",
        )
        for count in (1, 10, 100, 1000)
    ),
    *(
        Scenario(
            name=f"open-{count}",
            title=f"{count} open streams, 4 events a second each",
            ask=wire.stream(4, 16),
            kind="streams",
            connections=count,
            rate=4,
            tell=("cpu_us", "added_late_p99_ms"),
            direct=True,
            least=15,
            apart=(*KEYED, *ROWED),
            group="growth",
        )
        for count in (1, 50, 200, 500)
    ),
)

EVERY = (*MAIN, *CACHED, *GROWTH)
