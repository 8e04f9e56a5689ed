"""One vector in four encodings. What comes in is the upstream's JSON, whichever of the four that is.

float     [0.1, -0.2, ...]
base64    the same as little-endian float32, in one string
ubinary   one bit a dimension, 1 where it is above 0, packed into bytes from the highest bit down: 0 .. 255
binary    the same less 128: -128 .. 127 (measured at api.jina.ai; an offset, not two's complement)
"""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

import msgspec

from ..errors import UpstreamFailed
from ..types import Encoding

FLOATS = msgspec.json.Decoder(list[float])


def encoded(vector: bytes, encoding: Encoding) -> Any:
    """``vector`` in ``encoding``, ready to be written as JSON; as its own bytes where nothing has to change.

    Multivectors (lists of lists) and sparse vectors (objects) have no such encodings, and stay.
    Raises UpstreamFailed for what is no vector.
    """
    string = vector.startswith(b'"')
    if encoding == ("base64" if string else "float") or _is_structure(vector):
        return msgspec.Raw(vector)
    try:
        if not string and (packed := _packed(vector, encoding)) is not None:
            return packed
        return ENCODERS[encoding](_unpacked(vector) if string else FLOATS.decode(vector))
    except (msgspec.MsgspecError, struct.error, OverflowError, ValueError):
        raise UpstreamFailed(f"the upstream sent a vector that cannot be written as {encoding}") from None


def _is_structure(vector: bytes) -> bool:
    return vector.startswith(b"{") or vector.find(b"[", 1) >= 0


def _unpacked(string: bytes) -> list[float]:
    packed = b64decode(string[1:-1], validate=True)
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))


def _base64(vector: list[float]) -> str:
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _ubinary(vector: list[float]) -> list[int]:
    bits = "".join("1" if value > 0 else "0" for value in vector)
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def _binary(vector: list[float]) -> list[int]:
    return [byte - 128 for byte in _ubinary(vector)]


def _packed(vector: bytes, encoding: Encoding) -> list[int] | None:
    """The bytes of a vector that the upstream has packed already: whole numbers, and more than signs."""
    if encoding not in ("binary", "ubinary") or b"." in vector or b"e" in vector:
        return None
    numbers = msgspec.json.decode(vector, type=list[int])
    if all(abs(number) <= 1 for number in numbers) or not all(-128 <= number <= 255 for number in numbers):
        return None
    signed = any(number < 0 for number in numbers)
    shift = {(True, "ubinary"): 128, (False, "binary"): -128}.get((signed, encoding), 0)
    return [number + shift for number in numbers]


ENCODERS: dict[Encoding, Callable[[list[float]], Any]] = {
    "float": list,
    "base64": _base64,
    "binary": _binary,
    "ubinary": _ubinary,
}
