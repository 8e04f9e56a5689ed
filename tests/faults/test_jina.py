"""Rows 126 to 130: the forms that only Jina has - classify, train, classifiers, segment - when the provider fails."""

from __future__ import annotations

import asyncio
from typing import Any

from app.config.settings import Settings

from ..conftest import JINA_KEY, Seen, replies, running_gateway
from .bench import Bench, above_the_wire, asked, assert_booked, assert_booked_as, assert_failed

CLASSIFY = {"model": "jina-embeddings-v3", "input": ["a", "b"], "labels": ["x", "y"]}
TRAIN = {"model": "jina-embeddings-v3", "input": [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]}
FEW_SHOT = {"classifier_id": "c1", "input": ["a", "b"]}
ITEM = {"object": "classification", "prediction": "x", "score": 0.5}
CLASSIFIED = {"data": [{**ITEM, "index": place} for place in range(2)], "usage": {"total_tokens": 4}}
MADE = {"classifier_id": "c1", "num_samples": 2, "usage": {"total_tokens": 40}}
BROKEN = replies({"detail": "oops"}, 500)
BUSY = replies({"detail": "busy", "code": "CONFLICT_RESOURCE_BUSY"}, 409)
TWO_KEYS = [{"name": "one", "key": JINA_KEY}, {"name": "two", "key": "jina_another_0123456789"}]


@above_the_wire
async def test_a_classification_is_repeated_after_a_fault(bench: Bench) -> None:
    async with bench.gateway() as gateway:
        bench.jina.plays(BROKEN, replies(CLASSIFIED))
        answer = await asked(gateway, "/v1/classify", CLASSIFY)
        assert (answer.status_code, answer.json(), len(bench.jina.seen)) == (200, CLASSIFIED, 2)
        [record] = await assert_booked(gateway, 200)
        assert record.attempts == 2


async def test_a_training_is_never_repeated(bench: Bench) -> None:
    async with bench.gateway() as gateway:
        bench.jina.plays(BROKEN, replies(MADE))
        answer = await asked(gateway, "/v1/train", TRAIN)
        assert_failed(answer, 502, "upstream_error", should_retry=False)
        assert len(bench.jina.seen) == 1
        await assert_booked(gateway, 502)


async def test_a_training_that_breaks_off_is_never_repeated(bench: Bench) -> None:
    async def breaks(request: Seen, writer: asyncio.StreamWriter) -> Any:
        return False

    async with bench.gateway() as gateway:
        bench.jina.plays(breaks, replies(MADE))
        answer = await asked(gateway, "/v1/train", TRAIN)
        assert_failed(answer, 502, "upstream_error", should_retry=False)
        assert len(bench.jina.seen) == 1


@above_the_wire
async def test_a_classifier_that_is_busy_says_when_to_come_back(bench: Bench) -> None:
    async with bench.gateway() as gateway:
        bench.jina.plays(replies(MADE), BUSY)
        await asked(gateway, "/v1/train", TRAIN)
        answer = await asked(gateway, "/v1/train", {**TRAIN, "model": None, "classifier_id": "c1"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "classifier_busy")
        assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("2", "true")
        assert len(bench.jina.seen) == 2


@above_the_wire
async def test_a_segmentation_in_half_json_is_asked_for_again(bench: Bench) -> None:
    async with bench.gateway() as gateway:
        whole = {"num_tokens": 1, "tokenizer": "cl100k_base", "usage": {"tokens": 0}}
        bench.jina.plays(replies(b'{"num_tokens":1,"tok'), replies(whole))
        answer = await asked(gateway, "/v1/segment", {"content": "a"})
        assert (answer.status_code, answer.json(), len(bench.jina.seen)) == (200, whole, 2)
        bench.jina.plays(replies(b'{"num_tokens":1,"tok'))
        assert_failed(await asked(gateway, "/v1/segment", {"content": "b"}), 502, "upstream_error")


@above_the_wire
async def test_a_classifier_is_asked_nowhere_but_at_its_account(bench: Bench) -> None:
    """40 callers at once, whose account is refused; the other one answers classifications by labels."""

    async def refuses_one(request: Seen, writer: asyncio.StreamWriter) -> Any:
        refused = request.headers["authorization"] == account
        return await (replies({"detail": "no"}, 401) if refused else replies(CLASSIFIED))(request, writer)

    jina = {"base_url": f"{bench.jina.url}/v1", "api_keys": TWO_KEYS}
    values = {"upstreams": {"jina": jina}, "cache": {"store": "off"}, "http_client": bench.engine}
    async with running_gateway(Settings.model_validate(values)) as gateway:
        bench.jina.plays(replies(MADE))
        await asked(gateway, "/v1/train", TRAIN)
        account = bench.jina.seen[-1].headers["authorization"]
        bench.jina.plays(refuses_one)
        few = await asyncio.gather(*(asked(gateway, "/v1/classify", FEW_SHOT) for _ in range(40)))
        for answer in few:
            assert_failed(answer, 502, "upstream_auth", should_retry=False)
            await assert_booked_as(gateway, answer, 502)
        assert {seen.headers["authorization"] for seen in bench.jina.seen} == {account}
        assert (await asked(gateway, "/v1/classify", CLASSIFY)).status_code == 200
