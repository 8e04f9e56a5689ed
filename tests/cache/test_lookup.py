"""Paid answers are not paid for again: over real sockets, with an upstream that counts its requests."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, closing
from hashlib import sha256
from pathlib import Path
from struct import pack
from typing import Any

import httpx
import msgspec
import pytest

from app.cache.singleflight import SingleFlight
from app.core.disconnects import ClientConnection
from app.core.types import EmbeddingsCall, Key, Target
from app.storage.ledger_file import LedgerFile
from app.upstreams import KINDS
from app.upstreams.catalogue import unlisted
from app.usage.record import CallRecord

from ..conftest import (
    PATIENCE,
    RunningGateway,
    ScriptedUpstream,
    Seen,
    replies,
    running_gateway,
    settings_for,
    until,
)
from ..ledger import read

EMBED = {"model": "jina-embeddings-v3", "input": ["one", "two", "three"]}
RERANK = {"model": "jina-reranker-m0", "query": "q", "documents": ["one", "two"], "top_n": 1}


def vector(of: Any, dimensions: int = 8) -> list[float]:
    """Numbers with many digits and both signs."""
    digest = sha256(msgspec.json.encode(of)).digest()
    return [(byte - 127.5) / 300.7 + place / 1e9 for place, byte in enumerate(digest[:dimensions])]


async def embeds(request: Seen, writer: asyncio.StreamWriter) -> None:
    """Vectors that depend on the whole request; five tokens per input."""
    body = request.body
    options = {name: value for name, value in body.items() if name != "input"}
    inputs = body["input"]
    together = inputs if body.get("late_chunking") else None
    data = [
        {"object": "embedding", "index": place, "embedding": vector([item, options, together])}
        for place, item in enumerate(inputs)
    ]
    reply = {"model": "m", "object": "list", "usage": {"total_tokens": 5 * len(inputs)}, "data": data, "id": "x"}
    await replies(reply)(request, writer)


async def ranks(request: Seen, writer: asyncio.StreamWriter) -> None:
    documents = request.body["documents"]
    results = [{"index": place, "relevance_score": -0.25 * place} for place in reversed(range(len(documents)))]
    await replies({"model": "m", "results": results, "usage": {"total_tokens": 7}})(request, writer)


def cached(upstream: ScriptedUpstream, **given: Any) -> AbstractAsyncContextManager[RunningGateway]:
    cache = {"store": "memory", **given.pop("cache", {})}
    return running_gateway(settings_for(upstream.url, cache=cache, **given))


async def ask(
    gateway: RunningGateway, body: Any = EMBED, path: str = "/v1/embeddings", **headers: str
) -> httpx.Response:
    response = await gateway.post(path, body, **{name.replace("_", "-"): value for name, value in headers.items()})
    assert response.status_code == 200, response.text
    return response


def asked(upstream: ScriptedUpstream) -> list[list[Any]]:
    """The inputs of each request."""
    return [seen.body["input"] for seen in upstream.seen]


def told(response: httpx.Response) -> tuple[str, int, int | None]:
    """The reply's cache header, its billed tokens, and its cached tokens."""
    usage = response.json()["usage"]
    assert usage["prompt_tokens"] == usage["total_tokens"]
    return response.headers["x-torii-cache"], usage["total_tokens"], usage.get("cached_tokens")


def without_usage(response: httpx.Response) -> str:
    """The bytes of the reply, without its usage."""
    raw = msgspec.json.decode(response.content, type=dict[str, msgspec.Raw])
    return str({name: bytes(value) for name, value in raw.items() if name != "usage"})


async def test_the_second_time_nothing_is_asked_nor_billed(upstream: ScriptedUpstream) -> None:
    upstream.plays(embeds)
    async with cached(upstream) as gateway:
        first, second = await ask(gateway), await ask(gateway)
        records = await gateway.ended(2)
    assert asked(upstream) == [["one", "two", "three"]]
    assert (told(first), told(second)) == (("miss", 15, None), ("hit", 0, 15))
    assert second.headers["x-torii-upstream"] == "jina"
    assert without_usage(first) == without_usage(second)
    assert [record.cache for record in records] == ["miss", "hit"]
    assert [record.usage for record in records] == [{"total_tokens": 15}, {"total_tokens": 0, "cached_tokens": 15}]
    assert all(record.target and record.target.upstream.name == "jina" for record in records)


async def test_only_the_gaps_are_asked_for_and_the_order_is_kept(upstream: ScriptedUpstream) -> None:
    upstream.plays(embeds)
    async with cached(upstream) as gateway:
        await ask(gateway)
        partial = await ask(gateway, {**EMBED, "input": ["four", "two", "five", "one", "four"]})
    async with cached(upstream) as gateway:
        whole = await ask(gateway, {**EMBED, "input": ["four", "two", "five", "one", "four"]}, cache_control="no-store")
    assert asked(upstream) == [["one", "two", "three"], ["four", "five"], ["four", "two", "five", "one", "four"]]
    # Of the 15 tokens of the first call, "one" and "two" have a share of 4 each. Of the 10 of the other, "four" has 5.
    assert (told(partial), told(whole)) == (("partial", 10, 13), ("off", 25, None))
    assert without_usage(partial) == without_usage(whole)


