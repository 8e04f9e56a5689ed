"""The form of virtual keys: their public id, and a checksum that tells a mistyped key from an unknown one.

    sk-torii-<12 characters public id>-<43 characters secret><6 characters checksum>     base62

The secret has 256 random bits. The checksum is CRC-32 of all characters before it. A management key has the same form
and begins with ``mk-torii-``.
"""

from __future__ import annotations

import re
import secrets
import string
from zlib import crc32

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
PREFIX = "sk-torii-"
MANAGEMENT = "mk-torii-"
ID, SECRET, CHECKSUM = 12, 43, 6  # characters

_FORM = re.compile(rf"[sm]k-torii-([0-9A-Za-z]{{{ID}}})-[0-9A-Za-z]{{{SECRET + CHECKSUM}}}")


class Mistyped(ValueError):
    """The text begins as a virtual key does, but is none. The message names no part of it."""


def base62(number: int, width: int) -> str:
    """``number`` with the digits 0-9A-Za-z, left-padded with 0 to ``width``."""
    digits = ""
    while number:
        number, digit = divmod(number, 62)
        digits = ALPHABET[digit] + digits
    return digits.rjust(width, "0")


def new(key_id: str | None = None, prefix: str = PREFIX) -> tuple[str, str]:
    """A public id and a whole key, to be shown once: a new key, or a further secret of the key ``key_id``."""
    public = key_id or "".join(secrets.choice(ALPHABET) for _ in range(ID))
    start = f"{prefix}{public}-{base62(secrets.randbits(256), SECRET)}"
    return public, start + checksum(start)


def checksum(start: str) -> str:
    return base62(crc32(start.encode()), CHECKSUM)


def parse(text: str) -> str | None:
    """The public id of a virtual key; None if the text is no virtual key at all. Raises Mistyped."""
    if not text.startswith((PREFIX, MANAGEMENT)):
        return None
    found = _FORM.fullmatch(text)
    if found is None or checksum(text[:-CHECKSUM]) != text[-CHECKSUM:]:
        raise Mistyped("this key is mistyped: its checksum does not fit")
    return found[1]
