"""Streams recorded from DeepSearch's own code, over real sockets, streamed and collected."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from app.sandbox import Sandbox

from ..conftest import RunningGateway, ScriptedUpstream, running_gateway, settings_for, streams
from .test_stream_shapes import REAL, check, name, read, relayed, told

ASK = {"model": "jina-deepsearch-v1", "messages": [{"role": "user", "content": "When is high water?"}]}
ANSWERED = [shape for shape in REAL if shape["expect"]["error"] is None]
OF = {shape["case"]: shape for shape in REAL}


@pytest.mark.parametrize("shape", ANSWERED, ids=name)
async def test_a_run_streamed(shape: dict[str, Any], gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(streams(shape["sse"].encode()))
    response = await gateway.post(
        "/v1/chat/completions", {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    )
    total = shape["expect"]["total_tokens"]
    check(read(response.content), shape, total)
    [record] = await gateway.ended(1)
    assert (record.usage or {}).get("total_tokens") == total


@pytest.mark.parametrize("shape", ANSWERED, ids=name)
async def test_a_run_collected(shape: dict[str, Any], gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(streams(shape["sse"].encode()))
    whole = (await gateway.post("/v1/chat/completions", ASK)).json()
    message, expect = whole["choices"][0]["message"], shape["expect"]
    assert message["content"] == expect["content"]
    assert message.get("reasoning_content", "") == expect["reasoning"]
    assert [one["url_citation"]["url"] for one in message.get("annotations", [])] == expect["citations"]
    assert told(message.get("x_steps", [])) == expect.get("steps", [])
    assert whole["usage"]["total_tokens"] == expect["total_tokens"]


async def test_the_same_from_aihubmix(
    gateway: RunningGateway, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    upstream.plays(streams(b"", end="cut"))
    shape = relayed(OF["real_repeated_thought_cjk_cut_in_the_middle"])
    other_upstream.plays(streams(shape["sse"].encode()))
    whole = (await gateway.post("/v1/chat/completions", {**ASK, "model": "aihubmix/jina-deepsearch-v1"})).json()
    assert whole["choices"][0]["message"]["reasoning_content"] == shape["expect"]["reasoning"]


@pytest.mark.parametrize("most", [0, "0"])
async def test_no_annotations_means_none(most: Any, gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    """The server itself would return one."""
    shape = OF["real_json_with_annotations"]
    upstream.plays(streams(shape["sse"].encode()))
    whole = (await gateway.post("/v1/chat/completions", {**ASK, "max_annotations": most})).json()
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": shape["expect"]["content"]}
    streamed = await gateway.post("/v1/chat/completions", {**ASK, "max_annotations": most, "stream": True})
    assert b"url_citation" not in streamed.content
    assert whole["readURLs"] == OF["real_json_with_annotations"]["expect"]["citations"]
    assert [seen.body["max_annotations"] for seen in upstream.seen] == [0, 0]


async def test_an_error_told_in_a_stream_has_no_markup(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    words = msgspec.json.encode("Failed at <b>step</b> 3, see https://internal.example/run?id=7")
    sse = OF["real_error_before_any_thought"]["sse"].encode().replace(b'"Invalid argument"', words)
    upstream.plays(streams(sse))
    response = await gateway.post("/v1/chat/completions", ASK)
    assert response.status_code == 502
    assert response.json()["error"]["message"] == "jina: Failed at step 3, see (link)"


async def test_in_front_of_the_sandbox_nothing_comes_twice() -> None:
    """The sandbox repeats texts as the real server does. Wherever the last thought is cut off, the gateway returns
    it once."""
    questions = ("What are tides?", "What are tides? sandbox:repeated-thought", "潮汐是怎样形成的?")
    with Sandbox(pace=0) as sandbox:
        root = sandbox.urls["deepsearch"].removesuffix("/deepsearch/v1")
        async with running_gateway(settings_for(root)) as gateway:
            answers = [
                await gateway.post("/v1/chat/completions", {**ASK, "messages": [{"role": "user", "content": question}]})
                for question in questions
            ]
    messages = [answer.json()["choices"][0]["message"] for answer in answers]
    for message in messages:
        reasoning, steps = message["reasoning_content"], told(message["x_steps"])
        assert reasoning.endswith("so let me finalize it. ")
        assert reasoning.count("But wait") == 1
        assert len(steps) == len(set(map(tuple, steps))) >= 2
    assert messages[0]["reasoning_content"] == messages[1]["reasoning_content"]
    assert "潮汐主要由月球的引力引起" in messages[2]["reasoning_content"]
