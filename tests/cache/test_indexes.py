"""A cache changes no reply: each index is the position in the current call, whichever call paid for the vector."""

from __future__ import annotations

import asyncio
import sqlite3
from base64 import b64encode
from contextlib import closing
from pathlib import Path
from struct import pack
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cache.digests import keys_of
from app.cache.entries import CacheEntry
from app.cache.sqlite_tier import Disk
from app.config.settings import Settings
from app.core.types import Json, Key, Target
from app.endpoints.embeddings import Embeddings
from app.endpoints.rerank import Rerank
from app.storage.cache_file import CacheFile
from app.upstreams import KINDS
from app.upstreams.catalogue import known

from ..conftest import (
    NEW_LOOP,
    RunningGateway,
    ScriptedUpstream,
    Seen,
    replies,
    running_gateway,
    scripted_upstream,
    settings_for,
    until,
)
from .test_lookup import ask, asked, told, vector

MODEL, RANKER = "jina-embeddings-v3", "jina-reranker-m0"
MOST = 3  # inputs per upstream call


async def plays(request: Seen, writer: asyncio.StreamWriter) -> None:
    """The same answer to the same request. A vector depends only on its input and the options, except with late
    chunking."""
    body = request.body
    if "documents" in body:
        scores = [vector([body["query"], document])[0] for document in body["documents"]]
        best = sorted(range(len(scores)), key=lambda place: -scores[place])[: body.get("top_n")]
        results = [{"index": place, "relevance_score": scores[place]} for place in best]
        await replies({"model": "m", "results": results, "usage": {"total_tokens": 7}})(request, writer)
        return
    inputs = body.pop("input")
    together = inputs if body.get("late_chunking") else None
    data = [
        {"object": "embedding", "index": place, "embedding": vector([item, body, together], body.get("dimensions", 8))}
        for place, item in enumerate(inputs)
    ]
    await replies({"model": "m", "object": "list", "data": data, "usage": {"total_tokens": len(inputs)}})(
        request, writer
    )


@pytest.mark.parametrize("encoding", ["float", "base64", "binary", "ubinary"])
@pytest.mark.parametrize("inputs", [["b"], ["c", "a"], ["d", "c"], ["b", "b", "e"], ["c", "d", "e", "b", "a", "c"]])
async def test_an_index_is_the_place_in_this_call(encoding: str, inputs: list[str], upstream: ScriptedUpstream) -> None:
    """All inputs cached, some of them, split into parts, and the same input twice."""
    upstream.plays(plays)
    models = {MODEL: {"max_inputs": MOST}}
    async with running_gateway(settings_for(upstream.url, cache={"store": "memory"}, models=models)) as gateway:
        await ask(gateway, {"model": MODEL, "input": ["a", "b", "c"]})
        body = {"model": MODEL, "input": inputs, "encoding_format": encoding}
        got = await ask(gateway, body)
        plain = await ask(gateway, body, cache_control="no-store")
    assert [item["index"] for item in got.json()["data"]] == list(range(len(inputs)))
    assert without_usage(got) == without_usage(plain)


def without_usage(response: httpx.Response) -> dict[str, bytes] | bytes:
    """The bytes of each field of a reply, without usage and id; the whole body of an error."""
    if response.status_code != 200:
        return response.content
    fields = msgspec.json.decode(response.content, type=dict[str, msgspec.Raw])
    return {name: bytes(value) for name, value in fields.items() if name not in ("usage", "id")}


# Random sequences, compared with a gateway without a cache.

