"""Migrates a ledger file of an older version to this one, by Alembic.

    run -> python -m ...migrations FILE -> env.py -> versions/

A child process migrates, since Alembic and SQLAlchemy would stay in the gateway's memory. A migration is one
transaction: until its end the file is the old one, and stays so if the child is killed or the disk is full.

To add a version: change schema.py; add versions/v4_....py with the next ``revision``; bring new_file.py up to date. A
released version is never changed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from ..errors import StoreError, error_of

_ONE = threading.Lock()  # one child at a time; processes wait for each other by the file's lock


def run(path: Path, busy_seconds: float, done: Callable[[], bool]) -> None:
    """Migrates the file, unless it is ``done`` by now. Waits ``busy_seconds`` for another program's lock.

    Raises sqlite3.OperationalError with the child's code, StoreError if the child failed otherwise.
    """
    with _ONE:
        if done():
            return
        try:
            child = _child(str(path.absolute()), str(busy_seconds))
        except OSError as error:
            raise StoreError(f"its migration cannot be started ({error.strerror})") from None
        if child.returncode == 1 and child.stdout.strip().isdecimal():
            raise error_of(int(child.stdout))
        if child.returncode or not done():
            last = child.stderr.strip().rpartition("\n")[2].partition(":")[0]  # only the error's name, no values
            raise StoreError(f"its migration failed ({last or f'exit code {child.returncode}'})")


def _child(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs this package in a child process, with this process's module paths but not the package's own folder."""
    return subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-P", "-m", __name__, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
