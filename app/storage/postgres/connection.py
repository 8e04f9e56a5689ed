"""PostgreSQL behind the interface of ``connection.Connection``, by psycopg.

    execute -> waits in the transaction -> a result is read, or COMMIT -> one pipeline, one round trip

Statements of a transaction are sent together as late as possible: a turn that writes hundreds of rows waits for the
server as often as it reads. ``begin`` takes one lock for all that write (pg_advisory_xact_lock), so that transactions
come one after another as in an SQLite file: no two can wait for each other, and ids are in the order of commits.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import errors, pq
from psycopg.adapt import Buffer, Loader
from psycopg.types.numeric import FloatDumper, Int8Dumper
from psycopg.types.string import StrDumperUnknown

from ..errors import PostgresError, StoreError
from ..location import Postgres
from ..sqlite import known
from .failures import failure

CONNECT_SECONDS = 2  # libpq takes no less
ANSWER_SECONDS = 2.0  # of the server, for one round trip
LOCK_MS = 1500  # to wait for the transactions of the others
IDLE_MS = 2000  # after which the server ends a transaction of a process that has stopped in the midst of it
LOCK = 0x746F726969  # "torii"
BULK = 100  # rows of one table from which COPY is quicker than a statement each, by ten times for thousands
SERVED = 120_000  # the oldest version that is tried, as server_version

BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED;"  # noqa: S608 - our own numbers
    f"SET LOCAL lock_timeout = {LOCK_MS};"
    f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_MS};"
    f"SELECT pg_advisory_xact_lock({LOCK});"
    "SELECT (SELECT value FROM state WHERE name = 'turn'),"
    " extract(epoch FROM clock_timestamp())::float8, txid_current()"
)
# The session that holds the lock and has waited for its client: in the midst of what is sent together the server's own
# timeout does not run, so that a stopped process would keep the lock. A user may end their own sessions.
END_STOPPED = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory'"  # noqa: S608 - our own numbers
    f" AND granted AND classid = {LOCK >> 32} AND objid = {LOCK & 0xFFFFFFFF} AND wait_event = 'ClientRead'"
    " AND application_name = 'torii'"
    f" AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    f" AND clock_timestamp() > xact_start + interval '{IDLE_MS} milliseconds'"
)
MARK = (
    "INSERT INTO state (name, value) VALUES ('turn', 1) ON CONFLICT (name) DO UPDATE SET value = state.value + 1"
    " RETURNING value"
)
HEADER = (
    "SELECT obj_description(to_regclass('calls'), 'pg_class'), to_regclass('state') IS NOT NULL, count(*) FROM pg_class"
    " WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')"
)
COMMENT = "Torii's ledger, version "  # on the table calls

_PLAIN_INSERT = re.compile(r"INSERT INTO (\w+ \([^()]*\)) VALUES \([?, ]*\)")
_PLACE = re.compile(r"\?(\d*)|%")


class _Whole(Loader):
    """The sum of whole numbers is of the type numeric."""

    def load(self, data: Buffer) -> int | float:
        text = bytes(data)
        return float(text) if b"." in text or b"N" in text else int(text)


class _Text(StrDumperUnknown):
    """PostgreSQL has no text with U+0000."""

    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)


class _Number(Int8Dumper):
    """All whole numbers have one type, so that a statement is prepared once."""

    def dump(self, obj: Any) -> Buffer | None:
        return super().dump(int(obj))


class _Real(FloatDumper):
    """What is not a number is null, as in SQLite."""

    def dump(self, obj: float) -> Buffer | None:
        return None if obj != obj else super().dump(obj)


class _Driver(psycopg.Connection[tuple[Any, ...]]):
    """``seconds``: the most that one round trip may take. ``kept``: ``close`` does nothing, since SQLAlchemy closes
    what it has used."""

    seconds = ANSWER_SECONDS
    kept = False

    def close(self) -> None:
        if not self.kept:
            super().close()

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        return super().wait(gen, interval, self.seconds if timeout is None else timeout)


@lru_cache(2048)
def translated(statement: str) -> tuple[bytes, tuple[int, ...]]:
    """The statement with psycopg's places, and the numbers of the values that they take if these are numbered."""
    numbers: list[int] = []

    def place(found: re.Match[str]) -> str:
        if found[0] == "%":
            return "%%"
        if found[1]:
            numbers.append(int(found[1]) - 1)
        return "%s"

    return _PLACE.sub(place, statement).encode(), tuple(numbers)


