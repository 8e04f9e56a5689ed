"""The owner of each classifier, and its account at a provider: in the ledger's file, or in memory without one.

training   its call is under way, and the provider has not said its id yet
unknown    the call has ended without an answer: the account may have a classifier that nobody knows
ready      the classifier can be used
deleted    it was deleted here
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Literal, NamedTuple

from .errors import NoFile
from .ledger_file import LedgerFile
from .location import Location
from .opening import current, reading

ClassifierState = Literal["training", "unknown", "ready", "deleted"]


class ClassifierRow(NamedTuple):
    """The columns of ``classifiers``. ``request_id`` is that of the call that made it. ``key_id`` and ``team`` are the
    owner: the team if there is one. ``account`` is the alias of the upstream's key, and ``fingerprint`` that of its
    secret. ``labels`` are JSON. ``created_at`` is in Unix milliseconds."""

    request_id: str
    classifier_id: str | None
    key_id: str
    team: str | None
    upstream: str
    account: str
    fingerprint: str
    model: str
    labels: str
    created_at: int
    state: ClassifierState


_SELECT = f"SELECT {', '.join(ClassifierRow._fields)} FROM classifiers"  # noqa: S608 - our own columns
SELECT_ONE = f"{_SELECT} WHERE classifier_id = ? AND state <> 'deleted' ORDER BY created_at, request_id LIMIT 1"
SELECT_ALL = f"{_SELECT} ORDER BY created_at, request_id"


class ClassifierBook:
    """``file`` None: the rows are in this process's memory only. Reads are of the file as it is now, so that all
    processes agree. Raises StoreError."""

    def __init__(self, file: LedgerFile | None) -> None:
        self._file = file
        self._rows: dict[str, ClassifierRow] = {}  # without a file
        self._unwritten: dict[str, tuple[ClassifierRow | None, ClassifierRow]] = {}  # what was in the file, and will be

    async def put(self, row: ClassifierRow) -> None:
        """Writes a row, which replaces the one of the same call, and returns when it is in the file."""
        if self._file is None:
            self._rows[row.request_id] = row
        else:
            await self._file.write("classifier", row)
            self._unwritten.pop(row.request_id, None)

    def put_later(self, row: ClassifierRow, before: ClassifierRow | None) -> None:
        """As ``put``, and returns at once; this process sees the row from now on. ``before`` is the row that it
        replaces: once the file has another, it is the file's that counts, which another process may have changed."""
        if self._file is None:
            self._rows[row.request_id] = row
            return
        before, _ = self._unwritten.get(row.request_id, (before, row))
        self._unwritten[row.request_id] = before, row
        self._file.write_later("classifier", row)

    def forget(self, request_id: str) -> None:
        """Deletes the row of a call that made nothing."""
        self._rows.pop(request_id, None)
        self._unwritten.pop(request_id, None)
        if self._file is not None:
            self._file.write_later("forget_classifier", (request_id,))

    def audit(self, line: tuple[str | int | None, ...]) -> None:
        """A line of the audit: time, actor, address, action, object and changes."""
        if self._file is not None:
            self._file.write_later("audit", line)

    async def find(self, classifier_id: str) -> ClassifierRow | None:
        """The row of a classifier that was not deleted."""
        plain = self._file is not None and not self._unwritten
        rows = await self._read(SELECT_ONE, (classifier_id,)) if plain else await self.rows()
        own = (row for row in rows if row.classifier_id == classifier_id and row.state != "deleted")
        return next(own, None)

    async def rows(self) -> list[ClassifierRow]:
        """All rows, the oldest first."""
        found = {row.request_id: row for row in await self._read(SELECT_ALL)} | self._rows
        for request_id, (before, row) in list(self._unwritten.items()):
            if found.get(request_id) == before:
                found[request_id] = row
            else:
                self._unwritten.pop(request_id, None)
        return list(found.values())

    async def _read(self, statement: str, values: tuple[str, ...] = ()) -> list[ClassifierRow]:
        return [] if self._file is None else await asyncio.to_thread(select, self._file.location, statement, values)


def select(location: Location, statement: str = SELECT_ALL, values: Iterable[str] = ()) -> list[ClassifierRow]:
    """Rows of the file; none if there is no file, or one of an older version. Raises StoreError."""
    with suppress(NoFile), reading(location) as connection:
        if current(connection):
            return [ClassifierRow(*row) for row in connection.execute(statement, tuple(values))]
    return []
