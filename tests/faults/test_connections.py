"""Rows 29-35: no server, the wrong server, a server that closes or stays silent, or a protocol that is not HTTP."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from ..conftest import RunningGateway, Script, raw, replies, until
from ..ports import closed_port, full_port
from .bench import (
    ANSWERED,
    BROKE_OFF,
    CHATS,
    DEEP,
    EMBED,
    MALFORMED,
    SOON,
    VECTORS,
    Bench,
    Listener,
    asked,
    assert_booked,
    assert_complete,
    assert_failed,
    at_most_megabytes,
    at_once,
    listening,
)
from .scripts import (
    CHUNKED,
    STREAM_HEAD,
    answer,
    dripping,
    endless,
    forever,
    hang,
    head,
    json_of,
    reset,
    sse,
    thought,
    whole,
    wire,
)

GOOD = replies(VECTORS)
FOUND = STREAM_HEAD.replace(b"transfer-encoding: chunked\r\n", b"connection: close\r\n") + sse(
    thought("<think>"), answer("It is so.")
)


# 29: refused.


async def test_refused_by_both(bench: Bench) -> None:
    """The error comes at once: neither the connect timeout nor any other deadline has to pass."""
    with closed_port() as one, closed_port() as two:
        async with bench.before(one, two) as gateway:
            response = await asked(gateway)
            await assert_booked(gateway, 502)
    assert assert_failed(response, 502, "upstream_unreachable") == "the upstream cannot be reached"


@pytest.mark.parametrize("port", [closed_port, full_port])
async def test_refused_or_silent_is_not_seen_where_another_answers(port: Any, bench: Bench) -> None:
    bench.aihubmix.plays(GOOD)
    with port() as url:
        async with bench.before(url, bench.aihubmix.url, timeouts={"connect_seconds": SOON}) as gateway:
            response = await asked(gateway)
            await assert_booked(gateway, 200)
    assert response.json() == ANSWERED
    assert response.headers["x-torii-upstream"] == "aihubmix"
    assert len(bench.aihubmix.seen) == 1


@pytest.mark.parametrize("port", [closed_port, full_port])
async def test_deepsearch_goes_elsewhere_where_nothing_was_sent(port: Any, bench: Bench) -> None:
    bench.aihubmix.plays(raw(FOUND))
    with port() as url:
        async with bench.before(url, bench.aihubmix.url, timeouts={"connect_seconds": SOON}) as gateway:
            assert_complete(await asked(gateway, CHATS, DEEP), "It is so.")
    assert len(bench.aihubmix.seen) == 1


async def test_a_host_that_has_no_address(bench: Bench) -> None:
    async with bench.before("http://torii-test.invalid") as gateway:
        response = await asked(gateway)
        await assert_booked(gateway, 502)
    assert_failed(response, 502, "upstream_unreachable")
    assert "invalid" not in response.text


# 30: the connection hangs.


async def test_a_connection_that_is_never_made(bench: Bench) -> None:
    with full_port() as one, full_port() as two:
        async with bench.before(one, two, timeouts={"connect_seconds": 0.2}) as gateway:
            response = await asked(gateway)
            await assert_booked(gateway, 502)
    assert_failed(response, 502, "upstream_unreachable")


# 31: the wrong certificate.

Certificates = dict[str, ssl.SSLContext]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificates(authority: trustme.CA) -> Certificates:
    """TLS contexts for a server on 127.0.0.1, by the fault of their certificate."""
    past = datetime.now(UTC) - timedelta(days=1)
    good = authority.issue_cert("127.0.0.1")
    leaves = {
        "good": good,
        "another name": authority.issue_cert("other.example"),
        "expired": authority.issue_cert("127.0.0.1", not_before=past - timedelta(days=9), not_after=past),
        "not yet": authority.issue_cert("127.0.0.1", not_before=datetime.now(UTC) + timedelta(days=1)),
        "another authority": trustme.CA().issue_cert("127.0.0.1"),
    }
    contexts = {}
    for name, leaf in leaves.items():
        contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf.configure_cert(contexts[name])
    return contexts


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


async def answering(listener: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers all data that ends with a brace, whatever the data is."""
    while data := await reader.read(65536):
        listener.received += data
        if data.endswith(b"}"):
            writer.write(whole(json_of(VECTORS)))
            await writer.drain()


