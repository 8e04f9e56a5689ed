"""A log without a reader: a pipe that is not read or is closed, a full disk. The gateway loses log lines, but no
call."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from ..cli.test_cli import LAST_LINE, ROOT, SECONDS, environment, free_port
from ..conftest import ScriptedUpstream, replies, until
from .test_process import EMBED, VECTORS, configuration

# Calls of an unknown model: each makes a log line of more than 3 kB but below 4 kB, which a system writes in one piece.
LONG = {"model": "m" * 3000, "input": "hi"}


@contextmanager
def pipe(*, full: bool = False) -> Iterator[tuple[int, int]]:
    """The reading end and the writing end."""
    ends = os.pipe()
    if full:
        os.set_blocking(ends[1], False)
        with suppress(BlockingIOError):
            while True:
                os.write(ends[1], b".\n")
        os.set_blocking(ends[1], True)
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


class Gateway:
    def __init__(self, process: subprocess.Popen[bytes], client: httpx.AsyncClient) -> None:
        self.process = process
        self.client = client

    async def healthy(self) -> bool:
        try:
            return (await self.client.get("/healthz")).status_code == 200
        except httpx.ConnectError:
            return False

    async def calls(self, count: int, body: Any, status: int) -> None:
        """``count`` calls, on four connections, each of which may go to another worker."""

        async def some() -> None:
            async with httpx.AsyncClient(base_url=self.client.base_url, timeout=SECONDS, trust_env=False) as client:
                for _ in range(count // 4):
                    assert (await client.post("/v1/embeddings", json=body)).status_code == status

        await asyncio.gather(*(some() for _ in range(4)))

    async def ends(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, SECONDS)

    def cpu(self) -> float:
        """CPU seconds used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def serving(folder: Path, upstream: str, log: int, **values: Any) -> AsyncIterator[Gateway]:
    """A running gateway with both outputs to ``log``; killed at the end, if it is still running."""
    (folder / "config.yaml").write_bytes(configuration(upstream, unknown_models_upstream="none", **values))
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve", "--port", str(port)],
        cwd=folder,
        env=environment({}),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=SECONDS, trust_env=False) as client:
            gateway = Gateway(process, client)
            while not await gateway.healthy():
                assert process.poll() is None
                await asyncio.sleep(0.02)
            yield gateway
    finally:
        process.kill()
        process.wait()


