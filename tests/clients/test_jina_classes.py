"""The Jina classes of LangChain, LlamaIndex and Haystack, unmodified.

They need some hundred megabytes, so they are in the extra `clients`; `make clients` installs them and runs these tests.
"""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Beside

# These libraries use deprecated functions of their own, and leave sockets open.
pytestmark = pytest.mark.filterwarnings("default")

WHY = "is in the extra `clients`: run `make clients`"
DOCUMENTS = ["Bread is baked in ovens.", "High water comes twice a day at the harbour.", "A gate stands in water."]
QUERY = "when is high water at the harbour"


def have(module: str) -> Any:
    return pytest.importorskip(module, reason=f"{module} {WHY}")


def nearest(query: list[float], vectors: list[list[float]]) -> int:
    return max(range(len(vectors)), key=lambda place: sum(a * b for a, b in zip(query, vectors[place], strict=True)))


def test_langchain_embeddings(gateway: Beside, upstream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    jina = have("langchain_community.embeddings.jina")
    monkeypatch.setattr(jina, "JINA_API_URL", f"{gateway.base_url}/embeddings")
    embeddings = jina.JinaEmbeddings(jina_api_key=gateway.key, model_name=f"{upstream}/jina-embeddings-v3")
    assert nearest(embeddings.embed_query(QUERY), embeddings.embed_documents(DOCUMENTS)) == 1


def test_langchain_embeddings_of_images(gateway: Beside, upstream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    jina = have("langchain_community.embeddings.jina")
    monkeypatch.setattr(jina, "JINA_API_URL", f"{gateway.base_url}/embeddings")
    embeddings = jina.JinaEmbeddings(jina_api_key=gateway.key, model_name=f"{upstream}/jina-clip-v2")
    assert len(embeddings.embed_images(["https://a.example/x.png"])[0]) == 1024


def test_langchain_says_what_went_wrong(gateway: Beside, upstream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    jina = have("langchain_community.embeddings.jina")
    monkeypatch.setattr(jina, "JINA_API_URL", f"{gateway.base_url}/embeddings")
    embeddings = jina.JinaEmbeddings(jina_api_key=gateway.key, model_name=f"{upstream}/jina-embeddings-v3")
    with pytest.raises(RuntimeError, match=rf"{upstream} .*key"):
        embeddings.embed_query("sandbox:401")


def test_langchain_rerank(gateway: Beside, upstream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rerank = have("langchain_community.document_compressors.jina_rerank")
    monkeypatch.setattr(rerank, "JINA_API_URL", f"{gateway.base_url}/rerank")
    ranker = rerank.JinaRerank(jina_api_key=gateway.key, model=f"{upstream}/jina-reranker-v2-base-multilingual")
    assert ranker.rerank(DOCUMENTS, QUERY)[0]["index"] == 1


@pytest.mark.parametrize("encoding", ["float", "ubinary", "binary"])
def test_llamaindex_embeddings(gateway: Beside, upstream: str, encoding: str) -> None:
    jina = have("llama_index.embeddings.jinaai.base")
    embedding = jina.JinaEmbedding(api_key=gateway.key, model=f"{upstream}/jina-embeddings-v3", embedding_type=encoding)
    # The class takes no base URL, though its HTTP part does.
    embedding._api = jina._JinaAPICaller(
        model=f"{upstream}/jina-embeddings-v3", base_url=gateway.base_url, api_key=gateway.key
    )
    vectors = embedding.get_text_embedding_batch(DOCUMENTS)
    assert len(vectors[0]) == 1024
    assert nearest(embedding.get_query_embedding(QUERY), vectors) == 1


def test_llamaindex_rerank(gateway: Beside, upstream: str) -> None:
    rerank = have("llama_index.postprocessor.jinaai_rerank")
    schema = have("llama_index.core.schema")
    ranker = rerank.JinaRerank(
        api_key=gateway.key, base_url=gateway.base_url, model=f"{upstream}/jina-reranker-v2-base-multilingual", top_n=2
    )
    nodes = [schema.NodeWithScore(node=schema.TextNode(text=text)) for text in DOCUMENTS]
    ranked = ranker.postprocess_nodes(nodes, query_str=QUERY)
    assert ranked[0].node.text == DOCUMENTS[1]
    assert len(ranked) == 2


def test_haystack(gateway: Beside, upstream: str) -> None:
    embedders = have("haystack_integrations.components.embedders.jina")
    rankers = have("haystack_integrations.components.rankers.jina")
    haystack = have("haystack")
    secret = haystack.utils.Secret.from_token(gateway.key)
    documents = [haystack.Document(content=text) for text in DOCUMENTS]
    where = {"api_key": secret, "base_url": f"{gateway.base_url}/embeddings", "model": f"{upstream}/jina-embeddings-v3"}
    query = embedders.JinaTextEmbedder(**where).run(QUERY)["embedding"]
    found = embedders.JinaDocumentEmbedder(**where).run(documents)["documents"]
    assert nearest(query, [document.embedding for document in found]) == 1
    ranker = rankers.JinaRanker(
        api_key=secret, base_url=f"{gateway.base_url}/rerank", model=f"{upstream}/jina-reranker-v2-base-multilingual"
    )
    assert ranker.run(QUERY, documents)["documents"][0].content == DOCUMENTS[1]
