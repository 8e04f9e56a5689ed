"""Small calls that wait for a key go together: one upstream call for all of a kind.

    no key is free     Joining -> Group   those of a kind who wait; one key is waited for
    one becomes free   Group   -> Joined  as many as fit into one call, callers taking turns; each has a Place in it
    each has asked     Joined  -> one upstream call -> to each its vectors and its share of the tokens

Where the upstream finds it wrong, its halves are asked, and theirs, until what is wrong is alone. Any other failure
is everybody's, whose own retries begin then. Who leaves takes nothing from the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Hashable
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import msgspec
from msgspec.structs import replace

from .departures import CallerGone
from .errors import ToriiError, UpstreamError, UpstreamRateLimited, UpstreamRejected
from .meter import Record
from .pool import Lease, Pool, Send, given
from .quota import Need, Share
from .types import Call, Json, Target
from .usage import shares

MOST_INPUTS = 64  # of a joined call, where it is not known what the model takes
MOST_TOKENS = 100_000  # by estimate; OpenAI takes 300,000 in a request


class Joining:
    """Who waits, by what they have in common."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, Group] = {}

    async def lease(self, pool: Pool, target: Target, need: Need, tried: Collection[str]) -> Lease:
        """As ``pool.lease``, but for a call that may be joined a place among others."""
        share = await need.share(target) if need.share else None
        most = target.model.max_inputs or MOST_INPUTS
        if share is None or share.inputs > most or need.tokens > MOST_TOKENS:
            return await pool.lease(replace(need, share=None), tried)
        key = (pool.name, share.kind, frozenset(tried))
        if key not in self._groups:
            self._groups[key] = Group(pool, set(tried), most, partial(self._groups.pop, key))
        return await self._groups[key].place(share, need)


@dataclass(slots=True, eq=False)
class Member:
    """A call that waits. It is given a place, or None where it would take too long: ``seconds``."""

    share: Share
    need: Need
    given: asyncio.Future[Place | None]
    seconds: float = 0.0


class Group:
    """Calls of a kind that wait for a key of ``pool``; ``end`` is called when nobody does any more."""

    def __init__(self, pool: Pool, tried: Collection[str], most: int, end: Callable[[], object]) -> None:
        self._pool = pool
        self._tried = tried
        self._most = most
        self._end = end
        self._lines: dict[str, deque[Member]] = {}  # by caller, whose turn it is first
        self._task: asyncio.Task[None] | None = None

    async def place(self, share: Share, need: Need) -> Place:
        """Raises UpstreamRateLimited where none is to be had within the call's patience."""
        member = Member(share, need, asyncio.get_running_loop().create_future())
        self._lines.setdefault(share.caller, deque()).append(member)
        if self._task is None:
            self._task = asyncio.create_task(self._serve())
        self._pool.joining += 1
        place = None
        try:
            async with asyncio.timeout(self._pool.until(need) - time.monotonic()):
                place = await given(member.given)
        except TimeoutError:
            pass
        finally:
            self._pool.joining -= 1
            self._leave(member)
        if place is None:
            raise self._pool.full(member.seconds)
        return place

    async def _serve(self) -> None:
        while self._lines:
            first = next(iter(self._lines.values()))[0].need
            need = Need(first.tokens, share=first.share)
            try:
                lease = await self._pool.lease(need, self._tried)
            except UpstreamRateLimited as full:
                self._refuse(need.since, full.retry_after or 1.0)
                continue
            members = self._taken(lease)
            if members:
                Joined(self._pool, lease, members)
            else:
                lease.release()
        self._task = None
        self._end()

    def _taken(self, lease: Lease) -> list[Member]:
        """Those who go with the lease, callers taking turns; who does not fit is among the first of the next."""
        taken: list[Member] = []
        inputs = tokens = 0
        turns = deque(self._lines)
        while turns:
            line = self._lines[caller := turns.popleft()]
            share, need = line[0].share, line[0].need
            fits = inputs + share.inputs <= self._most and tokens + need.tokens <= MOST_TOKENS
            if taken and not (fits and lease.stretch(need.tokens)):
                continue
            inputs, tokens = inputs + share.inputs, tokens + need.tokens
            taken.append(line.popleft())
            del self._lines[caller]
            if line:
                self._lines[caller] = line
                turns.append(caller)
        return [member for member in taken if not member.given.done()]

    def _refuse(self, since: float, seconds: float) -> None:
        """Those who came before ``since``: later ones have patience left."""
        for member in [member for line in self._lines.values() for member in line]:
            if member.need.since <= since:
                member.seconds = seconds
                self._remove(member)
                if not member.given.done():
                    member.given.set_result(None)

    def _leave(self, member: Member) -> None:
        self._remove(member)
        if self._task is not None and not self._lines:
            self._task.cancel()
            self._task = None
            self._end()

    def _remove(self, member: Member) -> None:
        line = self._lines.get(member.share.caller)
        if line and member in line:
            line.remove(member)
            if not line:
                del self._lines[member.share.caller]


@dataclass(slots=True, eq=False)
class Ask:
    """A member's part of the upstream call, and where its answer is waited for."""

    part: Call
    record: Record
    tokens: int
    answer: asyncio.Future[Json]

    @property
    def inputs(self) -> list[Any]:
        inputs: list[Any] = self.part.body["input"]
        return inputs

    @property
    def wanted(self) -> bool:
        """Whether anything more may be asked for it."""
        return not self.answer.done() and self.record.presence.wants

    def tell(self, answer: Json, *, estimated: bool) -> None:
        if not self.answer.done():
            self.record.estimated = estimated
            self.answer.set_result(answer)

    def fail(self, failure: Exception) -> None:
        """With an error of its own, since what becomes of it is written down in it."""
        if not self.answer.done():
            self.answer.set_exception(copy(failure) if isinstance(failure, ToriiError) else failure)


