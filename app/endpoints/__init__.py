"""The endpoints: what a caller may send, and the form in which he gets his answer.

An endpoint turns a caller's body into a Call, and a canonical answer into the bytes
that this caller wants. It knows nothing of upstreams.
"""

from __future__ import annotations

from typing import Protocol

from ..core.types import Call, EndpointName, Json

# Where each endpoint is, after /v1/.
PATHS: dict[EndpointName, str] = {"embeddings": "embeddings", "rerank": "rerank", "chat": "chat/completions"}


class Endpoint(Protocol):
    """``paths`` are given without the ``/v1`` that every one of them may carry in front."""

    @property
    def name(self) -> EndpointName: ...

    @property
    def paths(self) -> tuple[str, ...]: ...

    def parse(self, body: Json, path: str) -> Call:
        """The canonical call. Raises InvalidRequest naming the field."""

    def split(self, call: Call, cap: int | None) -> list[Call]:
        """The call in parts of at most ``cap`` inputs, in order; mostly the call alone."""

    def merge(self, call: Call, replies: list[Json]) -> Json:
        """The canonical answers of the parts as one; checks that they answer this call."""

    def render(self, call: Call, reply: Json) -> bytes:
        """The caller's answer, in the encoding and under the model name that he used."""
