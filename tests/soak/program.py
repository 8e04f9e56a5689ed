"""The soak's gateway: reloads, measurements, and a check of its log."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from app.server.runfile import ReloadResult

from ..cli.test_cli import SECONDS
from ..conftest import until
from ..program import Program
from .configurations import AIHUBMIX_KEYS, CALLERS, EVERYONE, JINA_KEYS, OPERATOR

PAGE = os.sysconf("SC_PAGE_SIZE")
LEDGER = "/torii.db"
MOST_LEDGER_FILES = 12  # the writer's, the registry's, the retention's, and those that SQLite keeps
# Warnings and errors that are normal in a soak.
EXPECTED = re.compile(
    r"\w+: key \S+ (is in cooldown:|works again).*|\w+: \d+ calls failed in a row.*"
    r"|the configuration was not reloaded.*|config\.yaml.*|no upstream has a key.*|needs a restart.*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Measure:
    """The gateway's memory in bytes, its open descriptors and threads, and its connections to the upstreams."""

    memory: int
    files: int
    threads: int
    lines: int


class Soaked(Program):
    async def reload(self) -> ReloadResult:
        """Send SIGHUP and return the outcome. Raises TimeoutError."""
        before = self._result().reloads
        self.signal(signal.SIGHUP)
        await until(lambda: self._result(before).reloads > before, SECONDS)
        return self._result()

    def _result(self, otherwise: int = 0) -> ReloadResult:
        """The outcome of the latest reload. If the file is just being written, an outcome with ``otherwise``
        reloads."""
        try:
            return msgspec.json.decode((self.folder / "torii" / f"{self.port}.json").read_bytes(), type=ReloadResult)
        except msgspec.DecodeError:
            return ReloadResult(0, reloads=otherwise)

    def measure(self, lines: int) -> Measure:
        place = Path(f"/proc/{self.process.pid}")
        pages = int((place / "statm").read_text().split()[1])
        threads = len(os.listdir(place / "task"))
        return Measure(pages * PAGE, len(self._files(place / "fd")), threads, lines)

    def _files(self, folder: Path) -> list[str]:
        """The open descriptors. Those of the ledger, its -wal and its -shm count once: the retention's connection may
        come after the first measurement, and SQLite keeps those of closed connections for its next opening."""
        found = []
        for number in os.listdir(folder):
            with suppress(OSError):  # closed meanwhile
                found.append(os.readlink(folder / number))
        ledger = [name for name in found if LEDGER in name]
        assert len(ledger) <= MOST_LEDGER_FILES
        return [name for name in found if name not in ledger] + ledger[:1]

    async def get(self, path: str, key: str = CALLERS["team"]) -> tuple[int, Any]:
        """Uses a connection of its own."""
        headers = {"connection": "close", "authorization": f"Bearer {key}"}
        response = await self.client.get(path, headers=headers)
        return response.status_code, response.json()

    async def at_work(self) -> list[str]:
        """The keys that are in use or have calls waiting for them."""
        _, said = await self.get("/admin/upstreams", OPERATOR)
        return [key["key"] for key in said["data"] if key["at_work"] or key["waiting"]]

    def misspoken(self) -> list[str]:
        """Log lines that should not be there: tracebacks, keys, and unexpected errors."""
        lines = self.lines
        secrets = [*JINA_KEYS, *AIHUBMIX_KEYS, *EVERYONE.values(), OPERATOR]
        wrong = [line for line in lines if "Traceback" in line or any(secret in line for secret in secrets)]
        for line in lines:
            try:
                message = msgspec.json.decode(line)["message"]
            except msgspec.DecodeError:
                message = line
            if not EXPECTED.fullmatch(message):
                wrong.append(line)
        return [f"the log says: {line[:2000]}" for line in dict.fromkeys(wrong)]
