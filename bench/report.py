"""Reports of the results: tables, a JSON file, a section of the documentation."""

from __future__ import annotations

import datetime
import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from .processes import ROOT
from .rounds import Measured
from .statistic import ratio, spread
from .targets import Results, verdicts

PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "bench" / "results"

UNITS = {
    "cpu_us": ("CPU", "us"),
    "per_core_second": ("per core-second", ""),
    "per_second": ("per second", ""),
    "p50_ms": ("median", "ms"),
    "added_p50_ms": ("added, median", "ms"),
    "added_p99_ms": ("added, 99 %", "ms"),
    "added_late_p50_ms": ("late, median", "ms"),
    "added_late_p99_ms": ("late, 99 %", "ms"),
    "memory_kb_per_stream": ("memory each", "KB"),
    "memory_mb": ("memory", "MB"),
    "ended": ("whole", ""),
    "failed": ("refused", ""),
    "progress": ("slowest / fastest", ""),
}


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def show(measured: Measured) -> None:
    progress("")
    print(f"\n{measured.scenario.title}  ({measured.scenario.name})")
    columns = measured.scenario.tell
    rows = [["", *(_headed(figure) for figure in columns), "CPU against nginx"]]
    for name in measured.rounds:
        if name != "direct":
            rows.append([name, *(cell(measured, name, figure) for figure in columns), against_nginx(measured, name)])
    for line in aligned(rows):
        print(f"  {line}")
    for note in notes(measured):
        print(f"  ! {note}")


def aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def notes(measured: Measured) -> list[str]:
    cannot = [f"{name}: took no part: {why[:160]!r}" for name, why in measured.failures.items()]
    return [*cannot, *dict.fromkeys(measured.doubts)]


def cell(measured: Measured, name: str, figure: str) -> str:
    """The median, minimum and maximum of the rounds."""
    values = measured.values(name, figure)
    if not values:
        return "-"
    found = spread(values)
    if found.least == found.most:
        return number(found.median)
    return f"{number(found.median)} ({number(found.least)} to {number(found.most)})"


def number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def against_nginx(measured: Measured, name: str) -> str:
    if name == "nginx":
        return "1"
    found = ratio(measured.values(name, "cpu_us"), measured.values("nginx", "cpu_us"))
    return f"{number(found.median)} x" if found else "-"


def judged(results: Results) -> str:
    lines = ["| target | goal | measured | |", "|---|---|---|---|"]
    lines += [f"| {v.title} | {v.goal} | {v.measured} | {'met' if v.met else 'not met'} |" for v in verdicts(results)]
    return "\n".join(lines)


def page(results: Results, facts: dict[str, Any]) -> str:
    """All tables as Markdown."""
    parts = [told(facts), "### Targets", judged(results), "### Side by side"]
    for measured in results.measured.values():
        columns = measured.scenario.tell
        names = [name for name in measured.rounds if name != "direct"]
        head = ["", *(_headed(figure) for figure in columns), "CPU against nginx"]
        rows = [[name, *(cell(measured, name, f) for f in columns), against_nginx(measured, name)] for name in names]
        title = measured.scenario.title
        parts.append(f"{title[0].upper()}{title[1:]}:\n\n{markdown(head, rows)}")
        parts += [f"Note: {note}" for note in notes(measured)]
    if results.footprints:
        head = ["", "start to first answer", "memory at rest", "installed", "packages"]
        rows = [[name, *footprint.told()] for name, footprint in results.footprints.items()]
        parts.append(f"Before any work:\n\n{markdown(head, rows)}")
    return "\n\n".join(parts)


def grown(results: Results, facts: dict[str, Any]) -> str:
    """One table: the CPU cost of a call or an event in Torii as a quantity grows."""
    head = ["", "", "CPU, us"]
    rows = [
        [measured.scenario.title, name, cell(measured, name, "cpu_us")]
        for measured in results.measured.values()
        for name in measured.rounds
        if name not in ("direct", "nginx")
    ]
    return f"{told(facts)}\n\n{markdown(head, rows)}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def told(facts: dict[str, Any]) -> str:
    machine = f"{facts['cpu']}, {facts['cores']} cores, Python {facts['python']}"
    rounds = f"{facts['rounds']} rounds of {facts['seconds']:g} seconds, {facts['upstream']} to the upstream"
    return (
        f"Measured on {facts['date']}: {machine}; {rounds}; load of the machine before it began: {facts['load']:.1f}. "
        "Each figure is the median of the rounds, with the least and the most."
    )


def facts(rounds: int, seconds: float, *, tls: bool = False) -> dict[str, Any]:
    """Facts of the machine, without its name, and the date."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": found[1] if found else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "upstream": "TLS" if tls else "plaintext",
        "rounds": rounds,
        "seconds": seconds,
    }


def plain(results: Results, facts: dict[str, Any]) -> dict[str, Any]:
    scenarios = {
        name: {
            "title": measured.scenario.title,
            "gateways": measured.rounds,
            "took_no_part": measured.failures,
            "doubts": measured.doubts,
        }
        for name, measured in results.measured.items()
    }
    return {
        **facts,
        "scenarios": scenarios,
        "footprints": {name: footprint.plain() for name, footprint in results.footprints.items()},
        "targets": [asdict(verdict) for verdict in verdicts(results)],
    }


def saved(results: Results, facts: dict[str, Any], *, growth: bool, publish: bool) -> Path:
    """Write the JSON file; with ``publish`` the committed one, and its section of the documentation."""
    name = "growth" if growth else "measured"
    file = ROOT / "bench" / f"{name}.json" if publish else RESULTS / f"{facts['date']}-{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(plain(results, facts)), indent=1) + b"\n")
    if publish:
        text = grown(results, facts) if growth else page(results, facts)
        PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), name, text), encoding="utf-8")
    return file


def between(page: str, name: str, text: str) -> str:
    """The page with ``text`` between its two marking comments. Raises ValueError if a comment is missing."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"{PAGE} lacks {begin} or {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def _headed(figure: str) -> str:
    title, unit = UNITS[figure]
    return f"{title}, {unit}" if unit else title
