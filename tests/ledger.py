"""Making, reading and filling a ledger file in tests."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from typing import Any, Protocol

from app.storage.ledger_file import CallRow
from app.storage.location import Location
from app.storage.opening import connect


class Stored(Protocol):
    @property
    def location(self) -> Location: ...


def path_of(stored: Stored) -> Path:
    """The path of a ledger that is a file."""
    assert isinstance(stored.location, Path)
    return stored.location


def read(location: Location, statement: str) -> list[tuple[Any, ...]]:
    """The rows that ``statement`` selects. Raises DRIVER_ERRORS, for example if there is no file."""
    with closing(connect(location, "ro", 5.0)) as connection:
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
