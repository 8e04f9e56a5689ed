"""JSON decoding and encoding: one exception for all invalid input."""

from __future__ import annotations

from typing import Any

import pytest

from app.core.json import Malformed, decode, decode_lenient, encode

HALF = "a string has an unpaired surrogate: \\ud800 to \\udfff must come in pairs"


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
    ("data", "form", "says"),
    [
        (b'{"a":"\\ud800"}', Any, HALF),
        (b'{"a":"\\ud83d\\ude00",}', Any, "unexpected '}' (byte 20)"),  # a whole pair, and a surplus comma
        (b"[1,, ]", Any, "unexpected ']' (byte 5)"),
        (b'{"a":NaN}', Any, "NaN is not a number in JSON (byte 5)"),
        (b'["\\"NaN", -Infinity]', Any, "-Infinity is not a number in JSON (byte 10)"),
        (b"[1e999]", Any, "a number exceeds the range of a 64-bit float"),
        (b"[1" + b"0" * 400 + b"]", list[float], "a whole number has more than 100 digits"),
        (b"[1, null, 2.5]", list[float], "it does not have the expected structure"),
        (b"[" * 100_000, list[float], "nested deeper than 64 levels"),
        (b"[" * 100_000, Any, "nested too deep"),
    ],
)
def test_the_fault_is_told_in_words_of_ours(data: bytes, form: Any, says: str) -> None:
    with pytest.raises(Malformed) as told:
        decode(data, form)
    assert str(told.value) == says


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{", "unexpected end (byte 1)"),
        (b'{"a":"\\ud800","b":NaN}', "NaN is not a number in JSON (byte 18)"),
        (b'["\\ud800",\xff]', "the text is not UTF-8 (byte 10)"),
    ],
)
def test_leniency_tells_the_fault_as_well(data: bytes, says: str) -> None:
    with pytest.raises(Malformed) as told:
        decode_lenient(data)
    assert str(told.value) == says
