"""Checks of a request before its path is routed, its key checked, or its body read."""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Scope, Send

from ..callers.cors import Cors, is_preflight
from ..core.errors import Forbidden
from ..core.origins import Guard, Headers, of_the_web, same, shown
from .handlers import Handlers
from .http import headers_of

logger = logging.getLogger("torii.access")

# Number of hosts and origins remembered as logged; beyond it, the oldest is forgotten.
LOGGED_LIMIT = 100


class Access:
    """``guard`` works while the gateway is open; None for one with callers, because no web page has their keys."""

    def __init__(self, handlers: Handlers, cors: Cors, guard: Guard | None = None) -> None:
        self._handlers = handlers
        self._cors = cors
        self._guard = guard
        self._logged: dict[str, None] = {}

    def handler(self, scope: Scope) -> ASGIApp | None:
        """The application that answers in place of the routed one: a refusal, or a preflight response. None if the
        request passes."""
        headers = headers_of(scope)
        try:
            if self._guard is not None and self._handlers.open:
                self._guard.check(scope["method"], scope["path"], headers)
            if b"origin" not in headers:  # no browser, or a page of the gateway's own
                return None
            if not self._cors.allows(headers[b"origin"]):
                self._not_shared(scope["method"], headers)
        except Forbidden as error:
            error.logged = not self._first(error.message)
            return self._handlers.error_handler(error)
        if is_preflight(scope["method"], headers):
            return self._handlers.empty(self._cors.preflight(headers))
        return None

    def sender(self, scope: Scope, send: Send) -> Send:
        """``send``, extended to add the CORS headers to each response, including informational ones; ``send`` itself
        if CORS is off."""
        if not self._cors.on:
            return send
        more = self._cors.headers(headers_of(scope).get(b"origin"))

        async def sent(message: Message) -> None:
            if "headers" in message:
                message["headers"] = [*message["headers"], *more]
            await send(message)

        return sent

    def _not_shared(self, method: str, headers: Headers) -> None:
        """Handle a page whose browser will not let it read the response. Raises Forbidden if the browser sent a
        preflight."""
        origin = headers[b"origin"]
        if is_preflight(method, headers):
            raise Forbidden(
                f"pages of {shown(origin)} may not read this gateway's responses. To allow the pages, add the origin "
                "to cors.allowed_origins (TORII_CORS__ALLOWED_ORIGINS)"
            )
        if of_the_web(origin[0]) and not same(origin[0], headers.get(b"host", [b""])[0]):
            said = f"a page of {shown(origin)} cannot read the response: the origin is not in cors.allowed_origins"
            if self._first(said):
                logger.warning("%s", said)

    def _first(self, said: str) -> bool:
        """True if ``said`` has not been logged yet: a page can repeat a request a thousand times."""
        if said in self._logged:
            return False
        if len(self._logged) >= LOGGED_LIMIT:
            del self._logged[next(iter(self._logged))]
        self._logged[said] = None
        return True
