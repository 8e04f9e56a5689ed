"""The HTTP engines over raw sockets: valid answers, reused connections, leftovers."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from math import inf
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from app.core.errors import Overloaded, UpstreamBroken, UpstreamUnreachable
from app.core.types import Request
from app.upstreams.client import BeforeSend, Engine, Wire, engine, nothing, origin
from app.upstreams.client.base import unreachable
from app.upstreams.client.connection import WAITING_BYTES, HttptoolsAnswer
from app.upstreams.client.dialing import dial, race
from app.upstreams.client.httptools import HttptoolsEngine
from app.upstreams.client.origin import idle_seconds

from ..conftest import PATIENCE, ScriptedUpstream, raw, replies, serving, until
from ..faults.bench import descriptors
from ..faults.scripts import reset, wire
from ..ports import closed_port, full_port

BOTH = ("httptools", "httpx")
SOON = 0.5  # a deadline in seconds that will be reached, after other steps
OK = b"HTTP/1.1 200 OK\r\n"
ANSWER = OK + b"content-length: 2\r\n\r\n{}"


def request(url: str, body: bytes = b"{}", *, once: bool = False, **headers: str) -> Request:
    return Request(f"{url}/v1/x", headers, body, once)


@asynccontextmanager
async def opened(name: str = "httptools", **wire: Any) -> AsyncIterator[Engine]:
    made = engine(name, Wire("torii-test", **wire))
    try:
        yield made
    finally:
        await made.aclose()


async def asked(
    made: Engine, url: str, body: bytes = b"{}", *, once: bool = False, before_send: BeforeSend = nothing
) -> tuple[int, bytes]:
    """The status and the whole body."""
    async with asyncio.timeout(PATIENCE):
        answer = await made.open(request(url, body, once=once), before_send)
        try:
            whole = b""
            while data := await answer.chunk():
                whole += data
            return answer.status, whole
        finally:
            await answer.aclose()


@pytest.fixture(params=BOTH)
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


# Requests.


async def test_a_request_is_exactly_this(name: str) -> None:
    got = bytearray()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.extend(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(3))
        writer.write(ANSWER)
        writer.close()

    async with serving(take) as url, opened(name) as made:
        answer = await made.open(request(url, b"[1]", authorization="Bearer k"))
        await answer.aclose()
    head, _, body = bytes(got).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    expected = {f"host: {url[7:]}", "user-agent: torii-test", "accept-encoding: identity", "authorization: Bearer k"}
    expected |= {"content-length: 3", *(["connection: close", "accept: */*"] if name == "httpx" else [])}
    assert (first, body) == ("POST /v1/x HTTP/1.1", b"[1]")
    assert {line.lower() for line in lines} == {line.lower() for line in expected}


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "a\0b"])
async def test_a_header_stays_in_its_line(name: str, value: str, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies({}))
    async with opened(name) as made:
        with pytest.raises(UpstreamUnreachable):
            await made.open(request(upstream.url, authorization=value))
    assert upstream.seen == []


# Valid answers.

READ: dict[str, tuple[bytes, int, bytes]] = {
    "an interim one before it": (b"HTTP/1.1 103 Early\r\ncontent-encoding: gzip\r\n\r\n" + ANSWER, 200, b"{}"),
    "interim ones with 100 headers each": (
        3 * (b"HTTP/1.1 103 Early\r\n" + 100 * b"content-encoding: gzip\r\n" + b"\r\n")
        + (OK + b"content-length: 2\r\n" + 99 * b"x: y\r\n" + b"\r\n{}"),
        200,
        b"{}",
    ),
    "no reason": (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\n{}", 200, b"{}"),
    "an empty header": (OK + b"x-empty:\r\ncontent-length: 2\r\n\r\n{}", 200, b"{}"),
    "names in capitals": (OK + b"CONTENT-LENGTH: 2\r\n\r\n{}", 200, b"{}"),
    "204 with a length": (b"HTTP/1.1 204 No\r\ncontent-length: 2\r\n\r\n", 204, b""),
    "304 with a length": (b"HTTP/1.1 304 No\r\ncontent-length: 2\r\n\r\n", 304, b""),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\n{}", 200, b"{}"),
    "to the end of the connection": (OK + b"\r\n{}", 200, b"{}"),
    "nothing to the end of the connection": (OK + b"\r\n", 200, b""),
    "no length, and close": (OK + b"connection: close\r\n\r\n{}", 200, b"{}"),
    "a length and close": (OK + b"connection: close\r\ncontent-length: 2\r\n\r\n{}", 200, b"{}"),
    "chunks": (OK + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", 200, b"{}"),
    "chunks with an extension": (OK + b"transfer-encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n", 200, b"{}"),
    "a trailer": (
        OK + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\ncontent-encoding: gzip\r\n\r\n",
        200,
        b"{}",
    ),
    "an upgrade that nobody asked for": (OK + b"upgrade: h2c\r\ncontent-length: 2\r\n\r\n{}", 200, b"{}"),
}


@pytest.mark.parametrize(("data", "status", "body"), READ.values(), ids=READ)
async def test_it_is_read_right(name: str, data: bytes, status: int, body: bytes, upstream: ScriptedUpstream) -> None:
    """In one piece and byte by byte. No header is taken from interim answers or trailers."""
    upstream.plays(raw(data), in_bytes(data))
    for _ in range(2):
        async with opened(name) as made:
            answer = await made.open(request(upstream.url))
            got = [answer.status, answer.header("content-encoding"), answer.header("x-none")]
            whole = b"".join([piece async for piece in pieces(answer)])
            assert (got, whole) == ([status, None, None], body)


BROKEN: dict[str, bytes] = {
    "a folded header": OK + b"x-long: a\r\n b\r\ncontent-length: 2\r\n\r\n{}",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n{}",
    "another version": b"HTTP/3.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "a NUL": OK + b"x: a\0b\r\ncontent-length: 2\r\n\r\n{}",
    "a bare carriage return": OK + b"x: a\rb\r\ncontent-length: 2\r\n\r\n{}",
    "a space in a name": OK + b"x y: a\r\ncontent-length: 2\r\n\r\n{}",
    "a status of two digits": b"HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\n{}",
    "lower case": b"http/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "half a head": OK + b"content-length: 2\r\n",
    "nothing": b"",
    "less than its length": OK + b"content-length: 3\r\n\r\n{}",
    "no last chunk": OK + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
    "chunks within another coding": OK + b"transfer-encoding: chunked, gzip\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two lengths": OK + b"content-length: 2\r\ncontent-length: 1\r\n\r\n{}",
    "a chunk below zero": OK + b"transfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
}
# h11, httpx's parser, accepts these as intended.
TAKEN_BY_HTTPX = {"a folded header", "another version", "chunks within another coding"}


@pytest.mark.parametrize("kind", BROKEN)
async def test_it_is_no_answer(name: str, kind: str, upstream: ScriptedUpstream) -> None:
    upstream.plays(raw(BROKEN[kind]), in_bytes(BROKEN[kind]))
    async with opened(name) as made:
        for _ in range(2):
            if name == "httpx" and kind in TAKEN_BY_HTTPX:
                try:
                    await asked(made, upstream.url)
                except UpstreamBroken:
                    continue
            else:
                with pytest.raises(UpstreamBroken):
                    await asked(made, upstream.url)
    await until(lambda: not upstream.tasks)


# The limit of a head's size.


def headed(size: int) -> bytes:
    """An answer whose status line and headers have ``size`` bytes, including the empty line."""
    return OK + b"content-length: 2\r\nx: " + b"y" * (size - len(ANSWER) - 3) + b"\r\n\r\n{}"


HEAD = 64 * 1024
BODY = bytes(300_000)
LARGE_BODY = OK + b"content-length: %d\r\n" % len(BODY)


def in_pieces(data: bytes) -> Callable[..., Any]:
    return wire(*[data[place : place + 1000] for place in range(0, len(data), 1000)])


@pytest.mark.parametrize("sent", [raw, in_pieces])
async def test_a_head_of_64_kb_is_read(name: str, sent: Any, upstream: ScriptedUpstream) -> None:
    heads = {
        headed(HEAD): b"{}",
        LARGE_BODY + b"\r\n" + BODY: BODY,
        b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + LARGE_BODY + b"\r\n" + BODY: BODY,
        OK + b"x: y\r\n" * 99 + b"content-length: 2\r\n\r\n{}": b"{}",
    }
    async with opened(name) as made:
        for data, body in heads.items():
            upstream.plays(sent(data))
            assert await asked(made, upstream.url) == (200, body)


@pytest.mark.parametrize("sent", [raw, in_pieces])
async def test_a_larger_head_is_not_read(name: str, sent: Any, upstream: ScriptedUpstream) -> None:
    """In one piece with its body, or in many."""
    large, many = (
        "the head of the upstream's answer is larger than 64 kB",
        "the upstream's answer has more than 100 headers",
    )
    heads = {
        headed(HEAD + 1): large,
        headed(HEAD + 3) + BODY: large,
        headed(100_000): large,
        headed(250_000): large,
        b"HTTP/1.1 200 " + b"y" * 100_000 + b"\r\ncontent-length: 2\r\n\r\n{}": large,
        OK + b"x: y\r\n" * 100 + b"content-length: 2\r\n\r\n{}": many,
        OK + b"x: y\r\n" * 50_000 + b"\r\n{}": large if name == "httpx" else many,
    }
    if name == "httptools":  # httpx does not buffer interim answers
        heads[b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + headed(HEAD)] = large
        heads[b"HTTP/1.1 102 Processing\r\n\r\n" * 5000 + ANSWER] = large
    async with opened(name) as made:
        for data, words in heads.items():
            upstream.plays(sent(data))
            with pytest.raises(UpstreamBroken) as refusal:
                await asked(made, upstream.url)
            assert refusal.value.message == words, len(data)
    await until(lambda: not upstream.tasks)


# Reuse of connections.


async def test_a_connection_is_used_again_only_where_both_sides_may(upstream: ScriptedUpstream) -> None:
    again = {
        ANSWER: True,
        ANSWER + b"\r\n": True,
        OK + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n": True,
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\n{}": True,
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}": False,
        OK + b"connection: keep-alive, close\r\ncontent-length: 2\r\n\r\n{}": False,
        OK + b"keep-alive: timeout=60\r\ncontent-length: 2\r\n\r\n{}": True,
        OK + b"keep-alive: timeout=0\r\ncontent-length: 2\r\n\r\n{}": False,
        OK + b"keep-alive: timeout=soon\r\ncontent-length: 2\r\n\r\n{}": True,
        OK + b"connection: close\r\ncontent-length: 2\r\n\r\n{}": False,
        ANSWER + b"H": False,
        ANSWER + ANSWER: False,
        b"HTTP/1.1 204 No\r\n\r\n{}": False,
    }
    for data, expected in again.items():
        upstream.plays(open_after(data))
        upstream.readers.clear()
        async with opened() as made:
            for _ in range(2):
                assert (await asked(made, upstream.url))[1] in (b"{}", b"")
        assert len(upstream.readers) == (1 if expected else 2), data


@pytest.mark.parametrize("evil", [ANSWER.replace(b"{}", b"[]"), b"H", b""], ids=["an answer", "a byte", "its end"])
async def test_what_came_unseen_on_an_idle_connection_spoils_it(evil: bytes) -> None:
    """The data is only in the system's buffer: the loop has had no chance to read it, since all of this happens in
    one step."""
    server = Blocking()
    async with opened() as made:
        with server:
            assert await asked(made, server.url) == (200, b"{}")
            server.sends(0, evil)
            assert await asked(made, server.url) == (200, b"{}")
            assert len(server.taken) == 2


async def test_a_connection_that_was_idle_for_long_is_closed(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a timer, without another call."""
    upstream.plays(replies({}))
    async with opened() as made:
        assert isinstance(made, HttptoolsEngine)
        await asked(made, upstream.url)
        monkeypatch.setattr(origin, "IDLE_SECONDS", 0.05)
        await asked(made, upstream.url)
        assert len(upstream.readers) == 1
        await upstream.gone()
        await until(lambda: not made._open)
        [place] = made._origins.values()
        assert (place.idle, place.due, place._timer) == ({}, inf, None)
        await asked(made, upstream.url)
        assert len(upstream.readers) == 2


