"""One timer for the deadlines of many calls."""

from __future__ import annotations

import asyncio
import time

import pytest

from app.core.deadlines import Deadline, DeadlineClock, Timeout


def now() -> float:
    return time.monotonic()


async def test_a_wait_ends_when_its_time_has_come() -> None:
    deadline = Deadline(DeadlineClock(), now() + 0.01)
    with pytest.raises(TimeoutError):
        with deadline:
            await asyncio.Event().wait()


async def test_a_time_that_was_moved_on_holds() -> None:
    deadline = Deadline(DeadlineClock(), now() + 0.5)
    with deadline:
        await asyncio.sleep(0)
    deadline.until = now() + 60
    with deadline:
        await asyncio.sleep(0.6)  # longer than the first timeout, during which the timer fires and is set anew


async def test_a_time_that_was_moved_back_holds() -> None:
    deadline = Deadline(DeadlineClock(), now() + 60)
    with deadline:
        await asyncio.sleep(0)
    deadline.until = now() + 0.01
    with pytest.raises(TimeoutError):
        with deadline:
            await asyncio.Event().wait()


async def test_nothing_happens_to_who_does_not_wait() -> None:
    deadline = Deadline(DeadlineClock(), now() + 0.5)
    with deadline:
        await asyncio.sleep(0)
    await asyncio.sleep(0.6)
    deadline.until = now() + 0.01
    with pytest.raises(TimeoutError):
        with deadline:
            await asyncio.Event().wait()


async def test_ring_ends_the_wait_at_once() -> None:
    deadline = Deadline(DeadlineClock(), now() + 60)
    asyncio.get_running_loop().call_soon(deadline.expire)
    with pytest.raises(TimeoutError):
        with deadline:
            await asyncio.Event().wait()


async def test_a_cancellation_from_outside_stays_one() -> None:
    deadline = Deadline(DeadlineClock(), now() + 60)
    waits = asyncio.Event()

    async def wait() -> None:
        with deadline:
            waits.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await waits.wait()
    deadline.expire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_errors_pass() -> None:
    deadline = Deadline(DeadlineClock(), now() + 60)
    with pytest.raises(KeyError):
        with deadline:
            raise KeyError


async def test_one_clock_ends_each_wait_at_its_deadline() -> None:
    clock, rung = DeadlineClock(), []

    async def wait(seconds: float) -> None:
        with pytest.raises(TimeoutError):
            with clock.within(seconds):
                await asyncio.Event().wait()
        rung.append(seconds)

    begun = now()
    await asyncio.gather(*(wait(seconds) for seconds in (0.06, 0.1, 0.02)))
    assert rung == [0.02, 0.06, 0.1]
    assert now() - begun >= 0.1


async def test_a_wait_that_is_over_keeps_the_timer_for_the_next() -> None:
    clock = DeadlineClock()
    with clock.within(0.02):
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        with clock.within(0.04):
            await asyncio.Event().wait()
    with clock.within(60):
        await asyncio.sleep(0.05)


async def test_a_clock_ends_all_waits_at_once() -> None:
    clock = DeadlineClock()

    async def wait() -> None:
        with clock.within(60):
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(wait()) for _ in range(3)]
    await asyncio.sleep(0)
    clock.expire()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [TimeoutError] * 3


async def test_a_deadline_is_over_with_what_is_within_it() -> None:
    with Timeout(0.02):
        await asyncio.sleep(0)
    await asyncio.sleep(0.04)
    with pytest.raises(TimeoutError):
        with Timeout(0.02):
            await asyncio.Event().wait()
