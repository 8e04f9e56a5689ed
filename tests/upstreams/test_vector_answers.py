"""Vectors in every form: several for one input, sparse ones, and almost valid ones."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest

from app.core.types import Encoding
from app.core.vectors import encoded

from ..conftest import ScriptedUpstream, replies, running_gateway, settings_for

ENCODINGS: list[Encoding] = ["float", "base64", "binary", "ubinary"]
NOT_FINITE = "a vector with values that are not finite numbers"
NO_VECTOR = "an item without a vector"


async def answer(upstream: ScriptedUpstream, encoding: str, items: list[bytes], **options: Any) -> httpx.Response:
    """The response to a caller if ``items`` are the fields of each vector, beside its index."""
    data = b",".join(b'{"object":"embedding","index":%d,%b}' % each for each in enumerate(items))
    upstream.plays(replies(b'{"object":"list","model":"m","data":[%b],"usage":{"total_tokens":2}}' % data))
    body = {"model": "jina-embeddings-v3", "input": ["a", "b"][: len(items)], "encoding_format": encoding, **options}
    async with running_gateway(settings_for(upstream.url, max_attempts=1)) as gateway:
        return await gateway.post("/v1/embeddings", body)


def refusal(what: str) -> Any:
    message = f"jina sent {what}"
    error = {"message": message, "type": "api_error", "param": None, "code": "upstream_error"}
    return {"error": error, "detail": message}


def data_of(response: httpx.Response) -> list[bytes]:
    """The bytes of each vector."""
    fields = msgspec.json.decode(response.content, type=dict[str, msgspec.Raw])
    items = msgspec.json.decode(bytes(fields["data"]), type=list[dict[str, msgspec.Raw]])
    return [bytes(item.get("embedding", item.get("embeddings", b""))) for item in items]


WRONG = {
    b'[["a","b"]]': NOT_FINITE,
    b"[[1,null]]": NOT_FINITE,
    b"[[1,true]]": NOT_FINITE,
    b"[[1e999]]": NOT_FINITE,
    b"[1,[2]]": NOT_FINITE,
    b"[[1],2]": NOT_FINITE,
    b"[[[1]]]": NOT_FINITE,
    b'[[1],"AAAAPw=="]': NOT_FINITE,
    b'[{"a":1}]': NOT_FINITE,
    b'{"a":null}': NOT_FINITE,
    b'{"a":[1]}': NOT_FINITE,
    b'{"a":1e999}': NOT_FINITE,
    b"[[]]": NO_VECTOR,
    b"{}": NO_VECTOR,
    b"[[1,2],[]]": "several vectors for one input, of different sizes: [0, 2]",
    b"[[1,2],[1]]": "several vectors for one input, of different sizes: [1, 2]",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("field", [b"embedding", b"embeddings"])
@pytest.mark.parametrize(("vector", "what"), WRONG.items())
async def test_several_vectors_are_checked_to_their_numbers(
    vector: bytes, what: str, field: bytes, encoding: str, upstream: ScriptedUpstream
) -> None:
    response = await answer(upstream, encoding, [b'"%b":%b' % (field, vector)])
    assert (response.status_code, response.json()) == (502, refusal(what))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("items", "sizes"),
    [
        ([b'"embedding":[[1.0,2.0]]', b'"embedding":[1.0,2.0]'], "[2, 'several of 2']"),
        ([b'"embeddings":[[1.0,2.0]]', b'"embedding":[1.0,2.0]'], "[2, 'several of 2']"),
        ([b'"embeddings":[[1.0,2.0]]', b'"embedding":"AAAAPwAAAD8="'], "[2, 'several of 2']"),
        ([b'"embedding":{"a":1}', b'"embedding":[1.0,2.0]'], "[2, 'sparse']"),
        ([b'"embedding":{"a":1}', b'"embedding":[[1.0]]'], "['several of 1', 'sparse']"),
        ([b'"embeddings":[[1.0,2.0]]', b'"embeddings":[[1.0],[2.0]]'], "['several of 1', 'several of 2']"),
    ],
)
async def test_all_vectors_of_an_answer_have_one_shape(
    items: list[bytes], sizes: str, encoding: str, upstream: ScriptedUpstream
) -> None:
    response = await answer(upstream, encoding, items)
    assert (response.status_code, response.json()) == (502, refusal(f"vectors of different sizes: {sizes}"))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("vectors", [[b"[[0.50,1],[2,-3e-7]]", b"[[1,2.0]]"], [b'{"a":1.50,"b":-0}', b'{"c":2}']])
@pytest.mark.parametrize("field", [b"embedding", b"embeddings"])
async def test_several_vectors_and_sparse_ones_come_back_as_their_bytes(
    field: bytes, vectors: list[bytes], encoding: str, upstream: ScriptedUpstream
) -> None:
    """Whatever the encoding and the number of dimensions asked for."""
    response = await answer(upstream, encoding, [b'"%b":%b' % (field, each) for each in vectors], dimensions=64)
    assert response.status_code == 200
    assert data_of(response) == vectors


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("float", b"[1.899999976158142,-1.899999976158142]"),
        ("base64", b'"MzPzPzMz878="'),
        ("binary", b"[0]"),
        ("ubinary", b"[128]"),
    ],
)
@pytest.mark.parametrize("sent", [b'"MzPzPzMz878="', b'"MzPzPzMz87\\u0038="', b'"MzPzPzMz87\\u0038\\u003d"'])
async def test_base64_may_have_the_escapes_of_json(
    sent: bytes, encoding: str, expected: bytes, upstream: ScriptedUpstream
) -> None:
    response = await answer(upstream, encoding, [b'"embedding":%b' % sent])
    assert response.status_code == 200
    assert msgspec.json.decode(data_of(response)[0]) == msgspec.json.decode(expected)


async def test_a_slash_of_base64_may_have_a_backslash(upstream: ScriptedUpstream) -> None:
    response = await answer(upstream, "float", [rb'"embedding":"\/\/\/\/P\/\/\/\/z8="'])
    assert data_of(response) == [b"[1.9999998807907104,1.9999998807907104]"]


@pytest.mark.parametrize("sent", [rb'"\/\/\/\/P\/\/\/\/z8"', rb'"\\AACAPw=="', rb'"AACAPw==\n"', '"ÄACAPw=="'.encode()])
async def test_what_is_no_base64_without_its_escapes_is_refused(sent: bytes, upstream: ScriptedUpstream) -> None:
    response = await answer(upstream, "float", [b'"embedding":%b' % sent])
    assert (response.status_code, response.json()) == (502, refusal(NOT_FINITE))


@pytest.mark.parametrize(("encoding", "expected"), [("binary", b"[64]"), ("ubinary", b"[192]")])
@pytest.mark.parametrize("sent", [b"[1E5,1]", b"[1e5,1]", b"[1E0,3]", b"[1e0,3]", b"[2E-1,1.0]", b"[300,1]"])
async def test_signs_are_taken_of_numbers_however_they_are_written(
    sent: bytes, encoding: str, expected: bytes, upstream: ScriptedUpstream
) -> None:
    response = await answer(upstream, encoding, [b'"embedding":%b' % sent])
    assert (response.status_code, data_of(response)) == (200, [expected])


@pytest.mark.parametrize(
    ("sent", "encoding", "expected"),
    [
        (b"[-7,250,0,0,0,0,0,1]", "binary", [65 - 128]),
        (b"[-7,250,0,0,0,0,0,1]", "ubinary", [65]),
        (b"[-129,0,0,0,0,0,0,1]", "binary", [1 - 128]),
        (b"[-128,127]", "ubinary", [0, 255]),
        (b"[0,255]", "binary", [-128, 127]),
    ],
)
def test_bytes_are_signed_or_unsigned_and_else_they_are_numbers(
    sent: bytes, encoding: Encoding, expected: list[int]
) -> None:
    assert encoded(sent, encoding) == expected
