"""The program under signals, in processes of its own: it drains, reloads its configuration, and replaces its
workers."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from ..cli.test_cli import LAST_LINE, SECONDS, environment, free_port, torii
from ..conftest import JINA_KEY, ScriptedUpstream, replies, streams, until
from ..program import Program, started

SECOND_KEY = "jina_fedcba9876543210fedcba9876543210"
CHUNK = b'data: {"id":"u","choices":[{"index":0,"delta":{"role":"assistant","content":"x"}}]}\n\n'
END = b'data: {"id":"u","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
VECTORS = {
    "model": "m",
    "object": "list",
    "usage": {"total_tokens": 4},
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
}
EMBED = {"model": "jina-embeddings-v3", "input": ["hi"]}
# Rankings are never batched, unlike embeddings.
RANKED = {"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 1}}
RANK = {"model": "jina-reranker-v2-base-multilingual", "query": "q", "documents": ["a"]}
ASK = {"model": "jina/other", "stream": True, "messages": [{"role": "user", "content": "hi"}]}


class Gateway(Program):
    @property
    def messages(self) -> list[str]:
        """The log messages after the banner, without those of calls."""
        lines = [msgspec.json.decode(line) for line in self.lines]
        return [line["message"] for line in lines if line["logger"] != "torii.calls"]

    async def says(self, pattern: str) -> None:
        await until(lambda: any(re.fullmatch(pattern, message) for message in self.messages), SECONDS)

    def configure(self, upstream: str, **values: Any) -> None:
        self.write(configuration(upstream, **values))

    async def reload(self, *words: str) -> subprocess.CompletedProcess[str]:
        reload = ("reload", "--port", str(self.port), *words)
        return await asyncio.to_thread(torii, *reload, cwd=self.folder, XDG_RUNTIME_DIR=str(self.folder))

    async def model(self, name: str) -> int:
        """The response's status, on a connection of its own."""
        return (await self.client.get(f"/v1/models/{name}", headers={"connection": "close"})).status_code

    async def ready(self, workers: int, *, starts: int = 0) -> set[int]:
        """The worker processes, once ``workers`` of them have started, or ``starts``."""

        def count() -> int:
            return sum(bool(re.fullmatch(r"worker \d is ready: process \d+", message)) for message in self.messages)

        await until(lambda: count() == (starts or workers), SECONDS)
        return self.workers()

    def workers(self) -> set[int]:
        """The parent's child processes, without Python's own."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        commands = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
        return {child for child, command in commands.items() if b"spawn_main" in command}


def configuration(upstream: str, **values: Any) -> bytes:
    """A configuration without a cache, so that every call reaches the upstream."""
    jina = {"base_url": f"{upstream}/v1", "api_key": JINA_KEY, **values.pop("jina", {})}
    return msgspec.json.encode({"upstreams": {"jina": jina}, "cache": {"store": "off"}, **values})


@asynccontextmanager
async def program(folder: Path, upstream: str, *words: str, **values: Any) -> AsyncIterator[Gateway]:
    async with started(Gateway, folder, configuration(upstream, **values), *words) as running:
        assert (await running.client.get("/healthz", headers={"connection": "close"})).status_code == 200
        yield running
    assert "Traceback" not in running.log
    assert JINA_KEY not in running.log


@asynccontextmanager
async def streaming(running: Gateway) -> AsyncIterator[AsyncIterator[bytes]]:
    """The events of a stream that has begun."""
    async with running.client.stream("POST", "/v1/chat/completions", json=ASK) as response:
        assert response.status_code == 200
        body = response.aiter_bytes()
        assert b'"content":"x"' in await anext(body)
        yield body


async def rest(body: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in body])


UNFINISHED = "this gateway is shutting down and could not finish the call"
ENDED = {
    "error": {"message": UNFINISHED, "type": "api_error", "param": None, "code": "unavailable"},
    "detail": UNFINISHED,
}


def assert_told(events: bytes) -> None:
    """Checks the rest of a stream that the gateway could not finish: one event with the error."""
    assert events.endswith(b"\n\n")
    assert msgspec.json.decode(events.strip().removeprefix(b"data: ")) == ENDED


# ---------------------------------------------------------------- draining


async def test_a_second_interrupt_ends_what_is_open_without_a_traceback(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(streams(CHUNK, asyncio.Event()))
    async with program(tmp_path, upstream.url) as running, streaming(running) as body:
        running.signal(signal.SIGINT)
        await running.says(
            "SIGINT: new calls are refused; open calls have 30 seconds to finish; a second Ctrl.C ends them at once"
        )
        running.signal(signal.SIGINT)
        assert_told(await rest(body))
        assert await running.ends() == 0
        assert not [line for line in running.lines if "Traceback" in line or "Exception" in line], running.log


async def test_a_stream_that_ends_in_time_is_whole_and_the_exit_code_is_0(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    more = asyncio.Event()
    upstream.plays(streams(CHUNK, more, END))
    async with program(tmp_path, upstream.url) as running, streaming(running) as body:
        running.signal(signal.SIGTERM)
        await running.says("SIGTERM: new calls are refused; open calls have 30 seconds to finish")
        more.set()
        assert (await rest(body)).endswith(b"data: [DONE]\n\n")
        assert await running.ends() == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_stream_longer_than_the_drain_ends_in_an_error(
    workers: int, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(streams(CHUNK, asyncio.Event()))
    async with program(tmp_path, upstream.url, drain_seconds=0.3, workers=workers) as running:
        async with streaming(running) as body:
            running.signal(signal.SIGTERM)
            told = await rest(body)
        assert await running.ends() == 0
    assert_told(told)


async def test_with_a_delay_readiness_fails_first_and_calls_are_still_taken(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(replies(VECTORS))
    async with program(tmp_path, upstream.url, drain_delay_seconds=60) as running:
        assert (await running.client.get("/readyz")).status_code == 200
        running.signal(signal.SIGTERM)
        await running.says("SIGTERM: no longer ready; new calls are accepted for another 60 seconds")
        async with httpx.AsyncClient(base_url=running.client.base_url, timeout=SECONDS, trust_env=False) as fresh:
            unready = await fresh.get("/readyz")
            assert (unready.status_code, unready.headers["retry-after"]) == (503, "1")
            assert (await fresh.get("/healthz")).status_code == 200
            assert (await fresh.post("/v1/embeddings", json=EMBED)).status_code == 200
        running.signal(signal.SIGTERM)
        assert await running.ends() == 0


# ---------------------------------------------------------------- reloading


async def test_a_broken_file_changes_nothing_and_all_its_mistakes_are_told(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(replies(VECTORS))
    async with program(tmp_path, upstream.url, models={"one": "jina-embeddings-v3"}) as running:
        (tmp_path / "config.yaml").write_text(
            f"prot: 1\nupstreams:\n  jina: {{api_key: {JINA_KEY}, kind: {SECOND_KEY}}}\n"
        )
        running.signal(signal.SIGHUP)
        await running.says(r"config\.yaml:3: upstreams\.jina\.kind: must be .*")
        assert running.messages[0] == "the configuration was not reloaded, because the new one has mistakes"
        assert running.messages[1].startswith("config.yaml:1: prot: unknown key; did you mean port?")
        assert SECOND_KEY not in running.log
        (tmp_path / "config.yaml").unlink()
        running.signal(signal.SIGHUP)
        await running.says("config.yaml: cannot be read: No such file or directory")
        assert (await running.client.post("/v1/embeddings", json={**EMBED, "model": "one"})).status_code == 200


async def test_open_calls_end_with_the_old_one_and_new_ones_begin_with_the_new(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    more = asyncio.Event()
    upstream.plays(streams(CHUNK, more, END), replies(VECTORS))
    other_upstream.plays(replies(VECTORS))
    async with program(tmp_path, upstream.url, log_level="debug") as running, streaming(running) as body:
        async with asyncio.TaskGroup() as load:
            stop = asyncio.Event()
            calling = [load.create_task(_calls(running, stop)) for _ in range(4)]
            running.configure(other_upstream.url, models={"new": "jina-embeddings-v3"}, jina={"api_key": SECOND_KEY})
            done = await running.reload()
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout == "reloaded; changed: log_level, models.new, upstreams.jina\n"
            stop.set()
        assert {status for task in calling for status in task.result()} == {200}
        answer = await running.client.post("/v1/embeddings", json={**EMBED, "model": "new"})
        assert answer.status_code == 200
        more.set()
        assert (await rest(body)).endswith(b"data: [DONE]\n\n")
        await until(lambda: not upstream.tasks)  # the old connections are closed
    assert {seen.headers["authorization"] for seen in upstream.seen} == {f"Bearer {JINA_KEY}"}
    assert {seen.headers["authorization"] for seen in other_upstream.seen} == {f"Bearer {SECOND_KEY}"}


async def _calls(running: Gateway, stop: asyncio.Event) -> list[int]:
    statuses = []
    while not stop.is_set():
        statuses.append((await running.client.post("/v1/embeddings", json=EMBED)).status_code)
    return statuses


async def test_limits_and_open_calls_of_a_key_outlive_a_reload(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """First two requests per minute, one of them spent before the reload; then one at a time, in flight since before
    the reload."""
    more = asyncio.Event()
    upstream.plays(replies(VECTORS))
    once = {"limits": {"requests_per_minute": 2}}
    async with program(tmp_path, upstream.url, queue_timeout_seconds=0.1, jina=once) as running:
        assert (await running.client.post("/v1/embeddings", json=EMBED)).status_code == 200
        named = {"api_key": None, "api_keys": [{"key": JINA_KEY, "name": "renamed"}], **once}
        running.configure(upstream.url, queue_timeout_seconds=0.2, jina=named)
        assert (await running.reload()).stdout == "reloaded; changed: queue_timeout_seconds, upstreams.jina\n"
        statuses = [(await running.client.post("/v1/embeddings", json=EMBED)).status_code for _ in range(2)]
        assert statuses == [200, 429]
        single = {"limits": {"concurrency": 1}}
        running.configure(upstream.url, queue_timeout_seconds=0.2, jina=single)
        assert (await running.reload()).returncode == 0
        upstream.plays(streams(CHUNK, more, END), replies(VECTORS))
        async with streaming(running) as body:
            running.configure(upstream.url, queue_timeout_seconds=0.1, jina=single)
            assert (await running.reload()).returncode == 0
            assert (await running.client.post("/v1/embeddings", json=EMBED)).status_code == 429
            more.set()
            await rest(body)
        assert (await running.client.post("/v1/embeddings", json=EMBED)).status_code == 200


async def test_a_reload_of_what_has_not_changed_says_so(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with program(tmp_path, upstream.url, sandbox="auto") as running:
        assert [(await running.reload()).stdout for _ in range(2)] == ["nothing changed\n"] * 2


async def test_what_only_a_restart_changes_is_named(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with program(tmp_path, upstream.url) as running:
        running.configure(upstream.url, workers=3, docs="off", sandbox="on", max_concurrent_calls=7)
        done = await running.reload()
        assert done.stdout == "reloaded; changed: max_concurrent_calls\nneeds a restart: workers, docs, sandbox\n"
        assert running.messages == [
            "the configuration was reloaded; changed: max_concurrent_calls",
            "needs a restart: workers, docs, sandbox",
        ]
        assert "x-torii-sandbox" not in (await running.client.get("/healthz")).headers


async def test_the_callers_and_the_seconds_for_a_head_change_at_once(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async with program(tmp_path, upstream.url) as running:
        key = "a-key-of-the-caller-0123456789"
        running.configure(upstream.url, caller_key=key, timeouts={"request_head_seconds": 1})
        done = await running.reload()
        assert done.stdout == "reloaded; changed: caller_key, timeouts.request_head_seconds\n"
        assert (await running.client.get("/v1/models")).status_code == 401
        headers = {"authorization": f"Bearer {key}"}
        assert (await running.client.get("/v1/models", headers=headers)).status_code == 200
        reader, writer = await asyncio.open_connection(running.client.base_url.host, running.client.base_url.port)
        assert await asyncio.wait_for(reader.read(), SECONDS) == b""
        writer.close()


async def test_torii_reload_says_how_it_went(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with program(tmp_path, upstream.url) as running:
        done = await running.reload()
        assert (done.returncode, done.stdout, done.stderr) == (0, "nothing changed\n", "")
        (tmp_path / "wrong.yaml").write_text("prot: 1\n")
        done = await running.reload("--config", "wrong.yaml")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("torii: the configuration has a mistake:\n  wrong.yaml:1: prot: unknown key")
        running.configure(upstream.url, prot=1)
        (tmp_path / "right.yaml").write_text("{}\n")
        done = await running.reload("--config", "right.yaml")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("torii: the gateway kept its configuration:\n  config.yaml:1: prot: unknown key")
        other = free_port()
        done = await running.reload("--config", "right.yaml", "--port", str(other))
        port = running.client.base_url.port
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"torii: no gateway of yours runs on port {other}, but on {port}: torii reload --port {port}\n"
        )
        assert len(running.messages) == 3  # no message for the gateway that was not addressed
        run = tmp_path / "torii" / f"{port}.json"
        assert (run.stat().st_mode & 0o777, run.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        left = run.read_bytes()
        running.signal(signal.SIGTERM)
        assert await running.ends() == 0
    assert not run.exists()
    # The file of a killed gateway names a process id that any other process may have by now; here one that SIGHUP would
    # end.
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    run.write_bytes(re.sub(rb'"pid":\d+', b'"pid":%d' % stranger.pid, left))
    done = torii("reload", "--port", str(port), "-c", "right.yaml", cwd=tmp_path, XDG_RUNTIME_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"torii: no gateway of yours runs on port {port} of this machine. "
        "A gateway in a container, or of another user, reloads on SIGHUP: kill -HUP and its process id.\n"
    )
    stranger.communicate(b"\n")
    assert stranger.returncode == 0


async def test_a_folder_that_others_can_write_in_is_not_used(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    (tmp_path / "torii").mkdir()
    (tmp_path / "torii").chmod(0o777)
    async with program(tmp_path, upstream.url) as running:
        assert list((tmp_path / "torii").iterdir()) == []
        assert (await running.reload()).returncode == 1
        running.configure(upstream.url, max_concurrent_calls=7)
        running.signal(signal.SIGHUP)
        await running.says("the configuration was reloaded; changed: max_concurrent_calls")


async def test_a_terminal_that_is_closed_ends_it(tmp_path: Path) -> None:
    """SIGHUP also means that the user closed the terminal window."""
    terminal, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve", "--sandbox", "--port", "0"],
        cwd=tmp_path,
        env=environment({}),
        stdin=side,
        stdout=side,
        stderr=side,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(side)
    try:
        said = b""
        while LAST_LINE.strip().encode() not in said:
            said += await asyncio.to_thread(os.read, terminal, 4096)
        url = re.search(rb"http://127\.0\.0\.1:\d+(?=/v1)", said)
        assert url is not None
        async with httpx.AsyncClient(timeout=SECONDS, trust_env=False) as client:
            assert (await client.get(f"{url[0].decode()}/healthz")).status_code == 200
        os.close(terminal)
        assert await asyncio.to_thread(process.wait, SECONDS) == 0
    finally:
        process.kill()
        process.wait()


# ---------------------------------------------------------------- workers


async def test_workers_share_the_port_and_one_that_dies_is_replaced(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(replies(VECTORS))
    async with program(tmp_path, upstream.url, "--workers", "2", models={"one": "jina-embeddings-v3"}) as running:
        assert running.log.count(LAST_LINE) == 1
        before = await running.ready(2)
        assert len(before) == 2
        # Each worker serves alone when the other is killed.
        for starts, process in enumerate(sorted(before), 3):
            running.configure(upstream.url, workers=2, models={"two": "jina-embeddings-v3"})
            os.kill(process, signal.SIGKILL)
            await running.says(rf"worker \d, process {process}, ended with -9; a new worker replaces it")
            fresh = {"connection": "close"}
            answer = await running.client.post("/v1/embeddings", json=EMBED, headers=fresh)
            assert answer.status_code == 200
            await running.ready(2, starts=starts)
        assert not before & running.workers()
        # With the configuration in force, not with the changed file.
        assert (await running.client.get("/v1/models/one", headers=fresh)).json()["alias_of"] == "jina-embeddings-v3"
        assert (await running.reload()).returncode == 0
        running.signal(signal.SIGTERM)
        assert await running.ends() == 0
    assert {seen.path for seen in upstream.seen} == {"/v1/embeddings"}


async def test_a_reload_reaches_every_worker_and_a_broken_file_none(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(replies(VECTORS))
    none = {"unknown_models_upstream": "none", "workers": 3}
    async with program(tmp_path, upstream.url, **none) as running:
        running.configure(upstream.url, models={"new": "jina-embeddings-v3"}, **none)
        done = await running.reload()
        assert (done.returncode, done.stdout) == (0, "reloaded; changed: models.new\n")
        assert {await running.model("new") for _ in range(60)} == {200}
        (tmp_path / "config.yaml").write_text("prot: 1\n")
        running.signal(signal.SIGHUP)
        await running.says("config.yaml:1: prot: unknown key; .*")
        assert {await running.model("new") for _ in range(60)} == {200}


async def test_the_limits_of_a_key_hold_for_all_workers_together(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(replies(RANKED))
    limited = {"limits": {"requests_per_minute": 5}}
    async with program(tmp_path, upstream.url, workers=2, queue_timeout_seconds=0.1, jina=limited) as running:
        ask = [running.client.post("/v1/rerank", json=RANK, headers={"connection": "close"}) for _ in range(40)]
        statuses = [answer.status_code for answer in await asyncio.gather(*ask)]
    assert set(statuses) == {200, 429}
    assert len(upstream.seen) == statuses.count(200) <= 5


async def test_without_their_parent_the_workers_end(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with program(tmp_path, upstream.url, workers=2) as running:
        workers = await running.ready(2)
        running.signal(signal.SIGKILL)
        await running.ends()
        await until(lambda: not any(_lives(worker) for worker in workers), SECONDS)


def _lives(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


async def test_a_limit_too_small_for_the_workers_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        f"workers: 4\nupstreams:\n  jina:\n    api_key: {JINA_KEY}\n    limits:\n      concurrency: 3\n"
    )
    done = torii("check", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "torii: the configuration has a mistake:\n  config.yaml:6: upstreams.jina.limits.concurrency: "
        "must be at least 4, one for each worker; or set fewer workers\n",
    )


# ---------------------------------------------------------------- the operator's API


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_operators_api_reloads_all_processes_and_says_what_changed(
    workers: int, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    key = "operator-key-0123456789"
    given = {"workers": workers, "operator_key": key, "ledger": {"path": str(tmp_path / "ledger.db")}}

    async def reload() -> httpx.Response:
        return await running.client.post("/admin/v1/reload", headers={"authorization": f"Bearer {key}"})

    async with program(tmp_path, upstream.url, **given) as running:
        if workers > 1:
            await running.ready(workers)
        unchanged = await reload()
        assert (unchanged.status_code, unchanged.json()["changed"]) == (200, [])
        running.configure(upstream.url, **given, models={"mine": "jina-embeddings-v3"}, docs="off")
        changed = (await reload()).json()
        assert (changed["object"], changed["changed"], changed["restart"]) == ("reload", ["models.mine"], ["docs"])
        assert {await running.model("mine") for _ in range(4 * workers)} == {200}
        running.configure(upstream.url, **given, max_attempts=0)
        wrong = await reload()
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (409, "invalid_configuration")
        assert "max_attempts: must be at least 1" in wrong.json()["detail"]
        assert await running.model("mine") == 200


async def test_a_key_that_one_process_creates_is_soon_admitted_by_all(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    operator = {"authorization": "Bearer operator-key-0123456789", "connection": "close"}
    given = {"operator_key": "operator-key-0123456789", "ledger": {"path": str(tmp_path / "ledger.db")}}
    async with program(tmp_path, upstream.url, workers=2, **given) as running:
        await running.ready(2)
        made = (await running.client.post("/admin/v1/keys", json={"name": "a"}, headers=operator)).json()
        mine = {"authorization": f"Bearer {made['secret']}", "connection": "close"}

        async def statuses(path: str, headers: dict[str, str]) -> set[int]:
            return {(await running.client.get(path, headers=headers)).status_code for _ in range(20)}

        # The operator's API reads the file, so that every process shows the key at once.
        assert await statuses(f"/admin/v1/keys/{made['id']}", operator) == {200}
        began = asyncio.get_running_loop().time()
        while await statuses("/v1/usage", mine) != {200}:
            assert asyncio.get_running_loop().time() - began < SECONDS
        await running.client.delete(f"/admin/v1/keys/{made['id']}", headers=operator)
        while await statuses("/v1/usage", mine) != {401}:
            assert asyncio.get_running_loop().time() - began < SECONDS


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_operator_may_have_a_port_of_its_own(
    workers: int, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    own, key = free_port(), "operator-key-0123456789"
    given = {"operator_key": key, "operator_port": own, "ledger": {"path": str(tmp_path / "ledger.db")}}
    headers = {"authorization": f"Bearer {key}"}
    async with program(tmp_path, upstream.url, workers=workers, **given) as running:
        for path in ("/admin/v1/keys", "/admin/upstreams", "/admin/v1/openapi.json"):
            there = await running.client.get(f"http://127.0.0.1:{own}{path}", headers=headers)
            here = await running.client.get(path, headers=headers)
            assert (there.status_code, here.status_code) == (200, 404)
        reloaded = await running.client.post(f"http://127.0.0.1:{own}/admin/v1/reload", headers=headers)
        assert reloaded.json()["changed"] == []
        command = ("upstreams", "--config", "config.yaml", "--json")
        shown = await asyncio.to_thread(torii, *command, cwd=tmp_path, TORII_PORT=str(running.port))
        assert '"jina"' in shown.stdout, shown.stderr


async def test_an_operators_port_that_is_taken_ends_the_start(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(
        configuration(upstream.url, operator_port=int(upstream.url.rpartition(":")[2]))
    )
    ended = await asyncio.to_thread(torii, "serve", "--port", "0", cwd=tmp_path)
    assert ended.returncode == 2
    assert "operator_port: cannot listen on 127.0.0.1 port" in ended.stderr
