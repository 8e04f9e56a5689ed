"""How the one lock for all that write bears many replicas: a simulation, the same for the same seed.

    python -m bench.replicas [--seed 1] [--keys 1000] [--calls 50] [--seconds 8]

A replica writes in turns: all that came since its last one, in one transaction, under a lock that all replicas wait for
in order. A call of a key that is hot at its replica draws from a slice (``storage/slices.py``: from HOT calls a second
on, at most a PART of what is left); all others wait for the turn that decides them. Calls come at random (Poisson), at
any replica, of keys of which the n-th calls in proportion to 1/n. Each call settles in a later turn.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import statistics
from bisect import bisect
from dataclasses import dataclass, field
from random import Random

from app.storage.slices import HOT, PART

CALL_SECONDS = 0.3  # the mean of a call at its provider
GATHER_SECONDS = 0.25  # for which rows gather, unless a decision takes them along
ITEM_MS = 0.05  # of a turn, for each decision and each row
REPLICAS = (3, 10, 30, 100)
TURN_MS = (1.0, 2.0, 5.0)


@dataclass
class Flow:
    """The calls of a key at a replica: of this second, of the one before, and what is left of a slice."""

    second: int = -1
    now: int = 0
    before: int = 0
    left: int = 0
    asked: bool = False

    def see(self, second: int) -> None:
        if second != self.second:
            self.before = self.now if second == self.second + 1 else 0
            self.second, self.now, self.left = second, 0, 0
        self.now += 1


@dataclass
class Replica:
    flows: dict[int, Flow] = field(default_factory=dict)
    waiting: list[float] = field(default_factory=list)  # when the calls came that are to be decided
    slices: list[Flow] = field(default_factory=list)
    rows: int = 0
    queued: bool = False  # for the lock, or holding it


@dataclass
class Outcome:
    calls: int = 0
    drawn: int = 0
    turns: int = 0
    busy: float = 0.0
    waits: list[float] = field(default_factory=list)


@dataclass
class Simulation:
    """``rate``: calls a second of each replica. ``room``: what is left of a key's budget."""

    replicas: int
    keys: int
    rate: float
    turn_ms: float
    seed: int
    room: int = 10**9

    def __post_init__(self) -> None:
        self.random = Random(self.seed)  # noqa: S311 - a simulation
        self.hosts = [Replica() for _ in range(self.replicas)]
        self.shares = list(itertools.accumulate(1 / number for number in range(1, self.keys + 1)))
        self.events: list[tuple[float, int, str, int]] = []
        self.numbers = itertools.count()
        self.free_at = 0.0
        self.under_way: dict[int, tuple[list[float], list[Flow]]] = {}
        self.outcome = Outcome()

    def at(self, when: float, what: str, place: int) -> None:
        heapq.heappush(self.events, (when, next(self.numbers), what, place))

    def run(self, seconds: float) -> Outcome:
        self.at(0.0, "call", 0)
        while self.events:
            now, _, what, place = heapq.heappop(self.events)
            if now > seconds:
                break
            getattr(self, f"_{what}")(now, place)
        return self.outcome

    def _call(self, now: float, _: int) -> None:
        self.at(now + self.random.expovariate(self.rate * self.replicas), "call", 0)
        place = self.random.randrange(self.replicas)
        host = self.hosts[place]
        flow = host.flows.setdefault(bisect(self.shares, self.random.random() * self.shares[-1]), Flow())
        flow.see(int(now))
        self.outcome.calls += 1
        if flow.left:
            flow.left -= 1
            self.outcome.drawn += 1
            self.outcome.waits.append(0.0)
            self.at(now + self.random.expovariate(1 / CALL_SECONDS), "end", place)
            return
        host.waiting.append(now)
        if not flow.asked and max(flow.now, flow.before) >= HOT:
            flow.asked = True
            host.slices.append(flow)
        self._queue(now, place)

    def _end(self, now: float, place: int) -> None:
        host = self.hosts[place]
        host.rows += 1
        if host.rows == 1 and not host.queued:
            self.at(now + GATHER_SECONDS, "gathered", place)

    def _gathered(self, now: float, place: int) -> None:
        if self.hosts[place].rows:
            self._queue(now, place)

    def _queue(self, now: float, place: int) -> None:
        """The lock is given in the order in which it is asked for."""
        host = self.hosts[place]
        if not host.queued:
            host.queued = True
            self.free_at = max(self.free_at, now)
            self.at(self.free_at, "lock", place)
            self.free_at += self.turn_ms / 1000  # what comes for it meanwhile is added when it begins

    def _lock(self, now: float, place: int) -> None:
        host = self.hosts[place]
        if now < (begin := self._begin(now)):
            self.at(begin, "lock", place)
            return
        items = len(host.waiting) + len(host.slices) + host.rows
        took = (self.turn_ms + items * ITEM_MS) / 1000
        self.under_way[place] = host.waiting, host.slices
        host.waiting, host.slices, host.rows = [], [], 0
        self.held_until = now + took
        self.free_at += items * ITEM_MS / 1000
        self.outcome.turns += 1
        self.outcome.busy += took
        self.at(now + took, "done", place)

    held_until = 0.0

    def _begin(self, now: float) -> float:
        return max(now, self.held_until)

    def _done(self, now: float, place: int) -> None:
        host = self.hosts[place]
        calls, slices = self.under_way.pop(place)
        for came in calls:
            self.outcome.waits.append(now - came)
            self.at(now + self.random.expovariate(1 / CALL_SECONDS), "end", place)
        for flow in slices:
            flow.asked = False
            taken = min(max(flow.now, flow.before), self.room // PART)
            flow.left = taken if taken >= HOT and flow.second == int(now) else 0
        host.queued = False
        if host.waiting or host.slices:
            self._queue(now, place)
        elif host.rows:
            self.at(now + GATHER_SECONDS, "gathered", place)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--calls", type=float, default=50, help="a second, at each replica")
    parser.add_argument("--seconds", type=float, default=8)
    given = parser.parse_args()
    print(f"seed {given.seed}, {given.keys} keys, {given.calls:g} calls a second at each replica")
    print("| replicas | turn, ms | calls/s | from slices | turns/s | lock busy | wait p50, ms | p99 |")
    print("|---|---|---|---|---|---|---|---|")
    for turn_ms, replicas in itertools.product(TURN_MS, REPLICAS):
        found = Simulation(replicas, given.keys, given.calls, turn_ms, given.seed).run(given.seconds)
        print(line(replicas, turn_ms, given.seconds, found))
    return 0


def line(replicas: int, turn_ms: float, seconds: float, found: Outcome) -> str:
    cuts = statistics.quantiles(found.waits, n=100)
    figures = [
        f"{replicas}",
        f"{turn_ms:g}",
        f"{found.calls / seconds:,.0f}",
        f"{found.drawn / found.calls:.0%}",
        f"{found.turns / seconds:,.0f}",
        f"{found.busy / seconds:.0%}",
        f"{cuts[49] * 1000:.0f}",
        f"{cuts[98] * 1000:.0f}",
    ]
    return f"| {' | '.join(figures)} |"


if __name__ == "__main__":
    raise SystemExit(main())