async def test_an_input_that_comes_twice_is_asked_for_once(upstream: ScriptedUpstream) -> None:
    upstream.plays(embeds)
    body = {**EMBED, "input": ["a", "b", "a", "a"]}
    async with cached(upstream) as gateway:
        twice = await ask(gateway, body)
        plain = await ask(gateway, body, cache_control="no-store")
    assert asked(upstream) == [["a", "b"], ["a", "b", "a", "a"]]
    assert told(twice) == ("partial", 10, 10)
    assert without_usage(twice) == without_usage(plain)


SENT: dict[str, Callable[[list[float]], Any]] = {
    "float": lambda numbers: numbers,
    "base64": lambda numbers: b64encode(pack("<8f", *numbers)).decode(),
    "binary": lambda numbers: [3, -7, 100, -128],
    "ubinary": lambda numbers: [3, 250, 100, 128],
    "multivector": lambda numbers: [numbers, numbers[::-1]],
    "sparse": lambda numbers: {"tide": numbers[0], "moon": 1e-7},
    "exponents": lambda numbers: msgspec.Raw(b"[1e-7,-2.5E-3,0.10,1.0,-0,0,3,4e0]"),
}


@pytest.mark.parametrize("sent", SENT)
async def test_bit_for_bit_what_an_uncached_run_gives(sent: str, upstream: ScriptedUpstream) -> None:
    """For every encoding requested and every encoding sent; hits and partial hits."""

    async def play(request: Seen, writer: asyncio.StreamWriter) -> None:
        data = [
            {"object": "embedding", "index": n, "embedding": SENT[sent](vector(item))}
            for n, item in enumerate(request.body["input"])
        ]
        await replies({"object": "list", "data": data, "model": "m", "usage": {"total_tokens": 9}})(request, writer)

    upstream.plays(play)
    async with cached(upstream) as gateway:
        for number, encoding in enumerate(("float", "base64", "binary", "ubinary")):
            body = {"model": f"jina/new-{number}", "input": EMBED["input"], "encoding_format": encoding}
            plain = await ask(gateway, body, cache_control="no-store")
            await ask(gateway, {**body, "input": ["two"], "encoding_format": "float"})
            partial = await ask(gateway, body)
            hits = [await ask(gateway, body) for _ in range(2)]
            assert [told(response)[0] for response in (plain, partial, *hits)] == ["off", "partial", "hit", "hit"]
            assert {without_usage(plain)} == {without_usage(response) for response in (partial, *hits)}


async def test_an_answer_that_was_kept_anew_is_given_anew_in_every_encoding(upstream: ScriptedUpstream) -> None:
    """The base64 form of the old answer was dropped with it."""
    body = {**EMBED, "input": "a", "encoding_format": "base64"}
    async with cached(upstream) as gateway:
        for number, control in ((1.0, ""), (1.0, ""), (2.0, "no-cache"), (2.0, "")):
            reply = {"data": [{"index": 0, "embedding": [number]}], "usage": {"total_tokens": 1}}
            upstream.plays(replies(reply))
            answer = await ask(gateway, body, cache_control=control)
            assert answer.json()["data"][0]["embedding"] == b64encode(pack("<f", number)).decode()
    assert len(upstream.seen) == 2


async def test_late_chunking_is_one_entry_in_its_order(upstream: ScriptedUpstream) -> None:
    upstream.plays(embeds)
    late = {**EMBED, "late_chunking": True}
    async with cached(upstream) as gateway:
        states = [
            (await ask(gateway, body)).headers["x-torii-cache"]
            for body in (
                late,
                late,
                {**late, "input": ["one", "three", "two"]},
                {**late, "input": ["one", "two"]},
                {**late, "late_chunking": False},
                EMBED,
                {**EMBED, "input": ["three"]},
            )
        ]
    assert states == ["miss", "hit", "miss", "miss", "miss", "miss", "hit"]


async def test_under_an_option_that_nobody_knows_inputs_may_depend_on_each_other(upstream: ScriptedUpstream) -> None:
    upstream.plays(embeds)
    body = {**EMBED, "titles": ["a", "b", "c"]}
    async with cached(upstream) as gateway:
        states = [
            (await ask(gateway, given)).headers["x-torii-cache"]
            for given in (body, body, {**body, "input": ["one"]}, {**body, "titles": ["a", "c", "b"]})
        ]
    assert states == ["miss", "hit", "miss", "miss"]


async def test_a_list_among_the_options_may_have_a_value_for_each_input(upstream: ScriptedUpstream) -> None:
    upstream.plays(embeds)
    body = {**EMBED, "model": "jina/a-new-one", "task": ["a", "b", "c"]}
    async with cached(upstream) as gateway:
        states = [
            told(await ask(gateway, given))[0] for given in (body, body, {**body, "input": ["one", "two", "six"]})
        ]
    assert states == ["miss", "hit", "miss"]


@pytest.mark.parametrize("provider", ["jina", "aihubmix"])
async def test_a_pdf_has_a_vector_for_each_page_and_is_alone(provider: str, upstream: ScriptedUpstream) -> None:
    pages = [{"object": "embedding", "index": n, "embedding": [float(n)]} for n in range(3)]
    upstream.plays(replies({"object": "list", "data": pages, "model": "m", "usage": {"total_tokens": 9}}))
    body = {"model": f"{provider}/jina-embeddings-v4", "input": {"pdf": "aGVsbG8="}}
    settings = settings_for(upstream.url, upstream.url, cache={"store": "memory"})
    async with running_gateway(settings) as gateway:
        first, second = await ask(gateway, body), await ask(gateway, body)
        upstream.plays(embeds)
        beside = await ask(gateway, {**body, "input": [{"pdf": "aGVsbG8="}, "text"]})
    assert (told(first), told(second)) == (("miss", 9, None), ("hit", 0, 9))
    assert without_usage(first) == without_usage(second)
    assert told(beside)[0] == "miss"


