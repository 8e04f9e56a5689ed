"""Packed bodies: answers of upstreams, which were asked not to pack, and requests of callers, who may.

However much is packed into one, it is unpacked in steps that are each soon done and give little.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from ...core.errors import InvalidRequest, ToriiError, UnsupportedMedia, UpstreamFailed

# The most that a step takes, and the most that it gives.
TAKEN = 16 * 1024
PIECE = 64 * 1024
GZIP, ZLIB, BARE = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class Plain:
    def feed(self, data: bytes) -> Iterable[bytes]:
        return (data,)

    def end(self) -> None:
        pass


class Inflate:
    """gzip and deflate, told apart by the first two bytes: both forms that a zlib stream is wrapped in, and the bare
    one, which some send. Where ``body`` is damaged, ``fault`` is raised."""

    def __init__(self, body: str, fault: type[ToriiError]) -> None:
        self._body = body
        self._fault = fault
        self._head = b""
        self._zlib: zlib._Decompress | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The contents of ``data``, in pieces of 64 kB at most."""
        return filter(None, self.steps(data))

    def steps(self, data: bytes) -> Iterator[bytes]:
        """The same, but a piece for each step: one that gives nothing is empty."""
        if self._zlib is None:
            data = self._head = self._head + data
            if len(data) < 2:
                return
            self._zlib = zlib.decompressobj(_wrapping(data))
        for at in range(0, len(data), TAKEN):
            rest, full = data[at : at + TAKEN], False
            while rest or full:  # where a piece was full, zlib may hold more of what it has taken
                piece, rest = self._step(self._zlib, rest)
                full = len(piece) == PIECE
                yield piece

    def end(self) -> None:
        """To be called when all is fed: raises where the end is missing."""
        if self._head and not (self._zlib and self._zlib.eof):
            raise self._fault(f"{self._body} is compressed and incomplete")

    def _step(self, inflate: zlib._Decompress, data: bytes) -> tuple[bytes, bytes]:
        """A piece, and what was not taken of ``data``."""
        try:
            piece = inflate.decompress(data, PIECE)
        except zlib.error:
            raise self._fault(f"{self._body} is not compressed as content-encoding says, or is damaged") from None
        if inflate.unused_data:
            raise self._fault(f"{self._body} is compressed and has data after its end")
        return piece, inflate.unconsumed_tail


def _wrapping(head: bytes) -> int:
    """By RFC 1952 and RFC 1950, whose second byte makes of both a multiple of 31."""
    if head[:2] == b"\x1f\x8b":
        return GZIP
    return ZLIB if head[0] & 15 == zlib.DEFLATED and int.from_bytes(head[:2], "big") % 31 == 0 else BARE


def unpacking(encoding: str | None) -> Plain | Inflate:
    """For an upstream's answer, by its header content-encoding. Raises UpstreamFailed for what no caller asks for."""
    codings = _codings(encoding or "")
    if not codings:
        return Plain()
    if codings[1:] or codings[0] not in _KNOWN:
        raise UpstreamFailed("the upstream's answer has an unsupported content-encoding")
    return Inflate("the upstream's answer", UpstreamFailed)


def packed(encoding: str) -> Inflate | None:
    """For a caller's body, by its header content-encoding; None where it is not packed. Raises UnsupportedMedia."""
    codings = _codings(encoding)
    if not codings:
        return None
    if codings[1:] or codings[0] not in _KNOWN:
        raise UnsupportedMedia("content-encoding must be gzip or deflate, applied once; or send the body uncompressed")
    return Inflate("the body", InvalidRequest)


_KNOWN = ("gzip", "x-gzip", "deflate")


def _codings(encoding: str) -> list[str]:
    """The codings in a header, without those that change nothing."""
    return [name for part in encoding.lower().split(",") if (name := part.strip()) not in ("", "identity")]
