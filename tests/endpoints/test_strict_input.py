"""Input from strangers: JSON with a single reading, and HTTP requests with an unambiguous end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.json import Malformed, decode, decode_strict
from app.endpoints.fields import FORBIDDEN
from app.server.protocol import HEAD_BYTES, HEADERS, TARGET_BYTES

from ..conftest import (
    AIHUBMIX_KEY,
    PATIENCE,
    RunningGateway,
    ScriptedUpstream,
    replies,
    running_gateway,
    settings_for,
    streams,
    until,
)

VECTORS = {
    "model": "m",
    "object": "list",
    "usage": {"total_tokens": 4},
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
}
BODY = b'{"model":"jina-embeddings-v3","input":"hi"}'
CALLER_KEY = "a-key-of-the-caller-0123456789"

NO_HTTP = "malformed HTTP/1.1: check the request line, the lengths and the chunks"
NO_PATH = "the request's target must be a path such as /v1/embeddings; this gateway is not a proxy"
NO_CODING = "the only supported transfer-encoding is chunked, and HTTP/1.0 has none"
HIDDEN = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: 43\r\n\r\n" + BODY


@dataclass
class Got:
    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


async def sent(gateway: RunningGateway, *pieces: bytes, seconds: float = 2 * PATIENCE) -> bytes:
    """All data until the gateway closes the connection; fails if it does not within ``seconds``."""
    parts = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        async with asyncio.timeout(seconds):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await reader.read()
    finally:
        writer.close()


def answers(data: bytes) -> list[Got]:
    """The responses in ``data``, each with a content-length; fails on any other data."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        line, *lines = head.decode("ascii").split("\r\n")
        headers = dict(header.split(": ", 1) for header in lines)
        size = int(headers["content-length"])
        found.append(Got(line, headers, data[:size]))
        data = data[size:]
    return found


def assert_refused(data: bytes, line: str, code: str, message: str) -> None:
    [got] = answers(data)
    assert got.line == f"HTTP/1.1 {line}"
    assert got.json == envelope(code, message)
    assert got.headers["connection"] == "close"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-should-retry"] == "false"
    assert len(got.headers["x-request-id"]) == 32


def envelope(code: str, message: str, param: str | None = None) -> Any:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return {"error": error, "detail": message}


def posted(*headers: bytes, body: bytes = BODY, path: bytes = b"/v1/embeddings", version: bytes = b"1.1") -> bytes:
    lines = [b"POST " + path + b" HTTP/" + version, b"host: localhost", *headers, b"", b""]
    return b"\r\n".join(lines) + body


LENGTH = b"content-length: 43"


@pytest.fixture
async def keyed(upstream: ScriptedUpstream) -> AsyncIterator[RunningGateway]:
    """A gateway with callers."""
    callers = [{"name": "team", "key": CALLER_KEY}]
    async with running_gateway(settings_for(upstream.url, callers=callers)) as running:
        yield running


# JSON.

