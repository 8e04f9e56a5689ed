"""Holds through the ledger's file: many at once, several processes, and stores in trouble."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.storage.errors import StoreError
from app.storage.ledger_file import LedgerFile
from app.storage.location import Location
from app.storage.opening import connect
from app.storage.spill import Spill, Spilled
from app.storage.verify import verify

from ..conftest import until
from ..ledger import read
from .charging import admitted, charge, held, of_call, opened, row, rushing, settle

ROOT = Path(__file__).parents[2]
COUNTER = "SELECT spent, held FROM counters WHERE unit = 'requests' AND until > 0"


@pytest.fixture
async def file(location: Location) -> AsyncIterator[LedgerFile]:
    with opened(location) as file:
        yield file


async def settled(location: Location, spent: int) -> None:
    await until(lambda: read(location, COUNTER) == [(spent, 0)])
    assert verify(location) == []


# ---------------------------------------------------------------- many at once


async def test_of_500_at_once_exactly_the_last_100_are_admitted(file: LedgerFile, location: Location) -> None:
    passed = await admitted(file, [of_call() for _ in range(500)])
    assert len(passed) == 100
    assert (await file.hold(of_call())).waits
    settle(file, *passed)
    await settled(location, 100)
    refused = await file.hold(of_call())
    assert (refused.refused, refused.waits, refused.balances[0].spent) == (0, False, 100)


async def test_what_many_calls_have_settled_is_free_for_the_next_ones(file: LedgerFile, location: Location) -> None:
    """While many calls ask, settlements wait for a group; but no call is refused for what one gives back here."""
    for number in range(20):
        calls = [held(charge("calls", limit=10), charge(limit=1000)) for _ in range(10)]
        passed = await admitted(file, calls)
        assert len(passed) == 10, number
        settle(file, *passed)
    await settled(location, 200)


async def test_a_second_call_of_the_same_id_is_not_settled_with_the_first(file: LedgerFile, location: Location) -> None:
    first = await admitted(file, [of_call() for _ in range(8)])
    settle(file, *first)
    between = await admitted(file, [*(of_call() for _ in range(8)), held(charge("calls"), request_id="twice")])
    settle(file, *between)
    last = await admitted(file, [*(of_call() for _ in range(8)), held(charge("calls"), request_id="twice")])
    settle(file, *last[:-1])
    calls = "SELECT held FROM counters WHERE unit = 'calls'"
    await until(lambda: read(location, "SELECT request_id FROM holds") == [("twice",)])
    assert read(location, calls) == [(1,)]
    file.release("twice")
    await until(lambda: read(location, calls) == [(0,)])


def test_of_500_at_once_in_4_processes_exactly_100_are_admitted(location: Location) -> None:
    with rushing(location) as rushes:
        for _, pipe in rushes:
            pipe.send("go")
        passed = [pipe.recv() for _, pipe in rushes]
        assert sum(map(len, passed)) == 100
        assert read(location, COUNTER) == [(0, 100)]
        for process, pipe in rushes:
            pipe.send("settle")
            process.join(20)
            assert process.exitcode == 0
    assert read(location, COUNTER) == [(100, 0)]
    assert read(location, "SELECT count(*), count(DISTINCT request_id) FROM calls") == [(100, 100)]
    assert read(location, "SELECT * FROM processes") == []
    assert verify(location) == []


async def test_the_holds_of_a_killed_process_are_charged(location: Location) -> None:
    with rushing(location) as rushes:
        for _, pipe in rushes:
            pipe.send("go")
        passed = [pipe.recv() for _, pipe in rushes]
        lost = max(passed, key=len)  # one may have all of them
        for (process, pipe), names in zip(rushes, passed, strict=True):
            if names is lost:
                os.kill(process.pid, signal.SIGKILL)
            else:
                pipe.send("settle")
                process.join(20)
        with opened(location) as file:
            await settled(location, 100)
            assert (await file.hold(of_call())).refused == 0
    rows = read(location, "SELECT request_id FROM calls WHERE error = 'process_lost'")
    assert sorted(request_id for (request_id,) in rows) == sorted(lost)
    assert read(location, "SELECT * FROM processes") == []


async def test_a_live_process_is_never_found_dead(location: Location) -> None:
    """Its lease is renewed for as long as its calls live."""
    with opened(location, lease_seconds=0.3, sweep_seconds=0.05) as file, opened(location, sweep_seconds=0.05):
        await file.hold(of_call("a"))
        leases: set[Any] = set()
        while len(leases) < 6:
            leases |= {lease for (lease,) in read(location, "SELECT until FROM processes")}
            await asyncio.sleep(0.02)
        assert read(location, "SELECT request_id, lost FROM holds") == [("a", None)]
        settle(file, "a")
        await settled(location, 1)


async def test_a_process_ends_its_lease_when_it_closes(location: Location) -> None:
    with opened(location) as file:
        await file.hold(of_call("a"))
        assert read(location, "SELECT id FROM processes") == [(file.process,)]
        settle(file, "a")
    assert read(location, "SELECT * FROM processes") == []
    assert verify(location) == []
    with pytest.raises(StoreError, match="it is closed"):
        await file.hold(of_call())


# ---------------------------------------------------------------- callers who leave


async def test_a_hold_whose_caller_has_left_is_not_left_behind(file: LedgerFile, location: Location) -> None:
    for _ in range(20):
        asked = [file.hold(of_call()) for _ in range(10)]
        await asyncio.sleep(0)
        for each in asked[::2]:
            each.cancel()
        for decision in await asyncio.gather(*asked[1::2]):
            assert decision.refused is None
        for each in asked[1::2]:
            each.cancel()
    await until(lambda: read(location, COUNTER) == [(0, 100)])
    assert verify(location) == []


async def test_a_hold_that_is_in_the_file_when_its_caller_leaves_is_released(
    file: LedgerFile, location: Location
) -> None:
    asked = file.hold(of_call())
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # the thread is woken, and writes while the event loop does not run
    while read(location, "SELECT count(*) FROM holds") != [(1,)]:
        pass
    asked.cancel()
    await settled(location, 0)


async def test_who_waits_is_told_of_each_settlement(file: LedgerFile) -> None:
    await file.hold(of_call("a", limit=1))
    told = asyncio.Event()
    file.settled.append(told.set)
    assert (await file.hold(of_call("b", limit=1))).waits
    file.release("a")
    await asyncio.wait_for(told.wait(), 2)
    assert (await file.hold(of_call("b", limit=1))).refused is None


async def test_an_extension_and_a_release(file: LedgerFile, location: Location) -> None:
    await file.hold(of_call("a"))
    assert (await file.extend(held(charge("usd", 5, 4), request_id="a"))).refused == 0
    assert (await file.extend(held(charge("usd", 4, 4), request_id="a"))).refused is None
    file.release("a")
    await settled(location, 0)


async def test_an_extension_of_a_call_that_has_ended_holds_nothing(file: LedgerFile, location: Location) -> None:
    """For example of a member of a batch that leaves while the batch asks for more."""
    await file.hold(of_call("a"))
    asked = file.extend(of_call("a"))
    file.release("a")
    assert (await asked).refused == 0
    await settled(location, 0)
    assert (await file.extend(of_call("a"))).refused == 0
    assert verify(location) == []


# ---------------------------------------------------------------- a store in trouble


@contextmanager
def locking(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other
        if other.in_transaction:
            other.execute("ROLLBACK")


async def test_while_the_file_is_locked_holds_fail_within_half_a_second_and_leave_nothing(path: Path) -> None:
    with opened(path, busy_seconds=5.0) as file:
        await file.hold(of_call("before"))
        with locking(path):
            began = time.monotonic()
            failed = [file.hold(of_call()) for _ in range(10)]
            settle(file, "before")
            outcomes = await asyncio.gather(*failed, return_exceptions=True)
            assert time.monotonic() - began < 1
            assert {type(outcome) for outcome in outcomes} == {StoreError}
            await asyncio.sleep(0.1)
        assert (await file.hold(of_call("after"))).refused is None
        settle(file, "after")
        await settled(path, 2)


FULL = """
import asyncio, resource, sys
from pathlib import Path
from app.storage.ledger_file import LedgerFile
from app.storage.spill import Spill, Spilled
from app.storage.errors import StoreError
from tests.storage.charging import of_call, settle

