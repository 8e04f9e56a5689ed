"""The upstreams: providers' wire formats, as pure translation.

A new provider is a file here, a line in ``KINDS`` and its samples in ``tests/wire``; one that
differs only by address and key is a line in the configuration.
"""

from __future__ import annotations

from .aihubmix import AIHubMix
from .jina import Jina
from .openai import OpenAICompatible

KINDS: dict[str, type[OpenAICompatible]] = {
    "jina": Jina,
    "aihubmix": AIHubMix,
    "openai": OpenAICompatible,
}

__all__ = ["KINDS", "AIHubMix", "Jina", "OpenAICompatible"]
