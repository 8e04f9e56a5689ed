"""The rows of the ledger's tables, and the statements that write them."""

from __future__ import annotations

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


def _insert(table: str, columns: tuple[str, ...]) -> str:
    return f"INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


INSERT_CALL = f"INSERT {_insert('calls', CallRow._fields)}"
SELECT_COOLDOWNS = f"SELECT {', '.join(CooldownRow._fields)} FROM key_rests"  # noqa: S608 - our own columns
INSERT_ALERT = f"INSERT OR IGNORE {_insert('alerts', (*AlertRow._fields, 'time'))}"

SELECT_REMEMBERED = "SELECT name, value FROM state WHERE name LIKE 'redis_%'"

# The statements of verbs that change nothing else. A spill file names a verb, never a statement.
PLAIN = {
    "remember_cooldown": f"INSERT OR REPLACE {_insert('key_rests', CooldownRow._fields)}",
    "forget_cooldown": "DELETE FROM key_rests WHERE upstream = ? AND fingerprint = ?",
    "refuse": """INSERT INTO refusals (minute, key_id, team, reason, count) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT DO UPDATE SET count = count + excluded.count""",
    "classifier": """INSERT OR REPLACE INTO classifiers (request_id, classifier_id, key_id, team, upstream, account,
        fingerprint, model, labels, created_at, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
    "forget_classifier": "DELETE FROM classifiers WHERE request_id = ?",
    "audit": "INSERT INTO audit (time, actor, address, action, object_id, changes) VALUES (?, ?, ?, ?, ?, ?)",
    "remember": """INSERT INTO state (name, value) VALUES (?, ?)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value""",
    "use_key": "UPDATE keys SET last_used_at = ?1 WHERE id = ?2 AND coalesce(last_used_at, 0) < ?1",
}
