"""A ledger file in all kinds of trouble: locked, full, damaged, another program's, removed, shared."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.storage.errors import NoFile, StoreError
from app.storage.ledger_file import CooldownRow, LedgerFile
from app.storage.location import Location
from app.storage.new_file import VERSION
from app.storage.queries import first_time

from ..conftest import until
from ..ledger import call, make_at_once, read

ROOT = Path(__file__).parents[2]
IDS = "SELECT request_id FROM calls ORDER BY id"


@contextmanager
def ledger(location: Location, room: int = 10_000) -> Iterator[LedgerFile]:
    """An open ledger file that is written every 10 ms."""
    file = LedgerFile(location, room=room, busy_seconds=0.05, flush_seconds=0.01)
    try:
        yield file
    finally:
        file.close()


def note(file: LedgerFile, *ids: str) -> None:
    for request_id in ids:
        file.record_call(call(request_id=request_id))


def noted(location: Location) -> list[str]:
    """The request ids in the ledger; none if it cannot be read at the moment."""
    try:
        return [request_id for (request_id,) in read(location, IDS)]
    except sqlite3.Error:
        return []


@contextmanager
def another(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


async def test_what_is_written_is_soon_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "torii.db"
    with ledger(path) as file:
        note(file, *map(str, range(2500)))
        await until(lambda: len(noted(path)) == 2500)
        assert noted(path) == [str(number) for number in range(2500)]
        assert file.health is None
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == ["torii.db"]


def test_what_waits_is_written_at_the_end_and_nothing_after_it(location: Location) -> None:
    with ledger(location) as file:
        note(file, "last")
    note(file, "too late")
    assert noted(location) == ["last"]


async def test_rows_wait_while_another_program_locks_the_file(tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    with ledger(path) as file:
        with another(path) as other:
            other.execute("BEGIN EXCLUSIVE")
            note(file, "a")
            await until(lambda: file.health is not None)
            note(file, "b")
            trouble = file.health
            assert trouble is not None
            assert (trouble.what, trouble.waiting, trouble.lost) == ("another program has locked it", 2, 0)
            other.execute("ROLLBACK")
        await until(lambda: noted(path) == ["a", "b"])
        await until(lambda: file.health is None)


async def test_what_does_not_fit_in_the_queue_waits_in_a_file_beside_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    with ledger(path, room=10) as file:
        with another(path) as other:
            other.execute("BEGIN EXCLUSIVE")
            note(file, *map(str, range(15)))
            await until(lambda: file.health is not None)
            trouble = file.health
            assert trouble is not None
            assert (trouble.waiting, trouble.lost) == (15, 0)
            ((spill, mode),) = [(each, each.stat().st_mode & 0o777) for each in tmp_path.glob("torii.db.spill-*")]
            assert mode == 0o600
            other.execute("ROLLBACK")
        await until(lambda: sorted(noted(path), key=int) == [str(number) for number in range(15)])
        await until(lambda: not spill.exists())


async def test_what_fits_neither_in_the_queue_nor_in_a_file_is_lost_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "torii.db"
    with ledger(path, room=10) as file:
        with another(path) as other:
            other.execute("BEGIN EXCLUSIVE")
            note(file, *map(str, range(10)))
            for _ in range(5):
                file.record_call(call(key=object()))
            await until(lambda: file.health is not None)
            trouble = file.health
            assert trouble is not None
            assert (trouble.waiting, trouble.lost) == (10, 5)
            other.execute("ROLLBACK")
        await until(lambda: noted(path) == [str(number) for number in range(10)])
    assert sum("queue of rows is full" in record.message for record in caplog.records) == 1


async def test_what_cannot_be_written_before_the_end_is_written_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    with ledger(path) as file:
        note(file, "a")
    with another(path) as other:
        with ledger(path) as file:
            other.execute("BEGIN EXCLUSIVE")
            note(file, *map(str, range(3000)))
        other.execute("ROLLBACK")
    assert noted(path) == ["a"]
    assert len(list(tmp_path.glob("torii.db.spill-*"))) == 1
    with ledger(path):
        await until(lambda: not list(tmp_path.glob("torii.db.spill-*")))
    assert noted(path) == ["a", *map(str, range(3000))]
    assert read(path, "SELECT * FROM state") == []


async def test_a_lock_at_the_start_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    with ledger(path) as file:
        note(file, "before")
    with another(path) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("UPDATE calls SET request_id = 'theirs'")
        with ledger(path) as file:
            note(file, "ours")
            assert file.health is not None
            other.execute("COMMIT")
            other.close()
            await until(lambda: noted(path) == ["theirs", "ours"])


async def test_a_row_that_can_never_be_written_does_not_hold_up_the_others(
    location: Location, caplog: pytest.LogCaptureFixture
) -> None:
    bad: list[dict[str, Any]] = [
        {"caller": None},
        {"model": "\ud800"},
        {"total_tokens": 2**70},
        {"key": object()},
        {"seconds": math.nan},
    ]
    with ledger(location) as file:
        note(file, "a")
        for values in bad:
            file.record_call(call(**values))
        file.remember_cooldown(CooldownRow("jina", "a", "a", "refused", None))  # type: ignore[arg-type]
        file.remember_cooldown(CooldownRow("jina", "b", "b", "refused", 1.5))
        file.record_call(call(request_id="c", error="\0", total_tokens=2**63 - 1))
        note(file, "b")
        await until(lambda: noted(location) == ["a", "c", "b"])
        assert [cooldown.alias for cooldown in file.cooldowns()] == ["b"]
        assert file.health is None
    assert sum("a row cannot be written" in message for message in caplog.messages) == len(bad) + 1


async def test_a_file_that_somebody_removes_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    with ledger(path) as file:
        note(file, "a")
        await until(lambda: noted(path) == ["a"])
        for each in tmp_path.iterdir():
            each.unlink()
        note(file, "b")
        await until(lambda: noted(path) == ["b"])


async def test_where_no_file_can_be_for_a_while_rows_wait(tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    with ledger(path) as file:
        note(file, "a")
        await until(lambda: noted(path) == ["a"])
        for each in tmp_path.iterdir():
            each.unlink()
        path.mkdir()
        note(file, "b")
        await until(lambda: file.health is not None)
        path.rmdir()
        await until(lambda: noted(path) == ["b"])
        await until(lambda: file.health is None)


def filled(path: Path) -> bytes:
    with ledger(path) as file:
        note(file, *(f"{number:0100}" for number in range(2000)))
    return path.read_bytes()


def _middle_gone(good: bytes) -> bytes:
    return good[: len(good) // 2] + b"\xff" * 8192 + good[len(good) // 2 + 8192 :]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda good: b"x" * len(good), "it is damaged, or is not a database"),
        (lambda good: good[:100] + b"x" * 4000 + good[4100:], "it is damaged"),
        (lambda good: good[: len(good) // 2], "it is damaged"),
        (_middle_gone, "it is damaged"),
    ],
    ids=["all", "first page", "cut", "middle"],
)
def test_a_damaged_file_is_refused_and_left_as_it_is(damage: object, words: str, tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    assert callable(damage)
    bad = damage(filled(path))
    path.write_bytes(bad)
    with pytest.raises(StoreError) as error:
        LedgerFile(path)
    assert str(error.value) == words
    assert path.read_bytes() == bad


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    filled(path)
    with another(path) as other:
        other.execute(f"PRAGMA user_version = {VERSION + 1}")
    for use in (LedgerFile, first_time):
        with pytest.raises(StoreError) as error:
            use(path)
        newer = VERSION + 1
        assert str(error.value) == f"a newer Torii wrote it (version {newer}; this Torii knows up to {newer - 1})"


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with another(path) as other:
        other.execute("CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(StoreError, match="it belongs to another program"):
        LedgerFile(path)
    with another(path) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]


@pytest.mark.parametrize("table", ["calls", "key_rests"])
def test_a_file_without_its_tables_is_refused(tmp_path: Path, table: str) -> None:
    """Each row for the table would be lost, while the gateway reports that all is well."""
    path = tmp_path / "torii.db"
    filled(path)
    with another(path) as other:
        other.execute(f"DROP TABLE {table}")
    with pytest.raises(StoreError, match="its tables are missing"):
        LedgerFile(path)


def test_where_no_file_can_be_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "torii.db", tmp_path):
        with pytest.raises(NoFile) as error:
            LedgerFile(path)
        assert str(tmp_path) not in str(error.value)
    with pytest.raises(NoFile, match="there is no such file"):
        first_time(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


def test_one_file_is_made_by_many_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Like workers that start together: none sees a half-made file, and none is turned away by another's lock."""
    make_at_once(lambda path: LedgerFile(path).close(), tmp_path)
    assert caplog.messages == []


WRITER = """
import sys
from pathlib import Path
from app.storage.ledger_file import CooldownRow, LedgerFile
from tests.ledger import call

file = LedgerFile(Path(sys.argv[1]), flush_seconds=0.001)
for number in range(500):
    file.record_call(call(request_id=sys.argv[2] + str(number)))
file.close()
"""


def test_several_processes_make_and_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], cwd=ROOT, stderr=subprocess.PIPE)
        for name in "abc"
    ]
    for writer in writers:
        assert writer.communicate(timeout=60)[1] == b""
    assert read(path, "SELECT count(*), count(DISTINCT request_id) FROM calls") == [(1500, 1500)]
