"""Torii: a local, OpenAI-compatible gateway for Jina AI and AIHubMix."""

__version__ = "0.1.0"
