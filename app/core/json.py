"""Strict decoding of JSON: one exception for all input that is not JSON, or that two readers may interpret
differently."""

from __future__ import annotations

import json  # noqa: TID251 - for details that msgspec does not report: lone surrogates, duplicate keys, positions
import math
import re
from collections.abc import Iterable
from typing import Any, cast

import msgspec

DEPTH_LIMIT = 64
DIGITS_LIMIT = 100

BOM = b"\xef\xbb\xbf"  # has no meaning before UTF-8, and is skipped
_TOO_LARGE = 10**DIGITS_LIMIT
_TOO_DEEP = f"nested deeper than {DEPTH_LIMIT} levels"
_TOO_LONG = f"a whole number has more than {DIGITS_LIMIT} digits"
_TOO_GREAT = "a number exceeds the range of a 64-bit float"
_HALF = "a string has an unpaired surrogate: \\ud800 to \\udfff must come in pairs"
_KEY_END = re.compile(rb'"[ \t\r\n]*:')
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_WHOLE_STRING = re.compile(_STRING, re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONSTANT = re.compile(rf"{_STRING}|(-?(?:NaN|Infinity))", re.DOTALL)
_MARKUP = re.compile(rb"\s*<")
_SURPLUS_COMMA = re.compile(r",\s*(?=[\]}])")

# Maximum size, in bytes, of a body that is searched for the fault: that takes ten times as long as decoding and blocks
# the event loop.
LOOK_LIMIT = 1_000_000


class Malformed(ValueError):
    """Not JSON, not UTF-8, a number too large for a float, or nested too deep.

    The text says which, in our own words, since a library's messages change with its version. ``place``: the path in
    the value, as ``input[1]``; empty if not known.
    """

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message)
        self.place = place


def decode(data: bytes, form: Any = Any) -> Any:
    """Decode ``data`` with msgspec as the type ``form``. Raises Malformed."""
    try:
        return msgspec.json.decode(data.removeprefix(BOM), type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _fault(data.removeprefix(BOM)) from None
    except RecursionError:
        raise Malformed("nested too deep") from None


def check_text(data: bytes) -> None:
    """Raises Malformed if ``data`` is not UTF-8; ``decode`` does not check the parts that it leaves as msgspec.Raw."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"the text is not UTF-8 (byte {error.start})") from None


def numbers(texts: Iterable[msgspec.Raw]) -> list[float]:
    """Decode numbers, all in one pass. Raises Malformed if any value is not a number."""
    return cast("list[float]", decode(b"[" + b",".join(texts) + b"]", list[float]))


def decode_strict(data: bytes) -> Any:
    """As ``decode``, for untrusted input: the value checked here is the one that any other JSON reader will see.

    Also refuses duplicate keys, more than DEPTH_LIMIT levels, and integers of more than DIGITS_LIMIT digits. Raises
    Malformed.
    """
    data = data.removeprefix(BOM)
    try:
        tree = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _fault(data) from None
    except RecursionError:
        raise Malformed(_TOO_DEEP) from None
    # The regular expression matches at least once per key, so equal counts rule out duplicate keys.
    if _members(tree) != len(_KEY_END.findall(data)):
        json.loads(data, object_pairs_hook=_unique)
    return tree


def _members(tree: Any) -> int:
    """The number of keys in all objects of ``tree``. Raises Malformed if a limit is exceeded."""
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
            raise Malformed(f"duplicate key {key[:64]!a} in one object")
        seen.add(key)


def _fault(data: bytes) -> Malformed:
    """The error for undecodable JSON, with the offset of the byte where decoding fails."""
    if not data.strip():
        return Malformed("it is empty")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:2]:
        return Malformed("it is UTF-16 or UTF-32; send UTF-8")
    if _MARKUP.match(data):
        return Malformed("it is HTML or XML")
    if len(data) > LOOK_LIMIT:
        return Malformed("it is malformed; the position is reported up to 1 MB only")
    try:
        check_text(data)
        return _fault_in(data.decode())
    except Malformed as error:
        return error


def _fault_in(text: str) -> Malformed:
    """Finds the fault with the standard library, of which only the position is used. Raises Malformed for an invalid
    number."""
    try:
        tree = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=lambda _: _refuse_constant(text))
        json.dumps(tree, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        return Malformed(_unexpected(text, error.pos))
    except UnicodeEncodeError:
        return Malformed(_HALF, _half(tree))
    except RecursionError:
        return Malformed(_TOO_DEEP)
    return Malformed("it does not have the expected structure")


def _half(tree: Any) -> str:
    """The path of the first string with half of a surrogate pair; empty if there is none."""
    left: list[tuple[Any, Any]] = [((), tree)]
    while left:
        trail, value = left.pop()
        if isinstance(value, dict):
            left += [((trail, f".{name[:64]}"), item) for name, item in reversed(value.items())]
        elif isinstance(value, list):
            left += [((trail, place), value[place]) for place in reversed(range(len(value)))]
        elif isinstance(value, str) and _SURROGATE.search(value):
            return _path_of(trail)
    return ""


def _path_of(trail: Any) -> str:
    """A trail of steps as text, such as ``messages[0].content``. A trail is a pair of the trail before it and its
    last step."""
    steps = []
    while trail:
        trail, step = trail
        steps.append(step if isinstance(step, str) else f"[{step}]")
    return "".join(reversed(steps)).removeprefix(".")


def _unexpected(text: str, at: int) -> str:
    if comma := _SURPLUS_COMMA.match(text, at):  # reported since Python 3.13; before, the next character
        at = comma.end()
    if text[at - 1 : at] == "\\":
        at -= 1
    place = f"(byte {len(text[:at].encode())})"
    if at >= len(text):
        return f"unexpected end {place}"
    if text[at] == "\0":
        return f"unexpected NUL byte {place}"
    if text[at] == '"' and not _WHOLE_STRING.match(text, at):
        return f"unterminated string {place}"
    return f"unexpected {text[at]!a} {place}"


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > DIGITS_LIMIT:
        raise Malformed(_TOO_LONG)
    return 0


def _finite(number: str) -> float:
    if math.isinf(value := float(number)):
        raise Malformed(_TOO_GREAT)
    return value


def _refuse_constant(text: str) -> Any:
    """Raises Malformed for the first such constant outside a string."""
    found = next(match for match in _CONSTANT.finditer(text) if match[1])
    raise Malformed(f"{found[1]} is not a number in JSON (byte {len(text[: found.start()].encode())})")


def decode_lenient(data: bytes) -> Any:
    """As ``decode``, but half surrogate pairs are accepted, as lone code points.

    DeepSearch types its thoughts out in small pieces. A JavaScript string cut inside an emoji is written as an escaped
    half of the pair; the other half comes in the next event.
    """
    try:
        return decode(data)
    except Malformed as error:
        if b"\\u" not in data:
            raise
        fault = error
    try:
        text = data.removeprefix(BOM)
        return json.loads(text, parse_constant=lambda _: _refuse_constant(text.decode()))
    except (ValueError, RecursionError):
        raise fault from None


def encode(value: Any) -> bytes:
    """Compact JSON. Half surrogate pairs, which ``decode_lenient`` accepts, are written as escapes."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def fitted(text: str, limit: int) -> str:
    """The text, cut to at most ``limit`` bytes of JSON."""
    written = msgspec.json.encode(text)
    while len(written) > limit:
        text = text[: len(text) * (limit - 100) // len(written)] + " ..."
        written = msgspec.json.encode(text)
    return text
