"""The HTTP libraries that bytes can go out through, one file each. ``client.py`` holds deadlines and limits over them.

httptools   the default: by far the least CPU for each call and each stream (docs/decisions.md has the figures)
httpx       whole and well known, to compare with; a connection for each call
"""

from __future__ import annotations

from .base import Engine, EngineAnswer, Going, Wire, nothing

__all__ = ["Engine", "EngineAnswer", "Going", "Wire", "engine", "nothing"]


def engine(name: str, wire: Wire) -> Engine:
    """The engine of this name. Only the one that is used is imported: each costs memory."""
    if name == "httpx":
        from .httpx import HttpxEngine

        return HttpxEngine(wire)
    from .httptools import HttptoolsEngine

    return HttptoolsEngine(wire)