async def test_the_timer_of_idle_connections_is_not_set_for_each_call(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies({}))
    async with opened() as made:
        assert isinstance(made, HttptoolsEngine)
        await asked(made, upstream.url)
        [place] = made._origins.values()
        timer = place._timer
        assert timer is not None
        assert 10 < place.due - time.monotonic() <= 20
        for _ in range(3):
            await asked(made, upstream.url)
        assert place._timer is timer
        upstream.plays(replies({}, keep_alive="timeout=5, max=100"))
        await asked(made, upstream.url)
        assert place._timer is not timer
        assert 0 < place.due - time.monotonic() <= 4
        assert len(upstream.readers) == 1
    assert place.due == inf
    assert place._timer is None


class Idling:
    """A connection that counts how often its end is looked at."""

    looks = 0

    def __init__(self, until: float, ended: list[float]) -> None:
        self._until = until
        self._ended = ended

    @property
    def idle_until(self) -> float:
        Idling.looks += 1
        return self._until

    @idle_until.setter
    def idle_until(self, until: float) -> None:
        self._until = until

    def silent(self) -> bool:
        return True

    def abort(self) -> None:
        self._ended.append(time.monotonic() - self._until)
        del PLACE.idle[self]


PLACE: origin.Origin[Idling] = origin.Origin("127.0.0.1", 9, False)


