"""Limits while the store is away: this process's share of what the store said was left."""

from __future__ import annotations

from itertools import count

from app.gateway.build import Share
from app.gateway.own_limits import OwnLimits
from app.storage.holds import MINUTE, Balance, Charge, Decision

from ..storage.charging import DAY, START, Clock, charge

ONE = charge(limit=10, window=MINUTE)._replace(name="requests_per_minute")


def says(spent: int, held: int = 0) -> Decision:
    return Decision(None, False, (Balance(spent, held, None),))


def passing(own: OwnLimits, one: Charge = ONE) -> int:
    """How many calls pass now."""
    return next(number for number in count() if own.take((one,))[1].refused is not None)


def test_processes_share_what_the_store_said_was_left_of_a_minute() -> None:
    clock = Clock()
    all_of_them = [OwnLimits(Share(worker, 4).part, clock) for worker in range(4)]
    for own in all_of_them:
        own.see((ONE,), says(spent=3))
    assert sum(map(passing, all_of_them)) == 7
    clock.now += 61
    assert sum(map(passing, all_of_them)) == 10


def test_what_was_used_leaves_the_minute_second_by_second() -> None:
    clock = Clock()
    own = OwnLimits(clock=clock)
    own.see((ONE,), says(spent=4))
    clock.now += 20
    own.see((ONE,), says(spent=9))
    own.see((ONE,), says(spent=8))  # a call was settled below its hold
    _, decision = own.take((ONE._replace(amount=3),))
    assert decision == Decision(0, False, (Balance(8, 0, START + 61),))
    clock.now = START + 60
    assert passing(own) == 2
    clock.now = START + 61
    assert passing(own) == 3
    own.see((ONE,), says(spent=0))
    clock.now += 61
    assert passing(own) == 10


def test_a_day_goes_on_and_what_is_open_begins_anew() -> None:
    own = OwnLimits(clock=Clock())
    day = ONE._replace(window=DAY, name="requests_per_day")
    calls = charge("calls", limit=10)._replace(name="concurrent_calls")
    budget = charge(limit=10)._replace(name="requests/total")
    for each in (day, calls, budget):
        own.see((each,), says(spent=4, held=2))
    assert [passing(own, each) for each in (day, calls, budget)] == [4, 10, 10]
    own.end((calls,))
    own.end((day,))
    assert (passing(own, calls), passing(own, day)) == (1, 0)


def test_more_than_the_limit_was_used() -> None:
    own = OwnLimits(clock=Clock())
    own.see((ONE,), says(spent=12))
    assert passing(own) == 0
