"""Counters in memory, as the file has them: read when another connection has written, saved once a transaction.

    Tally            one unit of a scope in one window: what is spent, what is held
    SlidingMinute    one unit of a scope in the present second and the 60 before it

A sliding minute has a row in ``counters`` too, whose window is MINUTE: it says that ``seconds`` are counted for the
scope, and holds the tokens of open calls.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain
from typing import ClassVar

from .connection import Cursor, StoreConnection
from .filters import fits
from .holds import FOREVER, MINUTE, OPEN, SLIDING, Balance, Charge
from .rows import CallRow
from .sums import last_minute, start

FOUND = "SELECT unit, filter, since, until, spent, held FROM counters WHERE scope = ?"
FOUND_SECONDS = "SELECT unit, second, amount FROM seconds WHERE scope = ? AND second > ?"
SAVE = "INSERT INTO counters (scope, unit, filter, since, until, spent, held) VALUES {} "
SAVE += "ON CONFLICT (scope, unit, filter, since, until) DO UPDATE SET spent = excluded.spent, held = excluded.held"
SAVE_SECONDS = "INSERT INTO seconds (scope, unit, second, amount) VALUES {} "
SAVE_SECONDS += "ON CONFLICT (scope, unit, second) DO UPDATE SET amount = excluded.amount"
PADDED = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)
LARGE = 10_000  # scopes in memory
ROWS = 500  # of a statement for a server, which takes 65,535 values at most
SIZES = (256, 128, 64, 32, 16, 8, 4, 2, 1)  # rows of a statement, few enough for the driver to keep them all compiled

Key = tuple[str, str, str, int, int]  # scope, unit, filter, since, until
Window = tuple[int, int]
Place = tuple[str, str, Window]


_made = tuple.__new__  # a third of the time of a named tuple's own constructor


class Tally:
    """``key`` is its primary key. ``start`` and ``end`` of the window are in Unix milliseconds."""

    __slots__ = ("end", "filter", "frees_at", "held", "key", "spent", "start", "unit")
    sliding: ClassVar[bool] = False

    def __init__(self, scope: str, place: Place, spent: int, held: int) -> None:
        self.unit, self.filter, (since, until) = place
        self.key: Key = (scope, self.unit, self.filter, since, until)
        self.start, self.end = since * 1000, until * 1000
        self.frees_at = until if until < FOREVER else None
        self.spent, self.held = spent, held

    def fits(self, amount: int, limit: int) -> bool:
        return amount == 0 or self.spent + self.held + amount <= limit

    def may_fit(self, amount: int, limit: int) -> bool:
        """True if it would fit if open calls used nothing of what they hold."""
        return self.held > 0 and self.spent + amount <= limit

    def take(self, amount: int) -> int:
        self.held += amount
        return 0

    def balance(self, amount: int, limit: int) -> Balance:
        return self.after() if amount <= limit else Balance(self.spent, self.held, None)

    def after(self) -> Balance:
        """The balance if all fits: it is wholly free at the window's end."""
        return _made(Balance, (self.spent, self.held, self.frees_at))


class SlidingSum:
    """Amounts by the second in which they were taken, and their sum. ``now`` is a Unix time in seconds."""

    __slots__ = ("now", "seconds", "total")

    def __init__(self, seconds: dict[int, int]) -> None:
        self.seconds, self.total, self.now = seconds, sum(seconds.values()), 0

    def advance(self, now: int) -> None:
        """Forgets what has left a sliding minute."""
        if now != self.now:
            self.now = now
            for second in [second for second in self.seconds if second <= now - SLIDING]:
                self.total -= self.seconds.pop(second)

    def add(self, second: int, amount: int) -> None:
        self.seconds[second] = self.seconds.get(second, 0) + amount
        self.total += amount


class SlidingMinute(SlidingSum):
    """A counter of a sliding minute. ``held`` are the tokens in it that open calls hold."""

    __slots__ = ("changed", "held", "key", "latest", "unit")
    sliding: ClassVar[bool] = True

    def __init__(self, scope: str, unit: str, seconds: dict[int, int], held: int) -> None:
        super().__init__(seconds)
        self.unit, self.held = unit, held
        self.key: Key = (scope, unit, "", *MINUTE)
        self.latest = max(seconds, default=0)
        self.changed: set[int] = set()

    def add(self, second: int, amount: int) -> None:
        """A second that has left the minute counts no more."""
        if second > self.now - SLIDING:
            super().add(second, amount)
            if second > self.latest:
                self.latest = second
            self.changed.add(second)

    def fits(self, amount: int, limit: int) -> bool:
        return amount == 0 or self.total + amount <= limit

    def may_fit(self, amount: int, limit: int) -> bool:
        return self.held > 0 and max(0, self.total - self.held) + amount <= limit

    def take(self, amount: int) -> int:
        """Counts the amount in the present second, which is returned."""
        self.add(self.now, amount)
        if self.unit == "tokens":
            self.held += amount
        return self.now

    def balance(self, amount: int, limit: int) -> Balance:
        over = self.total + amount - limit
        if over <= 0:
            return self.after()
        for second in sorted(self.seconds) if amount <= limit else ():
            over -= self.seconds[second]
            if over <= 0:
                return Balance(self.total, 0, second + SLIDING)
        return Balance(self.total, 0, None)

    def after(self) -> Balance:
        """The balance if all fits: it is wholly free when the last second has left."""
        frees_at = self.latest + SLIDING
        return _made(Balance, (self.total, 0, frees_at if frees_at > self.now else self.now))


