"""A stand-in for Jina AI and AIHubMix: their wire formats over real HTTP, without a key or a network.

The package imports nothing from the gateway. Its replies and its triggers for failures are listed in docs/sandbox.md.
"""

from __future__ import annotations

from .cases import CASES, Case
from .server import Sandbox, create_app

__all__ = ["CASES", "Case", "Sandbox", "create_app"]
