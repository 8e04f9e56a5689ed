"""Parsing of a caller's request into a call."""

from __future__ import annotations

import re
import time

import msgspec

from ..core.errors import InvalidRequest
from ..core.json import Malformed, decode_strict
from ..core.names import shown
from ..core.types import Call, Json, Value
from ..core.web import WebRequest
from .endpoint import Endpoint
from .pages import WebEndpoint


class RequestContext(Value, frozen=True):
    """A request as it arrived: its path without the query, raw body, id, and the raw headers Cache-Control and
    x-torii-tag. ``web`` is set for a request for a page or a search, whose body is read already."""

    hidden = ("body", "web")

    path: str
    body: bytes
    id: str
    cache_control: bytes = b""
    tag: bytes = b""
    web: WebRequest | None = None


def parse(endpoint: Endpoint, incoming: RequestContext) -> Call:
    """The call, with the request's id and the current time in seconds. Raises InvalidRequest."""
    if incoming.web is not None and isinstance(endpoint, WebEndpoint):
        read = endpoint.read(incoming.web)
        return msgspec.structs.replace(read, id=incoming.id, created=int(time.time()))
    body = json_object(incoming.body)
    call = endpoint.parse(body, incoming.path)
    user = body.get("user")
    user = user if isinstance(user, str) else ""
    return msgspec.structs.replace(call, id=incoming.id, created=int(time.time()), user=user)


def json_object(data: bytes) -> Json:
    """The JSON object in a request's body. Raises InvalidRequest if the body is anything else."""
    try:
        body = decode_strict(data)
    except Malformed as error:
        place = f"{shown(error.place)}: " if error.place else ""
        field = re.split(r"[.\[]", error.place)[0]
        raise InvalidRequest(f"the body is not JSON: {place}{error}", param=field or None) from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    return body
