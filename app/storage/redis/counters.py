"""Minute limits and what is open at once, shared by all processes of all replicas.

    hold(SharedHold, charges) -> Decision     all charges or none, in one call of the script with all of the turn
    settle(SharedHold, tokens)                the minutes have what was used, and what was open ends
    take_here(SharedHold, charges)            Redis is away, and the call was admitted by this process's share

What was taken here, and what ended meanwhile, is told to Redis when it is back. What is open has a lease, which this
process renews: if it dies, that ends by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from random import SystemRandom
from typing import NamedTuple
from uuid import uuid4

from ..holds import OPEN, SLIDING, Charge, Decision
from .connection import RedisAddress
from .script import ScriptBatch, ScriptReply, balances_of
from .turns import Question, Turns

LEASE_SECONDS = 30.0
FIRST_SECONDS = 0.5  # to the first renewal, then twice as long each time, up to a third of the lease
LARGE = 10_000  # seconds of minutes, or things that have ended, of which Redis was not told yet

Counter = tuple[str, str]  # scope, unit


Adds = dict[tuple[str, str, int], list[int]]  # by scope, unit and second: to what was taken, and to what is held of it


class Taken(NamedTuple):
    """A part of a hold. ``second`` is that of the clock of Redis. ``epoch`` counts the emptied Redises."""

    scope: str
    unit: str
    second: int
    amount: int
    epoch: int


class Told(NamedTuple):
    """The notes of one turn."""

    adds: Adds
    ends: dict[Counter, set[str]]
    lease: bool


NOTHING_TOLD = Told({}, {}, False)


class SharedHold:
    """What a call holds of shared counters. ``member`` names what it has open."""

    __slots__ = ("ended", "member", "taken")

    def __init__(self, member: str) -> None:
        self.member = member
        self.taken: list[Taken] = []
        self.ended = False


class SharedCounters:
    """All methods are for one event loop. ``remembered``: the epoch and the number of processes that the ledger has
    from before, and ``remember`` writes one of them there. ``settled`` are called after something was settled.

    ``rank`` and ``processes``: how many living processes come before this one, and how many there are. Nobody knows
    the rank before Redis has answered once; it is the number then, so that no process takes what is left over.
    """

    def __init__(
        self,
        address: RedisAddress,
        prefix: str = "torii",
        *,
        remembered: Mapping[str, int] | None = None,
        remember: Callable[[str, int], None] | None = None,
        workers: int = 1,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        found = remembered or {}
        self.process = uuid4().hex
        self.settled: list[Callable[[], None]] = []
        self.processes = max(found.get("redis_processes", 0), workers)
        self.rank = self.processes
        self._remember = remember
        self._lease_seconds = lease_seconds
        self._turns = Turns(address, prefix, self, lease_seconds)
        self._turns.epoch = str(found["redis_epoch"]) if "redis_epoch" in found else ""
        self.channel = f"{{{prefix}}}:keys"  # on which replicas are told that keys have changed
        self._epoch = 0
        self._ahead = 0  # seconds of this machine's clock
        self._numbers = count(1)
        self._open: dict[Counter, set[str]] = {}
        self._adds: Adds = {}
        self._ends: dict[Counter, set[str]] = {}
        self._told = NOTHING_TOLD
        self._renewal_due = self._publishes = False
        self._renewing: asyncio.Task[None] | None = None

    @property
    def trouble(self) -> str | None:
        """Why Redis is away; None if it is not."""
        return self._turns.trouble

    # ---------------------------------------------------------------- a call

    def new(self) -> SharedHold:
        return SharedHold(f"{self.process}:{next(self._numbers)}")

    def hold(self, hold: SharedHold, charges: Sequence[Charge]) -> asyncio.Future[Decision]:
        """Takes all charges or none. The future raises StoreError if Redis is away, or does not answer in time."""
        return self._turns.ask(Question(hold, charges))

    def look(self, charges: Sequence[Charge]) -> asyncio.Future[Decision]:
        """The balances of the charges; nothing is taken. Raises as ``hold``."""
        return self._turns.ask(Question(None, charges))

    def take_here(self, hold: SharedHold, charges: Sequence[Charge]) -> None:
        """The charges were decided without Redis, which is told when it is back."""
        before = len(hold.taken)
        self._took(hold, charges, int(time.time()) - self._ahead)
        for taken in hold.taken[before:]:
            if taken.unit not in OPEN:
                self._add(taken, taken.amount)

    def open(self, charge: Charge) -> int:
        """How many calls or runs this process has open in the charge's scope."""
        return len(self._open.get((charge.scope, charge.unit), ()))

    def undo(self, hold: SharedHold, since: int = 0) -> None:
        """Gives back all that was taken from the given number on, requests included."""
        for taken in hold.taken[since:]:
            if taken.unit in OPEN:
                self._close(hold, taken)
            else:
                self._add(taken, -taken.amount)
        del hold.taken[since:]
        self._turns.soon()

    def settle(self, hold: SharedHold, tokens: int) -> None:
        """The call has ended, and has used so many tokens. They count in the second of admission: what was not used is
        taken from the earliest admission, what was used besides is added to the latest."""
        hold.ended = True
        scopes: dict[str, list[Taken]] = {}
        for taken in hold.taken:
            if taken.unit in OPEN:
                self._close(hold, taken)
            elif taken.unit == "tokens":
                scopes.setdefault(taken.scope, []).append(taken)
        for parts in scopes.values():
            unused = sum([taken.amount for taken in parts]) - tokens
            for taken in parts:
                back = max(min(unused, taken.amount), 0)
                unused -= back
                self._add(taken, -back, -taken.amount)
            if unused < 0:
                self._add(parts[-1], -unused, 0)
        if hold.taken:
            self._turns.soon()

    def publish(self) -> None:
        """Tells all replicas that keys have changed."""
        self._publishes = True
        self._turns.now()

    def _took(self, hold: SharedHold, charges: Sequence[Charge], second: int) -> None:
        for scope, unit, _, _, _, amount, *_ in charges:
            if amount or unit == "tokens":  # of which more may be used
                hold.taken.append(Taken(scope, unit, second, amount, self._epoch))
                if unit in OPEN:
                    self._open.setdefault((scope, unit), set()).add(hold.member)

    def _close(self, hold: SharedHold, taken: Taken) -> None:
        counter = taken[:2]
        members = self._open.get(counter, set())
        members.discard(hold.member)
        if not members:
            self._open.pop(counter, None)
        if len(self._ends) < LARGE:  # else its lease ends
            self._ends.setdefault(counter, set()).add(hold.member)

    def _add(self, taken: Taken, amount: int, held: int | None = None) -> None:
        """Adds to a minute in the second of admission, unless Redis was emptied since: its minutes are gone. ``held``
        is the amount too if it is not given."""
        scope, unit, second, _, epoch = taken
        if epoch != self._epoch:
            return
        if len(self._adds) > LARGE:
            first = int(time.time()) - self._ahead - SLIDING
            self._adds = {place: added for place, added in self._adds.items() if place[2] > first}
        added = self._adds.setdefault((scope, unit, second), [0, 0])
        added[0] += amount
        if unit == "tokens":
            added[1] += amount if held is None else held

    # ---------------------------------------------------------------- what Redis is told

    def write(self, batch: ScriptBatch) -> None:
        told = self._told = Told(self._adds, self._ends, self._renewal_due)
        self._adds, self._ends, self._renewal_due = {}, {}, False
        for (scope, unit, second), (amount, held) in told.adds.items():
            batch.add(scope, unit, second, (amount, held))
        for counter, members in told.ends.items():
            batch.end(*counter, members)
        if told.lease:
            batch.lease(self.process)
            for counter, members in self._open.items():
                batch.renew(*counter, members)
        if self._publishes:
            self._publishes = False
            batch.publish(self.channel)

    def written(self, reply: ScriptReply, questions: Sequence[Question]) -> None:
        told, self._told = self._told, NOTHING_TOLD
        answers = iter(reply.answers)
        if told.lease:
            self._leased(next(answers))
        self._ahead = round(time.time() - reply.ms / 1000)
        for question, answer in zip(questions, answers, strict=True):
            self._deliver(question, answer)
        if told.adds or told.ends:
            for callback in list(self.settled):
                callback()

    def _deliver(self, question: Question, answer: Sequence[int]) -> None:
        refused, waits, second = answer[:3]
        hold = question.hold
        decision = Decision(
            refused - 1 if refused else None, waits == 1, balances_of(question.charges, answer, self._ahead)
        )
        if hold is not None and not refused:
            before = len(hold.taken)
            self._took(hold, question.charges, second)
            if hold.ended:  # nobody waits for it any more
                self.undo(hold, before)
        if not question.future.done():
            question.future.set_result(decision)

    def unwritten(self, questions: Sequence[Question]) -> None:
        """What lowers a minute may have been told, and is not told again: that would be too loose. What may have been
        opened ends, unless the call goes on here: what is open is renewed after."""
        told, self._told = self._told, NOTHING_TOLD
        for place, (amount, held) in told.adds.items():
            if amount > 0:
                added = self._adds.setdefault(place, [0, 0])
                added[0], added[1] = added[0] + amount, added[1] + held
        for counter, members in told.ends.items():
            self._ends.setdefault(counter, set()).update(members)
        for question in questions:
            for charge in question.charges if question.hold is not None else ():
                if charge.unit in OPEN and len(self._ends) < LARGE:
                    self._ends.setdefault((charge.scope, charge.unit), set()).add(question.hold.member)

    # ---------------------------------------------------------------- epochs and leases

    async def begin(self) -> None:
        """Learns the epoch, or begins one; then tells what was taken and ended meanwhile, and what is open."""
        batch = self._turns.batch()
        batch.lease(self.process)
        reply = await self._turns.call(batch, fresh=str(SystemRandom().getrandbits(52)))
        self._leased(reply.answers[0])
        self._ahead = round(time.time() - reply.ms / 1000)
        if reply.epoch != self._turns.epoch:
            if self._turns.epoch:
                self._epoch += 1
                self._adds = {place: added for place, added in self._adds.items() if added[0] > 0}
            self._turns.epoch = reply.epoch
            if self._remember is not None:
                self._remember("redis_epoch", int(reply.epoch))
        self._renewal_due = True
        batch = self._turns.batch()
        self.write(batch)
        try:
            self.written(await self._turns.call(batch), ())
        except BaseException:
            self.unwritten(())
            raise

    def _leased(self, answer: Sequence[int]) -> None:
        self.rank, processes = answer
        if processes != self.processes:
            self.processes = processes
            if self._remember is not None:
                self._remember("redis_processes", processes)

    async def start(self) -> None:
        """Connects, and keeps the lease from now on. Never raises."""
        await self._turns.start()
        self._renewing = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        """Often at first: replicas that start together are to know how many they are, should Redis fail then."""
        pause = FIRST_SECONDS
        while True:
            await asyncio.sleep(min(pause, self._lease_seconds / 3))
            pause *= 2
            self._renewal_due = True
            self._turns.now()

    async def aclose(self) -> None:
        """Ends all that is open, and the lease."""
        if self._renewing is not None:
            self._renewing.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewing
        await self._turns.aclose(self._write_last)

    def _write_last(self, batch: ScriptBatch) -> None:
        self._renewal_due = False
        self.write(batch)
        for counter, members in self._open.items():
            batch.end(*counter, members)
        batch.leave(self.process)
