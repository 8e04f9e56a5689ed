"""decode_strict against the standard library: neither accepts input that the other reads differently."""

from __future__ import annotations

import contextlib
import json  # noqa: TID251 - the other reader
import math
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from app.core.json import DEPTH_LIMIT, DIGITS_LIMIT, Malformed, decode, decode_lenient, decode_strict

CHARACTERS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | CHARACTERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(CHARACTERS, inner, max_size=4),
    max_leaves=20,
)
TOKENS = st.sampled_from(
    [
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b'"',
        b'"a"',
        b'"a":',
        b"\\u0061",
        b"\\ud83d",
        b"\\",
        b"1",
        b"-0",
        b"1e9",
        b"1e999",
        b"0.1",
        b"NaN",
        b"null",
        b"true",
        b" ",
        b"\n",
        b"\x00",
        b"\xff",
        b"\xc3\xa4",
        b"\xef\xbb\xbf",
        b"9" * 101,
    ]
)
SOUP = st.lists(TOKENS, max_size=25).map(b"".join)


def strictly(data: bytes) -> Any:
    """The standard library's value; raises ValueError for input that is refused on purpose."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key comes twice")
        return dict(pairs)

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    data = data.removeprefix(b"\xef\xbb\xbf")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
        raise ValueError("another encoding")
    value = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    json.dumps(value, ensure_ascii=False).encode()  # half surrogate pairs have no encoding
    check(value, DEPTH_LIMIT)
    return value


def check(value: Any, levels: int) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("no float")
    if isinstance(value, int) and abs(value) >= 10**DIGITS_LIMIT:
        raise ValueError("too long")
    if isinstance(value, dict | list):
        if not levels:
            raise ValueError("too deep")
        for inner in value.values() if isinstance(value, dict) else value:
            check(inner, levels - 1)


def same(data: bytes) -> None:
    try:
        expected = strictly(data)
    except (ValueError, RecursionError):
        expected = Malformed
    try:
        got = decode_strict(data)
    except Malformed:
        got = Malformed
    assert repr(got) == repr(expected)


@given(VALUES, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_sound_json_has_the_same_value(value: Any, ascii_only: bool, indent: Any) -> None:
    same(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode())


@given(SOUP | st.binary(max_size=40))
@example(b"-")
@example(b"1E400")
@example(b"[1.0e+308,-1e308]")
@example(b'{"a":{"b":1},"a":2}')
@example(b"[" * 64 + b"]" * 64)
@example(b"[" * 65 + b"]" * 65)
def test_any_bytes_are_taken_by_both_or_by_none(data: bytes) -> None:
    same(data)


@given(VALUES, st.lists(st.tuples(st.integers(0, 400), TOKENS | st.binary(max_size=2)), max_size=4))
def test_sound_json_that_was_spoilt(value: Any, changes: list[tuple[int, bytes]]) -> None:
    data = json.dumps(value).encode()
    for place, piece in changes:
        place %= len(data) + 1
        data = data[:place] + piece + data[place + len(piece) % 2 :]
    same(data)


@given(SOUP | st.binary(max_size=40))
def test_nothing_but_malformed_is_raised(data: bytes) -> None:
    for read in (decode, decode_lenient, decode_strict):
        with contextlib.suppress(Malformed):
            read(data)
