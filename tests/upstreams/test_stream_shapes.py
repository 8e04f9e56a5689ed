"""Every documented stream has the expected result: whole, byte by byte, and split at every position.

stream-shapes.jsonl is made from the providers' pages, stream-shapes-real.jsonl from runs of the server's own code;
the latter are also played as AIHubMix relays them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.core.errors import ToriiError
from app.core.sse import Decoder, ServerEvent
from app.core.types import ChatCall, Event, Fold
from app.endpoints.chat import Chat, collect
from app.upstreams.chat import ChatFold
from app.upstreams.deepsearch_stream import DeepSearchFold

WIRE = Path(__file__).parents[1] / "wire"
SHAPES = [msgspec.json.decode(line) for line in (WIRE / "stream-shapes.jsonl").read_bytes().splitlines()]
REAL = [msgspec.json.decode(line) for line in (WIRE / "stream-shapes-real.jsonl").read_bytes().splitlines()]


def relayed(shape: dict[str, Any]) -> dict[str, Any]:
    """A Jina stream in AIHubMix's format: no steps, no quotes, no lists, separate thinking, [DONE]."""
    events = [event.removeprefix("data: ") for event in shape["sse"].split("\n\n") if event]
    chunks = [_relayed(msgspec.json.decode(event)) for event in events]
    lines = [msgspec.json.encode(chunk).decode() for chunk in chunks]
    expect = {name: value for name, value in shape["expect"].items() if name != "steps"}
    sse = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"])
    return {**shape, "upstream": "aihubmix", "sse": sse, "expect": {**expect, "steps": []}}


def _relayed(chunk: dict[str, Any]) -> dict[str, Any]:
    [choice] = chunk["choices"]
    delta = {name: value for name, value in choice["delta"].items() if name not in ("query", "url")}
    if delta.get("type") == "think":
        del delta["type"]
        if "content" in delta:
            delta["reasoning_content"] = delta.pop("content")
    for annotation in delta.get("annotations", []):
        source = annotation["url_citation"]
        annotation["url_citation"] = {"url": source["url"], "title": source["title"], "start_index": 0, "end_index": 0}
    finish = {"finish_reason": choice["finish_reason"]} if choice["finish_reason"] else {}
    kept = {name: value for name, value in chunk.items() if not name.endswith("URLs")}
    return {**kept, "choices": [{"index": 0, "delta": delta, **finish}]}


PROVIDERS = [*(shape for shape in SHAPES if shape["upstream"] != "gateway"), *REAL, *map(relayed, REAL)]
OWN = [shape for shape in SHAPES if shape["upstream"] == "gateway"]


def name(shape: dict[str, Any]) -> str:
    return f"{shape['upstream']}-{shape['case']}"


def call(**fields: Any) -> ChatCall:
    return ChatCall(model="jina-deepsearch-v1", body={}, stream=True, id="1", created=1, **fields)


def run(fold: Fold, pieces: Iterable[bytes]) -> tuple[list[Event], ToriiError | None]:
    """The whole stream through decoder and fold, as the gateway runs it."""
    decoder, events = Decoder(), list[Event]()

    def feed(arrived: list[ServerEvent]) -> None:
        for data, event in arrived:
            events.extend(fold.feed(data, event))

    try:
        for piece in pieces:
            feed(decoder.feed(piece))
            if fold.done:
                break
        feed(decoder.end())
        return [*events, *fold.end()], None
    except ToriiError as error:
        return events, error


def outcome(fold: Fold, pieces: Iterable[bytes]) -> dict[str, Any]:
    """The result for a client of the gateway at the end of its stream."""
    events, error = run(fold, pieces)
    writer = Chat(piece=7).writer(call(include_usage=True))
    out = writer.write(events) + (writer.end() if error is None else writer.fail(error.envelope()))
    return read(out)


def read(stream: bytes) -> dict[str, Any]:
    """A strict OpenAI client: joins the deltas, allows one finish reason and one usage, requires [DONE] or an error."""
    got: dict[str, Any] = {"reasoning": "", "content": "", "finish": [], "citations": [], "usage": [], "error": None}
    got["steps"] = []
    events = [part.removeprefix(b"data: ") for part in stream.split(b"\n\n")]
    assert events.pop() == b""
    done = events and events[-1] == b"[DONE]"
    for event in events[: -1 if done else None]:
        chunk = msgspec.json.decode(event)
        if "error" in chunk:
            got["error"] = chunk["error"]["message"]
            continue
        if chunk.get("usage"):
            assert chunk["choices"] == []
            got["usage"].append(chunk["usage"]["total_tokens"])
        for choice in chunk["choices"]:
            delta = choice["delta"]
            assert delta or choice["finish_reason"]
            got["reasoning"] += delta.get("reasoning_content") or ""
            got["content"] += delta.get("content") or ""
            got["steps"] += delta.get("x_steps") or []
            for annotation in delta.get("annotations") or []:
                source = annotation["url_citation"]
                assert isinstance(source["start_index"], int)
                assert isinstance(source["end_index"], int)
                got["citations"].append(source["url"])
            if choice["finish_reason"]:
                got["finish"].append(choice["finish_reason"])
    assert bool(done) is (got["error"] is None)
    return got


