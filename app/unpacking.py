"""Bodies that an upstream has packed although it was asked not to. Never more of one at a time than it can hold."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from .errors import UpstreamFailed

PIECE = 64 * 1024
# Both forms that a zlib stream is wrapped in, told apart by their first bytes; and the bare one, which some send.
WRAPPED = zlib.MAX_WBITS | 32
BARE = -zlib.MAX_WBITS


class Plain:
    def feed(self, data: bytes) -> Iterable[bytes]:
        return (data,)

    def end(self) -> None:
        pass


class Inflate:
    """gzip and deflate, in pieces of 64 kB at most whatever they were packed into."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(WRAPPED)
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What ``data`` holds. Raises UpstreamFailed where it is damaged."""
        while data:
            piece = self._piece(data)
            data = self._zlib.unconsumed_tail
            if piece:
                yield piece

    def end(self) -> None:
        """Raises UpstreamFailed where the end is missing."""
        if self._begun and not self._zlib.eof:
            raise UpstreamFailed("the upstream's answer is packed and its end is missing")

    def _piece(self, data: bytes) -> bytes:
        try:
            piece = self._zlib.decompress(data, PIECE)
        except zlib.error:
            if self._begun:
                raise UpstreamFailed("the upstream's answer cannot be unpacked") from None
            self._begun = True
            self._zlib = zlib.decompressobj(BARE)
            return self._piece(data)
        self._begun = True
        return piece


def unpacking(encoding: str | None) -> Plain | Inflate:
    """By the header content-encoding. Raises UpstreamFailed for what no caller of ours asks for."""
    named = [name for part in (encoding or "").lower().split(",") if (name := part.strip()) not in ("", "identity")]
    if not named:
        return Plain()
    if len(named) == 1 and named[0] in ("gzip", "x-gzip", "deflate"):
        return Inflate()
    raise UpstreamFailed("the upstream's answer is packed in a way that it was not asked for")
