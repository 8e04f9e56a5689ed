"""The rows of the ledger's tables, and the statements that write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class CallRow(NamedTuple):
    """The columns of ``calls``, described in docs/ledger.md. ``time`` is in Unix milliseconds."""

    time: int
    caller: str
    endpoint: str
    model: str
    upstream: str
    upstream_model: str
    key: str
    status: int | None
    error: str | None
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    estimated: int
    seconds: float
    first_event_seconds: float | None
    attempts: int
    request_id: str
    kind: str = "call"
    requests: int = 1
    key_id: str | None = None
    team: str | None = None
    model_id: str | None = None
    stream: int = 0
    cached_tokens: int = 0
    cost: int | None = None
    price_date: str | None = None
    user: str | None = None
    tag: str | None = None
    run_id: str | None = None


class CooldownRow(NamedTuple):
    """The columns of ``key_rests``. ``until`` is a Unix time in seconds."""

    upstream: str
    fingerprint: str
    alias: str
    cause: str
    until: float


class AlertRow(NamedTuple):
    """The columns of ``alerts`` but the time. ``amount`` is the budget's, ``percent`` the threshold that was passed."""

    scope: str
    unit: str
    filter: str
    since: int
    amount: int
    percent: int


def listed(columns: Iterable[str]) -> str:
    """The columns in a statement; ``user`` is a word of PostgreSQL's."""
    return ", ".join(f'"{name}"' if name in ("user", "key") else name for name in columns)


def _insert(table: str, columns: tuple[str, ...], unique: tuple[str, ...] = ()) -> str:
    """With ``unique`` columns, a row replaces the one that has the same values in them."""
    values = ", ".join("?" * len(columns))
    statement = f"INSERT INTO {table} ({listed(columns)}) VALUES ({values})"  # noqa: S608 - our own columns
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in unique)
    return f"{statement} ON CONFLICT ({', '.join(unique)}) DO UPDATE SET {changed}" if unique else statement


CALL_COLUMNS = listed(CallRow._fields)
INSERT_CALL = _insert("calls", CallRow._fields)
SELECT_COOLDOWNS = f"SELECT {', '.join(CooldownRow._fields)} FROM key_rests"  # noqa: S608 - our own columns
INSERT_ALERT = f"{_insert('alerts', (*AlertRow._fields, 'time'))} ON CONFLICT DO NOTHING"

CLASSIFIER_COLUMNS = (
    *("request_id", "classifier_id", "key_id", "team", "upstream", "account"),
    *("fingerprint", "model", "labels", "created_at", "state"),
)

SELECT_REMEMBERED = "SELECT name, value FROM state WHERE name LIKE 'redis_%'"

# The statements of verbs that change nothing else. A spill file names a verb, never a statement.
PLAIN = {
    "remember_cooldown": _insert("key_rests", CooldownRow._fields, ("upstream", "fingerprint")),
    "forget_cooldown": "DELETE FROM key_rests WHERE upstream = ? AND fingerprint = ?",
    "refuse": """INSERT INTO refusals (minute, key_id, team, reason, count) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (minute, key_id, team, reason) DO UPDATE SET count = refusals.count + excluded.count""",
    "classifier": _insert("classifiers", CLASSIFIER_COLUMNS, ("request_id",)),
    "forget_classifier": "DELETE FROM classifiers WHERE request_id = ?",
    "audit": "INSERT INTO audit (time, actor, address, action, object_id, changes) VALUES (?, ?, ?, ?, ?, ?)",
    "remember": """INSERT INTO state (name, value) VALUES (?, ?)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value""",
    "use_key": "UPDATE keys SET last_used_at = ?1 WHERE id = ?2 AND coalesce(last_used_at, 0) < ?1",
}
