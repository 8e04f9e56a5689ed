"""Making, reading and filling a ledger file in tests."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from typing import Any

from app.storage.ledger_file import CallRow


def read(path: Path, statement: str) -> list[tuple[Any, ...]]:
    """The rows that ``statement`` selects. Raises sqlite3.Error, for example if there is no file."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


def call(**values: Any) -> CallRow:
    """The row of an ordinary call, with ``values`` in place of its own."""
    usual: dict[str, Any] = {
        "time": 1_795_262_400_000,  # 2026-11-21T12:00:00Z
        "caller": "alice",
        "endpoint": "embeddings",
        "model": "jina-embeddings-v3",
        "upstream": "jina",
        "upstream_model": "jina-embeddings-v3",
        "key": "jina",
        "status": 200,
        "error": None,
        "prompt_tokens": 1000,
        "completion_tokens": 0,
        "total_tokens": 1000,
        "estimated": 0,
        "seconds": 0.5,
        "first_event_seconds": None,
        "attempts": 1,
        "request_id": secrets.token_hex(16),
    }
    return CallRow(**{**usual, **values})


def make_at_once(make: Callable[[Path], None], folder: Path) -> None:
    """Calls ``make`` for 25 new files, for each in 8 threads at the same moment."""
    together = Barrier(8)

    def made(path: Path) -> None:
        together.wait()
        make(path)

    with ThreadPoolExecutor(8) as makers:
        for number in range(25):
            list(makers.map(made, [folder / f"{number}.db"] * 8))
