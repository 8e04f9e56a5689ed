"""One timer for all the waits of a call."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType


class Alarm:
    """Ends what a task waits for when its time has come: ``with alarm:`` raises TimeoutError then.

    ``until`` is a time of the monotonic clock, and may be moved at will between two waits. The timer is set anew only
    where it would ring too late or has rung too early, so that a wait costs next to nothing.
    """

    __slots__ = ("_cancelling", "_loop", "_rings", "_task", "_timer", "_woken", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._rings = 0.0
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._woken = False

    def __enter__(self) -> None:
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        if self._timer is None or self._rings > self.until:
            self._set()

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
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

    def off(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self) -> None:
        self.off()
        self._rings = self.until
        self._timer = self._loop.call_later(max(0.0, self.until - time.monotonic()), self._look)

    def _look(self) -> None:
        self._timer = None
        if self._task is None:
            return  # nobody waits; the next wait sets it
        if time.monotonic() < self.until:
            self._set()
        else:
            self.ring()


class Deadline(Alarm):
    """For one wait, or for all that is within one ``with``."""

    __slots__ = ()

    def __init__(self, seconds: float) -> None:
        super().__init__(time.monotonic() + seconds)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.off()
        super().__exit__(kind, error, trace)
