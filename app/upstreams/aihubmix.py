"""AIHubMix: Jina's models in Jina's wire format, hundreds of other models in OpenAI's and Cohere's.

Source: AIHubMix's page on Jina AI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..core.replies import RerankReply
from ..core.types import EmbeddingsCall, EndpointName, Json, RerankCall, Target
from . import openai, validation
from .jina import jina_embeddings, jina_rerank
from .openai import OpenAICompatible, Translation, cohere_rerank, read_embeddings


def write_embeddings(upstream: AIHubMix, call: EmbeddingsCall, target: Target) -> Json:
    """Only other models get OpenAI's ``encoding_format``: the page does not mention it for Jina's models."""
    return jina_embeddings(call, target) if _is_jina(target) else openai.write_embeddings(upstream, call, target)


def write_rerank(upstream: AIHubMix, call: RerankCall, target: Target) -> Json:
    """The limit in tokens per document has the page's name: "applicable only to Cohere (not supported by Jina)"."""
    return jina_rerank(call, target) if _is_jina(target) else cohere_rerank(call, "max_chunk_per_doc")


def read_rerank(upstream: AIHubMix, call: RerankCall, body: bytes, status: int) -> RerankReply:
    """Without ``top_n``, one result is enough: the provider's page shows three results for eight documents."""
    least = 1 if call.top_n is None else min(call.top_n, len(call.documents))
    return validation.ranking(call, body, upstream.name, least, status)


def _is_jina(target: Target) -> bool:
    return target.name.removeprefix("jina-ai/").startswith("jina-")


@dataclass(frozen=True, slots=True)
class AIHubMix(OpenAICompatible):
    endpoints: ClassVar[Mapping[EndpointName, Translation]] = {
        "embeddings": Translation("/embeddings", write_embeddings, read_embeddings),
        "rerank": Translation("/rerank", write_rerank, read_rerank),
        "chat": OpenAICompatible.endpoints["chat"],
    }

    name: str = "aihubmix"
    base_url: str = "https://aihubmix.com/v1"
