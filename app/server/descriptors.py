"""Limits on connections, so that the process never runs out of file descriptors.

The system assigns the lowest free number, so the number of a new connection shows how many descriptors are in use. From
``refuse_from`` on connections are refused with a 503, from ``close_from`` on they are closed at once; the rest is for
upstreams, the ledger and the configuration.

A call takes one descriptor for its caller and one for its upstream. If the limit is lower than needed, callers
therefore get at most half: beyond ``callers`` caller connections the next ones are refused with a 503, beyond
``refusals`` they are closed at once.

If no descriptor is left all the same (the whole system has none, or the limit was lowered), a spare one is closed to
accept the waiting connections and close them.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from socket import socket

if sys.platform != "win32":
    import resource

logger = logging.getLogger("torii")

# Descriptors for everything but callers and upstreams. Half of them, or a quarter of a low limit, is withheld from
# callers.
SPARE_FILES = 200
OUT = (errno.EMFILE, errno.ENFILE)
SAY_SECONDS = 10.0


class Descriptors:
    """The descriptors of this process. ``look`` is called several times a second, in the event loop."""

    def __init__(self) -> None:
        self.refuse_from = self.close_from = self.callers = self.refusals = math.inf
        self.refused = 0  # connections refused or closed
        self._said = 0  # the value of ``refused`` in the latest log line
        self._quiet_until = 0.0
        self._needed = 0
        self._limit = 0
        self._spare: int | None = None

    def allow(self, needed: int) -> None:
        """Raise the limit to ``needed`` plus SPARE_FILES, as far as the system allows; logs if it does not."""
        self._needed = needed
        if sys.platform != "win32":
            self._limit = allow_files(needed + SPARE_FILES)
            most = math.inf if self._limit == resource.RLIM_INFINITY else self._limit
            reserve = min(SPARE_FILES // 2, most // 4)
            self.refuse_from, self.close_from = most - reserve, most - reserve // 2
            self.callers = math.inf if most >= needed + SPARE_FILES else (most - reserve) // 2
            self.refusals = self.callers + reserve // 2

    def refuses(self, callers: int, number: int) -> bool:
        """True if the latest connection is one too many: ``callers`` connections, the latest with descriptor
        ``number``."""
        return callers > self.callers or number >= self.refuse_from

    def closes(self, callers: int, number: int) -> bool:
        """True if the connection must be closed without a response: a response would hold its descriptor for a
        while."""
        return callers > self.refusals or number >= self.close_from

    def look(self, listening: Iterable[socket]) -> None:
        """Accept and close the waiting connections if no descriptor is left for them, and log now and then that
        connections are refused."""
        if sys.platform != "win32" and resource.getrlimit(resource.RLIMIT_NOFILE)[0] != self._limit:
            self.allow(self._needed)  # the limit was changed from outside
        out = not _one_is_left()
        if out:
            self._shed(listening)
        if self._spare is None:
            self._spare = _null()
        if (out or self.refused > self._said) and time.monotonic() >= self._quiet_until:
            logger.warning(
                "out of file descriptors: new connections are refused or closed, %d so far; "
                "raise the limit (ulimit -n)",
                self.refused,
            )
            self._said, self._quiet_until = self.refused, time.monotonic() + SAY_SECONDS

    def _shed(self, listening: Iterable[socket]) -> None:
        if self._spare is None:
            return
        os.close(self._spare)
        self._spare = None
        for sock in listening:
            with suppress(OSError):  # no connection is waiting any more
                while True:
                    sock.accept()[0].close()
                    self.refused += 1


def allow_files(needed: int) -> int:
    """Raise the limit of open files to ``needed``, as far as the system allows; logs if it does not. Returns the
    limit now in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        soft = max(soft, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if most < needed:
            logger.warning(
                "the limit is %d open files, and %d may be needed: raise the limit (ulimit -n), or lower "
                "max_caller_connections or max_connections",
                most,
                needed,
            )
    return soft


def _one_is_left() -> bool:
    file = _null()
    if file is not None:
        os.close(file)
    return file is not None


def _null() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        if error.errno not in OUT:
            raise
        return None
