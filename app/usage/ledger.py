"""The ledger: one row for each upstream that a call reached, and one for each cached answer.

    recorder.settle -> Ledger -> record_call -> calls           a caller without limits
                             `-> account.settle -> calls        what was held becomes what was used

docs/ledger.md describes the columns; reports.py sums up the rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256

from ..core.errors import ToriiError
from ..core.types import Target
from ..core.usage import Tokens, tokens
from ..storage.ledger_file import CallRow, LedgerFile
from .bounds import Bound
from .prices import Price, Prices
from .record import CallRecord, Use, rounded

NOTHING = Bound(0)
TEXT_LIMIT = 256  # characters of a name that a caller or an upstream chose


class Ledger:
    """A sink of the recorder. ``redact`` removes secrets from names. ``hashed``: of users and tags the ledger has the
    SHA-256 only, in hexadecimal."""

    def __init__(
        self,
        file: LedgerFile,
        redact: Callable[[str], str] = str,
        *,
        prices: Prices | None = None,
        hashed: bool = False,
    ) -> None:
        self.file = file
        self._record_call = file.record_call
        self._prices = prices or Prices()

        def clean(text: str) -> str:
            return redact(text).encode("utf-8", "replace").decode()[:TEXT_LIMIT]

        def said(text: str) -> str:
            return sha256(text.encode("utf-8", "replace")).hexdigest() if hashed else clean(text)

        self._clean = lru_cache(1024)(clean)
        self._said = lru_cache(1024)(said)

    def __call__(self, record: CallRecord) -> None:
        rows = self._rows(record)
        if record.payer.key_id is not None:
            self.file.use_key(record.payer.key_id, int(time.time() * 1000))
        if record.account is not None:
            record.account.settle(rows)
            return
        for row in rows:
            self._record_call(row)

    def _rows(self, record: CallRecord) -> list[CallRow]:
        """One row for each upstream that was asked; else one for a call that counts as a request all the same."""
        last = record.last_reached
        if last is not None:
            return [
                self._row(record, upstream, use, counts=use is last)
                for upstream, use in record.uses.items()
                if use.reached
            ]
        if record.free is not None:
            return [self._cached(record)]
        return [self.draft(record)] if record.account is not None and record.account.admitted else []

    def _row(self, record: CallRecord, upstream: str, use: Use, *, counts: bool) -> CallRow:
        seconds = record.seconds or 0.0
        status, error = outcome(record, use)
        prompt, completion, total, estimated = spent(use)
        call, payer, target = record.call, record.payer, use.target
        price = price_of(self._prices, target)
        # A total may exceed the sum of its parts: DeepSearch's does.
        cost = None if price is None else price.cost(prompt, max(completion, total - prompt), use.attempts)
        if record.account is not None and unseen(use, estimated=estimated):
            bound = record.account.bound(upstream)
            if bound is not None and bound[0] > total:
                (total, cost), completion = bound, bound[0] - prompt
        return CallRow(  # by position: keyword arguments would cost 1 us more
            began(record, seconds),
            record.caller,
            call.endpoint.name,
            self._clean(call.model),
            upstream,
            self._clean(target.name),
            target.key.alias,
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
            "call",
            int(counts),
            payer.key_id,
            payer.team,
            self._clean(record.model_id or "") or None,
            int(call.stream),
            record.cached_tokens if counts else 0,
            cost,
            None if price is None else price.date,
            self._said(call.user) if call.user else None,
            self._said(payer.tag) if payer.tag else None,
            self._clean(use.run) if use.run else None,
        )

    def draft(self, record: CallRecord, target: Target | None = None, bound: Bound = NOTHING) -> CallRow:
        """The row of a call that has reached no upstream; or has not ended, with what it may cost at ``target``."""
        seconds = record.seconds or 0.0
        call, payer, error, tokens = record.call, record.payer, record.error, bound.tokens or 0
        return CallRow(
            began(record, seconds),
            record.caller,
            call.endpoint.name,
            self._clean(call.model),
            target.upstream.name if target is not None else "",
            self._clean(target.name) if target is not None else "",
            "",
            record.status,
            self._clean(error.code) if error and error.code else None,
            tokens,
            0,
            tokens,
            int(tokens > 0),
            rounded(seconds, 1_000_000),
            None,
            0,
            record.request_id,
            "call",
            1,
            payer.key_id,
            payer.team,
            self._clean(record.model_id or "") or None,
            int(call.stream),
            0,
            bound.cost,
            None,
            self._said(call.user) if call.user else None,
            self._said(payer.tag) if payer.tag else None,
        )

    def _cached(self, record: CallRecord) -> CallRow:
        """The row of a cached or shared answer."""
        return self.draft(record, record.hit)._replace(kind="cached", cached_tokens=record.cached_tokens)


def began(record: CallRecord, seconds: float) -> int:
    """The call's start in Unix milliseconds: that of its hold if it has one, so that the row belongs to the windows
    that were charged, even if a slow body or the wait for others has crossed midnight."""
    account = record.account
    return int((time.time() - seconds if account is None else account.started) * 1000)


def price_of(prices: Prices, target: Target) -> Price | None:
    """The price of a model at an upstream, by the upstream's name for it or by its id."""
    return prices.of(target.upstream.name, target.name, target.model.id) if prices.table else None


def unseen(use: Use, *, estimated: bool) -> bool:
    """True for a DeepSearch run of which no usage was seen: what it has cost is known to the provider only."""
    return estimated and use.target.model.deepsearch and use.usage is None


def unrecorded(record: CallRecord) -> None:
    """A sink in place of a ledger: what was held for a call ends with it."""
    if record.account is not None:
        record.account.settle(())


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
