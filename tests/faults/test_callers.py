"""Rows 9-13, 23 and 25: request bodies that are too large, compressed or in another format, and their log lines."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import zlib

import msgspec
import pytest

from app.server import logs

from ..conftest import PATIENCE, ScriptedUpstream, replies, running_gateway, settings_for, until
from ..endpoints.test_strict_input import BODY, CALLER_KEY, LENGTH, VECTORS, answers, envelope, posted, sent
from .bench import at_most_megabytes

MEGABYTE = 1024 * 1024
TOO_LARGE = envelope("too_large", "the body is larger than 1 MB (max_body_megabytes)")


# 9, 10, 12: too large.


async def test_a_body_declared_too_large_is_refused_before_it_comes(upstream: ScriptedUpstream) -> None:
    """The reply comes before any of the body was sent."""
    async with running_gateway(settings_for(upstream.url, max_body_megabytes=1)) as gateway:
        declared = [posted(b"content-length: %d" % size, body=b"") for size in (MEGABYTE + 1, 10**12)]
        for data in await asyncio.gather(*(sent(gateway, request) for request in declared)):
            [got] = answers(data)
            assert (got.line, got.json) == ("HTTP/1.1 413 Request Entity Too Large", TOO_LARGE)
            assert got.headers["connection"] == "close"
        assert gateway.records == []
    assert upstream.seen == []


async def test_a_body_in_chunks_is_refused_at_the_limit(upstream: ScriptedUpstream) -> None:
    """The gateway keeps no more than the limit, however much is sent."""
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    async with running_gateway(settings_for(upstream.url, max_body_megabytes=1)) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.client.base_url.port)
        writer.write(posted(b"transfer-encoding: chunked", body=b""))
        with at_most_megabytes(50):
            async with asyncio.timeout(PATIENCE):
                flood = asyncio.create_task(_flood(writer, chunk))
                got = await reader.readuntil(b'_megabytes)"}')
                await asyncio.wait([flood])
        writer.close()
        assert gateway.records == []
    assert got.startswith(b"HTTP/1.1 413 ")
    assert got.endswith(msgspec.json.encode(TOO_LARGE))
    assert upstream.seen == []


async def _flood(writer: asyncio.StreamWriter, chunk: bytes) -> None:
    """Sends 300 MB, or less if the gateway closes the connection."""
    try:
        for _ in range(300 * 16):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass


async def test_a_stranger_is_refused_before_his_body_comes(upstream: ScriptedUpstream) -> None:
    callers = [{"name": "team", "key": CALLER_KEY}]
    async with running_gateway(settings_for(upstream.url, callers=callers)) as gateway:
        heads = (b"content-length: 33000000", b"content-length: 1000000000000", b"transfer-encoding: chunked")
        for data in await asyncio.gather(*(sent(gateway, posted(head, body=b"")) for head in heads)):
            [got] = answers(data)
            assert got.line == "HTTP/1.1 401 Unauthorized"
            assert got.json["error"]["code"] == "invalid_api_key"
            assert got.headers["connection"] == "close"
        assert gateway.records == []
    assert upstream.seen == []


# 11: compressed.


async def test_a_body_packed_in_another_way_is_refused_before_it_comes(upstream: ScriptedUpstream) -> None:
    message = "content-encoding must be gzip or deflate, applied once; or send the body uncompressed"
    codings = (b"br", b"zstd", b"gzip, gzip", b"gzip, deflate", b"rot13")
    heads = [posted(b"content-encoding: " + coding, b"content-length: 1000000", body=b"") for coding in codings]
    async with running_gateway(settings_for(upstream.url)) as gateway:
        for data in await asyncio.gather(*(sent(gateway, head) for head in heads)):
            [got] = answers(data)
            assert got.line == "HTTP/1.1 415 Unsupported Media Type"
            assert got.json == envelope("unsupported_media_type", message)
        assert gateway.records == []
    assert upstream.seen == []


def bomb(megabytes: int) -> bytes:
    """Compressed blanks, a thousand times smaller than their content."""
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    first = packer.compress(b" " * MEGABYTE) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(b" " * MEGABYTE) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + again * (megabytes - 1)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_bomb_is_refused_at_the_limit(chunked: bool, upstream: ScriptedUpstream) -> None:
    """10 MB that expand to 10 GB: decompression stops at the limit."""
    body = bomb(10_000)
    framed = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    framing = (b"%x\r\n" % len(body), b"\r\n0\r\n\r\n") if chunked else (b"", b"")
    data = posted(b"content-encoding: gzip", framed, body=body.join(framing))
    async with running_gateway(settings_for(upstream.url)) as gateway:
        with at_most_megabytes(150):
            [got] = answers(await sent(gateway, data))
        assert gateway.records == []
        assert (await gateway.client.get("/healthz")).status_code == 200
    assert got.line == "HTTP/1.1 413 Request Entity Too Large"
    assert got.json == envelope("too_large", "the body is larger than 32 MB (max_body_megabytes)")
    assert upstream.seen == []


async def test_a_bomb_holds_up_nobody(upstream: ScriptedUpstream) -> None:
    """The loop runs after every 64 kB of 32 MB, before the answer."""
    turns, body = 0, bomb(33)

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with running_gateway(settings_for(upstream.url)) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.client.base_url.port)
        turning = asyncio.create_task(turn())
        writer.write(posted(b"content-encoding: gzip", b"content-length: %d" % len(body), body=body))
        async with asyncio.timeout(PATIENCE):
            head = await reader.readuntil(b"\r\n\r\n")
        turning.cancel()
        writer.close()
    assert turns >= 32 * 16
    assert head.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("missing", [0, 1], ids=["whole", "without its last byte"])
async def test_many_bombs_at_once_take_the_room_of_one(missing: int, upstream: ScriptedUpstream) -> None:
    """Each body alone would be within the limit. A body whose end is withheld takes no more memory than its
    compressed bytes."""
    body = gzip.compress(b" " * 8 * MEGABYTE)
    request = posted(b"content-encoding: gzip", b"content-length: %d" % len(body), body=body[: len(body) - missing])
    async with running_gateway(settings_for(upstream.url, max_body_megabytes=8)) as gateway:
        with at_most_megabytes(40):
            streams = [await asyncio.open_connection("127.0.0.1", gateway.client.base_url.port) for _ in range(12)]
            for _, writer in streams:
                writer.write(request)
            async with asyncio.timeout(PATIENCE):
                for _ in range(500 if missing else 0):  # enough turns of the loop to decompress the received part
                    await asyncio.sleep(0)
                for reader, writer in streams:
                    writer.write(body[len(body) - missing :])
                    assert await reader.readline() == b"HTTP/1.1 400 Bad Request\r\n"
                    writer.close()
    assert upstream.seen == []


async def test_many_packed_bodies_at_once_are_all_served(upstream: ScriptedUpstream) -> None:
    """Small ones and large ones."""
    upstream.plays(replies(VECTORS))
    async with running_gateway(settings_for(upstream.url)) as gateway:
        packed = [gzip.compress(BODY + b" " * size) for size in (0, 300_000, MEGABYTE) * 8]
        got = [gateway.post("/v1/embeddings", body, **{"content-encoding": "gzip"}) for body in packed]
        assert [answer.status_code for answer in await asyncio.gather(*got)] == [200] * 24


async def test_who_leaves_while_their_body_is_unpacked_is_asked_nothing_for(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(VECTORS))
    body = gzip.compress(BODY + b" " * MEGABYTE)
    async with running_gateway(settings_for(upstream.url)) as gateway:
        load = gateway.generations.load
        async with load.unpacking:
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.client.base_url.port)
            writer.write(posted(b"content-encoding: gzip", b"content-length: %d" % len(body), body=body))
            await until(lambda: bool(load.unpacking._waiters))
            writer.close()
            await until(lambda: not gateway.server.server_state.connections)
        await until(lambda: not load.calls)
    assert upstream.seen == []


async def test_what_is_packed_is_bounded_too(upstream: ScriptedUpstream) -> None:
    """Endless empty blocks, which expand to nothing."""
    empty = b"\0\0\0\xff\xff" * 10_000
    async with running_gateway(settings_for(upstream.url, max_body_megabytes=1)) as gateway:
        head = posted(b"content-encoding: deflate", b"transfer-encoding: chunked", body=b"")
        chunk = b"%x\r\n" % len(empty) + empty + b"\r\n"
        [got] = answers(await sent(gateway, head, *[chunk] * 30))
        assert gateway.records == []
    assert (got.line, got.json) == ("HTTP/1.1 413 Request Entity Too Large", TOO_LARGE)
    assert upstream.seen == []


async def test_a_packed_body_may_be_as_large_as_any(upstream: ScriptedUpstream) -> None:
    """The limit is exact to the byte."""
    upstream.plays(replies(VECTORS))
    full = BODY + b" " * (MEGABYTE - len(BODY))
    async with running_gateway(settings_for(upstream.url, max_body_megabytes=1)) as gateway:
        for coding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
            good = await gateway.post("/v1/embeddings", pack(full), **{"content-encoding": coding})
            large = await gateway.post("/v1/embeddings", pack(full + b" "), **{"content-encoding": coding})
            assert (good.status_code, large.status_code) == (200, 413)
            assert large.json() == TOO_LARGE
    assert len(upstream.seen) == 2


async def test_the_packed_body_of_a_stranger_is_not_unpacked(upstream: ScriptedUpstream) -> None:
    callers = [{"name": "team", "key": CALLER_KEY}]
    async with running_gateway(settings_for(upstream.url, callers=callers)) as gateway:
        [got] = answers(await sent(gateway, posted(b"content-encoding: gzip", LENGTH, body=b"")))
        assert got.line == "HTTP/1.1 401 Unauthorized"
    assert upstream.seen == []


# 13: other formats.


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded",
        "text/plain",
        "application/json; charset=latin-1",
        "application/octet-stream",
        "text/html",
        "a",
        "",
    ],
)
async def test_any_content_type_is_read_as_json(kind: str, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(VECTORS))
    async with running_gateway(settings_for(upstream.url)) as gateway:
        good = await gateway.client.post("/v1/embeddings", content=BODY, headers={"content-type": kind})
        form = await gateway.client.post("/v1/embeddings", content=b"model=m&input=hi", headers={"content-type": kind})
    assert (good.status_code, form.status_code) == (200, 400)
    assert form.json()["error"]["message"].startswith("the body is not JSON: ")
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "Multipart/Form-Data", "multipart/mixed"])
async def test_a_form_in_parts_is_refused(kind: str, upstream: ScriptedUpstream) -> None:
    async with running_gateway(settings_for(upstream.url)) as gateway:
        body = b'--x\r\ncontent-disposition: form-data; name="input"; filename="a"\r\n\r\nhi\r\n--x--\r\n'
        answer = await gateway.client.post("/v1/embeddings", content=body, headers={"content-type": kind})
    assert answer.status_code == 415
    message = "send JSON, not a multipart form: content-type application/json"
    assert answer.json() == envelope("unsupported_media_type", message)


# 23: addresses named by the caller.


async def test_the_gateway_fetches_nothing_that_a_caller_names(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    """Neither for an image nor a document nor anything else: no connection is even made."""
    with socket.create_server(("127.0.0.1", 0)) as inside:
        inside.setblocking(False)
        url = f"http://127.0.0.1:{inside.getsockname()[1]}/secret.png"
        for each in (upstream, other_upstream):
            each.plays(replies({"error": "no"}, 400))
        image = {"type": "image_url", "image_url": {"url": url}}
        calls = [
            ("/v1/embeddings", {"model": "jina-clip-v2", "input": [{"image": url}, {"url": url}]}),
            ("/v1/rerank", {"model": "jina-reranker-m0", "query": {"image": url}, "documents": [{"image": url}]}),
            *(
                ("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": [image]}]})
                for model in ("jina-deepsearch-v1", "gpt-4o-mini")
            ),
        ]
        async with running_gateway(settings_for(upstream.url, other_upstream.url)) as gateway:
            for path, body in calls:
                assert (await gateway.post(path, body)).status_code == 400
        with pytest.raises(BlockingIOError):
            inside.accept()
    assert len(upstream.seen) + len(other_upstream.seen) == len(calls)


# 25: log lines.

EVIL = 'x\r\n{"level":"error","message":"forged"}\nERROR forged\x1b[31m\u2028forged\x00\x85'


async def test_what_callers_send_forges_no_line_of_the_log(
    upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "torii")
    caplog.set_level(logging.DEBUG, "uvicorn")
    named = {"user-agent": 'a" forged \\n', "x-request-id": "forged\\r\\n", "x-forwarded-for": "forged"}
    async with running_gateway(settings_for(upstream.url)) as gateway:
        response = await gateway.post("/v1/embeddings", {"model": EVIL, "input": "a"}, **named)
        assert response.status_code == 404
        assert response.json()["detail"].isprintable()
        await gateway.client.get("/v1/%0d%0aERROR%20forged%1b[31m", headers=named)
        [record] = await gateway.ended(1)
    assert record.call.model == EVIL
    assert response.headers["x-request-id"] == record.request_id
    written = [entry for entry in caplog.records if entry.name == "torii.calls"]
    assert len(written) == 1
    for entry in caplog.records:
        for form in (logs.JsonLines, logs.TextLines):
            assert form(str).format(entry).isprintable()
    assert msgspec.json.decode(logs.JsonLines(str).format(written[0]))["model"] == EVIL
