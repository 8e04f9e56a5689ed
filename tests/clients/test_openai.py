"""The official OpenAI SDK, unmodified. Runs with its versions 1, 2 and 3; see check_old_openai.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from .conftest import Beside

QUESTION: Any = [{"role": "user", "content": "When is high water at the harbour?"}]


@pytest.fixture
def client(gateway: Beside) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.base_url, api_key=gateway.key) as client:
        yield client


class Answer(BaseModel):
    title: str
    count: int


def test_trap_03_the_default_encoding_gives_the_vectors_that_float_gives(client: openai.OpenAI, upstream: str) -> None:
    model = f"{upstream}/jina-embeddings-v3"
    default = client.embeddings.create(model=model, input=["a gate", "a bridge"])
    floats = client.embeddings.create(model=model, input=["a gate", "a bridge"], encoding_format="float")
    assert default.model == model
    assert [item.index for item in default.data] == [0, 1]
    assert len(default.data[0].embedding) == 1024
    for one, other in zip(default.data, floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-7)
    assert default.usage.prompt_tokens == default.usage.total_tokens > 0


def test_a_string_and_dimensions(client: openai.OpenAI, upstream: str) -> None:
    found = client.embeddings.create(model=f"{upstream}/jina-embeddings-v3", input="a gate", dimensions=64)
    assert len(found.data[0].embedding) == 64


def test_trap_04_token_ids(client: openai.OpenAI, upstream: str) -> None:
    model = f"{upstream}/jina-embeddings-v3"
    ids = client.embeddings.create(model=model, input=[[15339, 1917], [64, 18618]], encoding_format="float")
    text = client.embeddings.create(model=model, input=["hello world", "a gate"], encoding_format="float")
    assert [item.embedding for item in ids.data] == [item.embedding for item in text.data]


def test_fields_of_jina_go_through(client: openai.OpenAI) -> None:
    extra = {"task": "retrieval.query", "embedding_type": "ubinary"}
    found = client.embeddings.create(model="jina-embeddings-v3", input="a", extra_body=extra)
    assert len(found.data[0].embedding) == 128
    assert all(number in range(256) for number in found.data[0].embedding)


def test_a_chat_that_does_not_stream(client: openai.OpenAI, upstream: str) -> None:
    done = client.chat.completions.create(model=f"{upstream}/jina-deepsearch-v1", messages=QUESTION)
    [choice] = done.choices
    message: Any = choice.message
    assert choice.finish_reason == "stop"
    assert "<think>" not in message.content
    assert message.reasoning_content
    assert "<think>" not in message.reasoning_content
    citation = message.annotations[0].url_citation
    assert message.content[citation.start_index : citation.end_index].startswith("[^")
    assert done.usage is not None
    assert done.usage.total_tokens > 0
    assert done.id.startswith("chatcmpl-")


@pytest.mark.parametrize("asked", [True, False])
def test_a_stream_with_usage_exactly_when_asked(client: openai.OpenAI, upstream: str, asked: bool) -> None:
    more: Any = {"stream_options": {"include_usage": True}} if asked else {}
    stream = client.chat.completions.create(
        model=f"{upstream}/jina-deepsearch-v1", messages=QUESTION, stream=True, **more
    )
    chunks = list(stream)
    assert sum(chunk.usage is not None for chunk in chunks) == asked
    assert len({(chunk.id, chunk.model, chunk.created) for chunk in chunks}) == 1
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert choices[0].delta.role == "assistant"
    assert "think>" not in "".join(choice.delta.content or "" for choice in choices)


def test_the_streaming_helper_puts_the_deltas_together(client: openai.OpenAI, upstream: str) -> None:
    model = f"{upstream}/jina-deepsearch-v1"
    with client.chat.completions.stream(model=model, messages=QUESTION) as stream:
        for _ in stream:
            pass
        message: Any = stream.get_final_completion().choices[0].message
    assert message.content
    assert message.reasoning_content
    assert message.annotations
    if upstream == "jina":
        assert [step["index"] for step in message.x_steps] == list(range(len(message.x_steps)))


def test_structured_output(client: openai.OpenAI, upstream: str) -> None:
    done = client.chat.completions.parse(
        model=f"{upstream}/jina-deepsearch-v1", messages=QUESTION, response_format=Answer
    )
    assert isinstance(done.choices[0].message.parsed, Answer)


def test_tool_calls_of_models_that_have_them(client: openai.OpenAI) -> None:
    tool: Any = {
        "type": "function",
        "function": {"name": "tide", "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}},
    }
    done = client.chat.completions.create(model="gpt-4o-mini", messages=QUESTION, tools=[tool])
    assert done.choices[0].finish_reason == "tool_calls"
    calls: Any = done.choices[0].message.tool_calls
    assert calls[0].function.name == "tide"


def test_models(client: openai.OpenAI) -> None:
    ids = [model.id for model in client.models.list()]
    assert {"jina-embeddings-v3", "jina-reranker-m0", "jina-deepsearch-v1"} <= set(ids)
    model: Any = client.models.retrieve("jina-embeddings-v3")
    assert (model.id, model.owned_by, model.dimensions) == ("jina-embeddings-v3", "jina-ai", 1024)


def test_typed_errors(client: openai.OpenAI, gateway: Beside, upstream: str) -> None:
    model = f"{upstream}/jina-embeddings-v3"
    with pytest.raises(openai.BadRequestError) as bad:
        client.embeddings.create(model=model, input=[])
    assert (bad.value.param, bad.value.type) == ("input", "invalid_request_error")
    with pytest.raises(openai.NotFoundError) as lost:
        client.embeddings.create(model="jina-ai/jina-embedings-v3", input="a")
    assert lost.value.code == "model_not_found"
    wrong_key = openai.OpenAI(base_url=gateway.base_url, api_key="not-the-key")
    with wrong_key, pytest.raises(openai.AuthenticationError) as unknown:
        wrong_key.models.list()
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.InternalServerError) as auth:
        client.embeddings.create(model=model, input="sandbox:401")
    assert (auth.value.status_code, auth.value.code) == (502, "upstream_auth")
    assert auth.value.request_id


def test_a_rate_limit_says_when_to_come_back(gateway: Beside, upstream: str) -> None:
    patient = openai.OpenAI(base_url=gateway.base_url, api_key=gateway.key, max_retries=0)
    with patient, pytest.raises(openai.RateLimitError) as limited:
        patient.embeddings.create(model=f"{upstream}/jina-embeddings-v3", input="sandbox:429")
    assert int(limited.value.response.headers["retry-after"]) > 0


@pytest.mark.parametrize("case", ["deepsearch-error", "reset-mid-stream"])
def test_trap_17_a_failed_stream_raises(client: openai.OpenAI, upstream: str, case: str) -> None:
    messages: Any = [{"role": "user", "content": f"sandbox:{case} tides"}]
    stream = client.chat.completions.create(model=f"{upstream}/jina-deepsearch-v1", messages=messages, stream=True)
    with pytest.raises(openai.APIError):
        list(stream)


def test_deepsearch_is_not_begun_again_by_the_sdk(client: openai.OpenAI, gateway: Beside, upstream: str) -> None:
    messages: Any = [{"role": "user", "content": "sandbox:500"}]
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model=f"{upstream}/jina-deepsearch-v1", messages=messages)
    assert len(gateway.records) == 1


def test_a_stream_that_is_left(client: openai.OpenAI, gateway: Beside, upstream: str) -> None:
    messages: Any = [{"role": "user", "content": "sandbox:hang-mid-stream tides"}]
    stream = client.chat.completions.create(model=f"{upstream}/jina-deepsearch-v1", messages=messages, stream=True)
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 30
    while not gateway.records and time.monotonic() < deadline:
        time.sleep(0.01)  # noqa: TID251 - the gateway is in another thread
    assert [record.status for record in gateway.records] == [499]


def test_the_asynchronous_client(gateway: Beside, upstream: str) -> None:
    async def run() -> tuple[int, str]:
        async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.key) as client:
            vectors = await client.embeddings.create(model=f"{upstream}/jina-embeddings-v3", input="a")
            stream = await client.chat.completions.create(
                model=f"{upstream}/jina-deepsearch-v1", messages=QUESTION, stream=True
            )
            text = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return len(vectors.data[0].embedding), "".join(text)

    size, text = asyncio.run(run())
    assert size == 1024
    assert text
