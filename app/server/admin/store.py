"""Keys, teams and management keys behind the operator's routes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from fastapi import Depends, Header
from starlette.requests import Request

from ...callers.accounts import Accounts as CallerAccounts
from ...core.errors import ChangeRefused, InvalidRequest, NotFound
from ...storage.key_records import KeyRecord, KeySnapshot, TeamRecord
from ...storage.keys import Duplicate, KeyFile, NoSuch, NotChanged
from ..books import LedgerReader
from ..routes import in_force

T = TypeVar("T")


class AccountStore:
    """Keys, teams and management keys, of the file and of the configuration in force."""

    def __init__(self, books: LedgerReader, accounts: CallerAccounts) -> None:
        self.books = books
        self._accounts = accounts

    @staticmethod
    def now_ms() -> int:
        return time.time_ns() // 1_000_000

    async def snapshot(self) -> KeySnapshot:
        """All of them as the file has them now, those of the configuration first. Raises StorageUnavailable."""
        given = self._accounts
        declared = KeySnapshot(0, _declared(given.keys), _declared(given.teams))
        if self.books.path is None:
            return declared
        found = await self.read(lambda file: file.load())
        return found._replace(keys=_first(declared.keys, found.keys), teams=_first(declared.teams, found.teams))

    async def read(self, work: Callable[[KeyFile], T]) -> T:
        """Raises StorageUnavailable."""
        store = self._accounts.store

        def reading(path: Path) -> T:
            assert store is not None
            return work(store)

        return await self.books.run(reading)

    async def change(self, work: Callable[[KeyFile], T]) -> T:
        """As ``read``, and this process sees the change at once. Raises also NotFound, InvalidRequest for a field that
        does not fit what is there, and ChangeRefused."""

        def changing(file: KeyFile) -> T:
            changed = work(file)
            self._accounts.registry.changed()
            return changed

        try:
            return await self.read(changing)
        except NotChanged as error:
            raise _invalid(error) from None


Record = TypeVar("Record", KeyRecord, TeamRecord)


def _declared(records: Mapping[str, Record]) -> dict[str, Record]:
    return {name: record for name, record in records.items() if record.declared}


def _first(one: Mapping[str, Record], other: Mapping[str, Record]) -> dict[str, Record]:
    """Both, in this order; ``one`` takes precedence."""
    return {**one, **other, **one}


def _invalid(error: NotChanged) -> InvalidRequest:
    if isinstance(error, Duplicate) or error.field is not None:
        return InvalidRequest(str(error), param=error.field)
    return (NotFound if isinstance(error, NoSuch) else ChangeRefused)(str(error))


def read_only(found: KeyRecord | TeamRecord, kind: str) -> None:
    """Raises ChangeRefused for a key or team of the configuration."""
    if found.declared:
        raise ChangeRefused(
            f"the {kind} {found.name!r} stands in the configuration ({kind}s), where it can be changed; this API only "
            "shows it"
        )


async def _accounts(request: Request) -> AccountStore:
    return AccountStore(request.app.state.ledger_reader, in_force(request).callers)


async def _books(request: Request) -> LedgerReader:
    found: LedgerReader = request.app.state.ledger_reader
    return found


Accounts = Annotated[AccountStore, Depends(_accounts)]
Books = Annotated[LedgerReader, Depends(_books)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Any text of your choice. A repeated request with the same text creates nothing again.",
    ),
]
