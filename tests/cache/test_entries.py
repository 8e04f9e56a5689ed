"""A stored entry is a valid answer to its call, or is requested again and replaced. No call fails because of it."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from pathlib import Path
from struct import pack
from typing import Any

import httpx
import msgspec
import pytest

from ..conftest import ScriptedUpstream, Seen, replies, running_gateway, settings_for
from .test_indexes import MODEL, RANKER, fill, item, keys, packed, plays, without_usage
from .test_lookup import ask, asked, told, vector

EIGHT = b"[1,1,1,1,1,1,1,1]"
BASE64 = b'"%b"' % b64encode(pack("<8f", *range(8)))
EMBED: Any = {"model": MODEL, "input": ["a"]}


def several(text: bytes) -> bytes:
    return packed({"object": b'"embeddings"', "index": b"0", "embeddings": text})


async def answers(
    upstream: ScriptedUpstream, folder: Path, body: Any, entries: dict[bytes, bytes], path: str = "/v1/embeddings"
) -> list[httpx.Response]:
    """The answers with these entries in a file: first, after a restart, and without a cache."""
    upstream.plays(plays)
    await fill(folder / "cache.db", entries)
    cache = {"store": "sqlite", "path": str(folder / "cache.db")}
    got = []
    for _ in range(2):
        async with running_gateway(settings_for(upstream.url, cache=cache, max_attempts=1)) as gateway:
            got.append(await ask(gateway, body, path))
            plain = await ask(gateway, body, path, cache_control="no-store")
    return [*got, plain]


UNSOUND: dict[str, bytes] = {
    "base64 without its last quote": packed(item(BASE64[:-1] + b"x")),
    "base64 that is cut": packed(item(BASE64[:-1])),
    "base64 beyond its quote": packed(item(BASE64 + b"x")),
    "two vectors": packed([item(EIGHT), item(EIGHT)]),
    "no vectors": several(b"[]"),
    "vectors without numbers": several(b"[[]]"),
    "vectors of two sizes": several(b"[[1],[1,2]]"),
    "vectors of strings": several(b'[["a"]]'),
    "vectors of nulls": packed(item(b"[[1,null]]")),
    "vectors that are not finite": several(b"[[1e999]]"),
    "one vector where several are": several(EIGHT),
    "a sparse one without numbers": packed(item(b'{"a":null}')),
    "a field that ends before it should": packed(item(EIGHT, object=b'"embedding","embedding":[2],"x":"')),
}


@pytest.mark.parametrize("bad", UNSOUND.values(), ids=UNSOUND)
async def test_an_unsound_vector_is_asked_for_again(bad: bytes, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    [key] = keys(EMBED, upstream.url)
    first, second, plain = await answers(upstream, tmp_path, EMBED, {key: bad})
    assert [told(first)[0], told(second)[0]] == ["miss", "hit"]
    assert without_usage(first) == without_usage(second) == without_usage(plain)


@pytest.mark.parametrize("encoding", ["float", "base64", "binary", "ubinary"])
@pytest.mark.parametrize("sent", [b"[0.5,0.25]", b"[-7,250]", b"[300,1]", b"[1e0,1]", b"[1,1,1]", b'"AAAAPwAAgD8="'])
async def test_a_vector_of_another_size_than_asked_for_is_asked_for_again(
    encoding: str, sent: bytes, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """An eighth of the size is valid only if the numbers are bytes."""
    body = {**EMBED, "dimensions": 16, "encoding_format": encoding}
    [key] = keys(body, upstream.url)
    first, second, plain = await answers(upstream, tmp_path, body, {key: packed(item(sent))})
    assert [told(first)[0], told(second)[0]] == ["miss", "hit"]
    assert without_usage(first) == without_usage(second) == without_usage(plain)


async def test_bytes_for_an_eighth_of_the_dimensions_are_right(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    body = {**EMBED, "dimensions": 16, "encoding_format": "ubinary"}
    [key] = keys(body, upstream.url)
    first, _, _ = await answers(upstream, tmp_path, body, {key: packed(item(b"[-128,127]"))})
    assert (told(first)[0], first.json()["data"][0]["embedding"]) == ("hit", [0, 255])


async def test_an_item_without_its_index_has_it_again(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    [key] = keys(EMBED, upstream.url)
    bare = {"object": b'"embedding"', "embedding": EIGHT}
    first, _, _ = await answers(upstream, tmp_path, EMBED, {key: packed(bare)})
    assert told(first)[0] == "hit"
    assert first.json()["data"] == [{"object": "embedding", "index": 0, "embedding": [1] * 8}]


# Entries that are valid by themselves, but not beside the rest of the reply.

OTHERS = {
    "another size": item(b"[0.5,0.25]"),
    "several vectors": item(b"[%b,%b]" % (EIGHT, EIGHT)),
    "a sparse one": item(b'{"a":1}'),
}


@pytest.mark.parametrize("inputs", [["a", "b"], ["a", "b", "c"]])
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_what_is_at_hand_has_the_shape_of_what_comes(
    other: Any, inputs: list[str], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Otherwise all inputs are requested, whatever the number of attempts."""
    body = {**EMBED, "input": inputs}
    first, second, plain = await answers(upstream, tmp_path, body, {keys(body, upstream.url)[0]: packed(other)})
    assert [told(first)[0], told(second)[0]] == ["miss", "hit"]
    assert without_usage(first) == without_usage(second) == without_usage(plain)
    assert asked(upstream)[:2] == [inputs[1:], inputs]


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_all_that_is_at_hand_has_one_shape(other: Any, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    body = {**EMBED, "input": ["a", "b"]}
    kept = zip(keys(body, upstream.url), [packed(other), packed(item(EIGHT))], strict=True)
    first, second, plain = await answers(upstream, tmp_path, body, dict(kept))
    assert [told(first)[0], told(second)[0]] == ["miss", "hit"]
    assert without_usage(first) == without_usage(second) == without_usage(plain)


async def test_a_number_that_base64_does_not_hold_is_asked_for_again(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    body = {**EMBED, "input": ["a", "b"], "encoding_format": "base64"}
    large = packed(item(b"[1e99,1,1,1,1,1,1,1]"))
    first, second, plain = await answers(upstream, tmp_path, body, {keys(body, upstream.url)[0]: large})
    assert [told(first)[0], told(second)[0]] == ["miss", "hit"]
    assert without_usage(first) == without_usage(second) == without_usage(plain)


async def test_a_model_that_has_another_size_from_today_on(upstream: ScriptedUpstream) -> None:
    """In memory only. A repeated request is recorded twice, since it was billed twice."""
    size = 2

    async def play(request: Seen, writer: asyncio.StreamWriter) -> None:
        data = [{"index": place, "embedding": vector(text, size)} for place, text in enumerate(request.body["input"])]
        await replies({"data": data, "usage": {"total_tokens": len(data)}})(request, writer)

    upstream.plays(play)
    async with running_gateway(settings_for(upstream.url, cache={"store": "memory"})) as gateway:
        for text in ("a", "b"):
            await ask(gateway, {**EMBED, "input": text})
        size = 4
        got = [await ask(gateway, {**EMBED, "input": ["a", "c"]}) for _ in range(2)]
        got += [await ask(gateway, {**EMBED, "input": ["b", "c"]})]
        records = await gateway.ended(5)
    assert [(record.usage or {})["total_tokens"] for record in records] == [1, 1, 3, 0, 2]
    assert [told(response) for response in got] == [("miss", 2, None), ("hit", 0, 2), ("miss", 2, None)]
    assert [len(each["embedding"]) for response in got for each in response.json()["data"]] == [4] * 6
    assert asked(upstream) == [["a"], ["b"], ["c"], ["a", "c"], ["b", "c"]]


# Rankings.

RANK: Any = {"model": RANKER, "query": "q", "documents": ["a", "b", "c"]}
HALF, QUARTER = b'{"index":0,"relevance_score":0.5}', b'{"index":1,"relevance_score":0.25}'
RESULTS: dict[str, tuple[Any, bytes]] = {
    "fewer than there are": (RANK, b"[%b,%b]" % (HALF, QUARTER)),
    "fewer than asked for": ({**RANK, "top_n": 2}, b"[%b]" % HALF),
    "more than asked for": ({**RANK, "top_n": 1}, b"[%b,%b]" % (HALF, QUARTER)),
    "a field of another name": ({**RANK, "top_n": 1}, b'[{"index":0,"relevance_score":0.5,"text":"secret"}]'),
    "a number beside it": ({**RANK, "top_n": 1}, b'[{"index":0,"relevance_score":0.5,"x":1e999}]'),
}


def ranking(results: bytes) -> bytes:
    head = {"object": b'"list"', "results": results, "model": b'"m"', "usage": b""}
    return packed({"index": b"", "relevance_score": b""}, head)


@pytest.mark.parametrize(("body", "results"), RESULTS.values(), ids=RESULTS)
async def test_a_ranking_of_something_else_is_asked_for_again(
    body: Any, results: bytes, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    [key] = keys(body, upstream.url)
    first, second, plain = await answers(upstream, tmp_path, body, {key: ranking(results)}, "/v1/rerank")
    assert [told(first)[0], told(second)[0]] == ["miss", "hit"]
    assert without_usage(first) == without_usage(second) == without_usage(plain)


async def test_a_ranking_is_put_in_order(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    body = {**RANK, "top_n": 2, "return_documents": False}
    [key] = keys(body, upstream.url)
    entries = {key: ranking(b"[%b,%b]" % (QUARTER, HALF))}
    first, _, _ = await answers(upstream, tmp_path, body, entries, "/v1/rerank")
    assert told(first)[0] == "hit"
    fields = msgspec.json.decode(first.content, type=dict[str, msgspec.Raw])
    assert bytes(fields["results"]) == b"[%b,%b]" % (HALF, QUARTER)
