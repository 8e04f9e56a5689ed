"""The provider of the shows: counts what reaches it, and bills less than the gateway's bound, as a real one does.

A word in the text says what becomes of a request: ``play:500``, ``play:429``, ``play:cut`` (the answer breaks off),
``play:held`` (until the gate is open). All others are answered at once.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..conftest import Seen, read_request

_PLAY = re.compile(r"play:(\w+)")
PIECES = 3  # of a streamed answer


def tokens(text: str) -> int:
    """What is billed for a text: about a quarter of its bytes, which is less than its bound."""
    return len(text.encode()) // 4 + 1


@dataclass
class Provider:
    """``seen`` counts the requests that arrived, by what was played to them; ``billed`` are the tokens of whole
    answers."""

    url: str = ""
    seen: Counter[str] = field(default_factory=Counter)
    billed: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    held: int = 0
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def met(self) -> int:
        return self.seen.total()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while (request := await read_request(reader)) and await self._answer(request, writer):
                pass
        except (OSError, RuntimeError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the gateway has closed the connection; uvloop raises RuntimeError for it
        finally:
            self.tasks.discard(task)
            writer.close()

    async def _answer(self, request: Seen, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False if the connection is to be closed."""
        body = request.body
        found = _PLAY.search(request.raw.decode())
        play = found[1] if found else "right"
        self.seen[play] += 1
        if play in ("500", "429"):
            more = "retry-after: 0\r\n" if play == "429" else ""
            _whole(writer, {"detail": "played"}, f"{play} X", more)
            return True
        if play == "held":
            self.held += 1
            if not body.get("stream"):
                await self.gate.wait()
        if "messages" in body:
            return await self._chat(body, play, writer)
        inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
        used = sum(tokens(_text(each)) for each in inputs)
        if play == "cut":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{")
            return False
        vectors = [{"index": index, "embedding": [0.5]} for index in range(len(inputs))]
        self.billed += used
        _whole(writer, {"data": vectors, "usage": {"total_tokens": used, "prompt_tokens": used}})
        await writer.drain()
        return True

    async def _chat(self, body: Any, play: str, writer: asyncio.StreamWriter) -> bool:
        used = sum(tokens(_text(message["content"])) for message in body["messages"])
        usage = {"prompt_tokens": used, "completion_tokens": PIECES, "total_tokens": used + PIECES}
        if not body.get("stream"):
            self.billed += used + PIECES
            message = {"role": "assistant", "content": "x" * PIECES}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            _whole(writer, {"id": "u", "object": "chat.completion", "choices": [choice], "usage": usage})
            return True
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in range(PIECES):
            _event(writer, {"id": "u", "choices": [{"index": 0, "delta": {"content": "x"}}]})
            await writer.drain()
            if piece == 0 and play == "held":
                await self.gate.wait()
            if piece == 0 and play == "cut":
                return False
        _event(writer, {"id": "u", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        _event(writer, {"id": "u", "choices": [], "usage": usage})
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await writer.drain()
        self.billed += used + PIECES
        return True


def _text(given: Any) -> str:
    return given if isinstance(given, str) else msgspec.json.encode(given).decode()


def _whole(writer: asyncio.StreamWriter, body: Any, status: str = "200 OK", more: str = "") -> None:
    raw = msgspec.json.encode(body)
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n{more}\r\n"
    writer.write(head.encode() + raw)


def _event(writer: asyncio.StreamWriter, body: Any) -> None:
    data = b"data: " + msgspec.json.encode(body) + b"\n\n"
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """One that listens on a free port."""
    found = Provider()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, limit=2**24, backlog=4096)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        found.gate.set()
        server.close()
        for task in found.tasks:
            task.cancel()
        await asyncio.gather(*found.tasks, return_exceptions=True)
