"""The endpoints: parsing of callers' requests and rendering of their answers.

An endpoint turns a caller's body into a Call, and a canonical reply into the bytes of the caller's answer. It knows
nothing about upstreams. A new endpoint is one file here, one line in ``ENDPOINTS``, and one line in the table of each
upstream that serves it.
"""

from __future__ import annotations

from ..core.types import EndpointName
from .chat import Chat
from .classify import Classify
from .embeddings import Embeddings
from .endpoint import Answer, Endpoint, Options, StreamWriter
from .reader import Reader
from .rerank import Rerank
from .search import Search
from .segment import Segment
from .svip import Svip
from .train import Train

ENDPOINTS: dict[EndpointName, type[Endpoint]] = {
    endpoint.facts.name: endpoint
    for endpoint in (
        Embeddings,
        Rerank,
        Chat,
        Reader,
        Search,
        Svip,
        Classify,
        Train,
        Segment,
    )
}

# The names by which keys are allowed endpoints: those above, and one that no model serves.
PERMITTED = (*ENDPOINTS, "classifiers")

__all__ = ["ENDPOINTS", "PERMITTED", "Answer", "Endpoint", "Options", "StreamWriter"]
