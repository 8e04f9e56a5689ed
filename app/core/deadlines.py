"""One timer for the waits of many calls.

Most waits are over long before their time has come, so the timer stays when one of them is: it is set for the first
that may ring, looks who is late when it does, and is set for the first of those who wait then.
"""

from __future__ import annotations

import asyncio
import math
import time
from types import TracebackType


class Clock:
    """``waits`` are those that there are now, in one event loop; ``rings`` is when the timer does, which is when the
    first of them has to end, or before. ``loop`` is known after the first: asking which one runs is a system call."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.waits: set[Alarm] = set()
        self.rings = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float) -> Alarm:
        return Alarm(self, time.monotonic() + seconds)

    def ring(self) -> None:
        """Ends every wait."""
        for alarm in self.waits:
            alarm.ring()

    def stop(self) -> None:
        """Nobody waits any more."""
        self.rings = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def wind(self, until: float) -> None:
        """Has it ring at ``until``."""
        self.stop()
        self.rings = until
        self.loop = self.loop or asyncio.get_running_loop()
        self._timer = self.loop.call_later(max(0.0, until - time.monotonic()), self._look)

    def _look(self) -> None:
        self.stop()
        now = time.monotonic()
        late = [alarm for alarm in self.waits if alarm.until <= now]
        for alarm in late:
            alarm.ring()
            self.waits.discard(alarm)
        if self.waits:
            self.wind(min(alarm.until for alarm in self.waits))


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
