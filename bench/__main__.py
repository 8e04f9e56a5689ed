"""`python -m bench`: see `--help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from . import profiling, report
from .gateways import Gateway, LiteLLM, Nginx, Portkey, Torii
from .rounds import field_of, measure
from .scenarios import GROWTH, MAIN, Scenario


def main() -> int:
    arguments = parser().parse_args()
    scenarios = chosen(arguments)
    if arguments.profile:
        profiling.run(scenarios[0], arguments.seconds)
        return 0
    gateways = present(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="torii-bench-") as folder,
        field_of(gateways, scenarios, Path(folder)) as field,
    ):
        for scenario in scenarios:
            measured = measure(field, scenario, arguments.rounds, arguments.seconds, report.progress)
            report.show(measured)
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--gateways", default="")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--profile", metavar="SCENARIO")
    return parser


def chosen(arguments: argparse.Namespace) -> list[Scenario]:
    every = [*MAIN, *GROWTH]
    if arguments.profile:
        return [scenario for scenario in every if scenario.name == arguments.profile]
    if arguments.only:
        return [scenario for scenario in every if scenario.name in arguments.only.split(",")]
    return [scenario for scenario in every if (scenario.group == "growth") == arguments.growth]


def present(arguments: argparse.Namespace) -> list[Gateway]:
    every: list[Gateway] = [Nginx(), Torii(), LiteLLM(), Portkey()]
    if arguments.against:
        every.insert(1, Torii("before", arguments.against.resolve()))
    wanted = arguments.gateways.split(",") if arguments.gateways else [gateway.name for gateway in every]
    for gateway in every:
        if gateway.name in wanted and gateway.missing:
            print(gateway.missing, file=sys.stderr)
    return [gateway for gateway in every if gateway.name in wanted and not gateway.missing]


if __name__ == "__main__":
    sys.exit(main())
