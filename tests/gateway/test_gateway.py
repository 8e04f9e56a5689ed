"""The life of a call over real sockets: requests, responses, and disconnects of either side."""

from __future__ import annotations

import asyncio
import signal
from base64 import b64encode
from pathlib import Path
from struct import pack
from typing import Any

import httpx
import msgspec
import pytest

from app import __version__
from app.callers.keys import Caller
from app.core.disconnects import DisconnectPolicy
from app.core.types import EmbeddingsCall
from app.gateway.admission import Admission, Load, Reservation
from app.server.app import create_app
from app.usage.record import CallRecord, Recorder

from ..conftest import (
    AIHUBMIX_KEY,
    JINA_KEY,
    RunningGateway,
    ScriptedUpstream,
    raw,
    replies,
    running_gateway,
    scripted_upstream,
    settings_for,
    streams,
    until,
)

SHAPES = {
    (shape["upstream"], shape["case"]): shape
    for shape in map(
        msgspec.json.decode, (Path(__file__).parents[1] / "wire" / "stream-shapes.jsonl").read_bytes().splitlines()
    )
}
VECTORS = {
    "model": "jina-embeddings-v3",
    "object": "list",
    "usage": {"total_tokens": 4},
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.25, 0.1]}],
}
EMBED = {"model": "jina-embeddings-v3", "input": ["hi"]}
ASK = {"model": "jina-deepsearch-v1", "messages": [{"role": "user", "content": "hi"}]}
PING = b": ping\n"
FULL = SHAPES["jina", "full_normal"]["sse"].encode()


def events(response: httpx.Response) -> list[Any]:
    parts = response.content.replace(PING, b"").split(b"\n\n")
    assert parts.pop() == b""
    return [part[6:].decode() if part == b"data: [DONE]" else msgspec.json.decode(part[6:]) for part in parts]


async def test_an_embeddings_call(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(VECTORS))
    response = await gateway.post("/v1/embeddings", EMBED, authorization="Bearer of-the-caller", cookie="a=b")
    assert response.json() == {
        "model": "jina-embeddings-v3",
        "object": "list",
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.25, 0.1]}],
    }
    assert response.headers["x-torii-upstream"] == "jina"
    assert response.headers["x-torii-upstream-model"] == "jina-embeddings-v3"
    assert len(response.headers["x-request-id"]) == 32
    [seen] = upstream.seen
    assert seen.path == "/v1/embeddings"
    assert seen.body == EMBED
    assert seen.headers == {
        "host": upstream.url.removeprefix("http://"),
        "accept": "application/json",
        "accept-encoding": "identity",
        "authorization": f"Bearer {JINA_KEY}",
        "content-length": str(len(seen.raw)),
        "content-type": "application/json",
        "user-agent": f"torii/{__version__}",
        "x-request-id": response.headers["x-request-id"],
    }


async def test_trap_03_base64_is_made_here(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(VECTORS))
    response = await gateway.post("/v1/embeddings", {**EMBED, "encoding_format": "base64"})
    assert response.json()["data"][0]["embedding"] == b64encode(pack("<3f", 0.5, -1.25, 0.1)).decode()


