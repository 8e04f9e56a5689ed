"""Decompression of gzip- and deflate-encoded bodies: of callers, who may compress, and of upstreams that compress
although they are asked not to.

Each step is short and yields little data, so a decompression bomb can neither block the event loop nor fill the memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from ...core.errors import InvalidRequest, ToriiError, UnsupportedMedia, UpstreamFailed

# The most bytes that a step reads, and the most that it yields.
TAKEN = 16 * 1024
PIECE = 64 * 1024
GZIP, ZLIB, BARE = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class Plain:
    def feed(self, data: bytes) -> Iterable[bytes]:
        return (data,)

    def end(self) -> None:
        pass


PLAIN = Plain()


class Inflate:
    """Decompresses gzip, zlib and raw deflate (which some servers send), told apart by their first two bytes.

    ``body`` names the body in error messages; ``fault`` is the error that is raised for a damaged one.
    """

    def __init__(self, body: str, fault: type[ToriiError]) -> None:
        self._body = body
        self._fault = fault
        self._head = b""
        self._zlib: zlib._Decompress | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decompressed ``data``, in pieces of at most 64 kB."""
        return filter(None, self.steps(data))

    def steps(self, data: bytes) -> Iterator[bytes]:
        """As ``feed``, with one piece for each step, which may be empty."""
        if self._zlib is None:
            data = self._head = self._head + data
            if len(data) < 2:
                return
            self._zlib = zlib.decompressobj(_wrapping(data))
        for at in range(0, len(data), TAKEN):
            rest, full = data[at : at + TAKEN], False
            while rest or full:  # after a full piece, zlib may hold more output
                piece, rest = self._step(self._zlib, rest)
                full = len(piece) == PIECE
                yield piece

    def end(self) -> None:
        """To be called after the last ``feed``. Raises ``fault`` if the compressed data is incomplete."""
        if self._head and not (self._zlib and self._zlib.eof):
            raise self._fault(f"{self._body} is compressed and incomplete")

    def _step(self, inflate: zlib._Decompress, data: bytes) -> tuple[bytes, bytes]:
        """``(piece, rest)``: the next piece, and the part of ``data`` that was not read."""
        try:
            piece = inflate.decompress(data, PIECE)
        except zlib.error:
            raise self._fault(f"{self._body} is not compressed as content-encoding says, or is damaged") from None
        if inflate.unused_data:
            raise self._fault(f"{self._body} is compressed and has data after its end")
        return piece, inflate.unconsumed_tail


def _wrapping(head: bytes) -> int:
    """The format by its first two bytes: RFC 1952 for gzip; RFC 1950 for zlib, in which they are a multiple of 31."""
    if head[:2] == b"\x1f\x8b":
        return GZIP
    return ZLIB if head[0] & 15 == zlib.DEFLATED and int.from_bytes(head[:2], "big") % 31 == 0 else BARE


def unpacking(encoding: str | None) -> Plain | Inflate:
    """The decoder for an upstream's content-encoding. Raises UpstreamFailed for an unsupported one."""
    codings = _codings(encoding) if encoding else ()
    if not codings:
        return PLAIN
    if codings[1:] or codings[0] not in _KNOWN:
        raise UpstreamFailed("the upstream's answer has an unsupported content-encoding")
    return Inflate("the upstream's answer", UpstreamFailed)


def packed(encoding: str) -> Inflate | None:
    """The decoder for a caller's content-encoding; None if the body is not compressed. Raises UnsupportedMedia."""
    codings = _codings(encoding)
    if not codings:
        return None
    if codings[1:] or codings[0] not in _KNOWN:
        raise UnsupportedMedia("content-encoding must be gzip or deflate, applied once; or send the body uncompressed")
    return Inflate("the body", InvalidRequest)


_KNOWN = ("gzip", "x-gzip", "deflate")


def _codings(encoding: str) -> list[str]:
    """The codings in a header, without ``identity``."""
    return [name for part in encoding.lower().split(",") if (name := part.strip()) not in ("", "identity")]