@pytest.mark.parametrize("provider", ["jina", "aihubmix"])
@pytest.mark.parametrize("inputs", [[{"pdf": "cA=="}, "text"], [{"pdf": "cA=="}, {"pdf": "cA=="}]])
async def test_a_pdf_among_other_inputs_is_asked_for_with_them(
    inputs: Any, provider: str, upstream: ScriptedUpstream
) -> None:
    """Alone, it has a vector for each page; other inputs may be cached."""

    async def play(request: Seen, writer: asyncio.StreamWriter) -> None:
        given = request.body["input"]
        alone = isinstance(given, dict) or given == [{"pdf": "cA=="}]
        data = [{"index": place, "embedding": vector(place)} for place in range(3 if alone else len(given))]
        await replies({"data": data, "usage": {"total_tokens": 1}})(request, writer)

    upstream.plays(play)
    body = {"model": f"{provider}/jina-embeddings-v4", "input": inputs}
    async with running_gateway(settings_for(upstream.url, upstream.url, cache={"store": "memory"})) as gateway:
        for alone in ([{"pdf": "cA=="}], ["text"]):
            await ask(gateway, {**body, "input": alone})
        first, second = await ask(gateway, body), await ask(gateway, body)
        plain = await ask(gateway, body, cache_control="no-store")
    assert (told(first), told(second)) == (("miss", 1, None), ("hit", 0, 1))
    assert without_usage(first) == without_usage(second) == without_usage(plain)


async def test_several_vectors_for_one_input(upstream: ScriptedUpstream) -> None:
    async def play(request: Seen, writer: asyncio.StreamWriter) -> None:
        data = [
            {"object": "embeddings", "index": n, "embeddings": [vector(item), vector([item])]}
            for n, item in enumerate(request.body["input"])
        ]
        await replies({"data": data, "usage": {"total_tokens": 4, "image_tokens": 1}})(request, writer)

    upstream.plays(play)
    body = {**EMBED, "model": "jina-embeddings-v4", "return_multivector": True}
    async with cached(upstream) as gateway:
        plain = await ask(gateway, body, cache_control="no-store")
        await ask(gateway, {**body, "input": ["three"]})
        partial, hit = await ask(gateway, body), await ask(gateway, body)
    assert [response.headers["x-torii-cache"] for response in (plain, partial, hit)] == ["off", "partial", "hit"]
    assert without_usage(plain) == without_usage(partial) == without_usage(hit)
    assert partial.json()["usage"] == {"total_tokens": 4, "image_tokens": 1, "cached_tokens": 4, "prompt_tokens": 4}


@pytest.mark.parametrize("repeated", ["item", "head"])
async def test_an_answer_that_may_repeat_the_input_is_not_kept(repeated: str, upstream: ScriptedUpstream) -> None:
    more = {"tokenized_input": ["o", "ne"]}
    item = {"index": 0, "embedding": [1.5], **(more if repeated == "item" else {})}
    upstream.plays(replies({"data": [item], "usage": {"total_tokens": 1}, **(more if repeated == "head" else {})}))
    async with cached(upstream) as gateway:
        answers = [await ask(gateway, {**EMBED, "input": text}) for text in ("one", "one", ["one", "one"])]
    assert [told(answer)[0] for answer in answers] == ["miss", "miss", "partial"]
    assert b"tokenized_input" in answers[1].content


async def test_tokens_that_were_billed_together_are_shared_by_length(upstream: ScriptedUpstream) -> None:
    upstream.plays(
        replies(
            {
                "data": [{"index": 0, "embedding": [1.5]}, {"index": 1, "embedding": [2.5]}],
                "usage": {"total_tokens": 11},
            }
        )
    )
    async with cached(upstream) as gateway:
        await ask(gateway, {**EMBED, "input": ["a" * 8, "a" * 38]})  # with their quotes: 10 and 40
        short = await ask(gateway, {**EMBED, "input": "a" * 8})
        long = await ask(gateway, {**EMBED, "input": "a" * 38})
    assert [told(short)[2], told(long)[2]] == [2, 9]


async def test_rankings_are_kept_as_a_whole(upstream: ScriptedUpstream) -> None:
    upstream.plays(ranks)
    other = [
        {**RERANK, "top_n": 2},
        {**RERANK, "query": "Q"},
        {**RERANK, "documents": ["two", "one"]},
        {**RERANK, "documents": ["one", "two", "three"]},
    ]
    async with cached(upstream) as gateway:
        first, second = await ask(gateway, RERANK, "/v1/rerank"), await ask(gateway, RERANK, "/v1/rerank")
        cohere = await ask(gateway, RERANK, "/v2/rerank")
        objects = await ask(gateway, {**RERANK, "documents": [{"text": "one", "id": 7}, "two"]}, "/v1/rerank")
        states = [(await ask(gateway, body, "/v1/rerank")).headers["x-torii-cache"] for body in other]
    assert (told(first), told(second), told(cohere)) == (("miss", 7, None), ("hit", 0, 7), ("hit", 0, 7))
    assert first.json()["results"] == second.json()["results"]
    assert second.json()["results"] == [{"index": 0, "relevance_score": 0.0, "document": {"text": "one"}}]
    assert first.json()["id"] != second.json()["id"]
    assert "document" not in cohere.json()["results"][0]
    # The documents are the caller's own, even if another call paid for the ranking.
    assert objects.headers["x-torii-cache"] == "hit"
    assert objects.json()["results"][0]["document"] == {"text": "one", "id": 7}
    assert states == ["miss"] * 4


