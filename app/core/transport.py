"""A transport that coalesces all writes of one event-loop iteration into one."""

from __future__ import annotations

import asyncio
from typing import Any


class CoalescingTransport:
    """Collects the data written during an event-loop iteration, and writes it at the iteration's end.

    Each write wakes the reader at the other end, and waking costs more than the write. If every call wrote by itself,
    the reader would fall asleep and be woken between two calls of the same iteration.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._pieces.append(data)
        if len(self._pieces) == 1:
            self._loop.call_soon(self._flush)

    def write_eof(self) -> None:
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self._pieces)) + self._transport.get_write_buffer_size()

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():
            self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def __getattr__(self, name: str) -> Any:
        """All other attributes are those of the wrapped transport."""
        return getattr(self._transport, name)
