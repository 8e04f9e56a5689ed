"""The soak's two upstreams: they play what ``plays`` has chosen, and witness what came to them."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from ..conftest import read_request
from .plays import Asked, Fault, fault

_ID = re.compile(rb"\r\nx-request-id: ([0-9a-f]{32})\r\n")
_ID_BYTES = 52


@dataclass
class Witness:
    """What both upstreams have seen: how often each of the gateway's ids, which of them a call's number came with,
    and what was played to each number, in order."""

    seed: int
    ids: Counter[str] = field(default_factory=Counter)
    id_of: dict[int, str] = field(default_factory=dict)
    played: defaultdict[int, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    faults: Counter[str] = field(default_factory=Counter)
    probes: int = 0
    lines: set[Line] = field(default_factory=set)

    def finished(self, number: int) -> bool:
        """Whether a right answer was played to this call, whole."""
        return any(fault.finishes for fault in self.played[number])

    def choose(self, asked: Asked, request_id: str) -> Fault:
        if asked.number is None:
            self.probes += 1
            return fault(asked, Random())
        self.id_of[asked.number] = request_id
        played = self.played[asked.number]
        chosen = fault(asked, Random(f"{self.seed}/{asked.number}/{len(played)}"))
        played.append(chosen)
        self.faults[chosen.name] += 1
        return chosen


class Line(asyncio.StreamReaderProtocol):
    """A connection. Ids are witnessed as their bytes come, whatever becomes of the request; and what is played
    on it ends with it."""

    def __init__(self, witness: Witness) -> None:
        super().__init__(asyncio.StreamReader(limit=2**24), self._serve)
        self._witness = witness
        self._tail = b""
        self._playing: asyncio.Task[Any] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment] # uvloop's is one in all but name
        self._witness.lines.add(self)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        text = self._tail + data
        end = 0
        for found in _ID.finditer(text):
            self._witness.ids[found[1].decode()] += 1
            end = found.end()
        self._tail = text[max(end, len(text) - _ID_BYTES) :]
        super().data_received(data)

    def eof_received(self) -> bool:
        super().eof_received()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._witness.lines.discard(self)
        super().connection_lost(error)
        if self._playing is not None:
            self._playing.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._playing = asyncio.current_task()
        try:
            while request := await read_request(reader):
                asked = Asked.read(request)
                chosen = self._witness.choose(asked, request.headers["x-request-id"])
                script = chosen.make(asked, Random(f"{self._witness.seed}/{asked.number}"))
                if await script(request, writer) is False:
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._playing = None
            writer.close()


@asynccontextmanager
async def upstream(witness: Witness) -> AsyncIterator[str]:
    """One of them; its URL."""
    server = await asyncio.get_running_loop().create_server(lambda: Line(witness), "127.0.0.1", 0, backlog=2048)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for line in [*witness.lines]:
            line.transport.abort()
