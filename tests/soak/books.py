"""The ledger held against what the upstreams have witnessed and the callers were told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from app.store import Database

from .callers import Journal, Told

QUERY = "SELECT request_id, status, error, time, seconds FROM calls"
# Between a caller's leaving and the gateway's knowing of it, on a machine that has other work to do.
LEAVING_SECONDS = 3.0
# A request may be lost on its way: the connection was being closed, or could not be made in time. Few are.
ON_THE_WAY = ("upstream_error", "upstream_timeout", "upstream_unreachable")
LOST_SHARE = 0.001


@dataclass(frozen=True, slots=True)
class Booked:
    request_id: str
    status: int
    error: str | None
    time: int
    seconds: float

    @property
    def ended(self) -> float:
        return self.time / 1000 + self.seconds


@dataclass(frozen=True, slots=True)
class Audit:
    """``unmet``: rows of calls whose caller left, or whose connection was lost, before the upstream had met them."""

    rows: int
    met: int
    unmet: int
    statuses: Counter[int]
    wrongs: list[str]


def audit(rows: list[tuple[Any, ...]], journal: Journal) -> Audit:
    booked = [Booked(*row) for row in rows]
    times = Counter(row.request_id for row in booked)
    ids = journal.witness.ids
    wrongs = [f"{name} has {count} rows" for name, count in times.items() if count > 1]
    wrongs += [f"{name} reached an upstream and has no row" for name in ids if name not in times]
    unmet = [row for row in booked if row.request_id not in ids]
    wrongs += [
        f"{row.request_id} has a row ({row.status} {row.error}), and no upstream has met it"
        for row in unmet
        if row.status != 499 and row.error not in ON_THE_WAY
    ]
    lost = sum(row.status != 499 for row in unmet)
    if lost > LOST_SHARE * len(booked) + 2:
        wrongs.append(f"{lost} of {len(booked)} calls were lost on their way to an upstream")
    by_id = {row.request_id: row for row in booked}
    for number, name in journal.witness.id_of.items():
        if (row := by_id.get(name)) and (told := journal.told.get(number)) and (what := _differs(row, told)):
            wrongs.append(f"call {number} ({told.name}, {told.manner}): {what}")
    return Audit(len(booked), len(ids), len(unmet), Counter(row.status for row in booked), wrongs)


def _differs(row: Booked, told: Told) -> str:
    """What the row says otherwise than its caller; empty where it says the same."""
    if told.outcome in ("done", "200") or (told.status is not None and told.outcome != "left"):
        same = row.status == told.status and row.error == told.code
        return "" if same else f"was told {told.status} {told.code}; booked is {row.status} {row.error}"
    if told.outcome == "error event":
        same = row.status >= 400 and row.error == told.code
        return "" if same else f"was told {told.code} in its stream; booked is {row.status} {row.error}"
    if told.left is not None and row.status != 499 and row.ended > told.left + LEAVING_SECONDS:
        return f"left at {told.left:.2f}; booked is {row.status} {row.error}, ended at {row.ended:.2f}"
    return ""


def rows(database: Database) -> list[tuple[Any, ...]]:
    return database.read(QUERY)
