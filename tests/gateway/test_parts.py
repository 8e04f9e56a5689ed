"""A call with more inputs than a model accepts at once: its parts run concurrently, and are merged into one reply."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.gateway.parts import Parts

from ..conftest import PATIENCE, ScriptedUpstream, Seen, replies, running_gateway, settings_for, until


def body_of(count: int) -> dict[str, Any]:
    return {"model": "jina-embeddings-v3", "input": [str(number) for number in range(count)]}


async def embeds(request: Seen, writer: asyncio.StreamWriter) -> None:
    """Each text is a number, which is also its vector."""
    texts = request.body["input"]
    data = [{"object": "embedding", "index": n, "embedding": [float(text)]} for n, text in enumerate(texts)]
    await replies({"object": "list", "model": "m", "data": data, "usage": {"total_tokens": len(texts)}})(
        request, writer
    )


async def test_parts_run_at_the_same_time_and_come_back_in_order(upstream: ScriptedUpstream) -> None:
    """The second part is answered first."""
    first = asyncio.Event()

    async def play(request: Seen, writer: asyncio.StreamWriter) -> None:
        if request.body["input"][0] == "0":
            await first.wait()
        await embeds(request, writer)
        first.set()

    upstream.plays(play)
    async with running_gateway(settings_for(upstream.url)) as gateway:
        answer = (await gateway.post("/v1/embeddings", body_of(1100))).json()
    assert sorted(len(seen.body["input"]) for seen in upstream.seen) == [76, 512, 512]
    assert [(item["index"], item["embedding"]) for item in answer["data"]] == [(n, [n]) for n in range(1100)]
    assert answer["usage"]["total_tokens"] == 1100


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_parts_keep_to_the_limits_of_the_key(concurrency: int, upstream: ScriptedUpstream) -> None:
    working = most = 0

    async def play(request: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal working, most
        working += 1
        most = max(most, working)
        for _ in range(20):
            await asyncio.sleep(0)
        working -= 1
        await embeds(request, writer)

    upstream.plays(play)
    settings = settings_for(upstream.url, models={"jina-embeddings-v3": {"max_inputs": 2}})
    jina = {**settings.upstreams["jina"].model_dump(), "limits": {"concurrency": concurrency}}
    limited = settings.model_validate({**settings.model_dump(), "upstreams": {"jina": jina}})
    async with running_gateway(limited) as gateway:
        answer = await gateway.post("/v1/embeddings", body_of(40))
    assert (len(answer.json()["data"]), len(upstream.seen), most) == (40, 20, concurrency)


async def test_a_part_that_fails_ends_the_call_and_the_other_parts(upstream: ScriptedUpstream) -> None:
    never = asyncio.Event()

    async def play(request: Seen, writer: asyncio.StreamWriter) -> None:
        if request.body["input"] == ["2"]:
            await until(lambda: len(upstream.seen) == 3)
            await replies({"detail": "no"}, 400)(request, writer)
        else:
            await never.wait()

    upstream.plays(play)
    settings = settings_for(upstream.url, models={"jina-embeddings-v3": {"max_inputs": 1}})
    async with running_gateway(settings) as gateway:
        response = await gateway.post("/v1/embeddings", body_of(3))
        await until(lambda: sum(reader.at_eof() for reader in upstream.readers) == 2)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "upstream_rejected")
    assert len(upstream.seen) == 3


async def test_a_part_that_meets_a_sick_key_is_blamed_on_that_key(upstream: ScriptedUpstream) -> None:
    async def play(request: Seen, writer: asyncio.StreamWriter) -> None:
        sick = request.headers["authorization"].endswith("sick")
        await (replies({"detail": "no"}, 401) if sick else embeds)(request, writer)

    upstream.plays(play)
    settings = settings_for(upstream.url, models={"jina-embeddings-v3": {"max_inputs": 1}})
    keys = [{"key": "a-key-of-jina-that-is-well", "weight": 1.5}, {"key": "a-key-of-jina-that-is-sick"}]
    jina = {**settings.upstreams["jina"].model_dump(exclude={"api_key"}), "api_keys": keys}
    two = settings.model_validate({**settings.model_dump(), "upstreams": {"jina": jina}})
    async with running_gateway(two) as gateway:
        first = await gateway.post("/v1/embeddings", body_of(4))
        upstream.seen.clear()
        second = await gateway.post("/v1/embeddings", body_of(4))
    assert [first.status_code, second.status_code] == [200, 200]
    assert {seen.headers["authorization"][-4:] for seen in upstream.seen} == {"well"}


async def test_a_deadline_is_one_after_a_part_has_failed(upstream: ScriptedUpstream) -> None:
    """In the first attempt, the last part fails while the others are in flight; the second attempt gets no answer."""
    never = asyncio.Event()

    async def play(request: Seen, writer: asyncio.StreamWriter) -> None:
        if request.body["input"] == ["2"] and len(upstream.seen) <= 3:
            await until(lambda: len(upstream.seen) == 3)
            await replies({"detail": "no"}, 503)(request, writer)
        else:
            await never.wait()

    upstream.plays(play)
    settings = settings_for(
        upstream.url, models={"jina-embeddings-v3": {"max_inputs": 1}}, timeouts={"total_seconds": 0.5}
    )
    async with running_gateway(settings) as gateway:
        response = await gateway.post("/v1/embeddings", body_of(3))
    assert (response.status_code, response.json()["error"]["code"]) == (504, "upstream_timeout")


async def test_parts_of_two_sizes_are_no_answer(upstream: ScriptedUpstream) -> None:
    async def play(request: Seen, writer: asyncio.StreamWriter) -> None:
        text = request.body["input"][0]
        data = [{"object": "embedding", "index": 0, "embedding": [0.5] * (1 + int(text))}]
        await replies({"object": "list", "model": "m", "data": data, "usage": {"total_tokens": 1}})(request, writer)

    upstream.plays(play)
    settings = settings_for(upstream.url, models={"jina-embeddings-v3": {"max_inputs": 1}})
    async with running_gateway(settings) as gateway:
        response = await gateway.post("/v1/embeddings", body_of(2))
    assert (response.status_code, response.json()["detail"]) == (
        502,
        "the parts of the call returned vectors of different sizes: [1, 2]",
    )


async def test_a_call_that_is_cancelled_while_its_parts_end_breaks_none_of_them_off() -> None:
    ending, end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def fails() -> None:
        await asyncio.sleep(0)
        raise OSError

    async def ends() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await end.wait()
            ended.set()

    call = asyncio.create_task(Parts().gather([ends(), fails()]))
    await ending.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    end.set()
    async with asyncio.timeout(PATIENCE):
        await ended.wait()
