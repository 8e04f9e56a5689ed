"""Cooldowns of keys, kept in the ledger's file, so that a restart does not run into every refusal once more.

A row for each key that rests. It has the key's fingerprint, never the key.
"""

from __future__ import annotations

import logging
from typing import cast

from ..storage.ledger_file import CooldownRow, LedgerFile
from ..storage.sqlite import StoreError
from .key_state import Cause, Cooldown

logger = logging.getLogger("torii.keystate")


class KeyStates:
    """The rests of keys, as rows of the file."""

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    def remember(self, cooldown: Cooldown) -> None:
        if cooldown.cause:
            row = CooldownRow(cooldown.upstream, cooldown.fingerprint, cooldown.alias, cooldown.cause, cooldown.until)
            self._file.remember_cooldown(row)
        else:
            self._file.forget_cooldown(cooldown.upstream, cooldown.fingerprint)

    def remembered(self) -> list[Cooldown]:
        """None of them where the file cannot be read now: what is known is soon found out again."""
        try:
            rows = self._file.cooldowns()
        except StoreError as error:
            logger.warning("the saved cooldowns cannot be read: %s", error)
            return []
        return [Cooldown(row.upstream, row.fingerprint, row.alias, cast(Cause, row.cause), row.until) for row in rows]
