"""The soak's gateway: told to read its configuration again, measured, and what its log says."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from app.server.runfile import Outcome

from ..cli.test_cli import SECONDS
from ..conftest import until
from ..program import Program
from .configurations import AIHUBMIX_KEYS, CALLERS, EVERYONE, JINA_KEYS, OPERATOR

PAGE = os.sysconf("SC_PAGE_SIZE")
# What is logged as a warning or an error while all is as it should be.
EXPECTED = re.compile(
    r"\w+: key \S+ (is in cooldown:|works again).*|\w+: \d+ calls failed in a row.*"
    r"|the configuration was not reloaded.*|config\.yaml.*|no upstream has a key.*|needs a restart.*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Measure:
    """Of the gateway: bytes in memory, open descriptors, threads; and its connections at the upstreams."""

    memory: int
    files: int
    threads: int
    lines: int


class Soaked(Program):
    async def reload(self) -> Outcome:
        """SIGHUP, and what came of it. Raises TimeoutError."""
        before = self._outcome().reloads
        self.signal(signal.SIGHUP)
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

    def misspoken(self) -> list[str]:
        """What its log should not say: tracebacks, keys, and errors that nothing here is the reason for."""
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
