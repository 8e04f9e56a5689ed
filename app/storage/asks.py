"""Questions of the event loop to the writer's thread, and the answers' way back.

    ask -> the loop's turn ends -> the thread: one transaction for all of the turn -> one callback for all answers

Whoever asks waits for ANSWER_SECONDS at most. An answer that comes later, or for which nobody waits any more, is handed
to ``unwanted``: a hold that was taken for it must not stay.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

from .errors import StoreError
from .holds import Decision

ANSWER_SECONDS = 0.5
GATHER_SECONDS = 0.002  # for which asks gather while many come
MANY = 4  # asks of a transaction
SOON_SECONDS = 0.01  # for which settlements gather while a call waits for them
AWAITED_SECONDS = 0.5  # after a decision, in which the call waits or asks again
LATER_SECONDS = 0.05  # for which they gather else, unless something that is asked takes them along


class Asked:
    __slots__ = ("future", "loop", "number", "verb", "what")

    def __init__(self, verb: str, what: Any, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.verb, self.what, self.number, self.loop = verb, what, number, loop
        self.future: asyncio.Future[Any] = loop.create_future()


Answer = tuple[Asked, Any]  # what was asked, and a value or StoreError


class Asks:
    """``hasten`` wakes the thread. ``settled`` are called on the loop after a transaction that settled or released
    something."""

    def __init__(self, hasten: Callable[[], None], unwanted: Callable[[Asked, Any], None]) -> None:
        self.settled: list[Callable[[], None]] = []
        self._hasten, self._unwanted = hasten, unwanted
        self._numbers = count(1)
        self._queue: deque[Asked] = deque()
        self._turn: list[Asked] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._many = False  # the latest transaction had MANY asks or more
        self._timer: asyncio.TimerHandle | None = None  # of settlements
        self._unsaid = False  # something was settled after the latest ask
        self._awaited = 0.0  # until this time of the monotonic clock a call may wait for settlements

    def __len__(self) -> int:
        return len(self._queue)

    # On the event loop.

    def ask(self, verb: str, what: Any) -> asyncio.Future[Any]:
        loop = self._here(asyncio.get_running_loop())
        asked = Asked(verb, what, next(self._numbers), loop)
        if not self._turn:
            if self._many:
                loop.call_later(GATHER_SECONDS, self._end_turn)
            else:
                loop.call_soon(self._end_turn)
        self._turn.append(asked)
        return asked.future

    def hasten_soon(self, *, patient: bool = False) -> None:
        """Wakes the thread for a settlement, if this is an event loop: within SOON_SECONDS if a call waits for one,
        else within LATER_SECONDS. ``patient``: not for this one, unless a call waits."""
        try:
            loop = self._here(asyncio.get_running_loop())
        except RuntimeError:
            return
        self._unsaid = True
        if self._timer is None:
            awaited = self.awaited(time.monotonic())
            if awaited or not patient:
                self._timer = loop.call_later(SOON_SECONDS if awaited else LATER_SECONDS, self._hasten_now)

    def _here(self, loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
        if loop is not self._loop:
            self._loop, self._turn, self._timer, self._many = loop, [], None, False
            self._unsaid, self._awaited = False, 0.0
        return loop

    def _hasten_now(self) -> None:
        self._timer = None
        if self._unsaid:
            self._unsaid = False
            self._hasten()

    def _await(self) -> None:
        """A call waits for settlements now."""
        self._awaited = time.monotonic() + AWAITED_SECONDS
        if self._timer is not None:
            self._timer.cancel()
        if self._unsaid:
            self._timer = asyncio.get_running_loop().call_later(SOON_SECONDS, self._hasten_now)

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, []
        self._unsaid = False
        self._queue.extend(turn)
        self._hasten()
        asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._expire, turn)

    def _expire(self, turn: list[Asked]) -> None:
        for asked in turn:
            if not asked.future.done():
                asked.future.set_exception(StoreError(f"it did not answer within {ANSWER_SECONDS:g} seconds"))

    def _deliver(self, answers: list[Answer], settled: bool) -> None:
        if answers:
            self._many = len(answers) >= MANY
        for asked, answer in answers:
            if isinstance(answer, Decision) and answer.waits:
                self._await()
            if asked.future.done():
                self._unwanted(asked, answer)
            elif isinstance(answer, Exception):
                asked.future.set_exception(answer)
            else:
                asked.future.set_result(answer)
        if settled:
            for callback in list(self.settled):
                callback()

    def awaited(self, now: float) -> bool:
        """True if a call may be waiting for settlements, at this time of the monotonic clock."""
        return now < self._awaited

    # In the thread.

    def take(self, most: int) -> list[Asked]:
        """The next ones for which somebody waits."""
        taken: list[Asked] = []
        while self._queue and len(taken) < most:
            asked = self._queue.popleft()
            if not asked.future.done():
                taken.append(asked)
        return taken

    def answer(self, answers: list[Answer], *, settled: bool = False) -> None:
        """Hands the answers to the loop, all in one callback."""
        if not answers and not (settled and self.settled):
            return
        loop = self._loop
        if all(asked.loop is loop for asked, _ in answers):
            self._hand_over(loop, answers, settled)
            return
        for answer in answers:
            self._hand_over(answer[0].loop, [answer], settled)

    def _hand_over(self, loop: asyncio.AbstractEventLoop | None, answers: list[Answer], settled: bool) -> None:
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._deliver, answers, settled)
        except RuntimeError:  # the loop has ended
            for asked, answer in answers:
                self._unwanted(asked, answer)
