"""Torii's own performance targets, each with its verdict. A target without a measurement is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .footprint import Footprint
from .rounds import Measured
from .statistic import ratio, spread

OURS = "torii"


@dataclass
class Results:
    measured: dict[str, Measured]
    footprints: dict[str, Footprint]

    def median(self, scenario: str, figure: str, gateway: str = OURS) -> float | None:
        values = self.measured[scenario].values(gateway, figure) if scenario in self.measured else []
        return spread(values).median if values else None

    def against(self, scenario: str, other: str, figure: str = "cpu_us") -> float | None:
        if scenario not in self.measured:
            return None
        measured = self.measured[scenario]
        found = ratio(measured.values(OURS, figure), measured.values(other, figure))
        return found.median if found else None


@dataclass(frozen=True)
class Target:
    """``goal``: the maximum, or the minimum if ``least``; ``shown`` formats a figure."""

    title: str
    goal: float
    figure: Callable[[Results], float | None]
    shown: str = "{:.3g}"
    least: bool = False


@dataclass(frozen=True)
class Verdict:
    title: str
    goal: str
    measured: str
    met: bool


def verdicts(results: Results) -> Iterator[Verdict]:
    for target in TARGETS:
        figure = target.figure(results)
        if figure is not None:
            met = figure >= target.goal if target.least else figure <= target.goal
            sign = "at least" if target.least else "at most"
            goal, said = target.shown.format(target.goal), target.shown.format(figure)
            yield Verdict(target.title, f"{sign} {goal}", said, met)


def _against(scenario: str, other: str, figure: str = "cpu_us") -> Callable[[Results], float | None]:
    return lambda results: results.against(scenario, other, figure)


def _median(scenario: str, figure: str, scale: float = 1.0) -> Callable[[Results], float | None]:
    def found(results: Results) -> float | None:
        median = results.median(scenario, figure)
        return None if median is None else median * scale

    return found


def _footprint(figure: str) -> Callable[[Results], float | None]:
    return lambda results: getattr(results.footprints.get(OURS), figure, None)


ENCODINGS = [(sent, asked) for sent in ("float", "base64") for asked in ("float", "base64")]

TARGETS = (
    *(
        Target(f"CPU of a call against nginx: {name}", 6, _against(name, "nginx"), "{:.3g} x")
        for name in ("embeddings", "rerank", "chat")
    ),
    *(
        Target(f"CPU of a call against LiteLLM: {name}", 1 / 60, _against(name, "litellm"), "{:.4f} x")
        for name in ("embeddings", "chat", "embeddings-64-float-as-float")
    ),
    Target("latency added, median, 50 calls a second", 0.3, _median("latency-50", "added_p50_ms"), "{:.2f} ms"),
    Target("latency added, median, 200 calls a second", 0.3, _median("latency-200", "added_p50_ms"), "{:.2f} ms"),
    Target("time added to a stream's first event, median", 0.5, _median("first-event", "added_p50_ms"), "{:.2f} ms"),
    Target("CPU of a relayed and rewritten event, paced", 60, _median("stream-paced", "cpu_us"), "{:.0f} us"),
    Target(
        "12,800 events a second: how late the 99th percentile is, beyond the stub's own",
        50,
        _median("stream-paced", "added_late_p99_ms"),
        "{:.1f} ms",
    ),
    Target(
        "burst, 16 streams: events of a core-second",
        60_000,
        _median("stream-burst", "per_core_second"),
        "{:,.0f}",
        True,
    ),
    Target(
        "burst, 16 streams: the slowest's progress beside the fastest's",
        0.5,
        _median("stream-burst", "progress"),
        "{:.2f}",
        True,
    ),
    Target("500 streams: how many were whole", 500, _median("stream-500", "ended"), "{:.0f}", True),
    Target("500 streams: lateness added, 99th percentile", 1, _median("stream-500", "added_late_p99_ms"), "{:.1f} ms"),
    Target("500 streams: memory of each", 40, _median("stream-500", "memory_kb_per_stream"), "{:.0f} KB"),
    *(
        Target(
            f"64 x 1024, {sent} from upstream, asked as {asked}: CPU",
            3,
            _median(f"embeddings-64-{sent}-as-{asked}", "cpu_us", 1e-3),
            "{:.1f} ms",
        )
        for sent, asked in ENCODINGS
    ),
    Target("64 inputs, all cached: CPU", 1.5, _median("cached", "cpu_us", 1e-3), "{:.2f} ms"),
    Target(
        "under a cap of 500 calls a minute: useful calls against pass-through",
        20,
        _against("capped", "nginx", "per_second"),
        "{:.1f} x",
        True,
    ),
    Target("under that cap: calls refused", 0, _median("capped", "failed"), "{:.0f}"),
    Target("start to first answer", 0.7, _footprint("start"), "{:.2f} s"),
    Target("memory at rest", 60, _footprint("rest_mb"), "{:.0f} MB"),
    Target("memory with 500 streams", 80, _median("stream-500", "memory_mb"), "{:.0f} MB"),
    Target("installed size, base package with its dependencies", 75, _footprint("disk_mb"), "{:.0f} MB"),
    Target("number of packages", 40, _footprint("packages"), "{:.0f}"),
)
