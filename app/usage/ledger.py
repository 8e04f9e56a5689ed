"""The ledger: one row for each upstream that a call reached.

    recorder.settle -> Ledger -> record_call -> calls

docs/ledger.md describes the columns; reports.py sums up the rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

from ..core.errors import ToriiError
from ..core.usage import Tokens, tokens
from ..storage.ledger_file import CallRow, LedgerFile
from .record import CallRecord, Use, rounded

TEXT_LIMIT = 256  # characters of a name that a caller or an upstream chose


class Ledger:
    """A sink of the recorder. ``redact`` removes secrets from names."""

    def __init__(self, file: LedgerFile, redact: Callable[[str], str] = str) -> None:
        self._record_call = file.record_call

        def clean(text: str) -> str:
            return redact(text).encode("utf-8", "replace").decode()[:TEXT_LIMIT]

        self._clean = lru_cache(1024)(clean)

    def __call__(self, record: CallRecord) -> None:
        for upstream, use in record.uses.items():
            if use.reached:
                self._record_call(self._row(record, upstream, use))

    def _row(self, record: CallRecord, upstream: str, use: Use) -> CallRow:
        seconds = record.seconds or 0.0
        status, error = outcome(record, use)
        prompt, completion, total, estimated = spent(use)
        return CallRow(  # by position: keyword arguments would cost 1 us more
            int((time.time() - seconds) * 1000),
            record.caller,
            record.call.endpoint.name,
            self._clean(record.call.model),
            upstream,
            self._clean(use.target.name),
            use.target.key.alias,
            status,
            self._clean(error.code) if error and error.code else None,
            prompt,
            completion,
            total,
            int(estimated),
            rounded(seconds, 1_000_000),
            None if use.first_event is None else rounded(use.first_event, 1_000_000),
            use.attempts,
            record.request_id,
        )


def outcome(record: CallRecord, use: Use) -> tuple[int | None, ToriiError | None]:
    """The status and error of a row: those that the caller got; or those of the upstream's own failure, if another
    upstream was asked after it."""
    if use.error is None or use.answered or use is record.last_reached or record.status == 499:
        return record.status, record.error
    return use.error.status, use.error


def spent(use: Use) -> Tokens:
    """The tokens of the requests that have ended, and of those that were given up before their end."""
    total = use.spent
    for part in use.pending:
        total = total.plus(tokens(part, use.last, use.written))
    return total
