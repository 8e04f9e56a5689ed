"""The callers' keys, which admit callers to this gateway. Only their SHA-256 is stored.

A caller's key is checked here and passed to nothing else: no upstream, no message, no log.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from ..core.errors import Unauthorized
from ..core.origins import Headers
from .limits import Scope

# LiteLLM, as a client, treats a 401 without these words of OpenAI's as a malformed request.
INCORRECT = "Incorrect API key provided"
# Headers whose whole value is a key: Azure's clients send the first, Anthropic's the second.
PLAIN = (b"api-key", b"x-api-key")

_RIGHT = (
    "Send one header 'Authorization: Bearer <key>', 'api-key: <key>' or 'x-api-key: <key>' with a key of this gateway"
)


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller. ``id`` is a virtual key's public id, or the name of a caller of the configuration; None while the
    gateway is open. ``team`` is a team's id. ``scopes`` are those of the key, its team and the organization that have
    any limit or budget; a caller without scopes is never held up."""

    name: str
    id: str | None = None
    team: str | None = None
    scopes: tuple[Scope, ...] = ()


OPEN = Caller("open")


def digest(key: str | bytes) -> bytes:
    """The SHA-256 that identifies a key, 32 bytes. Text is encoded as UTF-8, as on the wire."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def new_key() -> str:
    """A random key of 256 bits, to be shown once."""
    return f"torii-{secrets.token_urlsafe(32)}"


class Callers:
    """All known callers, from pairs of name and ``digest`` of the key. Without pairs the gateway is open to
    everyone."""

    def __init__(self, pairs: Iterable[tuple[str, bytes]] = ()) -> None:
        self._callers = {digest: (digest, Caller(name)) for name, digest in pairs}

    @property
    def open(self) -> bool:
        return not self._callers

    def check(self, headers: Headers) -> Caller:
        """The caller that the key of a request belongs to. If several headers hold a key, all must hold the same one.

        Raises Unauthorized, whose message never contains any part of a key. An open gateway accepts any key or none,
        because the SDKs insist on sending one.
        """
        if self.open:
            return OPEN
        presented = digest(_presented(headers))
        # The time of this lookup can reveal only something about a SHA-256, which leads to no key.
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