TEXTS = st.sampled_from(["a", "b", "c", "d", "e"])
CONTROLS = st.sampled_from(["", "", "", "no-store", "no-cache"])
EMBEDDING = st.fixed_dictionaries(
    {
        "model": st.just(MODEL),
        "input": st.lists(TEXTS, min_size=1, max_size=7) | TEXTS,
        "encoding_format": st.sampled_from(["float", "base64", "binary", "ubinary"]),
    },
    optional={
        "dimensions": st.sampled_from([2, 8]),
        "task": st.sampled_from(["text-matching", "retrieval.query"]),
        "late_chunking": st.just(True),
    },
)
RANKING = st.fixed_dictionaries(
    {
        "model": st.just(RANKER),
        "query": st.sampled_from(["q", "r"]),
        "documents": st.lists(TEXTS, min_size=1, max_size=4),
    },
    optional={"top_n": st.integers(1, 5), "return_documents": st.booleans()},
)
REQUEST = st.tuples(EMBEDDING | RANKING, CONTROLS)
# Requests sent at once; identical ones may share one upstream call.
STEP = st.lists(REQUEST, min_size=1, max_size=4) | st.builds(lambda request: [request] * 3, REQUEST)


@settings(max_examples=60)
@given(
    steps=st.lists(STEP, min_size=2, max_size=8), restart=st.integers(0, 8), store=st.sampled_from(["memory", "sqlite"])
)
def test_every_answer_is_that_of_a_gateway_without_a_cache(steps: Any, restart: int, store: str) -> None:
    """Across a restart too, and under a limit that causes batching."""
    with asyncio.Runner(loop_factory=NEW_LOOP) as runner:
        runner.run(compared(steps, restart, store))


async def compared(steps: Any, restart: int, store: str) -> None:
    with TemporaryDirectory() as folder:
        async with scripted_upstream() as upstream, running_gateway(limited(upstream, {"store": "off"})) as plain:
            upstream.plays(plays)
            cache = {"store": store, **({"path": f"{folder}/cache.db"} if store == "sqlite" else {})}
            for some in (steps[:restart], steps[restart:]):
                async with running_gateway(limited(upstream, cache)) as cached:
                    for step in some:
                        await compare(step, cached, plain)


def limited(upstream: ScriptedUpstream, cache: Json) -> Settings:
    given = settings_for(upstream.url, cache=cache, models={MODEL: {"max_inputs": MOST}}, queue_timeout_seconds=60)
    jina = {**given.upstreams["jina"].model_dump(), "limits": {"concurrency": 1}}
    return given.model_validate({**given.model_dump(), "upstreams": {"jina": jina}})


async def compare(step: Any, cached: RunningGateway, plain: RunningGateway) -> None:
    got = await asyncio.gather(*(post(cached, *request) for request in step))
    wanted = [await post(plain, *request) for request in step]
    for (body, _), one, other in zip(step, got, wanted, strict=True):
        assert one.status_code == other.status_code, (body, one.text)
        assert without_usage(one) == without_usage(other), body


async def post(gateway: RunningGateway, body: Json, control: str) -> httpx.Response:
    path = "/v1/rerank" if "documents" in body else "/v1/embeddings"
    return await gateway.post(path, body, **({"cache-control": control} if control else {}))


# Entries written by another version or another program.


def keys(body: Json, url: str) -> list[bytes]:
    """The digests under which a reply is stored."""
    entry = known(body["model"])
    assert entry is not None
    place = Target(KINDS["jina"]("jina", f"{url}/v1"), entry.model, body["model"], Key("k"))
    endpoint: Any = Rerank() if "documents" in body else Embeddings()
    return keys_of(endpoint.parse(body, "/"), place)


async def fill(path: Path, values: dict[bytes, bytes]) -> None:
    """A file with these entries."""
    file = CacheFile(path)
    Disk(file, 10**9).write(values, 0.0, 10.0**10)
    file.close()
    with closing(sqlite3.connect(path)) as found:
        await until(lambda: found.execute("SELECT count(*) FROM entries").fetchone()[0] == len(values))


def packed(item: Any, head: Any = None, tokens: int = 5) -> bytes:
    """An entry in the format of earlier versions."""
    usual = {"object": b'"list"', "data": b"", "model": b'"m"', "usage": b""}
    return msgspec.msgpack.encode([head or usual, item if isinstance(item, list) else [item], tokens])


