"""Honest clients with unusual requests: protocol upgrades, compressed bodies, extra slashes, HEAD, HTTP/1.0."""

from __future__ import annotations

import asyncio
import gzip
import logging
import zlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import msgspec
import pytest

from app.server.app import FIXED, meant

from ..conftest import PATIENCE, RunningGateway, ScriptedUpstream, replies, running_gateway, settings_for, streams
from ..endpoints.test_strict_input import (
    BODY,
    CALLER_KEY,
    CHUNKED,
    HIDDEN,
    LENGTH,
    NO_CODING,
    NO_HTTP,
    NO_PATH,
    SMUGGLING,
    VECTORS,
    Got,
    answers,
    assert_refused,
    envelope,
    posted,
    sent,
)
from ..upstreams.test_decompression import bare

LAST = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
CHUNKS = b"2b\r\n" + BODY + b"\r\n0\r\n\r\n"
OPERATOR_KEY = "a-key-of-the-operator-0123456789"

# The offer that java.net.http.HttpClient makes with each request over plain HTTP.
H2C = (
    b"Connection: Upgrade, HTTP2-Settings",
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    b"Upgrade: h2c",
)
WEBSOCKET = (
    b"connection: keep-alive, Upgrade",
    b"upgrade: websocket",
    b"sec-websocket-version: 13",
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
)
OFFERS = {"h2c": H2C, "WebSocket": WEBSOCKET, "several": (b"connection: upgrade", b"upgrade: a/1, b", b"upgrade: h2c")}
FRAMES = {"length": ((LENGTH,), BODY), "chunks": ((CHUNKED,), CHUNKS)}


def line(got: Got) -> str:
    assert got.line.startswith("HTTP/1.1 ")
    return got.line[9:]


@pytest.fixture
async def operated(upstream: ScriptedUpstream, other_upstream: ScriptedUpstream) -> AsyncIterator[RunningGateway]:
    """A gateway with an operator key."""
    settings = settings_for(upstream.url, other_upstream.url, operator_key=OPERATOR_KEY)
    async with running_gateway(settings) as running:
        yield running


# Protocol upgrades.


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
async def test_an_offer_is_ignored_and_the_connection_goes_on_in_http(
    offer: tuple[bytes, ...],
    frame: tuple[tuple[bytes, ...], bytes],
    gateway: RunningGateway,
    upstream: ScriptedUpstream,
) -> None:
    """In one piece, byte by byte, or one request after another."""
    upstream.plays(replies(VECTORS))
    headers, body = frame
    offered = posted(*offer, *headers, body=body)
    data = offered + HIDDEN + offered + offered + LAST
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        upstream.seen.clear()
        got = answers(await sent(gateway, *pieces))
        assert [line(each) for each in got] == ["200 OK"] * 5
        assert {each.json["object"] for each in got[:4]} == {"list"}
        assert not [each for each in got if {"upgrade", "connection"} & each.headers.keys() and each is not got[-1]]
        assert [seen.raw for seen in upstream.seen] == [b'{"model":"jina-embeddings-v3","input":["hi"]}'] * 4

    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(gateway.url).port)
    async with asyncio.timeout(PATIENCE):
        for _ in range(3):  # each request waits for the previous answer
            writer.write(offered)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b'"embedding":[0.5]' in await reader.readuntil(b"}}")
    writer.close()


async def test_offers_are_ignored_of_requests_without_a_body(gateway: RunningGateway) -> None:
    """More requests in one piece than Python allows nested calls."""
    for offer in OFFERS.values():
        get = b"\r\n".join([b"GET /healthz HTTP/1.1", b"host: localhost", *offer, b"", b""])
        got = answers(await sent(gateway, get * 1200 + LAST))
        assert [line(each) for each in got] == ["200 OK"] * 1201
        assert {each.json["status"] for each in got} == {"ok", "ready"}