HALF = "a string has an unpaired surrogate: \\ud800 to \\udfff must come in pairs"
DEEP = "nested deeper than 64 levels"
LONG = "a whole number has more than 100 digits"
LARGE = "a number exceeds the range of a 64-bit float"
WIDE = "it is UTF-16 or UTF-32; send UTF-8"
BAD_JSON: list[tuple[bytes, str]] = [
    (b'{"model":"a","model":"b"}', "duplicate key 'model' in one object"),
    (b'{"a" \n:1,"\\u0061":2}', "duplicate key 'a' in one object"),
    (b'{"a":[{"b":{"c":":","c":"\\":"}}]}', "duplicate key 'c' in one object"),
    (b'{"' + b"k" * 100 + b'":1,"' + b"k" * 100 + b'":1}', f"duplicate key '{'k' * 64}' in one object"),
    (b"[" * 100_000, DEEP),
    (b'{"a":' * 100_000, DEEP),
    (b"[" * 900 + b"]" * 900, DEEP),
    (b'{"a":' + b"[" * 65 + b"]" * 65 + b"}", DEEP),
    (b'{"a":NaN}', "NaN is not a number in JSON (byte 5)"),
    (b'{"a":[Infinity]}', "Infinity is not a number in JSON (byte 6)"),
    (b'{"a":-Infinity}', "-Infinity is not a number in JSON (byte 5)"),
    (b'{"NaN":"\\"NaN", "\xc3\xbc":NaN}', "NaN is not a number in JSON (byte 21)"),
    (b'{"a":1e999}', LARGE),
    (b'{"a":-1e999}', LARGE),
    (b'{"a":1' + b"0" * 100 + b"}", LONG),
    (b'{"a":["b",-1' + b"0" * 100 + b"]}", LONG),
    (b'{"a":' + b"9" * 20_000 + b"}", LONG),
    (b'{"\\ud800":1}', HALF),
    (b'["\\ud800"]', f"[0]: {HALF}"),
    (b'{"a":"b\0"}', "unexpected NUL byte (byte 7)"),
    (b"{}\0", "unexpected NUL byte (byte 2)"),
    (b'{"a":"\xff"}', "the text is not UTF-8 (byte 6)"),
    (b'{"a":"\xed\xa0\x80"}', "the text is not UTF-8 (byte 6)"),
    ('{"a":1}'.encode("utf-16"), WIDE),
    ('{"a":1}'.encode("utf-16-le"), WIDE),
    ('{"a":1}'.encode("utf-16-be"), WIDE),
    ('{"a":1}'.encode("utf-32"), WIDE),
    (b'\xef\xbb\xbf{"a":1,"a":1}', "duplicate key 'a' in one object"),
    (b"\xef\xbb\xbf", "it is empty"),
    (b"", "it is empty"),
    (b" \n", "it is empty"),
    (b'{"a":1} x', "unexpected 'x' (byte 8)"),
    (b'{"a":', "unexpected end (byte 5)"),
    (b'{"a":"\xc3\xbc', "unterminated string (byte 5)"),
    (b'{"a":"b" "c"}', "unexpected '\"' (byte 9)"),
    (b"{'a':1}", 'unexpected "\'" (byte 1)'),
    (b'{"\xc3\xbc":\xc3\xbc}', "unexpected '\\xfc' (byte 6)"),
    (b'{"a":1, }', "unexpected '}' (byte 8)"),
    (b'{"a":[1,]}', "unexpected ']' (byte 8)"),
    (b" <!doctype html>", "it is HTML or XML"),
    (b'{"a":[1,,]}', "unexpected ']' (byte 9)"),
    (b'{"a":"b\nc"}', "unexpected '\\n' (byte 7)"),
    (b'{"a":"\\x"}', "unexpected '\\\\' (byte 6)"),
    (b'{"a":"\\u12g4"}', "unexpected '\\\\' (byte 6)"),
    (b"[" + b"0," * 500_000 + b"x]", "it is malformed; the position is reported up to 1 MB only"),
]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/v1/chat/completions"])
async def test_json_that_is_none_is_a_400_that_says_why(
    path: str, gateway: RunningGateway, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    for body, why in BAD_JSON:
        began = time.process_time()
        response = await gateway.post(path, body)
        assert (response.status_code, response.json()) == (
            400,
            envelope("invalid_request", f"the body is not JSON: {why}"),
        )
        assert time.process_time() - began < 1
    for body in (b"null", b"[]", b'"text"', b"1", b"true"):
        response = await gateway.post(path, body)
        assert (response.status_code, response.json()) == (
            400,
            envelope("invalid_request", "the body must be a JSON object"),
        )
    assert upstream.seen == other_upstream.seen == []


@pytest.mark.parametrize(
    ("body", "place", "param"),
    [
        (b'{"input":"\\ud800 and more"}', "input", "input"),
        (b'{"input":["whole \\ud83d\\ude00","\\ud83d"]}', "input[1]", "input"),
        (b'{"input":["a",{"text":"\\udc00\\ud800"},"\\ud800"]}', "input[1].text", "input"),
        (b'{"messages":[{"content":[{"text":"\\ude00"}]}]}', "messages[0].content[0].text", "messages"),
    ],
)
async def test_half_an_emoji_is_told_with_its_place(
    body: bytes, place: str, param: str, gateway: RunningGateway
) -> None:
    response = await gateway.post("/v1/embeddings", body)
    says = f"the body is not JSON: {place}: {HALF}"
    assert (response.status_code, response.json()) == (400, envelope("invalid_request", says, param))


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":":","b":[{":":1},{":":2}],"c":{"a":{"a":"\\":"}}}',
        b'{"a" : "\\u003a", "b"\n:\t"\\":1,\\"a\\":2"}',
        b'{"":{"":""}}',
        b'{"a":"\\ud83d\\ude00\\u0000"}',
        b'{"a":' + b"[" * 63 + b"1" + b"]" * 63 + b"}",
        b'{"a":[' + b"9" * 100 + b",-" + b"9" * 100 + b"]}",
    ],
)
def test_sound_json_is_taken(body: bytes) -> None:
    assert decode_strict(body) == decode(body)


