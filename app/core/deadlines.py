"""One timer for the waits of many calls, or for the idle connections to an upstream.

Most are over long before their time has come, so the timer stays when one of them is: it is set for the first of them,
looks which are late when it rings, and is set for the first of the rest.
"""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from types import TracebackType


class Timer(ABC):
    """``rings`` is its time, by the monotonic clock: that of the first that has to end, or before. ``loop`` is known
    after the first: asking which one runs is a system call."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.rings = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def wind(self, until: float) -> None:
        """Has it ring at ``until``."""
        self.stop()
        self.rings = until
        self.loop = self.loop or asyncio.get_running_loop()
        self._timer = self.loop.call_later(max(0.0, until - time.monotonic()), self._ring)

    def stop(self) -> None:
        """Nothing is waited for any more."""
        self.rings = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self.stop()
        if (first := self._end(time.monotonic())) < math.inf:
            self.wind(first)

    @abstractmethod
    def _end(self, now: float) -> float:
        """Ends all whose time has come. The time of the first of the rest; infinite if there is none."""


class Clock(Timer):
    """``waits`` are those that there are now, in one event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: set[Alarm] = set()

    def within(self, seconds: float) -> Alarm:
        return Alarm(self, time.monotonic() + seconds)

    def ring(self) -> None:
        """Ends every wait."""
        for alarm in self.waits:
            alarm.ring()

    def _end(self, now: float) -> float:
        for alarm in [alarm for alarm in self.waits if alarm.until <= now]:
            alarm.ring()
            self.waits.discard(alarm)
        return min((alarm.until for alarm in self.waits), default=math.inf)


class Alarm:
    """Ends what a task waits for when its time has come: ``with alarm:`` raises TimeoutError then.

    ``until`` is a time of the monotonic clock, and may be moved at will between two waits.
    """

    __slots__ = ("_cancelling", "_clock", "_task", "_woken", "until")

    def __init__(self, clock: Clock, until: float) -> None:
        self.until = until
        self._clock = clock
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._woken = False

    def __enter__(self) -> None:
        clock = self._clock
        task = asyncio.current_task(clock.loop)
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        clock.waits.add(self)
        if self.until < clock.rings:
            clock.wind(self.until)

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self._clock.waits.discard(self)
        task, self._task = self._task, None
        if self._woken and task is not None:
            self._woken = False
            if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                raise TimeoutError

    def ring(self) -> None:
        """Ends the wait that there is now, if there is one."""
        if self._task is not None and not self._woken:
            self._woken = True
            self._task.cancel()


class Deadline(Alarm):
    """For all that is within one ``with``, by a timer of its own."""

    __slots__ = ()

    def __init__(self, seconds: float) -> None:
        super().__init__(Clock(), time.monotonic() + seconds)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._clock.stop()
        super().__exit__(kind, error, trace)
