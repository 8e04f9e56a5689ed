"""The measurement: starts and pins all processes, gives each gateway a turn per round, reads the kernel's counters."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from . import upstream as upstreams
from .gateways import Direct, Gateway
from .load import Outcome, Plan
from .processes import Cores, NotStarted, Running, python
from .scenarios import Figures, Scenario, figures
from .upstream import Stub

CAPACITY = 1.5
"""Minimum ratio of the direct rate (generator and stub alone) to nginx's rate."""

LIMIT = 0.9
"""Maximum share of its core for a generator or stub; a busier one limited the measurement."""


@dataclass
class Measured:
    """Results of one scenario: each gateway's figures by round, and the reason if a gateway took no part."""

    scenario: Scenario
    rounds: dict[str, list[Figures]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)

    def values(self, gateway: str, figure: str) -> list[float]:
        return [found[figure] for found in self.rounds.get(gateway, []) if figure in found]


@dataclass
class Field:
    """The running processes: the stub, and the gateways with their ports."""

    cores: Cores
    upstream: Running
    stub: Stub
    gateways: dict[str, tuple[Gateway, Running, int]]


@contextlib.contextmanager
def field_of(
    gateways: Sequence[Gateway], scenarios: Sequence[Scenario], folder: Path, *, tls: bool = False
) -> Iterator[Field]:
    """Raises NotStarted if the stub does not start; a gateway that does not start is reported and left out."""
    with contextlib.ExitStack() as stack:
        cores = Cores.of_this_machine()
        upstream, stub = upstreams.started(folder, cores, tls=tls)
        stack.callback(upstream.stop)
        asks = {scenario.ask.place: scenario.ask for scenario in scenarios}.values()
        running: dict[str, tuple[Gateway, Running, int]] = {}
        for gateway in gateways:
            try:
                process, at = gateway.start(asks, stub, folder, cores.gateway)
            except NotStarted as error:
                print(error)
                continue
            stack.callback(process.stop)
            running[gateway.name] = (gateway, process, at)
        direct = Direct()
        yield Field(cores, upstream, stub, {direct.name: (direct, upstream, stub.port), **running})


def measure(field: Field, scenario: Scenario, rounds: int, seconds: float, say: Callable[[str], None]) -> Measured:
    """Measure in interleaved rounds: every gateway has a turn in each, so a slow minute of the machine affects all."""
    measured = Measured(scenario)
    names = [name for name in field.gateways if name not in (Direct.name, *scenario.apart)]
    names += [Direct.name] * scenario.direct
    for number in range(scenario.rounds or rounds):
        for name in names:
            if name in measured.failures:
                continue
            say(f"{scenario.name}: round {number + 1}, {name}")
            found = turn(field, scenario, name, seconds, measured)
            if found:
                measured.rounds.setdefault(name, []).append(found)
    if scenario.direct:
        _subtract_direct(measured)
        _check_capacity(measured)
    return measured


def turn(field: Field, scenario: Scenario, name: str, seconds: float, measured: Measured) -> Figures | None:
    gateway, process, port = field.gateways[name]
    request = gateway.request(scenario.ask, field.stub)
    if not measured.rounds.get(name) and (failure := _first_call(scenario, port, request)):
        measured.failures[name] = failure
        return None
    before, stub_before, held = process.cpu(), field.upstream.cpu(), process.memory()
    with _peak(process) as peak:
        outcome = load(scenario.plan(port, request, seconds, ""), field.cores)
    found = figures(scenario, outcome, process.cpu() - before)
    found["stub_busy"] = (field.upstream.cpu() - stub_before) / max(outcome.elapsed, 1e-6)
    found["memory_mb"] = peak[0] / 1e6
    if not measured.rounds.get(name):  # later rounds reuse the memory of the first one
        found["memory_kb_per_stream"] = max(0, peak[0] - held) / 1e3 / scenario.connections
    for what in ("load_busy", "stub_busy"):
        if found[what] > LIMIT and found["gateway_busy"] < LIMIT:
            measured.doubts.append(f"{name}: {what.removesuffix('_busy')} used {found[what]:.0%} of its core")
    if name not in (Direct.name, "nginx") and (wrong := _form(scenario, outcome.first_answer)):
        measured.doubts.append(f"{name}: {wrong}")
    if outcome.first_failure and scenario.group != "capped":
        measured.doubts.append(f"{name}: {outcome.failed} failed; {outcome.first_failure[:200]!r}")
    return found


