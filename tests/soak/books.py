"""Audit of the ledger against the upstreams' records and the replies that callers received."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from .callers import Journal, Told
from .configurations import AGAIN

QUERY = (
    "SELECT request_id, upstream, caller, status, error, time, seconds, total_tokens, estimated FROM calls "
    "WHERE kind = 'call' AND upstream <> ''"
)
# Time for the gateway to notice that a caller has left, on a machine with other work.
LEAVING_SECONDS = 3.0
# A few requests may get lost on their way: the connection was being closed, or could not be made in time. A machine
# with other work does not keep every deadline either: an answer may come after its caller has stopped waiting.
ON_THE_WAY = ("upstream_error", "upstream_timeout", "upstream_unreachable")
LOST_SHARE = 0.001


@dataclass(frozen=True, slots=True)
class Booked:
    request_id: str
    upstream: str
    caller: str
    status: int
    error: str | None
    time: int
    seconds: float
    tokens: int
    estimated: bool

    @property
    def ended(self) -> float:
        return self.time / 1000 + self.seconds

    @property
    def place(self) -> tuple[str, str]:
        """The upstream and the call's id."""
        return self.upstream, self.request_id


@dataclass(frozen=True, slots=True)
class Audit:
    """``met``: upstream calls with a number that an upstream received. ``unmet``: rows of calls that no upstream
    received, since the caller left or the connection was lost. ``calls``: all calls with a row, with or without a
    number."""

    rows: int
    met: int
    unmet: int
    calls: int
    statuses: Counter[int]
    wrongs: list[str]


def audit(rows: list[tuple[Any, ...]], journal: Journal) -> Audit:
    """Check that each call has one row per upstream asked, with the tokens that the upstream billed."""
    everything = [Booked(*row) for row in rows]
    booked = [row for row in everything if row.caller != AGAIN]
    again = {row.place for row in everything if row.caller == AGAIN}  # without known numbers
    met = {place for place in journal.witness.met if place[1] not in journal.witness.again} - again
    wrongs, unmet = _met(everything, met, journal)
    wrongs += _told_as_booked(booked, journal)
    wrongs += few(_billed(booked, journal), len(booked), "rows with other tokens than were billed")
    wrongs += few(_answered_twice(journal), len(booked), "inputs that were answered twice")
    wrongs += few(journal.needless, len(booked), "failures where all was right")
    calls = len({row.request_id for row in everything})
    return Audit(len(booked), len(met), unmet, calls, Counter(row.status for row in everything), wrongs)


def few(found: list[str], of: int, what: str) -> list[str]:
    """Empty if there are few enough to be the effect of a busy machine; else a summary."""
    most = LOST_SHARE * of + 2
    return [] if len(found) <= most else [f"{len(found)} {what}; for instance:", *found[:10]]


def _met(everything: list[Booked], met: set[tuple[str, str]], journal: Journal) -> tuple[list[str], int]:
    booked = [row for row in everything if row.caller != AGAIN]
    times = Counter(row.place for row in booked)
    wrongs = [f"{place} has {count} rows" for place, count in times.items() if count > 1]
    rows = {row.place for row in everything}
    missing = [place for place in met if place not in rows]
    numbered = set(journal.witness.id_of.values())
    wrongs += [f"{place} was met and has no row" for place in missing if place[1] in numbered]
    # The caller is unknown if a request was cut off before its number arrived.
    halves = [f"{place}" for place in missing if place[1] not in numbered]
    wrongs += few(halves, len(booked), "were met in part, and have no row")
    unmet = [row for row in booked if row.place not in met]
    wrongs += [
        f"{row.place} has a row ({row.status} {row.error}), and was not met"
        for row in unmet
        if row.status != 499 and row.error not in ON_THE_WAY
    ]
    lost = [f"{row.place}: {row.status} {row.error}" for row in unmet if row.status != 499]
    return wrongs + few(lost, len(booked), "calls were lost on their way to an upstream"), len(unmet)


def _told_as_booked(booked: list[Booked], journal: Journal) -> list[str]:
    """Check that one row of each call has the caller's status and code. The row of an abandoned upstream has its own
    failure."""
    by_id: defaultdict[str, list[Booked]] = defaultdict(list)
    for row in booked:
        by_id[row.request_id].append(row)
    wrongs = []
    for number, name in journal.witness.id_of.items():
        told, rows = journal.told.get(number), by_id.get(name)
        if told and rows and all(differences := [_differs(row, told) for row in rows]):
            wrongs.append(f"call {number} ({told.name}, {told.manner}): {differences[-1]}")
    return wrongs


def _billed(booked: list[Booked], journal: Journal) -> list[str]:
    """Checks only calls with a complete answer: if a call ended otherwise, the gateway may or may not have read the
    answers in flight."""
    witness = journal.witness
    whole = {
        witness.id_of[number]
        for number, told in journal.told.items()
        if told.outcome in ("done", "200") and number in witness.id_of
    }
    return [
        f"{row.place} ({row.status} {row.error}) has {row.tokens} tokens; billed are {witness.billed[row.place]}"
        for row in booked
        if row.request_id in whole
        and row.place not in witness.open
        and not row.estimated
        and row.tokens != witness.billed[row.place]
    ]


def _answered_twice(journal: Journal) -> list[str]:
    return [f"{text!r} was answered {count} times" for text, count in journal.witness.answered.items() if count > 1]


def _differs(row: Booked, told: Told) -> str:
    """The difference between the row and the caller's reply; empty if there is none."""
    if told.outcome in ("done", "200") or (told.status is not None and told.outcome != "left"):
        same = row.status == told.status and row.error == told.code
        return "" if same else f"was told {told.status} {told.code}; booked is {row.status} {row.error}"
    if told.outcome == "error event":
        same = row.status >= 400 and row.error == told.code
        return "" if same else f"was told {told.code} in its stream; booked is {row.status} {row.error}"
    if told.left is not None and row.status != 499 and row.ended > told.left + LEAVING_SECONDS:
        return f"left at {told.left:.2f}; booked is {row.status} {row.error}, ended at {row.ended:.2f}"
    return ""