class Reader:
    """Reads a pipe from now on."""

    def __init__(self, end: int) -> None:
        self.data = b""
        self._end = end
        os.set_blocking(end, False)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while piece := os.read(self._end, 2**20):
                self.data += piece

    def has_begun(self) -> bool:
        self._read()
        return LAST_LINE.encode() in self.data

    def lines(self) -> list[Any]:
        """The complete lines after the banner; each of them must be JSON."""
        self._read()
        text = self.data.decode().rpartition(LAST_LINE)[2]
        return [msgspec.json.decode(line) for line in text[: text.rfind("\n") + 1].splitlines() if line]

    def count(self) -> tuple[int, int]:
        """The number of lines of calls, and of dropped lines."""
        messages = [(line["logger"], line["message"]) for line in self.lines()]
        dropped = [re.match(r"(\d+) log lines were dropped", message) for _, message in messages]
        return sum(logger == "torii.calls" for logger, _ in messages), sum(int(found[1]) for found in dropped if found)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_pipe_that_nobody_reads_stops_nothing_and_its_reader_is_told_what_was_dropped(
    workers: int, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(replies(VECTORS))
    with pipe() as (end, log):
        async with serving(tmp_path, upstream.url, log, workers=workers) as gateway:
            await gateway.calls(1200, LONG, 404)
            await gateway.calls(400, EMBED, 200)
            assert await gateway.healthy()
            reader = Reader(end)
            await until(lambda: sum(reader.count()) >= 1600, SECONDS)
            calls, dropped = reader.count()
            assert calls + dropped == 1600
            assert min(calls, dropped) > 0
            told = next(line for line in reader.lines() if "dropped" in line["message"])
            assert (told["level"], told["logger"]) == ("WARNING", "torii.logs")
            await gateway.calls(4, EMBED, 200)
            await until(lambda: reader.count() == (calls + 4, dropped), SECONDS)
            assert await gateway.ends() == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_one_that_is_full_at_the_start_holds_up_neither_the_start_nor_the_end(
    workers: int, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(replies(VECTORS))
    with pipe(full=True) as (_, log):
        async with serving(tmp_path, upstream.url, log, workers=workers) as gateway:
            await gateway.calls(40, EMBED, 200)
            gateway.process.send_signal(signal.SIGHUP)
            await gateway.calls(40, EMBED, 200)
            assert await gateway.ends() == 0


async def test_a_pipe_that_is_closed_fails_no_call_and_costs_no_time(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(replies(VECTORS))
    end, log = os.pipe()
    async with serving(tmp_path, upstream.url, log) as gateway:
        os.close(log)
        os.close(end)
        await _served_at_rest(gateway)


async def test_a_full_device_fails_no_call_and_costs_no_time(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(replies(VECTORS))
    log = os.open("/dev/full", os.O_WRONLY)
    try:
        async with serving(tmp_path, upstream.url, log) as gateway:
            await _served_at_rest(gateway)
    finally:
        os.close(log)


async def _served_at_rest(gateway: Gateway) -> None:
    await gateway.calls(400, EMBED, 200)
    before = gateway.cpu()
    await asyncio.sleep(1)  # to see that the gateway is idle
    assert gateway.cpu() - before < 0.5
    assert await gateway.healthy()
    assert await gateway.ends() == 0


async def test_a_reader_who_comes_back_misses_nothing_that_the_queue_could_hold(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """A named pipe: without a reader, writing to it fails as to a closed pipe."""
    upstream.plays(replies(VECTORS))
    os.mkfifo(tmp_path / "log")
    end = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    log = os.open(tmp_path / "log", os.O_WRONLY)
    try:
        async with serving(tmp_path, upstream.url, log) as gateway:
            reader = Reader(end)
            await until(reader.has_begun, SECONDS)
            os.close(end)
            await gateway.calls(100, EMBED, 200)
            end = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
            again = Reader(end)
            await until(lambda: again.count() == (100, 0), SECONDS)
            assert await gateway.ends() == 0
    finally:
        os.close(end)
        os.close(log)


async def test_a_line_that_a_full_disk_cut_off_is_continued_when_there_is_room(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """A file size limit stands in for a full disk: the limit cuts a write off in the same way."""
    upstream.plays(replies(VECTORS))
    path = tmp_path / "log"
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    end = os.open(path, os.O_RDONLY)
    try:
        async with serving(tmp_path, upstream.url, log) as gateway:
            await until(lambda: LAST_LINE.encode() in path.read_bytes(), SECONDS)
            hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (path.stat().st_size + 1000, hard))
            await gateway.calls(1200, LONG, 404)
            assert not path.read_bytes().endswith(b"\n")
            resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
            reader = Reader(end)
            await until(lambda: sum(reader.count()) >= 1200, SECONDS)
            calls, dropped = reader.count()
            assert calls + dropped == 1200
            assert min(calls, dropped) > 0
            assert await gateway.ends() == 0
    finally:
        os.close(end)
        os.close(log)


PRINTS = """
import sys, threading, warnings
from app.server import writer
writer.redirect()
def fail():
    raise ValueError("from a thread")
for _ in range(2000):
    print("x" * 1000)
    print("x" * 1000, file=sys.stderr)
warnings.warn("a warning", stacklevel=1)
thread = threading.Thread(target=fail)
thread.start()
thread.join()
sys.excepthook(ValueError, ValueError("from the main thread"), None)
raise SystemExit(3)
"""


def test_whatever_a_process_prints_goes_the_same_way() -> None:
    with pipe(full=True) as (_, log):
        process = subprocess.Popen(
            [sys.executable, "-c", PRINTS], cwd=ROOT, env=environment({"PYTHONWARNINGS": ""}), stdout=log, stderr=log
        )
        try:
            assert process.wait(SECONDS) == 3
        finally:
            process.kill()


def test_what_is_printed_arrives_whole_where_somebody_reads() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINTS.replace("2000", "20")],
        cwd=ROOT,
        env=environment({"PYTHONWARNINGS": ""}),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.stdout == ("x" * 1000 + "\n") * 20
    assert done.stderr.startswith(done.stdout)
    for said in ("UserWarning: a warning", "ValueError: from a thread", "ValueError: from the main thread"):
        assert f"{said}\n" in done.stderr


def test_an_output_that_is_closed_is_none() -> None:
    """The output's descriptor number may belong to another file by then."""
    script = f"exec {sys.executable} -c 'from app.server import writer; writer.redirect(); print(1)' >&- 2>&-"
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, env=environment({}), timeout=SECONDS)
    assert done.returncode == 0