@pytest.mark.parametrize(
    ("field", "states"), [("object", ["miss", "hit"]), ("results", ["miss"] * 2), ("text", ["miss"] * 2)]
)
async def test_a_ranking_that_may_repeat_the_documents_is_not_kept(
    field: str, states: list[str], upstream: ScriptedUpstream
) -> None:
    scores = [b"-1E-7", b"0.10", b"3"]
    given = b",".join(
        b'{"index":%d,"relevance_score":%b%b}' % (place, score, b',"%b":"\xc3\xa9"' % field.encode() if place else b"")
        for place, score in enumerate(scores)
    )
    upstream.plays(replies(b'{"results":[%b],"usage":{"total_tokens":7}}' % given))
    async with cached(upstream) as gateway:
        body = {**RERANK, "documents": ["one", "two", "three"], "top_n": 3, "return_documents": False}
        answers = [await ask(gateway, body, "/v1/rerank") for _ in states]
    assert [told(answer)[0] for answer in answers] == states
    results = [msgspec.json.decode(answer.content, type=dict[str, msgspec.Raw])["results"] for answer in answers]
    said = b',"%b":"\xc3\xa9"}' % field.encode()
    best = b'[{"index":2,"relevance_score":3%b,{"index":1,"relevance_score":0.10%b,{"index":0,"relevance_score":-1E-7}]'
    assert [bytes(result) for result in results] == [best % (said, said)] * 2


async def test_no_store_neither_reads_nor_keeps_and_no_cache_only_keeps(upstream: ScriptedUpstream) -> None:
    upstream.plays(embeds)
    async with cached(upstream) as gateway:
        steps = ["no-store", "max-age=60, No-Store", "", "no-cache", "no-store", "max-age=9"]
        states = [told(await ask(gateway, cache_control=step))[0] for step in steps]
    assert states == ["off", "off", "miss", "miss", "off", "hit"]
    assert len(upstream.seen) == 5


async def test_off_in_the_configuration_and_for_a_model(upstream: ScriptedUpstream) -> None:
    upstream.plays(embeds)
    async with cached(upstream, cache={"store": "off"}) as gateway:
        assert [told(await ask(gateway))[0] for _ in range(2)] == ["off", "off"]
    async with cached(upstream, models={"jina-embeddings-v3": {"cached": False}}) as gateway:
        assert [told(await ask(gateway))[0] for _ in range(2)] == ["off", "off"]
        other = {**EMBED, "model": "jina-embeddings-v2-base-de"}
        assert [told(await ask(gateway, other))[0] for _ in range(2)] == ["miss", "hit"]


async def test_chat_is_never_kept(upstream: ScriptedUpstream, other_upstream: ScriptedUpstream) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    other_upstream.plays(replies({"choices": [choice], "usage": {"total_tokens": 1}}))
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
    settings = settings_for(None, other_upstream.url, cache={"store": "memory"})
    async with running_gateway(settings) as gateway:
        answers = [await ask(gateway, body, "/v1/chat/completions") for _ in range(2)]
    assert len(other_upstream.seen) == 2
    assert not any("x-torii-cache" in answer.headers for answer in answers)


WRONG: list[Any] = [
    replies({"detail": "no"}, 500),
    replies({"error": {"message": "no", "type": "Aihubmix_api_error"}}),
    replies({"data": [{"index": 0, "embedding": [1.0]}], "usage": {}}),
    replies(b'{"data": ['),
]


@pytest.mark.parametrize("wrong", WRONG)
async def test_only_an_answer_is_kept(wrong: Any, upstream: ScriptedUpstream) -> None:
    async with cached(upstream, max_attempts=1) as gateway:
        upstream.plays(wrong)
        assert (await gateway.post("/v1/embeddings", EMBED)).status_code >= 500
        upstream.plays(embeds)
        assert told(await ask(gateway))[0] == "miss"


