"""``torii serve`` as a process of its own: started, told to read its configuration again, measured, ended."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from app.runfile import Outcome

from ..conftest import until
from ..test_cli import LAST_LINE, SECONDS, environment
from .configurations import AIHUBMIX_KEYS, CALLERS, JINA_KEYS, OPERATOR

PAGE = os.sysconf("SC_PAGE_SIZE")
# What is logged as a warning or an error while all is as it should be.
EXPECTED = re.compile(
    r"\w+: key \S+ (rests|works again).*|\w+: \d+ calls failed in a row.*|the configuration stays as it was.*"
    r"|config\.yaml.*|no upstream has a key.*|a restart is needed.*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Measure:
    """Of the gateway: bytes in memory, open descriptors, threads; and its connections at the upstreams."""

    memory: int
    files: int
    threads: int
    lines: int


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

    def configure(self, text: bytes) -> None:
        """Writes another file, all at once."""
        (self.folder / "new").write_bytes(text)
        (self.folder / "new").rename(self.folder / "config.yaml")

    async def reload(self) -> Outcome:
        """SIGHUP, and what came of it. Raises TimeoutError."""
        before = self._outcome().reloads
        self.process.send_signal(signal.SIGHUP)
        await until(lambda: self._outcome(before).reloads > before, SECONDS)
        return self._outcome()

    def _outcome(self, otherwise: int = 0) -> Outcome:
        """What the gateway says of its last reload, unless it is just writing that."""
        try:
            return msgspec.json.decode((self.folder / "torii" / f"{self.port}.json").read_bytes(), type=Outcome)
        except msgspec.DecodeError:
            return Outcome(0, reloads=otherwise)

    def measure(self, lines: int) -> Measure:
        place = Path(f"/proc/{self.process.pid}")
        pages = int((place / "statm").read_text().split()[1])
        threads = len(os.listdir(place / "task"))
        return Measure(pages * PAGE, len(os.listdir(place / "fd")), threads, lines)

    async def get(self, path: str, key: str = CALLERS["team"]) -> tuple[int, Any]:
        """On a connection of its own."""
        headers = {"connection": "close", "authorization": f"Bearer {key}"}
        response = await self.client.get(path, headers=headers)
        return response.status_code, response.json()

    async def at_work(self) -> list[str]:
        """The keys that calls hold, or wait for."""
        _, said = await self.get("/admin/upstreams", OPERATOR)
        return [key["key"] for key in said["data"] if key["at_work"] or key["waiting"]]

    async def ends(self) -> int:
        return await asyncio.to_thread(self.process.wait, SECONDS)

    def misspoken(self) -> list[str]:
        """What its log should not say: tracebacks, keys, and errors that nothing here is the reason for."""
        lines = self.log.partition(LAST_LINE)[2].splitlines()
        lines = [line for line in lines if line]
        secrets = [*JINA_KEYS, *AIHUBMIX_KEYS, *CALLERS.values(), OPERATOR]
        wrong = [line for line in lines if "Traceback" in line or any(secret in line for secret in secrets)]
        for line in lines:
            try:
                message = msgspec.json.decode(line)["message"]
            except msgspec.DecodeError:
                message = line
            if not EXPECTED.fullmatch(message):
                wrong.append(line)
        return [f"the log says: {line[:2000]}" for line in dict.fromkeys(wrong)]


@asynccontextmanager
async def program(folder: Path, configuration: bytes) -> AsyncIterator[Program]:
    """Serving on a free port, with its files in ``folder``; killed at the end, if it still runs."""
    (folder / "config.yaml").write_bytes(configuration)
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve", "--port", "0"],
            cwd=folder,
            env=environment({"XDG_RUNTIME_DIR": str(folder)}),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        async with httpx.AsyncClient(timeout=SECONDS, trust_env=False) as client:
            running = Program(process, folder, client)
            await until(lambda: LAST_LINE in running.log or process.poll() is not None, SECONDS)
            found = re.search(r"Base URL +(http://[^ ]+)/v1", running.log)
            assert found is not None, running.log
            client.base_url = httpx.URL(found[1])
            yield running
    finally:
        process.kill()
        process.wait()
