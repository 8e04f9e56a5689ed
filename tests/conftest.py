"""Fixtures over real sockets: an upstream that plays scripts, and the gateway under its own server."""

from __future__ import annotations

import asyncio
import gc
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn.server
from fastapi import FastAPI
from hypothesis import HealthCheck, settings

from app.config.settings import Settings
from app.server.app import create_app
from app.server.server import Server
from app.server.snapshots import Generations
from app.storage.ledger_file import LedgerFile
from app.usage.record import CallRecord

from .servers.fixtures import new_postgres, new_redis, postgres, postgres_url, redis_server, redis_url
from .stores import ledger_path, location, tables, tables_url

__all__ = [  # fixtures
    "ledger_path",
    "location",
    "new_postgres",
    "new_redis",
    "postgres",
    "postgres_url",
    "redis_server",
    "redis_url",
    "tables",
    "tables_url",
]

NEW_LOOP: Callable[[], Any]
try:
    import uvloop
except ImportError:  # uvloop does not exist for Windows and PyPy
    NEW_LOOP = asyncio.new_event_loop
else:
    NEW_LOOP = uvloop.new_event_loop

WITH_CURL = pytest.mark.skipif(
    shutil.which("curl") is None, reason="curl is not on this machine: its lines were not run"
)


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], Any]]:
    """The event loop of the gateway; asyncio's own has different transports."""
    return {"loop": NEW_LOOP}


# Timeout in seconds for events that should happen at once. The timeout is long for busy machines, and a passing test
# never waits for it.
PATIENCE = 30.0
LOOK_SECONDS = 0.002

# No deadline: an example may take as long as it needs. The examples are always the same; `make fuzz` looks for others.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


class Often:
    """asyncio for uvicorn, with shorter sleeps. uvicorn's server checks ten times a second whether to stop; most
    tests have a gateway of their own and would only wait for that."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.005))


setattr(uvicorn.server, "asyncio", Often())  # noqa: B010 - a module's name is no attribute to mypy


def pytest_collection_finish() -> None:
    """Freeze the objects made by collection: scanning them at each garbage collection would make long pauses."""
    gc.collect()
    gc.freeze()


# The TLS context of clients that use no TLS: loading the usual authorities takes longer than most tests.
NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

JINA_KEY = "jina_0123456789abcdef0123456789abcdef"
AIHUBMIX_KEY = "sk-0123456789abcdefaihubmix"


@dataclass
class Seen:
    """A request as an upstream received it. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return msgspec.json.decode(self.raw)


Script = Callable[["Seen", asyncio.StreamWriter], Any]


@dataclass
class ScriptedUpstream:
    """Answers each request with the next of its scripts; the last script repeats."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    scripts: list[Script] = field(default_factory=list)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    readers: list[asyncio.StreamReader] = field(default_factory=list)

    def plays(self, *scripts: Script) -> None:
        self.scripts = list(scripts)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.readers.append(reader)
        try:
            while request := await read_request(reader):
                self.seen.append(request)
                script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
                if await script(request, writer) is False:
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except RuntimeError:
            if not writer.is_closing():  # uvloop raises it for a closed connection
                raise
        finally:
            self.tasks.discard(task)
            writer.close()
            with suppress(TimeoutError, ConnectionError):
                await asyncio.wait_for(writer.wait_closed(), 0.1)  # times out only if the gateway stops reading
            writer.transport.abort()

    async def gone(self, seconds: float = PATIENCE) -> None:
        """Returns when a connection was closed or reset by the gateway; raises TimeoutError as ``until`` does."""
        await until(lambda: any(reader.at_eof() or reader.exception() is not None for reader in self.readers), seconds)


async def read_request(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    return Seen(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))


def replies(body: Any, status: int = 200, **headers: str) -> Script:
    """A whole answer; ``body`` is bytes, or a value to encode as JSON."""
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    lines = {"content-type": "application/json", "content-length": str(len(raw)), **_names(headers)}

    async def play(request: Seen, writer: asyncio.StreamWriter) -> None:
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + raw)
        await writer.drain()

    return play


def streams(*pieces: bytes | asyncio.Event, end: str = "clean", **headers: str) -> Script:
    """A chunked answer. An event among the pieces is awaited. ``end``: clean, cut (no last chunk) or open."""
    lines = {"content-type": "text/event-stream", "transfer-encoding": "chunked", **_names(headers)}

    async def play(request: Seen, writer: asyncio.StreamWriter) -> bool:
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode())
        for piece in pieces:
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            elif piece:
                writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                await writer.drain()
        if end == "clean":
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            return True
        return end == "open"

    return play


def raw(data: bytes) -> Script:
    """Exactly these bytes, then the connection is closed."""

    async def play(request: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(data)
        await writer.drain()
        return False

    return play


def _names(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@asynccontextmanager
async def scripted_upstream() -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, limit=2**24, backlog=2048)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()
        for task in upstream.tasks:
            task.cancel()
        await asyncio.gather(*upstream.tasks)


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """Stands in for Jina: api under /v1, DeepSearch under /deepsearch/v1."""
    async with scripted_upstream() as jina:
        yield jina


@pytest.fixture
async def other_upstream() -> AsyncIterator[ScriptedUpstream]:
    """Stands in for AIHubMix, under /v1."""
    async with scripted_upstream() as aihubmix:
        yield aihubmix


async def until(happened: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Polls until ``happened`` is true; raises TimeoutError after as many polls as fit into ``seconds`` on an idle
    machine.

    A busy machine polls less often but as many times, so it has the same number of turns of the loop.
    """
    for _ in range(round(seconds / LOOK_SECONDS)):
        if happened():
            return
        await asyncio.sleep(LOOK_SECONDS)
    raise TimeoutError(f"it had not happened after {seconds:g} seconds")


