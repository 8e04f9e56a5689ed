"""``make hosts``: three gateways over real servers, PostgreSQL alone and with Redis; what they promise as a table.

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
from typing import Any

from ..team.__main__ import line
from ..team.gateway import Finding
from ..team.shows import Lines
from . import figures, shows
from .replicas import STORES, Replicas, replicas

Show = Callable[[Replicas], Coroutine[Any, Any, Lines]]
AT_THE_SAME: dict[str, Show] = {  # replicas; the last one leaves them deaf
    "burst": shows.burst,
    "tokens": shows.tokens,
    "faults": shows.faults,
    "reports": shows.reports,
    "revoked": shows.revoked,
}
NAMES = (*AT_THE_SAME, "stores", "killed", "trips", "cost")


class Table:
    """``chosen``: names of shows; all others are left out."""

    def __init__(self, chosen: list[str], seconds: float) -> None:
        self.chosen, self.findings = chosen, list[Finding]()
        self.began = time.monotonic()
        self._named: dict[str, Show] = {**AT_THE_SAME, "faults": partial(shows.faults, seconds=seconds)}

    async def fill(self, folder: Path) -> None:
        for kind in STORES:
            if any(name in AT_THE_SAME for name in self.chosen):
                async with replicas(folder / kind, kind, **shows.FAULTY) as there:
                    for name, show in self._named.items():
                        await self.show(name, show(there))
            await self.show("stores", shows.stores(folder / f"stores-{kind}", kind))
        await self.show("killed", _killed(folder))
        await self.show("trips", figures.trips(folder / "trips"))
        await self.show("cost", figures.cost(folder / "cost"))

    async def show(self, name: str, played: Coroutine[Any, Any, Lines]) -> None:
        """Print the lines of a show as soon as they are known."""
        if name not in self.chosen:
            played.close()
            return
        began = time.monotonic()
        try:
            findings: list[Finding] = await played
        except Exception as error:  # noqa: BLE001 - a show that fails is a finding, and the others go on
            findings = [Finding(name, f"failed: {type(error).__name__}", str(error)[:500], held=False)]
        for finding in findings:
            print(line(finding), flush=True)
        print(f"   {name} took {time.monotonic() - began:.1f} s", flush=True)
        self.findings += findings


async def _killed(folder: Path) -> Lines:
    """Over both kinds of stores at once, since most of it is waiting for a lease to end."""
    one, other = await asyncio.gather(*(shows.killed(folder / f"killed-{kind}", kind) for kind in STORES))
    one.extend(other)
    return one


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hosts", description=__doc__)
    parser.add_argument("shows", nargs="*", choices=[*NAMES, []], metavar="SHOW", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=float, default=8.0, help="of random faults [default: 8]")
    given = parser.parse_args(words)
    table = Table(given.shows or [*NAMES], given.seconds)
    with tempfile.TemporaryDirectory(prefix="torii-hosts-") as folder:
        asyncio.run(table.fill(Path(folder)))
    wrong = [finding for finding in table.findings if not finding.held]
    held = f"{len(wrong)} of {len(table.findings)} do not hold" if wrong else f"all {len(table.findings)} hold"
    print(f"\n{held}; {time.monotonic() - table.began:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
