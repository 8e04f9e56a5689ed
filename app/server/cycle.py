"""A request and its answer on the wire: uvicorn's, which also gives a whole body and takes an answer in one go."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from .http import BEGIN, WHOLE, Head


class Cycle(RequestResponseCycle):
    """A message of type ``WHOLE`` is a whole answer, with status, headers and body; one of type ``BEGIN`` the head of a
    stream and its first piece."""

    def whole_body(self) -> bytes | None:
        """The request's body, where all of it has come."""
        if self.more_body or self.disconnected or self.waiting_for_100_continue:
            return None
        self.flow.resume_reading()
        body, self.body = bytes(self.body), bytearray()
        return body

    async def send(self, message: Any) -> None:
        if message["type"] not in (WHOLE, BEGIN):
            await super().send(message)
            return
        if not await self._writable():
            return
        lines = self._head(message["status"], message["headers"])
        if message["type"] == WHOLE:
            self._whole(lines, message["body"])
        else:
            self._begin(lines, message["body"])

    async def _writable(self) -> bool:
        """True once more may be written, False if the caller has left."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        return not self.disconnected

    def _head(self, status: int, headers: Head) -> list[bytes]:
        lines = [STATUS_LINE[status]]
        if not self.keep_alive:  # sse-starlette says otherwise
            headers = [*(header for header in headers if header[0] != b"connection"), (b"connection", b"close")]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        self.waiting_for_100_continue = False
        self.response_started = True
        return lines

    def _whole(self, lines: list[bytes], body: bytes) -> None:
        """One write, where uvicorn makes two of it."""
        lines += (b"\r\n", body)
        self.transport.write(b"".join(lines))
        self._end()

    def _end(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _begin(self, lines: list[bytes], first: bytes) -> None:
        """One write here too; the rest of the stream goes uvicorn's way."""
        lines += (b"transfer-encoding: chunked\r\n\r\n%x\r\n" % len(first), first, b"\r\n")
        self.chunked_encoding = True
        self.transport.write(b"".join(lines))


class OldCycle(Cycle):
    """For HTTP/1.0, which has no chunks: a stream ends where its connection does, and none is kept."""

    _streaming = False

    async def send(self, message: Any) -> None:
        if not self._streaming or self.response_complete:
            await super().send(message)
            return
        if not await self._writable():
            return
        self.transport.write(message["body"])
        if not message["more_body"]:
            self._end()

    def _begin(self, lines: list[bytes], first: bytes) -> None:
        self._streaming = True
        lines += (b"\r\n", first)
        self.transport.write(b"".join(lines))
