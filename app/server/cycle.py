"""uvicorn's request-response cycle, extended to hand out a whole body and to send a response in one write."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from .http import BEGIN, WHOLE, Head


class Cycle(RequestResponseCycle):
    """Takes two more types of message: ``WHOLE``, a response with status, headers and body, and ``BEGIN``, a stream's
    head with its first piece."""

    def whole_body(self) -> bytes | None:
        """The request's body; None if it is incomplete, the caller has left, or 100 Continue is still to be sent."""
        if self.more_body or self.disconnected or self.waiting_for_100_continue:
            return None
        self.flow.resume_reading()
        body, self.body = bytes(self.body), bytearray()
        return body

    async def send(self, message: Any) -> None:
        if message["type"] not in (WHOLE, BEGIN):
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        lines = self._head(message["status"], message["headers"])
        if message["type"] == WHOLE:
            self._whole(lines, message["body"])
        else:
            self._begin(lines, message["body"])

    def _head(self, status: int, headers: Head) -> list[bytes]:
        lines = [STATUS_LINE[status]]
        if not self.keep_alive:  # sse-starlette sets keep-alive
            headers = [*(header for header in headers if header[0] != b"connection"), (b"connection", b"close")]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        self.waiting_for_100_continue = False
        self.response_started = True
        return lines

    def _whole(self, lines: list[bytes], body: bytes) -> None:
        """Send the response in one write; uvicorn would need two."""
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
        """Send the head and the first piece in one write; uvicorn sends the rest of the stream."""
        lines += (b"transfer-encoding: chunked\r\n\r\n%x\r\n" % len(first), first, b"\r\n")
        self.chunked_encoding = True
        self.transport.write(b"".join(lines))


class OldCycle(Cycle):
    """For HTTP/1.0, which has no chunked coding: a stream ends with its connection, and no connection is kept alive."""

    _streaming = False

    async def send(self, message: Any) -> None:
        if not self._streaming or self.response_complete:
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        self.transport.write(message["body"])
        if not message["more_body"]:
            self._end()

    def _begin(self, lines: list[bytes], first: bytes) -> None:
        self._streaming = True
        lines += (b"\r\n", first)
        self.transport.write(b"".join(lines))
