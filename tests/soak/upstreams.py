"""The soak's two upstreams: they play the scripts that ``plays`` selects, and record the requests they receive."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from ..conftest import Seen, read_request
from .plays import Asked, Fault, fault, tokens_of

_ID = re.compile(rb"\r\nx-request-id: ([0-9a-f]{32})\r\n")
_ID_BYTES = 52


@dataclass
class Witness:
    """The records of both upstreams.

    ``met``: how often each upstream received each of the gateway's ids. ``id_of``: the id of each call's number.
    ``played``: the faults played to each number, in order. ``again``: the ids of calls without a number. ``billed``:
    the tokens of correct answers by upstream and id; ``open``: those that may or may not have been billed.
    ``answered``: how often each input was answered.
    """

    seed: int
    met: Counter[tuple[str, str]] = field(default_factory=Counter)
    id_of: dict[int, str] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)
    played: defaultdict[int, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    faults: Counter[str] = field(default_factory=Counter)
    billed: Counter[tuple[str, str]] = field(default_factory=Counter)
    open: set[tuple[str, str]] = field(default_factory=set)
    answered: Counter[str] = field(default_factory=Counter)
    probes: int = 0
    lines: set[Line] = field(default_factory=set)

    def finished(self, number: int) -> bool:
        """True if a correct answer was played to this call, to its end."""
        return any(fault.finishes for fault in self.played[number])

    def choose(self, asked: Asked, request_id: str) -> Fault:
        if asked.number is None:
            return self._unnumbered(asked, request_id)
        self.id_of[asked.number] = request_id
        played = self.played[asked.number]
        chosen = fault(asked, Random(f"{self.seed}/{asked.number}/{len(played)}"))
        played.append(chosen)
        self.faults[chosen.name] += 1
        return chosen

    def _unnumbered(self, asked: Asked, request_id: str) -> Fault:
        self.probes += not asked.again
        chosen = fault(asked, Random(f"{self.seed}/again/{len(self.again)}"))
        self.faults[chosen.name] += asked.again
        if asked.again:
            self.again.add(request_id)
        return chosen

    def settle(self, chosen: Fault, asked: Asked, upstream: str, request_id: str, *, whole: bool) -> None:
        """Record a fault that was played, ``whole`` or until the connection was closed."""
        if asked.number is None or chosen.bills is False:
            return
        if not (whole and chosen.bills):
            self.open.add((upstream, request_id))
            return
        self.billed[upstream, request_id] += tokens_of(asked)
        self.answered.update(asked.inputs if asked.kind == "embeddings" else ())


class Line(asyncio.StreamReaderProtocol):
    """A connection. Ids are recorded as their bytes arrive, whatever happens to the request. A script that is
    playing ends with the connection."""

    def __init__(self, witness: Witness, upstream: str) -> None:
        super().__init__(asyncio.StreamReader(limit=2**24), self._serve)
        self._witness = witness
        self._upstream = upstream
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
            self._witness.met[self._upstream, found[1].decode()] += 1
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
                if not await self._play(request, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._playing = None
            writer.close()

    async def _play(self, request: Seen, writer: asyncio.StreamWriter) -> bool:
        """Returns True if the connection may be reused. A connection being closed is read until the gateway has
        closed it too, so requests that arrive meanwhile are recorded."""
        asked, request_id = Asked.read(request), request.headers["x-request-id"]
        chosen = self._witness.choose(asked, request_id)
        chance = Random(f"{self._witness.seed}/{asked.number}")
        played = False
        try:
            goes_on = await chosen.make(asked, chance)(request, writer) is not False
            played = True
        finally:
            self._witness.settle(chosen, asked, self._upstream, request_id, whole=played)
        if chosen.closes is not None:
            await asyncio.sleep(chance.uniform(*chosen.closes))
            writer.write_eof()
            await asyncio.Event().wait()
        return goes_on


@asynccontextmanager
async def upstream(witness: Witness, name: str) -> AsyncIterator[str]:
    """The URL of the upstream with this name."""
    made = asyncio.get_running_loop().create_server(lambda: Line(witness, name), "127.0.0.1", 0, backlog=2048)
    server = await made
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for line in [*witness.lines]:
            line.transport.abort()
