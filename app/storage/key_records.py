"""Virtual keys, teams and management keys as they lie in the ledger's file.

The file has of a secret its SHA-256 and its last four characters. keys.py has the verbs that change it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from .connection import StoreConnection
from .errors import StoreError
from .location import Location
from .opening import current, reading

Fields = Mapping[str, Any]


class SecretRecord(NamedTuple):
    """``hash`` is the SHA-256 of the whole key, in hexadecimal. ``tail`` are its last four characters. ``valid_until``
    is in Unix milliseconds: the end of the grace after a rotation, None for the present secret."""

    hash: str
    tail: str
    created_at: int
    valid_until: int | None = None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A virtual key. Times are in Unix milliseconds. ``fields`` are the other fields that are set, in the API's form:
    owner, metadata, allowed_models, allowed_endpoints, allowed_ips, limits, budgets, on_disconnect, cache. ``secrets``
    are its present one first, then those whose grace may still last. ``declared``: it stands in the configuration, and
    is read-only."""

    id: str
    name: str
    team: str | None
    created_at: int | None
    expires_at: int | None
    last_used_at: int | None
    revoked_at: int | None
    disabled: bool
    fields: Fields
    secrets: tuple[SecretRecord, ...] = field(default=(), repr=False)
    declared: bool = False


@dataclass(frozen=True, slots=True)
class TeamRecord:
    """A team. ``fields`` are limits, budgets and metadata, as far as set, in the API's form."""

    id: str
    name: str
    created_at: int | None
    disabled: bool
    fields: Fields
    declared: bool = False


class ManagementRecord(NamedTuple):
    """A key for the operator's API. ``scope`` is admin, read_only or team:ID."""

    id: str
    name: str
    scope: str
    hash: str
    tail: str
    created_at: int


class AuditEntry(NamedTuple):
    """One change, and its author. ``time`` is in Unix milliseconds; ``changes`` has the new values, and no secret."""

    id: int
    time: int
    actor: str
    address: str | None
    action: str
    object_id: str
    changes: Fields


class KeySnapshot(NamedTuple):
    """All keys, teams and management keys by their ids, revoked keys included. ``number`` rises with each change."""

    number: int = 0
    keys: Mapping[str, KeyRecord] = {}
    teams: Mapping[str, TeamRecord] = {}
    management: Mapping[str, ManagementRecord] = {}


# The columns have the order of the records' fields.
SELECT_KEYS = "SELECT id, name, team, created_at, expires_at, last_used_at, revoked_at, disabled, fields FROM keys"
SECRETS = "SELECT key_id, hash, tail, created_at, valid_until FROM secrets"
PRESENT_FIRST = "ORDER BY valid_until IS NOT NULL, created_at DESC"
SELECT_SECRETS = f"{SECRETS} {PRESENT_FIRST}"
SELECT_TEAMS = "SELECT id, name, created_at, disabled, fields FROM teams"
SELECT_MANAGEMENT = "SELECT id, name, scope, hash, tail, created_at FROM management_keys"


def load(location: Location) -> KeySnapshot:
    """All keys of the file; none if it is of an older version. Raises StoreError, NoFile without a file."""
    with reading(location) as connection:
        if not current(connection):
            return KeySnapshot()
        connection.snapshot()  # all selects see one moment
        return snapshot(connection)


def created(location: Location) -> bool:
    """True if a key was ever created in the file; False without a file that can be read."""
    with suppress(StoreError), reading(location) as connection:
        return current(connection) and connection.execute("SELECT 1 FROM keys LIMIT 1").fetchone() is not None
    return False


def change_number(connection: StoreConnection) -> int:
    """The number of changes of keys and teams so far."""
    found = connection.execute("SELECT value FROM state WHERE name = 'keys'").fetchone()
    return int(found[0]) if found else 0


def snapshot(connection: StoreConnection) -> KeySnapshot:
    secrets: dict[str, list[SecretRecord]] = {}
    for key_id, *secret in connection.execute(SELECT_SECRETS):
        secrets.setdefault(key_id, []).append(SecretRecord(*secret))
    keys = connection.execute(f"{SELECT_KEYS} ORDER BY created_at, id")
    teams = connection.execute(f"{SELECT_TEAMS} ORDER BY created_at, id")
    management = connection.execute(f"{SELECT_MANAGEMENT} ORDER BY created_at, id")
    return KeySnapshot(
        change_number(connection),
        {row[0]: key_of(row, secrets.get(row[0], ())) for row in keys},
        {row[0]: team_of(row) for row in teams},
        {row[0]: ManagementRecord(*row) for row in management},
    )


def key_of(row: Sequence[Any], secrets: Sequence[SecretRecord]) -> KeyRecord:
    # The columns have the order of the fields, of which a type checker knows nothing; so in ``team_of``.
    return KeyRecord(*row[:7], bool(row[7]), msgspec.json.decode(row[8]), tuple(secrets))  # type: ignore[call-arg]


def team_of(row: Sequence[Any]) -> TeamRecord:
    return TeamRecord(*row[:3], bool(row[3]), msgspec.json.decode(row[4]))  # type: ignore[call-arg]
