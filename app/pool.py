"""The keys of an upstream: which of them takes the next call, when, and which of them rest.

    lease -> the least loaded of the keys that neither rest nor are at a limit
          -> else, within the call's patience, the first that becomes free
          -> else UpstreamRateLimited, with the time to come back

A key that was refused rests: until the time that a 429 states; where the key or its account is refused, until
a probe succeeds. Where there is nothing to probe with, one call is let through after each rest. The last key
is never locked out: where all rest, and none of them wakes in time, the one that rests the shortest is tried.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from .breaker import Breaker
from .errors import ToriiError, UpstreamAuth, UpstreamError, UpstreamQuota, UpstreamRateLimited, UpstreamRejected
from .meter import Record
from .quota import Need, Quota
from .seat import SHUT, Cause, Rest, Seat, fingerprint
from .types import Call, Json, Key, Target

logger = logging.getLogger("torii.pool")

REST_SECONDS = 600.0  # of a key that is shut, and the longest that a rest from before the start may be
LIMITED_SECONDS = 5.0  # of a key that met a 429 which does not say until when
PROBE_FIRST_SECONDS = 60.0  # until an empty account is probed; twice as long each time, up to REST_SECONDS
PROBE_SECONDS = 30.0  # for a probe to be answered
HELD = 0.5  # of a call's patience, for which it may be kept back so that others join it

L = TypeVar("L", bound="Lease")

# Raises ToriiError where the upstream does not take the key.
Probe = Callable[[Key], Awaitable[None]]
Send = Callable[[Call, Target, Sequence[Record]], Awaitable[Json]]  # for the calls of these records


class Lease:
    """A key for one call. ``keep`` leaves the release to somebody else, ``pending`` the verdict too; both come once."""

    __slots__ = ("kept", "pending", "pool", "released", "seat", "taken")

    def __init__(self, pool: Pool, seat: Seat, taken: float) -> None:
        self.pool = pool
        self.seat = seat
        self.taken = taken
        self.kept = False
        self.pending = False
        self.released = False

    @property
    def key(self) -> Key:
        return self.seat.key

    def keep(self) -> None:
        self.kept = True

    def stretch(self, tokens: int) -> bool:
        """Takes more tokens along, where the key's limit allows it now."""
        return self.seat.stretch(time.monotonic(), tokens)

    def ask(self, part: Call, target: Target, send: Send, record: Record) -> Awaitable[Json]:
        """What the target answers, asked with ``send``."""
        return send(part, target, [record])

    def release(self) -> None:
        if not self.released:
            self.released = True
            self.pool.leave(self.seat)


