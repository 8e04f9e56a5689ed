"""Cooldowns of keys, kept in the database, so that a restart does not run into every refusal once more.

A row for each key that rests. It has the key's fingerprint, never the key.
"""

from __future__ import annotations

import logging

from ..storage.store import Database, StoreError
from .key_state import Cooldown

logger = logging.getLogger("torii.keystate")

RESTS = "INSERT OR REPLACE INTO key_rests (upstream, fingerprint, alias, cause, until) VALUES (?, ?, ?, ?, ?)"
WORKS = "DELETE FROM key_rests WHERE upstream = ? AND fingerprint = ?"
ALL = "SELECT upstream, fingerprint, alias, cause, until FROM key_rests"


class KeyStates:
    """For a database that has the table ``key_rests``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def remember(self, rest: Cooldown) -> None:
        if rest.cause:
            row = (rest.upstream, rest.fingerprint, rest.alias, rest.cause, rest.until)
            self._database.write(RESTS, row)
        else:
            self._database.write(WORKS, (rest.upstream, rest.fingerprint))

    def remembered(self) -> list[Cooldown]:
        """None of them where the database cannot be read now: what is known is soon found out again."""
        try:
            return [Cooldown(*row) for row in self._database.read(ALL)]
        except StoreError as error:
            logger.warning("which keys rested before the start is not known: %s", error)
            return []
