"""A file's ledger moved to PostgreSQL: all of it, all or nothing, and what was spent stays spent."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.callers.accounts import key_file
from app.storage.errors import StoreError
from app.storage.holds import MINUTE
from app.storage.ledger_file import CooldownRow, LedgerFile
from app.storage.location import Location, Postgres
from app.storage.new_file import VERSION
from app.storage.opening import connect
from app.storage.postgres.copying import copy
from app.storage.postgres.tables import upgrade
from app.storage.retention import keep_up
from app.storage.schema import metadata
from app.storage.verify import verify

from ...ledger import call, read
from ..charging import DAY, START, Books, Clock, charge, row

WHO = ("operator", "127.0.0.1")
LIMIT = 5000
DAYS = 40 * 86400.0


def contents(location: Location) -> dict[str, list[Any]]:
    found = {}
    for table in metadata.sorted_tables:
        columns = ", ".join(f'"{column.name}"' for column in table.columns)
        found[table.name] = sorted(read(location, f"SELECT {columns} FROM {table.name}"), key=str)
    return found


@pytest.fixture
def filled(path: Path) -> Path:
    """A ledger with all that a team's has: keys, what they have spent and hold, a dead process, and sums of weeks."""
    with closing(LedgerFile(path)) as file:
        file.refuse(29_921_040, "k", "", "tokens/day")
        file.remember_cooldown(CooldownRow("jina", "f", "jina-1", "refused", 2e9 + 0.125))
        for day in range(3):
            file.record_call(
                call(time=START * 1000 - day * 86_400_000 * 20, user="u", error="a\0b", total_tokens=2**53)
            )
    with closing(connect(path, "rw", 5.0)) as connection:
        connection.execute("INSERT INTO alerts VALUES ('key:k', 'usd', '', 0, 1, 50, 0)")
        classifier = ("r1", "c1", "k", None, "jina", "jina-1", "f" * 64, "m", '["x"]', START * 1000, "ready")
        connection.execute(f"INSERT INTO classifiers VALUES ({', '.join('?' * 11)})", classifier)
    keys = key_file(path)
    keys.create_team({"id": "t", "name": "team"}, *WHO)
    key, _ = keys.create_key({"name": "k", "team": "t", "metadata": {"a": "é"}}, *WHO)
    keys.rotate_key(key.id, 60, *WHO)
    keys.create_management_key({"name": "m", "scope": "admin"}, *WHO)
    clock = Clock()
    ours, dead = Books(path, clock=clock), Books(path, "dead", clock)
    both = (charge("tokens", 1000, LIMIT, DAY), charge("tokens", 1000, 10**6, MINUTE))
    ours.hold(*both, request_id="done", key_id="k", total_tokens=1000)
    ours.settle("done", row("done", key_id="k", total_tokens=700))
    dead.hold(*both, request_id="lost", key_id="k", total_tokens=1000)
    keep_up(path, now=START + DAYS)
    return path


def test_all_is_copied_and_served_on(filled: Path, tables_url: str) -> None:
    location = Postgres(tables_url, filled)
    before = contents(filled)
    assert all(before[name] for name in before if name not in ("idempotency", "stale")), before
    assert copy(filled, location) == (1, 4)
    assert contents(filled) == before
    copied = contents(location)
    for name, rows in before.items():
        assert [tuple(_sent(each) for each in line) for line in rows] == copied[name], name
    assert verify(location) == verify(filled) == []
    # Both go on alike: what is left is given to the token, and what the dead process held becomes its row.
    for store in (filled, location):
        clock = Clock()
        clock.now += 31
        books = Books(store, "new", clock)
        assert books.counter("tokens") == (700, 1000)
        left = charge("tokens", LIMIT - 1700 + 1, LIMIT, DAY)
        assert books.hold(left, request_id="more", key_id="k").refused is not None
        assert books.hold(left._replace(amount=left.amount - 1), request_id="last", key_id="k").refused is None
        books.settle("last", row("last", key_id="k", total_tokens=left.amount - 1))
        assert books.sweep() == 1
        assert books.counter("tokens") == (LIMIT, 0)
        assert read(store, "SELECT request_id FROM calls ORDER BY id DESC LIMIT 2") == [("lost",), ("last",)]
        assert read(store, "SELECT id FROM calls ORDER BY id") == [(number,) for number in range(1, 7)]
        keep_up(store, now=START + DAYS)
        assert verify(store) == []
        assert key_file(store).create_key({"name": "another"}, *WHO)[0].name == "another"
        assert [entry.action for entry in key_file(store).audit(limit=2)] == ["key.create", "management_key.create"]


def _sent(value: Any) -> Any:
    """PostgreSQL has no text with U+0000."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _wrong_sum(path: Path, _: Postgres) -> None:
    _changed(path, "UPDATE counters SET spent = spent + 1 WHERE until > 0")


def _older(path: Path, _: Postgres) -> None:
    _changed(path, f"PRAGMA user_version = {VERSION - 1}")


def _another_programs(path: Path, _: Postgres) -> None:
    _changed(path, "PRAGMA application_id = 7")


def _used(_: Path, location: Postgres) -> None:
    with closing(LedgerFile(location)) as file:
        file.record_call(call())


def _with_a_team(_: Path, location: Postgres) -> None:
    key_file(location).create_team({"id": "t", "name": "team"}, *WHO)


def _changed(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute(statement)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_wrong_sum, "the counter says 701 spent, the rows say 700; nothing was copied"),
        (_older, "an older Torii wrote it; `torii db upgrade` brings it to this version"),
        (_another_programs, "it belongs to another program"),
        (_used, "it has 1 rows in calls; copy to an empty database"),
        (_with_a_team, "it has 1 rows in audit; copy to an empty database"),
    ],
)
def test_what_cannot_be_copied_is_refused_and_left_as_it_is(
    spoil: Any, words: str, filled: Path, tables_url: str
) -> None:
    location = Postgres(tables_url, filled)
    spoil(filled, location)
    before = contents(location)
    with pytest.raises(StoreError) as caught:
        copy(filled, location)
    assert words in str(caught.value)
    assert contents(location) == before


def test_only_a_database_with_our_tables_is_copied_to(filled: Path, postgres_url: str, tmp_path: Path) -> None:
    location = Postgres(postgres_url, filled)
    with pytest.raises(StoreError, match="it has no tables of this version; `torii db upgrade` makes them"):
        copy(filled, location)
    upgrade(location)
    with pytest.raises(StoreError, match="there is no such file"):
        copy(tmp_path / "none.db", location)
    assert copy(filled, location).keys == 1
