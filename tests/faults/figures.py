"""Count the calls that fail when one upstream fails, in each of three bursts of 40 and of 200 callers.

    python -m tests.faults.figures [a checkout, this one by default]

The program makes no judgement: its figures are for comparing two checkouts.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cli.test_cli import ROOT
from ..conftest import NEW_LOOP, Script, Seen, replies
from ..program import Program
from .crowd import (
    Kind,
    aihubmix_at,
    asks,
    booked,
    crowd,
    gateway,
    jina_at,
    key_of,
    provider,
    right,
    secret,
    wrongs,
)
from .scripts import wire
from .test_failover import ERROR, FAULTS, REFUSALS, refusing, resetting

AT_ONCE, BURSTS = (40, 200), 3
LARGE_INPUTS = 5000
JOINED: dict[str, Script] = {
    "500": replies(ERROR, 500),
    "429 Retry-After: 1": replies({"detail": "slow down"}, 429, retry_after="1"),
    "short answer": FAULTS["wrong count"],
    "broken JSON": FAULTS["half JSON"],
    "reset": wire(end="reset"),
}


@dataclass
class Place:
    """A checkout, and the folder for its gateways' files."""

    root: Path
    folder: Path
    started: int = 0

    @asynccontextmanager
    async def gateway(self, upstreams: dict[str, Any]) -> AsyncIterator[Program]:
        self.started += 1
        folder = self.folder / str(self.started)
        folder.mkdir()
        async with gateway(folder, upstreams, root=self.root) as program:
            yield program

    def say(self, point: int, what: str, *figures: str) -> None:
        print(f"{point}  {what:<60}{''.join(f'{figure:<34}' for figure in figures)}".rstrip(), flush=True)


Before = Callable[[], object]


async def bursts(program: Program, kind: Kind, at_once: int, before: Before = lambda: None) -> str:
    """The number of failed calls in each burst."""
    failed = []
    for _ in range(BURSTS):
        before()
        failed.append(len(wrongs(await crowd(program.port, asks(kind, at_once)))))
    return " ".join(f"{count:>3}" for count in failed)


async def one_of_two(place: Place, kind: Kind, name: str, script: Script) -> None:
    """Jina has the fault, AIHubMix is healthy."""
    figures = []
    for at_once in (20, *AT_ONCE) if kind.startswith("deepsearch") else AT_ONCE:
        async with provider() as jina, provider() as aihubmix:
            jina.always(script)
            async with place.gateway({"jina": jina_at(jina.url), "aihubmix": aihubmix_at(aihubmix.url)}) as program:
                failed = await bursts(program, kind, at_once)
            figures.append(f"{failed} of {at_once}, asked {len(jina.seen)}")
    place.say(2, f"{kind}: jina {name}, aihubmix healthy", *figures)


async def unreachable(place: Place, name: str, there: Any) -> None:
    figures = []
    for at_once in AT_ONCE:
        async with there() as url, provider() as aihubmix:
            async with place.gateway({"jina": jina_at(url), "aihubmix": aihubmix_at(aihubmix.url)}) as program:
                figures.append(f"{await bursts(program, 'embeddings', at_once)} of {at_once}")
    place.say(2, f"embeddings: jina {name}, aihubmix healthy", *figures)


async def one_of_two_keys(place: Place, name: str) -> None:
    figures = []
    for at_once in AT_ONCE:
        async with provider() as jina:
            bad = secret("jina", "bad")
            jina.faults = lambda request: REFUSALS[name] if key_of(request) == bad else None  # noqa: B023 - used in here
            async with place.gateway({"jina": jina_at(jina.url, "bad", "good")}) as program:
                figures.append(f"{await bursts(program, 'embeddings', at_once)} of {at_once}")
    place.say(2, f"embeddings: one of two keys of jina {name}", *figures)


async def four_keys(place: Place) -> None:
    async with provider() as jina, provider() as aihubmix:
        jina.always(REFUSALS["401"])
        upstreams = {"jina": jina_at(jina.url, "a", "b", "c", "d"), "aihubmix": aihubmix_at(aihubmix.url)}
        async with place.gateway(upstreams) as program:
            told = await crowd(program.port, asks("embeddings", 4), 1)
    place.say(
        2, "embeddings: four keys of jina 401, one caller, four calls", " ".join(str(each.status) for each in told)
    )


