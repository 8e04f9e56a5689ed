"""JSON in, strictly: one exception for everything that is not JSON."""

from __future__ import annotations

import json  # noqa: TID251 - only for lone surrogates, which msgspec refuses and JavaScript writes
from typing import Any

import msgspec


class Malformed(ValueError):
    """Not JSON, not UTF-8, a number that no float holds, or nested too deep. The text says which."""


def decode(data: bytes, form: Any = Any) -> Any:
    """The value of ``data``, as msgspec reads it into the type ``form``. Raises Malformed."""
    try:
        return msgspec.json.decode(data, type=form)
    except msgspec.MsgspecError as error:
        raise Malformed(str(error)) from None
    except UnicodeDecodeError:
        raise Malformed("the text is not UTF-8") from None
    except RecursionError:
        raise Malformed("nested too deep") from None


def decode_lenient(data: bytes) -> Any:
    """As ``decode``, but half surrogate pairs pass, as lone code points.

    DeepSearch types its thoughts out in small pieces, and a JavaScript string cut inside an
    emoji is written as an escaped half of it; the other half comes in the next event.
    """
    try:
        return decode(data)
    except Malformed:
        if b"\\u" not in data:
            raise
    try:
        return json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Malformed(str(error)) from None


def _refuse(constant: str) -> Any:
    raise Malformed(f"{constant} is not JSON")


def encode(value: Any) -> bytes:
    """JSON, compact. Half surrogate pairs, which ``decode_lenient`` let pass, go out escaped as they came."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()
