"""Profile Torii under one scenario's load: the functions with the most samples, own and cumulative."""

from __future__ import annotations

import pstats
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from .gateways import Torii
from .processes import Cores, Running
from .rounds import load
from .scenarios import Scenario
from .upstream import started

LINES = 40


def run(scenario: Scenario, seconds: float) -> None:
    """Uses py-spy if it is installed; else cProfile, which overstates the cost of small functions."""
    sampler = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    with tempfile.TemporaryDirectory(prefix="torii-bench-") as name:
        folder, cores = Path(name), Cores.of_this_machine()
        result = folder / "profile"
        counting = (str(Torii().program.with_name("python")), "-m", "cProfile", "-o", str(result))
        torii = Torii(profiler=() if sampler else counting)
        upstream, stub = started(folder, cores)
        try:
            process, at = torii.start([scenario.ask], stub, folder, cores.gateway)
            plan = scenario.plan(at, torii.request(scenario.ask, stub), seconds, "")
            with _sampling(sampler, process, result, plan.seconds) if sampler else nullcontext():
                outcome = load(plan, cores)
            process.stop(30)
        finally:
            upstream.stop()
        print(f"{scenario.title}: {outcome.done} in {outcome.elapsed:.1f} s, {outcome.failed} failed")
        print(_sampled(result) if sampler else _counted(result))


@contextmanager
def _sampling(sampler: str, process: Running, result: Path, seconds: float) -> Iterator[None]:
    options = ["--rate", "500", "--format", "raw", "--function", "--output", str(result)]
    command = [sampler, "record", *options, "--duration", str(max(1, int(seconds))), "--pid", str(process.process.pid)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sampling:
        yield
        sampling.wait()


def _sampled(file: Path) -> str:
    """Read lines of `outermost;...;innermost count`."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in file.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        own[frames[-1]] += int(count)
        for frame in set(frames):
            whole[frame] += int(count)
    total = max(sum(own.values()), 1)
    tables = (("of its own", own), ("in all", whole))
    return "\n".join(
        "\n".join([f"\n  share {title}", *(f"  {n / total:6.1%}  {frame}" for frame, n in found.most_common(LINES))])
        for title, found in tables
    )


def _counted(file: Path) -> str:
    with file.with_suffix(".txt").open("w") as out:
        pstats.Stats(str(file), stream=out).sort_stats("tottime").print_stats(LINES).sort_stats("cumtime").print_stats(
            LINES
        )
    return file.with_suffix(".txt").read_text()