def item(embedding: bytes, **more: bytes) -> dict[str, bytes]:
    return {"object": b'"embedding"', "index": b"2", "embedding": embedding, **more}


NOT_A_NUMBER = b64encode(pack("<8f", *[float("nan")] * 8)).decode().join('""').encode()
BAD: dict[str, bytes] = {
    "nan": packed(item(b"[NaN,1,1,1,1,1,1,1]")),
    "null": packed(item(b"[null,1,1,1,1,1,1,1]")),
    "1e999": packed(item(b"[1e999,1,1,1,1,1,1,1]")),
    "base64 of nan": packed(item(NOT_A_NUMBER)),
    "base64 of three bytes": packed(item(b'"AAAA"')),
    "no base64": packed(item(b'"?"')),
    "empty": packed(item(b"[]")),
    "no vector": packed({"index": b"0", "object": b'"embedding"'}),
    "no item": packed([]),
    "two sizes": packed([item(b"[1,2]"), item(b"[1]")]),
    "another size than its neighbour": packed(item(b"[1,2]")),
    "a field that is no JSON": packed(item(b"[1,1,1,1,1,1,1,1]", object=b"{")),
    "a field of another name": packed(item(b"[1,1,1,1,1,1,1,1]", tokenized_input=b'"secret"')),
    "a head that is no JSON": packed(item(b"[1,1,1,1,1,1,1,1]"), {"data": b"", "usage": b"", "model": b"m"}),
    "a head without usage": packed(item(b"[1,1,1,1,1,1,1,1]"), {"data": b"", "model": b'"m"'}),
    "tokens below zero": packed(item(b"[1,1,1,1,1,1,1,1]"), tokens=-5),
    "too many tokens": packed(item(b"[1,1,1,1,1,1,1,1]"), tokens=2**60),
    "cut off": packed(item(b"[1,1,1,1,1,1,1,1]"))[:-3],
    "nothing": b"",
    "another thing": msgspec.msgpack.encode({"a": 1}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_an_entry_that_does_not_hold_is_asked_for_again(
    bad: bytes, encoding: str, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """An invalid entry is never served and never an error; the new answer replaces it."""
    upstream.plays(plays)
    body = {"model": MODEL, "input": ["a", "b"], "encoding_format": encoding}
    good = packed(item(msgspec.json.encode(vector(["b", {"model": MODEL}, None]))))
    await fill(tmp_path / "cache.db", dict(zip(keys(body, upstream.url), [bad, good], strict=True)))
    cache = {"store": "sqlite", "path": str(tmp_path / "cache.db")}
    for expected in ("miss or partial", "hit"):
        async with running_gateway(settings_for(upstream.url, cache=cache)) as gateway:
            got = await ask(gateway, body)
            assert told(got)[0] in expected
            plain = await ask(gateway, body, cache_control="no-store")
            assert without_usage(got) == without_usage(plain)
    assert asked(upstream)[0][0] == "a"


async def test_an_entry_of_the_version_before_has_the_index_of_this_call(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    body = {"model": MODEL, "input": ["b"]}
    [key] = keys(body, upstream.url)
    await fill(tmp_path / "cache.db", {key: packed(item(b"[0.5,0.25]"))})
    cache = {"store": "sqlite", "path": str(tmp_path / "cache.db")}
    async with running_gateway(settings_for(upstream.url, cache=cache)) as gateway:
        got = await ask(gateway, body)
    assert got.json() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
        "model": MODEL,
        "usage": {"total_tokens": 0, "cached_tokens": 5, "prompt_tokens": 0},
    }
    assert upstream.seen == []


RESULTS = {
    "an index of no document": b'[{"index":2,"relevance_score":0.5}]',
    "an index twice": b'[{"index":0,"relevance_score":0.5},{"index":0,"relevance_score":0.25}]',
    "an index below zero": b'[{"index":-1,"relevance_score":0.5}]',
    "an index that is none": b'[{"index":"a","relevance_score":0.5}]',
    "a score that is none": b'[{"index":0,"relevance_score":null}]',
    "a score without bounds": b'[{"index":0,"relevance_score":1e999}]',
    "no score": b'[{"index":0}]',
    "no results": b"[]",
    "no list": b"{}",
}


@pytest.mark.parametrize("results", RESULTS.values(), ids=RESULTS)
async def test_a_ranking_that_does_not_hold_is_asked_for_again(
    results: bytes, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(plays)
    body = {"model": RANKER, "query": "q", "documents": ["a", "b"]}
    [key] = keys(body, upstream.url)
    head = {"object": b'"list"', "results": results, "model": b'"m"', "usage": b""}
    await fill(tmp_path / "cache.db", {key: packed({"index": b"", "relevance_score": b""}, head)})
    cache = {"store": "sqlite", "path": str(tmp_path / "cache.db")}
    async with running_gateway(settings_for(upstream.url, cache=cache)) as gateway:
        got = await ask(gateway, body, "/v1/rerank")
        plain = await ask(gateway, body, "/v1/rerank", cache_control="no-store")
    assert got.headers["x-torii-cache"] == "miss"
    assert without_usage(got) == without_usage(plain)


@pytest.mark.parametrize("given", ["float", "base64"])
@pytest.mark.parametrize("numbers", [[float("nan"), 1.0], [float("inf"), 1.0], [-float("inf"), 1.0]])
async def test_base64_of_no_finite_numbers_is_no_answer(
    given: str, numbers: list[float], upstream: ScriptedUpstream
) -> None:
    """In any encoding; and the answer is not stored."""
    text = b64encode(pack("<2f", *numbers)).decode()
    data = [{"object": "embedding", "index": 0, "embedding": text}]
    upstream.plays(replies({"object": "list", "model": "m", "data": data, "usage": {"total_tokens": 1}}))
    body = {"model": MODEL, "input": ["a"], "encoding_format": given}
    settings = settings_for(upstream.url, cache={"store": "memory"}, max_attempts=1)
    async with running_gateway(settings) as gateway:
        for _ in range(2):
            response = await gateway.post("/v1/embeddings", body)
            assert response.status_code == 502
            assert response.json() == {
                "error": {
                    "message": "jina sent a vector with values that are not finite numbers",
                    "type": "api_error",
                    "param": None,
                    "code": "upstream_error",
                },
                "detail": "jina sent a vector with values that are not finite numbers",
            }
    assert len(upstream.seen) == 2


@pytest.mark.parametrize("given", ["float", "base64", "binary"])
async def test_base64_has_the_dimensions_that_were_asked_for(given: str, upstream: ScriptedUpstream) -> None:
    """A retry would only repeat this failure, and callers are told so."""
    data = [{"object": "embedding", "index": 0, "embedding": b64encode(pack("<2f", 1, 2)).decode()}]
    upstream.plays(replies({"object": "list", "model": "m", "data": data, "usage": {"total_tokens": 1}}))
    body = {"model": MODEL, "input": ["a"], "encoding_format": given, "dimensions": 8}
    async with running_gateway(settings_for(upstream.url)) as gateway:
        response = await gateway.post("/v1/embeddings", body)
    assert (response.status_code, response.headers["x-should-retry"]) == (502, "false")
    assert response.json()["detail"] == "jina returned vectors of 2 dimensions instead of 8"
    assert len(upstream.seen) == 1


def test_what_is_kept_is_an_entry() -> None:
    """The bytes above have the format of stored entries."""
    head = {"object": b'"list"', "data": b"", "model": b'"m"', "usage": b""}
    assert packed(item(b"[1]")) == CacheEntry(head, [item(b"[1]")], 5).pack()
