"""Rows 9-13, 23 and 25: bodies that are too large, packed or in another form, and what is written of all that."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket

import msgspec
import pytest

from app import logs

from ..conftest import PATIENCE, ScriptedUpstream, replies, running_gateway, settings_for
from ..test_strict_input import BODY, CALLER_KEY, VECTORS, answers, envelope, posted, sent
from .bench import at_most_megabytes

MEGABYTE = 1024 * 1024
TOO_LARGE = envelope("too_large", "the body is larger than 1 MB (max_body_megabytes)")


# 9, 10, 12: too large.


async def test_a_body_declared_too_large_is_refused_before_it_comes(upstream: ScriptedUpstream) -> None:
    """Nothing of it was sent, and the answer is there."""
    async with running_gateway(settings_for(upstream.url, max_body_megabytes=1)) as gateway:
        declared = [posted(b"content-length: %d" % size, body=b"") for size in (MEGABYTE + 1, 10**12)]
        for data in await asyncio.gather(*(sent(gateway, request) for request in declared)):
            [got] = answers(data)
            assert (got.line, got.json) == ("HTTP/1.1 413 Request Entity Too Large", TOO_LARGE)
            assert got.headers["connection"] == "close"
        assert gateway.records == []
    assert upstream.seen == []


async def test_a_body_in_chunks_is_refused_at_the_limit(upstream: ScriptedUpstream) -> None:
    """However much is sent, no more than the limit is kept."""
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
    """300 MB, or until the other side has closed."""
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


# 11: packed.


@pytest.mark.parametrize(
    "coding", [b"gzip", b"GZIP", b"x-gzip", b"deflate", b"br", b"zstd", b"gzip, identity", b"rot13"]
)
async def test_a_packed_body_is_refused_before_it_comes(coding: bytes, upstream: ScriptedUpstream) -> None:
    bomb = gzip.compress(b" " * 30 * MEGABYTE)
    async with running_gateway(settings_for(upstream.url, max_body_megabytes=1)) as gateway:
        with at_most_megabytes(20):
            [got] = answers(
                await sent(
                    gateway, posted(b"content-encoding: " + coding, b"content-length: %d" % len(bomb), body=bomb)
                )
            )
        assert gateway.records == []
    assert got.line == "HTTP/1.1 415 Unsupported Media Type"
    message = "send the body uncompressed, without content-encoding"
    assert got.json == envelope("unsupported_media_type", message)
    assert upstream.seen == []


# 13: other forms.


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


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "multipart/form-data", "multipart/mixed"])
async def test_a_form_in_parts_is_refused(kind: str, upstream: ScriptedUpstream) -> None:
    async with running_gateway(settings_for(upstream.url)) as gateway:
        body = b'--x\r\ncontent-disposition: form-data; name="input"; filename="a"\r\n\r\nhi\r\n--x--\r\n'
        answer = await gateway.client.post("/v1/embeddings", content=body, headers={"content-type": kind})
    assert answer.status_code == 415
    message = "send JSON, not a multipart form: content-type application/json"
    assert answer.json() == envelope("unsupported_media_type", message)


# 23: addresses of the caller's.


async def test_the_gateway_fetches_nothing_that_a_caller_names(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    """Not for a picture, a document or anything else: not even a connection is made."""
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


# 25: what is written of it.

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
