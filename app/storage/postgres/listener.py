"""The moment to look at the keys again: at once after a change in PostgreSQL, else at times."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import PostgresError
from ..location import Location

if TYPE_CHECKING:
    from .connection import PostgresConnection

CHANNEL = "torii_keys"
HEARING_SECONDS = 2.0  # between two looks while changes are heard of
AGAIN_SECONDS = 5.0  # after which a lost connection is made again


class Listener:
    """Waits for changes in a thread of its caller. PgBouncer passes no messages on, so that nothing is heard through
    it."""

    def __init__(self, location: Location, poll_seconds: float, ended: threading.Event) -> None:
        self._location = location
        self._poll_seconds = poll_seconds
        self._ended = ended
        self._connection: PostgresConnection | None = None
        self._pause = 0.0  # before the next connection

    def wait(self) -> bool:
        """Returns after a change, or when it is time to look; False at the end."""
        location = self._location
        if isinstance(location, Path) or location.pooled:
            return not self._ended.wait(self._poll_seconds)
        try:
            self._hear()
        except PostgresError:
            self.close()
            self._pause = AGAIN_SECONDS
        return not self._ended.is_set()

    def _hear(self) -> None:
        from .connection import PostgresConnection

        if self._connection is None:
            self._pause -= self._poll_seconds
            self._ended.wait(self._poll_seconds)
            if self._pause <= 0 and not self._ended.is_set():
                self._connection = PostgresConnection(self._location)  # type: ignore[arg-type]  # wait has asked
                self._connection.listen(CHANNEL)
            return
        waited = 0.0
        while waited < HEARING_SECONDS and not self._ended.is_set():
            if self._connection.heard(self._poll_seconds):
                return
            waited += self._poll_seconds

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
