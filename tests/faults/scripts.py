"""Faults of an upstream on the wire, as scripts for a ScriptedUpstream."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ..conftest import Script

DRIP_SECONDS = 0.05


def wire(*pieces: bytes | float | asyncio.Event, end: str = "fin") -> Script:
    """Exactly these bytes; a number is a pause in seconds, an event is awaited. Then ``end``:

    fin     the connection is closed
    reset   the connection is reset (SO_LINGER 0)
    open    the connection stays open for the next request
    hang    the connection stays open, and nothing more is sent
    """

    async def play(request: Any, writer: asyncio.StreamWriter) -> bool:
        for piece in pieces:
            if isinstance(piece, bytes):
                writer.write(piece)
                await writer.drain()
            elif isinstance(piece, asyncio.Event):
                await piece.wait()
            else:
                await asyncio.sleep(piece)
        return await ended(writer, end)

    return play


async def ended(writer: asyncio.StreamWriter, end: str) -> bool:
    if end == "reset":
        await asyncio.sleep(DRIP_SECONDS)  # lets the client read the data before the reset discards it
        reset(writer)
    elif end == "hang":
        await asyncio.Event().wait()
    return end == "open"


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset instead of a FIN."""
    reset_transport(writer.transport)


def reset_transport(transport: asyncio.WriteTransport) -> None:
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def endless(begin: bytes, pieces: Callable[[], Iterable[bytes]], *, every: float = 0.0) -> Script:
    """``begin``, then the pieces, one every ``every`` seconds, as long as the client reads."""

    async def play(request: Any, writer: asyncio.StreamWriter) -> bool:
        writer.write(begin)
        for piece in pieces():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every)
        return False

    return play


def forever(piece: bytes) -> Callable[[], Iterable[bytes]]:
    return lambda: itertools.repeat(piece)


def dripping(data: bytes, *, head: bytes = b"") -> Script:
    """``head`` at once, then one byte at a time."""
    return endless(head, lambda: (data[place : place + 1] for place in range(len(data))), every=DRIP_SECONDS)


def head(*lines: str, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """The head of an answer."""
    return "\r\n".join([f"HTTP/1.1 {status}", f"content-type: {kind}", *lines, "", ""]).encode()


def whole(body: bytes, *lines: str, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """A well-formed answer."""
    return head(f"content-length: {len(body)}", *lines, status=status, kind=kind) + body


def json_of(value: Any) -> bytes:
    return value if isinstance(value, bytes) else msgspec.json.encode(value)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n"


CHUNKED = "transfer-encoding: chunked"
LAST = b"0\r\n\r\n"
STREAM_HEAD = head(CHUNKED, kind="text/event-stream")


def hang(request: Any, writer: asyncio.StreamWriter) -> Any:
    """Takes the request and never answers."""
    return asyncio.Event().wait()


def sse(*events: Any) -> bytes:
    """Well-formed events; bytes are sent unchanged as an event's data."""
    return b"".join(b"data: " + json_of(event) + b"\n\n" for event in events)


def delta(content: str = "", finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk of a model that needs no translation."""
    choice = {"index": 0, "delta": {"content": content} if content else {}, "finish_reason": finish}
    return {"id": "u", "object": "chat.completion.chunk", "model": "up", "choices": [choice], **more}


def thought(text: str) -> dict[str, Any]:
    """A chunk of DeepSearch's thinking."""
    return {"id": "1", "choices": [{"index": 0, "delta": {"content": text, "type": "think"}, "finish_reason": None}]}


def answer(text: str, **more: Any) -> dict[str, Any]:
    """The last chunk of DeepSearch."""
    choice = {"index": 0, "delta": {"content": text, "type": "text"}, "finish_reason": "stop"}
    return {"id": "1", "choices": [choice], "usage": {"total_tokens": 9}, **more}


USAGE = {"id": "u", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}
DONE_MODEL = sse(b"[DONE]")