def check(got: dict[str, Any], shape: dict[str, Any], usage: int | None) -> None:
    expect = shape["expect"]
    assert got["reasoning"] in (expect.get("reasoning_any") or [expect["reasoning"]])
    assert got["content"] == expect["content"]
    assert got["finish"] == ([expect["finish_reason"]] if expect["finish_reason"] else [])
    assert got["citations"] == expect["citations"]
    if "steps" in expect:
        assert told(got["steps"]) == expect["steps"]
    assert usage == expect["total_tokens"]
    if expect["error"] is None:
        assert got["error"] is None
        assert got["usage"] == [expect["total_tokens"]]
    elif expect["error"] == "*truncated*":
        assert "before the answer was complete" in got["error"]
    elif expect["error"] == "balance":
        assert "balance" in got["error"]
        assert "account" in got["error"]
    else:
        assert expect["error"] in got["error"]


def told(steps: list[dict[str, Any]]) -> list[list[str]]:
    assert [step["index"] for step in steps] == list(range(len(steps)))
    return [[step["type"], step["query" if step["type"] == "search" else "url"]] for step in steps]


def total(fold: Fold) -> int | None:
    return fold.usage["total_tokens"] if fold.usage else None


def cuts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    return ((data[:place], data[place:]) for place in range(len(data) + 1))


def checked(shape: dict[str, Any], pieces: Iterable[bytes]) -> dict[str, Any]:
    fold = DeepSearchFold(shape["upstream"])
    got = outcome(fold, pieces)
    check(got, shape, total(fold))
    return got


@pytest.mark.parametrize("shape", PROVIDERS, ids=name)
def test_whole(shape: dict[str, Any]) -> None:
    checked(shape, [shape["sse"].encode()])


@pytest.mark.parametrize("shape", PROVIDERS, ids=name)
def test_byte_by_byte(shape: dict[str, Any]) -> None:
    data = shape["sse"].encode()
    checked(shape, (data[place : place + 1] for place in range(len(data))))


@pytest.mark.parametrize("shape", PROVIDERS, ids=name)
def test_cut_at_every_place(shape: dict[str, Any]) -> None:
    whole = checked(shape, [shape["sse"].encode()])
    for pieces in cuts(shape["sse"].encode()):
        assert checked(shape, pieces) == whole


@pytest.mark.parametrize("shape", PROVIDERS, ids=name)
def test_with_crlf(shape: dict[str, Any]) -> None:
    checked(shape, [shape["sse"].replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n").encode()])


@pytest.mark.parametrize("shape", PROVIDERS, ids=name)
def test_collected_for_a_caller_who_does_not_stream(shape: dict[str, Any]) -> None:
    events, error = run(DeepSearchFold(shape["upstream"]), [shape["sse"].encode()])
    expect = shape["expect"]
    if expect["error"]:
        assert error is not None
        return
    assert error is None
    whole: Any = collect(call(), events)
    message = whole["choices"][0]["message"]
    assert message["content"] == expect["content"]
    assert message.get("reasoning_content", "") in (expect.get("reasoning_any") or [expect["reasoning"]])
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert whole["usage"]["total_tokens"] == expect["total_tokens"]
    assert [a["url_citation"]["url"] for a in message.get("annotations", [])] == expect["citations"]
    if "steps" in expect:
        assert told(message.get("x_steps", [])) == expect["steps"]


@pytest.mark.parametrize("shape", OWN, ids=name)
def test_the_gateways_own_form_passes_through_a_gateway(shape: dict[str, Any]) -> None:
    """Torii in front of Torii: a normalised stream, read as DeepSearch's, comes out unchanged."""
    fold = DeepSearchFold("torii")
    got = outcome(fold, [shape["sse"].encode()])
    check(got, shape, total(fold))


@pytest.mark.parametrize("shape", OWN, ids=name)
def test_a_model_without_translation_passes_as_it_is(shape: dict[str, Any]) -> None:
    events, error = run(ChatFold("aihubmix"), [shape["sse"].encode()])
    writer = Chat().writer(call())
    out = writer.write(events) + (writer.end() if error is None else writer.fail(error.envelope()))
    check(read(out), shape, shape["expect"]["total_tokens"])
