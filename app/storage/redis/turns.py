"""What a process asks of Redis, gathered: one call of the script for all of a turn of the event loop.

    ask, note -> [the turn ends, and the call before is answered] -> ScriptBatch -> EVALSHA -> answers

A call that has no answer within ANSWER_SECONDS is a failure. Then Redis is not asked any more, until a try in the
background has succeeded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from ..errors import StoreError
from ..holds import Charge, Decision
from .connection import RedisAddress, ScriptConnection, reason
from .script import ScriptBatch, ScriptReply, reply_of

logger = logging.getLogger("torii.redis")

ANSWER_SECONDS = 0.25
CONNECT_SECONDS = 1.0  # of a try in the background
AWAY_SECONDS = 1.0  # between two of them
GATHER_SECONDS = 0.002  # for which calls gather while many come
MANY = 4  # of one turn
SOON_SECONDS = 0.01  # for which settlements gather, unless something that is asked takes them along


class Question:
    """``what``: the charges of a call, to be held for ``hold``, or to be looked at if that is None."""

    __slots__ = ("charges", "future", "hold")

    def __init__(self, hold: Any, charges: Sequence[Charge]) -> None:
        self.hold, self.charges = hold, charges
        self.future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()


class Notes(Protocol):
    """What is told to Redis besides."""

    def write(self, batch: ScriptBatch) -> None:
        """Adds all that is to be told to the batch."""

    def written(self, reply: ScriptReply, questions: Sequence[Question]) -> None:
        """It has been told."""

    def unwritten(self, questions: Sequence[Question]) -> None:
        """Nobody knows whether it has been told, and what was asked has been decided."""

    async def begin(self) -> None:
        """Redis is there, perhaps another or an empty one. Raises what ``Turns.call`` raises."""


class Turns:
    """All methods are for one event loop. ``trouble``: why Redis is not asked now."""

    def __init__(self, address: RedisAddress, prefix: str, notes: Notes, lease_seconds: float) -> None:
        self.trouble: str | None = "it was not asked yet"
        self.epoch = ""
        self._connection = ScriptConnection(address, CONNECT_SECONDS)
        self._prefix, self._notes, self._lease = prefix, notes, lease_seconds
        self._questions: list[Question] = []
        self._many = self._urgent = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._returning: asyncio.Task[None] | None = None

    # ---------------------------------------------------------------- what comes in

    def ask(self, question: Question) -> asyncio.Future[Decision]:
        """The answer; StoreError if Redis is away."""
        if self.trouble is not None:
            question.future.set_exception(StoreError(self.trouble))
        else:
            self._questions.append(question)
            self._wake()
        return question.future

    def soon(self) -> None:
        """There is something to be told."""
        if self.trouble is None and self._timer is None and self._task is None:
            self._timer = asyncio.get_running_loop().call_later(SOON_SECONDS, self.now)

    def now(self) -> None:
        """There is something to be told at once."""
        self._urgent = True
        if self.trouble is None:
            self._wake()

    # ---------------------------------------------------------------- the turns

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while (self._questions or self._urgent) and self.trouble is None:
                if self._many:
                    await asyncio.sleep(GATHER_SECONDS)
                questions, self._questions, self._urgent = self._questions, [], False
                self._many = len(questions) >= MANY
                await self._turn(questions)
        finally:
            self._task = None

    async def _turn(self, questions: list[Question]) -> None:
        batch = self.batch()
        self._notes.write(batch)
        for question in questions:
            member = "" if question.hold is None else question.hold.member
            batch.hold(member, question.charges, look=question.hold is None)
        try:
            reply = await self.call(batch)
            if not reply.known:
                self._notes.unwritten(())
                await self._notes.begin()
                self._questions = questions + self._questions
                return
        except Exception as error:  # noqa: BLE001 - whatever Redis or its client does, calls go on
            self._notes.unwritten(questions)
            self._fail(error, questions)
        else:
            self._notes.written(reply, questions)

    def batch(self) -> ScriptBatch:
        return ScriptBatch(self._prefix)

    async def call(self, batch: ScriptBatch, fresh: str = "") -> ScriptReply:
        """Runs the script. ``fresh`` as in ``ScriptBatch.command``. Raises StoreError if it takes too long, and what
        redis-py raises."""
        command = batch.command(self.epoch, fresh, self._lease)
        return reply_of(await within(ANSWER_SECONDS, self._connection.run(command)))

    # ---------------------------------------------------------------- Redis away, and back

    async def start(self) -> None:
        """Connects. Never raises; if Redis is away, it is tried again in the background."""
        try:
            await self._begin()
        except Exception as error:  # noqa: BLE001 - no error of Redis may fail a call
            self._fail(error, [])

    async def _begin(self) -> None:
        async with asyncio.timeout(CONNECT_SECONDS):
            await self._connection.connect()
        await self._notes.begin()
        self.trouble = None

    def _fail(self, error: Exception, questions: list[Question]) -> None:
        self.trouble = reason(error, ANSWER_SECONDS)
        logger.error("Redis (counters.url) is away: %s; this process keeps to its share of limits", self.trouble)
        for question in questions + self._questions:
            if not question.future.done():
                question.future.set_exception(StoreError(self.trouble))
        self._questions = []
        if self._returning is None:
            self._returning = asyncio.get_running_loop().create_task(self._return())

    async def _return(self) -> None:
        away = time.monotonic()
        while self.trouble is not None:
            await asyncio.sleep(AWAY_SECONDS)
            try:
                await self._begin()
            except Exception as error:  # noqa: BLE001 - no error of Redis may fail a call
                self.trouble = reason(error, ANSWER_SECONDS)
        self._returning = None
        logger.warning("Redis (counters.url) answers again, after %.0f seconds", time.monotonic() - away)
        self.now()

    async def aclose(self, write: Callable[[ScriptBatch], None]) -> None:
        """Tells what ``write`` adds, and asks no more."""
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.wait([self._returning])
        if self._task is not None:
            await asyncio.wait([self._task])
        if self.trouble is None:
            last = self.batch()
            write(last)
            try:
                await self.call(last)
            except Exception as error:  # noqa: BLE001 - no error of Redis may fail a call
                logger.warning("Redis (counters.url) at the end: %s", reason(error, ANSWER_SECONDS))
        self.trouble = "it is closed"
        await self._connection.close()


async def within(seconds: float, work: Any) -> Any:
    """The result of the coroutine. Raises StoreError after so long a time in which this loop was not busy itself: an
    answer that has come while it was is still taken."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    late = False
    timer: asyncio.TimerHandle

    def look(*, again: bool) -> None:
        nonlocal timer, late
        if again:
            timer = loop.call_later(seconds / 2, partial(look, again=False))
        else:
            late = True
            task.cancel()

    timer = loop.call_later(seconds / 2, partial(look, again=True))
    try:
        return await work
    except asyncio.CancelledError:
        if late and task.uncancel() == 0:
            raise StoreError(f"it did not answer within {seconds:g} seconds") from None
        raise
    finally:
        timer.cancel()
