"""POST /v1/chat/completions: allowed requests, and the models that need no translation."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from app.core.errors import InvalidRequest, UpstreamFailed, UpstreamQuota, UpstreamTruncated
from app.core.json import Malformed
from app.core.types import ChatCall, Chunk, Text
from app.endpoints.chat import Chat
from app.upstreams.chat import ChatFold, chat_reply
from app.upstreams.deepsearch_stream import DeepSearchFold

PATH = "/v1/chat/completions"
ASK = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"messages": ASK}, "model", "model"),
        ({"model": "m"}, "messages", "messages must be a list of at least one message"),
        ({"model": "m", "messages": []}, "messages", "messages must be a list of at least one message"),
        ({"model": "m", "input": "a"}, "messages", "This looks like a request for POST /v1/embeddings"),
        ({"model": "m", "documents": ["a"]}, "messages", "This looks like a request for POST /v1/rerank"),
        ({"model": "m", "messages": ASK, "stream": "yes"}, "stream", "stream must be true or false"),
        ({"model": "m", "messages": ASK, "stream_options": 1}, "stream_options", "stream_options must be an object"),
        (
            {"model": "m", "messages": ASK, "x_reasoning": "none"},
            "x_reasoning",
            "x_reasoning must be one of reasoning_content, reasoning, think_tags, drop",
        ),
    ],
)
def test_bodies_that_are_wrong(body: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Chat().parse(body, PATH)
    assert caught.value.param == param
    assert says in caught.value.message


def test_a_call_is_parsed_and_the_rest_stays() -> None:
    body = {
        "model": "m",
        "messages": ASK,
        "stream": True,
        "stream_options": {"include_usage": True},
        "x_reasoning": "drop",
        "tools": [1],
        "api_key": "k",
    }
    assert Chat().parse(body, PATH) == ChatCall(
        model="m",
        body={"messages": ASK, "stream_options": {"include_usage": True}, "tools": [1]},
        stream=True,
        include_usage=True,
        reasoning="drop",
    )


def test_a_whole_answer_is_looked_at_only_for_whether_it_is_one() -> None:
    assert chat_reply(b'{"choices":[{"x":1}],"y":2}', "aihubmix") == {"choices": [{"x": 1}], "y": 2}
    with pytest.raises(UpstreamFailed, match="aihubmix sent an answer that is not JSON"):
        chat_reply(b"sorry", "aihubmix")
    with pytest.raises(UpstreamFailed, match="aihubmix answered 200 with an HTML page"):
        chat_reply(b"<html>", "aihubmix")
    with pytest.raises(UpstreamFailed, match="aihubmix sent an answer without choices"):
        chat_reply(b'{"id":"1"}', "aihubmix")
    for none in (b"[]", b'{"choices":[]}', b'{"choices":[null]}', b'{"choices":{}}'):
        with pytest.raises(UpstreamFailed, match="aihubmix sent an answer without choices"):
            chat_reply(none, "aihubmix")
    with pytest.raises(UpstreamQuota):
        chat_reply(b'{"error":{"message":"Your account balance is insufficient."}}', "aihubmix")


@pytest.mark.parametrize(
    ("part", "kind", "says"),
    [
        (None, UpstreamFailed, "aihubmix gave up on the answer"),
        ({"content": ""}, UpstreamFailed, "aihubmix gave up on the answer"),
        ({"content": ["x"]}, UpstreamFailed, "aihubmix gave up on the answer"),
        ({"content": "Error: boom <b>"}, UpstreamFailed, "aihubmix answered 200 with an HTML page"),
        ({"content": "Your account balance is insufficient."}, UpstreamQuota, "has no balance left"),
    ],
)
def test_a_failure_told_as_a_finish_reason_is_one(part: Any, kind: type[UpstreamFailed], says: str) -> None:
    choice = {"index": 0, "finish_reason": "error"}
    with pytest.raises(kind, match=says):
        chat_reply(msgspec.json.encode({"choices": [{**choice, "message": part}]}), "aihubmix")
    fold = ChatFold("aihubmix")
    with pytest.raises(kind, match=says):
        fold.feed(msgspec.json.encode({"choices": [{**choice, "delta": part}], "usage": {"total_tokens": 3}}))
    assert fold.usage == {"total_tokens": 3}


def test_usage_is_counts_or_nothing() -> None:
    details = {"cached_tokens": 1}
    said = {
        "total_tokens": 7,
        "prompt_tokens": -1,
        "cost": 0.5,
        "x": True,
        "y": 2**60,
        "prompt_tokens_details": details,
    }
    left = {"total_tokens": 7, "prompt_tokens_details": details}
    for usage, expected in ((said, left), ("many", None), ([7], None), ({}, None), (None, None)):
        body = msgspec.json.encode({"choices": [{"index": 0, "delta": {}}], "usage": usage})
        assert chat_reply(body, "aihubmix")["usage"] == expected
        fold = ChatFold("aihubmix")
        [event] = fold.feed(body)
        assert isinstance(event, Chunk)
        assert (event.body["usage"], fold.usage) == (expected, expected)
        fold.usage = {"total_tokens": 1}
        fold.feed(body)
        assert fold.usage == (expected or {"total_tokens": 1})


def chunk(index: int, finish: str | None = None) -> bytes:
    return msgspec.json.encode({"choices": [{"index": index, "delta": {}, "finish_reason": finish}]})


def test_a_stream_of_several_choices_is_complete_when_all_have_finished() -> None:
    fold = ChatFold("aihubmix")
    for data in (chunk(0), chunk(1), chunk(0, "stop")):
        fold.feed(data)
    with pytest.raises(UpstreamTruncated):
        fold.end()
    fold.feed(chunk(1, "length"))
    assert fold.end() == []


def test_trap_35_nothing_comes_after_done() -> None:
    fold = ChatFold("aihubmix")
    fold.feed(b"[DONE]")
    assert fold.done
    assert fold.feed(chunk(0, "stop")) == []


def test_a_whole_answer_in_place_of_a_stream_becomes_its_one_chunk() -> None:
    fold = ChatFold("aihubmix")
    whole = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"content": "c"}, "finish_reason": "stop"}],
    }
    choices = [{"index": 0, "finish_reason": "stop", "delta": {"content": "c"}}]
    assert fold.feed(msgspec.json.encode(whole)) == [Chunk({"object": "chat.completion.chunk", "choices": choices})]
    assert fold.end() == []


@pytest.mark.parametrize("data", [b"3", b"[]", b'"x"', b"null"])
def test_events_that_are_no_objects(data: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        ChatFold("aihubmix").feed(data)
    with pytest.raises(UpstreamFailed):
        DeepSearchFold("jina").feed(data)


@pytest.mark.parametrize("data", [b"{", b'{"a":"\\ud83d"', b'{"a":NaN,"b":"\\ud83d"}'])
def test_events_that_are_no_json(data: bytes) -> None:
    with pytest.raises(Malformed):
        ChatFold("aihubmix").feed(data)


def test_choices_that_are_none_do_no_harm() -> None:
    fold = ChatFold("aihubmix")
    for odd in (b'{"choices":null}', b'{"choices":[null,3]}', b'{"choices":7}', b'{"choices":[{"index":[1]}]}'):
        fold.feed(odd)
    assert fold.usage is None


def test_half_a_character_passes_as_it_came() -> None:
    """JavaScript servers cut emojis in two; the other half is in the next event."""
    events = ChatFold("aihubmix").feed(b'{"choices":[{"delta":{"content":"\\ud83c"}}]}')
    writer = Chat().writer(ChatCall(model="m", body={}))
    assert writer.write(events) == b'data: {"choices":[{"delta":{"content":"\\ud83c"}}],"model":"m"}\n\n'


def test_an_error_event_without_a_known_form() -> None:
    with pytest.raises(UpstreamFailed, match="jina reported an error in its stream"):
        DeepSearchFold("jina").feed(b'{"x":1}', "error")


def test_an_answer_that_ends_in_half_a_character() -> None:
    fold = DeepSearchFold("jina")
    data = b'{"choices":[{"delta":{"type":"text","content":"a\\ud83c"},"finish_reason":"stop"}]}'
    assert [event for event in fold.feed(data) if isinstance(event, Text)] == [Text("a"), Text("\ufffd")]


def test_the_usage_of_a_stream_that_failed_is_kept() -> None:
    fold = ChatFold("u")
    with pytest.raises(UpstreamFailed):
        fold.feed(b'{"error":"boom","usage":{"total_tokens":3}}')
    assert fold.usage == {"total_tokens": 3}