async def test_many_idle_connections_are_looked_at_a_few_times_in_all() -> None:
    """Each DeepSearch call leaves an idle connection. With a look at all for each that ends, 200 took 20,000 looks."""
    ended: list[float] = []
    now = time.monotonic()
    for number in range(200):
        PLACE.keep(Idling(now + 0.1 + number / 1000, ended))
    Idling.looks = 0
    await until(lambda: len(ended) == 200)
    assert Idling.looks < 2000
    assert min(ended) >= 0
    assert not PLACE.idle
    PLACE.stop()


async def test_a_connection_is_closed_before_its_upstream_does(upstream: ScriptedUpstream) -> None:
    """By the timeout that the upstream states, of which half is used if it is one second. Other connections stay
    open."""
    upstream.plays(replies({}, keep_alive="timeout=1"), replies({}))
    async with opened() as made:
        assert isinstance(made, HttptoolsEngine)
        began = time.monotonic()
        await asyncio.gather(asked(made, upstream.url), asked(made, upstream.url))
        await upstream.gone()
        assert time.monotonic() - began > 0.45
        assert len(upstream.readers) == 2
        [place] = made._origins.values()
        assert (len(made._open), len(place.idle)) == (1, 1)
        assert place.due - time.monotonic() > 5


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (None, 20),
        (b"timeout=5", 4),
        (b"timeout=5, max=1000", 4),
        (b"max=1000,timeout=5", 4),
        (b"Timeout = 5", 4),
        (b'timeout="5"', 4),
        (b"timeout=2", 1),
        (b"timeout=1", 0.5),
        (b"timeout=0", 0),
        (b"timeout=600", 20),
        (b"timeout=999999999", 20),
        (b"timeout=" + b"9" * 5000, 20),
        (b"timeout=-1", 20),
        (b"timeout=1.5", 20),
        (b"timeout=5s", 20),
        (b"timeout=", 20),
        (b"timeout=soon", 20),
        (b"timeout", 20),
        (b"notimeout=5", 20),
        (b"timeout=\xb2", 20),
        (b"5", 20),
        (b"", 20),
    ],
)
def test_how_long_a_connection_may_be_idle(said: bytes | None, seconds: float) -> None:
    assert idle_seconds(said) == seconds


