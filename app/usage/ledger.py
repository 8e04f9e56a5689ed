"""The books: one row for each upstream that a call reached, and what the rows add up to.

    recorder.settle -> Ledger -> store.write -> calls             read: totals, calls

Times are UTC. docs/ledger.md says of each column what it holds.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from ..core.errors import ToriiError
from ..core.types import Json
from ..core.usage import Tokens, tokens
from ..storage.store import Database, Row
from .record import CallRecord, Use, rounded

COLUMNS = (
    "time",
    "caller",
    "endpoint",
    "model",
    "upstream",
    "upstream_model",
    "key",
    "status",
    "error",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "estimated",
    "seconds",
    "first_event_seconds",
    "attempts",
    "request_id",
)
INSERT = f"INSERT INTO calls ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 - of our own columns
TEXT_LIMIT = 256  # characters of a name that a caller or an upstream chose


class Ledger:
    """A sink of the recorder. ``redact`` takes out of names what must not be in a file."""

    def __init__(self, database: Database, redact: Callable[[str], str] = str) -> None:
        self._write = database.write

        def clean(text: str) -> str:
            return redact(text).encode("utf-8", "replace").decode()[:TEXT_LIMIT]

        self._clean = lru_cache(1024)(clean)

    def __call__(self, record: CallRecord) -> None:
        for upstream, use in record.uses.items():
            if use.reached:
                self._write(INSERT, self._row(record, upstream, use))

    def _row(self, record: CallRecord, upstream: str, use: Use) -> Row:
        seconds = record.seconds or 0.0
        status, error = outcome(record, use)
        prompt, completion, total, estimated = spent(use)
        return (
            int((time.time() - seconds) * 1000),
            record.caller,
            record.call.endpoint,
            self._clean(record.call.model),
            upstream,
            self._clean(use.target.name),
            use.target.key.alias,
            status,
            error and error.code and self._clean(error.code),
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
    """Status and error that the caller got; of an upstream that was left for another one, those of the upstream."""
    if use.error is None or use.answered or use is record.last_reached or record.status == 499:
        return record.status, record.error
    return use.error.status, use.error


def spent(use: Use) -> Tokens:
    """The tokens of the requests that have ended, and of those whose end nobody waited for."""
    total = use.spent
    for part in use.pending:
        total = total.plus(tokens(part, use.last, use.written))
    return total


# ---------------------------------------------------------------- reading

GROUPS = {
    "caller": "caller",
    "model": "model",
    "upstream": "upstream",
    "key": "key",
    "endpoint": "endpoint",
    "day": "strftime('%Y-%m-%d', time / 1000, 'unixepoch')",
}
# A call has a row for each upstream that it reached; it has failed if none of them has an answer.
_SUMS = {
    "calls": "count(DISTINCT request_id)",
    "failed": "count(DISTINCT request_id) - count(DISTINCT CASE WHEN status < 400 THEN request_id END)",
    "prompt_tokens": "total(prompt_tokens)",
    "completion_tokens": "total(completion_tokens)",
    "total_tokens": "total(total_tokens)",
    "estimated_calls": "count(DISTINCT CASE WHEN estimated THEN request_id END)",
    "estimated_tokens": "total(total_tokens * estimated)",
    "seconds": "avg(seconds)",
}
_COUNTS = tuple(name for name in _SUMS if name != "seconds")
_DAY = timedelta(days=1)
_UNITS = {"d": _DAY, "h": timedelta(hours=1), "m": timedelta(minutes=1)}

Read = Callable[[str, Row], list[Row]]


@dataclass(frozen=True, slots=True)
class Period:
    """From ``since`` on and before ``until``, by the times at which calls came; None is open."""

    since: datetime | None = None
    until: datetime | None = None

    def where(self) -> tuple[str, Row]:
        bounds = [("time >= ?", self.since), ("time < ?", self.until)]
        given = [(text, int(bound.timestamp() * 1000)) for text, bound in bounds if bound is not None]
        return " AND ".join(["1", *(text for text, _ in given)]), tuple(value for _, value in given)


def totals(read: Read, period: Period, by: Sequence[str] = ()) -> list[Json]:
    """The totals of each group, those with the most tokens first, days in order; without ``by`` in all."""
    where, bounds = period.where()
    names = [*by, *_SUMS]
    parts = [f"{text} AS {name}" for name, text in [*((name, GROUPS[name]) for name in by), *_SUMS.items()]]
    numbers = ", ".join(str(place) for place in range(1, len(by) + 1))
    order = "1" if by[:1] == ["day"] else "total_tokens DESC, calls DESC, 1"
    grouped = f" GROUP BY {numbers} ORDER BY {order}" if by else ""
    found = read(f"SELECT {', '.join(parts)} FROM calls WHERE {where}{grouped}", bounds)  # noqa: S608 - our own names
    return [_whole(dict(zip(names, row, strict=True))) for row in found]


def calls(read: Read, period: Period, most: int) -> list[Json]:
    """The last calls, the latest last."""
    where, bounds = period.where()
    query = f"SELECT {', '.join(COLUMNS)} FROM calls WHERE {where} ORDER BY time DESC, id DESC LIMIT ?"  # noqa: S608 - our own names
    found = [dict(zip(COLUMNS, row, strict=True)) for row in read(query, (*bounds, most))]
    return [{**call, "time": moment(call["time"]), "estimated": bool(call["estimated"])} for call in reversed(found)]


def first(read: Read) -> str | None:
    """The time of the first call; None for an empty ledger."""
    ((time_of_first,),) = read("SELECT min(time) FROM calls", ())
    return None if time_of_first is None else moment(time_of_first)


def moment(milliseconds: int) -> str:
    text = datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def when(text: str, now: datetime, *, end: bool = False) -> datetime:
    """``7d``, ``24h``, ``30m`` before ``now``, or a date or time of UTC; a date as an ``end`` is that day's.

    Raises ValueError in words.
    """
    try:
        if ago := re.fullmatch(r"(\d{1,9})([dhm])", text):
            return now - int(ago[1]) * _UNITS[ago[2]]
        found = datetime.fromisoformat(text)
        found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        return found + _DAY if end and re.fullmatch(r"[\d-]{8,10}", text) else found
    except (ValueError, OverflowError):
        raise ValueError(
            "is no time: 7d, 24h and 30m are before now, 2026-11-01 and 2026-11-01T12:30 are UTC"
        ) from None


def _whole(sums: Json) -> Json:
    """SQLite adds up as floats where integers might overflow."""
    counted: dict[str, Any] = {name: int(sums[name]) for name in _COUNTS}
    return {**sums, **counted, "seconds": round(sums["seconds"] or 0.0, 3)}
