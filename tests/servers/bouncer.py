"""A stand-in for PgBouncer in its transaction mode: no package of Python brings the real one.

A client has a connection to the server from the first message of a transaction until the server is idle again, and
each time the one that was unused for longest: what a session keeps, as prepared statements, LISTEN or SET, is not found
again.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from pathlib import Path

from .cut import Thread

SSL, PROTOCOL = 80877103, 196608
# What libpq sends; PgBouncer refuses all others unless it is told to ignore them (ignore_startup_parameters).
PARAMETERS = {"user", "database", "application_name", "client_encoding", "replication"}

Asked = asyncio.Future[tuple[bytes, bytes]]


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def startup(**parameters: str) -> bytes:
    text = "".join(f"{name}\0{value}\0" for name, value in parameters.items()).encode() + b"\0"
    return struct.pack("!II", len(text) + 8, PROTOCOL) + text


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)


class Bouncer(Thread):
    """Passes transactions of clients on to ``size`` connections of the server, whose socket in ``folder`` trusts.
    ``transactions`` counts them."""

    def __init__(self, folder: Path, port: int, size: int = 3) -> None:
        self.path, self.size = f"{folder}/.s.PGSQL.{port}", size
        self.transactions = 0
        self.idle: dict[tuple[str, str], deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {}
        self.turns: dict[tuple[str, str], asyncio.Semaphore] = {}
        self.told: dict[tuple[str, str], bytes] = {}  # the parameters of the server
        super().__init__()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            (length,) = struct.unpack("!I", await reader.readexactly(4))
            body = await reader.readexactly(length - 4)
            if struct.unpack("!I", body[:4])[0] == PROTOCOL:
                break
            writer.write(b"N")  # no TLS, no GSSAPI
        words = body[4:].decode().split("\0")
        given = dict(zip(words[::2], words[1::2], strict=False))
        if unknown := set(filter(None, given)) - PARAMETERS:
            said = f"SFATAL\0C08P01\0Munsupported startup parameter: {unknown.pop()}\0\0".encode()
            writer.write(message(b"E", said))
            return
        place = given["user"], given["database"]
        if place not in self.idle:
            await self.fill(place)
        ready = message(b"Z", b"I")
        writer.write(message(b"R", struct.pack("!I", 0)) + self.told[place] + message(b"K", bytes(8)) + ready)
        asked: Asked = asyncio.ensure_future(read_message(reader))
        while (await asked)[0] != b"X":
            asked = await self.transaction(place, asked, reader, writer)

    async def fill(self, place: tuple[str, str]) -> None:
        self.idle[place], self.turns[place] = deque(), asyncio.Semaphore(self.size)
        for _ in range(self.size):
            from_server, to_server = await asyncio.open_unix_connection(self.path)
            self.writers.add(to_server)
            to_server.write(startup(user=place[0], database=place[1], application_name="torii"))
            told = b""
            while (found := await read_message(from_server))[0] != b"Z":
                assert found[0] != b"E", found[1]
                told += message(*found) if found[0] == b"S" else b""
            self.told[place] = told
            self.idle[place].append((from_server, to_server))

    async def transaction(
        self,
        place: tuple[str, str],
        asked: Asked,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> Asked:
        """Passes messages both ways until the server is idle, and has answered each Query and Sync. Returns the
        client's next message."""
        self.transactions += 1
        async with self.turns[place]:
            from_server, to_server = self.idle[place].popleft()
            answered = asyncio.ensure_future(read_message(from_server))
            unanswered = 0
            try:
                while True:
                    await asyncio.wait([asked, answered], return_when=asyncio.FIRST_COMPLETED)
                    if asked.done():
                        unanswered += asked.result()[0] in (b"Q", b"S")
                        to_server.write(message(*asked.result()))
                        asked = asyncio.ensure_future(read_message(reader))
                    if answered.done():
                        found = answered.result()
                        writer.write(message(*found))
                        unanswered -= found[0] == b"Z"
                        if found == (b"Z", b"I") and unanswered == 0:
                            self.idle[place].append((from_server, to_server))
                            return asked
                        answered = asyncio.ensure_future(read_message(from_server))
            except BaseException:
                to_server.close()  # the client left in the midst of its transaction
                answered.cancel()
                raise