KEYS = st.text('ab:"\\ ', max_size=3)
TREES = st.recursive(
    st.none() | st.integers() | KEYS, lambda t: st.lists(t, max_size=3) | st.lists(st.tuples(KEYS, t), max_size=3)
)


def written(tree: Any) -> tuple[bytes, bool]:
    """The tree as JSON, with lists of pairs as objects; and whether an object has a duplicate key."""
    if not isinstance(tree, list):
        return msgspec.json.encode(tree), False
    if tree and all(isinstance(item, tuple) for item in tree):
        values = [(msgspec.json.encode(key), *written(value)) for key, value in tree]
        doubled = len({key for key, _ in tree}) < len(tree) or any(twice for _, _, twice in values)
        return b"{" + b",".join(key + b" :" + value for key, value, _ in values) + b"}", doubled
    items = [written(item) for item in tree if not isinstance(item, tuple)]
    return b"[" + b",".join(item for item, _ in items) + b"]", any(twice for _, twice in items)


@given(TREES)
def test_keys_that_come_twice_are_found_and_no_others(tree: Any) -> None:
    data, doubled = written(tree)
    if doubled:
        with pytest.raises(Malformed, match=r"duplicate key .* in one object"):
            decode_strict(data)
    else:
        assert decode_strict(data) == decode(data)


async def test_a_nul_that_is_escaped_goes_on_escaped(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(VECTORS))
    await gateway.post("/v1/embeddings", b'{"model":"jina-embeddings-v3","input":"a\\u0000b"}')
    assert upstream.seen[0].raw == b'{"model":"jina-embeddings-v3","input":["a\\u0000b"]}'


# Requests that would change the target.


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "openai-embed", "input": ["hi"]}),
        ("/v1/rerank", {"model": "cohere-rerank", "query": "q", "documents": ["a"]}),
        ("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}),
    ],
)
async def test_fields_that_would_move_the_target_never_pass(
    path: str, body: dict[str, Any], gateway: RunningGateway, other_upstream: ScriptedUpstream
) -> None:
    evil: dict[str, Any] = dict.fromkeys(FORBIDDEN, "http://127.0.0.1:9/evil")
    evil["extra_body"] = {"api_base": "http://127.0.0.1:9/evil", "extra_body": {"base_url": "http://127.0.0.1:9/evil"}}
    other_upstream.plays(replies({"error": "no"}, 400))
    await gateway.post(path, {**body, **evil, "a_field_of_tomorrow": 1})
    [seen] = other_upstream.seen
    assert b"evil" not in seen.raw
    assert not FORBIDDEN & set(seen.body)
    assert seen.body["a_field_of_tomorrow"] == 1
    assert seen.headers["authorization"] == f"Bearer {AIHUBMIX_KEY}"


async def test_the_same_names_in_a_callers_own_texts_are_his(
    gateway: RunningGateway, other_upstream: ScriptedUpstream
) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "x", "api_key": "mine", "base_url": "b"}]}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"api_base": {}}}}}]
    other_upstream.plays(replies({"error": "no"}, 400))
    await gateway.post("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": messages, "tools": tools})
    assert (other_upstream.seen[0].body["messages"], other_upstream.seen[0].body["tools"]) == (messages, tools)


# Headers.