class Place(Lease):
    """A member's lease: the key is that of all, and so is the upstream call."""

    __slots__ = ("_came", "_joined", "_tokens")

    def __init__(self, joined: Joined, pool: Pool, lease: Lease, tokens: int) -> None:
        super().__init__(pool, lease.seat, lease.taken)
        self._joined = joined
        self._tokens = tokens
        self._came = False

    async def ask(self, part: Call, target: Target, send: Send, record: Record) -> Json:
        """The answer to ``part``, out of the one for all."""
        self._came = True
        ask = Ask(part, record, self._tokens, asyncio.get_running_loop().create_future())
        self._joined.come(ask, target, send)
        return await ask.answer

    def release(self) -> None:
        if not self.released:
            self.released = True
            self._joined.leave(came=self._came)


class Joined:
    """One upstream call for several. It is made when each of them has come with its part, or has left."""

    def __init__(self, pool: Pool, lease: Lease, members: list[Member]) -> None:
        self._pool = pool
        self._lease = lease
        self._held = self._awaited = len(members)
        self._asks: list[Ask] = []
        self._begin: Callable[[list[Ask]], Coroutine[Any, Any, None]] | None = None
        self._task: asyncio.Task[None] | None = None
        for member in members:
            member.given.set_result(Place(self, pool, lease, member.need.tokens))

    def come(self, ask: Ask, target: Target, send: Send) -> None:
        self._asks.append(ask)
        self._begin = partial(self._asked, self._lease, target, send)
        self._awaited -= 1
        self._go()

    def leave(self, *, came: bool) -> None:
        """The last who leaves ends it."""
        self._held -= 1
        self._awaited -= not came
        if self._held:
            self._go()
            return
        if self._task is not None:
            self._task.cancel()
        self._lease.release()

    def _go(self) -> None:
        if self._task is None and not self._awaited and self._begin is not None:
            asks = [ask for ask in self._asks if not ask.answer.done()]
            self._task = asyncio.create_task(self._begin(asks)) if asks else None

    async def _asked(self, lease: Lease, target: Target, send: Send, asks: list[Ask]) -> None:
        try:
            answers = _divided(await send(_together(asks), target, [ask.record for ask in asks]), asks)
        except UpstreamError as failure:
            self._pool.failed(lease, failure)
            failure.upstream = self._pool.name
            lease.release()
            if isinstance(failure, UpstreamRejected) and len(asks) > 1:
                middle = len(asks) // 2
                halves = (asks[:middle], asks[middle:])
                await asyncio.gather(*(self._again(target, send, half) for half in halves))
            else:
                _fail(asks, failure if len(asks) == 1 else _of_all(failure))
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait have to know
            _fail(asks, error)
        else:
            self._pool.succeeded(lease)
            for ask, answer in zip(asks, answers, strict=True):
                ask.tell(answer, estimated=len(asks) > 1)
        finally:
            lease.release()

    async def _again(self, target: Target, send: Send, asks: list[Ask]) -> None:
        """A half of what was found wrong; not for those who have left."""
        _fail([ask for ask in asks if not ask.wanted], CallerGone())
        asks = [ask for ask in asks if ask.wanted]
        if not asks:
            return
        try:
            lease = await self._pool.lease(Need(sum(ask.tokens for ask in asks)))
        except UpstreamRateLimited as full:
            full.upstream = self._pool.name
            _fail(asks, full)
            return
        target = target.with_key(lease.key)
        for ask in asks:
            ask.record.ask(target)
        await self._asked(lease, target, send, asks)


def _fail(asks: list[Ask], failure: Exception) -> None:
    for ask in asks:
        ask.fail(failure)


def _of_all(failure: UpstreamError) -> UpstreamError:
    """Without the upstream's words: they may be about another caller's input."""
    failure = copy(failure)
    failure.message = f"{failure.upstream} failed on a call that was made for several callers at once"
    failure.param = None
    return failure


def _together(asks: list[Ask]) -> Call:
    part = asks[0].part
    return replace(part, body={**part.body, "input": [item for ask in asks for item in ask.inputs]})


def _divided(answer: Json, asks: list[Ask]) -> list[Json]:
    """The answer to each: its vectors, in order, and its share of the tokens, by length."""
    if len(asks) == 1:
        return [answer]
    items = iter(answer["data"])
    usages = _usages(answer["usage"], [len(msgspec.json.encode(ask.inputs)) for ask in asks])
    return [
        {**answer, "data": list(islice(items, len(ask.inputs))), "usage": usage}
        for ask, usage in zip(asks, usages, strict=True)
    ]


def _usages(usage: Json, lengths: list[int]) -> list[Json]:
    """For each what it has of every count: whole numbers, whose sum is the count."""
    parts: list[Json] = [{} for _ in lengths]
    for name, count in usage.items():
        values: list[Any] = _usages(count, lengths) if isinstance(count, dict) else [count] * len(lengths)
        if type(count) is int:
            values = list(shares(count, lengths))
        for part, value in zip(parts, values, strict=True):
            part[name] = value
    return parts
