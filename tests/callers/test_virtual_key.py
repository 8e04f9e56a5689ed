"""The form of virtual keys, and keys with a slip."""

from __future__ import annotations

import re
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.callers.virtual_key import ALPHABET, MANAGEMENT, Mistyped, base62, new, parse


def test_a_new_key_has_its_form() -> None:
    keys = {new() for _ in range(50)}
    assert len(keys) == 50
    for public, key in keys:
        assert re.fullmatch(rf"sk-torii-{public}-[0-9A-Za-z]{{43}}[0-9A-Za-z]{{6}}", key)
        assert len(public) == 12
        assert parse(key) == public


def test_the_checksum_is_crc32_in_base62() -> None:
    _, key = new()
    number = 0
    for digit in key[-6:]:
        number = number * 62 + ALPHABET.index(digit)
    assert number == crc32(key[:-6].encode())
    assert (base62(0, 6), base62(61, 6), base62(62, 6)) == ("000000", "00000z", "000010")


def test_a_further_secret_keeps_the_id() -> None:
    public, first = new()
    again, second = new(public)
    assert again == public == parse(second)
    assert first != second


def test_a_management_key_has_a_beginning_of_its_own() -> None:
    public, key = new(prefix=MANAGEMENT)
    assert key.startswith("mk-torii-")
    assert parse(key) == public


@given(st.integers(9, 70), st.sampled_from(ALPHABET))
def test_one_wrong_character_is_found(place: int, character: str) -> None:
    key = "sk-torii-0123456789AB-" + "a" * 43
    key += base62(crc32(key.encode()), 6)
    assert parse(key) == "0123456789AB"
    if key[place] != character:
        with pytest.raises(Mistyped, match="this key is mistyped: its checksum does not fit"):
            parse(key[:place] + character + key[place + 1 :])


def test_a_key_that_lost_or_gained_characters() -> None:
    _, key = new()
    for wrong in (key[:-1], key + "a", key[:40], "sk-torii-", key.replace(key[20:22], "--")):
        with pytest.raises(Mistyped):
            parse(wrong)


@pytest.mark.parametrize("text", ["", "sk-0123456789abcdef", "jina_0123", "torii-abc", "SK-TORII-x", "ключ"])
def test_other_texts_are_no_virtual_keys(text: str) -> None:
    assert parse(text) is None
