"""The canonical replies: the form in which upstreams hand an answer to the endpoints, before it is in a caller's words.

They have whatever else the upstream wrote. Vectors, scores and all that is only passed on are the upstream's bytes.
"""

from __future__ import annotations

from typing import Required, TypedDict

import msgspec

from .types import Json


class EmbeddingsReply(TypedDict, total=False):
    """``data`` is in the order of the inputs, and each ``index`` the item's place. A vector is in ``embedding``,
    several for one input are in ``embeddings``. ``usage`` holds counts alone, none if the upstream gave none."""

    object: str
    model: str
    data: Required[list[Json]]
    usage: Required[Json]


class RerankResult(TypedDict, total=False):
    """``index`` is a place in the call's documents."""

    index: Required[int]
    relevance_score: Required[msgspec.Raw]


class RerankReply(TypedDict, total=False):
    """``results`` are the best first, and may be more than were asked for. ``usage`` is as in an EmbeddingsReply."""

    object: str
    model: str
    results: Required[list[RerankResult]]
    usage: Required[Json]


class ChatReply(TypedDict, total=False):
    """A chat.completion; ``usage`` is None or absent if the upstream gave none."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str | None
    choices: Required[list[Json]]
    usage: Json | None
