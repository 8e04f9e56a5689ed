"""Cohere's client, unmodified, in both versions of its API."""

from __future__ import annotations

from collections.abc import Iterator

import cohere
import httpx
import pytest

from .conftest import Beside

DOCUMENTS = ["Bread is baked in ovens.", "High water comes twice a day at the harbour.", "A gate stands in water."]
QUERY = "when is high water at the harbour"


@pytest.fixture
def transport() -> Iterator[httpx.Client]:
    """Cohere's clients never close their own transport."""
    with httpx.Client(trust_env=False) as client:
        yield client


def test_version_2(gateway: Beside, upstream: str, transport: httpx.Client) -> None:
    client = cohere.ClientV2(api_key=gateway.key, base_url=gateway.root, httpx_client=transport)
    ranked = client.rerank(model=f"{upstream}/jina-reranker-m0", query=QUERY, documents=DOCUMENTS, top_n=2)
    assert ranked.results[0].index == 1
    assert len(ranked.results) == 2
    assert ranked.meta is not None
    assert ranked.id


def test_version_1_gives_documents_back(gateway: Beside, upstream: str, transport: httpx.Client) -> None:
    """AIHubMix sends no documents, and Jina's cross-encoders send strings, which make this client warn."""
    client = cohere.Client(api_key=gateway.key, base_url=gateway.root, httpx_client=transport)
    ranked = client.rerank(
        model=f"{upstream}/jina-reranker-v2-base-multilingual", query=QUERY, documents=DOCUMENTS, return_documents=True
    )
    best = ranked.results[0]
    assert best.index == 1
    assert best.document is not None
    assert best.document.text == DOCUMENTS[1]


def test_errors_are_typed(gateway: Beside, transport: httpx.Client) -> None:
    client = cohere.ClientV2(api_key=gateway.key, base_url=gateway.root, httpx_client=transport)
    with pytest.raises(cohere.NotFoundError):
        client.rerank(model="jina-ai/jina-reranker-m1", query=QUERY, documents=DOCUMENTS)
