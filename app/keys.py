"""The callers' keys: who may use this gateway. Only their SHA-256 is kept.

A caller's key is checked here and goes nowhere else: no upstream, no message, no log.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import Unauthorized

_RIGHT = "Send one header 'Authorization: Bearer <key>' with a key of this gateway"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose call it is, as the configuration names him."""

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

    def check(self, authorization: list[bytes]) -> Caller:
        """The caller, by the values of all his Authorization headers.

        Raises Unauthorized, in whose message no part of a key is ever found. An open gateway
        takes any key and none, because the SDKs insist on sending one.
        """
        if self.open:
            return OPEN
        presented = digest(_bearer(authorization))
        # The look-up's time tells at most something of a SHA-256, which leads to no key.
        known, caller = self._callers.get(presented, (b"", OPEN))
        if hmac.compare_digest(known, presented):
            return caller
        raise Unauthorized(f"This key is not known here. {_RIGHT}; a key of Jina or AIHubMix is not one.")


def _bearer(authorization: list[bytes]) -> bytes:
    if not authorization:
        raise Unauthorized(f"There is no key in this request. {_RIGHT}.")
    if len(authorization) > 1:
        raise Unauthorized(f"There are {len(authorization)} Authorization headers. {_RIGHT}.")
    words = authorization[0].split()
    if len(words) != 2 or words[0].lower() != b"bearer":
        raise Unauthorized(f"The Authorization header has not the form 'Bearer <key>'. {_RIGHT}.")
    return words[1]
