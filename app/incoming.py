"""A request as it came, and the call that it is."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .departures import Presence
from .endpoints import Endpoint
from .errors import InvalidRequest
from .jsontext import Malformed, decode_strict
from .types import Call


@dataclass(frozen=True, slots=True)
class Incoming:
    """Its path without the query, the raw body, who sent it and whether he is still there; ``cache_control``
    as he wrote it."""

    path: str
    body: bytes = field(repr=False)
    caller: str
    id: str
    presence: Presence = field(default_factory=Presence)
    cache_control: bytes = b""


def parse(endpoint: Endpoint, incoming: Incoming) -> Call:
    """The body as a call, stamped with an id and the time. Raises InvalidRequest."""
    try:
        body = decode_strict(incoming.body)
    except Malformed as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    call = endpoint.parse(body, incoming.path)
    # Frozen from here on. A copy with two fields more would cost as much as all the rest of this.
    object.__setattr__(call, "id", incoming.id)
    object.__setattr__(call, "created", int(time.time()))
    return call
