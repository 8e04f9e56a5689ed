"""One transaction over the ledger: what the queue has, then what was asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

from .asks import Answer, Asked
from .connection import StoreConnection
from .errors import DRIVER_ERRORS, StoreError, is_of_row
from .holds import Amounts, Decision, Draw
from .rows import CALL_COLUMNS, INSERT_ALERT, INSERT_CALL, PLAIN, AlertRow, CallRow
from .slices import SlicedCounters
from .tallies import insert, insert_again, scopes

INSERT_CALLS = f"INSERT INTO calls ({CALL_COLUMNS}) VALUES {{}}"  # noqa: S608 - our own columns

WRITTEN = "SELECT request_id FROM calls WHERE request_id IN (VALUES {})"

Settlement = tuple[str, list[CallRow], Draw]  # of a call that drew from a slice
Item = tuple[str, Any]  # a verb and what it was given


class Transaction:
    """``refused`` is called with the error of a row that can never be written."""

    def __init__(self, counters: SlicedCounters, refused: Callable[[Exception], None]) -> None:
        self._counters, self._refused = counters, refused
        self._careful = False
        self.settled = self.left = False

    def commit(
        self,
        connection: StoreConnection,
        items: list[Item],
        asked: list[Asked],
        also: tuple[str, tuple[Any, ...]] | None = None,
        *,
        may_leave: bool = False,
    ) -> list[Answer]:
        """Writes the items, then decides what was asked: what the items settle is free for it. ``also`` is a statement
        of the same transaction. ``may_leave``: the items are left if all fits without what they settle; ``left`` says
        so. Raises DRIVER_ERRORS; nothing has changed then."""
        try:
            connection.begin()
            try:
                answers = self._run(connection, items, asked, careful=False, may_leave=may_leave)
            except (*DRIVER_ERRORS, ValueError, OverflowError) as error:
                if not is_of_row(error):
                    raise
                connection.rollback()
                self._counters.undo()
                connection.begin()
                answers = self._run(connection, items, asked, careful=True, may_leave=False)
            if also and connection.execute(*also).rowcount != 1:
                raise StoreError("another process has written the same")
            connection.commit()
        except BaseException:
            self._counters.undo()
            raise
        return answers

    def _run(
        self, connection: StoreConnection, items: list[Item], asked: list[Asked], *, careful: bool, may_leave: bool
    ) -> list[Answer]:
        """``careful``: one row at a time, without those that can never be written."""
        self.settled, self.left, self._careful = False, may_leave, careful
        self._counters.begin(connection)
        self._counters.expect(_scopes(items, asked))
        if not may_leave:
            self._write(connection, items)
        answers: list[Answer] = []
        for each in asked:
            if each.future.done():
                continue
            if self.left and each.verb == "hold" and self._counters.holds(each.what.request_id):
                self._write_left(connection, items)  # the items may settle another call of the same id
            answer = self._answer(connection, each)
            if self.left and isinstance(answer, Decision) and answer.refused is not None:
                self._write_left(connection, items)
                answer = self._answer(connection, each)
            answers.append((each, answer))
        if self._counters.open:
            self._counters.lease()
        self._counters.save()
        return answers

    def _write_left(self, connection: StoreConnection, items: list[Item]) -> None:
        self.left = False
        self._write(connection, items)

    def leave(self, connection: StoreConnection) -> None:
        """This process ends its lease. Raises DRIVER_ERRORS."""
        if self._counters.leased:
            connection.begin()
            self._counters.begin(connection)
            self._counters.leave()
            self._counters.save()
            connection.commit()

    def _write(self, connection: StoreConnection, items: list[Item]) -> None:
        calls: list[CallRow] = []
        settlements: dict[str, list[CallRow]] = {}
        drawn: list[Settlement] = []
        plain: list[Item] = []
        for verb, values in items:
            if verb == "call":
                calls.append(values)
            elif verb == "drawn":
                drawn.append(values)
            elif verb == "settle":
                request_id, rows, *draws = values
                if draws and not self._counters.held(request_id):
                    drawn.append((request_id, rows, draws[0]))
                elif request_id not in settlements:
                    settlements[request_id] = self._counters.unsettled(request_id, rows)
            elif verb == "release":
                self.settled |= self._counters.release(*values)
            else:
                plain.append((verb, values))
        for row in self._inserted(connection, calls):
            self._counters.book(row)
        written = self._inserted(connection, [row for rows in settlements.values() for row in rows])
        for request_id, rows in settlements.items():
            kept = rows if len(written) == len(rows) or not self._careful else [row for row in rows if row in written]
            self.settled |= self._counters.settle(request_id, kept)
        if drawn:
            self._write_drawn(connection, drawn)
        self._write_plain(connection, plain)

    def _write_drawn(self, connection: StoreConnection, drawn: list[Settlement]) -> None:
        """Changes each slice once."""
        ids = [(request_id,) for request_id, rows, _ in drawn if rows]
        written = {row for found in insert_again(connection, WRITTEN, ids) for row in found}
        slices: dict[str, tuple[list[Amounts], list[CallRow]]] = {}
        for request_id, rows, (slice_id, amounts) in drawn:
            if (request_id,) not in written:
                taken, booked = slices.setdefault(slice_id, ([], []))
                taken.append(amounts)
                booked += rows
                written.update([(request_id,)] if rows else ())
        for slice_id, (taken, booked) in slices.items():
            kept = self._inserted(connection, booked)
            self.settled |= self._counters.settle_drawn(slice_id, Amounts(*map(sum, zip(*taken, strict=True))), kept)

    def _inserted(self, connection: StoreConnection, rows: list[CallRow]) -> list[CallRow]:
        """Those of the rows that are in the ledger now."""
        if not self._careful:
            insert(connection, INSERT_CALLS, rows)
            return rows
        return [row for row in rows if self._tried(connection, INSERT_CALL, row)]

    def _write_plain(self, connection: StoreConnection, items: list[Item]) -> None:
        for verb, run in groupby(items, itemgetter(0)):
            rows: Iterable[tuple[Any, ...]] = [values for _, values in run]
            if verb == "refuse":
                rows = [(*refusal, count) for refusal, count in Counter(rows).items()]
            if self._careful:
                for row in rows:
                    self._tried(connection, PLAIN[verb], row)
            else:
                connection.executemany(PLAIN[verb], rows)

    def _tried(self, connection: StoreConnection, statement: str, row: tuple[Any, ...]) -> bool:
        try:
            connection.attempt(statement, row)
        except (*DRIVER_ERRORS, ValueError, OverflowError) as error:
            if not is_of_row(error):
                raise
            self._refused(error)
            return False
        return True

    def _answer(self, connection: StoreConnection, asked: Asked) -> Any:
        """A value, or the error that prevents it."""
        try:
            if asked.verb == "hold":
                return self._counters.hold(asked.what, asked.number)
            if asked.verb == "extend":
                return self._counters.extend(*asked.what)
            if asked.verb == "slice":
                return self._counters.slice(*asked.what)
            if asked.verb == "write":
                verb, row = asked.what
                return connection.execute(PLAIN[verb], row).rowcount == 1
            return connection.execute(INSERT_ALERT, (*AlertRow(*asked.what), self._counters.now)).rowcount == 1
        except StoreError as error:
            return error


def _scopes(items: Iterable[Item], asked: Iterable[Asked]) -> Iterator[str]:
    """The scopes of the rows, and of the charges that are asked for."""
    for verb, values in items:
        rows = (values,) if verb == "call" else values[1] if verb in ("settle", "drawn") else ()
        for row in rows:
            yield from scopes(row)
    for each in asked:
        hold = each.what if each.verb == "hold" else each.what[0] if each.verb in ("extend", "slice") else None
        for charge in hold.charges if hold is not None else ():
            yield charge.scope


def once(item: Item) -> Item:
    """The item in a form that changes nothing if it was written before."""
    verb, row = item
    return ("settle", (row.request_id, [row])) if verb == "call" else item


def restored(verb: str, values: Any) -> Item | None:
    """An item that JSON had; None if it is none of ours."""
    try:
        if verb == "call":
            return verb, CallRow(*values)
        if verb in ("settle", "drawn"):
            request_id, rows, *draws = values
            return verb, (request_id, [CallRow(*row) for row in rows], *map(_drawn, draws))
        return (verb, tuple(values)) if verb in PLAIN or verb == "release" else None
    except (TypeError, ValueError):
        return None


def _drawn(values: tuple[str, list[int]]) -> Draw:
    slice_id, amounts = values
    return Draw(slice_id, Amounts(*amounts))
