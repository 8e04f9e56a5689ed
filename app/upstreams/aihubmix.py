"""AIHubMix: Jina's models in Jina's wire format, hundreds of others in OpenAI's and Cohere's.

Source: AIHubMix's page on Jina AI.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.types import EmbeddingsCall, Json, RerankCall, Target
from .jina import jina_embeddings, jina_rerank
from .openai import OpenAICompatible, cohere_rerank, openai_embeddings


@dataclass(frozen=True, slots=True)
class AIHubMix(OpenAICompatible):
    name: str = "aihubmix"
    base_url: str = "https://aihubmix.com/v1"

    def embeddings(self, call: EmbeddingsCall, target: Target) -> Json:
        """Other models get OpenAI's option, of which the page does not speak for Jina's."""
        return jina_embeddings(call, target) if _is_jina(target) else openai_embeddings(call)

    def rerank(self, call: RerankCall, target: Target) -> Json:
        """The limit of a document is named as on the page: "applicable only to Cohere (not supported by Jina)"."""
        return jina_rerank(call, target) if _is_jina(target) else cohere_rerank(call, "max_chunk_per_doc")

    def least_results(self, call: RerankCall) -> int:
        """One if ``top_n`` was not asked for: the provider's page prints three results for eight documents."""
        return 1 if call.top_n is None else min(call.top_n, len(call.documents))


def _is_jina(target: Target) -> bool:
    return target.name.removeprefix("jina-ai/").startswith("jina-")
