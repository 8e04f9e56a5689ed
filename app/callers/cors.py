"""Cross-origin resource sharing (WHATWG Fetch): which web pages may read the gateway's responses."""

from __future__ import annotations

from collections.abc import Collection

from ..core.origins import ANYONE, Headers

Pairs = tuple[tuple[bytes, bytes], ...]

# Chrome caches a preflight for two hours at most.
MAX_AGE_SECONDS = 7200
# Response headers that a page may read. CORS has no syntax for a prefix.
EXPOSED = (
    "x-request-id",
    "x-torii-cache",
    "x-torii-dropped",
    "x-torii-sandbox",
    "x-torii-upstream",
    "x-torii-upstream-model",
    "x-usage-tokens",
    "x-should-retry",
    "retry-after",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
)

_VARY = (b"vary", b"Origin")
_EXPOSE = (b"access-control-expose-headers", ", ".join(EXPOSED).encode())
_MAX_AGE = (b"access-control-max-age", str(MAX_AGE_SECONDS).encode())
# Headers of a preflight, each with the response header that grants it. Chrome sends the last one for a page of the
# public internet.
_WANTED = (
    (b"access-control-request-method", b"access-control-allow-methods"),
    (b"access-control-request-headers", b"access-control-allow-headers"),
    (b"access-control-request-private-network", b"access-control-allow-private-network"),
)


class Cors:
    """``allowed``: origins, or ``*`` for all. Credentials are never allowed: a page must send a key itself."""

    def __init__(self, allowed: Collection[bytes] = ()) -> None:
        self.on = bool(allowed)
        self._anyone = ANYONE.encode() in allowed
        self._allowed = frozenset(allowed)

    def allows(self, origin: list[bytes] | None) -> bool:
        return origin is not None and len(origin) == 1 and (self._anyone or origin[0] in self._allowed)

    def headers(self, origin: list[bytes] | None) -> Pairs:
        """Headers for every response, whatever its status."""
        if origin is not None and self.allows(origin):
            return (b"access-control-allow-origin", origin[0]), _EXPOSE, _VARY
        return (_VARY,)

    def preflight(self, headers: Headers) -> Pairs:
        """Additional headers for the response to a preflight from an allowed origin. Grants everything the preflight
        asks for."""
        wanted = [(allow, b", ".join(headers[ask])) for ask, allow in _WANTED if ask in headers]
        return *wanted, _MAX_AGE


def is_preflight(method: str, headers: Headers) -> bool:
    return method == "OPTIONS" and b"origin" in headers and b"access-control-request-method" in headers
