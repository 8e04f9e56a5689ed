"""Circuit breaker: an upstream that keeps failing is asked after the others.

After BREAK_AFTER failures in a row the upstream is asked last. BREAK_SECONDS later one call asks it first again, while
all other calls still ask it last: an answer closes the breaker, a failure starts another BREAK_SECONDS. This is the
half-open state of Hystrix and HAProxy's probe after a fall; Envoy would let all calls back at once. No call is refused
because of a breaker: if the breakers of all upstreams are open, all are asked in their order (Envoy's panic mode).
"""

from __future__ import annotations

import logging
import time

logger = logging.getLogger("torii.pool")

BREAK_AFTER = 5  # failures in a row
BREAK_SECONDS = 10.0


class Breaker:
    """The breaker of one upstream. ``open`` is True from BREAK_AFTER failures in a row until the next answer."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._failures = 0
        self._until = 0.0
        self.open = False

    @property
    def last(self) -> bool:
        """True if other upstreams are asked before this one."""
        return self.open and time.monotonic() < self._until

    def called(self, now: float) -> None:
        """Notes that a call goes to the upstream. The first call after BREAK_SECONDS is the trial."""
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
