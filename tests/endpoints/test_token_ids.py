"""Decoding of token ids into text, with the real vocabulary and without a network."""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest

from app.core.errors import InvalidRequest
from app.endpoints.token_ids import decoder, decoder_or_none


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the vocabulary was looked for in the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
def test_trap_04_ids_of_cl100k_become_their_text_offline() -> None:
    decode = decoder("cl100k_base")
    assert decode([71, 19010, 385, 289, 9603, 509, 99413, 115, 73597, 102]) == "héllo wörld 海滩"
    assert decode([15339, 1917]) == "hello world"


def test_a_character_cut_in_two_becomes_a_replacement_character() -> None:
    assert decoder()([73597]) == "\ufffd"


@pytest.mark.parametrize("bad", [100256, 10**9, 2**40, -1])
def test_an_id_that_is_none_is_named_with_its_position(bad: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decoder()([15339, bad, 1917])
    assert caught.value.message == f"the token id {bad} at position 1 is not in cl100k_base"
    assert caught.value.param == "input"


def test_an_encoding_that_would_have_to_be_downloaded_is_refused() -> None:
    with pytest.raises(ValueError, match="no offline vocabulary for the encoding 'o200k_base'"):
        decoder("o200k_base")


def test_without_the_extra_there_is_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoder_or_none() is not None
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    assert decoder_or_none() is None