async def test_a_vector_that_cannot_be_written_is_not_kept(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    """No float32 holds it, so the next provider is called, and again the next time."""
    upstream.plays(replies({"data": [{"index": 0, "embedding": [1e300]}], "usage": {"total_tokens": 1}}))
    other_upstream.plays(embeds)
    body = {**EMBED, "input": "a", "encoding_format": "base64"}
    async with running_gateway(settings_for(upstream.url, other_upstream.url, cache={"store": "memory"})) as gateway:
        answers = [await ask(gateway, body) for _ in range(2)]
        forced = [await ask(gateway, {**body, "model": "jina/jina-embeddings-v3", "encoding_format": "float"})]
        # As numbers it is valid, and so it is cached; in base64 it is not.
        answers += [await ask(gateway, {**body, "encoding_format": coding}) for coding in ("base64", "float")]
    assert [(a.headers["x-torii-upstream"], a.headers["x-torii-cache"]) for a in (*forced, *answers)] == [
        ("jina", "miss"),
        ("aihubmix", "miss"),
        ("aihubmix", "hit"),
        ("aihubmix", "hit"),
        ("jina", "hit"),
    ]


async def test_a_gap_that_could_not_be_written_is_asked_for_again(upstream: ScriptedUpstream) -> None:
    upstream.plays(
        embeds, replies({"data": [{"index": 0, "embedding": [1e300]}], "usage": {"total_tokens": 1}}), embeds
    )
    body = {**EMBED, "input": ["one", "two", "two"], "encoding_format": "base64"}
    async with cached(upstream) as gateway:
        await ask(gateway, {**EMBED, "input": "one"})
        answer = await ask(gateway, body)
    assert asked(upstream) == [["one"], ["two"], ["two"]]
    assert told(answer) == ("partial", 5, 10)


async def test_what_one_provider_answered_is_at_hand_while_both_are_down(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    upstream.plays(replies({"detail": "down"}, 503))
    other_upstream.plays(embeds)
    async with running_gateway(settings_for(upstream.url, other_upstream.url, cache={"store": "memory"})) as gateway:
        first = await ask(gateway)
        other_upstream.plays(replies({"detail": "down"}, 503))
        second = await ask(gateway)
        assert (await gateway.post("/v1/embeddings", {**EMBED, "input": "new"})).status_code == 503
    assert [r.headers["x-torii-upstream"] for r in (first, second)] == ["aihubmix", "aihubmix"]
    assert told(second) == ("hit", 0, 15)


async def test_two_providers_vectors_are_never_in_one_answer(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    upstream.plays(embeds)
    other_upstream.plays(embeds)
    async with running_gateway(settings_for(upstream.url, other_upstream.url, cache={"store": "memory"})) as gateway:
        await ask(gateway, {**EMBED, "input": "one"})
        upstream.plays(replies({"detail": "down"}, 503))
        both = await ask(gateway)
    assert (both.headers["x-torii-upstream"], told(both)) == ("aihubmix", ("miss", 15, None))


async def test_callers_may_be_kept_apart(upstream: ScriptedUpstream) -> None:
    upstream.plays(embeds)
    callers = [{"name": name, "key": f"a-key-of-{name}-0123456789"} for name in ("ann", "bob")]

    async def states(gateway: RunningGateway) -> list[str]:
        keys = ("ann", "bob", "ann")
        return [told(await ask(gateway, authorization=f"Bearer a-key-of-{name}-0123456789"))[0] for name in keys]

    async with cached(upstream, callers=callers) as gateway:
        assert await states(gateway) == ["miss", "hit", "hit"]
    async with cached(upstream, callers=callers, cache={"per_caller": True}) as gateway:
        assert await states(gateway) == ["miss", "miss", "hit"]


async def test_only_what_is_asked_for_counts_against_the_limits_of_a_key(upstream: ScriptedUpstream) -> None:
    upstream.plays(embeds)
    settings = settings_for(upstream.url, cache={"store": "memory"})
    jina = {**settings.upstreams["jina"].model_dump(), "limits": {"tokens_per_minute": 150}}
    limited = settings.model_validate({**settings.model_dump(), "upstreams": {"jina": jina}})
    texts = [f"{number:40}" for number in range(10)]  # about 110 tokens
    async with running_gateway(limited) as gateway:
        await ask(gateway, {**EMBED, "input": texts})
        assert told(await ask(gateway, {**EMBED, "input": [*texts, "new"]}))[0] == "partial"
        assert told(await ask(gateway, {**EMBED, "input": texts}))[0] == "hit"
        others = [text[::-1] for text in texts]
        assert (await gateway.post("/v1/embeddings", {**EMBED, "input": others})).status_code == 429


async def test_the_record_has_the_key_that_was_used(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies({"detail": "no"}, 401), embeds)
    settings = settings_for(upstream.url, cache={"store": "memory"})
    keys = [{"key": "a-key-of-jina-that-is-sick"}, {"key": "a-key-of-jina-that-is-well"}]
    jina = {**settings.upstreams["jina"].model_dump(exclude={"api_key"}), "api_keys": keys}
    two = settings.model_validate({**settings.model_dump(), "upstreams": {"jina": jina}})
    async with running_gateway(two) as gateway:
        await ask(gateway)
        [record] = await gateway.ended(1)
    assert record.target is not None
    assert record.target.key.alias == "jina-2"


# Identical calls at the same time.


class Gate:
    """An upstream that answers once ``open`` is set, and notices if the request is abandoned."""

    def __init__(self, answer: Any = embeds) -> None:
        self.open = asyncio.Event()
        self.answer = answer
        self.asked = 0

    async def __call__(self, request: Seen, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        await self.open.wait()
        await self.answer(request, writer)


def waiting(gateway: RunningGateway) -> int:
    return gateway.generations.now.gateway.singleflight.waiting()


async def test_fifty_identical_calls_are_one_upstream_call(upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.plays(gate)
    async with cached(upstream) as gateway:
        encodings = ["float", "base64"] * 25
        calls = [asyncio.create_task(ask(gateway, {**EMBED, "encoding_format": encoding})) for encoding in encodings]
        await until(lambda: waiting(gateway) == 50)
        gate.open.set()
        answers = await asyncio.gather(*calls)
        records = await gateway.ended(50)
    assert gate.asked == 1
    assert len({response.headers["x-request-id"] for response in answers}) == 50
    assert len({without_usage(response) for response in answers}) == 2
    assert sorted(told(response) for response in answers)[-1] == ("miss", 15, None)
    assert [told(response) for response in answers].count(("hit", 0, 15)) == 49
    assert sum(record.usage["total_tokens"] for record in records if record.usage) == 15


async def test_the_encoding_of_the_first_is_not_that_of_the_others(upstream: ScriptedUpstream) -> None:
    """Of a call that the cache had in part, too: numbers made out of base64 would be rounded."""
    gate = Gate()
    upstream.plays(embeds, gate)
    async with cached(upstream) as gateway:
        await ask(gateway, {**EMBED, "input": ["three"]})
        first = asyncio.create_task(ask(gateway, {**EMBED, "encoding_format": "base64"}))
        await until(lambda: gate.asked == 1)
        other = asyncio.create_task(ask(gateway))
        await until(lambda: waiting(gateway) == 2)
        gate.open.set()
        answers = await asyncio.gather(first, other)
        again = [await ask(gateway, {**EMBED, "encoding_format": encoding}) for encoding in ("base64", "float")]
    assert [told(response)[0] for response in answers] == ["partial", "hit"]
    assert [without_usage(response) for response in answers] == [without_usage(response) for response in again]


async def test_a_leader_who_leaves_does_not_take_the_call_with_him(upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.plays(gate)
    async with cached(upstream) as gateway:
        leader = asyncio.create_task(ask(gateway))
        await until(lambda: waiting(gateway) == 1)
        followers = [asyncio.create_task(ask(gateway, {**EMBED, "encoding_format": "base64"})) for _ in range(2)]
        await until(lambda: waiting(gateway) == 3)
        leader.cancel()
        await until(lambda: waiting(gateway) == 2)
        gate.open.set()
        answers = await asyncio.gather(*followers)
        records = await gateway.ended(3)
    assert gate.asked == 1
    # The first caller pays for the call.
    assert [told(response) for response in answers] == [("hit", 0, 15), ("hit", 0, 15)]
    [first] = [record for record in records if record.status == 499]
    assert first.usage == {"total_tokens": 15}
    assert all(isinstance(item["embedding"], str) for response in answers for item in response.json()["data"])


async def test_the_last_who_leaves_ends_the_upstream_call(upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.plays(gate)
    async with cached(upstream) as gateway:
        calls = [asyncio.create_task(ask(gateway)) for _ in range(2)]
        await until(lambda: waiting(gateway) == 2 and gate.asked == 1)
        for call in calls:
            call.cancel()
        await upstream.gone(1.0)
        assert [record.status for record in await gateway.ended(2)] == [499, 499]
        gate.open.set()
        assert told(await ask(gateway))[0] == "miss"
    assert gate.asked == 2


async def test_an_error_goes_to_all(upstream: ScriptedUpstream) -> None:
    gate = Gate(replies({"detail": "slow down"}, 429, retry_after="7"))
    upstream.plays(gate)
    async with cached(upstream) as gateway:
        calls = [asyncio.create_task(gateway.post("/v1/embeddings", EMBED)) for _ in range(3)]
        await until(lambda: waiting(gateway) == 3)
        gate.open.set()
        answers = await asyncio.gather(*calls)
        records = await gateway.ended(3)
        assert waiting(gateway) == 0
    assert gate.asked == 1
    assert [(r.status_code, r.headers["retry-after"], r.headers["x-torii-upstream"]) for r in answers] == [
        (429, "7", "jina")
    ] * 3
    assert [record.status for record in records] == [429] * 3


async def test_two_accounts_at_one_place_share_no_call(upstream: ScriptedUpstream) -> None:
    """One account may be empty, and the other not."""
    gate = Gate()
    upstream.plays(gate)
    settings = settings_for(upstream.url, cache={"store": "memory"})
    jina = settings.upstreams["jina"].model_dump()
    both = settings.model_validate(
        {**settings.model_dump(), "upstreams": {"jina": jina, "eu": {**jina, "api_key": "k"}}}
    )
    async with running_gateway(both) as gateway:
        bodies = [{**EMBED, "model": f"{name}/jina-embeddings-v3"} for name in ("jina", "eu")]
        calls = [asyncio.create_task(ask(gateway, body)) for body in bodies]
        await until(lambda: gate.asked == 2)
        gate.open.set()
        answers = await asyncio.gather(*calls)
        # A paid answer is cached for both, since it is the same model at the same address.
        assert [told(await ask(gateway, body))[0] for body in bodies] == ["hit", "hit"]
    assert [told(answer)[0] for answer in answers] == ["miss", "miss"]


async def fly(
    flights: SingleFlight[Any, CallRecord], record: CallRecord, work: Callable[[CallRecord], Awaitable[Any]]
) -> tuple[Any, bool]:
    """``(result, billed)`` of a call that runs ``work`` in single-flight; ``billed``: the call pays for the result."""
    flight = flights.join("key", record.connection, record)
    async with flight:
        if flight.leads:
            flight.result = await work(record)
    return flight.result, flight.leads


async def test_a_call_that_was_given_up_is_not_joined() -> None:
    """A cancelled call may need a while to end."""
    flights: SingleFlight[str, CallRecord] = SingleFlight()
    ending = asyncio.Event()

    async def slow(record: CallRecord) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await ending.wait()
        return "never"

    async def quick(record: CallRecord) -> str:
        return "answer"

    def one(presence: ClientConnection) -> CallRecord:
        return CallRecord("id", "ann", EmbeddingsCall(model="m", body={}), presence)

    async def ask() -> None:
        presences.append(ClientConnection(task=asyncio.current_task()))
        await fly(flights, one(presences[0]), slow)

    presences: list[ClientConnection] = []
    first = asyncio.create_task(ask())
    await until(lambda: flights.waiting() == 1)
    presences[0].leave()
    assert (len(flights), flights.waiting()) == (1, 0)
    async with asyncio.timeout(PATIENCE):
        assert await fly(flights, one(ClientConnection()), quick) == ("answer", True)
    ending.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len(flights) == 0


def rows(path: Path) -> list[tuple[Any, ...]]:
    """Status, tokens, whether they are an estimate, and attempts of each ledger row of a call that was paid for; the
    tokens are those that it would have cost for one that was not, in negative."""
    paid = "CASE kind WHEN 'cached' THEN -cached_tokens ELSE total_tokens END"
    return read(path, f"SELECT status, {paid}, estimated, attempts FROM calls ORDER BY id")


async def test_each_answer_has_a_row_and_one_of_those_that_share_it_pays(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Cached and shared answers have a row without cost. Of calls that shared one upstream call the first one pays,
    even if its caller has left."""
    gate = Gate()
    gate.open.set()
    upstream.plays(gate)
    path = tmp_path / "torii.db"
    with closing(LedgerFile(path, flush_seconds=0.01)) as database:
        async with running_gateway(settings_for(upstream.url, cache={"store": "memory"}), database) as gateway:
            await ask(gateway)
            await ask(gateway)
            await ask(gateway, {**EMBED, "input": ["one", "four"]})
            gate.open.clear()
            shared = {**EMBED, "input": "shared"}
            leader = asyncio.create_task(ask(gateway, shared))
            await until(lambda: waiting(gateway) == 1)
            followers = [asyncio.create_task(ask(gateway, shared)) for _ in range(2)]
            await until(lambda: waiting(gateway) == 3)
            leader.cancel()
            await until(lambda: waiting(gateway) == 2)
            gate.open.set()
            await asyncio.gather(*followers)
            gate.open.clear()
            given_up = [asyncio.create_task(ask(gateway, {**EMBED, "input": "up"})) for _ in range(2)]
            await until(lambda: waiting(gateway) == 2 and gate.asked == 4)
            for call in given_up:
                call.cancel()
            records = await gateway.ended(8)
            gate.open.set()
    found = rows(path)
    assert found[:3] == [(200, 15, 0, 1), (200, -15, 0, 0), (200, 5, 0, 1)]
    assert sorted(found[3:]) == [(200, -5, 0, 0), (200, -5, 0, 0), (499, 0, 1, 1), (499, 5, 0, 1)]
    assert [record.reached for record in records].count(True) == 4


async def test_a_failure_of_a_shared_call_is_one_row(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    gate = Gate(replies({"detail": "no"}, 400))
    upstream.plays(gate)
    path = tmp_path / "torii.db"
    with closing(LedgerFile(path, flush_seconds=0.01)) as database:
        async with running_gateway(settings_for(upstream.url, cache={"store": "memory"}), database) as gateway:
            calls = [asyncio.create_task(gateway.post("/v1/embeddings", EMBED)) for _ in range(3)]
            await until(lambda: waiting(gateway) == 3)
            gate.open.set()
            assert {response.status_code for response in await asyncio.gather(*calls)} == {400}
    assert rows(path) == [(400, 0, 0, 1)]


@pytest.mark.parametrize("policy", ["cancel", "drain"])
async def test_for_those_who_stay_all_parts_are_asked_for(policy: str, upstream: ScriptedUpstream) -> None:
    """Including retries with another provider or key: the first caller has left, but the remaining callers need the
    call."""
    gate = Gate()
    upstream.plays(gate)
    settings = settings_for(
        upstream.url,
        cache={"store": "memory"},
        disconnect={"policy": policy},
        models={"jina-embeddings-v3": {"max_inputs": 1}},
    )
    jina = {**settings.upstreams["jina"].model_dump(), "limits": {"concurrency": 1}}
    narrow = settings.model_validate({**settings.model_dump(), "upstreams": {"jina": jina}})
    async with running_gateway(narrow) as gateway:
        leader = asyncio.create_task(ask(gateway))
        await until(lambda: waiting(gateway) == 1 and gate.asked == 1)
        follower = asyncio.create_task(ask(gateway))
        await until(lambda: waiting(gateway) == 2)
        leader.cancel()
        disconnects = gateway.generations.now.handlers.admission.disconnects
        await until(lambda: waiting(gateway) == 1 if policy == "cancel" else len(disconnects.unattended) == 1)
        gate.open.set()
        answer = await follower
        records = await gateway.ended(2)
    assert len(answer.json()["data"]) == 3
    assert sorted(record.status or 0 for record in records) == [200, 499]
    assert [record.reached for record in records].count(True) == 1


async def test_a_follower_who_stays_is_drained_when_he_leaves(upstream: ScriptedUpstream) -> None:
    """The first caller has left before; the call is then drained for the second one."""
    gate = Gate()
    upstream.plays(gate)
    callers = [
        {"name": "ann", "key": "a-key-of-ann-0123456789", "on_disconnect": "cancel"},
        {"name": "bob", "key": "a-key-of-bob-0123456789", "on_disconnect": "drain"},
    ]
    async with cached(upstream, callers=callers) as gateway:
        calls = []
        for count, name in enumerate(("ann", "bob"), 1):
            bearer = f"Bearer a-key-of-{name}-0123456789"
            calls.append(asyncio.create_task(ask(gateway, authorization=bearer)))
            await until(lambda: waiting(gateway) == count)  # noqa: B023 - called before count changes
        await until(lambda: gate.asked == 1)
        disconnects = gateway.generations.now.handlers.admission.disconnects
        calls[0].cancel()
        await until(lambda: waiting(gateway) == 1)
        calls[1].cancel()
        await until(lambda: len(disconnects.unattended) == 1)
        gate.open.set()
        records = await gateway.ended(2)
        records = sorted(records, key=lambda record: record.caller)
        assert [(record.caller, record.status, record.reached, record.usage) for record in records] == [
            ("ann", 499, True, {"total_tokens": 15}),
            ("bob", 499, False, {"total_tokens": 0, "cached_tokens": 15}),
        ]
        assert told(await ask(gateway, authorization="Bearer a-key-of-ann-0123456789"))[0] == "hit"


async def test_nobody_joins_a_call_that_nobody_wanted(upstream: ScriptedUpstream) -> None:
    """A drained call in parts never completes if one part was not sent, even while another is in flight.

    A caller with the same call then starts a new one.
    """
    held = {"one": Gate(), "two": Gate(), "three": Gate()}

    async def play(request: Seen, writer: asyncio.StreamWriter) -> None:
        await held[request.body["input"][0]](request, writer)

    upstream.plays(play)
    settings = settings_for(
        upstream.url,
        cache={"store": "memory"},
        disconnect={"policy": "drain"},
        models={"jina-embeddings-v3": {"max_inputs": 1}},
    )
    jina = {**settings.upstreams["jina"].model_dump(), "limits": {"concurrency": 2}}
    narrow = settings.model_validate({**settings.model_dump(), "upstreams": {"jina": jina}})
    async with running_gateway(narrow) as gateway:
        now = gateway.generations.now
        leader = asyncio.create_task(ask(gateway))
        await until(lambda: held["one"].asked == held["two"].asked == 1)
        [flight] = now.gateway.singleflight._open.values()
        leader.cancel()
        await until(lambda: len(now.handlers.admission.disconnects.unattended) == 1)
        held["one"].open.set()
        await until(lambda: flight.connection.over)
        other = asyncio.create_task(ask(gateway))
        await until(lambda: held["one"].asked == 2)
        for gate in held.values():
            gate.open.set()
        assert told(await other) == ("miss", 15, None)
        records = await gateway.ended(2)
    assert {(record.status, (record.usage or {}).get("total_tokens")) for record in records} == {(499, 10), (200, 15)}


async def test_calls_that_differ_or_want_their_own_share_nothing(upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.plays(gate)
    forced = {**EMBED, "model": "jina/jina-embeddings-v3"}
    async with cached(upstream) as gateway:
        calls = [
            asyncio.create_task(ask(gateway, body, cache_control=control))
            for body, control in [
                (EMBED, ""),
                ({**EMBED, "input": ["one", "three", "two"]}, ""),
                ({**EMBED, "task": "separation"}, ""),
                (EMBED, "no-store"),
                (EMBED, "no-store"),
                (EMBED, "no-cache"),
                (EMBED, "no-cache"),
            ]
        ]
        await until(lambda: gate.asked == 7)
        calls.append(asyncio.create_task(ask(gateway, forced)))  # has the same target under another name
        await until(lambda: waiting(gateway) == 4)
        gate.open.set()
        await asyncio.gather(*calls)
    assert gate.asked == 7


async def test_parts_are_kept_input_by_input(upstream: ScriptedUpstream) -> None:
    upstream.plays(embeds)
    texts = [str(number) for number in range(1100)]
    async with cached(upstream) as gateway:
        answer = await ask(gateway, {**EMBED, "input": texts})
        again = await ask(gateway, {**EMBED, "input": ["new", *texts]})
    assert sorted(map(len, asked(upstream))) == [1, 76, 512, 512]
    assert again.json()["data"][1]["embedding"] == answer.json()["data"][0]["embedding"]
    assert [item["index"] for item in again.json()["data"]] == list(range(1101))
    assert (told(answer), told(again)) == (("miss", 5500, None), ("partial", 5, 5500))


PLACE = Target(KINDS["jina"]("jina", "http://127.0.0.1:9/v1"), unlisted("m"), "m", Key("k"))


def sends_at_the_end(begun: asyncio.Event) -> Callable[[CallRecord], Awaitable[None]]:
    """Work that sends a request at the moment it is cancelled."""

    async def work(record: CallRecord) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            record.ask(PLACE).send(record.call)

    return work


async def test_what_goes_out_while_the_last_one_leaves_is_billed() -> None:
    """A part of the call may be about to be sent when it is cancelled."""
    begun = asyncio.Event()

    record = CallRecord("id", "open", EmbeddingsCall(model="m", body={}))
    flights: SingleFlight[None, CallRecord] = SingleFlight()
    task = asyncio.create_task(fly(flights, record, sends_at_the_end(begun)))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert record.reached


async def test_the_first_has_the_bill_where_nobody_stays() -> None:
    """The first caller left before. The last one to leave cancels the call, which may still send a request."""
    begun = asyncio.Event()
    records = [CallRecord("id", "open", EmbeddingsCall(model="m", body={})) for _ in range(2)]
    flights: SingleFlight[None, CallRecord] = SingleFlight()

    async def ask(record: CallRecord) -> None:
        record.connection = ClientConnection(task=asyncio.current_task())
        await fly(flights, record, sends_at_the_end(begun))

    calls = [asyncio.create_task(ask(record)) for record in records]
    await until(lambda: begun.is_set() and flights.waiting() == 2)
    for record in records:
        record.connection.leave()
    await asyncio.wait(calls)
    assert [record.reached for record in records] == [True, False]
