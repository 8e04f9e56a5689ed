"""Decompression of bodies: valid, truncated, corrupt, and far larger than they look."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest

from app.core.errors import InvalidRequest, UnsupportedMedia, UpstreamFailed
from app.upstreams.client.decompression import PIECE, TAKEN, packed, unpacking

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
@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
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


def test_a_step_takes_little_where_nothing_comes_out() -> None:
    """A megabyte of empty blocks."""
    body = packed("deflate")
    assert body is not None
    steps = list(body.steps(b"\0\0\0\xff\xff" * 200_000))
    assert steps == [b""] * (1_000_000 // TAKEN + 1)
    with pytest.raises(InvalidRequest, match="the body is compressed and incomplete"):
        body.end()


@pytest.mark.parametrize("more", [0, 1, 100, 257, 258, 259, 1000])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, bare])
def test_what_zlib_holds_back_at_the_end_of_a_full_piece_comes_too(more: int, pack: Callable[[bytes], bytes]) -> None:
    for size in (PIECE, 2 * PIECE):
        text = bytes(size + more)
        assert unpacked("deflate", pack(text)) == text


@pytest.mark.parametrize(
    "damaged",
    [
        b"no gzip at all",
        gzip.compress(TEXT)[:50] + b"x" * 50,
        zlib.compress(TEXT)[:-9],
        b"\x1f",
        gzip.compress(TEXT) + b"x",
        gzip.compress(TEXT) * 2,
    ],
)
def test_what_is_damaged_or_cut_is_no_answer(damaged: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        unpacked("gzip", damaged)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
def test_other_packings_are_refused(encoding: str) -> None:
    with pytest.raises(UpstreamFailed, match="an unsupported content-encoding"):
        unpacking(encoding)


@pytest.mark.parametrize("encoding", ["", " ", "identity", ",", "IDENTITY, identity"])
def test_a_callers_body_that_is_not_packed(encoding: str) -> None:
    assert packed(encoding) is None


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "gzip, deflate", "zstd", "gzip;q=1", "*", "gz\xefp"])
def test_a_callers_packings_that_are_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedMedia, match="must be gzip or deflate, applied once"):
        packed(encoding)
