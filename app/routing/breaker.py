"""Circuit breaker: an upstream that keeps failing is asked after the others.

After BREAK_AFTER failures in a row it is asked last. BREAK_SECONDS later one call asks it first again,
while the others go on passing it by: an answer ends it, a failure makes it another BREAK_SECONDS. That is
the half-open state of Hystrix and HAProxy's probe after a fall; Envoy would let all come back at once.
Nothing is ever refused for it: where every upstream is broken, all are asked in their order (Envoy's panic).
"""

from __future__ import annotations

import logging
import time

logger = logging.getLogger("torii.pool")

BREAK_AFTER = 5  # failures in a row
BREAK_SECONDS = 10.0


class Breaker:
    """``open``: it has broken, and no call has been answered since."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._failures = 0
        self._until = 0.0
        self.open = False

    @property
    def last(self) -> bool:
        """True if other upstreams are tried first."""
        return self.open and time.monotonic() < self._until

    def called(self, now: float) -> None:
        """A call goes to the upstream. The first one after the time is the one that tries."""
        if self.open and now >= self._until:
            self._until = now + BREAK_SECONDS

    def succeeded(self) -> None:
        self._failures = 0
        if self.open:
            self.open = False
            logger.info("%s answers again", self._name)

    def failed(self) -> None:
        self._failures += 1
        if self._failures < BREAK_AFTER:
            return
        self._until = time.monotonic() + BREAK_SECONDS
        if not self.open:
            self.open = True
            logger.warning("%s: %d calls failed in a row; other upstreams are tried first", self._name, BREAK_AFTER)
