"""The filter of a budget: the endpoints and models whose calls it counts, as canonical text. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec

NONE = ""


class _Filter(msgspec.Struct, frozen=True):
    endpoints: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None


def written(endpoints: Iterable[str] | None, models: Iterable[str] | None) -> str:
    """The canonical text of a filter: equal filters have equal texts. None is no restriction, an empty list fits no
    call. Models are compared without letter case, so their text is in lower case."""
    said: dict[str, list[str]] = {}
    if endpoints is not None:
        said["endpoints"] = sorted(set(endpoints))
    if models is not None:
        said["models"] = sorted({model.lower() for model in models})
    return msgspec.json.encode(said).decode() if said else NONE


def fits(filter: str, endpoint: str, model: str) -> bool:  # noqa: A002 - the field's own noun
    """True if a call of ``endpoint`` (``embeddings``, ``rerank``, ``chat``) to ``model`` counts for the filter.

    ``model`` is the resolved id; ``*`` in a model of the filter stands for any text, wherever it is. The result
    is kept for some thousand different questions.
    """
    return filter == NONE or _fits(filter, endpoint, model.lower())


@lru_cache(maxsize=4096)
def _fits(text: str, endpoint: str, model: str) -> bool:
    said = msgspec.json.decode(text, type=_Filter)
    if said.endpoints is not None and endpoint not in said.endpoints:
        return False
    return said.models is None or any(matches(pattern, model) for pattern in said.models)


def matches(pattern: str, name: str) -> bool:
    """True if the name is the pattern, in which each ``*`` stands for any text. Letter case counts."""
    first, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    *middle, last = rest
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    place, end = len(first), len(name) - len(last)
    for part in middle:
        place = name.find(part, place, end)
        if place < 0:
            return False
        place += len(part)
    return True
