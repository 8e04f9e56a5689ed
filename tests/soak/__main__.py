"""``make soak``: minutes of load, faults, disconnects and reloads, then a table. Exit code 0 if all checks passed."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from .soak import MEGABYTE, Plan, Soak, soak

SHOWN = 40  # failed checks


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of load [default: 10]")
    parser.add_argument("--seed", type=int, default=1, help="of calls, faults and configurations [default: 1]")
    parser.add_argument("--clients", type=int, default=48, help="who call at once [default: 48]")
    given = parser.parse_args(words)
    plan = Plan(given.minutes * 60, given.seed, given.clients)
    with tempfile.TemporaryDirectory(prefix="torii-soak-") as folder:
        run = asyncio.run(soak(plan, Path(folder), lambda line: print(line, flush=True)))
    print(table(run))
    return 1 if run.wrongs else 0


def table(run: Soak) -> str:
    """Calls by kind and outcome, then one line per other figure."""
    return "\n".join([*_calls(run), "", *_facts(run), *_wrongs(run)])


def _calls(run: Soak) -> list[str]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for told in run.journal.told.values():
        counts[told.name][told.outcome] += 1
    outcomes = sorted({outcome for counter in counts.values() for outcome in counter})
    lines = [f"{'':<18}" + "".join(f"{outcome:>14}" for outcome in outcomes)]
    lines += [
        f"{name:<18}" + "".join(f"{counter[outcome]:>14,}" for outcome in outcomes)
        for name, counter in sorted(counts.items())
    ]
    return lines


def _facts(run: Soak) -> list[str]:
    assert run.base is not None
    assert run.rest is not None
    assert run.books is not None
    peak = max(measure.memory for _, measure in run.measures)
    warm = [measure for at, measure in run.measures if at >= run.plan.warm]
    third = max(1, len(warm) // 3)
    first, last = (
        [statistics.median(getattr(measure, name) for measure in part) for name in ("memory", "files", "threads")]
        for part in (warm[:third], warm[-third:])
    )
    faults, probes = run.witness.faults, run.witness.probes
    plain = faults["right"]
    return [
        f"calls           {len(run.journal.told):,}, the longest took {_longest(run)}",
        f"nonsense        {run.journal.nonsense.total():,}: {_told(run.journal.nonsense)}",
        f"upstream calls  {faults.total():,}, of them {faults.total() - plain:,} faults of {len(faults) - 1} kinds; "
        f"{probes} probes",
        f"faults          {_told(Counter({name: count for name, count in faults.items() if name != 'right'}))}",
        f"reloads         {_told(run.reloads)}",
        f"books           {run.books.rows:,} rows, {run.books.met:,} calls met by the upstreams, {run.books.unmet} not "
        f"met; {_told(Counter({str(key): n for key, n in run.books.statuses.items()}))}",
        f"memory          {run.base.memory / MEGABYTE:.1f} MB at first, at most {peak / MEGABYTE:.1f}; under load "
        f"{first[0] / MEGABYTE:.1f} early, {last[0] / MEGABYTE:.1f} late; at rest {run.rest.memory / MEGABYTE:.1f}",
        f"descriptors     {run.base.files} before; under load {first[1]:.0f} early, {last[1]:.0f} late; "
        f"{run.rest.files} after",
        f"threads         {run.base.threads} before; under load {first[2]:.0f} early, {last[2]:.0f} late; "
        f"{run.rest.threads} after",
        f"exit code       {run.exit_code}",
    ]


def _longest(run: Soak) -> str:
    """The longest time of a call in seconds, by kind, of callers who waited for its end."""
    longest: defaultdict[str, float] = defaultdict(float)
    for told in run.journal.told.values():
        if told.manner == "patient":
            longest[told.name] = max(longest[told.name], told.seconds)
    return ", ".join(f"{seconds:.1f} s ({name})" for name, seconds in sorted(longest.items()))


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def _wrongs(run: Soak) -> list[str]:
    wrongs = run.wrongs
    if not wrongs:
        return ["all held"]
    more = [f"  ... and {len(wrongs) - SHOWN} more"] if len(wrongs) > SHOWN else []
    return [f"WRONG           {len(wrongs)}", *(f"  {wrong}" for wrong in wrongs[:SHOWN]), *more]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
