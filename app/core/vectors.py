"""One vector in four encodings. The input is the upstream's JSON, in any of the four.

float     [0.1, -0.2, ...]
base64    the same as little-endian float32, in one string
ubinary   one bit per dimension, 1 if the number is above 0, packed into bytes from the highest bit down: 0 .. 255
binary    the same minus 128: -128 .. 127 (measured at api.jina.ai; an offset, not two's complement)

An input may also have several vectors (a list of lists) or a sparse one (an object), which have no other encodings.

Parsing the numbers costs more than all other work on a vector. If the vector is passed on unchanged, its text is
therefore only scanned; else the numbers are parsed once, to validate them and to encode them for the caller.
"""

from __future__ import annotations

import struct
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import msgspec

from .errors import UpstreamFailed
from .json import Malformed, decode
from .types import Encoding

WIDEST = 32  # average characters per number, at most; the numbers of a longer vector are parsed one by one
EXPONENTS = 100  # per vector; the numbers of a vector with more are parsed one by one as well

FLOATS = msgspec.json.Decoder(list[float])
STRUCTURED = msgspec.json.Decoder(list[list[float]] | dict[str, float])

FLOAT_BYTES = 4

Unwritable = (struct.error, OverflowError, ValueError)
Unreadable = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

# The dimensions, or a text for several vectors or a sparse one. All vectors of one reply must have the same shape.
Shape = int | str
SPARSE = "sparse"

NO_VECTOR = "an item without a vector"
NOT_FINITE = "a vector with values that are not finite numbers"


class Vector:
    """``text``: the upstream's JSON. ``made``: the vector in ``encoding``, ready to be written."""

    __slots__ = ("_encoding", "_made", "shape", "text")

    def __init__(self, text: bytes, shape: Shape, encoding: Encoding | None = None, made: Any = None) -> None:
        self.text = text
        self.shape = shape
        self._encoding = encoding
        self._made = made

    def __bytes__(self) -> bytes:
        return self.text

    @property
    def writable(self) -> bool:
        """True if the vector can be written in the encoding that it was read for."""
        return self._encoding is not None

    def encoded(self, encoding: Encoding) -> Any:
        return self._made if encoding == self._encoding else encoded(self.text, encoding)


def field_of(item: Any) -> str:
    """The name of an item's field that holds its vector; several vectors for one input may have a field of their
    own."""
    return "embedding" if "embedding" in item else "embeddings"


def read(text: bytes, encoding: Encoding) -> Vector:
    """Read a vector and prepare it for ``encoding``; any other encoding is made on demand. If the upstream's encoding
    and ``encoding`` are both float, the caller must have checked that ``text`` is JSON.

    Raises Malformed for an unknown form, an empty vector, and a number that is not finite.
    """
    own = _own(text)
    if own == encoding == "float" and (counted := _counted(text)):
        return Vector(text, counted, encoding, msgspec.Raw(text))
    if _is_structured(text):
        return read_structured(text, encoding)
    values = _values(text)
    if not values:
        raise Malformed(NO_VECTOR)
    size = len(values) // FLOAT_BYTES if isinstance(values, bytes) else len(values)
    try:
        return Vector(text, size, encoding, msgspec.Raw(text) if own == encoding else _made(text, values, encoding))
    except Unwritable:  # reported when the vector is written
        return Vector(text, size)


def read_structured(text: bytes, encoding: Encoding) -> Vector:
    """Read several vectors of one size, or a sparse one; the text stays as it is. Raises Malformed."""
    try:
        found = STRUCTURED.decode(text)
    except Unreadable:
        raise Malformed(NOT_FINITE if text.startswith((b"[", b"{")) else NO_VECTOR) from None
    if isinstance(found, dict) and found:
        return Vector(text, SPARSE, encoding, msgspec.Raw(text))
    widths = set(map(len, found))
    if widths <= {0}:
        raise Malformed(NO_VECTOR)
    if len(widths) > 1:
        raise Malformed(f"several vectors for one input, of different sizes: {sorted(widths)}")
    return Vector(text, f"several of {widths.pop()}", encoding, msgspec.Raw(text))


def encoded(vector: bytes, encoding: Encoding) -> Any:
    """``vector`` in ``encoding``, ready to be written as JSON; the same bytes if nothing has to change.

    Raises UpstreamFailed if the vector cannot be written in ``encoding``.
    """
    if encoding == _own(vector) or _is_structured(vector):
        return msgspec.Raw(vector)
    try:
        return _made(vector, _values(vector), encoding)
    except Unwritable:
        raise UpstreamFailed(f"the upstream sent a vector that cannot be written as {encoding}") from None