@dataclass(slots=True, eq=False)
class Succession:
    """The pools that have had the same keys: which goes on with them, and those with somebody in line."""

    now: Pool
    lines: dict[Pool, None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Waiter:
    """Somebody in line. He is given a lease, or None where it would take him too long: ``seconds``."""

    need: Need
    tried: Collection[str]
    given: asyncio.Future[Lease | None]
    seconds: float = 0.0


class Pool:
    """``patience`` is how many seconds after it came a call may still wait for a key; clients such as
    Haystack's give up after five. ``joining`` are those who wait together, of whom one stands in line for all.
    ``remember`` is told of each rest."""

    def __init__(
        self,
        name: str,
        keys: Iterable[tuple[Key, Quota]],
        *,
        patience: float = 4.0,
        probe: Probe | None = None,
        remember: Callable[[Rest], None] | None = None,
    ) -> None:
        self.name = name
        self.seats = [Seat(key, quota) for key, quota in keys]
        self.breaker = Breaker(name)
        self.joining = 0
        self._patience = patience
        self._probe = probe
        self._remember = remember
        self._turn = 0.0
        self._line: dict[Waiter, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._succession = Succession(self)

    # ------------------------------------------------------------ a key for a call

    async def lease(self, need: Need, tried: Collection[str] = ()) -> Lease:
        """A key that is not of the ``tried``. Raises UpstreamRateLimited where none is free in time."""
        return self.at_once(need, tried) or await self._stand(need, tried)

    def at_once(self, need: Need, tried: Collection[str] = ()) -> Lease | None:
        """The same where nobody has to wait for it."""
        if self._line:
            return None
        now = time.monotonic()
        seat = self._free(now, need, tried)[0]
        return None if seat is None else self._take(now, seat, need)

    def full(self, seconds: float = 1.0) -> UpstreamRateLimited:
        """The refusal of a call that could not go in time."""
        limit = f"every key of {self.name} is at the limit that this gateway keeps for it"
        return UpstreamRateLimited(limit, retry_after=max(1.0, seconds))

    def until(self, need: Need) -> float:
        """When the call's patience ends, by the monotonic clock."""
        return need.since + self._patience

    def others(self, tried: Collection[str]) -> bool:
        """Whether there is a key that neither rests nor was tried."""
        now = time.monotonic()
        return any(not seat.rests(now) and seat.key.alias not in tried for seat in self.seats)

    def patient(self, need: Need, seconds: float) -> bool:
        """Whether the call may still wait so long."""
        return time.monotonic() + seconds <= self.until(need)

    @property
    def waiting(self) -> int:
        """How many stand in line, also as one with others."""
        return self.joining + sum(waiter.need.share is None for waiter in self._line)

    def leave(self, seat: Seat) -> None:
        seat.leave()
        for pool in self._succession.lines:
            pool._serve()

    def take_over(self, before: Pool) -> None:
        """Goes on with those of its keys that ``before`` has too, whose open calls still count against their limits."""
        for seat in before.seats:
            if seat.probing is not None:
                seat.probing.cancel()
                seat.probing = None
        known = {seat.key.secret: seat for seat in before.seats}
        self.seats = [old.becomes(new) if (old := known.pop(new.key.secret, None)) else new for new in self.seats]
        self.breaker, self._turn = before.breaker, before._turn
        self._succession = before._succession
        self._succession.now = self

    def _take(self, now: float, seat: Seat, need: Need) -> Lease:
        self.breaker.called(now)
        if seat.cause and not seat.rests(now):
            if seat.shut:
                seat.rests_until = now + REST_SECONDS  # this call is let through, and no other
            else:
                seat.cause = ""
        self._turn = seat.turn = max(self._turn, seat.turn)
        seat.take(now, need)
        return Lease(self, seat, now)

    def _free(self, now: float, need: Need, tried: Collection[str]) -> tuple[Seat | None, float | None]:
        """The best key that is free now; or None, and the seconds until one is, None where a call has to end first."""
        seats = [seat for seat in self.seats if seat.key.alias not in tried] or self.seats if tried else self.seats
        hold = need.since + self._patience * HELD if need.share else 0.0
        best: Seat | None = None
        for seat in seats:
            better = seat.rests_until <= now and (best is None or seat.load < best.load)
            # For a call that may be kept back, every key with limits is looked at: they tell a burst by that.
            if (better or (hold and seat.windows)) and seat.room(now, need, hold) == 0 and better:
                best = seat
        return (best, None) if best is not None else self._soonest(now, need, seats, hold)

    def _soonest(self, now: float, need: Need, seats: list[Seat], hold: float) -> tuple[Seat | None, float | None]:
        """The same where none of these keys is free now."""
        waits = [
            None if (room := seat.room(now, need, hold)) is None else max(room, seat.rests_until - now)
            for seat in seats
            if not (seat.shut and seat.rests(now))
        ]
        soon = min((wait for wait in waits if wait is not None), default=None)
        if soon is not None and now + soon <= self.until(need):
            return None, soon
        if not all(seat.rests(now) for seat in seats):
            return None, None if None in waits else soon
        last = min(seats, key=lambda seat: seat.rests_until)
        wait = last.room(now, need)
        return (None if wait != 0 else last), wait

    # ------------------------------------------------------------ the line

    async def _stand(self, need: Need, tried: Collection[str]) -> Lease:
        """In line, so that nobody is overtaken by who comes later for the same."""
        waiter = Waiter(need, tried, asyncio.get_running_loop().create_future())
        self._line[waiter] = None
        self._succession.lines[self] = None
        self._serve()
        lease = None
        try:
            async with asyncio.timeout(self.until(need) - time.monotonic()):
                lease = await given(waiter.given)
        except TimeoutError:
            pass
        finally:
            del self._line[waiter]
            if not self._line:
                del self._succession.lines[self]
            if lease is None:
                self._serve()
        if lease is None:
            raise self.full(waiter.seconds)
        return lease

    def _serve(self) -> None:
        """Keys for those in line, in their order. Who waits for a minute to pass holds up only his own kind;
        who waits for a call to end, everybody."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        waits: dict[tuple[bool, bool], float] = {}
        for waiter in self._line:
            if waiter.given.done() or waiter.need.line in waits:
                continue
            seat, wait = self._free(now, waiter.need, waiter.tried)
            if seat is not None:
                waiter.given.set_result(self._take(now, seat, waiter.need))
            elif wait is None:
                break
            else:
                waiter.seconds = wait
                if now + wait > self.until(waiter.need):
                    waiter.given.set_result(None)
                else:
                    waits[waiter.need.line] = wait
        if waits:
            self._timer = asyncio.get_running_loop().call_later(min(waits.values()), self._serve)

    # ------------------------------------------------------------ what became of a call

    def succeeded(self, lease: Lease) -> None:
        if lease.pending:
            return
        self.breaker.succeeded()
        if lease.seat.shut and lease.taken >= lease.seat.since:
            self._wake(lease.seat)

    def failed(self, lease: Lease, failure: UpstreamError) -> None:
        """Lets the key rest, or counts against the upstream, whichever the failure is about."""
        if isinstance(failure, UpstreamRejected):
            self.breaker.succeeded()
            return
        lease.seat.failures += 1
        if isinstance(failure, UpstreamRateLimited):
            self._limit(lease.seat, LIMITED_SECONDS if failure.retry_after is None else failure.retry_after)
        elif isinstance(failure, UpstreamAuth | UpstreamQuota):
            self._shut(lease.seat, failure)
        elif failure.elsewhere:
            self.breaker.failed()

    # ------------------------------------------------------------ rests

    def _limit(self, seat: Seat, seconds: float) -> None:
        now = time.monotonic()
        if not seat.shut and now + seconds > seat.rests_until:
            self._rest(seat, "rate limited", now, seconds)

    def _shut(self, seat: Seat, failure: UpstreamError) -> None:
        """An alarm the first time; it is the same one as long as the key does not work."""
        cause: Cause = "refused" if isinstance(failure, UpstreamAuth) else "account empty"
        if seat.cause == cause:
            return
        logger.error("%s: key %s rests: %s", self.name, seat.key.alias, cause)
        self._rest(seat, cause, time.monotonic(), REST_SECONDS)
        self._watch(seat)

    def _rest(self, seat: Seat, cause: Cause, now: float, seconds: float) -> None:
        seat.cause, seat.since, seat.rests_until = cause, now, now + seconds
        self._tell(seat)
        self._serve()

    def _wake(self, seat: Seat) -> None:
        logger.warning("%s: key %s works again", self.name, seat.key.alias)
        seat.cause, seat.rests_until = "", 0.0
        if seat.probing is not None:
            seat.probing.cancel()
        seat.probing = None
        self._tell(seat)
        self._serve()

    def _tell(self, seat: Seat) -> None:
        if self._remember is not None:
            until = time.time() + max(0.0, seat.rests_until - time.monotonic())
            self._remember(Rest(self.name, fingerprint(self.name, seat.key), seat.key.alias, seat.cause, until))

    def recall(self, rests: Iterable[Rest]) -> None:
        """What an earlier run knew; never for longer than REST_SECONDS, in case that the wall clock was set back."""
        now, clock = time.monotonic(), time.time()
        known = {rest.fingerprint: rest for rest in rests if rest.upstream == self.name}
        for seat in self.seats:
            rest = known.get(fingerprint(self.name, seat.key))
            if rest is not None and rest.cause and (rest.until > clock or rest.cause in SHUT):
                seat.cause, seat.since = rest.cause, now
                seat.rests_until = now + min(max(rest.until - clock, 0.0), REST_SECONDS)
                logger.warning("%s: key %s rests since before the start: %s", self.name, seat.key.alias, seat.cause)

    # ------------------------------------------------------------ probes

    def start(self) -> None:
        """Probes the keys that rest since before the start. Needs a running loop."""
        for seat in self.seats:
            if seat.shut:
                self._watch(seat)

    async def stop(self) -> None:
        """Ends all probes, unless another pool goes on with them."""
        self._probe = None
        tasks = [seat.probing for seat in self.seats if seat.probing is not None and self._succession.now is self]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _watch(self, seat: Seat) -> None:
        pool = self._succession.now
        if pool._probe is not None and seat.probing is None and seat in pool.seats:
            seat.probing = asyncio.create_task(pool._probed(seat, pool._probe))

    async def _probed(self, seat: Seat, probe: Probe) -> None:
        """Asks with growing gaps until the key works. It rests until then, and a little longer for the answer."""
        gap = PROBE_FIRST_SECONDS if seat.cause == "account empty" else REST_SECONDS
        works: bool | None = False
        while works is False:
            seat.rests_until = time.monotonic() + gap + PROBE_SECONDS
            self._tell(seat)
            await asyncio.sleep(gap)
            works = await self._works(seat, probe)
            gap = min(2 * gap, REST_SECONDS)
        seat.probing = None
        if works:
            self._wake(seat)
        else:
            seat.rests_until = 0.0  # a call is let through, to see

    async def _works(self, seat: Seat, probe: Probe) -> bool | None:
        """What a probe says of the key; None where it cannot, because it is itself refused as wrong."""
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await probe(seat.key)
            return True
        except (UpstreamAuth, UpstreamQuota) as failure:
            self._shut(seat, failure)
        except UpstreamRejected:
            return None
        except (ToriiError, TimeoutError):
            logger.info("%s: key %s was probed without an answer", self.name, seat.key.alias)
        except Exception:
            logger.exception("%s: a probe failed", self.name)
        return False

    # ------------------------------------------------------------ what people see

    def state(self) -> list[Json]:
        """Each key's state as plain values, with the upstream's: whether it keeps failing, how many stand in line."""
        now, clock = time.monotonic(), time.time()
        upstream = {"upstream": self.name, "broken": self.breaker.open, "waiting": self.waiting}
        return [{**upstream, **seat.state(now, clock)} for seat in self.seats]


async def given(waiter: asyncio.Future[L | None]) -> L | None:
    """What he is given who waits; given back where he is gone by then."""
    try:
        return await waiter
    except asyncio.CancelledError:
        if waiter.done() and not waiter.cancelled() and (lease := waiter.result()) is not None:
            lease.release()
        raise
