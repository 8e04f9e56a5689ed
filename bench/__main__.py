"""Measure Torii beside nginx as the lower limit and the installed peers (`make bench-peers`).

The gateway is pinned to one core, the stub upstream to another, the load generators to the rest; every gateway has a
turn in each round. The key figure is the CPU time of a gateway's processes per call, and its ratio to nginx's in the
same round: absolute figures differ by machine and hour.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import yaml

from . import plot, profiling, report
from .footprint import footprints
from .gateways import Gateway, LiteLLM, Nginx, Portkey, Torii
from .rounds import field_of, measure
from .scenarios import CACHED, EVERY, GROWTH, MAIN, Scenario
from .targets import Results

EXAMPLES = """examples, with make:
  make bench                                              everything, about half an hour
  make bench ARGS="--quick"                               nginx and Torii, a minute and a half
  make bench ARGS="--only embeddings,chat --rounds 5"     some scenarios
  make bench ARGS="--gateways nginx,before,torii --against ../other-checkout --only embeddings"
  make bench ARGS="--variant httpx=httpx.yaml"            Torii once more, with other settings
  make bench ARGS="--profile stream-paced"                where Torii spends its time
  make bench ARGS="--publish"                             and write docs/performance.md anew
"""
QUICK = ("embeddings", "chat", "embeddings-64-float-as-float", "latency-200", "first-event", "stream-burst")


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # also stops the processes started here
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is a text file
    arguments = parser().parse_args()
    scenarios = chosen(arguments)
    if arguments.profile:
        profiling.run(scenarios[0], arguments.seconds)
        return 0
    gateways = list(present(arguments))
    if "nginx" not in [gateway.name for gateway in gateways]:
        print("nginx is the yardstick: without it there is nothing to compare with", file=sys.stderr)
        return 1
    facts = report.facts(arguments.rounds, arguments.seconds, tls=arguments.tls)
    results = measured(arguments, gateways, scenarios)
    print(f"\n{report.told(facts)}\n\n{report.judged(results)}")
    file = report.saved(results, facts, growth=arguments.growth, publish=arguments.publish)
    print(f"\n{file}")
    try:
        if not arguments.growth:
            plot.draw(results, file.with_suffix(".svg"))
    except ImportError:
        print("no plot: matplotlib is not installed (pip install 'torii-gateway[bench]')", file=sys.stderr)
    return 0


def measured(arguments: argparse.Namespace, gateways: list[Gateway], scenarios: list[Scenario]) -> Results:
    results = Results({}, {})
    with tempfile.TemporaryDirectory(prefix="torii-bench-") as name:
        folder = Path(name)
        if not arguments.only and not arguments.growth:
            results.footprints = footprints(gateways, 1 if arguments.quick else 3, folder)
        with field_of(gateways, scenarios, folder, tls=arguments.tls) as field:
            for scenario in scenarios:
                found = measure(field, scenario, arguments.rounds, arguments.seconds, report.progress)
                results.measured[scenario.name] = found
                report.show(found)
    return results


def parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench", description=__doc__, epilog=EXAMPLES, formatter_class=shape)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="turns of each gateway (5)")
    add("--seconds", type=float, default=3.0, help="of each turn; some scenarios need more (3)")
    add("--only", metavar="NAMES", help=f"scenarios: {', '.join(scenario.name for scenario in EVERY)}")
    add("--gateways", metavar="NAMES", help="nginx, torii, litellm, portkey, before, or a variant's name")
    add("--quick", action="store_true", help="few scenarios and rounds, nginx and Torii only")
    add("--tls", action="store_true", help="the upstream speaks TLS, as real ones do, by an authority of its own")
    add("--growth", action="store_true", help="how the cost grows: inputs, events, streams, keys, rows")
    add("--against", metavar="FOLDER", type=Path, help="another checkout's Torii beside this one's, named before")
    add(
        "--variant",
        metavar="NAME=FILE",
        action="append",
        default=[],
        help="Torii once more, with a file's settings too",
    )
    add("--settings", metavar="FILE", type=Path, help="more settings for Torii, as in a configuration file")
    add("--profile", metavar="NAME", help="no comparison: sample Torii under this scenario's load")
    add("--publish", action="store_true", help="keep the result as bench/measured.json and in docs/performance.md")
    return parser


def chosen(arguments: argparse.Namespace) -> list[Scenario]:
    """The named scenarios, or the default ones. Exits with an error for an unknown name."""
    if arguments.quick:
        arguments.rounds, arguments.seconds = 2, 1.5
    wanted = (arguments.profile or arguments.only or "").split(",")
    if unknown := set(wanted) - {"", *(scenario.name for scenario in EVERY)}:
        sys.exit(f"no such scenario: {', '.join(sorted(unknown))}; --help lists them")
    if wanted != [""]:
        return [scenario for scenario in EVERY if scenario.name in wanted]
    if arguments.quick:
        return [scenario for scenario in EVERY if scenario.name in QUICK]
    if arguments.growth:
        return list(GROWTH)
    return [*MAIN, *(CACHED if Torii().knows("cache") else ())]


def present(arguments: argparse.Namespace) -> Iterable[Gateway]:
    """The chosen gateways that are installed; prints how to get the others."""
    ours = Torii(settings=settings_of(arguments.settings))
    every: list[Gateway] = [Nginx(), ours]
    if arguments.against:
        every.append(replace(ours, name="before", checkout=arguments.against.resolve()))
    for variant in arguments.variant:
        name, _, file = variant.partition("=")
        every.append(replace(ours, name=name, settings={**ours.settings, **settings_of(Path(file))}))
    if arguments.growth:
        every += [replace(ours, name=f"torii-{keys}-keys", keys=keys) for keys in (10, 1000)]
        every += [replace(ours, name=f"torii-{rows}-rows", rows=rows) for rows in (100_000, 1_000_000)]
    elif not arguments.quick:
        every += [Portkey(), LiteLLM()]
    wanted = arguments.gateways.split(",") if arguments.gateways else [gateway.name for gateway in every]
    for gateway in every:
        if gateway.name in wanted:
            if gateway.missing:
                print(gateway.missing, file=sys.stderr)
            else:
                yield gateway


def settings_of(file: Path | None) -> dict[str, object]:
    return dict(yaml.safe_load(file.read_text(encoding="utf-8"))) if file else {}


if __name__ == "__main__":
    sys.exit(main())