async def test_an_authority_of_ones_own_is_known_by_ca_file(
    bench: Bench, certificates: Certificates, ca_file: str
) -> None:
    async with listening(answering, tls=certificates["good"]) as server:
        async with bench.before(server.url, ca_file=ca_file) as gateway:
            response = await asked(gateway)
    assert (response.status_code, response.json()) == (200, ANSWERED)
    assert server.connections == 1


@pytest.mark.parametrize("wrong", ["another name", "expired", "not yet", "another authority"])
async def test_a_wrong_certificate_is_sent_nothing(
    wrong: str, bench: Bench, certificates: Certificates, ca_file: str
) -> None:
    async with listening(answering, tls=certificates[wrong]) as server:
        async with bench.before(server.url, ca_file=ca_file) as gateway:
            response = await asked(gateway)
            await assert_booked(gateway, 502)
    assert_failed(response, 502, "upstream_unreachable")
    assert server.received == b""


async def test_an_unknown_authority_is_sent_nothing(bench: Bench, certificates: Certificates) -> None:
    bench.aihubmix.plays(GOOD)
    async with listening(answering, tls=certificates["good"]) as server:
        async with bench.before(server.url) as gateway:
            assert_failed(await asked(gateway), 502, "upstream_unreachable")
        async with bench.before(server.url, bench.aihubmix.url) as gateway:
            assert (await asked(gateway)).headers["x-torii-upstream"] == "aihubmix"
    assert server.received == b""


async def test_no_tls_where_there_should_be(bench: Bench) -> None:
    """The key is in none of the bytes sent, whatever protocol the server speaks."""
    async with listening(answering) as server:
        url = server.url.replace("http:", "https:")
        async with bench.before(url, timeouts={"connect_seconds": 0.2}) as gateway:
            assert_failed(await asked(gateway), 502, "upstream_unreachable")
    assert b"authorization" not in server.received.lower()


async def test_tls_where_there_should_be_none(bench: Bench, certificates: Certificates) -> None:
    async with listening(answering, tls=certificates["good"]) as server:
        async with bench.before(server.url.replace("https:", "http:")) as gateway:
            assert_failed(await asked(gateway), 502, "upstream_error")


# 32: closed or reset.


