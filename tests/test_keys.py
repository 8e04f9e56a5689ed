"""Who may call."""

from __future__ import annotations

import hashlib

import pytest

from app.errors import Unauthorized
from app.keys import Caller, Callers, digest, new_key

KEY = "correct-horse-battery"
CALLERS = Callers([("team", digest(KEY)), ("other", digest("another-key-of-theirs"))])


def refused(*authorization: bytes) -> str:
    with pytest.raises(Unauthorized) as refusal:
        CALLERS.check(list(authorization))
    assert refusal.value.status == 401
    assert refusal.value.code == "invalid_api_key"
    return refusal.value.message


@pytest.mark.parametrize(
    "header", [b"Bearer correct-horse-battery", b"bearer correct-horse-battery", b" BEARER \t correct-horse-battery "]
)
def test_a_known_key_is_its_caller(header: bytes) -> None:
    assert CALLERS.check([header]) == Caller("team")
    assert CALLERS.check([b"Bearer another-key-of-theirs"]) == Caller("other")


def test_no_header() -> None:
    assert refused() == (
        "There is no key in this request. Send one header 'Authorization: Bearer <key>' with a key of this gateway."
    )


def test_two_headers_even_where_both_are_right() -> None:
    header = b"Bearer correct-horse-battery"
    assert refused(header, header).startswith("There are 2 Authorization headers.")


@pytest.mark.parametrize(
    "header", [b"", b"Bearer", b"Bearer ", b"correct-horse-battery", b"Basic dTpw", b"Bearer correct-horse-battery x"]
)
def test_a_header_of_another_form(header: bytes) -> None:
    assert "has not the form 'Bearer <key>'" in refused(header)


@pytest.mark.parametrize(
    "key",
    [
        b"correct-horse-batterz",
        b"correct-horse-battery\x00",
        b"CORRECT-HORSE-BATTERY",
        b"correct-horse-batter",
        digest(KEY).hex().encode(),
        b"\xff\xfe\x80",
        b"k" * 100_000,
    ],
)
def test_a_wrong_key_is_refused_and_not_repeated(key: bytes) -> None:
    message = refused(b"Bearer " + key)
    assert message.startswith("This key is not known here.")
    assert key.decode("latin-1")[:20] not in message


def test_a_key_may_hold_any_bytes() -> None:
    callers = Callers([("zh", digest("ключ-и-鍵-0123456789"))])
    assert callers.check(["Bearer ключ-и-鍵-0123456789".encode()]) == Caller("zh")
    assert Callers([("raw", digest(b"\xff\x80"))]).check([b"Bearer \xff\x80"]) == Caller("raw")


def test_without_callers_everyone_may_call() -> None:
    callers = Callers()
    assert callers.open
    for headers in ([], [b"Bearer anything"], [b"nonsense"], [b"a", b"b"]):
        assert callers.check(headers) == Caller("open")
    assert not CALLERS.open


def test_only_digests_are_kept() -> None:
    assert digest(KEY) == hashlib.sha256(KEY.encode()).digest()
    assert KEY not in repr(vars(CALLERS))


def test_new_keys_are_long_and_differ() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("torii-") and len(key) == 49 for key in keys)
    key = keys.pop()
    assert Callers([("new", digest(key))]).check([b"Bearer " + key.encode()]) == Caller("new")
