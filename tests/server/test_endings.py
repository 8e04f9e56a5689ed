"""A program that is told to end at once, and one with pipes in place of its files."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ..cli.test_cli import ROOT, SECONDS, environment, torii
from ..conftest import JINA_KEY, ScriptedUpstream, Seen, replies, streams, until
from ..endpoints.test_strict_input import posted
from ..faults.crowd import OPERATOR, waiting
from ..gateway.test_disconnects import Caller
from .test_process import (
    ASK,
    CHUNK,
    EMBED,
    ENDED,
    RANK,
    VECTORS,
    Gateway,
    assert_told,
    configuration,
    program,
    rest,
    streaming,
)

both = pytest.mark.parametrize("workers", [1, 2])
NOTHING = "it is a pipe that delivers no data; use a regular file"


def pipe_at(path: Path) -> None:
    """Replaces the file by a named pipe."""
    os.mkfifo(path.with_name("pipe"))
    path.with_name("pipe").rename(path)


# ---------------------------------------------------------------- at once


async def _is_told(running: Gateway, body: AsyncIterator[bytes]) -> None:
    assert_told(await rest(body))
    assert await running.ends() == 0


async def _interrupt(running: Gateway) -> None:
    """Sends two SIGINT, the second after the first was handled; otherwise they would count as one."""
    running.signal(signal.SIGINT)
    await running.says("SIG.*: new calls are refused; open calls have 600 seconds to finish.*")
    running.signal(signal.SIGINT)


async def _asks(running: Gateway, path: str, body: Any) -> Caller:
    """A caller whose request has been sent."""
    caller = Caller(*await asyncio.open_connection("127.0.0.1", running.port))
    data = msgspec.json.encode(body)
    caller.writer.write(posted(b"content-length: %d" % len(data), body=data, path=path.encode()))
    return caller


async def assert_unfinished(caller: Caller, *, should_retry: str | None = None) -> str:
    """Checks the whole response until the connection is closed. Returns the request id."""
    head, _, body = (await caller.reader.read()).partition(b"\r\n\r\n")
    caller.writer.close()
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert (status, msgspec.json.decode(body)) == ("HTTP/1.1 503 Service Unavailable", ENDED)
    assert headers["content-type"] == "application/json"
    assert headers["retry-after"] == "1"
    assert headers.get("x-should-retry") == should_retry
    return headers["x-request-id"]


async def held(request: Seen, writer: asyncio.StreamWriter) -> None:
    """An upstream that never answers."""
    await asyncio.Event().wait()


@both
async def test_calls_that_wait_for_an_upstream_are_told_and_booked(
    workers: int, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """A DeepSearch run that was started costs money, and must not be started again."""
    upstream.plays(held)
    deep = {"model": "jina-deepsearch-v1", "messages": ASK["messages"]}
    calls: list[tuple[str, Any]] = [
        ("/v1/embeddings", EMBED),
        ("/v1/rerank", RANK),
        ("/v1/chat/completions", ASK),
        ("/v1/chat/completions", deep),
        ("/v1/chat/completions", {**deep, "stream": True}),
    ]
    ledger = {"path": str(tmp_path / "torii.db")}
    jina = {"deepsearch_base_url": f"{upstream.url}/deepsearch/v1"}
    values = {"workers": workers, "ledger": ledger, "jina": jina, "drain_seconds": 600}
    async with program(tmp_path, upstream.url, **values) as running:
        callers = [await _asks(running, path, body) for path, body in calls]
        await until(lambda: len(upstream.seen) == len(calls), SECONDS)
        await _interrupt(running)
        ids = [
            await assert_unfinished(caller, should_retry="false" if "deepsearch" in body["model"] else None)
            for caller, (_, body) in zip(callers, calls, strict=True)
        ]
        assert await running.ends() == 0
    with closing(sqlite3.connect(tmp_path / "torii.db")) as books:
        rows = books.execute("SELECT request_id, status, error FROM calls").fetchall()
    assert sorted(rows) == sorted((each, 503, "unavailable") for each in ids)


async def test_calls_that_wait_for_anything_else_are_told(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """The calls wait for a key alone, in a batch, or for an identical call; for later parts of a large call; for the
    request body."""
    upstream.plays(held)
    calls: list[tuple[str, Any]] = [
        ("/v1/rerank", RANK),
        ("/v1/embeddings", {**EMBED, "input": ["one"]}),
        ("/v1/embeddings", {**EMBED, "input": ["two"]}),
        ("/v1/embeddings", {**EMBED, "input": ["shared"]}),
        ("/v1/embeddings", {**EMBED, "input": ["shared"]}),
        ("/v1/embeddings", {**EMBED, "input": [f"text {number}" for number in range(2000)]}),
    ]
    values = {
        "drain_seconds": 600,
        "queue_timeout_seconds": 600,
        "operator_key": OPERATOR,
        "jina": {"limits": {"concurrency": 1}},
        "cache": {"store": "memory"},
    }
    async with program(tmp_path, upstream.url, **values) as running:
        callers = [await _asks(running, "/v1/rerank", {**RANK, "query": "first"})]
        await until(lambda: len(upstream.seen) == 1, SECONDS)
        callers += [await _asks(running, path, body) for path, body in calls]
        half = Caller(*await asyncio.open_connection("127.0.0.1", running.port))
        half.writer.write(posted(b"content-length: 9", b"expect: 100-continue", body=b"{", path=b"/v1/rerank"))
        assert await half.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        # Six calls wait: two parts of the large call, one of the two identical calls, and the three others.
        await waiting(running, 6)
        await _interrupt(running)
        for caller in (*callers, half):
            await assert_unfinished(caller)
        assert await running.ends() == 0
    assert len(upstream.seen) == 1


@both
async def test_a_second_interrupt_ends_everything_in_the_delay_too(
    workers: int, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(streams(CHUNK, asyncio.Event()))
    waits = {"drain_delay_seconds": 600, "drain_seconds": 600}
    async with program(tmp_path, upstream.url, workers=workers, **waits) as running, streaming(running) as body:
        running.signal(signal.SIGINT)
        await running.says("SIG.*: no longer ready; new calls are accepted for another 600 seconds")
        running.signal(signal.SIGINT)
        await _is_told(running, body)


@both
async def test_a_third_sigterm_ends_everything(workers: int, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(streams(CHUNK, asyncio.Event()))
    waits = {"drain_delay_seconds": 600, "drain_seconds": 600}
    async with program(tmp_path, upstream.url, workers=workers, **waits) as running, streaming(running) as body:
        running.signal(signal.SIGTERM)
        await running.says("SIGTERM: no longer ready; new calls are accepted for another 600 seconds")
        running.signal(signal.SIGTERM)
        await running.says("SIGTERM: new calls are refused; open calls have 600 seconds to finish")
        running.signal(signal.SIGTERM)
        await _is_told(running, body)


def test_what_stands_still_is_ended_all_the_same() -> None:
    script = "import threading; from app.server.server import last_resort; last_resort(); threading.Event().wait()"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment({}), timeout=SECONDS)
    assert done.returncode == 0


# -------------------------------------------------------------------- pipes in place of files


@both
async def test_a_pipe_in_the_place_of_the_configuration_holds_up_neither_calls_nor_the_end(
    workers: int, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(replies(VECTORS))
    async with program(tmp_path, upstream.url, workers=workers) as running:
        pipe_at(tmp_path / "config.yaml")
        running.signal(signal.SIGHUP)
        await running.says(f"config.yaml: cannot be read: {NOTHING}")
        assert (await running.client.post("/v1/embeddings", json=EMBED)).status_code == 200
        silent = os.open(tmp_path / "config.yaml", os.O_RDWR)  # open for writing, but nothing is written
        try:
            running.signal(signal.SIGHUP)
            assert (await running.client.post("/v1/embeddings", json=EMBED)).status_code == 200
            running.signal(signal.SIGTERM)
            assert await running.ends() == 0
        finally:
            os.close(silent)


async def test_a_pipe_in_the_place_of_a_file_that_the_configuration_names_keeps_the_old_one(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(replies(VECTORS))
    os.mkfifo(tmp_path / "ca.pem")
    async with program(tmp_path, upstream.url) as running:
        running.configure(upstream.url, ca_file=str(tmp_path / "ca.pem"))
        running.signal(signal.SIGHUP)
        await running.says(f"config.yaml:1: ca_file: cannot be read: {NOTHING}")
        assert (await running.client.post("/v1/embeddings", json=EMBED)).status_code == 200
        running.signal(signal.SIGTERM)
        assert await running.ends() == 0


def test_at_the_start_each_is_a_mistake(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    told = {
        ("--config", str(pipe)): (f"{pipe}: cannot be read: {NOTHING}", {}),
        (): (f"environment: JINA_API_KEY_FILE: {pipe} cannot be read: {NOTHING}", {"JINA_API_KEY_FILE": str(pipe)}),
        ("-c", os.devnull): (f"environment: TORII_CA_FILE: cannot be read: {NOTHING}", {"TORII_CA_FILE": str(pipe)}),
    }
    for words, (mistake, variables) in told.items():
        for command in ("check", "serve"):
            done = torii(command, *words, cwd=tmp_path, **variables)
            assert (done.returncode, mistake in done.stderr.splitlines()[1]) == (2, True), done.stderr


def test_a_secret_in_the_folder_of_secrets_that_is_a_pipe_is_a_mistake(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "jina_api_key")
    done = torii("check", cwd=tmp_path, TORII_SECRETS_DIR=str(tmp_path))
    assert done.returncode == 2
    assert f"secret file: {tmp_path / 'jina_api_key'}: cannot be read: {NOTHING}" in done.stderr


def test_a_ledger_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ledger.db")
    done = torii(
        "serve", "--port", "0", cwd=tmp_path, JINA_API_KEY=JINA_KEY, TORII_LEDGER__PATH=str(tmp_path / "ledger.db")
    )
    assert done.returncode == 2
    assert f"ledger.path: {tmp_path / 'ledger.db'}: it is not a regular file. The file was not changed." in done.stderr


def test_what_comes_through_a_pipe_in_time_is_read(tmp_path: Path) -> None:
    """For example from `torii check --config <(...)`."""
    end, start = os.pipe()
    os.write(start, configuration("http://127.0.0.1:9"))
    os.close(start)
    done = subprocess.run(
        [sys.executable, "-m", "app", "check", "--config", f"/dev/fd/{end}"],
        cwd=tmp_path,
        env=environment({}),
        pass_fds=[end],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    os.close(end)
    assert (done.returncode, done.stderr) == (0, "")
    assert "http://127.0.0.1:9/v1" in done.stdout


def test_what_has_no_end_is_a_mistake(tmp_path: Path) -> None:
    done = torii("check", "--config", "/dev/zero", cwd=tmp_path)
    assert done.returncode == 2
    assert "/dev/zero: cannot be read: it is larger than 16 MB; use another file" in done.stderr