@pytest.mark.parametrize("end", ["fin", "reset"])
async def test_an_idle_connection_that_its_upstream_ends_is_dropped_at_once(
    end: str, upstream: ScriptedUpstream
) -> None:
    closing = asyncio.Event()
    upstream.plays(wire(ANSWER, closing, end=end))
    async with opened() as made:
        assert isinstance(made, HttptoolsEngine)
        await asked(made, upstream.url)
        assert len(made._open) == 1
        closing.set()
        await until(lambda: not made._open)


# A kept connection that ends as it is reused.


# Replies of servers to a connection that was idle for too long.
IDLE: dict[str, bytes] = {
    "408, as Apache says it": b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlate",
    "408, as Node says it": b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n",
    "408, as HAProxy says it": b"HTTP/1.0 408 Request Time-out\r\nConnection: close\r\n\r\n<html>late</html>\n",
    "408 in HTTP/1.0": b"HTTP/1.0 408 Request Timeout\r\nContent-Length: 4\r\n\r\nlate",
    "408, of which the half": b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\nConnection: close\r\n\r\nla",
}
# Replies to the request itself: the connection stays open, or an interim answer shows that the request was read.
OWN_408: dict[str, bytes] = {
    "that stays": b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 4\r\n\r\nlate",
    "after an interim head": b"HTTP/1.1 102 Processing\r\n\r\n" + IDLE["408, as Apache says it"],
}


@dataclass
class Forgetful:
    """Answers the first request of each connection, and ends the connection at the second, depending on ``last``:

    fin, reset    without sending a byte
    half closed   without sending a byte, while still reading
    a byte        after the first byte of an answer
    one of IDLE   after this answer, in two pieces
    """

    last: str
    connections: int = 0
    bodies: list[bytes] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        for answer in (ANSWER, b"H" if self.last == "a byte" else IDLE.get(self.last, b"")):
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            self.bodies.append(await reader.readexactly(size))
            writer.write(answer[:20])
            await asyncio.sleep(0)
            writer.write(answer[20:])
        if self.last == "reset":
            reset(writer)
        elif self.last == "half closed":
            writer.write_eof()
            await reader.read()


@pytest.mark.parametrize("end", ["fin", "reset", "half closed", *IDLE])
@pytest.mark.parametrize("size", [2, 4_000_000])
async def test_a_request_that_met_the_end_of_a_kept_connection_is_written_once_more(end: str, size: int) -> None:
    """On a new connection even if another one is idle, which may be as stale. Each write is reported."""
    server = Forgetful(end)
    told: list[int] = []
    async with serving(server) as url, opened() as made:
        for body in (b"1" * size, b"2" * size):
            ends = await asyncio.gather(*[asked(made, url, body, before_send=lambda: told.append(1)) for _ in range(2)])
            assert ends == [(200, b"{}")] * 2
    assert (len(told), server.connections) == (6, 4)
    assert server.bodies.count(b"1" * size) == 2
    assert server.bodies.count(b"2" * size) == 4


@pytest.mark.parametrize("said", OWN_408.values(), ids=OWN_408)
async def test_a_408_of_the_request_itself_is_its_answer(said: bytes, upstream: ScriptedUpstream) -> None:
    upstream.plays(open_after(ANSWER), open_after(said))
    async with opened() as made:
        assert await asked(made, upstream.url) == (200, b"{}")
        assert await asked(made, upstream.url) == (408, b"late")
    assert (len(upstream.seen), len(upstream.readers)) == (2, 1)


async def test_a_408_on_a_new_connection_is_an_answer(name: str, upstream: ScriptedUpstream) -> None:
    """Also if the request was sent again after a failure on a kept connection."""
    said = IDLE["408, as Apache says it"]
    upstream.plays(raw(said), open_after(ANSWER), raw(said), raw(said))
    async with opened(name) as made:
        ends = [await asked(made, upstream.url) for _ in range(3)]
    assert ends == [(408, b"late"), (200, b"{}"), (408, b"late")]
    assert len(upstream.seen) == (4 if name == "httptools" else 3)


