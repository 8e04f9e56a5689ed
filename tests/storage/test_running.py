"""Running sums and blocks: always the sums of the roll-ups, or named as stale."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.storage.columns import DAY_MS
from app.storage.connection import StoreConnection
from app.storage.location import Location
from app.storage.queries import Span, sums_of
from app.storage.retention import keep_up, tidy
from app.storage.rollups import delete, roll, step, unroll
from app.storage.rows import INSERT_CALL, CallRow
from app.storage.running import BLOCK, BLOCKS, LATE_MS, NAMES, RUNNING, fold
from app.storage.verify import verify

from ..ledger import call, read
from .test_rollups import L, new, opened, rolled_up

DAY = 20_600  # in UTC, from 1970 on; it is not the first of a block
NOW = (DAY + 3 * BLOCK) * 86_400.0


def at(day: int, hours: float, **more: object) -> CallRow:
    row: CallRow = call(time=int(day * DAY_MS + hours * 3_600_000), key_id="k", team="t", user="u", **more)
    return row


def folded(path: L, now: float = NOW) -> L:
    keep_up(path, now=now)
    return path


def stale(path: Location) -> set[tuple[str, int]]:
    return set(read(path, "SELECT name, day FROM stale"))


def test_a_slot_has_what_the_day_has_summed_to(location: Location) -> None:
    rows = [at(DAY, 0.25, total_tokens=1), at(DAY, 1, total_tokens=2), at(DAY, 22.99, total_tokens=4)]
    path = folded(new(location, *rows))
    counts = {24: (1, 21, 2), 48: (2, 43, 3)}  # of slots with each sum
    for table in RUNNING:
        found = read(path, f"SELECT slot, day, total_tokens, requests FROM {table.name} ORDER BY slot")
        first, second, third = counts[table.slots]
        sums = [(1, 1)] * first + [(3, 2)] * second + [(7, 3)] * third
        assert found == [(slot, DAY, *each) for slot, each in enumerate(sums, 1)]
    assert read(path, f"SELECT block, total_tokens FROM {BLOCKS}") == [(DAY // BLOCK, 7)]
    assert stale(path) == set()


def test_a_day_is_folded_when_its_calls_have_settled(location: Location) -> None:
    path = rolled_up(new(location, at(DAY, 5)))
    assert stale(path) == {(name, DAY) for name in NAMES}
    with opened(path) as connection:
        assert not fold(connection, (DAY + 1) * 86_400 + LATE_MS / 1000 - 1)
        assert fold(connection, (DAY + 1) * 86_400 + LATE_MS / 1000)
    assert len(stale(path)) == len(NAMES) - 1
    folded(path, (DAY + 2) * 86_400.0)
    assert stale(path) == {(BLOCKS, DAY)}  # until the block has ended
    assert verify(path) == []


def _late(connection: StoreConnection) -> None:
    connection.execute(INSERT_CALL, at(DAY + 1, 3, total_tokens=1000))
    while step(connection):
        pass


def _corrected(connection: StoreConnection) -> None:
    unroll(connection, 2)
    connection.execute("UPDATE calls SET total_tokens = 77, cost = 5 WHERE id = 2")
    roll(connection, 2)


def _replaced(connection: StoreConnection) -> None:
    delete(connection, [2])


@pytest.mark.parametrize("change", [_late, _corrected, _replaced])
def test_a_day_that_changes_is_stale_until_it_is_folded_again(
    change: Callable[[StoreConnection], None], location: Location
) -> None:
    path = folded(new(location, *(at(DAY + number, number) for number in range(3))))
    with opened(path) as connection:
        change(connection)
    assert stale(path) == {(name, DAY + 1) for name in NAMES}
    [tokens] = read(path, "SELECT sum(total_tokens) FROM calls")
    assert [row[3] for row in sums_of(path, Span(), [])] == [*tokens]
    assert verify(path) == []
    folded(path)
    assert stale(path) == set()
    assert [row[3] for row in sums_of(path, Span(), [])] == [*tokens]
    assert verify(path) == []


@pytest.mark.parametrize("table", [*NAMES, "rolled_days"])
def test_verify_finds_a_sum_that_differs(table: str, location: Location) -> None:
    path = folded(new(location, at(DAY, 5), at(DAY + 1, 5)))
    assert verify(path) == []
    unit = "block" if table == BLOCKS else "day"
    with opened(path) as connection:
        which = f"{unit} = (SELECT min({unit}) FROM {table})" + (" AND slot = 13" if "running" in table else "")
        connection.execute(f"UPDATE {table} SET cost = cost + 1 WHERE {which}")
    first = DAY // BLOCK if table == BLOCKS else DAY
    assert f"{table}: {unit} {first} differs from what it is made of" in verify(path)


def test_sums_by_user_go_with_the_rows(location: Location) -> None:
    path = folded(new(location, *(at(DAY + number, 12) for number in range(4))))
    now = (DAY + 4) * 86_400.0
    tidy(path, 2, now=now)
    assert read(path, "SELECT DISTINCT day FROM running_users ORDER BY day") == [(DAY + 2,), (DAY + 3,)]
    assert read(path, "SELECT DISTINCT day FROM running_keys ORDER BY day") == [(DAY + n,) for n in range(4)]
    assert verify(path) == []
    with opened(path) as connection:  # a row of long ago
        _late(connection)
    folded(path)
    assert stale(path) == set()
    assert read(path, "SELECT DISTINCT day FROM running_users ORDER BY day") == [(DAY + 2,), (DAY + 3,)]
    assert verify(path) == []
