"""The canonical replies: the provider-neutral form of an answer between the upstreams and the endpoints.

Other fields that the upstream sent are kept. Vectors, scores and all fields that are only passed through stay the bytes
that the upstream wrote.
"""

from __future__ import annotations

from typing import Required, TypedDict

import msgspec

from .types import Json


class EmbeddingsReply(TypedDict, total=False):
    """``data`` has one item per input, in the order of the inputs, or one per page of a PDF; ``index`` is the item's
    position. One vector is in ``embedding``, several vectors of one input are in ``embeddings``. ``usage`` holds token
    counts only, and is empty if the upstream gave none."""

    object: str
    model: str
    data: Required[list[Json]]
    usage: Required[Json]


class RerankResult(TypedDict, total=False):
    """``index`` is the position of the document in the call's ``documents``."""

    index: Required[int]
    relevance_score: Required[msgspec.Raw]


class RerankReply(TypedDict, total=False):
    """``results`` are sorted best first, and may be more than ``top_n``. ``usage`` is as in EmbeddingsReply."""

    object: str
    model: str
    results: Required[list[RerankResult]]
    usage: Required[Json]


class ChatReply(TypedDict, total=False):
    """A chat.completion. ``usage`` is None or absent if the upstream gave none."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str | None
    choices: Required[list[Json]]
    usage: Json | None