Found = dict[Place, Tally | SlidingMinute]


class Tallies:
    """The counters of the scopes that were asked for. ``begin`` and ``save`` enclose a transaction's changes;
    ``changed`` are the counters to be saved."""

    def __init__(self) -> None:
        self.now = 0
        self._scopes: dict[str, Found] = {}
        self.known: dict[Key, Tally | SlidingMinute] = {}  # those of all scopes, by their primary keys
        self._fitting: dict[tuple[str | None, str | None, str, str], list[tuple[Tally | SlidingMinute, int]]] = {}
        self.changed: dict[Tally | SlidingMinute, None] = {}
        self._connection: StoreConnection | None = None
        self._version: int | None = None

    @property
    def connection(self) -> StoreConnection:
        assert self._connection is not None
        return self._connection

    def begin(self, connection: StoreConnection, now: int) -> bool:
        """To be called in a transaction that writes. ``now`` is in Unix seconds. False if another connection has
        written since the last transaction, so that the counters are read again."""
        version = connection.seen()
        known = connection is self._connection and version == self._version
        if not known or len(self._scopes) > LARGE:
            self._clear()
        self._connection, self._version, self.now = connection, version, now
        return known

    def forget(self) -> None:
        """The transaction has failed."""
        self._clear()
        self.changed.clear()
        self._version = None

    def _clear(self) -> None:
        self._scopes.clear()
        self.known.clear()
        self._fitting.clear()

    def save(self) -> None:
        """Writes what has changed."""
        if not self.changed:
            return
        counters, seconds = [], []
        for tally in self.changed:
            if isinstance(tally, Tally):
                counters.append((*tally.key, tally.spent, tally.held))
            else:
                counters.append((*tally.key, 0, tally.held))
                amounts = tally.seconds
                seconds += [(*tally.key[:2], each, amounts.get(each, 0)) for each in tally.changed]
                tally.changed.clear()
        insert_again(self.connection, SAVE, counters)
        insert_again(self.connection, SAVE_SECONDS, seconds)
        self.changed.clear()

    def of(self, scope: str) -> Found:
        """All counters of a scope."""
        found = self._scopes.get(scope)
        if found is None:
            found = self._keep(scope, self._made(scope, self._asked(scope), lambda: self._asked_seconds(scope)))
        return found

    def _keep(self, scope: str, found: Found) -> Found:
        self._scopes[scope] = found
        self.known.update((tally.key, tally) for tally in found.values())
        return found

    def expect(self, names: Iterable[str]) -> None:
        """Reads the counters of these scopes at once, if each read is a round trip."""
        if not self.connection.remote:
            return
        missing = [name for name in dict.fromkeys(names) if name not in self._scopes]
        found = [(name, self._asked(name), self._asked_seconds(name)) for name in missing]
        for name, counters, seconds in found:
            self._keep(name, self._made(name, counters, partial(_same, seconds)))

    def find(self, key: Key) -> Tally | SlidingMinute | None:
        """A counter, if there is one."""
        tally = self.known.get(key)
        if tally is None:
            self.of(key[0])
            tally = self.known.get(key)
        if isinstance(tally, SlidingMinute) and tally.now != self.now:
            tally.advance(self.now)
        return tally

    def make(self, charge: Charge) -> Tally | SlidingMinute:
        """The counter of a charge, which starts from the ledger's rows if there is none."""
        scope, unit, window, chosen, *_ = charge
        tally = self.find((scope, unit, chosen, *window))
        if tally is None:
            place = (unit, chosen, window)
            tally = self.of(scope)[place] = self.known[scope, unit, chosen, *window] = self._start(charge, place)
            self._fitting.clear()
            self.changed[tally] = None
        return tally

    def _start(self, charge: Charge, place: Place) -> Tally | SlidingMinute:
        unit, chosen, window = place
        if window == MINUTE:
            rows = last_minute(self.connection, charge.scope, self.now - SLIDING + 1)
            seconds = {second: requests if unit == "requests" else tokens for second, requests, tokens in rows}
            minute = SlidingMinute(charge.scope, unit, seconds, 0)
            minute.changed.update(seconds)
            minute.advance(self.now)
            return minute
        if unit in OPEN:
            return Tally(charge.scope, place, 0, 0)
        return Tally(charge.scope, place, start(self.connection, charge.scope, unit, chosen, window), 0)

    def _asked(self, scope: str) -> Cursor:
        return self.connection.execute(FOUND, (scope,))

    def _asked_seconds(self, scope: str) -> Cursor:
        return self.connection.execute(FOUND_SECONDS, (scope, self.now - SLIDING))

    def _made(self, scope: str, counters: Cursor, minute: Callable[[], Cursor]) -> Found:
        """The counters of a scope, from its rows; ``minute`` has those of sliding minutes, if there are any."""
        found: Found = {}
        minutes: dict[str, int] = {}
        for unit, chosen, since, until, used, held in counters.fetchall():
            if (since, until) == MINUTE:
                minutes[unit] = held
            else:
                place = (unit, chosen, (since, until))
                found[place] = Tally(scope, place, used, held)
        if minutes:
            seconds: dict[str, dict[int, int]] = {unit: {} for unit in minutes}
            for unit, second, amount in minute().fetchall():
                seconds.setdefault(unit, {})[second] = amount
            for unit, held in minutes.items():
                found[unit, "", MINUTE] = SlidingMinute(scope, unit, seconds[unit], held)
        return found

    def book(self, row: CallRow, sign: int = 1, charged: Collection[tuple[str, str]] = ()) -> None:
        """Adds the row to every counter that it belongs to, or takes it away. ``charged`` are the scopes and units of
        sliding minutes for which the call holds an amount."""
        about = (row.key_id, row.team, row.endpoint, row.model_id or row.model)
        fitting = self._fitting.get(about)
        if fitting is None:
            fitting = self._fitting_of(row, about)
        time = row.time
        for tally, column in fitting:
            amount: int | None = row[column]  # type: ignore[assignment]  # COLUMNS has columns of integers only
            if not amount:
                continue
            if isinstance(tally, Tally):
                if tally.start <= time < tally.end:
                    tally.spent += sign * amount
                    self.changed[tally] = None
            elif tally.key[:2] not in charged:
                tally.advance(self.now)
                tally.add(time // 1000, sign * amount)
                self.changed[tally] = None

    def _fitting_of(
        self, row: CallRow, about: tuple[str | None, str | None, str, str]
    ) -> list[tuple[Tally | SlidingMinute, int]]:
        """The counters that a row belongs to if its time lies in their windows, and the column that each counts."""
        if len(self._fitting) > LARGE:
            self._fitting.clear()
        fitting = self._fitting[about] = [
            (tally, COLUMNS[tally.unit])
            for scope in scopes(row)
            for tally in self.of(scope).values()
            if tally.unit in COLUMNS and (isinstance(tally, SlidingMinute) or fits(tally.filter, *about[2:]))
        ]
        return fitting


def _same(seconds: Cursor) -> Cursor:
    return seconds


COLUMNS = {
    unit: CallRow._fields.index(column)
    for unit, column in (("tokens", "total_tokens"), ("usd", "cost"), ("requests", "requests"))
}


def scopes(row: CallRow) -> Iterator[str]:
    """The scopes to which a row belongs."""
    if row.key_id:
        yield f"key:{row.key_id}"
    if row.team:
        yield f"team:{row.team}"
    yield "organization"


def insert(connection: StoreConnection, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Runs the statement, whose ``{}`` are the rows, with several rows at once: SQLite's driver gives up the
    interpreter's lock for each statement, and may wait for it after."""
    place = 0
    for size in SIZES if not connection.remote else (ROWS, len(rows) % ROWS):
        while size and len(rows) - place >= size:
            _insert(connection, statement, rows[place : place + size])
            place += size


def insert_again(connection: StoreConnection, statement: str, rows: Sequence[tuple[object, ...]]) -> list[Cursor]:
    """The same with a statement that changes nothing if a row is there twice: fewer statements for SQLite, since rows
    are repeated to fill one. Returns the results, for a statement that selects."""
    found: list[Cursor] = []
    for place in range(0, len(rows), PADDED[-1]):
        some = rows[place : place + PADDED[-1]]
        size = PADDED[bisect_left(PADDED, len(some))] if not connection.remote else len(some)
        found.append(_insert(connection, statement, (*some, *some[: size - len(some)])))
    return found


def _insert(connection: StoreConnection, statement: str, rows: Sequence[tuple[object, ...]]) -> Cursor:
    return connection.execute(_filled(statement, len(rows), len(rows[0])), list(chain.from_iterable(rows)))


@lru_cache(512)
def _filled(statement: str, rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return statement.format(", ".join([row] * rows))
