"""Authentication of callers by their keys."""

from __future__ import annotations

import hashlib

import pytest

from app.callers.keys import Caller, Callers, KnownKey, digest, new_key
from app.core.errors import Unauthorized

KEY = "correct-horse-battery"


def known(name: str, key: str | bytes) -> KnownKey:
    return KnownKey(digest(key), Caller(name))


CALLERS = Callers([known("team", KEY), known("other", "another-key-of-theirs")])


RIGHT = (
    "Send one header 'Authorization: Bearer <key>', 'api-key: <key>' or 'x-api-key: <key>' with a key of this gateway"
)


def sent(*authorization: bytes, **plain: bytes) -> dict[bytes, list[bytes]]:
    """The headers of a request; ``x_api_key`` stands for x-api-key."""
    headers = {name.replace("_", "-").encode(): [value] for name, value in plain.items()}
    return {**headers, b"authorization": list(authorization)} if authorization else headers


def refused(*authorization: bytes, **plain: bytes) -> str:
    with pytest.raises(Unauthorized) as refusal:
        CALLERS.check(sent(*authorization, **plain))
    assert refusal.value.status == 401
    assert refusal.value.code == "invalid_api_key"
    return refusal.value.message


@pytest.mark.parametrize(
    "header",
    [
        b"Bearer correct-horse-battery",
        b"bearer correct-horse-battery",
        b" BEARER \t correct-horse-battery ",
        b"correct-horse-battery",
    ],
)
def test_a_known_key_is_its_caller(header: bytes) -> None:
    assert CALLERS.check(sent(header)) == Caller("team")
    assert CALLERS.check(sent(b"Bearer another-key-of-theirs")) == Caller("other")


def test_no_header() -> None:
    assert refused() == refused(api_key=b"", x_api_key=b" ") == f"The request has no API key. {RIGHT}."


@pytest.mark.parametrize("name", ["api_key", "x_api_key"])
def test_a_key_may_stand_by_itself(name: str) -> None:
    assert CALLERS.check(sent(**{name: b" correct-horse-battery "})) == Caller("team")
    assert refused(**{name: b"sk-0"}).startswith("Incorrect API key provided: this gateway does not know the key.")
    assert refused(**{name: b"Bearer correct-horse-battery"}).startswith("Incorrect API key provided")


def test_several_headers_pass_only_if_they_hold_the_same_key() -> None:
    right, other = b"correct-horse-battery", b"another-key-of-theirs"
    bearer = b"Bearer " + right
    for same in (
        sent(bearer, bearer),
        sent(bearer, api_key=right),
        sent(b"bearer  " + right, api_key=right, x_api_key=right),
        sent(bearer, api_key=b""),
        {b"api-key": [right, right]},
    ):
        assert CALLERS.check(same) == Caller("team")
    message = f"Incorrect API key provided: the headers of the request hold different keys. {RIGHT}."
    assert refused(bearer, b"Bearer " + other) == message
    assert refused(bearer, api_key=other) == refused(api_key=right, x_api_key=other) == message
    assert refused(bearer, api_key=b"sk-0") == refused(b"Bearer sk-0", x_api_key=right) == message
    assert "does not have the form 'Bearer <key>'" in refused(b"Basic dTpw", api_key=right)


def test_a_key_without_bearer_is_the_key() -> None:
    """Open WebUI sends Jina's key so."""
    assert CALLERS.check(sent(b"correct-horse-battery")) == CALLERS.check(sent(b"Bearer correct-horse-battery"))
    assert CALLERS.check(sent(b" another-key-of-theirs ")) == Caller("other")
    assert refused(b"bearer-correct-horse-battery").startswith("Incorrect API key provided")


@pytest.mark.parametrize(
    "header", [b"", b"Bearer", b"Bearer ", b"Basic", b"Basic dTpw", b"Bearer correct-horse-battery x"]
)
def test_a_header_of_another_form(header: bytes) -> None:
    message = "Incorrect API key provided: the Authorization header does not have the form 'Bearer <key>'. "
    assert refused(header) == f"{message}{RIGHT}."


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
    assert message.startswith("Incorrect API key provided: this gateway does not know the key.")
    assert key.decode("latin-1")[:20] not in message


def test_a_key_may_hold_any_bytes() -> None:
    callers = Callers([known("zh", "ключ-и-鍵-0123456789")])
    assert callers.check(sent("Bearer ключ-и-鍵-0123456789".encode())) == Caller("zh")
    assert Callers([known("raw", b"\xff\x80")]).check(sent(b"Bearer \xff\x80")) == Caller("raw")


def test_without_callers_everyone_may_call() -> None:
    callers = Callers()
    assert callers.open
    for headers in ([], [b"Bearer anything"], [b"nonsense"], [b"a", b"b"]):
        assert callers.check(sent(*headers, api_key=b"c")) == callers.check(sent(*headers)) == Caller("open")
    assert not CALLERS.open


def test_only_digests_are_kept() -> None:
    assert digest(KEY) == hashlib.sha256(KEY.encode()).digest()
    assert KEY not in repr(vars(CALLERS))


def test_new_keys_are_long_and_differ() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("torii-") and len(key) == 49 for key in keys)
    key = keys.pop()
    assert Callers([known("new", key)]).check(sent(b"Bearer " + key.encode())) == Caller("new")
