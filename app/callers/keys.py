"""The callers' keys: who may use this gateway. Only their SHA-256 is kept.

A caller's key is checked here and goes nowhere else: no upstream, no message, no log.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from ..core.errors import Unauthorized
from ..core.origins import Headers

# LiteLLM, as a client, takes a 401 without these words of OpenAI's for a request that is malformed.
INCORRECT = "Incorrect API key provided"
# Headers that hold a key as it is: Azure's clients send the first, Anthropic's the second.
PLAIN = (b"api-key", b"x-api-key")

_RIGHT = (
    "Send one header 'Authorization: Bearer <key>', 'api-key: <key>' or 'x-api-key: <key>' with a key of this gateway"
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose call it is, as the configuration names them."""

    name: str


OPEN = Caller("open")


def digest(key: str | bytes) -> bytes:
    """The SHA-256 by which a key is known, 32 bytes. Text is taken as UTF-8, as it goes over the wire."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def new_key() -> str:
    """A random key of 256 bits, to be shown once."""
    return f"torii-{secrets.token_urlsafe(32)}"


class Callers:
    """Everyone who may call, given as pairs of name and ``digest`` of the key. Nobody given: open to everyone."""

    def __init__(self, pairs: Iterable[tuple[str, bytes]] = ()) -> None:
        self._callers = {digest: (digest, Caller(name)) for name, digest in pairs}

    @property
    def open(self) -> bool:
        return not self._callers

    def check(self, headers: Headers) -> Caller:
        """The caller, by all headers of a request that hold a key; several of them must hold the same.

        Raises Unauthorized, in whose message no part of a key is ever found. An open gateway
        takes any key and none, because the SDKs insist on sending one.
        """
        if self.open:
            return OPEN
        presented = digest(_presented(headers))
        # The look-up's time tells at most something of a SHA-256, which leads to no key.
        known, caller = self._callers.get(presented, (b"", OPEN))
        if hmac.compare_digest(known, presented):
            return caller
        raise Unauthorized(f"{INCORRECT}: this gateway does not know the key. {_RIGHT}, not a provider's key.")


def _presented(headers: Headers) -> bytes:
    keys = [_bearer(value) for value in headers.get(b"authorization", ())]
    for name in PLAIN:
        if name in headers:
            keys += filter(None, map(bytes.strip, headers[name]))
    if not keys:
        raise Unauthorized(f"The request has no API key. {_RIGHT}.")
    if len(keys) > 1 and len(set(keys)) > 1:
        raise Unauthorized(f"{INCORRECT}: the headers of the request hold different keys. {_RIGHT}.")
    return keys[0]


def _bearer(authorization: bytes) -> bytes:
    words = authorization.split()
    if len(words) != 2 or words[0].lower() != b"bearer":
        raise Unauthorized(f"{INCORRECT}: the Authorization header does not have the form 'Bearer <key>'. {_RIGHT}.")
    return words[1]