async def test_nothing_is_written_if_its_caller_says_no_as_it_is_about_to_go(upstream: ScriptedUpstream) -> None:
    """Neither on a kept connection nor on a new one; the connection is closed."""

    def refuses() -> None:
        raise UpstreamBroken("no")

    upstream.plays(replies({}))
    async with opened() as made:
        for seen in (0, 1):
            with pytest.raises(UpstreamBroken, match="no"):
                await asked(made, upstream.url, before_send=refuses)
            assert len(upstream.seen) == seen
            await until(lambda: all(reader.at_eof() for reader in upstream.readers))
            await asked(made, upstream.url)


async def test_it_is_written_no_third_time(upstream: ScriptedUpstream) -> None:
    upstream.plays(open_after(ANSWER), wire())
    async with opened() as made:
        assert await asked(made, upstream.url) == (200, b"{}")
        with pytest.raises(UpstreamBroken, match="closed the connection early"):
            await asked(made, upstream.url)
    assert (len(upstream.seen), len(upstream.readers)) == (3, 2)


async def test_it_is_not_written_again_where_an_answer_had_begun() -> None:
    server = Forgetful("a byte")
    async with serving(server) as url, opened() as made:
        assert await asked(made, url) == (200, b"{}")
        with pytest.raises(UpstreamBroken, match="closed the connection early"):
            await asked(made, url)
    assert (server.connections, len(server.bodies)) == (1, 2)


async def test_it_is_not_written_again_where_nobody_is_there_any_more() -> None:
    """The first write is reported, since the request may have been read."""
    server = Forgetful("fin")
    told: list[int] = []
    async with opened() as made:
        async with serving(server) as url:
            assert await asked(made, url) == (200, b"{}")
            made._connect = gone  # type: ignore[attr-defined]
            with pytest.raises(UpstreamUnreachable):
                await asked(made, url, before_send=lambda: told.append(1))
    assert (told, len(server.bodies)) == ([1], 2)


async def test_what_is_sent_once_rides_no_kept_connection(upstream: ScriptedUpstream) -> None:
    """However briefly it was idle. The call's own connection is kept for others."""
    upstream.plays(replies({}))
    async with opened() as made:
        await asked(made, upstream.url)
        await asked(made, upstream.url, once=True)
        assert len(upstream.readers) == 2
        await asked(made, upstream.url)
        assert len(upstream.readers) == 2
        upstream.plays(wire())
        with pytest.raises(UpstreamBroken):
            await asked(made, upstream.url, once=True)
    assert (len(upstream.seen), len(upstream.readers)) == (4, 3)


async def test_a_connection_with_a_request_still_on_it_is_not_used_again() -> None:
    """The upstream refuses a body before reading it, and keeps the connection open."""
    read: list[int] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        read.append(0)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Large\r\ncontent-length: 2\r\n\r\n{}")
        await asyncio.Event().wait()

    async with serving(refuse) as url, opened() as made:
        assert await asked(made, url, bytes(16 * 1024 * 1024)) == (413, b"{}")
        assert await asked(made, url) == (413, b"{}")
    assert len(read) == 2


async def test_a_connection_that_closes_as_it_is_made_is_not_waited_on() -> None:
    async with serving(lambda reader, writer: asyncio.sleep(0)) as url, opened() as made:
        assert isinstance(made, HttptoolsEngine)
        origin, _ = made._head(f"{url}/v1/x")
        connection = await made._connect(origin)
        await until(lambda: not made._open)
        sent: list[int] = []
        with pytest.raises(UpstreamUnreachable):
            await asyncio.wait_for(connection.exchange(b"POST", lambda: sent.append(1)), PATIENCE)
        assert sent == []


async def test_it_is_told_when_a_request_begins_to_go_out(name: str, upstream: ScriptedUpstream) -> None:
    """Once per request, before the upstream can have received it; on a kept connection too."""
    upstream.plays(replies({}))
    seen: list[int] = []
    async with opened(name) as made:
        for count in (1, 2):
            answer = await made.open(request(upstream.url), lambda: seen.append(len(upstream.seen)))
            assert len(upstream.seen) == count
            while await answer.chunk():
                pass
            await answer.aclose()
    assert seen == [0, 1]


