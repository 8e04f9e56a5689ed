"""A comparison of the counters with the rows of the ledger."""

from __future__ import annotations

from collections import defaultdict

from .connection import StoreConnection
from .counters import balances
from .errors import StoreError
from .holds import MINUTE, OPEN
from .location import Location
from .open_holds import opened
from .opening import complete, reading
from .running import differences
from .sums import spent

__all__ = ["balances", "verify"]

COUNTERS = "SELECT scope, unit, filter, since, until, spent, held FROM counters"
HOLDS = "SELECT request_id, process, lost, body FROM holds"
SETTLED = """SELECT request_id FROM holds JOIN calls USING (request_id)
    WHERE lost IS NULL GROUP BY request_id"""


def verify(location: Location) -> list[str]:
    """The differences, in words; empty if there are none. Changes nothing.

    What a counter says was spent is compared with the sum of its rows, what it says is held with the holds of open
    calls, and coarser sums with finer ones. Raises StoreError.
    """
    with reading(location) as connection:
        if not complete(connection):
            raise StoreError("an older Torii wrote it; a start of the gateway migrates it")
        connection.snapshot()  # one state of the file
        held = _held(connection)
        found: list[str] = []
        for *place, used, holds in connection.execute(COUNTERS).fetchall():
            scope, unit, chosen, since, until = key = tuple(place)
            name = f"{scope}: {unit} from {since} until {until}{f' of {chosen}' if chosen else ''}"
            if holds != (open_calls := held.pop(key, 0)):
                found.append(f"{name}: the counter holds {holds}, open calls hold {open_calls}")
            if (since, until) == MINUTE or unit in OPEN:
                continue
            if used != (rows := getattr(spent(connection, scope, chosen, since, until), unit)):
                found.append(f"{name}: the counter says {used} spent, the rows say {rows}")
        found += [
            f"{scope}: {unit}: open calls hold {amount}, no counter does" for (scope, unit, *_), amount in held.items()
        ]
        found += differences(connection)
        found += [f"call {request_id}: it is settled, and open" for (request_id,) in connection.execute(SETTLED)]
    return found


def _held(connection: StoreConnection) -> dict[tuple[object, ...], int]:
    sums: dict[tuple[object, ...], int] = defaultdict(int)
    for _, *row in connection.execute(HOLDS).fetchall():
        hold = opened(*row)
        for charge in hold.charges:
            if charge.unit == "tokens" or not charge.sliding:
                sums[charge[:5]] += charge.amount
    return dict(sums)