async def joined(place: Place, name: str) -> None:
    """With the limits of ``tier: free`` the sixth call of a burst is the first batched one, and meets the fault."""
    figures = []
    for at_once in AT_ONCE:
        async with provider() as jina:
            async with place.gateway({"jina": jina_at(jina.url, tier="free")}) as program:
                met: Before = lambda: jina.first(*[None] * 5, JOINED[name])  # noqa: E731 - used in here
                figures.append(f"{await bursts(program, 'embeddings', at_once, met)} of {at_once}")
    place.say(3, f"tier: free, one {name} on a joined call", *figures)


async def one_bad_input(place: Place) -> None:
    """Counts the failed calls other than the one whose input always causes a 500."""
    figures = []
    for at_once in AT_ONCE:
        async with provider() as jina:
            async with place.gateway({"jina": jina_at(jina.url, tier="free")}) as program:
                failed = []
                for _ in range(BURSTS):
                    calls = asks("embeddings", at_once)
                    bad = calls[at_once // 2].texts[0]
                    jina.faults = lambda request: JOINED["500"] if bad in request.body["input"] else None  # noqa: B023
                    failed.append(len(wrongs(await crowd(program.port, calls))) - 1)
        figures.append(f"{' '.join(f'{count:>3}' for count in failed)} of {at_once - 1}")
    place.say(3, "tier: free, one input always 500: its neighbours", *figures)


async def large(place: Place, name: str, both: bool) -> None:
    """Upstream calls, and tokens billed and booked."""
    async with provider() as jina, provider() as aihubmix:
        jina.first(None, None, None, REFUSALS[name])
        upstreams = {"jina": jina_at(jina.url), **({"aihubmix": aihubmix_at(aihubmix.url)} if both else {})}
        async with place.gateway(upstreams) as program:
            [told] = await crowd(program.port, asks("embeddings", 1, inputs=LARGE_INPUTS))
            await booked(program, 1)
            await asyncio.sleep(0.5)  # time for a second row to appear
            with closing(sqlite3.connect(program.folder / "torii.db")) as database:
                [(tokens,)] = database.execute("SELECT sum(total_tokens) FROM calls").fetchall()
    billed = sum((jina.billed + aihubmix.billed).values())
    calls = f"{told.status}, {len(jina.seen)} + {len(aihubmix.seen)} calls"
    place.say(
        4,
        f"5,000 inputs, one part {name}{', aihubmix healthy' if both else ''}",
        calls,
        f"billed {billed}, booked {tokens}",
    )


async def idle(place: Place) -> None:
    """Each connection is closed 2 to 4 ms after an answer."""

    async def closing_soon(request: Seen, writer: asyncio.StreamWriter) -> bool:
        await right(request, writer)
        await asyncio.sleep(random.uniform(0.002, 0.004))
        return False

    figures = []
    for at_once, count in ((8, 600), *((at_once, 5 * at_once) for at_once in AT_ONCE)):
        async with provider() as jina:
            jina.pause = 0.0
            jina.always(closing_soon)
            async with place.gateway({"jina": jina_at(jina.url)}) as program:
                failed = [
                    len(wrongs(await crowd(program.port, asks("embeddings", count), at_once))) for _ in range(BURSTS)
                ]
        figures.append(f"{' '.join(f'{each:>3}' for each in failed)} of {count}, {at_once} at once")
    place.say(7, "jina closes idle connections after 2 to 4 ms", *figures)


async def figures(root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="torii-figures-") as folder:
        place = Place(root, Path(folder))
        for name in ("401", "402", "403", "429", "429 Retry-After", "503"):
            await one_of_two(place, "embeddings", name, REFUSALS[name])
        for name in ("500", "504", "wrong count", "half JSON"):
            await one_of_two(place, "embeddings", name, FAULTS[name])
        for name in ("401", "429 Retry-After", "503"):
            await one_of_two(place, "rerank", name, REFUSALS[name])
        for kind in ("deepsearch stream", "deepsearch"):
            for name in ("401", "402", "429 Retry-After", "503"):
                await one_of_two(place, kind, name, REFUSALS[name])
        await unreachable(place, "refuses connections", refusing)
        await unreachable(place, "resets connections", resetting)
        for name in ("401", "402", "429 Retry-After"):
            await one_of_two_keys(place, name)
        await four_keys(place)
        for name in JOINED:
            await joined(place, name)
        await one_bad_input(place)
        await large(place, "503", both=False)
        await large(place, "503", both=True)
        await large(place, "401", both=True)
        await idle(place)


def main(words: Sequence[str]) -> None:
    with asyncio.Runner(loop_factory=NEW_LOOP) as runner:
        runner.run(figures(Path(words[0]).resolve() if words else ROOT))


if __name__ == "__main__":
    main(sys.argv[1:])
