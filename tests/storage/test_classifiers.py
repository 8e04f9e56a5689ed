"""The rows of classifiers: written before and after, seen by other processes, kept while the file cannot be written."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from app.storage.classifiers import ClassifierBook, ClassifierRow, select
from app.storage.errors import StoreError
from app.storage.ledger_file import LedgerFile
from app.storage.location import Location

from ..conftest import until

ROW = ClassifierRow("r1", None, "ann", None, "jina", "jina-1", "f" * 64, "m", '["x"]', 1_795_262_400_000, "training")
READY = ROW._replace(classifier_id="c1", state="ready")


async def test_a_row_is_in_the_file_when_put_returns(location: Location) -> None:
    with closing(LedgerFile(path := location)) as file, closing(LedgerFile(path)) as other:
        book, elsewhere = ClassifierBook(file), ClassifierBook(other)
        await book.put(ROW)
        assert await elsewhere.rows() == [ROW]
        await book.put(READY)
        assert await elsewhere.find("c1") == READY
        assert await elsewhere.find("c2") is None


async def test_what_made_nothing_is_forgotten(location: Location) -> None:
    with closing(LedgerFile(path := location, flush_seconds=0.01)) as file:
        book = ClassifierBook(file)
        await book.put(ROW)
        book.forget("r1")
        await until(lambda: select(path) == [])


async def test_a_locked_file_refuses_a_row_and_takes_it_later(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(LedgerFile(path, flush_seconds=0.01, busy_seconds=0.05)) as file:
        book = ClassifierBook(file)
        with closing(sqlite3.connect(path, isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError):
                await book.put(ROW)
            book.put_later(READY, None)
            assert await book.find("c1") == READY  # of this process, at once
            assert select(path) == []
        await until(lambda: select(path) == [READY])


async def test_what_another_process_has_changed_since_counts(location: Location) -> None:
    path = location
    with closing(LedgerFile(path, flush_seconds=0.01)) as file, closing(LedgerFile(path)) as other:
        book, elsewhere = ClassifierBook(file), ClassifierBook(other)
        await book.put(ROW)
        book.put_later(READY, ROW)
        await until(lambda: select(path) == [READY])
        await elsewhere.put(adopted := READY._replace(key_id="bob"))
        assert (await book.find("c1"), await book.rows()) == (adopted, [adopted])
        await book.put(second := ROW._replace(request_id="r2"))
        book.put_later(second._replace(state="unknown"), second)
        await until(lambda: [row.state for row in select(path)] == ["ready", "unknown"])
        elsewhere.forget("r2")
        await until(lambda: len(select(path)) == 1)
        assert await book.rows() == [adopted]


async def test_without_a_file_the_rows_are_in_memory() -> None:
    book = ClassifierBook(None)
    await book.put(ROW)
    book.put_later(READY, ROW)
    assert (await book.rows(), await book.find("c1")) == ([READY], READY)
    book.forget("r1")
    assert await book.rows() == []


def test_no_file_and_a_file_of_an_older_version_have_no_rows(tmp_path: Path) -> None:
    assert select(tmp_path / "none.db") == []
    with closing(sqlite3.connect(path := tmp_path / "old.db")) as file:
        file.executescript((Path(__file__).parent / "released" / "c38aba8.sql").read_text(encoding="utf-8"))
    assert select(path) == []
