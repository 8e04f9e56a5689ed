"""``torii serve`` as a process of its own, with all its files in one folder."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx

from .cli.test_cli import LAST_LINE, ROOT, SECONDS, environment
from .conftest import until


@dataclass
class Program:
    process: subprocess.Popen[bytes]
    folder: Path
    client: httpx.AsyncClient

    @property
    def port(self) -> int:
        assert self.client.base_url.port is not None
        return self.client.base_url.port

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def lines(self) -> list[str]:
        """The log lines after the banner."""
        return [line for line in self.log.partition(LAST_LINE)[2].splitlines() if line]

    def write(self, configuration: bytes) -> None:
        """Replaces the configuration file atomically."""
        (self.folder / "new").write_bytes(configuration)
        (self.folder / "new").rename(self.folder / "config.yaml")

    def signal(self, sig: signal.Signals) -> None:
        self.process.send_signal(sig)

    async def ends(self) -> int:
        return await asyncio.to_thread(self.process.wait, SECONDS)


P = TypeVar("P", bound=Program)


@asynccontextmanager
async def started(
    kind: type[P],
    folder: Path,
    configuration: bytes,
    *words: str,
    root: Path = ROOT,
    before: Sequence[str] = (),
    module: str = "app",
) -> AsyncIterator[P]:
    """A gateway serving on a free port; killed at the end, if it is still running.

    ``root``: the checkout to run. ``before``: a command line that execs the gateway's. ``module``: the one to run.
    """
    (folder / "config.yaml").write_bytes(configuration)
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen(
            [*before, sys.executable, "-m", module, "serve", "--port", "0", *words],
            cwd=folder,
            env=environment({"XDG_RUNTIME_DIR": str(folder), "PYTHONPATH": str(root)}),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        async with httpx.AsyncClient(timeout=SECONDS, trust_env=False) as client:
            running = kind(process, folder, client)
            await until(lambda: LAST_LINE in running.log or process.poll() is not None, SECONDS)
            found = re.search(r"Base URL +(http://[^ ]+)/v1", running.log)
            assert found is not None, running.log
            client.base_url = httpx.URL(found[1])
            yield running
    finally:
        process.kill()
        process.wait()