def settings_for(jina: str | None, aihubmix: str | None = None, **values: Any) -> Settings:
    """Settings whose upstreams are at these URLs. The cache is off by default, so every call reaches an upstream."""
    upstreams: dict[str, Any] = {}
    if jina:
        upstreams["jina"] = {
            "base_url": f"{jina}/v1",
            "deepsearch_base_url": f"{jina}/deepsearch/v1",
            "reader_base_url": f"{jina}/reader",
            "search_base_url": f"{jina}/search",
            "svip_base_url": f"{jina}/svip",
            "api_key": JINA_KEY,
        }
    if aihubmix:
        upstreams["aihubmix"] = {"base_url": f"{aihubmix}/v1", "api_key": AIHUBMIX_KEY}
    return Settings(upstreams=upstreams, **{"cache": {"store": "off"}, **values})


@dataclass
class RunningGateway:
    url: str
    server: Server
    client: httpx.AsyncClient
    records: list[CallRecord]

    @property
    def generations(self) -> Generations:
        """The configurations of its server; ``now`` is the one in force."""
        app = self.server.config.app
        assert isinstance(app, FastAPI)
        found: Generations = app.state.generations
        return found

    async def ended(self, count: int) -> list[CallRecord]:
        """The records of the calls, once ``count`` of them have ended."""
        await until(lambda: len(self.records) >= count)
        return self.records

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        raw_body = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return await self.client.post(path, content=raw_body, headers={"content-type": "application/json", **headers})


@asynccontextmanager
async def serving(act: Any, *, tls: Any = None, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """The URL of a server that plays ``act(reader, writer)`` on each connection."""
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await act(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls, limit=2**24)
    try:
        yield f"{'https' if tls else 'http'}://{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)


@asynccontextmanager
async def running_gateway(settings: Settings, database: LedgerFile | None = None) -> AsyncIterator[RunningGateway]:
    """The real application under its own server, on a free port, in this loop. Without ``database`` there is no
    ledger."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    records: list[CallRecord] = []
    server = Server(create_app(settings, records.append, database=database), settings)
    task = asyncio.create_task(server.serve([listener]))
    try:
        await until(lambda: server.started)
        async with httpx.AsyncClient(base_url=url, timeout=4 * PATIENCE, verify=NOBODY, trust_env=False) as client:
            yield RunningGateway(url, server, client, records)
    finally:
        server.should_exit = True
        await task
        listener.close()


@pytest.fixture
async def gateway(upstream: ScriptedUpstream, other_upstream: ScriptedUpstream) -> AsyncIterator[RunningGateway]:
    """The gateway in front of both scripted upstreams."""
    async with running_gateway(settings_for(upstream.url, other_upstream.url)) as running:
        yield running


@pytest.fixture
def no_collector() -> Iterator[None]:
    """No garbage collection in the test: objects in reference cycles stay in memory."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
