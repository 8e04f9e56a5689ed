"""Multipart forms, with files: for the reader alone. The body has arrived, within its limit, so its parts fit too."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from ..core.errors import InvalidRequest, UnsupportedMedia
from ..core.types import Json

PARTS = 100
HEAD_BYTES = 8 * 1024  # of the headers of one part
FILES = ("file", "pdf")  # are sent on in base64; all other parts are texts


class _Part:
    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.name = b""
        self.value = b""
        self.size = 0
        self.data = bytearray()


def uploaded(content_type: str, body: bytes) -> Json:
    """The fields of a multipart form: files in base64, all others as texts. Raises InvalidRequest, and UnsupportedMedia
    if the package that reads forms is not installed."""
    try:
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser, parse_options_header
    except ImportError:
        raise UnsupportedMedia(
            "this gateway cannot read multipart forms: its package python-multipart is not installed. Send JSON, with "
            "the file in base64 in pdf or file"
        ) from None
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidRequest("the multipart form has no boundary in its content-type")
    parts: list[_Part] = []
    ends: list[bool] = []
    callbacks: Any = {**_callbacks(parts), "on_end": lambda: ends.append(True)}
    parser = MultipartParser(boundary, callbacks)
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError:
        ends.clear()
    if not ends:
        raise InvalidRequest("the body is not a whole multipart form")
    found: Json = {}
    for part in parts:
        options = parse_options_header(part.headers.get(b"content-disposition", b""))[1]
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name in FILES:
            found[name] = b64encode(part.data).decode()
        elif name:
            found[name] = part.data.decode("utf-8", "replace")
    return found


def _callbacks(parts: list[_Part]) -> Any:
    """The parser's callbacks, which fill ``parts``. Raise InvalidRequest beyond the limits."""

    def begin() -> None:
        if len(parts) >= PARTS:
            raise InvalidRequest(f"a form may have at most {PARTS} parts")
        parts.append(_Part())

    def name(data: bytes, start: int, end: int) -> None:
        parts[-1].name += data[start:end]
        _grow(parts[-1], end - start)

    def value(data: bytes, start: int, end: int) -> None:
        parts[-1].value += data[start:end]
        _grow(parts[-1], end - start)

    def header() -> None:
        part = parts[-1]
        part.headers[part.name.lower()] = part.value
        part.name = part.value = b""

    def data(data: bytes, start: int, end: int) -> None:
        parts[-1].data += data[start:end]

    return {
        "on_part_begin": begin,
        "on_header_field": name,
        "on_header_value": value,
        "on_header_end": header,
        "on_part_data": data,
    }


def _grow(part: _Part, size: int) -> None:
    part.size += size
    if part.size > HEAD_BYTES:
        raise InvalidRequest(f"the headers of a part of the form are larger than {HEAD_BYTES >> 10} kB")
