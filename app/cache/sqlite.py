"""A SQLite file that may be lost: written by a thread of its own, read where one asks, made anew where damaged."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from ..storage.files import make
from ..storage.sqlite import code, words, write_ahead

logger = logging.getLogger("torii.cache")

WAITING = 2048  # statements that may wait to be written; what is beyond them is dropped
AT_ONCE = 512  # statements of one transaction
GATHER_SECONDS = 0.05  # for which a transaction waits for more of them: it costs more than what is in it
READ_BUSY_SECONDS = 0.02
WRITE_BUSY_SECONDS = 5.0
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

Row = Sequence[Any]
Statement = tuple[str, Row]
RENEW: Statement = ("", ())  # in the place of a statement: the file is damaged


class Database:
    """``schema`` is run whenever the file is opened. Neither ``read`` nor ``write`` ever raises."""

    def __init__(self, path: Path, schema: str) -> None:
        self._path = path
        self._schema = schema
        self._lock = threading.Lock()
        self._reader: sqlite3.Connection | None = None
        self._queue: SimpleQueue[Statement | None] = SimpleQueue()
        self._writer: sqlite3.Connection | None = None
        self._quiet = self._ended = False
        self._closing = threading.Event()
        self._open()
        self._thread = threading.Thread(target=self._work, name="torii-cache", daemon=True)
        self._thread.start()

    def read(self, statement: str, parameters: Row) -> list[Any]:
        """The rows; none where there is trouble."""
        with self._lock:
            if self._reader is None:
                return []
            try:
                return self._reader.execute(statement, parameters).fetchall()
            except sqlite3.Error as error:
                if _is_damage(error):
                    self._queue.put(RENEW)
                else:
                    self._trouble("read", error)
                return []

    def write(self, statement: str, row: Row) -> None:
        """Soon, in order. Dropped where too much waits already."""
        if self._queue.qsize() < WAITING:
            self._queue.put((statement, row))

    def close(self) -> None:
        """Ends when all that waits is written."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()
        self._shut()

    def _open(self) -> None:
        """Whatever goes wrong, it is tried again with what is written next."""
        try:
            self._connect()
        except sqlite3.Error as error:
            if _is_damage(error):
                self._renew()
            else:
                self._trouble("opened", error)
        except OSError as error:
            self._trouble("opened", error)

    def _connect(self) -> None:
        """Without the lock, since a locked file is waited for. Nothing stays open where it raises."""
        make(self._path)
        writer = self._connection(WRITE_BUSY_SECONDS)
        try:
            write_ahead(writer, WRITE_BUSY_SECONDS)
            writer.execute("PRAGMA synchronous = OFF")  # a power cut may cost the file, never a wrong answer
            writer.executescript(self._schema)
            reader = self._connection(READ_BUSY_SECONDS)
        except sqlite3.Error:
            writer.close()
            raise
        with self._lock:
            self._reader, self._writer = reader, writer

    def _connection(self, busy: float) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=busy, isolation_level=None, check_same_thread=False)

    def _shut(self) -> None:
        with self._lock:
            for connection in (self._reader, self._writer):
                if connection is not None:
                    connection.close()
            self._reader = self._writer = None

    def _renew(self) -> None:
        """Sets a damaged file aside, the one from the last time making room, and begins a new one."""
        self._shut()
        aside = self._path.with_name(f"{self._path.name}.damaged")
        try:
            self._path.replace(aside)
            for end in ("-wal", "-shm"):
                self._path.with_name(self._path.name + end).unlink(missing_ok=True)
            self._connect()
            logger.warning("the cache file %s was damaged; it is now %s, and a new file was created", self._path, aside)
        except (sqlite3.Error, OSError) as error:
            self._trouble("replaced", error)

    def _work(self) -> None:
        while not self._ended:
            if batch := self._batch():
                self._commit(batch)

    def _batch(self) -> list[Statement]:
        """All that waits, as soon as there is something."""
        batch: list[Statement] = []
        try:
            item = self._queue.get()
            self._closing.wait(GATHER_SECONDS)
            while item is not None:
                batch.append(item)
                if len(batch) == AT_ONCE:
                    return batch
                item = self._queue.get_nowait()
        except Empty:
            return batch
        self._ended = True
        return batch

    def _commit(self, batch: list[Statement]) -> None:
        if RENEW in batch:
            self._renew()
            batch = [statement for statement in batch if statement is not RENEW]
        elif self._writer is None:
            self._open()
        if self._writer is None:
            return
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for statement, row in batch:
                self._writer.execute(statement, row)
            self._writer.execute("COMMIT")
            self._quiet = False
        except sqlite3.Error as error:
            self._undo(self._writer, error)

    def _undo(self, writer: sqlite3.Connection, error: sqlite3.Error) -> None:
        if _is_damage(error):
            self._renew()
            return
        if writer.in_transaction:
            writer.rollback()
        self._trouble("written", error)

    def _trouble(self, what: str, error: Exception) -> None:
        if not self._quiet:
            self._quiet = True
            logger.warning("the cache file %s cannot be %s: %s; calls bypass the file", self._path, what, words(error))


def _is_damage(error: sqlite3.Error) -> bool:
    return code(error) in DAMAGE
