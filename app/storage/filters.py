"""Which calls a budget's filter covers."""

from __future__ import annotations

from functools import lru_cache

import msgspec


@lru_cache(4096)
def fits(filter: str, endpoint: str, model: str) -> bool:  # noqa: A002 - as the column
    """True if the filter covers a call. ``filter`` is "" for all calls, or a JSON object with the lists ``endpoints``
    and ``models``, either may be missing; a model may end in ``*``."""
    if not filter:
        return True
    parts: dict[str, list[str]] = msgspec.json.decode(filter, type=dict[str, list[str]])
    endpoints, models = parts.get("endpoints"), parts.get("models")
    if endpoints is not None and endpoint not in endpoints:
        return False
    return models is None or any(
        model.startswith(name[:-1]) if name.endswith("*") else model == name for name in models
    )
