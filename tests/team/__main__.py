"""``make team``: the promises to a team as a table, shown over HTTP on SQLite with one and with four workers.

Exit code 0 if everything held.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

from . import figures, shows
from .gateway import Finding

Show = Callable[[Path], Coroutine[None, None, shows.Lines]]
WORKERS = (1, 4)
ZONES = ("Europe/Berlin", "America/New_York")


def every(seconds: float, rows: int) -> dict[str, Show]:
    """The shows by their names, in order. ``seconds``: of random faults; ``rows``: of the ledger for the reports."""
    found: dict[str, Show] = {}
    for workers in WORKERS:
        found |= {
            f"burst-{workers}": partial(shows.burst, workers=workers),
            f"tokens-{workers}": partial(shows.tokens, workers=workers),
            f"killed-{workers}": partial(shows.killed, workers=workers),
            f"faults-{workers}": partial(shows.faults, workers=workers, seconds=seconds),
            f"revoked-{workers}": partial(shows.revoked, workers=workers),
        }
    for zone in ZONES:
        found[zone.rpartition("/")[2].lower()] = partial(shows.zones, zone=zone)
    found["reports"] = partial(figures.reports, rows=rows)
    found["cost"] = figures.cost
    return found


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.team", description=__doc__)
    parser.add_argument("shows", nargs="*", help="names or their beginnings [default: all]")
    parser.add_argument("--seconds", type=float, default=60.0, help="of random faults [default: 60]")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the ledger for the reports [default: 1000000]")
    given = parser.parse_args(words)
    known = every(given.seconds, given.rows)
    chosen = [name for name in known if not given.shows or name.startswith(tuple(given.shows))]
    if not chosen:
        parser.error(f"the shows are {', '.join(known)}")
    findings: list[Finding] = []
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="torii-team-") as folder:
            findings += _shown(name, known[name], Path(folder))
    wrong = [finding for finding in findings if not finding.held]
    print(f"\n{len(findings)} findings, {len(wrong)} do not hold" if wrong else f"\nall {len(findings)} hold")
    return 1 if wrong else 0


def _shown(name: str, show: Show, folder: Path) -> list[Finding]:
    """Run one show and print its lines as soon as they are known."""
    began = time.monotonic()
    try:
        findings: list[Finding] = asyncio.run(show(folder))
    except Exception as error:  # noqa: BLE001 - a show that fails is a finding, and the others go on
        findings = [Finding(name, f"failed: {type(error).__name__}", str(error)[:500], held=False)]
    for finding in findings:
        print(line(finding), flush=True)
    print(f"   {name} took {time.monotonic() - began:.1f} s", flush=True)
    return findings


def line(finding: Finding) -> str:
    return f"{'  ' if finding.held else 'NO'} {finding.show:26} {finding.what:58} {finding.found}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