class PostgresResult:
    """The results of a statement, which are there once one of them is asked for."""

    __slots__ = ("_connection", "_rowcount", "_rows")

    def __init__(self, connection: PostgresConnection) -> None:
        self._connection: PostgresConnection | None = connection
        self._rows: list[Any] = []
        self._rowcount = -1

    def take(self, cursor: psycopg.Cursor[Any]) -> None:
        self._connection = None
        self._rowcount = cursor.rowcount
        if cursor.description is not None:
            self._rows = cursor.fetchall()

    def _sent(self) -> None:
        if self._connection is not None:
            self._connection.send()

    @property
    def rowcount(self) -> int:
        self._sent()
        return self._rowcount

    def fetchone(self) -> Any:
        self._sent()
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> list[Any]:
        self._sent()
        rows, self._rows = self._rows, []
        return rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())


class PostgresConnection:
    """An open connection. Raises PostgresError, as do all methods. ``seconds`` is the most that a round trip may take;
    the connection is of no more use after it."""

    dialect = "postgresql+psycopg://"
    remote = True

    def __init__(self, location: Postgres, seconds: float = ANSWER_SECONDS) -> None:
        try:
            self.driver = _Driver.connect(
                location.url,
                autocommit=True,
                prepare_threshold=None if location.pooled else 5,
                connect_timeout=CONNECT_SECONDS,
                application_name="torii",
            )
        except psycopg.Error as error:
            raise failure(error, connecting=True) from None
        self.driver.seconds = seconds
        adapters = self.driver.adapters
        adapters.register_loader("numeric", _Whole)
        adapters.register_dumper(str, _Text)
        adapters.register_dumper(int, _Number)
        adapters.register_dumper(float, _Real)
        adapters.register_dumper(bool, _Number)
        self.number = 0  # of the latest transaction that writes
        self.offset = 0.0  # of the server's clock against this machine's, in seconds
        self._begun = 0.0  # the server's time at the start of the transaction
        self._waiting: list[tuple[str, Sequence[Any], PostgresResult]] = []
        self._turn: int | None = None  # of the last transaction that this connection knows of
        self._changes = 0
        self._marked: PostgresResult | None = None

    @property
    def in_transaction(self) -> bool:
        return self.driver.info.transaction_status not in (pq.TransactionStatus.IDLE, pq.TransactionStatus.UNKNOWN)

    def begin(self) -> None:
        self._marked = None
        try:
            cursor = self.driver.execute(BEGIN.encode())
        except errors.LockNotAvailable as error:
            self.rollback()
            self._run(END_STOPPED)
            raise failure(error) from None
        except psycopg.Error as error:
            raise failure(error) from None
        while cursor.nextset():
            pass
        turn, clock, self.number = cursor.fetchall()[-1]
        if turn != self._turn:
            self._turn, self._changes = turn, self._changes + 1
        self._begun, self.offset = clock, clock - time.time()

    def lock(self) -> None:
        """As ``begin``, for a transaction of any length, also over an empty database."""
        self._run("BEGIN")
        self._run("SET LOCAL application_name = 'torii db'")  # END_STOPPED leaves it alone
        self._run(f"SELECT pg_advisory_xact_lock({LOCK})")

    def committed(self, number: int) -> bool | None:
        """True if the transaction with this number was committed; None while nobody knows."""
        try:
            (status,) = self.execute("SELECT txid_status(?)", (number,)).fetchone()
        except PostgresError as error:
            if error.of_row:  # it is in the server's future: another server has taken over, without it
                return False
            raise
        return {"committed": True, "aborted": False}.get(status)

    def clock(self) -> float:
        """The server's clock: Unix time in seconds; in a transaction that writes, that of its start."""
        return self._begun if self.in_transaction else time.time() + self.offset

    def snapshot(self) -> None:
        self._run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def seen(self) -> int:
        return self._changes

    def mark(self) -> None:
        if self._marked is None:
            self._marked = self.execute(MARK)

    def version(self) -> int:
        comment, ours, tables = self.execute(HEADER).fetchone()
        if comment is None or not comment.startswith(COMMENT):
            if comment is not None or tables:
                raise StoreError("it belongs to another program: its schema has tables, and none of Torii's")
            return 0
        return known(int(comment.removeprefix(COMMENT))) if ours else 0

    def tables(self) -> set[str]:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
        return {name for (name,) in self.execute(query)}

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> PostgresResult:
        result = PostgresResult(self)
        self._waiting.append((statement, values, result))
        if not self.in_transaction:
            self.send()
        return result

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> None:
        every = list(rows)
        plain = _PLAIN_INSERT.fullmatch(statement) if len(every) >= BULK and self.in_transaction else None
        if plain:
            self.send()
            self._copy(f"COPY {plain[1]} FROM STDIN", every)
            return
        for row in every:
            self._waiting.append((statement, row, PostgresResult(self)))
        if not self.in_transaction:
            self.send()

    def _copy(self, statement: str, rows: list[Sequence[Any]]) -> None:
        try:
            with self.driver.cursor().copy(statement.encode()) as copying:
                for row in rows:  # COPY takes no 1.0 for a whole number, as INSERT does
                    copying.write_row(
                        [int(each) if type(each) is float and each.is_integer() else each for each in row]
                    )
        except psycopg.Error as error:
            raise failure(error) from None

    def attempt(self, statement: str, row: Sequence[Any]) -> None:
        self.send()
        self._run("SAVEPOINT attempt")
        try:
            self.execute(statement, row).fetchall()
        except (PostgresError, ValueError, OverflowError):
            self._waiting.clear()
            self._run("ROLLBACK TO attempt")
            raise
        self._run("RELEASE attempt")

    def send(self, *, commits: bool = False) -> None:
        """Sends what waits, and takes the results. ``commits``: the last statement ends the transaction."""
        waiting, self._waiting = self._waiting, []
        try:
            if len(waiting) == 1:
                statement, values, result = waiting[0]
                result.take(self._sent(statement, values))
            elif waiting:
                with self.driver.pipeline():
                    cursors = [self._sent(statement, values) for statement, values, _ in waiting]
                for (_, _, result), cursor in zip(waiting, cursors, strict=True):
                    result.take(cursor)
        except psycopg.Error as error:
            raise failure(error, unknown=commits) from None

    def _sent(self, statement: str, values: Sequence[Any]) -> psycopg.Cursor[Any]:
        text, numbers = translated(statement)
        return self.driver.execute(text, [values[number] for number in numbers] if numbers else values)

    def _run(self, statement: str) -> psycopg.Cursor[Any]:
        try:
            return self.driver.execute(statement.encode())
        except psycopg.Error as error:
            raise failure(error) from None

    def commit(self) -> None:
        self._waiting.append(("COMMIT", (), PostgresResult(self)))
        self.send(commits=True)
        if self._marked is not None:
            (self._turn,) = self._marked.fetchone()

    def rollback(self) -> None:
        self._waiting.clear()
        if self.in_transaction:
            self._run("ROLLBACK")

    def works(self) -> bool:
        """False if the server has ended the connection."""
        try:
            self._run("SELECT 1")
        except PostgresError:
            return False
        return True

    def announce(self, channel: str) -> None:
        self.execute("SELECT pg_notify(?, '')", (channel,))

    def listen(self, channel: str) -> None:
        """From now on ``heard`` has what is said on the channel."""
        self._run(f"LISTEN {channel}")

    def heard(self, seconds: float) -> bool:
        """Waits for a message, ``seconds`` at most; False if none came."""
        try:
            return any(True for _ in self.driver.notifies(timeout=seconds, stop_after=1))
        except psycopg.Error as error:
            raise failure(error) from None

    def __del__(self) -> None:
        """A connection that nobody has any more is closed, as SQLite's are."""
        with suppress(AttributeError):  # it was never open
            self.close()

    def close(self) -> None:
        self._waiting.clear()
        self.driver.kept = False
        self.driver.close()
