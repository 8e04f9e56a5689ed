"""The database under what happens to files: locked, full, damaged, foreign, gone, shared."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Barrier

import pytest

from app.storage.store import VERSIONS, Database, NoFile, StoreError, read

from ..conftest import until

ROOT = Path(__file__).parents[2]
NOTE = "INSERT INTO notes (text) VALUES (?)"
COUNT = "SELECT count(*) FROM notes"


@contextmanager
def noting(path: Path, room: int = 10_000) -> Iterator[Database]:
    """A database that is looked at every few milliseconds, with a table for notes."""
    database = Database(path, room=room, busy_seconds=0.05, flush_seconds=0.01)
    try:
        database.write("CREATE TABLE IF NOT EXISTS notes (text TEXT NOT NULL)", ())
        yield database
    finally:
        database.close()


def noted(path: Path) -> int:
    try:
        ((count,),) = read(path, COUNT)
    except StoreError:
        return -1
    return int(count)


@contextmanager
def another(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


async def test_what_is_written_is_soon_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "torii.db"
    with noting(path) as database:
        for number in range(2500):
            database.write(NOTE, (str(number),))
        await until(lambda: noted(path) == 2500)
        assert database.read("SELECT text FROM notes ORDER BY rowid LIMIT 2") == [("0",), ("1",)]
        assert database.health is None
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == ["torii.db"]


def test_what_waits_is_written_at_the_end_and_nothing_after_it(tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    with noting(path) as database:
        database.write(NOTE, ("last",))
    database.write(NOTE, ("too late",))
    assert read(path, "SELECT text FROM notes") == [("last",)]


async def test_rows_wait_while_another_program_locks_the_file(tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    with noting(path) as database:
        await until(lambda: noted(path) == 0)
        with another(path) as other:
            other.execute("BEGIN EXCLUSIVE")
            database.write(NOTE, ("a",))
            await until(lambda: database.health is not None)
            database.write(NOTE, ("b",))
            trouble = database.health
            assert trouble is not None
            assert (trouble.what, trouble.waiting, trouble.lost) == ("another program has locked it", 2, 0)
            other.execute("ROLLBACK")
        await until(lambda: noted(path) == 2)
        await until(lambda: database.health is None)


async def test_what_does_not_fit_in_the_queue_is_lost_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "torii.db"
    with noting(path, room=10) as database:
        await until(lambda: noted(path) == 0)
        with another(path) as other:
            other.execute("BEGIN EXCLUSIVE")
            for number in range(15):
                database.write(NOTE, (str(number),))
            await until(lambda: database.health is not None)
            trouble = database.health
            assert trouble is not None
            assert (trouble.waiting, trouble.lost) == (10, 5)
            other.execute("ROLLBACK")
        await until(lambda: noted(path) == 10)
    assert sum("queue of rows is full" in record.message for record in caplog.records) == 1


async def test_a_lock_at_the_start_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    with noting(path):
        pass
    with another(path) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute(NOTE, ("theirs",))
        with noting(path) as database:
            database.write(NOTE, ("ours",))
            assert database.health is not None
            other.execute("COMMIT")
            other.close()
            await until(lambda: noted(path) == 2)


async def test_a_row_that_can_never_be_written_does_not_hold_up_the_others(tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    with noting(path) as database:
        for text in ("a", None, "\ud800", 2**70, object(), "b"):
            database.write(NOTE, (text,))
        database.write(NOTE, ())
        database.write("INSERT INTO nowhere VALUES (1)", ())
        database.write(NOTE, ("c",))
        await until(lambda: noted(path) == 3)
        assert database.health is None
    assert read(path, "SELECT text FROM notes") == [("a",), ("b",), ("c",)]


async def test_a_file_that_somebody_removes_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    with noting(path) as database:
        await until(lambda: noted(path) == 0)
        for file in tmp_path.iterdir():
            file.unlink()
        database.write("CREATE TABLE notes (text TEXT NOT NULL)", ())
        database.write(NOTE, ("a",))
        await until(lambda: noted(path) == 1)
    assert read(path, "SELECT count(*) FROM calls") == [(0,)]


async def test_where_no_file_can_be_for_a_while_rows_wait(tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    with noting(path) as database:
        await until(lambda: noted(path) == 0)
        for file in tmp_path.iterdir():
            file.unlink()
        path.mkdir()
        database.write("CREATE TABLE notes (text TEXT NOT NULL)", ())
        database.write(NOTE, ("a",))
        await until(lambda: database.health is not None)
        path.rmdir()
        await until(lambda: noted(path) == 1)
        await until(lambda: database.health is None)


def filled(path: Path) -> bytes:
    with noting(path) as database:
        for number in range(2000):
            database.write(NOTE, (f"{number:0100}",))
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
        Database(path)
    assert str(error.value) == words
    assert path.read_bytes() == bad


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    filled(path)
    with another(path) as other:
        other.execute(f"PRAGMA user_version = {len(VERSIONS) + 1}")
    for use in (Database, lambda path: read(path, COUNT)):
        with pytest.raises(StoreError) as error:
            use(path)
        newer = len(VERSIONS) + 1
        assert str(error.value) == f"a newer Torii wrote it (version {newer}; this Torii knows up to {newer - 1})"


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with another(path) as other:
        other.execute("CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(StoreError, match="it belongs to another program"):
        Database(path)
    with another(path) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]


def test_where_no_file_can_be_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "torii.db", tmp_path):
        with pytest.raises(NoFile) as error:
            Database(path)
        assert str(tmp_path) not in str(error.value)
    with pytest.raises(NoFile, match="there is no such file"):
        read(tmp_path / "none.db", COUNT)
    assert not (tmp_path / "none.db").exists()


def test_one_file_is_made_by_many_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As workers do that start together: none sees half of what another makes, none is sent away by its lock."""
    together = Barrier(8)

    def make(path: Path) -> None:
        together.wait()
        Database(path).close()

    with ThreadPoolExecutor(8) as makers:
        for number in range(25):
            list(makers.map(make, [tmp_path / f"{number}.db"] * 8))
    assert caplog.messages == []


WRITER = """
import sys
from pathlib import Path
from app.storage.store import Database

database = Database(Path(sys.argv[1]), flush_seconds=0.001)
database.write("CREATE TABLE IF NOT EXISTS notes (text TEXT NOT NULL)", ())
for number in range(500):
    database.write("INSERT INTO notes (text) VALUES (?)", (sys.argv[2] + str(number),))
database.close()
"""


def test_several_processes_make_and_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], cwd=ROOT, stderr=subprocess.PIPE)
        for name in "abc"
    ]
    for writer in writers:
        assert writer.communicate(timeout=60)[1] == b""
    assert read(path, "SELECT count(*), count(DISTINCT text) FROM notes") == [(1500, 1500)]
