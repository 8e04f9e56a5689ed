"""The keys and teams that ever had a call, for lists of what is left: of all others nothing is used."""

from __future__ import annotations

from .columns import progress
from .connection import StoreConnection
from .location import Location
from .opening import reading
from .running import BLOCK, BLOCKS, first_stale


def used_scopes(location: Location) -> frozenset[str]:
    """The scopes of all keys and teams that have a row, a roll-up or a counter, as ``key:ID`` and ``team:ID``. Takes
    some milliseconds for a year of a busy team. Raises StoreError."""
    with reading(location) as connection:
        connection.snapshot()
        found = _named(connection, "SELECT DISTINCT key_id, team FROM rolled_blocks", ())
        since = first_stale(connection, BLOCKS) // BLOCK * BLOCK
        found |= _named(connection, "SELECT DISTINCT key_id, team FROM rolled_days WHERE day >= ?", (since,))
        found |= _named(connection, "SELECT DISTINCT key_id, team FROM calls WHERE id > ?", (progress(connection)[0],))
        found.update(scope for (scope,) in connection.execute("SELECT DISTINCT scope FROM counters"))
    return frozenset(found)


def _named(connection: StoreConnection, query: str, values: tuple[int, ...]) -> set[str]:
    found: set[str] = set()
    for key, team in connection.execute(query, values):
        found |= {f"key:{key}", f"team:{team}"}
    return found