@pytest.mark.parametrize("end", ["refused", "gives up", "no TLS"])
async def test_nothing_goes_out_where_no_connection_is_made(name: str, end: str, upstream: ScriptedUpstream) -> None:
    def going() -> None:
        raise AssertionError

    with closed_port() as nobody, full_port() as full:
        urls = {"refused": nobody, "gives up": full}
        url = urls.get(end) or upstream.url.replace("http", "https")
        upstream.plays(raw(b"HTTP/1.1 400 This is no TLS\r\n\r\n"))
        async with opened(name, connect=0.1 if end == "gives up" else 5.0) as made:
            with pytest.raises(UpstreamUnreachable) as refusal:
                await made.open(request(url), going)
    reasons = {"refused": "connection refused", "gives up": "connect timeout"}
    assert refusal.value.reason == reasons.get(end, refusal.value.reason)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (socket.gaierror(), "DNS lookup failed"),
        (ssl.SSLCertVerificationError(), "the certificate is not trusted"),
        (ssl.SSLError(), "TLS handshake failed"),
        (OSError(), "network unreachable"),
        (ValueError(), None),
    ],
)
def test_the_reason_is_found_under_what_the_library_makes_of_it(error: Exception, reason: str | None) -> None:
    outer = RuntimeError()
    outer.__cause__ = error
    failure = unreachable(outer)
    assert (type(failure), failure.reason) == (UpstreamUnreachable, reason)


@pytest.mark.parametrize(("number", "whose"), [(errno.EMFILE, "process"), (errno.ENFILE, "machine")])
def test_a_want_of_descriptors_is_the_gateways_own(number: int, whose: str) -> None:
    """Also as one of several causes, for example for a host with several addresses."""
    outer = RuntimeError()
    outer.__cause__ = ExceptionGroup("all of them", [OSError(errno.ECONNREFUSED, ""), OSError(number, "")])
    failure = unreachable(outer)
    assert (type(failure), failure.reason) == (Overloaded, f"this {whose} is out of file descriptors")
    assert failure.headers() == {"retry-after": "1", "x-should-retry": "true"}


