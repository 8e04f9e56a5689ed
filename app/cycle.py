"""A request and its answer on the wire: uvicorn's, which also takes a whole answer and gives a whole body."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from .exchange import WHOLE, Head


class Cycle(RequestResponseCycle):
    """An answer may come whole, in a message of type ``WHOLE`` with status, headers and body."""

    def whole_body(self) -> bytes | None:
        """The request's body, where all of it has come."""
        if self.more_body or self.disconnected or self.waiting_for_100_continue:
            return None
        self.flow.resume_reading()
        body, self.body = bytes(self.body), bytearray()
        return body

    async def send(self, message: Any) -> None:
        if message["type"] != WHOLE:
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if not self.disconnected:
            self._whole(message["status"], message["headers"], message["body"])

    def _whole(self, status: int, headers: Head, body: bytes) -> None:
        """One write, where uvicorn makes two of it."""
        lines = [STATUS_LINE[status]]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines += (b"\r\n", body)
        self.waiting_for_100_continue = False
        self.response_started = self.response_complete = True
        self.transport.write(b"".join(lines))
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