async def test_no_header_of_the_caller_goes_upstream(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(VECTORS))
    foreign = {
        "authorization": "Bearer canary",
        "cookie": "canary",
        "x-forwarded-for": "canary",
        "forwarded": "canary",
        "x-real-ip": "canary",
        "proxy-authorization": "canary",
        "x-api-key": "canary",
        "api-key": "canary",
        "openai-organization": "canary",
        "x-request-id": "canary",
        "user-agent": "canary",
        "referer": "canary",
        "te": "trailers",
        "via": "canary",
        "accept-encoding": "gzip",
        "x-http-method-override": "DELETE",
    }
    response = await gateway.post("/v1/embeddings", BODY, **foreign)
    assert response.status_code == 200
    [seen] = upstream.seen
    assert set(seen.headers) == {
        *("host", "accept", "accept-encoding", "authorization", "content-length", "content-type"),
        *("user-agent", "x-request-id"),
    }
    assert not [value for value in (*seen.headers.values(), *response.headers.values()) if "canary" in value]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_models_name_in_another_script_is_plain_in_a_header(
    stream: bool, gateway: RunningGateway, other_upstream: ScriptedUpstream
) -> None:
    choice = {"index": 0, "message": {}, "delta": {}, "finish_reason": "stop"}
    body = msgspec.json.encode({"id": "u", "choices": [choice]})
    other_upstream.plays(streams(b"data: " + body + b"\n\ndata: [DONE]\n\n") if stream else replies(body))
    asked = {"model": "aihubmix/模型", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    response = await gateway.post("/v1/chat/completions", asked)
    assert (response.status_code, response.headers["x-torii-upstream-model"]) == (200, "??")


@pytest.mark.parametrize("model", ["a\r\nx-evil: 1", "../../etc/passwd", "a\0b", "a b", "m" * 100_000, "http://e/x"])
async def test_a_models_name_that_none_has(
    model: str, gateway: RunningGateway, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    response = await gateway.post("/v1/embeddings", {"model": model, "input": "a"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert "x-evil" not in response.headers
    assert len(response.content) < 1000
    assert upstream.seen == other_upstream.seen == []


# Keys.


async def test_two_keys_are_none(keyed: RunningGateway, upstream: ScriptedUpstream) -> None:
    right = b"authorization: Bearer " + CALLER_KEY.encode()
    message = (
        "Incorrect API key provided: the headers of the request hold different keys. Send one header "
        "'Authorization: Bearer <key>', 'api-key: <key>' or 'x-api-key: <key>' with a key of this gateway."
    )
    for other in (b"authorization: Bearer other", b"api-key: other", b"X-Api-Key: other"):
        [got] = answers(await sent(keyed, posted(right, other, LENGTH)))
        assert (got.line, got.json) == ("HTTP/1.1 401 Unauthorized", envelope("invalid_api_key", message))
        assert got.headers["connection"] == "close"
    assert upstream.seen == []


@pytest.mark.parametrize(
    "headers",
    [
        [b"api-key: " + CALLER_KEY.encode()],
        [b"X-API-Key:" + CALLER_KEY.encode()],
        [b"authorization: Bearer " + CALLER_KEY.encode(), b"Api-Key: " + CALLER_KEY.encode()],
    ],
)
async def test_a_key_as_azures_and_anthropics_clients_send_it(
    headers: list[bytes], keyed: RunningGateway, upstream: ScriptedUpstream
) -> None:
    """Such a key is forwarded no further than a Bearer key."""
    upstream.plays(replies(VECTORS))
    [got] = answers(await sent(keyed, posted(*headers, LENGTH, b"connection: close")))
    assert got.line == "HTTP/1.1 200 OK"
    [seen] = upstream.seen
    assert not seen.headers.keys() & {"api-key", "x-api-key"}
    assert CALLER_KEY not in str(seen.headers)


@pytest.mark.parametrize(
    "query", ["key={}", "api_key={}", "a=b&access_token={}", "authorization=Bearer%20{}", "API%5FKEY={}", "%6bey={}"]
)
async def test_a_key_in_the_query_is_refused_and_logged_nowhere(
    query: str, keyed: RunningGateway, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "torii")
    caplog.set_level(logging.DEBUG, "uvicorn")
    right = {"authorization": f"Bearer {CALLER_KEY}"}
    message = "The query contains a key. Send keys in the header 'Authorization: Bearer <key>' only."
    for headers in ({}, right):
        response = await keyed.post(f"/v1/embeddings?{query.format(CALLER_KEY)}", BODY, **headers)
        assert (response.status_code, response.json()) == (401, envelope("invalid_api_key", message))
        response = await keyed.client.get(f"/v1/models?{query.format(CALLER_KEY)}", headers=headers)
        assert (response.status_code, response.json()) == (401, envelope("invalid_api_key", message))
    await keyed.client.get(f"/nothing?{query.format(CALLER_KEY)}")
    assert upstream.seen == []
    assert CALLER_KEY not in caplog.text


async def test_a_trailer_is_no_header(keyed: RunningGateway, upstream: ScriptedUpstream) -> None:
    trailer = b"0\r\nauthorization: Bearer " + CALLER_KEY.encode() + b"\r\n\r\n"
    [got] = answers(await sent(keyed, posted(b"transfer-encoding: chunked", body=b"2b\r\n" + BODY + b"\r\n" + trailer)))
    assert (got.line, got.json["error"]["code"]) == ("HTTP/1.1 401 Unauthorized", "invalid_api_key")
    assert upstream.seen == []


# The end of a request.

CHUNKED = b"transfer-encoding: chunked"
SMUGGLING = {
    "length and chunks": (posted(LENGTH, CHUNKED, body=b"0\r\n\r\n"), NO_HTTP),
    "chunks and length": (posted(CHUNKED, LENGTH, body=b"0\r\n\r\n"), NO_HTTP),
    "two lengths": (posted(LENGTH, b"content-length: 0"), NO_HTTP),
    "one length twice": (posted(LENGTH, LENGTH), NO_HTTP),
    "a list of lengths": (posted(b"content-length: 43, 43"), NO_HTTP),
    "a length with a plus": (posted(b"content-length: +43"), NO_HTTP),
    "a length with a minus": (posted(b"content-length: -43"), NO_HTTP),
    "a length in hexadecimal": (posted(b"content-length: 0x2b"), NO_HTTP),
    "a length that is too long": (posted(b"content-length: 99999999999999999999999"), NO_HTTP),
    "an empty length": (posted(b"content-length:"), NO_HTTP),
    "a space before the colon": (posted(b"content-length : 43"), NO_HTTP),
    "a folded header": (posted(b"transfer-encoding:\r\n chunked", body=b"0\r\n\r\n"), NO_HTTP),
    "an unknown coding": (posted(b"transfer-encoding: xchunked", body=b"0\r\n\r\n"), NO_CODING),
    "identity": (posted(b"transfer-encoding: identity", body=b"0\r\n\r\n"), NO_CODING),
    "chunks in between": (posted(b"transfer-encoding: chunked, identity", body=b"0\r\n\r\n"), NO_HTTP),
    "compressed chunks": (posted(b"transfer-encoding: gzip, chunked", body=b"0\r\n\r\n"), NO_CODING),
    "chunks twice": (posted(CHUNKED, CHUNKED, body=b"0\r\n\r\n"), NO_HTTP),
    "a coding with a tab": (posted(b"transfer-encoding:\x0bchunked", body=b"0\r\n\r\n"), NO_HTTP),
    "chunks in HTTP/1.0": (posted(CHUNKED, version=b"1.0", body=b"0\r\n\r\n"), NO_CODING),
    "a chunk with 0x": (posted(CHUNKED, body=b"0x2b\r\n" + BODY + b"\r\n0\r\n\r\n"), NO_HTTP),
    "a negative chunk": (posted(CHUNKED, body=b"-1\r\n" + BODY + b"\r\n0\r\n\r\n"), NO_HTTP),
    "a chunk that is longer": (posted(CHUNKED, body=b"2\r\n" + BODY + b"\r\n0\r\n\r\n"), NO_HTTP),
    "a chunk without CR": (posted(CHUNKED, body=b"2b\n" + BODY + b"\r\n0\r\n\r\n"), NO_HTTP),
    "a chunk that overflows": (posted(CHUNKED, body=b"FFFFFFFFFFFFFFFFF\r\n" + BODY), NO_HTTP),
    "a line without CR": (posted(b"x: y\nz: w", LENGTH), NO_HTTP),
    "a bare CR": (posted(b"x: y\rz: w", LENGTH), NO_HTTP),
    "a NUL": (posted(b"x: y\0", LENGTH), NO_HTTP),
    "HTTP/0.9": (b"GET /v1/models\r\n\r\n", NO_HTTP),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", NO_HTTP),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", NO_HTTP),
    "a proxy's form": (posted(LENGTH, path=b"http://evil.example/v1/embeddings"), NO_PATH),
    "a star": (b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n", NO_PATH),
    "CONNECT": (b"CONNECT evil.example:443 HTTP/1.1\r\nhost: localhost\r\n\r\n", NO_PATH),
    "a CRLF in the path": (posted(LENGTH, path=b"/v1/a\r\nb"), NO_HTTP),
    "a NUL in the path": (posted(LENGTH, path=b"/v1/a\0b"), NO_HTTP),
    "a byte in the path": (posted(LENGTH, path=b"/v1/\xff"), NO_HTTP),
}


@pytest.mark.parametrize(("request_", "message"), SMUGGLING.values(), ids=SMUGGLING)
async def test_a_request_with_two_ends_is_refused_and_what_hides_behind_it_never_runs(
    request_: bytes, message: str, gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(replies(VECTORS))
    assert_refused(await sent(gateway, request_ + HIDDEN, HIDDEN), "400 Bad Request", "invalid_request", message)
    assert upstream.seen == []
    assert (await gateway.post("/v1/embeddings", BODY)).status_code == 200


async def test_a_bad_chunk_after_good_ones_is_refused_too(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    parts = posted(CHUNKED, body=b"5\r\n" + BODY[:5] + b"\r\n"), b"zz\r\n" + HIDDEN
    assert_refused(await sent(gateway, *parts), "400 Bad Request", "invalid_request", NO_HTTP)
    assert upstream.seen == []


async def test_a_refusal_waits_for_the_answers_before_it(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    go = asyncio.Event()

    async def slow(request: Any, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await replies(VECTORS)(request, writer)

    upstream.plays(slow)
    for bad in (posted(LENGTH, LENGTH), posted(CHUNKED, body=b"zz\r\n")):
        go.clear()
        call = asyncio.create_task(sent(gateway, HIDDEN + bad + HIDDEN))
        count = len(upstream.seen)
        await until(lambda: len(upstream.seen) > count)  # noqa: B023 - called before count changes
        go.set()
        one, two = answers(await call)
        assert (one.line, two.line) == ("HTTP/1.1 200 OK", "HTTP/1.1 400 Bad Request")
        assert two.json == envelope("invalid_request", NO_HTTP)
        assert len(upstream.seen) == count + 1


# Sizes.


async def test_a_head_has_at_most_64_kilobytes_and_100_headers(gateway: RunningGateway) -> None:
    many = [b"x-%d: y" % number for number in range(HEADERS - 3)]
    get = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    [got] = answers(await sent(gateway, get + b"\r\n".join([*many, b"x: y", b"", b""])))
    assert got.line == "HTTP/1.1 200 OK"
    message = f"there are more than {HEADERS} headers"
    data = await sent(gateway, get + b"\r\n".join([*many, b"x: y", b"z: y", b"", b""]))
    assert_refused(data, "431 Request Header Fields Too Large", "head_too_large", message)

    message = "the head of the request is larger than 64 kB"
    full = get + b"x: " + b"y" * (HEAD_BYTES - 46) + b"\r\n\r\n"
    [got] = answers(await sent(gateway, full))
    assert got.line == "HTTP/1.1 200 OK"
    for head in (
        [get + b"x: " + b"y" * HEAD_BYTES + b"\r\n\r\n"],
        [get + b"x: " + b"y" * 2_000_000],  # endless
        [get, *[b"x-%d: y\r\n" % number * 1000 for number in range(20)]],
    ):
        [got] = answers(await sent(gateway, *head))
        assert got.line == "HTTP/1.1 431 Request Header Fields Too Large"
    assert_refused(await sent(gateway, full[:-4] + b"y" * 100 + b"\r\n\r\n"), got.line[9:], "head_too_large", message)


async def test_a_target_has_at_most_8_kilobytes(gateway: RunningGateway) -> None:
    target = b"/healthz?" + b"a" * (TARGET_BYTES - 9)
    head = b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    [got] = answers(await sent(gateway, b"GET " + target + head))
    assert got.line == "HTTP/1.1 200 OK"
    for longer in (target + b"a" + head, target + b"a" * 200_000):
        data = await sent(gateway, b"GET " + longer)
        assert_refused(
            data, f"414 {HTTPStatus(414).phrase}", "target_too_long", "the path and query are longer than 8 kB"
        )


async def test_what_comes_with_the_chunks_is_bounded_too(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    chunk = b"2b\r\n" + BODY + b"\r\n"
    for tail in (b"0\r\nx: " + b"y" * 1_000_000, b"0\r\n" + b"x: y\r\n" * 20_000, b"1;" + b"y" * 1_000_000):
        [got] = answers(await sent(gateway, posted(CHUNKED, body=chunk), tail))
        assert got.line == "HTTP/1.1 431 Request Header Fields Too Large"
    assert upstream.seen == []


# Paths.


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../embeddings",
        "/v1/%2e%2e/embeddings",
        "/v1/embeddings/../../etc/passwd",
        "/v1/%0d%0ax-evil:1",
        "/v1/%00",
        "/v1/embeddings%00",
        "/v1/%ff",
        "/V1/embeddings",
        "//evil.example/v1/embeddings",
        "/@evil.example/v1/embeddings",
    ],
)
async def test_a_path_leads_to_an_endpoint_or_nowhere(
    path: str, gateway: RunningGateway, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    request = posted(LENGTH, b"connection: close", path=path.encode())
    [got] = answers(await sent(gateway, request))
    assert (got.line, got.json["error"]["code"]) == ("HTTP/1.1 404 Not Found", "not_found")
    assert "x-evil" not in got.headers
    assert upstream.seen == other_upstream.seen == []


@pytest.mark.parametrize("model", ["../../../etc/passwd", "..%2f..%2fhealthz", "a%0d%0ax-evil:1", "%00"])
async def test_a_models_path_leads_to_a_model_or_nowhere(model: str, gateway: RunningGateway) -> None:
    request = f"GET /v1/models/{model} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    [got] = answers(await sent(gateway, request.encode()))
    assert got.line == "HTTP/1.1 404 Not Found"
    assert got.json["error"]["code"] in ("model_not_found", "not_found")
    assert "x-evil" not in got.headers


# Unusual but valid requests.


async def test_expect_100_continue(keyed: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(VECTORS))
    right = b"authorization: Bearer " + CALLER_KEY.encode()
    expect = b"expect: 100-continue"
    data = await sent(keyed, posted(right, LENGTH, expect, b"connection: close", body=b""), BODY)
    assert data.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    refused = await sent(keyed, posted(LENGTH, expect, body=b""))  # the body is neither requested nor awaited
    assert refused.startswith(b"HTTP/1.1 401 Unauthorized\r\n")


async def test_pipelined_requests_are_answered_in_order(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(VECTORS))
    last = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    got = answers(await sent(gateway, HIDDEN + b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n" + HIDDEN + last))
    assert [answer.line for answer in got] == ["HTTP/1.1 200 OK"] * 4
    assert [sorted(answer.json) for answer in got] == [
        ["data", "model", "object", "usage"],
        ["status", "version"],
        ["data", "model", "object", "usage"],
        ["status"],
    ]
    assert len(upstream.seen) == 2


async def test_http_1_0(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(VECTORS))
    [got] = answers(await sent(gateway, posted(LENGTH, version=b"1.0")))
    assert (got.line, got.headers["connection"]) == ("HTTP/1.1 200 OK", "close")
    assert len(upstream.seen) == 1


async def test_head_has_no_body_and_the_next_answer_is_the_next(gateway: RunningGateway) -> None:
    after = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    data = await sent(gateway, b"HEAD /v1/embeddings HTTP/1.1\r\nhost: localhost\r\n\r\n" + after)
    head, _, rest = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    assert [got.line for got in answers(rest)] == ["HTTP/1.1 200 OK"]