def load(plan: Plan, cores: Cores) -> Outcome:
    """Run the plan on all cores of the load generators; the busiest one counts as the generators' CPU use."""
    spread = min(len(cores.load), plan.connections)
    shares = [plan.connections // spread + (number < plan.connections % spread) for number in range(spread)]
    generators = []
    for core, connections in zip(cores.load, shares, strict=False):
        part = msgspec.structs.replace(plan, connections=connections, cores=str(core))
        process = subprocess.Popen(python("bench.load"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(part))
        process.stdin.close()
        generators.append(process)
    return _together([_outcome(generator) for generator in generators])


def _outcome(generator: subprocess.Popen[bytes]) -> Outcome:
    assert generator.stdout is not None
    with generator.stdout as out:
        said = out.read()
    generator.wait()
    return msgspec.json.decode(said, type=Outcome) if said else Outcome(failed=1, first_failure="the generator failed")


def _together(parts: list[Outcome]) -> Outcome:
    whole = Outcome(elapsed=max(part.elapsed for part in parts), cpu=max(part.cpu for part in parts))
    for part in parts:
        whole.done += part.done
        whole.failed += part.failed
        whole.events += part.events
        whole.ended += part.ended
        whole.latencies += part.latencies
        whole.late += part.late
        whole.first_failure = whole.first_failure or part.first_failure
        whole.first_answer = whole.first_answer or part.first_answer
    whole.least_progress = min(part.least_progress for part in parts)
    return whole


def _form(scenario: Scenario, answer: str) -> str:
    """A complaint if the vectors have another encoding than asked for; else empty. Some gateways ignore the encoding
    asked for."""
    asked = scenario.ask.body.get("encoding_format")
    got = re.search(r'"embedding": ?(["\[])', answer)
    if asked is None or got is None:
        return ""
    form = "base64" if got[1] == '"' else "float"
    return "" if form == asked else f"answers with {form}, though {asked} was asked for"


def _first_call(scenario: Scenario, port: int, request: bytes) -> str:
    """Sends calls that also warm the gateway up. Returns the failure, empty if there was none."""
    if scenario.group == "capped":
        return ""
    plan = Plan(kind="closed", port=port, requests=[request], connections=1, seconds=0.3)
    if scenario.kind == "streams":
        return ""
    outcome = load(plan, Cores.of_this_machine())
    return outcome.first_failure if outcome.failed or not outcome.done else ""


@contextlib.contextmanager
def _peak(process: Running) -> Iterator[list[int]]:
    """The peak memory inside the block, sampled ten times a second."""
    peak = [process.memory()]
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            peak[0] = max(peak[0], process.memory())

    looker = threading.Thread(target=look)
    looker.start()
    try:
        yield peak
    finally:
        over.set()
        looker.join()


def _subtract_direct(measured: Measured) -> None:
    """Add the latency that each gateway adds, round by round."""
    for name, rounds in measured.rounds.items():
        if name == Direct.name:
            continue
        for found, alone in zip(rounds, measured.rounds.get(Direct.name, []), strict=False):
            for figure in ("p50_ms", "p99_ms", "late_p50_ms", "late_p99_ms"):
                if figure in found and figure in alone:
                    found[f"added_{figure}"] = found[figure] - alone[figure]


def _check_capacity(measured: Measured) -> None:
    alone, yardstick = measured.values(Direct.name, "per_second"), measured.values("nginx", "per_second")
    if measured.scenario.kind != "closed" or not alone or not yardstick:
        return
    times = max(alone) / max(yardstick)
    if times < CAPACITY:
        measured.doubts.append(f"stub and generator alone reach only {times:.1f} times the calls that nginx does")
