"""JSON in and out: one exception for everything that is none."""

from __future__ import annotations

from typing import Any

import pytest

from app.jsontext import Malformed, decode, decode_lenient, decode_strict, encode


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe{}", b'{"a":"\xff"}', b"[" * 100_000, b'{"a":NaN}', b'{"a":1e999}', b'{"a":"\\ud800"}'],
)
def test_what_is_not_json(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode(data)


@pytest.mark.parametrize("data", [b"{", b'{"a":"\\ud800","b":NaN}', b'{"\\ud800":' + b"[" * 100_000, b'"\\ud800'])
def test_leniency_is_for_half_characters_only(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode_lenient(data)


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "ü"]}, {"half": "a\ud83c"}])
def test_what_goes_in_comes_out(value: Any) -> None:
    assert decode_lenient(encode(value)) == value


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a":"\\ud800"}', "a string has half of a surrogate pair"),
        (b'{"a":"\\ud83d\\ude00",}', "malformed"),  # a whole pair, and a comma too many
    ],
)
def test_half_a_character_is_blamed_only_where_it_is_the_fault(data: bytes, says: str) -> None:
    with pytest.raises(Malformed, match=says):
        decode_strict(data)
