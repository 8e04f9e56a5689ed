"""Secrets and hosts are removed from texts, and nothing else is."""

from __future__ import annotations

from app.core.redaction import Redactor


def test_secrets_and_hosts() -> None:
    redactor = Redactor(["key-of-ours", "key-of-ours-too", "abc"], ["api.jina.ai"])
    text = "key-of-ours-too and key-of-ours at https://api.jina.ai/v1?x=1 and API.JINA.AI or https://a.example/b\x00\n!"
    assert redactor.message(text) == (
        "[redacted] and [redacted] at [upstream] and [upstream] or https://a.example/b !"  # three letters are no secret
    )
    assert redactor.secrets("abc") == "abc"


def test_keys_of_a_known_form_though_they_are_not_ours() -> None:
    key = "jina_" + "a" * 20
    assert Redactor().secrets(f"Incorrect API key provided: {key}, sk-{'b' * 20}") == (
        "Incorrect API key provided: [redacted], [redacted]"
    )
    assert Redactor().message("nothing to hide") == "nothing to hide"
