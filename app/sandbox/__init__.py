"""A stand-in for Jina AI and AIHubMix: their wire formats over real HTTP, without a key or a network.

It imports nothing of the gateway. What it answers, and what makes it fail, is in docs/sandbox.md.
"""

from __future__ import annotations

from .cases import CASES, Case
from .server import Sandbox, create_app

__all__ = ["CASES", "Case", "Sandbox", "create_app"]
