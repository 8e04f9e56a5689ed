"""Building blocks for the schemas of several endpoints."""

from __future__ import annotations

from typing import Any

from ...core.types import Json


def option(kind: str, words: str, **more: Any) -> Json:
    """An optional field of JSON's type ``kind``; null means the same as its absence."""
    return {"type": [kind, "null"], "description": words, **more}
