"""The columns of a roll-up: what rows of calls are grouped by, what is summed of them, and how far that has come.

SQLite's expressions over ``calls``; schema.py describes the tables.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

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
USER = "coalesce(user, '')"
SUMS = {
    "requests": "requests",
    "prompt_tokens": f"min(prompt_tokens, {LARGEST})",
    "completion_tokens": f"min(completion_tokens, {LARGEST})",
    "total_tokens": f"min(total_tokens, {LARGEST})",
    "cached_tokens": f"min(cached_tokens, {LARGEST})",
    "cost": f"min(coalesce(cost, 0), {LARGEST})",
    "asked": "(kind = 'call')",
    "cached": "(kind = 'cached') * requests",
    "failed": "(status >= 400) * requests",
    "failed_asked": "(status >= 400) * (kind = 'call')",
    "estimated": "(estimated != 0)",
    "estimated_tokens": f"(estimated != 0) * min(total_tokens, {LARGEST})",
    "microseconds": "(kind = 'call') * CAST(round(seconds * 1000000) AS INTEGER)",
}
FEW = (*tuple(SUMS)[:6], "asked")  # of the tables by user
SET_STATE = (
    "INSERT INTO state (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)"
)


class Progress(NamedTuple):
    """The id of the last row that is in the roll-ups, and the time from which rows are kept, in milliseconds."""

    rolled_up: int = 0
    kept_from: int = 0


def progress(connection: sqlite3.Connection) -> Progress:
    found = dict(connection.execute("SELECT name, value FROM state WHERE name IN ('rolled_up', 'kept_from')"))
    return Progress(found.get("rolled_up", 0), found.get("kept_from", 0))
