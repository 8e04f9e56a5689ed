"""JSON in, strictly: one exception for everything that is not JSON, or that two readers may understand in two ways."""

from __future__ import annotations

import json  # noqa: TID251 - only for what msgspec does not tell: lone surrogates, and which key comes twice
import re
from collections.abc import Iterable
from typing import Any, cast

import msgspec

DEPTH_LIMIT = 64
DIGITS_LIMIT = 100

_BOM = b"\xef\xbb\xbf"  # before UTF-8 it means nothing, and is skipped
_TOO_LARGE = 10**DIGITS_LIMIT
_TOO_DEEP = f"nested deeper than {DEPTH_LIMIT} levels"
_TOO_LONG = f"a whole number has more than {DIGITS_LIMIT} digits"
_KEY_END = re.compile(rb'"[ \t\r\n]*:')
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
_NO_NUMBER = re.compile(rb"-?(?:NaN|Infinity)")
_PLACE = re.compile(r"\(byte (\d+)\)")


class Malformed(ValueError):
    """Not JSON, not UTF-8, a number that no float holds, or nested too deep. The text says which."""


def decode(data: bytes, form: Any = Any) -> Any:
    """The value of ``data``, as msgspec reads it into the type ``form``. Raises Malformed."""
    try:
        return msgspec.json.decode(data.removeprefix(_BOM), type=form)
    except msgspec.MsgspecError as error:
        raise Malformed(str(error)) from None
    except UnicodeDecodeError:
        raise Malformed("the text is not UTF-8") from None
    except RecursionError:
        raise Malformed("nested too deep") from None


def numbers(texts: Iterable[msgspec.Raw]) -> list[float]:
    """Values that are numbers, read all at once. Raises Malformed where one of them is none."""
    return cast("list[float]", decode(b"[" + b",".join(texts) + b"]", list[float]))


def decode_strict(data: bytes) -> Any:
    """As ``decode``, for what a stranger has written: what is checked here is what any other reader will understand.

    Refused are also keys that come twice, more than DEPTH_LIMIT levels and integers of more than DIGITS_LIMIT digits.
    Raises Malformed.
    """
    data = data.removeprefix(_BOM)
    try:
        tree = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(_reason(data, error)) from None
    # What ends a key is counted in the text at least once for each, so a sum that is right rules doubles out.
    if _members(tree) != len(_KEY_END.findall(data)):
        json.loads(data, object_pairs_hook=_unique)
    return tree


def _members(tree: Any) -> int:
    """How many keys there are in all objects of ``tree``. Raises Malformed for what is over the limits."""
    members = 0
    level = [tree]
    for _ in range(DEPTH_LIMIT + 1):
        kinds = set(map(type, level))
        if int in kinds:
            whole = level if len(kinds) == 1 else [value for value in level if type(value) is int]
            if max(whole) >= _TOO_LARGE or min(whole) <= -_TOO_LARGE:
                raise Malformed(_TOO_LONG)
        if dict not in kinds and list not in kinds:
            return members
        below: list[Any] = []
        for value in level:
            if type(value) is dict:
                members += len(value)
                below += value.values()
            elif type(value) is list:
                below += value
        level = below
    raise Malformed(_TOO_DEEP)


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise Malformed(f"the key {key[:64]!a} comes twice in one object")
        seen.add(key)


def _reason(data: bytes, error: Exception) -> str:
    """Why it could not be read, in the words of whoever sent it."""
    if not data.strip():
        return "it is empty"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:2]:
        return "it is UTF-16 or UTF-32; send UTF-8"
    if isinstance(error, UnicodeDecodeError):
        return "the text is not UTF-8"
    if isinstance(error, RecursionError):
        return _TOO_DEEP
    if isinstance(error, msgspec.ValidationError):
        return _TOO_LONG if "Integer" in str(error) else "a number is larger than any that a 64-bit float holds"
    return _character(data, str(error))


def _character(data: bytes, told: str) -> str:
    at = int(place[1]) if (place := _PLACE.search(told)) else len(data)
    if b"\0" in data[max(at - 1, 0) : at + 1]:
        return f"there is a NUL byte (byte {data.index(0)})"
    for start in (at, max(at - 1, 0)):  # msgspec points behind the minus
        if number := _NO_NUMBER.match(data, start):
            return f"{number[0].decode()} is not a number in JSON (byte {at})"
    if _HALF_PAIR.search(data) and _is_lenient_json(data):
        return "a string has half of a surrogate pair, which is no character: \\ud800 to \\udfff come in pairs"
    return told


def _is_lenient_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


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
        return json.loads(data.removeprefix(_BOM), parse_constant=_refuse)
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