async def test_trap_05_many_inputs_are_sent_in_parts(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    async def embed(request: Any, writer: asyncio.StreamWriter) -> None:
        texts = request.body["input"]
        data = [{"object": "embedding", "index": n, "embedding": [float(text)]} for n, text in enumerate(texts)]
        body = {"object": "list", "model": "m", "data": data[::-1], "usage": {"total_tokens": len(texts)}}
        await replies(body)(request, writer)

    upstream.plays(embed)
    response = await gateway.post("/v1/embeddings", {**EMBED, "input": [str(n) for n in range(1000)]})
    answer = response.json()
    assert sorted(len(seen.body["input"]) for seen in upstream.seen) == [488, 512]
    assert [(item["index"], item["embedding"]) for item in answer["data"]] == [(n, [n]) for n in range(1000)]
    assert answer["usage"] == {"prompt_tokens": 1000, "total_tokens": 1000}


async def test_a_rerank_call(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    results = [{"index": 1, "relevance_score": -0.00312345}, {"index": 0, "relevance_score": -0.2}]
    upstream.plays(replies({"model": "m", "results": results, "usage": {"total_tokens": 7}}))
    body = {"model": "jina-reranker-v3", "query": "q", "documents": ["a", {"text": "b"}]}
    answer = (await gateway.post("/v1/rerank", body)).json()
    assert answer.pop("id").startswith("rerank-")
    assert answer == {
        "object": "list",
        "model": "jina-reranker-v3",
        "results": [
            {"index": 1, "relevance_score": -0.00312345, "document": {"text": "b"}},
            {"index": 0, "relevance_score": -0.2, "document": {"text": "a"}},
        ],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


async def test_trap_01_an_embeddings_body_sent_to_rerank(gateway: RunningGateway) -> None:
    response = await gateway.post("/v1/rerank", EMBED)
    assert response.status_code == 400
    message = "documents is missing. This looks like a request for POST /v1/embeddings"
    assert response.json() == {
        "error": {
            "message": message,
            "type": "invalid_request_error",
            "param": "documents",
            "code": "invalid_request",
        },
        "detail": message,
    }
    assert response.headers["x-should-retry"] == "false"


async def test_a_model_on_the_wrong_endpoint(gateway: RunningGateway) -> None:
    response = await gateway.post("/v1/embeddings", {"model": "jina-reranker-m0", "input": "a"})
    assert response.status_code == 400
    assert "POST /v1/rerank" in response.json()["detail"]


async def test_a_deepsearch_stream(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(streams(FULL))
    response = await gateway.post("/v1/chat/completions", {**ASK, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-torii-upstream"] == "jina"
    got = events(response)
    assert got[-1] == "[DONE]"
    assert {chunk["id"] for chunk in got[:-1]} == {f"chatcmpl-{response.headers['x-request-id']}"}
    reasoning = "".join(chunk["choices"][0]["delta"].get("reasoning_content", "") for chunk in got[:-1])
    assert reasoning == "I need today's tide table. "
    assert got[-2]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert got[-2]["visitedURLs"] == ["https://example.org/tides", "http://localhost:3000/"]
    [seen] = upstream.seen
    assert seen.path == "/deepsearch/v1/chat/completions"
    assert seen.headers["accept"] == "text/event-stream"
    assert seen.body == {**ASK, "stream": True}


async def test_trap_26_a_call_that_does_not_stream_is_streamed_upstream(
    gateway: RunningGateway, other_upstream: ScriptedUpstream
) -> None:
    other_upstream.plays(streams(SHAPES["aihubmix", "full_normal"]["sse"].encode()))
    answer = (await gateway.post("/v1/chat/completions", {**ASK, "model": "aihubmix/jina-deepsearch-v1"})).json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "aihubmix/jina-deepsearch-v1"
    [choice] = answer["choices"]
    assert choice["message"]["reasoning_content"] == "I need today's tide table. "
    assert choice["message"]["annotations"][0]["url_citation"]["start_index"] == 23
    assert answer["usage"] == {"prompt_tokens": 61000, "completion_tokens": 9100, "total_tokens": 69650}
    [seen] = other_upstream.seen
    assert seen.body["stream"] is True
    assert seen.headers["authorization"] == f"Bearer {AIHUBMIX_KEY}"


@pytest.mark.parametrize(
    "shape", [shape for key, shape in SHAPES.items() if key[0] != "gateway"], ids=lambda s: s["case"]
)
async def test_documented_streams_through_real_sockets(
    shape: dict[str, Any], gateway: RunningGateway, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    data = shape["sse"].encode()
    pieces = [data[place : place + 37] for place in range(0, len(data), 37)]
    served = upstream if shape["upstream"] == "jina" else other_upstream
    served.plays(streams(*pieces))
    body = {**ASK, "model": f"{shape['upstream']}/jina-deepsearch-v1", "stream": True}
    response = await gateway.post("/v1/chat/completions", body)
    expect = shape["expect"]
    if response.status_code != 200:
        assert expect["error"]
        assert expect["reasoning"] == ""
        assert response.json()["detail"]
        return
    got = events(response)
    deltas = [choice["delta"] for chunk in got if isinstance(chunk, dict) for choice in chunk.get("choices", ())]
    assert "".join(delta.get("content", "") for delta in deltas) == expect["content"]
    assert (got[-1] == "[DONE]") is (expect["error"] is None)
    assert ("error" in got[-1]) is (expect["error"] is not None)


# Models that need no translation.


async def test_other_chat_models_pass_unharmed(gateway: RunningGateway, other_upstream: ScriptedUpstream) -> None:
    reply = {
        "id": "chatcmpl-up",
        "object": "chat.completion",
        "created": 3,
        "model": "gpt-4o-mini-2024",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function"}]},
                "logprobs": {"content": []},
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        "service_tier": "default",
    }
    other_upstream.plays(replies(reply))
    body = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "n": 2,
        "logprobs": True,
        "a_field_of_tomorrow": {"x": None},
        "api_base": "http://evil.example",
    }
    answer = (await gateway.post("/v1/chat/completions", body)).json()
    assert answer == {**reply, "model": "gpt-4o-mini"}
    del body["api_base"]
    assert other_upstream.seen[0].body == {**body, "stream": False}


async def test_other_chat_streams_pass_unharmed(gateway: RunningGateway, other_upstream: ScriptedUpstream) -> None:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"id": "u", "model": "up", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "x": 1}

    usage = {"id": "u", "model": "up", "choices": [], "usage": {"total_tokens": 2}}
    sent = [chunk({"role": "assistant", "content": ""}), chunk({"tool_calls": [{"index": 0}]}), chunk({}, "tool_calls")]
    lines = [b"data: " + msgspec.json.encode(one) + b"\n\n" for one in [*sent, usage]]
    other_upstream.plays(streams(*lines, b"data: [DONE]\n\n"))
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    response = await gateway.post("/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})
    assert events(response) == [*({**one, "model": "gpt-4o-mini"} for one in [*sent, usage]), "[DONE]"]
    assert other_upstream.seen[0].body["stream_options"] == {"include_usage": True}


# Failures.


async def test_trap_28_29_the_next_target_answers(
    gateway: RunningGateway, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    for status, body in [
        (401, {"detail": "Invalid API key", "code": "AUTH_INVALID_API_KEY"}),
        (403, {"detail": "no", "code": "AUTHZ_INSUFFICIENT_BALANCE"}),
        (402, {"error": "Account balance not enough to run this query, please recharge."}),
        (429, {"detail": "slow down"}),
        (500, b"<html>oops</html>"),
        (200, {"error": {"message": "Your account balance is insufficient.", "type": "Aihubmix_api_error"}}),
        (200, b"half a J"),
    ]:
        upstream.plays(replies(body, status))
        other_upstream.plays(replies(VECTORS))
        response = await gateway.post("/v1/embeddings", EMBED)
        assert (response.status_code, response.headers["x-torii-upstream"]) == (200, "aihubmix")


async def test_the_callers_mistake_is_not_tried_elsewhere(
    gateway: RunningGateway, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    errors = [{"field": "body -> dimensions", "message": "too large", "type": "x", "input": "SECRET TEXT"}]
    upstream.plays(replies({"detail": "Validation errors in 1 fields.", "request_id": "r", "errors": errors}, 422))
    response = await gateway.post("/v1/embeddings", {**EMBED, "dimensions": 9999})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "dimensions"
    assert "SECRET" not in response.text
    assert not other_upstream.seen


async def test_an_upstream_that_cannot_be_reached() -> None:
    async with running_gateway(settings_for("http://127.0.0.1:9")) as gateway:
        response = await gateway.post("/v1/embeddings", EMBED)
    assert response.status_code == 502
    message = "the upstream cannot be reached"
    error = {"message": message, "type": "api_error", "param": None, "code": "upstream_unreachable"}
    assert response.json() == {"error": error, "detail": message}
    assert response.headers["x-torii-upstream"] == "jina"
    assert "127.0.0.1" not in response.text


@pytest.mark.parametrize(
    "end", [raw(b""), raw(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{"), raw(b"nonsense\r\n\r\n")]
)
async def test_an_upstream_that_breaks_off(end: Any, upstream: ScriptedUpstream) -> None:
    upstream.plays(end)
    async with running_gateway(settings_for(upstream.url)) as gateway:
        response = await gateway.post("/v1/embeddings", EMBED)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_error")


async def test_trap_29_no_key_of_ours_is_ever_told(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies({"detail": f"Invalid key {JINA_KEY} at {upstream.url}/v1 and jina_{'b' * 40}"}, 400))
    async with running_gateway(settings_for(upstream.url)) as gateway:
        response = await gateway.post("/v1/embeddings", EMBED)
    assert response.status_code >= 400
    for secret in (JINA_KEY, "127.0.0.1", "b" * 40):
        assert secret not in response.text


async def test_429_with_its_retry_after(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies({"detail": "slow"}, 429, retry_after="7"))
    async with running_gateway(settings_for(upstream.url)) as gateway:
        response = await gateway.post("/v1/embeddings", EMBED)
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    assert response.json()["error"]["type"] == "rate_limit_error"


async def test_deepsearch_is_not_begun_twice(
    gateway: RunningGateway, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    upstream.plays(replies(b"<html>502</html>", 502))
    response = await gateway.post("/v1/chat/completions", {**ASK, "stream": True})
    assert response.status_code == 502
    assert response.headers["x-should-retry"] == "false"
    assert not other_upstream.seen


async def test_deepsearch_goes_elsewhere_where_it_was_refused(
    gateway: RunningGateway, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    upstream.plays(replies({"error": "Per UID rate limit exceeded"}, 429))
    other_upstream.plays(streams(SHAPES["aihubmix", "full_normal"]["sse"].encode()))
    response = await gateway.post("/v1/chat/completions", {**ASK, "stream": True})
    assert (response.status_code, response.headers["x-torii-upstream"]) == (200, "aihubmix")


async def test_trap_17_an_error_before_the_first_word_has_a_status(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(SHAPES["aihubmix", "http200_json_error_body_not_sse"]["sse"].encode()))
    async with running_gateway(settings_for(upstream.url)) as gateway:
        response = await gateway.post("/v1/chat/completions", {**ASK, "stream": True})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "upstream_quota"


async def test_a_cut_stream_ends_in_an_error_event_and_no_done(
    gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(streams(FULL[:1500], end="cut"))
    got = events(await gateway.post("/v1/chat/completions", {**ASK, "stream": True}))
    assert set(got[-1]) == {"error", "detail"}
    assert "[DONE]" not in got


async def test_a_clean_end_in_the_middle_is_no_end(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(streams(FULL[:1500]))
    got = events(await gateway.post("/v1/chat/completions", {**ASK, "stream": True}))
    message = "jina ended the stream before the answer was complete"
    error = {"message": message, "type": "api_error", "param": None, "code": "upstream_stream_truncated"}
    assert got[-1] == {"error": error, "detail": message}


async def test_what_comes_with_an_early_done_is_passed_on(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    more = asyncio.Event()
    word = b'data: {"choices":[{"index":0,"delta":{"content":"tides","type":"think"}}]}\n\n'
    upstream.plays(streams(FULL[: FULL.index(b"\n\n") + 2], more, word + b"data: [DONE]\n\n"))
    async with gateway.client.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as response:
        pieces = response.aiter_bytes()
        await anext(pieces)
        more.set()
        *_, before, error, nothing = b"".join([piece async for piece in pieces]).split(b"\n\n")
    assert b"tides" in before
    assert b"before the answer was complete" in error
    assert nothing == b""


async def test_silence_ends(upstream: ScriptedUpstream) -> None:
    never = asyncio.Event()
    upstream.plays(streams(FULL[:1500], never))
    timeouts = {"idle_seconds": 0.5, "reply_seconds": 0.5}
    async with running_gateway(settings_for(upstream.url, timeouts=timeouts)) as gateway:
        got = events(await gateway.post("/v1/chat/completions", {**ASK, "stream": True}))
        assert got[-1]["error"]["code"] == "upstream_timeout"
        upstream.plays(streams(never))
        response = await gateway.post("/v1/embeddings", EMBED)
        assert (response.status_code, response.json()["error"]["code"]) == (504, "upstream_timeout")


# Disconnects.


async def test_a_caller_who_leaves_mid_stream_closes_the_upstream_within_a_second(
    gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    never = asyncio.Event()
    upstream.plays(streams(FULL[:1500], never))
    async with gateway.client.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as response:
        await anext(response.aiter_bytes())
    await upstream.gone(1.0)
    never.set()
    [record] = await gateway.ended(1)
    assert (record.status, record.target and record.target.upstream.name) == (499, "jina")


async def test_a_caller_who_leaves_before_the_answer_closes_the_upstream_within_a_second(
    gateway: RunningGateway, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def hang(request: Any, writer: asyncio.StreamWriter) -> bool:
        asked.set()
        await never.wait()
        return False

    upstream.plays(hang)
    call = asyncio.create_task(gateway.post("/v1/embeddings", EMBED))
    await asked.wait()
    call.cancel()
    [record] = await gateway.ended(1)
    assert record.status == 499
    assert not other_upstream.seen
    never.set()


async def test_each_call_is_settled_once(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(streams(FULL), replies(VECTORS), streams(FULL[:1500]))
    await gateway.post("/v1/chat/completions", {**ASK, "stream": True})
    await gateway.post("/v1/embeddings", EMBED)
    await gateway.post("/v1/chat/completions", {**ASK, "stream": True})
    records = await gateway.ended(3)
    assert [record.status for record in records] == [200, 200, 502]
    assert [record.usage and record.usage.get("total_tokens") for record in records] == [69650, 4, None]


async def test_sigterm_with_an_open_stream(upstream: ScriptedUpstream) -> None:
    """The stream is finished within the drain time, new calls are refused, and the server ends."""
    more = asyncio.Event()
    upstream.plays(streams(FULL[:1500], more, FULL[1500:]))
    async with running_gateway(settings_for(upstream.url, drain_seconds=20)) as gateway:
        async with gateway.client.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as response:
            body = response.aiter_bytes()
            received = await anext(body)
            gateway.server.handle_exit(signal.SIGTERM, None)
            await until(lambda: not gateway.server.servers[0].is_serving())
            with pytest.raises(httpx.ConnectError):
                async with httpx.AsyncClient(trust_env=False) as fresh:
                    await fresh.get(f"{gateway.url}/healthz")
            more.set()
            async for chunk in body:
                received += chunk
        assert received.endswith(b"data: [DONE]\n\n")


async def test_sigterm_with_a_stream_longer_than_the_drain(upstream: ScriptedUpstream) -> None:
    never = asyncio.Event()
    upstream.plays(streams(FULL[:1500], never))
    async with running_gateway(settings_for(upstream.url, drain_seconds=0.2)) as gateway:
        async with gateway.client.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as response:
            body = response.aiter_bytes()
            received = await anext(body)
            gateway.server.handle_exit(signal.SIGTERM, None)
            async for chunk in body:
                received += chunk
    assert b"[DONE]" not in received
    last = msgspec.json.decode(received.split(b"\n\n")[-2].removeprefix(b"data: "))
    assert last["detail"] == "this gateway is shutting down and could not finish the call"


# The HTTP interface.


async def test_callers_keys() -> None:
    async with scripted_upstream() as upstream:
        upstream.plays(replies(VECTORS))
        callers = [{"name": "ann", "key": "a-key-of-ann-0123456789"}]
        async with running_gateway(settings_for(upstream.url, callers=callers)) as gateway:
            good = await gateway.post("/v1/embeddings", EMBED, authorization="Bearer a-key-of-ann-0123456789")
            bad = await gateway.post("/v1/embeddings", EMBED, authorization="Bearer a-key-of-bob-0123456789")
            none = await gateway.post("/v1/embeddings", b"x" * 100)
            models = await gateway.client.get("/v1/models")
            health = await gateway.client.get("/healthz")
    assert [r.status_code for r in (good, bad, none, models, health)] == [200, 401, 401, 401, 200]
    assert bad.json()["error"]["code"] == "invalid_api_key"
    assert "bob" not in bad.text
    assert len(upstream.seen) == 1
    assert "ann" not in upstream.seen[0].headers["authorization"]


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{", b'{"a":NaN}', b"\xff\xfe{}", b"[" * 100_000, b'{"a":1e999}']
)
async def test_bodies_that_are_no_json_object(body: bytes, gateway: RunningGateway) -> None:
    response = await gateway.post("/v1/embeddings", body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_paths_without_v1_and_curl_without_a_content_type(
    gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(replies(VECTORS))
    kind = {"content-type": "application/x-www-form-urlencoded"}
    response = await gateway.client.post("/embeddings", content=msgspec.json.encode(EMBED), headers=kind)
    assert response.status_code == 200
    assert (await gateway.client.get("/models/jina-embeddings-v3")).json()["id"] == "jina-embeddings-v3"
    assert (await gateway.client.get("/v1/models/jina/jina-embeddings-v3")).status_code == 200


async def test_what_is_not_there(gateway: RunningGateway) -> None:
    lost = await gateway.client.get("/v1/nothing")
    assert (lost.status_code, lost.json()["error"]["code"]) == (404, "not_found")
    wrong = await gateway.client.get("/v1/embeddings")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    responses = await gateway.post("/v1/responses", {"model": "m"})
    assert responses.status_code == 404
    assert "chat completions" in responses.json()["detail"]
    model = await gateway.post("/v1/embeddings", {"model": "jina/jina-embedings-v3\x00", "input": "a"})
    assert model.status_code in (400, 404)


async def test_bodies_that_are_too_large_or_in_a_form_that_is_not_read(upstream: ScriptedUpstream) -> None:
    async with running_gateway(settings_for(upstream.url, max_body_megabytes=1)) as gateway:
        large = await gateway.post("/v1/embeddings", b" " * 1024 * 1024 + b" ")
        brotli = await gateway.post("/v1/embeddings", b"x", **{"content-encoding": "br"})
        form = await gateway.client.post("/v1/embeddings", files={"a": b"b"})
    assert [r.status_code for r in (large, brotli, form)] == [413, 415, 415]
    assert large.json()["detail"] == "the body is larger than 1 MB (max_body_megabytes)"
    assert not upstream.seen


async def test_trap_31_ids_are_our_own(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    """Jina's ids are the time in milliseconds, so two runs may share one."""
    upstream.plays(streams(FULL))
    body = {**ASK, "stream": True}
    answers = await asyncio.gather(*(gateway.post("/v1/chat/completions", body) for _ in range(3)))
    ids = {chunk["id"] for answer in answers for chunk in events(answer)[:-1]}
    assert len(ids) == 3
    assert "1790000000123" not in ids


async def test_trap_32_no_classifier_is_trained_in_public(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    """Jina trains classifiers publicly unless told otherwise, so the gateway tells it otherwise."""
    upstream.plays(replies({"classifier_id": "c", "num_samples": 2}))
    body = {"model": "jina-embeddings-v3", "input": [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]}
    assert (await gateway.post("/v1/train", {**body, "access": "public"})).status_code == 400
    assert (await gateway.post("/v1/train", body)).status_code == 200
    assert [seen.body["access"] for seen in upstream.seen] == ["private"]


async def test_models(gateway: RunningGateway) -> None:
    listing = (await gateway.client.get("/v1/models")).json()
    assert listing["object"] == "list"
    model = next(model for model in listing["data"] if model["id"] == "jina-embeddings-v3")
    assert (model["object"], model["owned_by"], model["upstreams"]) == ("model", "jina-ai", ["jina", "aihubmix"])
    assert (await gateway.client.get("/v1/models/jina-embeddings-v3")).json() == model


async def test_health_and_docs(gateway: RunningGateway) -> None:
    assert (await gateway.client.get("/healthz")).json() == {"status": "ok", "version": __version__}
    assert (await gateway.client.get("/readyz")).json() == {"status": "ready"}
    assert (await gateway.client.get("/openapi.json")).json()["info"]["title"] == "Torii"
    page = (await gateway.client.get("/docs")).text
    assert "https://" not in page.replace("https://fastapi.tiangolo.com", "")
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert f"/docs/{name}" in page
        assert len((await gateway.client.get(f"/docs/{name}")).content) > 1000


async def test_trap_34_silence_is_filled_with_comments(upstream: ScriptedUpstream) -> None:
    more = asyncio.Event()
    upstream.plays(streams(FULL[:1500], more, FULL[1500:]))
    async with running_gateway(settings_for(upstream.url, ping_seconds=0.05)) as gateway:
        async with gateway.client.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as response:
            received = b""
            async for chunk in response.aiter_bytes():
                received += chunk
                if PING in received:
                    more.set()
    assert received.endswith(b"data: [DONE]\n\n")


def test_nothing_secret_in_the_application_object() -> None:
    app = create_app(settings_for("http://127.0.0.1:9"))
    gateway = app.state.generations.now.gateway
    for thing in (app, gateway, app.state.settings, gateway.routes.find("jina-embeddings-v3"), vars(gateway)):
        assert JINA_KEY not in repr(thing)


@pytest.mark.parametrize(
    ("method", "path", "body", "line"),
    [
        ("POST", "/v1/embeddings", b"{", (400, "invalid_request", "the body is not JSON")),
        ("POST", "/v1/embeddings", b'{"input":"a"}', (400, "invalid_request", "model is missing")),
        ("POST", "/v1/nothing", b"{}", (404, "not_found", "there is nothing at")),
        ("DELETE", "/v1/models", b"", (405, "method_not_allowed", "DELETE is not allowed for /v1/models")),
    ],
)
async def test_a_request_that_becomes_no_call_has_a_line_in_the_log(
    method: str, path: str, body: bytes, line: tuple[int, str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """One line, as for a call, with the x-request-id."""
    caplog.set_level("INFO", "torii")
    async with running_gateway(settings_for("http://127.0.0.1:9")) as gateway:
        response = await gateway.client.request(method, path, content=body)
    [record] = [found for found in caplog.records if getattr(found, "request_id", None)]
    status, code, said = line
    fields = vars(record)
    assert (response.status_code, fields["status"], fields["error"]) == (status, status, code)
    assert fields["request_id"] == response.headers["x-request-id"]
    assert record.getMessage().startswith(f"{method} {path} was refused: {said}")


async def test_a_call_that_fails_has_one_line_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "torii")
    async with running_gateway(settings_for("http://127.0.0.1:9")) as gateway:
        response = await gateway.post("/v1/embeddings", EMBED)
    [record] = [found for found in caplog.records if found.name in ("torii.calls", "torii.edge")]
    fields = vars(record)
    assert (response.status_code, fields["error"]) == (502, "upstream_unreachable")
    assert fields["reason"] == "connection refused"


async def test_a_body_above_the_servers_limit_is_refused_here(
    gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    """A PDF of 8 MB is allowed as a part, but has 11 MB in base64. The server's own 413 would be a page with its
    file paths."""
    pdf = b64encode(b"%PDF" + bytes(8 * 1024 * 1024)).decode()
    part = {"type": "file", "file": {"filename": "a.pdf", "file_data": pdf}}
    response = await gateway.post("/v1/chat/completions", {**ASK, "messages": [{"role": "user", "content": [part]}]})
    sent_part = {"type": "file", "data": f"data:application/pdf;base64,{pdf}", "mimeType": "application/pdf"}
    sent = {**ASK, "messages": [{"role": "user", "content": [sent_part]}], "stream": True}
    assert response.status_code == 413
    assert response.json()["error"] == {
        "message": "DeepSearch takes 10,485,760 bytes in a request, files in base64 among them; this one has "
        f"{len(msgspec.json.encode(sent)):,}",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "too_large",
    }
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("policy", "status", "sent"),
    [
        ("fold", 200, [{"role": "user", "content": "Be brief.\n\nhi"}]),
        ("drop", 200, [{"role": "user", "content": "hi"}]),
        ("refuse", 400, None),
    ],
)
async def test_the_operator_says_what_becomes_of_system_messages(
    policy: str, status: int, sent: Any, upstream: ScriptedUpstream
) -> None:
    upstream.plays(streams(FULL))
    messages = [{"role": "system", "content": "Be brief."}, *ASK["messages"]]
    async with running_gateway(settings_for(upstream.url, deepsearch={"system_messages": policy})) as gateway:
        response = await gateway.post("/v1/chat/completions", {**ASK, "messages": messages})
    assert response.status_code == status
    assert [seen.body["messages"] for seen in upstream.seen] == ([sent] if sent else [])


async def test_a_sink_that_fails_takes_no_room() -> None:
    def refuse(admitted: Reservation) -> None:
        admitted.begin(EmbeddingsCall(model="m", body={}))
        raise RuntimeError

    def fails(record: CallRecord) -> None:
        raise OSError("no")

    admission = Admission(Load(), 1, Recorder(fails), DisconnectPolicy())
    with pytest.raises(OSError, match="no"), admission.admit(Caller("ann"), "id") as admitted:
        refuse(admitted)
    assert (admission.load.calls, admission.calls) == (0, 0)
