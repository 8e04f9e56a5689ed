"""Tables for people."""

from __future__ import annotations

import sys

from .rounds import Measured
from .statistic import ratio, spread


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def show(measured: Measured) -> None:
    progress("")
    print(f"\n{measured.scenario.name}: {measured.scenario.title}")
    for name in [*measured.rounds, *measured.failures]:
        print(f"  {name:10}", *(_figure(measured, name, figure) for figure in measured.scenario.tell), sep="  ")
    for doubt in measured.doubts:
        print(f"  ! {doubt}")


def _figure(measured: Measured, name: str, figure: str) -> str:
    values = measured.values(name, figure)
    if not values:
        return f"{figure} -"
    found = spread(values)
    against = ratio(values, measured.values("nginx", figure)) if name != "nginx" else None
    return f"{figure} {found.median:.4g} [{found.least:.4g}-{found.most:.4g}]" + (
        f" x{against.median:.3g}" if against else ""
    )
