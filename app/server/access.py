"""Decisions on a request before its path is looked for, its key checked, or its body read."""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Scope, Send

from ..callers.cors import Cors, is_preflight
from ..core.errors import Forbidden
from ..core.origins import Guard, Headers, of_the_web, same, shown
from .handlers import Handlers
from .http import headers_of

logger = logging.getLogger("torii.access")

# Hosts and origins of which the log has a line; of those beyond, the oldest is forgotten.
TOLD = 100


class Access:
    """``guard`` is that of an open gateway; one with callers has none, as no page has their keys."""

    def __init__(self, handlers: Handlers, cors: Cors, guard: Guard | None = None) -> None:
        self._handlers = handlers
        self._cors = cors
        self._guard = guard
        self._told: dict[str, None] = {}

    def door(self, scope: Scope) -> ASGIApp | None:
        """The application in place of the path's: a refusal, or the answer to a preflight. None if the path answers."""
        headers = headers_of(scope)
        try:
            if self._guard is not None:
                self._guard.check(scope["method"], scope["path"], headers)
            if b"origin" in headers and not self._cors.allows(headers[b"origin"]):
                self._not_shared(scope["method"], headers)
        except Forbidden as error:
            error.booked = not self._first(error.message)
            return self._handlers.refusing(error)
        if is_preflight(scope["method"], headers):
            return self._handlers.empty(self._cors.preflight(headers))
        return None

    def sender(self, scope: Scope, send: Send) -> Send:
        """``send`` with the headers of CORS for each answer, its early head too; ``send`` itself where CORS is off."""
        if not self._cors.on:
            return send
        more = self._cors.headers(headers_of(scope).get(b"origin"))

        async def sent(message: Message) -> None:
            if "headers" in message:
                message["headers"] = [*message["headers"], *more]
            await send(message)

        return sent

    def _not_shared(self, method: str, headers: Headers) -> None:
        """A page whose browser will not let it read the answer. Where the browser asks first, it is told no."""
        origin = headers[b"origin"]
        if is_preflight(method, headers):
            raise Forbidden(
                f"no page of {shown(origin)} may read what this gateway answers. If it is meant to, put the origin "
                "into cors.allowed_origins (TORII_CORS__ALLOWED_ORIGINS)"
            )
        if of_the_web(origin[0]) and not same(origin[0], headers.get(b"host", [b""])[0]):
            said = f"a page of {shown(origin)} cannot read its answer: it is not in cors.allowed_origins"
            if self._first(said):
                logger.warning("%s", said)

    def _first(self, said: str) -> bool:
        """True if the log has not had it yet: a page can ask a thousand times."""
        if said in self._told:
            return False
        if len(self._told) >= TOLD:
            del self._told[next(iter(self._told))]
        self._told[said] = None
        return True