async def test_an_offer_beside_close_or_in_http_1_0(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    """The bytes after it are not read as a request."""
    upstream.plays(replies(VECTORS))
    closing = posted(b"connection: close, upgrade", b"upgrade: h2c", LENGTH)
    old = posted(b"connection: upgrade", b"upgrade: h2c", LENGTH, version=b"1.0")
    for request in (closing, old):
        [got] = answers(await sent(gateway, request))
        assert (line(got), got.headers["connection"]) == ("200 OK", "close")
        [got] = answers(await sent(gateway, request + HIDDEN))
        assert line(got) == "200 OK"


async def test_an_offer_and_100_continue(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(VECTORS))
    head = posted(*H2C, LENGTH, b"expect: 100-continue", body=b"")
    data = await sent(gateway, head, BODY + LAST)
    assert data.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


REFUSED = {name: case for name, case in SMUGGLING.items() if b" HTTP/1.1\r\nhost: localhost\r\n" in case[0]}


@pytest.mark.parametrize(("request_", "message"), REFUSED.values(), ids=REFUSED)
async def test_an_offer_hides_no_request(
    request_: bytes, message: str, gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    """A request that is refused without an offer is refused with one as well."""
    upstream.plays(replies(VECTORS))
    offered = request_.replace(b"host: localhost\r\n", b"host: localhost\r\n" + b"\r\n".join(H2C) + b"\r\n", 1)
    assert_refused(await sent(gateway, offered + HIDDEN, HIDDEN), "400 Bad Request", "invalid_request", message)
    assert upstream.seen == []


async def test_what_follows_an_offer_must_be_http(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    """The HTTP/2 preface of a client that did not wait for the answer, or a WebSocket frame."""
    upstream.plays(replies(VECTORS))
    for behind in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"):
        one, two = answers(await sent(gateway, posted(*H2C, LENGTH) + behind))
        assert (line(one), line(two)) == ("200 OK", "400 Bad Request")
        assert two.json == envelope("invalid_request", NO_HTTP)


@pytest.mark.parametrize("offer", [(), H2C, WEBSOCKET], ids=["plain", "h2c", "WebSocket"])
async def test_connect_is_no_offer_and_is_refused_whatever_its_target(
    offer: tuple[bytes, ...], gateway: RunningGateway, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    for target in (b"/v1/embeddings", b"provider.example:443"):
        head = b"\r\n".join([b"CONNECT %b HTTP/1.1" % target, b"host: localhost", *offer, b"", b""])
        assert_refused(await sent(gateway, head + HIDDEN, HIDDEN), "400 Bad Request", "invalid_request", NO_PATH)
        first, second = answers(await sent(gateway, posted(LENGTH, path=b"/nothing") + head))
        assert (line(first), line(second)) == ("404 Not Found", "400 Bad Request")
    assert upstream.seen == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_the_rest_of_a_head_counts_beside_an_offer(upstream: ScriptedUpstream) -> None:
    """The key, and the transfer coding of the body."""
    upstream.plays(replies(VECTORS))
    callers = [{"name": "team", "key": CALLER_KEY}]
    right = b"Authorization: Bearer " + CALLER_KEY.encode()
    async with running_gateway(settings_for(upstream.url, callers=callers)) as keyed:
        [got] = answers(await sent(keyed, posted(*H2C, LENGTH)))
        assert (line(got), got.json["error"]["code"]) == ("401 Unauthorized", "invalid_api_key")
        assert_refused(
            await sent(keyed, posted(*H2C, right, b"transfer-encoding: gzip, chunked", body=CHUNKS)),
            "400 Bad Request",
            "invalid_request",
            NO_CODING,
        )
        assert upstream.seen == []
        got, _ = answers(await sent(keyed, posted(*H2C, right, LENGTH) + LAST))
        assert line(got) == "200 OK"


# Compressed bodies.

PACKED = {
    "gzip": gzip.compress(BODY),
    "GZip": gzip.compress(BODY),
    "x-gzip": gzip.compress(BODY),
    "gzip, identity": gzip.compress(BODY),
    "deflate": zlib.compress(BODY),
    " deflate\t": bare(BODY),
    "": BODY,
    "identity": BODY,
    "Identity, identity": BODY,
    " , ": BODY,
}


@pytest.mark.parametrize(("coding", "body"), PACKED.items(), ids=map(repr, PACKED))
async def test_a_packed_body_is_unpacked(
    coding: str, body: bytes, gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(replies(VECTORS))
    header = b"content-encoding:" + coding.encode()
    whole = posted(header, b"content-length: %d" % len(body), body=body)
    in_bytes = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    chunked = posted(header, CHUNKED, body=in_bytes)
    one, two, last = answers(await sent(gateway, whole + chunked + LAST))
    assert [line(one), line(two), line(last)] == ["200 OK"] * 3
    assert [seen.raw for seen in upstream.seen] == [b'{"model":"jina-embeddings-v3","input":["hi"]}'] * 2
    assert "content-encoding" not in upstream.seen[0].headers


async def test_codings_that_nobody_unpacks_are_refused_by_name(
    gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    """The refusal comes before the body."""
    message = "content-encoding must be gzip or deflate, applied once; or send the body uncompressed"
    refused = (["br"], ["zstd"], ["compress"], ["gzip, gzip"], ["gzip", "gzip"], ["deflate", "x-gzip"], ["gzip;q=1"])
    heads = [
        posted(*(b"content-encoding: " + coding.encode() for coding in codings), b"content-length: 1000", body=b"")
        for codings in refused
    ]
    for data in await asyncio.gather(*(sent(gateway, head) for head in heads)):
        [got] = answers(data)
        assert (line(got), got.headers["connection"]) == ("415 Unsupported Media Type", "close")
        assert got.json == envelope("unsupported_media_type", message)
    assert upstream.seen == []


DAMAGED = {
    "cut": (gzip.compress(BODY)[:-1], "the body is compressed and incomplete"),
    "a byte": (b"\x1f", "the body is compressed and incomplete"),
    "two bodies": (gzip.compress(BODY) * 2, "the body is compressed and has data after its end"),
    "changed": (
        gzip.compress(BODY)[:-8] + bytes(8),
        "the body is not compressed as content-encoding says, or is damaged",
    ),
    "not packed": (BODY, "the body is not compressed as content-encoding says, or is damaged"),
    "empty": (b"", "the body is not JSON: it is empty"),
    "nothing in it": (gzip.compress(b""), "the body is not JSON: it is empty"),
    "no JSON in it": (gzip.compress(b"hi"), "the body is not JSON: unexpected 'h' (byte 0)"),
}


@pytest.mark.parametrize(("body", "message"), DAMAGED.values(), ids=DAMAGED)
async def test_a_body_that_cannot_be_unpacked_is_a_400_that_says_why(
    body: bytes, message: str, gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    """The connection stays usable."""
    request = posted(b"content-encoding: gzip", b"content-length: %d" % len(body), body=body)
    one, two = answers(await sent(gateway, request + LAST))
    assert (line(one), one.json) == ("400 Bad Request", envelope("invalid_request", message))
    assert line(two) == "200 OK"
    assert upstream.seen == []


# Paths.

FORGIVEN = [
    ("/v1/embeddings/", "/v1/embeddings"),
    ("/v1//embeddings", "/v1/embeddings"),
    ("//v1/embeddings", "/v1/embeddings"),
    ("///v1//embeddings///", "/v1/embeddings"),
    ("/v1/v1/embeddings", "/v1/embeddings"),
    ("/v1/v1/v1/embeddings/", "/v1/embeddings"),
    ("/embeddings/", "/embeddings"),
    ("/v1/v2/rerank", "/v2/rerank"),
    ("/v2//rerank", "/v2/rerank"),
    ("/v1/v1/chat/completions", "/v1/chat/completions"),
    ("/v1/chat//completions/", "/v1/chat/completions"),
    ("/v1/models/", "/v1/models"),
    ("/healthz/", "/healthz"),
]
AS_THEY_ARE = [
    "/r/https://example.com//a/",
    "/r//v1/embeddings",
    "/v1/r/https://example.com/v1//embeddings",
    "/https://example.com//v1/embeddings",
    "/v1/models/a//b",
    "/v1/models/https://example.com//",
    "/v2/v1/embeddings",
    "/v1/embeddings/v1",
    "/v1/./embeddings",
    "/admin//upstreams",
    "/admin/upstreams/",
    "/v1",
    "/",
    "//",
    "",
]


@pytest.mark.parametrize(("path", "plain"), FORGIVEN)
def test_slashes_and_versions_too_many_are_no_matter(path: str, plain: str) -> None:
    assert meant(path, path.encode()) == plain
    assert plain in FIXED


@pytest.mark.parametrize("path", AS_THEY_ARE)
def test_every_other_path_stays_as_it_is(path: str) -> None:
    assert meant(path, path.encode()) == path


def test_a_path_with_anything_encoded_stays_as_it_is() -> None:
    assert meant("/v1//embeddings", b"/v1%2F/embeddings") == "/v1//embeddings"


async def test_a_call_by_such_a_path_is_the_call_that_was_meant(
    gateway: RunningGateway, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "torii")
    upstream.plays(replies(VECTORS))
    paths = [path for path, plain in FORGIVEN if plain.endswith("/embeddings")]
    for path in paths:
        [got] = answers(await sent(gateway, posted(LENGTH, b"connection: close", path=path.encode())))
        assert (line(got), got.json["object"]) == ("200 OK", "list")
        [got] = answers(await sent(gateway, posted(b"connection: close", path=path.encode(), body=b"")))
        assert line(got) == "400 Bad Request"
    assert len(upstream.seen) == len(paths)
    written = " ".join(record.getMessage() for record in caplog.records)
    assert "//" not in written
    assert "/v1/v1" not in written

    rerank = {"model": "jina-reranker-m0", "query": "q", "documents": ["a"]}
    ranked = {"model": "m", "results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 1}}
    upstream.plays(replies(ranked))
    for path, told in (("/v1/rerank/", True), ("/v1/v2/rerank", False)):  # Cohere's second version returns no documents
        [result] = (await gateway.post(path, rerank)).json()["results"]
        assert ("document" in result) is told


async def test_an_error_names_the_path_that_was_meant(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "torii")
    for path in ("/v1/v1/embeddings", "/v1/embeddings/"):
        answer = await gateway.client.get(path)
        assert answer.json()["detail"] == "GET is not allowed for /v1/embeddings; use POST"
    lines = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert lines == ["GET /v1/embeddings was refused: GET is not allowed for /v1/embeddings; use POST"] * 2


async def test_the_operators_path_has_one_spelling(operated: RunningGateway) -> None:
    """So that a proxy can block it by name."""
    key = {"authorization": f"Bearer {OPERATOR_KEY}"}
    assert (await operated.client.get("/admin/upstreams", headers=key)).status_code == 200
    for path in ("/admin/upstreams/", "/admin//upstreams", "//admin/upstreams", "/v1/admin/upstreams"):
        said = f"host: localhost\r\nauthorization: Bearer {OPERATOR_KEY}\r\nconnection: close"
        request = f"GET {path} HTTP/1.1\r\n{said}\r\n\r\n"
        [got] = answers(await sent(operated, request.encode()))
        assert line(got) == "404 Not Found"


# HEAD.


@pytest.mark.parametrize("path", ["/healthz", "/readyz/", "/v1/models", "/v1/models/jina-embeddings-v3", "/models"])
async def test_head_is_a_get_without_a_body(path: str, gateway: RunningGateway) -> None:
    """The next response on the connection belongs to the next request."""
    head = f"HEAD {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
    data = await sent(gateway, head + head + LAST)
    get = await gateway.client.get(path)
    for _ in range(2):
        lines, _, data = data.partition(b"\r\n\r\n")
        first, *headers = lines.decode().split("\r\n")
        assert first == "HTTP/1.1 200 OK"
        assert dict(header.split(": ") for header in headers).keys() == get.headers.keys()
        assert f"content-length: {len(get.content)}" in headers
    assert [line(got) for got in answers(data)] == ["200 OK"]


async def test_head_needs_the_key_that_a_get_needs(upstream: ScriptedUpstream) -> None:
    callers = [{"name": "team", "key": CALLER_KEY}]
    async with running_gateway(settings_for(upstream.url, callers=callers)) as keyed:
        answer = await keyed.client.head("/v1/models")
        assert (answer.status_code, answer.content) == (401, b"")


# HTTP/1.0.

EVENTS = [
    b'data: {"id":"u","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n',
    b'data: {"id":"u","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
]


async def streamed(gateway: RunningGateway, *headers: bytes) -> tuple[list[str], bytes]:
    """The head's lines and the body of a streamed chat over HTTP/1.0."""
    ask = {"model": "aihubmix/gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    body = msgspec.json.encode(ask)
    length = b"content-length: %d" % len(body)
    request = posted(length, *headers, body=body, path=b"/v1/chat/completions", version=b"1.0")
    head, _, rest = (await sent(gateway, request)).partition(b"\r\n\r\n")
    return head.decode().split("\r\n"), rest


@pytest.mark.parametrize("header", [b"x: y", b"connection: keep-alive"])
async def test_a_stream_in_http_1_0_has_no_chunks_and_ends_with_the_connection(
    header: bytes, gateway: RunningGateway, other_upstream: ScriptedUpstream
) -> None:
    other_upstream.plays(streams(*EVENTS))
    lines, body = await streamed(gateway, header)
    assert lines[0] == "HTTP/1.1 200 OK"
    assert [each for each in lines if each.startswith(("connection", "transfer-encoding", "content-length"))] == [
        "connection: close"
    ]
    assert body == b"".join(EVENTS).replace(b"]}\n", b'],"model":"aihubmix/gpt-4o-mini"}\n')


async def test_a_stream_in_http_1_0_that_breaks_says_so(
    gateway: RunningGateway, other_upstream: ScriptedUpstream
) -> None:
    other_upstream.plays(streams(EVENTS[0], end="cut"))
    _, body = await streamed(gateway)
    assert b'"delta":{"content":"a"}' in body
    assert b'data: {"error":' in body
    assert b"[DONE]" not in body
    assert not body.startswith(b"6")


async def test_who_leaves_a_stream_in_http_1_0_ends_it(
    gateway: RunningGateway, other_upstream: ScriptedUpstream
) -> None:
    never = asyncio.Event()
    other_upstream.plays(streams(EVENTS[0], never))
    ask = b'{"model":"aihubmix/gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"hi"}]}'
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(gateway.url).port)
    writer.write(posted(b"content-length: %d" % len(ask), body=ask, path=b"/v1/chat/completions", version=b"1.0"))
    async with asyncio.timeout(PATIENCE):
        await reader.readuntil(b"\n\n")
    writer.close()
    await other_upstream.gone()
    [record] = await gateway.ended(1)
    assert record.status == 499
