"""Cooldowns of keys, saved in the ledger's file so that a restart does not meet every refusal again.

There is one row for each key in cooldown. A row has the key's fingerprint, never the key.
"""

from __future__ import annotations

import logging
from typing import cast

from ..storage.errors import StoreError
from ..storage.ledger_file import CooldownRow, LedgerFile
from .key_state import Cause, Cooldown

logger = logging.getLogger("torii.keystate")


class SavedCooldowns:
    """The saved cooldowns, as rows of the ledger's file."""

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    def remember(self, cooldown: Cooldown) -> None:
        """Saves the cooldown, or deletes the saved one if ``cause`` is empty."""
        if cooldown.cause:
            row = CooldownRow(cooldown.upstream, cooldown.fingerprint, cooldown.alias, cooldown.cause, cooldown.until)
            self._file.remember_cooldown(row)
        else:
            self._file.forget_cooldown(cooldown.upstream, cooldown.fingerprint)

    def remembered(self) -> list[Cooldown]:
        """The saved cooldowns; none if the file cannot be read now, since the next calls find them out again."""
        try:
            rows = self._file.cooldowns()
        except StoreError as error:
            logger.warning("the saved cooldowns cannot be read: %s", error)
            return []
        return [Cooldown(row.upstream, row.fingerprint, row.alias, cast(Cause, row.cause), row.until) for row in rows]
