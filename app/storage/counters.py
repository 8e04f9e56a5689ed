"""Limits and budgets over the ledger's file: holds are decided and settled in one transaction, exact for any number of
processes.

    begin -> hold, extend, settle, release, book, ... -> save -> COMMIT
                                                      -> undo, if it fails

A hold's charges are all taken or none. A settlement takes the hold away and adds the call's rows to every counter that
they belong to. Nothing here is kept over a transaction that another process has written after: it is read again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence, Set

from .connection import StoreConnection
from .errors import StoreError
from .holds import MINUTE, Balance, Charge, Decision, Hold
from .location import Location
from .open_holds import HeldCharge, OpenHold, OpenHolds, lost_rows, opened
from .opening import reading
from .rollups import delete
from .rows import CALL_COLUMNS, INSERT_CALL, CallRow
from .tallies import Key, SlidingMinute, Tallies, Tally, scopes

Clock = Callable[[], float]
ChargePlace = tuple[int, int, Tally | SlidingMinute]  # the amount and limit of a charge, and its counter
DAY = 86_400_000  # milliseconds
HELD = tuple.__new__  # a third of the time of a named tuple's own constructor

LEASED = "SELECT 1 FROM processes WHERE id = ?"
RENEW = "INSERT INTO processes (id, until) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET until = excluded.until"
LIVING = "SELECT id FROM processes WHERE until >= ?"
LEAVE = "DELETE FROM processes WHERE id = ?"
ORPHANS = """SELECT request_id, process, lost, body FROM holds
    WHERE lost IS NULL AND process NOT IN (SELECT id FROM processes WHERE until >= ?)"""
LOSE = "UPDATE holds SET lost = ?, body = ? WHERE request_id = ?"
ENDED = "DELETE FROM processes WHERE until < ?"
LATE = "SELECT process, lost, body FROM holds WHERE lost < ?"
DELETE_LATE = "DELETE FROM holds WHERE lost < ?"
OLD_SECONDS = "DELETE FROM seconds WHERE second < ?"
OLD_COUNTERS = "DELETE FROM counters WHERE until > 0 AND until < ? AND held = 0"
UNTIDY = """SELECT EXISTS (SELECT 1 FROM processes WHERE until < ?1)
    OR EXISTS (SELECT 1 FROM holds WHERE lost IS NULL AND process NOT IN (SELECT id FROM processes))
    OR EXISTS (SELECT 1 FROM holds WHERE lost < ?2) OR EXISTS (SELECT 1 FROM seconds WHERE second < ?3)
    OR EXISTS (SELECT 1 FROM counters WHERE until > 0 AND until < ?4 AND held = 0)"""
# Our own columns.
LOST_ROWS = f"SELECT id, {CALL_COLUMNS} FROM calls WHERE request_id = ? AND error = 'process_lost'"  # noqa: S608 - our own names
WRITTEN = "SELECT upstream, upstream_model, kind FROM calls WHERE request_id = ?"


class Counters:
    """``process`` is this process's id. ``lease_seconds``: a process that has not renewed its lease for so long is
    dead, and its holds are lost. ``replicas``: other hosts may have processes too, so that this one has a lease from
    the start on, and knows how many live: ``processes``, of which ``rank`` come before it."""

    def __init__(
        self, process: str, *, lease_seconds: float = 30.0, clock: Clock = time.time, replicas: bool = False
    ) -> None:
        self._process = process
        self._replicas = replicas
        self.rank, self.processes = 0, 1
        self._lease = int(lease_seconds * 1000)
        self._clock = clock
        self._tallies = Tallies()
        self._holds = OpenHolds(process)
        self._leased_until = self._until_before = 0  # Unix milliseconds; 0 before the first hold
        self._patient_until = 0
        self.now = 0  # Unix milliseconds, of the transaction

    @property
    def open(self) -> int:
        """The number of this process's holds."""
        return len(self._holds)

    def holds(self, request_id: str) -> bool:
        """True if a call of this process has a hold."""
        return self._holds.has(request_id)

    def held(self, request_id: str) -> bool:
        """True if a call of any process has a hold."""
        return self._holds.find(request_id) is not None

    @property
    def leased(self) -> bool:
        return self._leased_until > 0

    # ---------------------------------------------------------------- a transaction

    def begin(self, connection: StoreConnection) -> None:
        """To be called after BEGIN IMMEDIATE."""
        self.now = int(self._clock() * 1000)
        self._until_before = self._leased_until
        known = self._tallies.begin(connection, self.now // 1000)
        self._holds.begin(connection)
        if not known and self._leased_until and connection.execute(LEASED, (self._process,)).fetchone() is None:
            self._return()

    def expect(self, names: Iterable[str]) -> None:
        """The scopes of which counters will be needed in this transaction."""
        self._tallies.expect(names)

    def save(self) -> None:
        """To be called before COMMIT."""
        if self._tallies.changed:
            self._tallies.connection.mark()
        self._tallies.save()
        self._holds.save()

    def reload(self, connection: StoreConnection) -> None:
        """A transaction that seemed to have failed was committed."""
        self._tallies.forget()
        self._holds.reload(connection)

    def undo(self) -> None:
        """The transaction has failed."""
        self._tallies.forget()
        self._holds.undo()
        self._leased_until = self._until_before

    def _return(self) -> None:
        """This process was found dead, or the file is a new one: what it lacks is held again."""
        self.renew()
        for request_id, hold in self._holds.reread():
            self._take_again(hold)
            self._holds.keep(request_id, hold)

    def _take_again(self, hold: OpenHold) -> None:
        for charge in hold.charges:
            window = (charge.since, charge.until)
            made = Charge(charge.scope, charge.unit, window, charge.filter, 0, charge.amount, "")
            tally = self._tallies.make(made)
            if isinstance(tally, SlidingMinute):
                tally.add(charge.second, charge.amount)
            if charge.unit == "tokens" or not charge.sliding:
                tally.held += charge.amount
            self._tallies.changed[tally] = None

    # ---------------------------------------------------------------- holds

    def hold(self, hold: Hold, ask: object = None) -> Decision:
        """Holds all charges, or none. A hold of the same call that is still there is given up first.

        Raises StoreError if the hold's row has a value that no table can have."""
        if self._holds.has(hold.request_id):
            self.release(hold.request_id)
        return self._hold(hold, OpenHold(self._process, None, (), (), ask))

    def extend(self, hold: Hold) -> Decision:
        """Adds charges to the call's hold, or leaves it as it was. Refuses all if the call has no hold: it was settled
        while this was asked, and nobody would end another hold. Raises StoreError as ``hold`` does."""
        there = self._holds.find(hold.request_id)
        if there is None:
            places = [(charge.amount, charge.limit, self._tallies.make(charge)) for charge in hold.charges]
            return Decision(0, False, tuple([tally.balance(*given) for *given, tally in places]))
        return self._hold(hold, there)

    def _hold(self, hold: Hold, there: OpenHold) -> Decision:
        tallies = self._tallies
        known, now = tallies.known, tallies.now
        places: list[ChargePlace] = []
        fits = True
        for charge in hold.charges:
            scope, unit, window, chosen, limit, amount, *_ = charge
            tally = known.get((scope, unit, chosen, *window))
            # Only a sliding minute has ``now``; the class would take longer to ask for than its attribute.
            if tally is None or (tally.sliding and tally.now != now):  # type: ignore[union-attr]
                tally = tallies.make(charge)
            places.append((amount, limit, tally))
            if not tally.fits(amount, limit):
                fits = False
        if not fits:
            return self._refusal(places)
        taken = self._taken(places)
        rows = (*there.rows, tuple(hold.row)) if hold.row else there.rows
        try:
            held = OpenHold(there.process, there.lost, there.charges + taken, rows, there.ask)
            self._holds.keep(hold.request_id, held)
        except StoreError:
            self._give_back(taken)
            for each in taken:
                self._correct(each, -each.amount)
            raise
        return Decision(None, False, tuple([tally.after() for _, _, tally in places]))

    def _refusal(self, places: Sequence[ChargePlace]) -> Decision:
        wrong = [place for place in places if not place[2].fits(*place[:2])]
        sliced = self._sliced() & {tally.key for _, _, tally in wrong}
        waits = all(tally.may_fit(amount, limit) or tally.key in sliced for amount, limit, tally in wrong)
        balances = tuple([tally.balance(*given) for *given, tally in places])
        return Decision(places.index(wrong[0]), waits, balances, bool(sliced))

    def _sliced(self) -> Set[Key]:
        """The counters of which something may come back though no call settles."""
        return frozenset()

    def _taken(self, places: Sequence[ChargePlace]) -> tuple[HeldCharge, ...]:
        """Takes each charge from its counter; of several charges of one counter the largest."""
        amounts: dict[Tally | SlidingMinute, int] = {}
        for amount, _, tally in places:
            if amount >= amounts.get(tally, 0):
                amounts[tally] = amount
        changed, taken = self._tallies.changed, []
        for tally, amount in amounts.items():
            changed[tally] = None
            taken.append(HELD(HeldCharge, (*tally.key, amount, tally.take(amount))))
        return tuple(taken)

    def release(self, request_id: str, ask: object = None) -> bool:
        """Gives up a hold of which nothing was used; False if there is none. With ``ask``, only the hold of that
        ask."""
        hold = self._holds.find(request_id)
        if hold is None or (ask is not None and hold.ask != ask):
            return False
        self._give_back(hold.charges)
        if hold.lost is not None:
            self._find_again(request_id, hold)
        for charge in hold.charges:
            if charge.sliding and charge.unit == "tokens":
                self._correct(charge, -charge.amount)
        self._holds.end(request_id)
        return True

    def _give_back(self, charges: Iterable[HeldCharge]) -> None:
        known, changed = self._tallies.known, self._tallies.changed
        for scope, unit, chosen, since, until, amount, _ in charges:
            if until or unit == "tokens":
                key = (scope, unit, chosen, since, until)
                tally = known.get(key) or self._tallies.find(key)
                if tally is not None:
                    held = tally.held - amount
                    tally.held = held if held > 0 else 0
                    changed[tally] = None

    def _correct(self, charge: HeldCharge, amount: int) -> None:
        minute = self._tallies.find((charge.scope, charge.unit, "", *MINUTE)) if amount else None
        if isinstance(minute, SlidingMinute):
            minute.add(charge.second, amount)
            self._tallies.changed[minute] = None

    # ---------------------------------------------------------------- rows

    def unsettled(self, request_id: str, rows: Iterable[CallRow]) -> list[CallRow]:
        """The rows of a settlement that the ledger does not have yet."""
        if self._holds.find(request_id) is not None:
            return list(rows)
        written = set(self._tallies.connection.execute(WRITTEN, (request_id,)).fetchall())
        return [row for row in rows if (row.upstream, row.upstream_model, row.kind) not in written]

    def settle(self, request_id: str, rows: Sequence[CallRow]) -> bool:
        """The hold becomes what the rows say, which are in the ledger. False if there was no hold."""
        hold = self._holds.find(request_id)
        if hold is None:
            for row in rows:
                self._tallies.book(row)
            return False
        self._give_back(hold.charges)
        if hold.lost is not None:
            self._find_again(request_id, hold)
        charged = [charge[:2] for charge in hold.charges if not charge[4]]  # of sliding minutes
        for row in rows:
            self._tallies.book(row, 1, charged)
        for scope, unit in dict.fromkeys(charged):
            if unit == "tokens":
                self._settle_minute(hold, scope, sum([row.total_tokens for row in rows if scope in scopes(row)]))
        self._holds.end(request_id)
        return True

    def _settle_minute(self, hold: OpenHold, scope: str, used: int) -> None:
        """Tokens count in the second of admission: what was not used is taken from the earliest admission, what was
        used besides is added to the latest."""
        held = [c for c in hold.charges if not c[4] and c[1] == "tokens" and c[0] == scope]
        unused = sum([charge.amount for charge in held]) - used
        if unused < 0:
            self._correct(held[-1], -unused)
            return
        for charge in held:
            self._correct(charge, -min(unused, charge.amount))
            unused -= min(unused, charge.amount)

    def book(self, row: CallRow) -> None:
        """Adds a row of a call without hold to the counters that there are. The row is in the ledger."""
        self._tallies.book(row)

    # ---------------------------------------------------------------- processes

    def lease(self) -> None:
        """Says that this process is alive, if nobody knows yet."""
        if not self._leased_until:
            self.renew()

    def renew(self) -> None:
        if 0 < self._leased_until < self.now:  # this machine slept: the other processes renew their leases now
            self._patient_until = self.now + self._lease
        self._leased_until = self.now + self._lease
        connection = self._tallies.connection
        connection.execute(RENEW, (self._process, self._leased_until))
        if self._replicas:
            living = [process for (process,) in connection.execute(LIVING, (self.now,))]
            self.rank, self.processes = sum([process < self._process for process in living]), len(living)

    def renewal_due(self) -> bool:
        """True if a third of the lease has passed."""
        due = self._clock() * 1000 > self._leased_until - self._lease * 2 // 3
        return due and (self._replicas or self._leased_until > 0)

    def may_sweep(self) -> bool:
        """False for the time of a lease after this process failed to renew its own."""
        now = self._clock() * 1000
        return now > self._patient_until and not 0 < self._leased_until < now

    def leave(self) -> None:
        """This process ends."""
        self._tallies.connection.execute(LEAVE, (self._process,))
        self._leased_until = 0

    def untidy(self, connection: StoreConnection) -> bool:
        """True if ``sweep`` has something to do. Only reads."""
        ((found,),) = connection.execute(UNTIDY, self._ends(int(self._clock() * 1000))).fetchall()
        return bool(found)

    def sweep(self) -> int:
        """Turns the holds of dead processes into rows ``process_lost``, and deletes what no longer counts. Returns the
        number of such holds."""
        connection = self._tallies.connection
        orphans = connection.execute(ORPHANS, (self.now,)).fetchall()
        for request_id, *row in orphans:
            self._lose(request_id, opened(*row))
        dead, late, second, window = self._ends(self.now)
        for row in connection.execute(LATE, (late,)).fetchall():
            self._give_back(opened(*row).charges)
        ends = ((ENDED, dead), (DELETE_LATE, late), (OLD_SECONDS, second), (OLD_COUNTERS, window))
        for statement, end in ends:
            connection.execute(statement, (end,))
        return len(orphans)

    def _ends(self, now: int) -> tuple[int, int, int, int]:
        return now, now - DAY, now // 1000 - 120, (now - 2 * DAY) // 1000

    def _lose(self, request_id: str, hold: OpenHold) -> None:
        connection = self._tallies.connection
        sliding = tuple(charge for charge in hold.charges if charge.sliding)
        self._give_back(charge for charge in hold.charges if not charge.sliding)
        self._book_lost(hold, self.now)
        connection.execute(LOSE, (self.now, hold._replace(charges=sliding).body, request_id))

    def _book_lost(self, hold: OpenHold, now: int) -> None:
        charged = {(charge.scope, charge.unit) for charge in hold.charges if charge.sliding}
        for row in lost_rows(hold, now):
            self._tallies.connection.execute(INSERT_CALL, row)
            self._tallies.book(row, 1, charged)

    def _find_again(self, request_id: str, hold: OpenHold) -> None:
        """Takes back the rows of a call whose process was found dead but was not."""
        connection = self._tallies.connection
        charged = {(charge.scope, charge.unit) for charge in hold.charges}
        found = connection.execute(LOST_ROWS, (request_id,)).fetchall()
        for _, *values in found:
            self._tallies.book(CallRow(*values), -1, charged)
        delete(connection, [number for number, *_ in found])


def balances(location: Location, charges: Sequence[Charge], clock: Clock = time.time) -> list[Balance]:
    """The spent and the held amount of each charge's counter, from the rows where there is no counter yet. Changes
    nothing.

    Raises StoreError.
    """
    with reading(location) as connection:
        connection.snapshot()
        tallies = Tallies()
        tallies.begin(connection, int(clock()))
        return [tallies.make(charge).balance(charge.amount, charge.limit) for charge in charges]
