"""HTTP to upstreams: ``client.py`` applies deadlines and size limits to one of two engines, each in a file of its own.

httptools   the default: by far the least CPU per call and per stream (docs/decisions.md has the figures)
httpx       complete and well known, as a reference to compare with; opens a new connection for each call
"""

from __future__ import annotations

from .base import BeforeSend, Engine, EngineAnswer, Wire, nothing

__all__ = ["BeforeSend", "Engine", "EngineAnswer", "Wire", "engine", "nothing"]


def engine(name: str, wire: Wire) -> Engine:
    """The engine of this name: ``httpx``, or httptools. Only this engine is imported, because each costs memory."""
    if name == "httpx":
        from .httpx import HttpxEngine

        return HttpxEngine(wire)
    from .httptools import HttptoolsEngine

    return HttptoolsEngine(wire)
