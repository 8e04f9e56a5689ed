"""The ledger's file copied to a PostgreSQL database, for a gateway that grows to several hosts."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from ..errors import StoreError
from ..location import Postgres
from ..opening import current, reading
from ..schema import metadata
from ..verify import verify
from .connection import PostgresConnection
from .failures import failure

SECONDS = 600.0  # for one round trip
LOOKED_AT = ("state", "processes", "counters", "seconds", "stale")  # what a gateway writes before the first call


class Copied(NamedTuple):
    """The numbers of keys and of the ledger's rows."""

    keys: int
    rows: int


def copy(path: Path, location: Postgres) -> Copied:
    """Copies all tables in one transaction, to a database that has no keys and no rows yet.

    Raises StoreError if either is not of this version, if the file's sums are not those of its rows, if the database is
    not empty, or if its sums differ afterwards; then it is left as it was.
    """
    if wrong := verify(path):
        raise StoreError(f"{path}: {wrong[0]}; nothing was copied")
    with reading(path) as source, closing(PostgresConnection(location, seconds=SECONDS)) as target:
        if not current(source):
            raise StoreError(f"{path}: an older Torii wrote it; `torii db upgrade` brings it to this version")
        if not current(target):
            raise StoreError(f"{location}: it has no tables of this version; `torii db upgrade` makes them")
        source.snapshot()
        target.lock()
        try:
            _refuse_unless_empty(target, location)
            counts = {table.name: _copied(source, target, table.name) for table in metadata.sorted_tables}
            for table in ("calls", "audit"):
                target.execute(
                    f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT coalesce(max(id), 0) + 1 "  # noqa: S608 - our own tables
                    f"FROM {table}), false)"
                ).fetchall()
            target.commit()
        except psycopg.Error as error:
            raise failure(error) from None
        target.execute("ANALYZE").fetchall()  # the first reports would be planned without any statistics
    if wrong := verify(location):
        raise StoreError(f"{location}: {wrong[0]}; this is a mistake of Torii's: keep the file, and report it")
    return Copied(counts["keys"], counts["calls"])


def _refuse_unless_empty(target: PostgresConnection, location: Postgres) -> None:
    names = [table.name for table in metadata.sorted_tables if table.name not in LOOKED_AT]
    counts = ", ".join(f"(SELECT count(*) FROM {name})" for name in names)  # noqa: S608 - our own tables
    for name, count in zip(names, target.execute(f"SELECT {counts}").fetchone(), strict=True):
        if count:
            raise StoreError(f"{location}: it has {count} rows in {name}; copy to an empty database")
    for name in LOOKED_AT:
        target.execute(f"DELETE FROM {name}")  # noqa: S608 - our own tables


def _copied(source: Any, target: PostgresConnection, table: str) -> int:
    columns = [column.name for column in metadata.tables[table].columns]
    listed = ", ".join(f'"{name}"' for name in columns)
    rows: Iterable[Any] = source.execute(f"SELECT {listed} FROM {table}")  # noqa: S608 - our own tables
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)
    target.send()
    count = 0
    with target.driver.cursor().copy(statement) as copying:
        for row in rows:
            copying.write_row([each.replace("\0", "\ufffd") if isinstance(each, str) else each for each in row])
            count += 1
    return count
