"""Whether the ledger's store can be written, for those who ask it and for /healthz."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .asks import ANSWER_SECONDS

logger = logging.getLogger("torii.store")

SKEW_SECONDS = 1.0  # between two clocks, which is told


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the store cannot be written, how many rows wait and were lost, and since when: a Unix time in seconds."""

    what: str
    waiting: int
    lost: int
    since: int


class Condition:
    """``server``: the store is one, which may not answer. The writer's thread tells, others ask."""

    def __init__(self, *, server: bool) -> None:
        self.trouble: str | None = None
        self._server = server
        self._since = self._offset = 0.0
        self._asked_at: float | None = None  # of the monotonic clock: the question to which no answer came yet

    @contextmanager
    def asking(self) -> Iterator[None]:
        self._asked_at = time.monotonic()
        try:
            yield
        finally:
            self._asked_at = None

    def failed(self, what: str) -> None:
        if what != self.trouble:
            self._since = self._since if self.trouble else time.time()
            self.trouble = what
            logger.error("the database cannot be written: %s; rows wait in memory", what)

    def succeeded(self, lost: int) -> None:
        if self.trouble is not None:
            self.trouble = None
            logger.warning("the database is written again; %d rows were lost", lost)

    @property
    def away(self) -> bool:
        """True if the store is a server that cannot be asked now: it failed and has not answered since, or does not
        answer. The thread finds out when it is back."""
        return self._server and (self.trouble is not None or self._silent() is not None)

    def shown(self, waiting: int, lost: int) -> Trouble | None:
        """The trouble; None if there is none."""
        if self.trouble is not None:
            return Trouble(self.trouble, waiting, lost, int(self._since))
        silent = self._silent() if self._server else None
        return None if silent is None else Trouble("it does not answer", waiting, lost, int(time.time() - silent))

    def _silent(self) -> float | None:
        """For how long it has not answered; None if that is not long."""
        since = self._asked_at
        seconds = 0.0 if since is None else time.monotonic() - since
        return seconds if seconds > ANSWER_SECONDS else None

    def compare(self, offset: float) -> None:
        """Tells if the clocks of this machine and of the server differ, once. ``offset``: the server's is ahead by so
        many seconds."""
        if abs(offset - self._offset) > SKEW_SECONDS:
            self._offset = offset
            ahead = "ahead of" if offset > 0 else "behind"
            text = "the database's clock is %.1f s %s this machine's; limits by the minute go by the database's"
            logger.warning(text, abs(offset), ahead)
