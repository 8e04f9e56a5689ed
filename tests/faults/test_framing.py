"""Rows 48-51: the end of an answer, its compression, and its maximum size."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import msgspec
import pytest

from ..conftest import RunningGateway, Script, raw, replies, until
from .bench import (
    ANSWERED,
    BROKE_OFF,
    CHATS,
    DEEP,
    MALFORMED,
    SOON,
    VECTORS,
    Bench,
    asked,
    assert_booked,
    assert_booked_as,
    assert_failed,
    at_most_megabytes,
    at_once,
)
from .scripts import CHUNKED, LAST, chunk, dripping, endless, forever, head, whole, wire

BODY = msgspec.json.encode(VECTORS)
GOOD = replies(VECTORS)
EVIL = whole(msgspec.json.encode({**VECTORS, "model": "evil", "usage": {"total_tokens": 666}}))
HALF = BODY[: len(BODY) // 2]
CLOSE = "connection: close"


def length(size: int) -> str:
    return f"content-length: {size}"


# 48: the end of the answer.

CUT: dict[str, Script] = {
    "a length too long": raw(head(length(len(BODY) + 9)) + BODY),
    "a length too short": raw(head(length(len(BODY) - 9)) + BODY),
    "two lengths": raw(head(length(len(BODY)), length(len(BODY) - 9)) + BODY),
    "a list of lengths": raw(head(f"content-length: {len(BODY)}, {len(BODY) - 9}") + BODY),
    "a length below zero": raw(head(length(-1)) + BODY),
    "a length that is none": raw(head("content-length: many") + BODY),
    "a length in hexadecimal": raw(head(f"content-length: {len(BODY):#x}") + BODY),
    "a size that is none": raw(head(CHUNKED) + b"xyz\r\n" + BODY + b"\r\n" + LAST),
    "a size below zero": raw(head(CHUNKED) + b"-5\r\n" + BODY + b"\r\n" + LAST),
    "a size beyond all": raw(head(CHUNKED) + b"f" * 40 + b"\r\n" + BODY + b"\r\n" + LAST),
    "a size too small": raw(head(CHUNKED) + b"5\r\n" + BODY + b"\r\n" + LAST),
    "no last chunk": raw(head(CHUNKED) + chunk(BODY)),
    "half a chunk": raw(head(CHUNKED) + b"%x\r\n" % len(BODY) + HALF),
    "half a size": raw(head(CHUNKED) + chunk(HALF) + b"1"),
    "half the end": raw(head(CHUNKED) + chunk(BODY) + b"0\r\n"),
    "chunks that are none": raw(head(CHUNKED) + BODY),
    "an unknown coding": raw(head("transfer-encoding: rot13") + chunk(BODY) + LAST),
}


# Of these, the ones that merely ended too early.
ENDED = {"a length too long", "no last chunk", "half a chunk", "half a size", "half the end"}
# httpx's parser waits for the end of a chunk line that never comes.
ENDED_BY_HTTPX = {*ENDED, "chunks that are none"}


async def test_an_answer_without_a_right_end(bench: Bench, subtests: pytest.Subtests) -> None:
    """A pure call is retried once, on a new connection. Only an answer that ended too early is reported as broken
    off."""
    ended = ENDED_BY_HTTPX if bench.engine == "httpx" else ENDED
    async with bench.gateway() as gateway:
        for kind, script in CUT.items():
            with subtests.test(kind):
                bench.jina.seen.clear()
                bench.jina.plays(script)
                response = await asked(gateway)
                told = assert_failed(response, 502, "upstream_error")
                if kind != "a length too short":  # the shortened answer is complete, but not JSON
                    assert told == (BROKE_OFF if kind in ended else MALFORMED)
                assert len(bench.jina.seen) == 2
                await assert_booked_as(gateway, response, 502)
                bench.jina.plays(GOOD)
                assert (await asked(gateway)).json() == ANSWERED


READ_EITHER_WAY: dict[str, bytes] = {
    "the same length twice": head(length(len(BODY)), length(len(BODY))) + BODY,
    "a length and chunks": head(length(5), CHUNKED) + chunk(BODY) + LAST,
    "chunks twice": head(CHUNKED, CHUNKED) + chunk(BODY) + LAST,
    "no length": head(CLOSE) + BODY,
    "HTTP/1.0": head().replace(b"1.1", b"1.0", 1) + BODY,
    "an extension": head(CHUNKED) + b"%x;a=b\r\n" % len(BODY) + BODY + b"\r\n" + LAST,
    "trailers": head(CHUNKED) + chunk(BODY) + b"0\r\nx-trailer: y\r\n\r\n",
    "bare line feeds": head(length(len(BODY))).replace(b"\r\n", b"\n") + BODY,
}


async def test_an_odd_end_is_read_right_or_not_at_all(bench: Bench, subtests: pytest.Subtests) -> None:
    async with bench.gateway() as gateway:
        for kind, data in READ_EITHER_WAY.items():
            with subtests.test(kind):
                bench.jina.plays(raw(data))
                response = await asked(gateway)
                if response.status_code == 200:
                    assert response.json() == ANSWERED
                else:
                    assert_failed(response, 502, "upstream_error")


GLUED: dict[str, bytes] = {
    "behind a length": whole(BODY) + EVIL,
    "behind chunks": head(CHUNKED) + chunk(BODY) + LAST + EVIL,
    "behind a length too short": head(length(2)) + b"{}" + EVIL,
    "behind nothing": b"HTTP/1.1 204 No Content\r\n\r\n" + EVIL,
    "half of one": whole(BODY) + EVIL[:40],
    "behind an error": whole(b"{}", status="500 X") + EVIL,
    "nonsense": whole(BODY) + b"xyz",
    "behind a length and chunks": head(length(len(chunk(BODY) + LAST)), CHUNKED) + chunk(BODY) + LAST + EVIL,
}


def fresh(bench: Bench, calls: int) -> int:
    """The number of new connections for ``calls`` calls if none can be reused: httpx opens one per call."""
    return calls if bench.engine == "httpx" else 1


async def test_an_answer_glued_on_is_never_given_to_the_next(bench: Bench, subtests: pytest.Subtests) -> None:
    """Unrequested data makes its connection unusable: the next call uses another one."""
    async with bench.gateway(max_attempts=1) as gateway:
        for kind, data in GLUED.items():
            with subtests.test(kind):
                bench.jina.plays(wire(data, end="open"), GOOD)
                assert "666" not in (await asked(gateway)).text
                connections = len(bench.jina.readers)
                for _ in range(2):
                    response = await asked(gateway)
                    assert (response.status_code, response.json()) == (200, ANSWERED)
                assert len(bench.jina.readers) == connections + fresh(bench, 2)


async def test_an_answer_that_comes_unasked_is_never_given_to_the_next(bench: Bench) -> None:
    """As before, but the data arrives while the connection is idle."""
    more = asyncio.Event()
    bench.jina.plays(wire(whole(BODY), more, EVIL, end="open"), GOOD)
    async with bench.gateway(max_attempts=1) as gateway:
        assert (await asked(gateway)).json() == ANSWERED
        more.set()
        await asyncio.sleep(0.1)  # the connection is idle when the data arrives
        for _ in range(2):
            response = await asked(gateway)
            assert (response.status_code, response.json()) == (200, ANSWERED)
    assert len(bench.jina.readers) == 1 + fresh(bench, 2)


# 49: the body stops, or arrives one byte at a time.

SILENT: dict[str, Script] = {
    "silence in a length": wire(head(length(len(BODY))) + HALF, end="hang"),
    "silence in a chunk": wire(head(CHUNKED) + b"ff\r\n" + HALF, end="hang"),
    "silence between chunks": wire(head(CHUNKED) + chunk(HALF), end="hang"),
    "silence behind the head": wire(head(CHUNKED), end="hang"),
    "silence without a length": wire(head(CLOSE) + HALF, end="hang"),
    "dripping": dripping(BODY * 10, head=head(length(len(BODY) * 10))),
    "dripping chunks": endless(head(CHUNKED), forever(chunk(b" ")), every=0.05),
}
STOPS: dict[str, Script] = {
    "a FIN": wire(head(length(len(BODY))) + HALF),
    "a reset": wire(head(length(len(BODY))) + HALF, end="reset"),
    "a reset in a chunk": wire(head(CHUNKED) + b"ff\r\n" + HALF, end="reset"),
}


async def test_a_body_that_falls_silent(engine: str, subtests: pytest.Subtests) -> None:
    async def check(bench: Bench, gateway: RunningGateway, script: Script) -> None:
        await assert_stopped(bench, gateway, script, 504, "upstream_timeout")

    await at_once(SILENT, engine, lambda bench, _: bench.gateway(timeouts={"reply_seconds": SOON}), check, subtests)


@pytest.mark.parametrize("script", STOPS.values(), ids=STOPS)
async def test_a_body_that_stops(script: Script, bench: Bench) -> None:
    async with bench.gateway() as gateway:
        await assert_stopped(bench, gateway, script, 502, "upstream_error")


async def assert_stopped(bench: Bench, gateway: RunningGateway, script: Script, status: int, code: str) -> None:
    """Both attempts fail, and the next call succeeds."""
    bench.jina.plays(script)
    response = await asked(gateway)
    await assert_booked(gateway, status)
    assert_failed(response, status, code)
    assert len(bench.jina.seen) == 2
    bench.jina.plays(GOOD)
    assert (await asked(gateway)).json() == ANSWERED


# 50: compressed bodies.


def deflated(data: bytes, bits: int = 15) -> bytes:
    packer = zlib.compressobj(wbits=bits)
    return packer.compress(data) + packer.flush()


BROTLI = b"\x8b\x02\x80" + BODY[:6] + b"\x03"
ZSTD = b"\x28\xb5\x2f\xfd\x00\x58" + BODY
PACKED: dict[str, tuple[str, bytes]] = {
    "gzip": ("gzip", gzip.compress(BODY)),
    "GZIP": ("GZIP", gzip.compress(BODY)),
    "x-gzip": ("x-gzip", gzip.compress(BODY)),
    "two members": ("gzip", gzip.compress(HALF) + gzip.compress(BODY[len(HALF) :])),
    "deflate": ("deflate", deflated(BODY)),
    "deflate without a head": ("deflate", deflated(BODY, -15)),
    "identity": ("identity", BODY),
    "an unknown one": ("rot13", BODY),
    "gzip twice": ("gzip, gzip", gzip.compress(gzip.compress(BODY))),
    "deflate and gzip": ("deflate, gzip", gzip.compress(deflated(BODY))),
    "fifty times": (", ".join(["gzip"] * 50), gzip.compress(BODY)),
    "not packed": ("gzip", BODY),
    "cut before its sum": ("gzip", gzip.compress(BODY)[:-8]),
    "packed unsaid": ("identity", gzip.compress(BODY)),
}
SPOILT: dict[str, tuple[str, bytes]] = {
    "corrupt": ("gzip", gzip.compress(BODY)[:20] + b"\0\0\0" + gzip.compress(BODY)[23:]),
    "a wrong sum": ("gzip", gzip.compress(BODY)[:-8] + b"\0" * 8),
    "cut": ("gzip", gzip.compress(BODY)[:-20]),
    "cut deflate": ("deflate", deflated(BODY)[:-9]),
    "nothing": ("gzip", b""),
    "brotli": ("br", BROTLI),
    "zstd": ("zstd", ZSTD),
}


async def test_packed_bodies_that_nobody_asked_for(bench: Bench, subtests: pytest.Subtests) -> None:
    """The caller gets the correct data or an error."""
    async with bench.gateway() as gateway:
        for kind, (coding, data) in PACKED.items():
            with subtests.test(kind):
                bench.jina.plays(raw(whole(data, f"content-encoding: {coding}")))
                response = await asked(gateway)
                if response.status_code == 200:
                    assert response.json() == ANSWERED
                else:
                    assert_failed(response, 502, "upstream_error")
        for kind in ("gzip", "deflate", "identity"):
            with subtests.test(f"{kind} is read"):
                bench.jina.plays(raw(whole(PACKED[kind][1], f"content-encoding: {kind}")))
                assert (await asked(gateway)).json() == ANSWERED
    assert {seen.headers["accept-encoding"] for seen in bench.jina.seen} == {"identity"}


async def test_packed_bodies_that_cannot_be_unpacked(bench: Bench, subtests: pytest.Subtests) -> None:
    async with bench.gateway() as gateway:
        for kind, (coding, data) in SPOILT.items():
            with subtests.test(kind):
                bench.jina.seen.clear()
                bench.jina.plays(wire(whole(data, f"content-encoding: {coding}"), end="open"))
                response = await asked(gateway)
                assert_failed(response, 502, "upstream_error")
                assert len(bench.jina.seen) == 2
                await assert_booked_as(gateway, response, 502)


# 51: too large.


def bomb(coding: str) -> tuple[bytes, bytes]:
    """The start of 10 GB of spaces in 10 MB, and a block of 16 KB that can be repeated any number of times."""
    packer = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    begin = packer.compress(b" " * 16) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(b" " * 16 * 1024 * 1024) + packer.flush(zlib.Z_FULL_FLUSH)
    return begin, again


def bombing(coding: str, status: str = "200 OK", kind: str = "application/json") -> Script:
    begin, again = bomb(coding)
    top = head(CHUNKED, f"content-encoding: {coding}", status=status, kind=kind)
    return endless(top + chunk(begin), lambda: [chunk(again)] * 640)


FLOOD = chunk(b" " * 64 * 1024)
LARGE: dict[str, Script] = {
    "gzip of 10 GB": bombing("gzip"),
    "deflate of 10 GB": bombing("deflate"),
    "gzip of 10 GB as an error": bombing("gzip", "400 Bad Request"),
    "an endless answer": endless(head(CHUNKED), forever(FLOOD)),
    "an endless answer without a length": endless(head(CLOSE), forever(b" " * 65536)),
    "an endless error": endless(head(CHUNKED, status="500 X"), forever(FLOOD)),
    "an endless refusal": endless(head(CHUNKED, status="400 X"), forever(FLOOD)),
    "an endless redirect": endless(head(CHUNKED, "location: /", status="302 X"), forever(FLOOD)),
    "a length of a terabyte": endless(head(length(2**40)), forever(b" " * 65536)),
}


@pytest.mark.parametrize("script", LARGE.values(), ids=LARGE)
async def test_what_is_too_large(script: Script, bench: Bench) -> None:
    """The answer fails by size, not by time, in little more memory than the limit, and the call is not retried."""
    bench.jina.plays(script)
    async with bench.gateway(max_reply_megabytes=4) as gateway:
        with at_most_megabytes(100):
            response = await asked(gateway)
        await assert_booked(gateway, 502)
        assert_failed(response, 502, "upstream_too_large", should_retry=False)
        assert len(bench.jina.seen) == 1
        await until(lambda: not bench.jina.tasks)


async def test_an_answer_up_to_the_limit_passes(bench: Bench) -> None:
    body = msgspec.json.encode({**VECTORS, "pad": "x" * 3 * 1024 * 1024})
    bench.jina.plays(replies(body))
    async with bench.gateway(max_reply_megabytes=4) as gateway:
        assert (await asked(gateway)).json()["pad"] == "x" * 3 * 1024 * 1024


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
async def test_a_bomb_for_a_stream(kind: str, bench: Bench) -> None:
    bench.jina.plays(bombing("gzip", kind=kind))
    async with bench.gateway(max_reply_megabytes=4, max_event_megabytes=4) as gateway:
        with at_most_megabytes(100):
            response = await asked(gateway, CHATS, DEEP)
        await assert_booked(gateway, 502)
    assert_failed(response, 502, "upstream_too_large", should_retry=False)
    assert len(bench.jina.seen) == 1
