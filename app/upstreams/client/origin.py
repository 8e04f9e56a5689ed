"""Keep-alive: an ``Origin`` has all idle connections to one place.

    exchange -> keep -> idle ... take -> exchange
                          |- idle for too long: closed by the timer that all of them share
                          `- closed by the upstream, or received unrequested data: closed at once

A connection may be idle for IDLE_SECONDS, or for less if the upstream's answer says so.
"""

from __future__ import annotations

import math
import re
import time
from typing import Generic, Protocol, TypeVar

from ...core.deadlines import Timer
from .proxies import Proxy

# Shorter than servers keep a connection, so that calls rarely use one that is just being closed.
IDLE_SECONDS = 20.0
# The margin before the time at which an upstream says it closes a connection: its answer took time to arrive.
AHEAD_SECONDS = 1.0
# The least time between two looks at the idle connections. Each looks at all: with one look for each connection that
# ends, hundreds of them (one for each DeepSearch call of the last 20 s) cost a call a tenth of its CPU time.
LOOK_SECONDS = 0.25

_TIMEOUT = re.compile(rb'(?:^|[,;])\s*timeout\s*=\s*"?(\d{1,9})"?\s*(?:$|[,;])', re.IGNORECASE)


def idle_seconds(said: bytes | None) -> float:
    """The seconds for which a connection may be idle after an answer with this Keep-Alive header; 0: not at all.

    ``timeout=5, max=100``, in seconds: RFC 2068, section 19.7.1.1, and draft-thomson-hybi-http-timeout-03, section 2. A
    header without a valid ``timeout`` is ignored.
    """
    found = None if said is None else _TIMEOUT.search(said)
    if found is None:
        return IDLE_SECONDS
    seconds = int(found[1])
    return min(max(seconds - AHEAD_SECONDS, seconds / 2), IDLE_SECONDS)


class Idle(Protocol):
    """A connection that an Origin can keep. ``idle_until`` is a time on the monotonic clock."""

    idle_until: float

    def silent(self) -> bool: ...
    def abort(self) -> None: ...


Kept = TypeVar("Kept", bound=Idle)


class Origin(Timer, Generic[Kept]):
    """A host, port and proxy, with the idle connections to it; the one in ``idle`` that was used last is at the end."""

    def __init__(self, host: str, port: int, tls: bool, proxy: Proxy | None = None) -> None:
        super().__init__()
        self.host = host
        self.port = port
        self.tls = tls
        self.proxy = proxy
        self.idle: dict[Kept, None] = {}

    def keep(self, connection: Kept) -> None:
        """Keeps an idle connection until its ``idle_until``."""
        self.idle[connection] = None
        if connection.idle_until < self.due:
            self.start(connection.idle_until)

    def take(self) -> Kept | None:
        """The most recently used connection that is still usable; None if there is none. Unusable ones that are found
        on the way are closed."""
        now = time.monotonic()
        while self.idle:
            connection, _ = self.idle.popitem()
            if connection.idle_until > now and connection.silent():
                return connection
            connection.abort()
        return None

    def _end(self, now: float) -> float:
        for connection in [each for each in self.idle if each.idle_until <= now]:
            connection.abort()
        return max(now + LOOK_SECONDS, min((each.idle_until for each in self.idle), default=math.inf))
