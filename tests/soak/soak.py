"""The soak test itself: load, faults and reloads together, then rest, then the checks.

    a little load -> rest: the base -> load, reloads, measured each second -> rest: the base again -> SIGTERM under load
    then the phases, each with a single fault

At rest the configuration is reloaded once more, so that no idle connections are kept, and all connections must close.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random

import msgspec

from ..conftest import until
from ..ledger import read
from ..program import started
from .books import QUERY, Audit, audit
from .callers import PATIENCE, Caller, Journal
from .configurations import BROKEN, DRAIN, Places
from .phases import phases
from .program import Measure, Soaked
from .upstreams import Witness, upstream

MEGABYTE = 1024 * 1024
SETTLING_SECONDS = 60.0
ENDING_SECONDS = 1.0
# Allowed growth from the first to the last third after the warm-up: the heap may not have its final size yet, and the
# load varies. A leak of a kilobyte per call, or of a descriptor per hundred calls, is far above it.
MEMORY_GROWTH, MEMORY_SPARE = 1.05, 8 * MEGABYTE
FILES_GROWTH, FILES_SPARE = 1.25, 15
# glibc raises this threshold with each large block that is freed, up to 32 MB, and keeps the room of later ones in its
# heap: a step of 12 MB at any minute, with the same 22 to 26 MB in use. A fixed threshold gives the room back.
GIVES_BACK = "MALLOC_MMAP_THRESHOLD_=131072"
THREADS_SPARE = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """``clients`` call concurrently. The gateway counts as warm after a minute, or after a quarter of a shorter run."""

    seconds: float
    seed: int = 1
    clients: int = 48

    @property
    def warm(self) -> float:
        return min(60.0, self.seconds / 4)


@dataclass
class Soak:
    """``reloads`` counts configurations put in force and refused; ``measures`` has the time in seconds of each
    measurement."""

    plan: Plan
    journal: Journal
    reloads: Counter[str] = field(default_factory=Counter)
    measures: list[tuple[float, Measure]] = field(default_factory=list)
    base: Measure | None = None
    rest: Measure | None = None
    books: Audit | None = None
    exit_code: int | None = None

    @property
    def witness(self) -> Witness:
        return self.journal.witness

    @property
    def wrongs(self) -> list[str]:
        return self.journal.wrongs + (self.books.wrongs if self.books else [])


async def soak(plan: Plan, folder: Path, show: Callable[[str], None]) -> Soak:
    """Run the whole soak. Its ``wrongs`` has the failed checks."""
    witness = Witness(plan.seed)
    run = Soak(plan, Journal(witness))
    async with upstream(witness, "jina") as jina, upstream(witness, "aihubmix") as aihubmix:
        places = Places(jina, aihubmix, folder / "torii.db")
        first = msgspec.json.encode(places.configuration(0, Random(plan.seed), clients=plan.clients))
        async with started(Soaked, folder, first, before=("env", GIVES_BACK)) as running:
            reloader = Reloader(run, running, places)
            await load(run.journal, running.port, Plan(2.0, plan.seed, 8), first=900)
            run.base = await resting(reloader)
            began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                stop = asyncio.Event()
                group.create_task(reloader.runs(stop))
                group.create_task(_measured(run, running, stop, show))
                await load(run.journal, running.port, plan)
                stop.set()
            show(f"at rest after {time.monotonic() - began:.0f} s of load")
            run.rest = await resting(reloader)
            await _ended(run, running)
            run.journal.wrongs += running.misspoken()
    run.books = audit(read(folder / "torii.db", QUERY), run.journal)
    run.journal.wrongs += await phases(folder, plan.seconds, plan.seed, show)
    _held(run)
    return run


async def load(journal: Journal, port: int, plan: Plan, *, first: int = 0, stop: asyncio.Event | None = None) -> None:
    """Run the callers for ``plan.seconds`` or until ``stop``; returns when each has ended their last call."""
    stop = stop or asyncio.Event()
    callers = [Caller(first + number, port, journal, plan.seed) for number in range(plan.clients)]
    async with asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(caller.calls(stop))
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), plan.seconds)
        stop.set()


@dataclass
class Reloader:
    """Changes the configuration at random, or breaks it, and checks which one is in force."""

    run: Soak
    program: Soaked
    places: Places
    number: int = 0

    async def runs(self, stop: asyncio.Event) -> None:
        for turn in count():
            chance = Random(f"{self.run.plan.seed}/reload/{turn}")
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), chance.uniform(0.3, 3.0))
            if stop.is_set():
                return
            if chance.random() < 0.25:
                await self._breaks(chance)
            else:
                await self.changes(chance)

    async def changes(self, chance: Random) -> None:
        self.number += 1
        configuration = self.places.configuration(self.number, chance, clients=self.run.plan.clients)
        self.program.write(msgspec.json.encode(configuration))
        outcome = await self.program.reload()
        if outcome.mistakes:
            self.run.journal.wrong(f"configuration {self.number} was refused: {outcome.mistakes}")
        await self._is_in_force()
        self.run.reloads["in force"] += 1

    async def _breaks(self, chance: Random) -> None:
        self.program.write(chance.choice(BROKEN).encode())
        outcome = await self.program.reload()
        if not outcome.mistakes:
            self.run.journal.wrong("a broken configuration was not refused")
        await self._is_in_force()
        self.run.reloads["refused"] += 1

    async def _is_in_force(self) -> None:
        status, said = await self.program.get(f"/v1/models/soak-{self.number}")
        if status != 200:
            self.run.journal.wrong(f"configuration {self.number} is not in force: {said}")


async def resting(reloader: Reloader) -> Measure:
    """The gateway's resources at rest, once all connections to the upstreams have closed. Notes a failure if one
    stays open."""
    run, running = reloader.run, reloader.program
    await reloader.changes(Random(f"{run.plan.seed}/rest"))  # the same configuration each time
    try:
        await until(lambda: not run.witness.lines, SETTLING_SECONDS)
        most = run.base.files if run.base else 1_000_000
        await until(lambda: running.measure(0).files <= most, SETTLING_SECONDS)
    except TimeoutError:
        run.journal.wrong(f"{len(run.witness.lines)} connections to the upstreams stay open at rest")
    if keys := await running.at_work():
        run.journal.wrong(f"keys are held, and nobody calls: {', '.join(keys)}")
    status, said = await running.get("/healthz")
    if (status, said["status"]) != (200, "ok"):
        run.journal.wrong(f"GET /healthz says {status} {said}")
    return running.measure(len(run.witness.lines))


async def _measured(run: Soak, running: Soaked, stop: asyncio.Event, show: Callable[[str], None]) -> None:
    began = time.monotonic()
    for second in count(1):
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), max(0.0, began + second - time.monotonic()))
        if stop.is_set():
            return
        now = running.measure(len(run.witness.lines))
        run.measures.append((time.monotonic() - began, now))
        if second % (5 if run.plan.seconds < 60 else 30) == 0:
            show(
                f"{second:4} s  {len(run.journal.told):7,} calls  {now.memory / MEGABYTE:6.1f} MB  {now.files:4} "
                f"descriptors  {now.threads:3} threads  {run.reloads.total():4} reloads  {len(run.wrongs)} wrong"
            )


async def _ended(run: Soak, running: Soaked) -> None:
    """SIGTERM while calls are open: the calls end, and so does the gateway."""
    stop = asyncio.Event()
    calling = asyncio.create_task(
        load(run.journal, running.port, Plan(PATIENCE, run.plan.seed, 16), first=950, stop=stop)
    )
    await asyncio.sleep(ENDING_SECONDS)
    run.journal.leaving = True
    stop.set()
    began = time.monotonic()
    running.signal(signal.SIGTERM)
    run.exit_code = await running.ends()
    if run.exit_code != 0:
        run.journal.wrong(f"it ended with {run.exit_code}")
    if (took := time.monotonic() - began) > DRAIN + SETTLING_SECONDS:
        run.journal.wrong(f"it took {took:.0f} s to end")
    await calling


def _held(run: Soak) -> None:
    """Check that memory, descriptors and threads are flat under load, and descriptors back to the base at rest."""
    assert run.base is not None
    assert run.rest is not None
    warm = [measure for at, measure in run.measures if at >= run.plan.warm]
    third = max(1, len(warm) // 3)
    early, late = warm[:third], warm[-third:]
    bounds = {
        "memory": (MEMORY_GROWTH, MEMORY_SPARE),
        "files": (FILES_GROWTH, FILES_SPARE),
        "threads": (1.0, THREADS_SPARE),
    }
    for name, (growth, spare) in bounds.items():
        before, after = (statistics.median(getattr(measure, name) for measure in part) for part in (early, late))
        if after > before * growth + spare:
            run.journal.wrong(f"{name} grew under load from {before:,} to {after:,}")
    if run.rest.files > run.base.files:
        run.journal.wrong(f"{run.rest.files} descriptors are open at rest; before the load it were {run.base.files}")
