"""The upstreams: pure translation to and from the providers' wire formats.

A new provider is one file here, one line in ``KINDS`` and its samples in ``tests/wire``. A provider that differs from
OpenAI by address and key only is an entry in the configuration.
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