async def main():
    path = Path(sys.argv[1])
    file = LedgerFile(path, flush_seconds=0.01)
    assert (await file.hold(of_call("before"))).refused is None
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name("torii.db-wal").stat().st_size, hard))
    try:
        await file.hold(of_call("full"))
    except StoreError as error:
        print(error, flush=True)
    settle(file, "before")
    while file.health is None or file.health.waiting == 0:
        await asyncio.sleep(0.01)
    print(file.health.waiting, file.health.lost)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert (await file.hold(of_call("after"))).refused is None
    settle(file, "after")
    file.close()

asyncio.run(main())
"""


def test_on_a_full_disk_holds_fail_and_settlements_wait(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout in ("the disk is full\n1 0\n", "the disk cannot be written\n1 0\n")
    assert "Traceback" not in done.stderr
    assert read(path, COUNTER) == [(2, 0)]
    assert verify(path) == []


async def test_a_removed_file_is_made_again_and_open_calls_hold_there(path: Path) -> None:
    with opened(path) as file:
        passed = await admitted(file, [of_call() for _ in range(60)])
        for each in path.parent.iterdir():
            each.unlink()
        assert len(await admitted(file, [of_call() for _ in range(60)])) == 40
        settle(file, *passed)
        await until(lambda: read(path, COUNTER) == [(60, 40)])
        assert verify(path) == []


async def test_settlements_that_the_queue_has_no_room_for_are_booked_once(path: Path) -> None:
    with opened(path, room=5, busy_seconds=0.05) as file:
        passed = await admitted(file, [of_call(f"call-of-{number}") for number in range(20)])
        with locking(path):
            settle(file, *passed)
            await until(lambda: file.health is not None)
            trouble = file.health
            assert trouble is not None
            assert (trouble.waiting, trouble.lost) == (20, 0)
            (spill,) = path.parent.glob("torii.db.spill-*")
            copy = spill.read_bytes()
        await settled(path, 20)
        # A process that is killed before it has deleted the file leaves it to the next one.
        path.with_name("torii.db.spill-dead-1").write_bytes(copy + b'["settle",["cut')
        await until(lambda: len(list(path.parent.glob("torii.db.spill-*"))) == 0)
        assert read(path, "SELECT count(*) FROM calls") == [(20,)]
        await settled(path, 20)


async def test_spilled_lines_that_are_in_the_ledger_are_not_read_again(path: Path) -> None:
    """The process that read them back was killed before it deleted the file."""
    LedgerFile(path).close()
    line = b'["call",' + msgspec.json.encode(row("a")) + b"]\n"
    path.with_name("torii.db.spill-dead-1").write_bytes(line * 5)
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("INSERT INTO state VALUES ('spill:torii.db.spill-dead-1', 3)")
    with opened(path):
        await until(lambda: not list(path.parent.glob("torii.db.spill-*")))
    assert read(path, "SELECT count(*) FROM calls") == [(2,)]
    assert read(path, "SELECT * FROM state") == []


def test_the_file_of_a_process_that_lives_is_not_read_back_by_another(path: Path) -> None:
    spill = Spill(path, "ours")
    assert spill.keep(("call", row("a")))
    (found,) = spill.found()
    with pytest.raises(BlockingIOError):
        Spilled(found)
    spill.release()
    with closing(Spilled(found)) as spilled:
        assert len(spilled.lines) == 1
        with pytest.raises(BlockingIOError):
            Spilled(found)
        spilled.remove()
    assert spill.found() == []


# ---------------------------------------------------------------- the other verbs


async def test_an_alert_is_given_once(file: LedgerFile, location: Location) -> None:
    with opened(location) as other:
        alert = "key:k", "usd", "", 0, 100, 80
        first = await asyncio.gather(*(each.alert(*alert) for each in (file, other) for _ in range(3)))
        assert sum(first) == 1
        assert await other.alert(*alert[:-1], 100)


async def test_refusals_are_counted_and_the_last_use_is_noted(file: LedgerFile, location: Location) -> None:
    with closing(connect(location, "rw", 5.0)) as other:
        other.execute("INSERT INTO keys VALUES ('k', 'n', NULL, 0, NULL, NULL, NULL, 0, '{}')")
    for _ in range(3):
        file.refuse(5, "k", "", "tokens/day")
        file.use_key("k", 1_000_000)
    await until(lambda: read(location, "SELECT last_used_at FROM keys") == [(960_000,)])
    file.refuse(5, "k", "", "tokens/day")
    file.use_key("k", 1_020_001)
    await until(lambda: read(location, "SELECT * FROM refusals") == [(5, "k", "", "tokens/day", 4)])
    await until(lambda: read(location, "SELECT last_used_at FROM keys") == [(1_020_000,)])


async def test_rows_are_kept_beside_a_file_that_is_locked_at_the_end(path: Path) -> None:
    """The end comes while the thread waits for the lock, which leaves little time for another try."""
    file = LedgerFile(path, busy_seconds=1.2)
    with locking(path):
        asked = file.hold(of_call("a"))
        file.record_call(row())
        await asyncio.wait([asked], timeout=0.1)
        file.close()
        asked.cancel()
        assert len(Spill(path, "nobody").found()) == 1
