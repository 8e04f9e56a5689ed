"""Keep-alive of connections that wait for their next exchange: ``Origin`` has all those to one place.

    exchange -> keep -> idle ... take -> exchange
                          |- its time is over: closed by the one timer that there is for all of them
                          `- its upstream ends it, or sends what nobody asked for: closed at once

Its time is IDLE_SECONDS, or less where the upstream's answer says so.
"""

from __future__ import annotations

import math
import re
import time
from typing import Generic, Protocol, TypeVar

from ...core.deadlines import Timer
from .proxies import Proxy

# Shorter than servers keep a connection, so that few calls meet one that is just being closed.
IDLE_SECONDS = 20.0
# By which we are ahead of an upstream that says how long it keeps one: its word may have been under way for so long.
AHEAD_SECONDS = 1.0
# The least time between two looks at the idle connections. Each looks at all: with one look for each connection that
# ends, hundreds of them (one for each DeepSearch call of the last 20 s) cost a call a tenth of its CPU time.
LOOK_SECONDS = 0.25

_TIMEOUT = re.compile(rb'(?:^|[,;])\s*timeout\s*=\s*"?(\d{1,9})"?\s*(?:$|[,;])', re.IGNORECASE)


def idle_seconds(said: bytes | None) -> float:
    """Seconds that a connection may be idle after an answer with this Keep-Alive header; 0 is not at all.

    ``timeout=5, max=100``, in seconds: RFC 2068, section 19.7.1.1, and draft-thomson-hybi-http-timeout-03, section 2.
    What is no such number says nothing.
    """
    found = None if said is None else _TIMEOUT.search(said)
    if found is None:
        return IDLE_SECONDS
    seconds = int(found[1])
    return min(max(seconds - AHEAD_SECONDS, seconds / 2), IDLE_SECONDS)


class Idle(Protocol):
    """``idle_until`` is of the monotonic clock."""

    idle_until: float

    def silent(self) -> bool: ...
    def abort(self) -> None: ...


Kept = TypeVar("Kept", bound=Idle)


class Origin(Timer, Generic[Kept]):
    """A place that connections go to, with its idle ones: the one that was used last is at the end."""

    def __init__(self, host: str, port: int, tls: bool, proxy: Proxy | None = None) -> None:
        super().__init__()
        self.host = host
        self.port = port
        self.tls = tls
        self.proxy = proxy
        self.idle: dict[Kept, None] = {}

    def keep(self, connection: Kept) -> None:
        """Until its ``idle_until``."""
        self.idle[connection] = None
        if connection.idle_until < self.due:
            self.start(connection.idle_until)

    def take(self) -> Kept | None:
        """The one that was used last and is still good; those before it that are not are closed."""
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
