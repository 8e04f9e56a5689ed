"""The holds of open calls: in memory those of this process, in the file those of all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from .connection import StoreConnection
from .errors import StoreError
from .holds import MINUTE
from .rows import CallRow
from .tallies import insert_again

FIND = "SELECT process, lost, body FROM holds WHERE request_id = ?"
OWN = "SELECT request_id, process, lost, body FROM holds WHERE process = ?"
BETWEEN = "SELECT request_id FROM holds WHERE request_id >= ? AND request_id < ?"
SAVE = "INSERT INTO holds (request_id, process, lost, body) VALUES {} "
SAVE += "ON CONFLICT (request_id) DO UPDATE SET process = excluded.process, lost = excluded.lost, body = excluded.body"
DELETE = "DELETE FROM holds WHERE request_id IN (VALUES {})"


class HeldCharge(NamedTuple):
    """The part of a counter that a call holds. ``second`` is that of admission, for a sliding minute."""

    scope: str
    unit: str
    filter: str
    since: int
    until: int
    amount: int
    second: int

    @property
    def sliding(self) -> bool:
        return (self.since, self.until) == MINUTE


class OpenHold(NamedTuple):
    """``rows`` become rows of the ledger if the process dies. ``lost`` is the Unix time in milliseconds at which it was
    found dead: what remains held are its sliding minutes and what was added later, and a late settlement replaces the
    rows. ``ask`` tells apart two holds of the same call in this process."""

    process: str
    lost: int | None
    charges: tuple[HeldCharge, ...]
    rows: tuple[tuple[Any, ...], ...]
    ask: object = None

    @property
    def body(self) -> str:
        try:
            return msgspec.json.encode((self.charges, self.rows)).decode()
        except (ValueError, TypeError) as error:  # a row with a value that no table can have
            raise StoreError(f"a call cannot be held ({type(error).__name__})") from None


Body = msgspec.json.Decoder(tuple[tuple[tuple[str, str, str, int, int, int, int], ...], tuple[tuple[Any, ...], ...]])


def opened(process: str, lost: int | None, body: str) -> OpenHold:
    """The hold in a row of the file."""
    charges, rows = Body.decode(body)
    return OpenHold(process, lost, tuple(HeldCharge(*charge) for charge in charges), rows)


def lost_rows(hold: OpenHold, now: int) -> list[CallRow]:
    """The rows ``process_lost`` of a hold, one for each upstream that may have been asked; one without an upstream if
    there was none. ``now`` is in Unix milliseconds."""
    found: dict[str, CallRow] = {}
    for values in hold.rows:
        row = CallRow(*values)
        there = found.get(row.upstream)
        found[row.upstream] = row if there is None else _together(there, row)
    if len(found) > 1:
        found.pop("", None)
    rows: list[CallRow] = []
    for row in found.values():
        seconds = max(0, now - row.time) / 1000
        requests = 0 if rows else row.requests  # a call counts once
        rows.append(row._replace(status=500, error="process_lost", estimated=1, seconds=seconds, requests=requests))
    return rows


def _together(one: CallRow, other: CallRow) -> CallRow:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    sums = {name: getattr(one, name) + getattr(other, name) for name in names}
    cost = None if one.cost is None and other.cost is None else (one.cost or 0) + (other.cost or 0)
    return other._replace(**sums, cost=cost)


class OpenHolds:
    """``begin`` and ``save`` enclose the changes of a transaction, ``undo`` takes them back."""

    def __init__(self, process: str) -> None:
        self._process = process
        self._own: dict[str, OpenHold] = {}
        self._before: dict[str, OpenHold | None] = {}
        self._changed: dict[str, tuple[OpenHold, str]] = {}  # with their bodies; also of other processes
        self._connection: StoreConnection | None = None

    def __len__(self) -> int:
        return len(self._own)

    def begin(self, connection: StoreConnection) -> None:
        self._connection = connection
        self._before.clear()
        self._changed.clear()

    def find(self, request_id: str) -> OpenHold | None:
        """The hold of a call, of any process."""
        found = self._own.get(request_id)
        if found is not None or request_id in self._before:
            return found
        if request_id in self._changed:
            return self._changed[request_id][0]
        assert self._connection is not None
        row = self._connection.execute(FIND, (request_id,)).fetchone()
        return opened(*row) if row else None

    def has(self, request_id: str) -> bool:
        """True for a hold of this process."""
        return request_id in self._own

    def keep(self, request_id: str, hold: OpenHold) -> None:
        """Raises StoreError, and keeps nothing, if the hold cannot be written."""
        self._changed[request_id] = hold, hold.body
        if hold.process == self._process:
            self._before.setdefault(request_id, self._own.get(request_id))
            self._own[request_id] = hold

    def end(self, request_id: str) -> None:
        self._before.setdefault(request_id, self._own.get(request_id))
        self._own.pop(request_id, None)
        self._changed.pop(request_id, None)

    def save(self) -> None:
        connection = self._connection
        assert connection is not None
        ended = [(request_id,) for request_id in self._before if request_id not in self._own]
        rows = [(request_id, hold.process, hold.lost, body) for request_id, (hold, body) in self._changed.items()]
        insert_again(connection, DELETE, ended)
        insert_again(connection, SAVE, rows)

    def reload(self, connection: StoreConnection) -> None:
        """The holds of this process are those that the store has."""
        found = connection.execute(OWN, (self._process,)).fetchall()
        self._own = {request_id: opened(*row)._replace(ask=self._ask_of(request_id)) for request_id, *row in found}

    def _ask_of(self, request_id: str) -> object:
        there = self._own.get(request_id)
        return there.ask if there else None

    def undo(self) -> None:
        for request_id, hold in self._before.items():
            if hold is None:
                self._own.pop(request_id, None)
            else:
                self._own[request_id] = hold
        self._before.clear()
        self._changed.clear()

    def since(self, name: str, end: str) -> Iterator[OpenHold]:
        """The holds of all processes whose ids lie between ``name`` and ``end``."""
        assert self._connection is not None
        found = {request_id for (request_id,) in self._connection.execute(BETWEEN, (name, end)).fetchall()}
        found.update(request_id for request_id in self._changed if name <= request_id < end)
        return filter(None, map(self.find, found))

    def reread(self) -> Iterable[tuple[str, OpenHold]]:
        """Takes over what other processes have written of this process's holds: those that they found dead are lost.
        Returns the holds that the file does not have."""
        assert self._connection is not None
        found = {}
        for request_id, *row in self._connection.execute(OWN, (self._process,)).fetchall():
            found[request_id] = opened(*row)
        missing = []
        for request_id, hold in self._own.items():
            there = found.get(request_id)
            if there is None:
                missing.append((request_id, hold))
            elif there.lost is not None:
                self._own[request_id] = there._replace(ask=hold.ask)
        return missing
