"""The callers' keys, which admit callers to this gateway. Only their SHA-256 is stored.

A caller's key is checked here and passed to nothing else: no upstream, no message, no log.

    headers -> key -> SHA-256 -> one look-up -> address, endpoint -> Caller
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..core.errors import ToriiError, Unauthorized
from ..core.origins import Headers
from ..core.types import OnDisconnect
from .limits import Scope
from .permissions import Permissions, Proxies
from .virtual_key import Mistyped, parse

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
    any limit or budget; a caller without scopes is never held up. ``expires_at`` is a Unix time in seconds.
    ``permissions`` None: everything is allowed. ``private_cache``: no other caller gets its cached answers."""

    name: str
    id: str | None = None
    team: str | None = None
    scopes: tuple[Scope, ...] = ()
    expires_at: float | None = None
    permissions: Permissions | None = None
    on_disconnect: OnDisconnect | None = None
    private_cache: bool = False

    def check_model(self, model: str) -> None:
        """Raises PermissionDenied. ``model`` is an id: a name after alias, prefix and case."""
        if self.permissions is not None:
            self.permissions.check_model(model)

    def may_use(self, model: str, endpoints: Iterable[str]) -> bool:
        """True if the key may use the model with any of the endpoints, those that serve it."""
        may = self.permissions
        if may is None:
            return True
        return may.allows_model(model) and (may.endpoints is None or any(name in may.endpoints for name in endpoints))


OPEN = Caller("open")


class UnknownKey(Unauthorized):
    """A virtual key, or any key of a gateway without keys: another process may just have created it."""


class Refusal(NamedTuple):
    """The reason to refuse a known key: the error's code, and words that follow ``this key``."""

    code: str
    words: str


class KnownKey(NamedTuple):
    """A secret and its caller. ``refused`` is a reason to refuse it now; from the Unix time ``until`` on, ``ended``
    is."""

    digest: bytes
    caller: Caller
    refused: Refusal | None = None
    until: float | None = None
    ended: Refusal | None = None


def digest(key: str | bytes) -> bytes:
    """The SHA-256 that identifies a key, 32 bytes. Text is encoded as UTF-8, as on the wire."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def new_key() -> str:
    """A random key of 256 bits, to be shown once."""
    return f"torii-{secrets.token_urlsafe(32)}"


class Callers:
    """All known callers. Without keys the gateway is open to everyone, unless ``closed``."""

    def __init__(self, known: Iterable[KnownKey] = (), *, closed: bool = False, proxies: Proxies | None = None) -> None:
        self.known: Mapping[bytes, KnownKey] = {key.digest: key for key in known}
        self.open = not closed and not self.known
        self.anyone = OPEN
        self.proxies = proxies or Proxies()

    def check(self, headers: Headers, peer: str | None = None, endpoint: str | None = None) -> Caller:
        """The caller that the key of a request belongs to. If several headers hold a key, all must hold the same one.
        ``peer`` is the address of the connection; ``endpoint`` is None for requests that every key may make.

        Raises Unauthorized, whose message never contains any part of a key, and Barred for an address or endpoint that
        the key is not for. An open gateway accepts any key or none, because the SDKs insist on sending one.
        """
        if self.open:
            return self.anyone
        if not self.known:
            raise self.nobody()
        key = presented(headers)
        hashed = digest(key)
        # The time of this lookup can reveal only something about a SHA-256, which leads to no key.
        known = self.known.get(hashed)
        if known is None or not hmac.compare_digest(known.digest, hashed):
            raise self.unknown(key)
        if known.refused is not None:
            raise refusal(known.refused)
        if known.until is not None and known.ended is not None and time.time() >= known.until:
            raise refusal(known.ended)
        may = known.caller.permissions
        if may is not None:
            if may.networks is not None:
                may.check_place(self.proxies.address(headers, peer))
            if endpoint is not None:
                may.check_endpoint(endpoint)
        return known.caller

    async def look(self) -> None:
        """Admits the keys that other processes have created by now. Returns within a second or so, and never raises."""

    def nobody(self) -> ToriiError:
        """The error for any key while the gateway has none."""
        return UnknownKey(_NO_KEYS)

    def unknown(self, key: bytes) -> ToriiError:
        """The error for a key that nobody has."""
        try:
            error = UnknownKey if parse(key.decode("latin-1")) else Unauthorized
        except Mistyped as mistake:
            return Unauthorized(f"{INCORRECT}: {mistake}. Copy the key again.")
        return error(f"{INCORRECT}: this gateway does not know the key. {_RIGHT}, not a provider's key.")


def refusal(why: Refusal) -> Unauthorized:
    return Unauthorized(
        f"{INCORRECT}: this key {why.words}. The gateway's operator can give you another.", code=why.code
    )


def presented(headers: Headers) -> bytes:
    """The key of a request. Raises Unauthorized."""
    keys = [_bearer(value) for value in headers.get(b"authorization", ())]
    for name in PLAIN:
        if name in headers:
            keys += filter(None, map(bytes.strip, headers[name]))
    if not keys:
        raise Unauthorized(f"The request has no API key. {_RIGHT}.")
    if len(keys) > 1 and len(set(keys)) > 1:
        raise Unauthorized(f"{INCORRECT}: the headers of the request hold different keys. {_RIGHT}.")
    return keys[0]


_NO_KEYS = (
    f"{INCORRECT}: this gateway has no keys yet. Its operator creates the first one by `torii keys create NAME`, or by "
    "POST /admin/v1/keys with the operator's key."
)


def _bearer(authorization: bytes) -> bytes:
    """The key of an Authorization header, which some clients of Jina send without ``Bearer``."""
    words = authorization.split()
    if len(words) == 1 and words[0].lower() not in (b"bearer", b"basic", b"digest"):
        return words[0]
    if len(words) != 2 or words[0].lower() != b"bearer":
        raise Unauthorized(f"{INCORRECT}: the Authorization header does not have the form 'Bearer <key>'. {_RIGHT}.")
    return words[1]
