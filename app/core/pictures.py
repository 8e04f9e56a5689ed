"""The width and height of a picture, from the head of its file: PNG, JPEG, GIF and WebP. No I/O."""

from __future__ import annotations

import binascii
from collections.abc import Iterator

Size = tuple[int, int]

# Nothing but a JPEG's comments and profiles can come before its size, and these rarely have more than this.
_HEAD = 256 * 1024  # characters of base64


def size_of(text: str) -> Size | None:
    """The size in pixels of a picture in base64, with ``data:image/...;base64,`` before it or without; None if it is an
    address, another format, or broken."""
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            return None
    for part in (text[:_HEAD], text):
        try:
            data = binascii.a2b_base64(part[: len(part) // 4 * 4] or part)
        except ValueError:
            return None
        found = _size(data)
        if found is not None or len(part) == len(text):
            return found
    return None


def _size(data: bytes) -> Size | None:
    """A size of at least one pixel; None for any other data."""
    try:
        found = _read(data)
    except IndexError:
        return None
    return found if found is not None and min(found) > 0 else None


def _read(data: bytes) -> Size | None:
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
        return _big(data, 16, 4), _big(data, 20, 4)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return _little(data, 6, 2), _little(data, 8, 2)
    if data[:2] == b"\xff\xd8":
        return next(_frames(data), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def _frames(data: bytes) -> Iterator[Size]:
    """The sizes in the frame headers of a JPEG (ITU T.81, B.1.1.3), whose other segments are skipped."""
    place = 2
    while True:
        while data[place] == 0xFF and data[place + 1] == 0xFF:  # fill bytes
            place += 1
        marker = data[place + 1]
        if data[place] != 0xFF or marker in (0xD9, 0xDA):
            return
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            yield _big(data, place + 7, 2), _big(data, place + 5, 2)
        alone = marker == 0x01 or 0xD0 <= marker <= 0xD8
        place += 2 if alone else 2 + _big(data, place + 2, 2)


def _webp(data: bytes) -> Size | None:
    """RFC 9649, chapters 2.5 to 2.7."""
    kind = data[12:16]
    if kind == b"VP8X":
        return _little(data, 24, 3) + 1, _little(data, 27, 3) + 1
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = _little(data, 21, 4)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF
    return None


def _big(data: bytes, place: int, length: int) -> int:
    return int.from_bytes(_part(data, place, length), "big")


def _little(data: bytes, place: int, length: int) -> int:
    return int.from_bytes(_part(data, place, length), "little")


def _part(data: bytes, place: int, length: int) -> bytes:
    part = data[place : place + length]
    if len(part) < length:
        raise IndexError(place)
    return part
