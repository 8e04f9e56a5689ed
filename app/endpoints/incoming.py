"""A request as it came, and the call that it is."""

from __future__ import annotations

import re
import time

import msgspec

from ..core.errors import InvalidRequest
from ..core.json import Malformed, decode_strict
from ..core.names import shown
from ..core.types import Call, Json, Value
from .endpoint import Endpoint


class RequestContext(Value, frozen=True):
    """The path of a request without its query, its raw body, its id, and the header Cache-Control as it came."""

    hidden = ("body",)

    path: str
    body: bytes
    id: str
    cache_control: bytes = b""


def parse(endpoint: Endpoint, incoming: RequestContext) -> Call:
    """The body as a call, stamped with an id and the time. Raises InvalidRequest."""
    call = endpoint.parse(json_object(incoming.body), incoming.path)
    return msgspec.structs.replace(call, id=incoming.id, created=int(time.time()))


def json_object(data: bytes) -> Json:
    """A request's body. Raises InvalidRequest."""
    try:
        body = decode_strict(data)
    except Malformed as error:
        place = f"{shown(error.place)}: " if error.place else ""
        field = re.split(r"[.\[]", error.place)[0]
        raise InvalidRequest(f"the body is not JSON: {place}{error}", param=field or None) from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    return body
