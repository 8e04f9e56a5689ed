"""Coarser sums than the roll-ups of a quarter of an hour, for reports over long periods; made of closed days in UTC.

    stale, the days that are due -> fold, one table and one day a transaction -> running_*, rolled_blocks

``running_keys``, ``running_models`` and ``running_users`` say for each slot of a day what the day has summed to by the
slot's end, for each group that has calls by then. So a day of any zone is the difference of a few rows. A row of
``rolled_blocks`` is the sum of 32 days.

``stale`` names the days whose rows have changed since. A day is not folded before it has ended, and reports
read the roll-ups from the first stale day on: what is folded is always right. This module uses the driver alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from .columns import DAY, DAY_MS, FEW, GROUPS, SUMS, USER, progress
from .connection import StoreConnection

BLOCK = 32  # days
LATE_MS = 900_000  # after the end of a day, in which its last calls settle
NEVER = 2**53 * 1000 // DAY_MS + 1  # a day after all others

BLOCKS = "rolled_blocks"


class Running(NamedTuple):
    """A table of running sums; ``slots`` of a day, numbered from 1."""

    name: str
    groups: tuple[str, ...]
    slots: int
    sums: tuple[str, ...]

    @property
    def length(self) -> int:
        """Of a slot, in milliseconds."""
        return DAY_MS // self.slots


# Half hours, since most zones are whole half hours from UTC. There may be many users, and their rows go with the calls.
MODELS = Running("running_models", ("team", "model", "endpoint", "upstream", "key"), 48, tuple(SUMS))
KEYS = Running("running_keys", ("key_id", "team", "caller"), 48, tuple(SUMS))
USERS = Running("running_users", ("user",), 24, FEW)
RUNNING = (MODELS, KEYS, USERS)
_ALL_DAYS = Running("rolled_days", tuple(GROUPS), 0, tuple(SUMS))  # no slots: each day once
NAMES = (*(table.name for table in RUNNING), BLOCKS)

# Our own names here and below.
_NAMES = ", ".join(f"('{name}')" for name in NAMES)
_DAYS = f"SELECT DISTINCT time / {DAY_MS} AS day FROM calls WHERE id > ? AND id <= ?"  # noqa: S608 - our own names
_NAMED = f"SELECT column1 AS name FROM (VALUES {_NAMES}) AS tables"  # noqa: S608 - our own names
MARK = (
    f"INSERT INTO stale (name, day) SELECT name, day FROM ({_DAYS}) AS days, ({_NAMED}) AS named "  # noqa: S608 - our own names
    "WHERE true ON CONFLICT DO NOTHING"
)


def mark(connection: StoreConnection, since: int, until: int) -> None:
    """The days of the rows with ids above ``since``, up to ``until``, are to be folded anew: in the transaction that
    adds the rows to the roll-ups or takes them away."""
    connection.execute(MARK, (since, until))


def first_stale(connection: StoreConnection, name: str) -> int:
    """The first day that is not in the table; NEVER if there is none."""
    (day,) = connection.execute("SELECT min(day) FROM stale WHERE name = ?", (name,)).fetchone()
    return NEVER if day is None else int(day)


def fold(connection: StoreConnection, now: float) -> bool:
    """Folds the first day that is due into one table, in one transaction; False if nothing is due. ``now`` is a Unix
    time in seconds.

    Several processes may do so: what is folded twice is the same.
    """
    closed = int((now * 1000 - LATE_MS) // DAY_MS)
    for table in RUNNING:
        if _due(connection, table.name, closed):
            with _transaction(connection):
                day = first_stale(connection, table.name)
                if day < closed:
                    _fold_day(connection, table, day)
            return True
    if not _due(connection, BLOCKS, closed - closed % BLOCK):
        return False
    with _transaction(connection):
        day = first_stale(connection, BLOCKS)
        if day < closed - closed % BLOCK:
            _fold_block(connection, day // BLOCK)
    return True


def _due(connection: StoreConnection, name: str, closed: int) -> bool:
    return first_stale(connection, name) < closed


@contextmanager
def _transaction(connection: StoreConnection) -> Iterator[None]:
    connection.begin()
    try:
        yield
        connection.commit()
    except BaseException:
        if connection.in_transaction:
            connection.rollback()
        raise


def _fold_day(connection: StoreConnection, table: Running, day: int) -> None:
    slots = ", ".join(map(str, range(1, table.slots + 1)))
    connection.execute(f"DELETE FROM {table.name} WHERE slot IN ({slots}) AND day = ?", (day,))  # noqa: S608 - our own names
    columns = ("slot", "day", *table.groups, *table.sums)
    written = ", ".join(f'"{name}"' for name in columns)
    connection.executemany(
        f"INSERT INTO {table.name} ({written}) VALUES ({', '.join('?' * len(columns))})",  # noqa: S608 - our own names
        folded(connection, table, day),
    )
    connection.execute("DELETE FROM stale WHERE name = ? AND day = ?", (table.name, day))


def folded(connection: StoreConnection, table: Running, day: int) -> Iterator[tuple[Any, ...]]:
    """The rows of a table for one day, as the roll-ups and the calls say."""
    grouped = len(table.groups)
    running: dict[tuple[str, ...], list[float]] = {}
    reached = 1
    for slot, *values in connection.execute(*_by_slot(connection, table, day)).fetchall():
        for passed in range(reached, slot):
            yield from _rows(passed, day, running)
        reached = slot
        group, sums = tuple(values[:grouped]), values[grouped:]
        before = running.get(group)
        running[group] = sums if before is None else [a + b for a, b in zip(before, sums, strict=True)]
    for passed in range(reached, table.slots + 1):
        yield from _rows(passed, day, running)


def _rows(slot: int, day: int, running: dict[tuple[str, ...], list[float]]) -> Iterator[tuple[Any, ...]]:
    return ((slot, day, *group, *sums) for group, sums in running.items() if any(sums))


def _by_slot(connection: StoreConnection, table: Running, day: int) -> tuple[str, tuple[int, ...]]:
    """The sums of each slot and group of a day, in the order of the slots, as floats, since integers might overflow."""
    if table is not USERS:
        groups = ", ".join(f'"{name}"' for name in table.groups)
        sums = ", ".join(f"sum(CAST({name} AS DOUBLE PRECISION))" for name in table.sums)
        per_slot = DAY // table.slots
        return (
            f"SELECT (quarter - ?1) / {per_slot} + 1, {groups}, {sums} FROM rollups "  # noqa: S608 - our own names
            f"WHERE quarter >= ?1 AND quarter < ?1 + {DAY} "
            f"GROUP BY {', '.join(map(str, range(1, len(table.groups) + 2)))} ORDER BY 1",
            (day * DAY,),
        )
    known = progress(connection)
    if day * DAY_MS < known.kept_from:  # reports by user begin with the first day whose rows are all kept
        return "SELECT 0 WHERE 1 = 0", ()
    sums = ", ".join(f"sum(CAST({SUMS[name]} AS DOUBLE PRECISION))" for name in table.sums)
    return (
        f"SELECT (time - ?1) / {table.length} + 1, {USER}, {sums} FROM calls "  # noqa: S608 - our own names
        f"WHERE time >= ?1 AND time < ?1 + {DAY_MS} AND +id <= ?2 GROUP BY 1, 2 ORDER BY 1",
        (day * DAY_MS, known.rolled_up),
    )


def _fold_block(connection: StoreConnection, block: int) -> None:
    since, until = block * BLOCK, block * BLOCK + BLOCK
    groups = ", ".join(f'"{name}"' for name in GROUPS)
    sums = ", ".join(f"sum(CAST({name} AS DOUBLE PRECISION))" for name in SUMS)
    connection.execute(f"DELETE FROM {BLOCKS} WHERE block = ?", (block,))  # noqa: S608 - our own names
    connection.execute(
        f"INSERT INTO {BLOCKS} (block, {groups}, {', '.join(SUMS)}) SELECT day / {BLOCK}, {groups}, {sums} "  # noqa: S608 - our own names
        f"FROM rolled_days WHERE day >= ? AND day < ? GROUP BY 1, {groups}",
        (since, until),
    )
    connection.execute("DELETE FROM stale WHERE name = ? AND day >= ? AND day < ?", (BLOCKS, since, until))


# ---------------------------------------------------------------- a check


def differences(connection: StoreConnection) -> list[str]:
    """The days and blocks whose sums are not those of the roll-ups, in words; takes some seconds for a million rows.

    The sum of all slots of a day is compared with that of the quarters, each as often as there are slots from it on.
    """
    known = progress(connection)
    first = -(-known.kept_from // DAY_MS)
    slot_of_row = f"{USERS.slots} - time % {DAY_MS} / {USERS.length}"
    users = ", ".join(f"({slot_of_row}) * ({SUMS[name]}) AS {name}" for name in FEW)
    rows = (
        f'SELECT time / {DAY_MS} AS day, {USER} AS "user", {users} FROM calls '  # noqa: S608 - our own names
        f"WHERE id <= {known.rolled_up} AND time >= {first * DAY_MS}"
    )
    days = f"SELECT day / {BLOCK} AS block, {_listed(_ALL_DAYS.groups)}, {', '.join(SUMS)} FROM rolled_days"  # noqa: S608 - our own names
    found = _differing(connection, _ALL_DAYS, _weighted(_ALL_DAYS))
    for table in (MODELS, KEYS):
        found += _differing(connection, table, _weighted(table))
    found += _differing(connection, USERS, rows, first)
    return found + _differing(connection, _ALL_DAYS._replace(name=BLOCKS), days)


def _listed(groups: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in groups)


def _weighted(table: Running) -> str:
    """The roll-ups by day, each as often as there are slots from it on; once for a table without slots."""
    times = f"({table.slots} - quarter % {DAY} / {DAY // table.slots})" if table.slots else "1"
    summed = ", ".join(f"{times} * {name} AS {name}" for name in table.sums)
    return f"SELECT quarter / {DAY} AS day, {_listed(table.groups)}, {summed} FROM rollups"  # noqa: S608 - our own names


def _differing(connection: StoreConnection, table: Running, right: str, since: int = 0) -> list[str]:
    unit, stale = ("block", f"day / {BLOCK}") if table.name == BLOCKS else ("day", "day")
    listed = f"{unit}, {_listed(table.groups)}"
    taken = ", ".join(f"-{each}" for each in table.sums)
    wrong = " OR ".join(f"sum({each}) != 0" for each in table.sums)
    query = (
        f"SELECT DISTINCT {unit} FROM (SELECT {listed} FROM ("  # noqa: S608 - our own names
        f"SELECT {listed}, {', '.join(table.sums)} FROM {table.name} WHERE {unit} >= {since} UNION ALL "
        f"SELECT {listed}, {taken} FROM ({right}) AS finer) AS sides "
        f"WHERE {unit} NOT IN (SELECT {stale} FROM stale WHERE name = '{table.name}') "
        f"GROUP BY {listed} HAVING {wrong}) AS wrong ORDER BY 1"
    )
    return [f"{table.name}: {unit} {at} differs from what it is made of" for (at,) in connection.execute(query)]