def _own(vector: bytes) -> Encoding:
    return "base64" if vector.startswith(b'"') else "float"


def _is_structured(vector: bytes) -> bool:
    return vector.startswith(b"{") or vector.find(b"[", 1) >= 0


def _counted(vector: bytes) -> int:
    """The count of numbers in the vector; 0 if a scan does not show that all of them are finite floats."""
    numbers = vector.count(b",") + 1
    if not 2 * numbers < len(vector) < WIDEST * numbers or b"E" in vector or b"n" in vector:
        return 0
    if b'"' in vector or b"{" in vector or vector.find(b"[", 1) > 0:
        return 0
    place = -1
    for _ in range(EXPONENTS):
        place = vector.find(b"e", place + 1)
        if place < 0:
            return numbers
        if vector[place + 1 : place + 2] != b"-":
            return 0
    return 0


def _values(vector: bytes) -> list[float] | bytes:
    """The numbers, or the bytes that hold them packed as float32. Raises Malformed."""
    if vector.startswith(b'"'):
        return _unpacked(vector)
    try:
        return FLOATS.decode(vector)
    except Unreadable:
        raise Malformed(NOT_FINITE if vector.startswith(b"[") else NO_VECTOR) from None


def _unpacked(vector: bytes) -> bytes:
    """The little-endian floats of base64 in a JSON string. Raises Malformed."""
    try:
        packed = a2b_base64(vector[1:-1], strict_mode=True)
    except ValueError:
        packed = _unescaped(vector)
    if not vector.endswith(b'"') or len(packed) % FLOAT_BYTES or not _finite(packed):
        raise Malformed(NOT_FINITE)
    return packed


def _unescaped(vector: bytes) -> bytes:
    """The bytes of base64 that contains JSON escapes, such as a slash with a backslash before it. Raises Malformed."""
    try:
        return a2b_base64(decode(vector, str), strict_mode=True)
    except ValueError:
        raise Malformed(NOT_FINITE) from None


def _finite(packed: bytes) -> bool:
    """True if none of these little-endian floats is infinite or NaN.

    All eight exponent bits of such a float are 1, seven of them in its last byte. Few vectors have such a byte at all,
    and only these are parsed.
    """
    last = packed[3::4]
    if b"\x7f" not in last and b"\xff" not in last:
        return True
    return all(map(isfinite, struct.unpack(f"<{len(last)}f", packed)))


def _made(vector: bytes, values: list[float] | bytes, encoding: Encoding) -> Any:
    if isinstance(values, bytes):
        return ENCODERS[encoding](struct.unpack(f"<{len(values) // FLOAT_BYTES}f", values))
    if (packed := _packed(vector, encoding)) is not None:
        return packed
    return ENCODERS[encoding](values)


def _float(vector: Sequence[float]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(vector))


def _base64(vector: Sequence[float]) -> msgspec.Raw:
    packed = struct.pack(f"<{len(vector)}f", *vector)
    return msgspec.Raw(b'"%b"' % b2a_base64(packed, newline=False))


def _ubinary(vector: Sequence[float]) -> list[int]:
    bits = "".join("1" if value > 0 else "0" for value in vector)
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def _binary(vector: Sequence[float]) -> list[int]:
    return [byte - 128 for byte in _ubinary(vector)]


def _packed(vector: bytes, encoding: Encoding) -> list[int] | None:
    """The bytes of a vector that the upstream has already packed, shifted to ``encoding``. None if its numbers are
    no such bytes, or only signs (-1, 0, 1)."""
    if encoding not in ("binary", "ubinary") or not (numbers := _whole_bytes(vector)):
        return None
    least, most = min(numbers), max(numbers)
    if least >= -1 and most <= 1:
        return None
    shift = {(True, "ubinary"): 128, (False, "binary"): -128}.get((least < 0, encoding), 0)
    return [number + shift for number in numbers]


def is_packed(vector: bytes) -> bool:
    """True if the numbers may be bytes that hold eight dimensions each."""
    return vector.startswith(b"[") and bool(_whole_bytes(vector))


def _whole_bytes(vector: bytes) -> list[int]:
    """The numbers if all of them are integers in the range of signed or of unsigned bytes; else empty."""
    if b"." in vector or b"e" in vector or b"E" in vector:
        return []
    numbers: list[int] = decode(vector, list[int])
    least, most = min(numbers), max(numbers)
    return numbers if 0 <= least <= most <= 255 or -128 <= least <= most <= 127 else []


ENCODERS: dict[Encoding, Callable[[Sequence[float]], Any]] = {
    "float": _float,
    "base64": _base64,
    "binary": _binary,
    "ubinary": _ubinary,
}