# In a process of its own, since descriptors in this one may be freed at any time.
WITHOUT_DESCRIPTORS = """
import asyncio, contextlib, os, resource, socket, sys
from app.upstreams import client as engines
from app.upstreams.client.base import Wire, unreachable
from app.core.errors import Overloaded
from app.core.types import Request

def sockets():
    numbers = [number for number in os.listdir("/dev/fd") if os.path.lexists("/dev/fd/" + number)]
    return sum(os.readlink("/dev/fd/" + number).startswith("socket:") for number in numbers)

async def main(name, url):
    engine = engines.engine(name, Wire("test"))
    before = sockets()

    async def ask():
        answer = await engine.open(Request(url, {}, b"{}"))
        while await answer.chunk():
            pass
        await answer.aclose()
        return answer.status

    print(await ask())
    while sockets() > before:  # the connection is just being closed
        await asyncio.sleep(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 1, hard))
    taken = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.dup(0))
    try:
        await ask()
    except Overloaded as failure:
        print(failure.reason)
    print(unreachable(socket.gaierror(socket.EAI_AGAIN, "as the resolver says it")).reason)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for number in taken:
        os.close(number)
    print(await ask())

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_process_without_descriptors_says_so(name: str, host: str, upstream: ScriptedUpstream) -> None:
    """The process can neither connect nor even resolve the address."""
    upstream.plays(raw(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"))
    words = [sys.executable, "-c", WITHOUT_DESCRIPTORS, name, upstream.url.replace("127.0.0.1", host)]
    done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout.split("\n"), done.stderr) == (
        ["200", *["this process is out of file descriptors"] * 2, "200", ""],
        "",
    )


# The number of connections.


async def test_the_limit_counts_connections_that_are_being_made(name: str, upstream: ScriptedUpstream) -> None:
    """Beyond the limit, the gateway refuses calls itself, and no failure of the upstream is reported."""
    go = asyncio.Event()

    async def wait(request: Any, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await replies({})(request, writer)

    upstream.plays(wait)
    async with opened(name, connections=3) as made:
        calls = [asyncio.ensure_future(asked(made, upstream.url)) for _ in range(10)]
        await until(lambda: sum(call.done() for call in calls) == 7 and len(upstream.seen) == 3)
        go.set()
        ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [(end.status, end.code) for end in ends if isinstance(end, Overloaded)] == [(503, "overloaded")] * 7
    assert len(upstream.readers) == 3


async def test_idle_connections_make_room_for_another_place(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    for each in (upstream, other_upstream):
        each.plays(replies({}))
    async with opened(connections=1) as made:
        for _ in range(2):
            assert (await asked(made, upstream.url))[0] == 200
            assert (await asked(made, other_upstream.url))[0] == 200
        upstream.plays(open_after(OK + b"content-length: 9\r\n\r\n{"))
        answer = await made.open(request(upstream.url))  # in use
        with pytest.raises(Overloaded):
            await made.open(request(other_upstream.url))
        await answer.aclose()


# No leftovers.


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_who_gives_up_leaves_no_connection(name: str, scheme: str) -> None:
    """During the TLS handshake, or while waiting for the head. With httpx, a TLS handshake ends only at its timeout."""
    ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        while await reader.read(65536):
            pass
        ended.set()

    for give_up in (False, True):
        came = asyncio.Event()
        ended.clear()
        short = scheme == "https" and (name == "httpx" or not give_up)
        async with serving(silent) as url, opened(name, connect=SOON if short else PATIENCE) as made:
            call = asyncio.ensure_future(made.open(request(url.replace("http", scheme, 1))))
            await came.wait()
            if give_up or scheme == "http":
                call.cancel()
                with pytest.raises((asyncio.CancelledError, UpstreamUnreachable) if short else asyncio.CancelledError):
                    await call
            else:
                with pytest.raises(UpstreamUnreachable):
                    await call
            await asyncio.wait_for(ended.wait(), PATIENCE)
            await until(partial(nothing_open, made))


@pytest.mark.parametrize("end", [b"", OK + b"content-length: 2\r\n\r\n{", ANSWER], ids=["broken", "half", "whole"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_who_leaves_at_any_moment_leaves_no_connection(name: str, scheme: str, end: bytes) -> None:
    """The caller leaves after each turn of the loop in turn, until the exchange has ended. Nothing is sent after that.

    Only one connection is allowed, so the next call is served only if nothing is left of the previous one.
    """
    server = Ending()
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if scheme == "https" else None
    if tls:
        authority.issue_cert("127.0.0.1").configure_cert(tls)
    async with (
        serving(server, tls=tls) as url,
        opened(name, connections=1, ca=authority.cert_pem.bytes()) as made,
    ):
        before = descriptors()
        for turns in count():
            server.said = end
            calls: list[asyncio.Future[tuple[int, bytes]]] = []
            sent_too_late: list[bool] = []
            call = asyncio.ensure_future(asked(made, url, before_send=partial(note_the_end, calls, sent_too_late)))
            calls.append(call)
            for _ in range(turns):
                await asyncio.sleep(0)
            ended = call.done()
            call.cancel()
            await asyncio.wait([call])
            if ended:
                break
            assert call.cancelled()
            await until(partial(nothing_open, made))
            assert True not in sent_too_late
            server.said = ANSWER
            assert await asked(made, url) == (200, b"{}")
        assert isinstance(call.exception(), UpstreamBroken) is (end != ANSWER)
        await until(lambda: descriptors() == before)


def note_the_end(calls: list[asyncio.Future[tuple[int, bytes]]], noted: list[bool]) -> None:
    noted.append(calls[0].done())


@dataclass
class Ending:
    """Sends ``said`` to each request, and ends the connection."""

    said: bytes = b""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        head, between, body = self.said.partition(b"\r\n\r\n")
        writer.write(head + between)
        await asyncio.sleep(0)
        writer.write(body)


def nothing_open(made: Engine) -> bool:
    return not getattr(made, "_open", ()) and not getattr(made, "_coming", 0)


async def test_who_gives_up_in_a_body_leaves_no_connection(name: str, upstream: ScriptedUpstream) -> None:
    upstream.plays(open_after(OK + b"content-length: 9\r\n\r\n{"))
    async with opened(name) as made:
        answer = await made.open(request(upstream.url))
        assert await answer.chunk() == b"{"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(answer.chunk(), 0.05)
        await answer.aclose()
        await upstream.gone()
        await answer.aclose()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("end", ["closed by us", "closed by the upstream", "broken off"])
async def test_a_connection_is_gone_when_it_is_closed(end: str, upstream: ScriptedUpstream) -> None:
    """Including data received on it, and without waiting for the garbage collector."""
    upstream.plays(raw(ANSWER if end == "closed by the upstream" else OK + b"content-length: 9\r\n\r\n{"))
    if end == "closed by us":
        upstream.plays(open_after(OK + b"content-length: 9\r\n\r\n{"))
    async with opened() as made:
        assert isinstance(made, HttptoolsEngine)
        answer = await made.open(request(upstream.url))
        [found] = map(weakref.ref, made._open)
        if end == "broken off":
            with suppress(UpstreamBroken):
                while await answer.chunk():
                    pass
        await answer.aclose()
        del answer
        await until(lambda: found() is None)


# Backpressure: a caller who does not read stalls the upstream.

LARGE = 8 * 1024 * 1024


@pytest.mark.parametrize("end", ["whole", "cut", "reset"])
async def test_an_answer_that_is_not_taken_is_held_back(end: str) -> None:
    """The answer waits in the system's buffers, and arrives whole, or as far as it was sent, when it is read."""
    written: list[int] = []

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n{}"):
            writer.write(OK + b"content-length: %d\r\n\r\n" % (LARGE + (end != "whole")))
            for _ in range(LARGE // 65536):
                writer.write(bytes(65536))
                await writer.drain()
                written.append(65536)
            if end == "reset":
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            if end != "whole":
                return

    async with serving(send) as url, opened() as made:
        answer = await made.open(request(url))
        assert isinstance(answer, HttptoolsAnswer)
        await until(lambda: answer._held)
        await asyncio.sleep(0.2)
        assert sum(written) < LARGE  # it is stalled
        assert answer._size < WAITING_BYTES + 1024 * 1024
        if end == "whole":
            assert sum([len(piece) async for piece in pieces(answer)]) == LARGE
            assert await asked(made, url) == (200, bytes(LARGE))
        else:
            with pytest.raises(UpstreamBroken):
                assert sum([len(piece) async for piece in pieces(answer)]) <= LARGE
        await answer.aclose()


async def test_a_held_answer_can_be_given_up() -> None:
    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(OK + b"content-length: %d\r\n\r\n" % LARGE + bytes(LARGE))
        try:
            await reader.read()
        finally:
            ended.set()

    ended = asyncio.Event()
    async with serving(send) as url, opened() as made:
        answer = await made.open(request(url))
        await until(lambda: answer._held)  # type: ignore[attr-defined]
        await answer.aclose()
        await asyncio.wait_for(ended.wait(), PATIENCE)


# TLS.


@pytest.mark.parametrize("head", [b"\r\n", b"content-length: 3\r\n\r\n"], ids=["no length", "a length"])
async def test_an_end_of_tls_without_a_word_completes_nothing_that_has_a_length(head: bytes) -> None:
    """Without a length, only the JSON in the body shows whether it is complete."""
    authority = trustme.CA()
    trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(trusted)

    def cut(listener: socket.socket) -> None:
        plain, _ = listener.accept()
        taken = trusted.wrap_socket(plain, server_side=True)
        taken.recv(65536)
        taken.sendall(OK + head + b"{}")
        socket.close(taken.detach())  # a FIN, and no close_notify

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=cut, args=(listener,), daemon=True).start()
        async with opened(ca=authority.cert_pem.bytes()) as made:
            url = f"https://127.0.0.1:{listener.getsockname()[1]}"
            if head == b"\r\n":
                with suppress(UpstreamBroken):
                    assert await asked(made, url) == (200, b"{}")
            else:
                with pytest.raises(UpstreamBroken):
                    await asked(made, url)


