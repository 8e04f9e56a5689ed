"""One timer for many waits."""

from __future__ import annotations

import asyncio
import time

import pytest

from app.alarm import Alarm


def now() -> float:
    return time.monotonic()


async def test_a_wait_ends_when_its_time_has_come() -> None:
    alarm = Alarm(now() + 0.01)
    with pytest.raises(TimeoutError):
        with alarm:
            await asyncio.Event().wait()
    alarm.off()


async def test_a_time_that_was_moved_on_holds() -> None:
    alarm = Alarm(now() + 0.5)
    with alarm:
        await asyncio.sleep(0)
    alarm.until = now() + 60
    with alarm:
        await asyncio.sleep(0.6)  # longer than the first time, which rings in it and is set anew
    alarm.off()


async def test_a_time_that_was_moved_back_holds() -> None:
    alarm = Alarm(now() + 60)
    with alarm:
        await asyncio.sleep(0)
    alarm.until = now() + 0.01
    with pytest.raises(TimeoutError):
        with alarm:
            await asyncio.Event().wait()
    alarm.off()


async def test_nothing_happens_to_who_does_not_wait() -> None:
    alarm = Alarm(now() + 0.5)
    with alarm:
        await asyncio.sleep(0)
    await asyncio.sleep(0.6)
    alarm.until = now() + 0.01
    with pytest.raises(TimeoutError):
        with alarm:
            await asyncio.Event().wait()
    alarm.off()


async def test_ring_ends_the_wait_at_once() -> None:
    alarm = Alarm(now() + 60)
    asyncio.get_running_loop().call_soon(alarm.ring)
    with pytest.raises(TimeoutError):
        with alarm:
            await asyncio.Event().wait()
    alarm.off()


async def test_a_cancellation_from_outside_stays_one() -> None:
    alarm = Alarm(now() + 60)
    waits = asyncio.Event()

    async def wait() -> None:
        with alarm:
            waits.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await waits.wait()
    alarm.ring()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    alarm.off()


async def test_errors_pass() -> None:
    alarm = Alarm(now() + 60)
    with pytest.raises(KeyError):
        with alarm:
            raise KeyError
    alarm.off()
