"""One interface to both databases: that of SQLite's driver, as far as the ledger uses it.

Statements are in the SQL that both have, with ``?`` for values, or ``?1`` for a value that comes twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol


class Cursor(Protocol):
    """The results of a statement. ``rowcount`` is how many rows it has changed."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class StoreConnection(Protocol):
    """A connection without transactions of its own. Its methods raise ``errors.DRIVER_ERRORS``, and ValueError or
    OverflowError for a value that cannot be sent."""

    @property
    def in_transaction(self) -> bool: ...

    dialect: str  # SQLAlchemy's name of the database and its driver
    remote: (
        bool  # each read is a round trip; else the driver keeps statements compiled, and those of few sizes are cheap
    )
    number: int  # of the latest transaction that writes, in the store

    @property
    def driver(self) -> Any:
        """The driver's own connection, for SQLAlchemy."""

    def committed(self, number: int) -> bool | None:
        """True if the transaction with this number was committed; None while nobody knows."""

    def execute(self, statement: str, values: Sequence[Any] = ..., /) -> Cursor: ...

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> object: ...

    def begin(self) -> None:
        """Begins a transaction that writes. There is one at a time in the whole store, so that what is read in it is
        exact, and the ids of its rows are higher than all before."""

    def snapshot(self) -> None:
        """Begins a transaction in which all reads see one moment."""

    def attempt(self, statement: str, row: Sequence[Any]) -> None:
        """As ``execute``, in a transaction that goes on if this fails."""

    def seen(self) -> int:
        """A number that is another one when others have written since the last transaction; in a transaction that
        writes."""

    def mark(self) -> None:
        """Lets the others' ``seen`` be another number, with the commit."""

    def announce(self, channel: str) -> None:
        """Tells those who listen, with the commit, if the database can."""

    def version(self) -> int:
        """The version of our tables; 0 for an empty database. Raises StoreError for another program's or a newer
        one."""

    def tables(self) -> set[str]:
        """The names of all tables."""

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...
