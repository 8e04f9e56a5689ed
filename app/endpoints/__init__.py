"""The endpoints: what a caller may send, and the form in which they get their answer.

An endpoint turns a caller's body into a Call, and a canonical answer into the bytes
that this caller wants. It knows nothing of upstreams. A new one is a file here, a line in
``ENDPOINTS``, and a line in the table of each upstream that serves it.
"""

from __future__ import annotations

from ..core.types import EndpointName
from .chat import Chat
from .embeddings import Embeddings
from .endpoint import Endpoint, Options, StreamWriter
from .rerank import Rerank

ENDPOINTS: dict[EndpointName, type[Endpoint]] = {
    endpoint.facts.name: endpoint
    for endpoint in (
        Embeddings,
        Rerank,
        Chat,
    )
}

__all__ = ["ENDPOINTS", "Endpoint", "Options", "StreamWriter"]
