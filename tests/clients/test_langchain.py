"""LangChain's OpenAI classes with their default settings: token ids for inputs, base64 for vectors."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from .conftest import Beside


class Answer(BaseModel):
    title: str
    count: int


@pytest.fixture
def transport() -> Iterator[httpx.Client]:
    """LangChain never closes its own transport."""
    with httpx.Client(trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def chat(gateway: Beside, upstream: str, transport: httpx.Client) -> ChatOpenAI:
    return ChatOpenAI(
        model=f"{upstream}/jina-deepsearch-v1",
        base_url=gateway.base_url,
        api_key=SecretStr(gateway.key),
        max_retries=0,
        http_client=transport,
    )


def test_trap_04_embeddings_with_default_settings(gateway: Beside, upstream: str, transport: httpx.Client) -> None:
    default = OpenAIEmbeddings(
        model=f"{upstream}/jina-embeddings-v3",
        base_url=gateway.base_url,
        api_key=SecretStr(gateway.key),
        http_client=transport,
    )
    texts = OpenAIEmbeddings(
        model=f"{upstream}/jina-embeddings-v3",
        base_url=gateway.base_url,
        api_key=SecretStr(gateway.key),
        check_embedding_ctx_length=False,
        http_client=transport,
    )
    documents = ["a gate", "潮汐 🌊", "High water"]
    for one, other in zip(default.embed_documents(documents), texts.embed_documents(documents), strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert len(default.embed_query("a gate")) == 1024


def test_trap_12_a_stream_has_one_finish_reason_and_one_usage(chat: ChatOpenAI) -> None:
    chunks = list(chat.stream("When is high water?", stream_usage=True))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert whole.response_metadata["finish_reason"] == "stop"
    assert whole.usage_metadata is not None
    alone = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert len(alone) == 1
    assert whole.usage_metadata["total_tokens"] == alone[0]["total_tokens"]
    assert "<think>" not in str(whole.content)


def test_a_whole_answer(chat: ChatOpenAI) -> None:
    answer = chat.invoke("When is high water?")
    assert answer.content
    assert answer.response_metadata["finish_reason"] == "stop"


def test_structured_output(chat: ChatOpenAI) -> None:
    answer = chat.with_structured_output(Answer, method="json_schema").invoke("When is high water?")
    assert isinstance(answer, Answer)


def test_trap_17_an_error_in_the_stream_is_raised(chat: ChatOpenAI) -> None:
    with pytest.raises(Exception, match=r"jina|aihubmix"):
        list(chat.stream("sandbox:deepsearch-error tides"))
