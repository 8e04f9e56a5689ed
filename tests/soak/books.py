"""The ledger held against what the upstreams have witnessed and the callers were told."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from .callers import Journal, Told
from .configurations import AGAIN

QUERY = "SELECT request_id, upstream, caller, status, error, time, seconds, total_tokens, estimated FROM calls"
# Between a caller's leaving and the gateway's knowing of it, on a machine that has other work to do.
LEAVING_SECONDS = 3.0
# A request may be lost on its way: the connection was being closed, or could not be made in time. Few are. Nor does a
# machine that has other work to do keep every deadline: an answer may come when it is not waited for any more.
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
        """Where it was asked, and for which call."""
        return self.upstream, self.request_id


@dataclass(frozen=True, slots=True)
class Audit:
    """Of calls with a number, by upstream. ``unmet``: rows of calls whose caller left, or whose connection was lost,
    before the upstream had met them. ``calls`` are all that have a row, also those without a number."""

    rows: int
    met: int
    unmet: int
    calls: int
    statuses: Counter[int]
    wrongs: list[str]


def audit(rows: list[tuple[Any, ...]], journal: Journal) -> Audit:
    """One row for each upstream that was asked for a call, and in it what the upstream has billed."""
    everything = [Booked(*row) for row in rows]
    booked = [row for row in everything if row.caller != AGAIN]
    again = {row.place for row in everything if row.caller == AGAIN}  # their number is not known, nor needed
    met = {place for place in journal.witness.met if place[1] not in journal.witness.again} - again
    wrongs, unmet = _met(everything, met, journal)
    wrongs += _told_as_booked(booked, journal)
    wrongs += few(_billed(booked, journal), len(booked), "rows with other tokens than were billed")
    wrongs += few(_answered_twice(journal), len(booked), "inputs that were answered twice")
    wrongs += few(journal.needless, len(booked), "failures where all was right")
    calls = len({row.request_id for row in everything})
    return Audit(len(booked), len(met), unmet, calls, Counter(row.status for row in everything), wrongs)


def few(found: list[str], of: int, what: str) -> list[str]:
    """Nothing, if it is no more than a busy machine makes of so many."""
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
    # Who asked is not known of a request that was cut off before its number came.
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
    """The upstream that was left has what its own failure comes to; one row has what the caller was told."""
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
    """Of calls whose answer came whole: what was under way when a call ended otherwise may have been read, or not."""
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
