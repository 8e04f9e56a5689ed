"""Server-sent events, decoded and encoded, without I/O.

Lines end at CRLF, LF or CR and nowhere else: JavaScript's JSON.stringify leaves U+2028, U+2029 and U+0085 raw, so
``str.splitlines`` and the line iterators built on it cut a DeepSearch answer in two.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import UpstreamTooLarge

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class ServerEvent(NamedTuple):
    """``data``: the data lines joined by LF. ``event``: the event's name or ""."""

    data: bytes
    event: str = ""


class Decoder:
    """Decodes bytes, in pieces of any size, into events.

    ``limit`` bounds the bytes buffered for one event (default 8 MiB); more raises UpstreamTooLarge. Each byte is
    examined once, so an endless line costs memory up to the limit and never quadratic time. A body that is no event
    stream, such as JSON or HTML, comes out of ``end`` as a single event.
    """

    def __init__(self, limit: int = 8 * 1024 * 1024) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []  # of the unfinished line
        self._data: list[bytes] = []
        self._event = ""
        self._held = 0
        self._first = True
        self._open = True  # only white space so far: the body may still turn out to be no event stream
        self._foreign = False
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that ``chunk`` completes."""
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        lines = _LINE_END.split(chunk) if b"\r" in chunk else chunk.split(b"\n")
        rest = lines.pop()
        events: list[ServerEvent] = []
        for line in lines:
            if self._pieces:
                self._pieces.append(line)
                line = b"".join(self._pieces)
                self._pieces.clear()
            self._line(line, events)
        if rest:
            self._pieces.append(rest)
            self._hold(len(rest))
        return events

    def end(self) -> list[ServerEvent]:
        """The event that is pending when the upstream closes; its blank line may be missing."""
        events: list[ServerEvent] = []
        if self._pieces:
            self._line(b"".join(self._pieces), events)
            self._pieces.clear()
        self._dispatch(events)
        return events

    def _line(self, line: bytes, events: list[ServerEvent]) -> None:
        if self._open:
            line = self._begin(line)
        if self._foreign:
            self._data.append(line)
            self._hold(len(line) + 1)
        elif not line:
            self._dispatch(events)
        elif line.startswith(b"data:"):
            start = 6 if line[5:6] == b" " else 5
            self._data.append(line[start:])
            self._hold(len(line))
        elif line.startswith(b"event:"):
            self._event = line[6:].strip().decode("utf-8", "replace")
        elif line == b"data":
            self._data.append(b"")
            self._hold(len(line))

    def _begin(self, line: bytes) -> bytes:
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        sign = line.lstrip()[:1]
        self._open = not sign
        self._foreign = sign in (b"{", b"[", b"<")
        return line

    def _dispatch(self, events: list[ServerEvent]) -> None:
        if self._data:
            events.append(ServerEvent(b"\n".join(self._data), self._event))
            self._data.clear()
        self._event = ""
        self._held = 0

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held > self._limit:
            raise UpstreamTooLarge(f"the upstream sent an event of more than {self._limit} bytes")


def encode(data: bytes) -> bytes:
    """An event with ``data`` on one line. ``data`` must not contain a line end."""
    return b"data: " + data + b"\n\n"


DONE = encode(b"[DONE]")

# A comment, not an event: an event in its place breaks 9 of 22 clients. It is a single line: once a stream has `id:`
# lines, openai-python takes the blank line after a comment for the end of an event.
PING = b": ping\n"