async def test_a_connection_over_tls_is_used_again() -> None:
    authority = trustme.CA()
    trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(trusted)
    connections: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        while await reader.readuntil(b"\r\n\r\n{}"):
            writer.write(ANSWER)

    async with serving(answer, tls=trusted) as url, opened(ca=authority.cert_pem.bytes()) as made:
        for _ in range(3):
            assert await asked(made, url) == (200, b"{}")
            await asyncio.sleep(0.01)  # so that the server's session tickets arrive
    assert len(connections) == 1


# A host with several addresses.


async def test_the_next_address_is_tried_where_one_is_dead_or_silent() -> None:
    loop = asyncio.get_running_loop()
    async with serving(lambda reader, writer: reader.read()) as url:
        good = address(url)
        with closed_port() as closed, full_port() as full:
            refused, silent = address(closed), address(full)
            for addresses in (
                [good],
                [refused, good],
                [silent, good],
                [refused, silent, refused, good],
                [good, silent],
            ):
                sock = await asyncio.wait_for(race(loop, list(addresses)), PATIENCE)
                assert sock.getpeername() == good[4]
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                sock.close()
            with pytest.raises(ConnectionRefusedError):
                await race(loop, [refused, refused])
            with pytest.raises(OSError, match="no address"):
                await race(loop, [])
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(race(loop, [silent, refused, silent]), 0.6)
    with pytest.raises(OSError):  # noqa: PT011 - the resolver's words differ
        await dial(loop, "torii-test.invalid", 80)


# Test servers.


def in_bytes(data: bytes) -> Callable[..., Any]:
    async def play(request: Any, writer: asyncio.StreamWriter) -> bool:
        for place in range(len(data)):
            writer.write(data[place : place + 1])
            await asyncio.sleep(0)
        return False

    return play


async def gone(*_: object) -> Any:
    raise UpstreamUnreachable("nobody is there")


def open_after(data: bytes) -> Callable[..., Any]:
    async def play(request: Any, writer: asyncio.StreamWriter) -> bool:
        writer.write(data)
        return True

    return play


async def pieces(answer: Any) -> AsyncIterator[bytes]:
    async with asyncio.timeout(PATIENCE):
        while data := await answer.chunk():
            yield data


class Blocking:
    """A server in a thread of its own, which runs while the loop is blocked; sends ANSWER to each request."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.taken: list[socket.socket] = []

    def __enter__(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for taken in self.taken:
            taken.close()

    def sends(self, number: int, data: bytes) -> None:
        """Sends more on this connection, or closes it if ``data`` is empty. On loopback the data has arrived on
        return."""
        if data:
            self.taken[number].sendall(data)
        else:
            self.taken[number].shutdown(socket.SHUT_WR)

    def _accept(self) -> None:
        while True:
            try:
                taken, _ = self._listener.accept()
            except OSError:
                return
            self.taken.append(taken)
            threading.Thread(target=self._answer, args=(taken,), daemon=True).start()

    def _answer(self, taken: socket.socket) -> None:
        try:
            while taken.recv(65536):
                taken.sendall(ANSWER)
        except OSError:
            pass


def address(url: str) -> Any:
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", urlsplit(url).port))