async def resetting(listener: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


@pytest.mark.parametrize("act", [resetting, lambda *_: asyncio.sleep(0)], ids=["reset", "closed"])
async def test_gone_as_soon_as_connected(act: Any, bench: Bench) -> None:
    """The failure appears while connecting or while writing, which is a race. A pure call is made twice in either
    case."""
    async with listening(act) as server:
        async with bench.before(server.url) as gateway:
            response = await asked(gateway)
            await assert_booked(gateway, 502)
    code = response.json()["error"]["code"]
    assert code in ("upstream_unreachable", "upstream_error")
    assert_failed(response, 502, code)
    assert server.connections == 2


GONE = {
    "closed after the request": wire(),
    "reset after the request": wire(end="reset"),
    "closed in the head": wire(b"HTTP/1.1 200 OK\r\ncontent-le"),
    "reset in the head": wire(b"HTTP/1.1 200 OK\r\ncontent-le", end="reset"),
    "closed behind the head": wire(head("content-length: 20")),
    "reset behind the head": wire(head("content-length: 20"), end="reset"),
}


@pytest.mark.parametrize("script", GONE.values(), ids=GONE)
async def test_gone_after_the_request(script: Script, bench: Bench) -> None:
    bench.jina.plays(script)
    async with bench.gateway() as gateway:
        response = await asked(gateway)
        await assert_booked(gateway, 502)
    assert assert_failed(response, 502, "upstream_error") == BROKE_OFF
    assert len(bench.jina.seen) == 2


@pytest.mark.parametrize("script", GONE.values(), ids=GONE)
async def test_gone_once_is_not_seen(script: Script, bench: Bench) -> None:
    bench.jina.plays(script, GOOD)
    async with bench.gateway() as gateway:
        assert (await asked(gateway)).json() == ANSWERED
        await assert_booked(gateway, 200)
    assert len(bench.jina.seen) == 2


@pytest.mark.parametrize("script", GONE.values(), ids=GONE)
async def test_gone_deepsearch_is_not_begun_again(script: Script, bench: Bench) -> None:
    """The request was sent; the run may have started, and would have to be paid for."""
    bench.jina.plays(script)
    async with bench.gateway(both=True) as gateway:
        response = await asked(gateway, CHATS, DEEP)
        await assert_booked(gateway, 502)
    assert_failed(response, 502, "upstream_error", should_retry=False)
    assert (len(bench.jina.seen), len(bench.aihubmix.seen)) == (1, 0)


# 33: closed while idle.


@pytest.mark.parametrize("end", ["fin", "reset"])
@pytest.mark.parametrize(("path", "body"), [("/v1/embeddings", EMBED), (CHATS, DEEP)])
async def test_a_connection_that_was_closed_while_idle_is_not_used(
    path: str, body: Any, end: str, bench: Bench
) -> None:
    """A closed connection costs neither an attempt nor a DeepSearch run, which is started only once."""
    closing = asyncio.Event()
    bench.jina.plays(wire(whole(json_of(VECTORS)), closing, end=end), GOOD if body is EMBED else raw(FOUND))
    async with bench.gateway(max_attempts=1) as gateway:
        assert (await asked(gateway)).status_code == 200
        closing.set()
        await until(lambda: not bench.jina.tasks)
        assert (await asked(gateway, path, body)).status_code == 200
    assert (len(bench.jina.seen), len(bench.jina.readers)) == (2, 2)


@pytest.mark.parametrize("end", ["fin", "reset"])
async def test_a_connection_that_is_closed_as_it_is_used_again(end: str, bench: Bench) -> None:
    """A closed connection costs no attempt on an engine that keeps connections: the request is sent again, over a
    new connection."""
    bench.jina.plays(GOOD, wire(end=end), GOOD)
    async with bench.gateway(max_attempts=2 if bench.engine == "httpx" else 1) as gateway:
        assert (await asked(gateway)).status_code == 200
        assert (await asked(gateway)).json() == ANSWERED
        await assert_booked(gateway, 200, 200)
    assert (len(bench.jina.seen), len(bench.jina.readers)) == (3, 3 if bench.engine == "httpx" else 2)


async def test_deepsearch_rides_no_kept_connection(bench: Bench) -> None:
    """However briefly a connection was idle, the upstream may close it as the call reuses it, and then the run may
    or may not have started."""
    bench.jina.plays(GOOD, raw(FOUND), wire())
    async with bench.gateway() as gateway:
        assert (await asked(gateway)).status_code == 200
        assert_complete(await asked(gateway, CHATS, DEEP), "It is so.")
        assert len(bench.jina.readers) == 2
        assert_failed(await asked(gateway, CHATS, DEEP), 502, "upstream_error", should_retry=False)
    assert (len(bench.jina.seen), len(bench.jina.readers)) == (3, 3)


# 34: no answer in time.

OK = b"HTTP/1.1 200 OK\r\n"
SLOW = {
    "silence": hang,
    "half a status line": wire(b"HTTP/1.1 2", end="hang"),
    "half a head": wire(OK + b"content-length: 9\r\ncont", end="hang"),
    "a head without its end": wire(OK + b"content-length: 2\r\n", end="hang"),
    "a dripping head": dripping(OK + b"x-filler: " + b"x" * 10_000),
    "100 for ever": endless(b"", forever(b"HTTP/1.1 100 Continue\r\n\r\n"), every=0.05),
    "103 for ever": endless(b"", forever(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"), every=0.05),
}


FEW = {name: SLOW[name] for name in ("silence", "a dripping head", "100 for ever")}
IN_TIME = {"headers_seconds": SOON}


async def test_no_head_in_time(engine: str, subtests: pytest.Subtests) -> None:
    async def check(bench: Bench, gateway: RunningGateway, script: Script) -> None:
        bench.jina.plays(script)
        response = await asked(gateway)
        await assert_booked(gateway, 504)
        assert assert_failed(response, 504, "upstream_timeout") == "the upstream did not answer in time"
        assert len(bench.jina.seen) == 2

    await at_once(SLOW, engine, lambda bench, _: bench.gateway(timeouts=IN_TIME), check, subtests)


async def test_no_head_in_time_from_deepsearch(engine: str, subtests: pytest.Subtests) -> None:
    async def check(bench: Bench, gateway: RunningGateway, script: Script) -> None:
        bench.jina.plays(script)
        response = await asked(gateway, CHATS, DEEP)
        await assert_booked(gateway, 504)
        assert_failed(response, 504, "upstream_timeout", should_retry=False)
        assert (len(bench.jina.seen), len(bench.aihubmix.seen)) == (1, 0)

    await at_once(FEW, engine, lambda bench, _: bench.gateway(both=True, timeouts=IN_TIME), check, subtests)


async def test_no_head_in_time_is_not_seen_where_another_answers(engine: str, subtests: pytest.Subtests) -> None:
    async def check(bench: Bench, gateway: RunningGateway, script: Script) -> None:
        bench.jina.plays(script)
        bench.aihubmix.plays(GOOD)
        assert (await asked(gateway)).json() == ANSWERED
        await bench.jina.gone()

    await at_once(FEW, engine, lambda bench, _: bench.gateway(both=True, timeouts=IN_TIME), check, subtests)


async def test_a_flood_of_interim_answers_is_given_up_on(bench: Bench) -> None:
    """The flood fails by size if the engine counts the bytes, else by time."""
    bench.jina.plays(endless(b"", forever(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)))
    timed = bench.engine == "httpx"
    async with bench.gateway(timeouts=IN_TIME if timed else {}) as gateway:
        response = await asked(gateway)
    if timed:
        assert_failed(response, 504, "upstream_timeout")
    else:
        assert_failed(response, 502, "upstream_error")
    assert len(bench.jina.seen) == 2


async def test_an_interim_answer_is_none(bench: Bench) -> None:
    bench.jina.plays(wire(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", whole(json_of(VECTORS)), end="open"))
    async with bench.gateway() as gateway:
        for _ in range(2):
            assert (await asked(gateway)).json() == ANSWERED
    assert len(bench.jina.seen) == 2


# 35: not HTTP.

ODD = {
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "mail": b"220 mail.example ESMTP\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18,
    "HTTP/0.9": b'{"data":[]}',
    "HTTP/7.7": b"HTTP/7.7 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "no status": b"HTTP/1.1 OK\r\ncontent-length: 2\r\n\r\n{}",
    "a status of two digits": b"HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\n{}",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n\r\n{}",
    "a status below zero": b"HTTP/1.1 -20 OK\r\ncontent-length: 2\r\n\r\n{}",
    "a header without a colon": b"HTTP/1.1 200 OK\r\nnonsense\r\ncontent-length: 2\r\n\r\n{}",
    "a header without a name": b"HTTP/1.1 200 OK\r\n: x\r\ncontent-length: 2\r\n\r\n{}",
    "a NUL in a header": b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 2\r\n\r\n{}",
}


# httpx's parser examines nothing before an empty line, and these end without one.
ENDED_BY_HTTPX = ("another protocol", "mail", "HTTP/0.9")


@pytest.mark.parametrize("kind", ODD)
async def test_no_http(kind: str, bench: Bench) -> None:
    bench.jina.plays(raw(ODD[kind]))
    async with bench.gateway() as gateway:
        response = await asked(gateway)
        await assert_booked(gateway, 502)
    told = assert_failed(response, 502, "upstream_error")
    if bench.engine == "httptools" or kind != "HTTP/7.7":  # httpx accepts any version, and finds no vectors in it
        assert told == (BROKE_OFF if bench.engine == "httpx" and kind in ENDED_BY_HTTPX else MALFORMED)
    assert len(bench.jina.seen) == 2


def numbered() -> Iterator[bytes]:
    return (b"x-%d: y\r\n" % number * 100 for number in itertools.count())


GIANT = {
    "a line without end": endless(OK + b"x: ", forever(b"x" * 65536)),
    "a status line without end": endless(b"HTTP/1.1 200 ", forever(b"x" * 65536)),
    "headers without end": endless(OK, numbered),
    "one header without end": endless(OK, forever(b"x: y\r\n" * 10_000)),
    "trailers without end": endless(head(CHUNKED) + b"2\r\n{}\r\n0\r\n", numbered),
    "a chunk's extension without end": endless(head(CHUNKED) + b"2;", forever(b"x" * 65536)),
}


LARGE = "the head of the upstream's answer is larger than 64 kB"
LARGE_REST = "the upstream sent more than 64 kB that is neither head nor body"
MANY = "the upstream's answer has more than 100 headers"
# The message of each engine: httpx counts headers only when the head has ended.
TOLD_OF_GIANTS = {
    "a line without end": (LARGE, LARGE),
    "a status line without end": (LARGE, LARGE),
    "headers without end": (MANY, LARGE),
    "one header without end": (MANY, LARGE),
    "trailers without end": (MANY, LARGE_REST),
    "a chunk's extension without end": (LARGE_REST, LARGE_REST),
}


@pytest.mark.parametrize("kind", GIANT)
async def test_giant_heads(kind: str, bench: Bench) -> None:
    """Giant heads fail by size, long before a deadline."""
    bench.jina.plays(GIANT[kind])
    with at_most_megabytes(100):
        async with bench.gateway() as gateway:
            response = await asked(gateway)
            await assert_booked(gateway, 502)
    assert assert_failed(response, 502, "upstream_error") == TOLD_OF_GIANTS[kind][bench.engine == "httpx"]
    assert len(bench.jina.seen) == 2


BODY = json_of(VECTORS)


@pytest.mark.parametrize("size", [70_000, 100_000, 250_000])
async def test_a_head_larger_than_64_kb_in_one_piece_with_its_body(size: int, bench: Bench) -> None:
    bench.jina.plays(raw(whole(BODY, "x-filler: " + "x" * size)))
    async with bench.gateway() as gateway:
        response = await asked(gateway)
        await assert_booked(gateway, 502)
        assert assert_failed(response, 502, "upstream_error") == LARGE
        assert len(bench.jina.seen) == 2
        bench.jina.plays(raw(whole(BODY, "x-filler: " + "x" * 60_000)))
        assert (await asked(gateway)).json() == ANSWERED


@pytest.mark.parametrize("count", [98, 99])
async def test_more_than_100_headers_with_a_body(count: int, bench: Bench) -> None:
    """The body's own headers are two more."""
    bench.jina.plays(raw(whole(BODY, *["x: y"] * count)))
    async with bench.gateway() as gateway:
        response = await asked(gateway)
    if count == 98:
        assert response.json() == ANSWERED
    else:
        assert assert_failed(response, 502, "upstream_error") == MANY
