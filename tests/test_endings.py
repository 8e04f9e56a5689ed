"""The program asked to end at once, and with what an operator may put in the place of its files."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from .conftest import JINA_KEY, ScriptedUpstream, replies, streams
from .test_cli import ROOT, SECONDS, environment, torii
from .test_process import CHUNK, EMBED, VECTORS, Gateway, configuration, program, rest, streaming

both = pytest.mark.parametrize("workers", [1, 2])
NOTHING = "it is a pipe that nothing comes out of; name a regular file"


def pipe_at(path: Path) -> None:
    """A named pipe in the place of what is there."""
    os.mkfifo(path.with_name("pipe"))
    path.with_name("pipe").rename(path)


# ---------------------------------------------------------------- at once


async def _is_cut(running: Gateway, body: object) -> None:
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):  # and not for want of patience
        await rest(body)  # type: ignore[arg-type]  # as `streaming` gives it
    assert await running.ends() == 0


@both
async def test_a_second_interrupt_ends_everything_in_the_delay_too(
    workers: int, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(streams(CHUNK, asyncio.Event()))
    waits = {"drain_delay_seconds": 600, "drain_seconds": 600}
    async with program(tmp_path, upstream.url, workers=workers, **waits) as running, streaming(running) as body:
        running.signal(signal.SIGINT)
        await running.says("SIG.*: not ready any more; new calls are taken for another 600 seconds")
        running.signal(signal.SIGINT)
        await _is_cut(running, body)


@both
async def test_a_third_sigterm_ends_everything(workers: int, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(streams(CHUNK, asyncio.Event()))
    waits = {"drain_delay_seconds": 600, "drain_seconds": 600}
    async with program(tmp_path, upstream.url, workers=workers, **waits) as running, streaming(running) as body:
        running.signal(signal.SIGTERM)
        await running.says("SIGTERM: not ready any more; new calls are taken for another 600 seconds")
        running.signal(signal.SIGTERM)
        await running.says("SIGTERM: no new calls; open ones have 600 seconds to end")
        running.signal(signal.SIGTERM)
        await _is_cut(running, body)


def test_what_stands_still_is_ended_all_the_same() -> None:
    script = "import threading; from app.server import last_resort; last_resort(); threading.Event().wait()"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment({}), timeout=SECONDS)
    assert done.returncode == 0


# ---------------------------------------------------------------- pipes in the place of files


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
        silent = os.open(tmp_path / "config.yaml", os.O_RDWR)  # who has it open to write, and writes nothing
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
    assert f"ledger.path: {tmp_path / 'ledger.db'}: it is no regular file. Nothing was changed there." in done.stderr


def test_what_comes_through_a_pipe_in_time_is_read(tmp_path: Path) -> None:
    """As of `torii check --config <(...)`."""
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
    assert "/dev/zero: cannot be read: it is larger than 16 MB; name another file" in done.stderr
