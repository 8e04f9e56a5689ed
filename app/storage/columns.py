"""The columns of a roll-up: what rows of calls are grouped by, what is summed of them, and how far that has come.

The expressions are over ``calls``, for both databases; schema.py describes the tables.
"""

from __future__ import annotations

from typing import NamedTuple

from .connection import StoreConnection

QUARTER = 900_000  # milliseconds
DAY = 96  # quarters
DAY_MS = QUARTER * DAY
LARGEST = 2**53  # of one row, so that no sum of a step overflows

MODEL = "coalesce(model_id, model)"  # of a row of calls
GROUPS = {
    "key_id": "coalesce(key_id, '')",
    "team": "coalesce(team, '')",
    "model": MODEL,
    "endpoint": "endpoint",
    "upstream": "upstream",
    "caller": "caller",
    "key": '"key"',
}
USER = "coalesce(\"user\", '')"


def _least(column: str) -> str:
    return f"CASE WHEN {column} < {LARGEST} THEN {column} ELSE {LARGEST} END"


def _if(condition: str, amount: str = "1") -> str:
    return f"CASE WHEN {condition} THEN {amount} ELSE 0 END"


SUMS = {
    "requests": "requests",
    "prompt_tokens": _least("prompt_tokens"),
    "completion_tokens": _least("completion_tokens"),
    "total_tokens": _least("total_tokens"),
    "cached_tokens": _least("cached_tokens"),
    "cost": _least("coalesce(cost, 0)"),
    "asked": _if("kind = 'call'"),
    "cached": _if("kind = 'cached'", "requests"),
    "failed": _if("status >= 400", "requests"),
    "failed_asked": _if("status >= 400 AND kind = 'call'"),
    "estimated": _if("estimated != 0"),
    "estimated_tokens": _if("estimated != 0", _least("total_tokens")),
    "microseconds": _if("kind = 'call' AND abs(seconds) < 1e9", "CAST(round(seconds * 1000000) AS BIGINT)"),
}
FEW = (*tuple(SUMS)[:6], "asked")  # of the tables by user
SET_STATE = (
    "INSERT INTO state (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = "
    "CASE WHEN state.value < excluded.value THEN excluded.value ELSE state.value END"
)


class Progress(NamedTuple):
    """The id of the last row that is in the roll-ups, and the time from which rows are kept, in milliseconds."""

    rolled_up: int = 0
    kept_from: int = 0


def progress(connection: StoreConnection) -> Progress:
    found = dict(connection.execute("SELECT name, value FROM state WHERE name IN ('rolled_up', 'kept_from')"))
    return Progress(found.get("rolled_up", 0), found.get("kept_from", 0))
