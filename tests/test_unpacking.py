"""Packed bodies: right, cut, damaged, and far larger than they look."""

from __future__ import annotations

import gzip
import zlib

import pytest

from app.errors import UpstreamFailed
from app.unpacking import PIECE, unpacking

TEXT = b"torii " * 50_000


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def unpacked(encoding: str, packed: bytes) -> bytes:
    body = unpacking(encoding)
    whole = b"".join(body.feed(packed))
    body.end()
    return whole


@pytest.mark.parametrize("encoding", [None, "", "identity", " Identity , "])
def test_what_is_not_packed_stays(encoding: str | None) -> None:
    body = unpacking(encoding)
    assert [*body.feed(b"abc"), *body.feed(b"d")] == [b"abc", b"d"]
    body.end()


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(TEXT)),
        ("x-gzip", gzip.compress(TEXT)),
        ("GZIP", gzip.compress(TEXT)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", bare(TEXT)),
    ],
)
@pytest.mark.parametrize("size", [7, 1000, 10**6])
def test_packed_in_any_form_and_cut_anywhere(encoding: str, packed: bytes, size: int) -> None:
    body = unpacking(encoding)
    pieces = [piece for at in range(0, len(packed), size) for piece in body.feed(packed[at : at + size])]
    body.end()
    assert b"".join(pieces) == TEXT
    assert max(map(len, pieces)) <= PIECE


def test_a_bomb_comes_out_in_small_pieces() -> None:
    body = unpacking("gzip")
    pieces = body.feed(gzip.compress(bytes(50_000_000)))
    assert len(next(iter(pieces))) == PIECE


@pytest.mark.parametrize("packed", [b"no gzip at all", gzip.compress(TEXT)[:50] + b"x" * 50, zlib.compress(TEXT)[:-9]])
def test_what_is_damaged_or_cut_is_no_answer(packed: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        unpacked("gzip", packed)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
def test_other_packings_are_refused(encoding: str) -> None:
    with pytest.raises(UpstreamFailed, match="packed in a way that it was not asked for"):
        unpacking(encoding)
