"""Deadlines that share one timer of the event loop; idle connections to an upstream share one too.

Most waits end long before their deadline, so the end of a wait does not reset the timer. When the timer fires, it ends
the waits that are due, and is set for the earliest remaining deadline.
"""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from types import TracebackType


class Timer(ABC):
    """A timer for many deadlines.

    ``due`` is the time at which it fires, in seconds of the monotonic clock: the earliest deadline or before, infinity
    if it is stopped. ``loop`` is kept from the first start, because finding the running loop is a system call.
    """

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.due = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def start(self, until: float) -> None:
        """Sets the timer for ``until``, in seconds of the monotonic clock."""
        self.stop()
        self.due = until
        self.loop = self.loop or asyncio.get_running_loop()
        self._timer = self.loop.call_later(max(0.0, until - time.monotonic()), self._fire)

    def stop(self) -> None:
        """Stops the timer."""
        self.due = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self.stop()
        if (first := self._end(time.monotonic())) < math.inf:
            self.start(first)

    @abstractmethod
    def _end(self, now: float) -> float:
        """Ends everything that is due. Returns the earliest remaining deadline, infinity if there is none."""


class DeadlineClock(Timer):
    """The deadlines of one event loop. ``waits``: the deadlines of the waits under way."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: set[Deadline] = set()

    def within(self, seconds: float) -> Deadline:
        return Deadline(self, time.monotonic() + seconds)

    def expire(self) -> None:
        """Ends every wait."""
        for deadline in self.waits:
            deadline.expire()

    def _end(self, now: float) -> float:
        for deadline in [deadline for deadline in self.waits if deadline.until <= now]:
            deadline.expire()
            self.waits.discard(deadline)
        return min((deadline.until for deadline in self.waits), default=math.inf)


class Deadline:
    """Bounds a task's waits: ``with deadline:`` raises TimeoutError at ``until``.

    ``until`` is in seconds of the monotonic clock, and may be changed between two waits.
    """

    __slots__ = ("_cancelling", "_clock", "_expired", "_task", "until")

    def __init__(self, clock: DeadlineClock, until: float) -> None:
        self.until = until
        self._clock = clock
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._expired = False

    def __enter__(self) -> None:
        clock = self._clock
        task = asyncio.current_task(clock.loop)
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        clock.waits.add(self)
        if self.until < clock.due:
            clock.start(self.until)

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self._clock.waits.discard(self)
        task, self._task = self._task, None
        if self._expired and task is not None:
            self._expired = False
            if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                raise TimeoutError

    def expire(self) -> None:
        """Ends the wait under way, if there is one."""
        if self._task is not None and not self._expired:
            self._expired = True
            self._task.cancel()


class Timeout(Deadline):
    """A deadline of ``seconds`` from now, with a timer of its own, for one ``with``."""

    __slots__ = ()

    def __init__(self, seconds: float) -> None:
        super().__init__(DeadlineClock(), time.monotonic() + seconds)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._clock.stop()
        super().__exit__(kind, error, trace)
