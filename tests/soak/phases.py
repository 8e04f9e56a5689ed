"""Phases of the soak, one after another, each with a gateway of its own. No call in them may fail.

The load has the faults of these phases too, but among many others: here each fault is alone, and always the same.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import msgspec

from ..cli.test_cli import LAST_LINE, SECONDS, environment
from ..conftest import Seen, until
from ..faults import test_joined, test_large
from ..faults.crowd import (
    KINDS,
    Kind,
    Provider,
    aihubmix_at,
    asks,
    crowd,
    gateway,
    jina_at,
    key_of,
    provider,
    right,
    secret,
    wrongs,
)
from ..faults.test_failover import REFUSALS
from ..program import Program

AT_ONCE = 40
LONGEST_SECONDS = 30.0  # of a phase
SHOWN = 5  # of the failed calls in a phase
PIPE_LINES = 4000  # more than the pipe and the queue before it hold, which is some 3,100
LOST = re.compile(rb"\d+ (?:log )?lines? .*(?:dropped|lost)|(?:dropped|lost) \d+")


@dataclass
class Phase:
    """``seconds`` of calls in a folder of its own, and the failures."""

    folder: Path
    seconds: float
    chance: Random
    calls: int = 0
    wrongs: list[str] = field(default_factory=list)

    async def turns(self) -> AsyncIterator[int]:
        """Turn numbers until the time is over; at least one."""
        end, turn = time.monotonic() + self.seconds, 0
        while not turn or time.monotonic() < end:
            yield turn
            turn += 1

    async def crowd(self, port: int, kind: Kind, count: int, *, at_once: int | None = None, inputs: int = 1) -> None:
        calls = asks(kind, count, inputs=inputs)
        self.calls += len(calls)
        self.wrongs += wrongs(await crowd(port, calls, at_once))


async def phases(folder: Path, seconds: float, seed: int, show: Callable[[str], None]) -> list[str]:
    """Run all phases, a tenth of ``seconds`` each. Returns the failures, each with the name of its phase."""
    wrong = []
    for name, play in PHASES.items():
        phase = Phase(folder / name.replace(" ", "-"), min(seconds / 10, LONGEST_SECONDS), Random(f"{seed}/{name}"))
        phase.folder.mkdir()
        began = time.monotonic()
        try:
            await play(phase)
        except (AssertionError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            phase.wrongs.append(repr(error)[:500])
        show(f"{time.monotonic() - began:4.0f} s  {name}: {phase.calls:,} calls, {len(phase.wrongs)} wrong")
        wrong += [f"{name}: {what}" for what in phase.wrongs[:SHOWN]]
        wrong += [f"{name}: and {len(phase.wrongs) - SHOWN} more"] if len(phase.wrongs) > SHOWN else []
    return wrong


@asynccontextmanager
async def both(folder: Path, *keys: str) -> AsyncIterator[tuple[Provider, Provider, Program]]:
    async with provider() as first, provider() as second:
        upstreams = {"jina": jina_at(first.url, *keys), "aihubmix": aihubmix_at(second.url)}
        async with gateway(folder, upstreams) as program:
            yield first, second, program


async def one_key_fails(phase: Phase) -> None:
    """One of three keys is refused, one is rate-limited repeatedly, one works. AIHubMix is healthy."""
    refused, limited = secret("jina", "refused"), secret("jina", "limited")
    async with both(phase.folder, "refused", "limited", "well") as (jina, _, program):
        limits = {refused: REFUSALS["401"], limited: test_joined.ONCE["429"]}
        jina.faults = lambda request: limits.get(key_of(request))
        async for _ in phase.turns():
            await phase.crowd(program.port, phase.chance.choice(KINDS), AT_ONCE)


async def joined_calls_fail(phase: Phase) -> None:
    """With the limits of a free key, each burst meets one failure, of a batched call or of another."""
    faults = [*test_joined.ONCE.values()]
    async with provider() as jina, gateway(phase.folder, {"jina": jina_at(jina.url, limits={"concurrency": 5})}) as it:
        async for _ in phase.turns():
            jina.first(*[None] * phase.chance.randint(0, 6), phase.chance.choice(faults))
            await phase.crowd(it.port, "embeddings", AT_ONCE)


async def parts_fail(phase: Phase) -> None:
    """One or more parts of each large call fail. The ledger has a row for each upstream, with all tokens it billed."""
    faults = [*test_large.FAILURES.values(), test_joined.ONCE["429"]]
    calls = 0
    async with both(phase.folder, "one", "two") as (jina, aihubmix, program):
        async for _ in phase.turns():
            jina.first(*[None] * phase.chance.randint(0, 5), phase.chance.choice(faults), phase.chance.choice(faults))
            await phase.crowd(program.port, "embeddings", 2, inputs=phase.chance.randint(1200, 3000))
            calls += 2
        await test_large.assert_books(program, calls, {"jina": jina, "aihubmix": aihubmix})


async def idle_connections_end(phase: Phase) -> None:
    """An upstream that closes its connections a few milliseconds after an answer."""

    async def closes(request: Seen, writer: asyncio.StreamWriter) -> bool:
        await right(request, writer)
        await asyncio.sleep(phase.chance.uniform(0.002, 0.004))
        return False

    async with provider() as jina, gateway(phase.folder, {"jina": jina_at(jina.url)}) as program:
        jina.pause = 0.0
        jina.always(closes)
        async for _ in phase.turns():
            await phase.crowd(program.port, phase.chance.choice(KINDS[:2]), 80, at_once=8)


async def the_log_is_not_read(phase: Phase) -> None:
    """The log goes into a pipe that is not read for a while. Every call is answered, and the log later reports the
    lost lines."""
    async with provider() as jina:
        jina.pause = 0.0
        configuration = {"sandbox": "off", "upstreams": {"jina": jina_at(jina.url)}, "ledger": {"path": "off"}}
        (phase.folder / "config.yaml").write_bytes(msgspec.json.encode(configuration))
        process, log = piped(phase.folder)
        try:
            await until(lambda: LAST_LINE.encode() in log.text, SECONDS)
            found = re.search(rb"Base URL +http://[^ ]+:(\d+)/v1", log.text)
            assert found is not None, log.text
            port = int(found[1])
            log.reads.clear()
            async for _ in phase.turns():
                await phase.crowd(port, "embeddings", PIPE_LINES, at_once=AT_ONCE)
            assert await asyncio.wait_for(healthy(port), SECONDS)
            log.reads.set()
            await phase.crowd(port, "embeddings", AT_ONCE)
            await until(lambda: LOST.search(log.text) is not None)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, SECONDS) == 0
        finally:
            log.reads.set()
            process.kill()
            process.wait()
            await asyncio.to_thread(log.thread.join)
        assert b"Traceback" not in log.text


async def healthy(port: int) -> bool:
    """True if /healthz answers 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        return (await reader.read()).startswith(b"HTTP/1.1 200 ")
    finally:
        writer.close()


class Log:
    """The output of a pipe, read by a thread while ``reads`` is set."""

    def __init__(self, pipe: int) -> None:
        self.text = b""
        self.reads = threading.Event()
        self.reads.set()
        self._pipe = pipe
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        with os.fdopen(self._pipe, "rb", buffering=0) as pipe:
            while self.reads.wait() and (data := pipe.read(65536)):
                self.text += data


def piped(folder: Path) -> tuple[subprocess.Popen[bytes], Log]:
    """The gateway, with its log in a pipe."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve", "--port", "0"],
        cwd=folder,
        env=environment({"XDG_RUNTIME_DIR": str(folder)}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=writing,
    )
    os.close(writing)
    return process, Log(reading)


PHASES: dict[str, Callable[[Phase], Awaitable[None]]] = {
    "one key fails": one_key_fails,
    "joined calls fail": joined_calls_fail,
    "parts fail": parts_fail,
    "idle connections end": idle_connections_end,
    "the log is not read": the_log_is_not_read,
}
