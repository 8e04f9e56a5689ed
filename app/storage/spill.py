"""Files beside the ledger for rows that the queue has no room for: JSON lines, for their owner alone.

A file belongs to the process that has locked it, until that process is dead or has closed it. Then it is read back by
any process that has the ledger open, and deleted. The table ``state`` has how far it was read.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec

if sys.platform != "win32":
    import fcntl

OPENED = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)


class Spill:
    """``path`` is the ledger's, ``owner`` a name that no other process has."""

    def __init__(self, path: Path, owner: str) -> None:
        self._path, self._owner = path, owner
        self._number = 0
        self._file: int | None = None
        self._lock = Lock()  # rows come from the event loop, the writer's thread reads them back
        self.waiting = 0  # rows of this process in its file

    def keep(self, item: tuple[str, Any]) -> bool:
        """Appends what a verb was given. False if it cannot be written."""
        try:
            line = msgspec.json.encode(item) + b"\n"
        except (ValueError, TypeError):
            return False
        with self._lock:
            try:
                if self._file is None:
                    self._file = self._opened()
                size = os.fstat(self._file).st_size
                if os.write(self._file, line) != len(line):
                    os.ftruncate(self._file, size)
                    return False
            except OSError:
                return False
            self.waiting += 1
            return True

    def _opened(self) -> int:
        self._number += 1
        name = f"{self._path.name}.spill-{self._owner}-{self._number}"
        file = os.open(self._path.with_name(name), OPENED, 0o600)
        _locked(file)
        return file

    def release(self) -> None:
        """Closes this process's file, so that it can be read back."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
            self._file = None
            self.waiting = 0

    def found(self) -> list[Path]:
        """All files beside the ledger, also those of other processes."""
        start = f"{self._path.name}.spill-"
        try:
            with os.scandir(self._path.parent) as entries:
                return sorted(self._path.with_name(entry.name) for entry in entries if entry.name.startswith(start))
        except OSError:
            return []


class Spilled:
    """A file that is read back, locked until ``close``. Raises BlockingIOError while its process lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        try:
            if not _locked(self._file):
                raise BlockingIOError
            with os.fdopen(os.dup(self._file), "rb") as file:
                self.lines = file.read().splitlines()
        except BaseException:
            os.close(self._file)
            raise

    @property
    def name(self) -> str:
        """The row of ``state`` that has the number of lines that are in the ledger."""
        return f"spill:{self.path.name}"

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._file)


def parsed(line: bytes) -> tuple[str, Any] | None:
    """A verb and what it was given; None for a line that was not written whole."""
    try:
        verb, values = msgspec.json.decode(line, type=tuple[str, Any])
    except msgspec.DecodeError:
        return None
    return verb, values


def _locked(file: int) -> bool:
    """Locks the file; False if another process has. Where there are no such locks, every file is free."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(file).st_nlink > 0  # another process may have read it back and deleted it
