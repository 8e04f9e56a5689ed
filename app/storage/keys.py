"""Virtual keys, teams and management keys in the ledger's file, and who changed them.

Each verb is one transaction on a connection of its own: the change, its line in the audit, and the change number, by
which every process sees that it has to read the keys again. Verbs wait for the file's lock, at most BUSY_SECONDS, so
they belong in a thread. Of a secret the file has the SHA-256 and the last four characters.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import msgspec

from ..core.names import nearest
from .connection import StoreConnection
from .errors import DRIVER_ERRORS, StoreError, store_error
from .key_records import (
    PRESENT_FIRST,
    SECRETS,
    SELECT_KEYS,
    SELECT_MANAGEMENT,
    SELECT_TEAMS,
    AuditEntry,
    Fields,
    KeyRecord,
    KeySnapshot,
    ManagementRecord,
    SecretRecord,
    TeamRecord,
    key_of,
    load,
    team_of,
)
from .location import Location
from .opening import BUSY_SECONDS, connect, current, reading
from .postgres.listener import CHANNEL

# A public id and a secret: a new key's, or of the key with this id.
Mint = Callable[..., tuple[str, str]]

DAY_SECONDS = 86_400
REMEMBERED_MS = DAY_SECONDS * 1000  # for which a repeated Idempotency-Key is known

# The columns of ``keys`` and ``teams`` beside ``fields``, which holds all other fields as JSON.
OF_KEYS = ("name", "team", "expires_at", "disabled")
OF_TEAMS = ("name", "disabled")


class NotChanged(Exception):
    """The change was not made. ``field`` is the field at fault, if there is one. The message is for people."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class Duplicate(NotChanged):
    """Another key, team or management key has this name or id."""


class NoSuch(NotChanged):
    """There is no such key, team or management key; ``field`` is None if it is the one to be changed."""


class InUse(NotChanged):
    """A team that has keys, which cannot be deleted."""


class Conflict(NotChanged):
    """The Idempotency-Key came with another request before."""


class Revoked(NotChanged):
    """The key was revoked, which is final."""


class DeclaredNames(NamedTuple):
    """The declarations of the configuration: the names of its keys, and its teams' names by their ids."""

    keys: frozenset[str] = frozenset()
    teams: Mapping[str, str] = {}


NOTHING = DeclaredNames()


class KeyFile:
    """The verbs over the store at ``location``. ``mint`` makes ids and secrets. ``declared`` names what the
    configuration declares: such names are taken, and keys may be of such teams.

    All verbs raise StoreError if the file cannot be read or written. ``actor`` is who changes something: operator, the
    name of a management key, or command line; ``address`` is from where.
    """

    def __init__(self, location: Location, mint: Mint, declared: DeclaredNames = NOTHING) -> None:
        self.location = location
        self._mint = mint
        self._declared = declared

    # Keys.

    def create_key(
        self, fields: Fields, actor: str, address: str | None, idempotency: str | None = None
    ) -> tuple[KeyRecord, str | None]:
        """A new key and its secret. ``fields`` has the name, and may have all others of KeyRecord that a person can
        set; ``team`` is a team's id or name. With an ``idempotency`` key that came before: the key of then, and None.

        Raises Duplicate, NoSuch for an unknown team, Conflict.
        """
        with self._changing() as change:
            if known := change.repeated("key", actor, fields, idempotency):
                return change.key(known), None
            key_id, secret = self._mint()
            team = change.team_of(fields.get("team"), self._declared.teams)
            change.free("keys", fields["name"], self._declared.keys)
            columns = (fields.get("expires_at"), int(bool(fields.get("disabled"))), _others(fields, OF_KEYS))
            change.run(INSERT_KEY, (key_id, fields["name"], team, change.now, *columns))
            change.keep_secret(key_id, secret)
            change.remember("key", actor, fields, idempotency, key_id)
            change.tell((actor, address), "key.create", key_id, fields)
            return change.key(key_id), secret

    def edit_key(self, key_id: str, changes: Fields, actor: str, address: str | None) -> KeyRecord:
        """The key after the changes. A field that is absent stays as it is, None clears it.

        Raises NoSuch, Duplicate, Revoked.
        """
        with self._changing() as change:
            key = change.living(key_id)
            if "name" in changes and changes["name"] != key.name:
                change.free("keys", changes["name"], self._declared.keys)
            team = change.team_of(changes["team"], self._declared.teams) if changes.get("team") else None
            new = {"name": key.name, "team": key.team, "expires_at": key.expires_at, "disabled": key.disabled}
            new |= {name: changes[name] for name in OF_KEYS if name in changes} | ({"team": team} if team else {})
            others = _others(_edited(key.fields, changes), OF_KEYS)
            columns = (new["name"], new["team"], new["expires_at"], int(bool(new["disabled"])), others)
            change.run(UPDATE_KEY, (*columns, key_id))
            change.tell((actor, address), "key.edit", key_id, changes)
            return change.key(key_id)

    def rotate_key(self, key_id: str, grace_seconds: float, actor: str, address: str | None) -> tuple[KeyRecord, str]:
        """The key and its new secret. The secrets before it end after ``grace_seconds``, 0 is at once; a grace that
        ends earlier is not prolonged. Raises NoSuch, Revoked."""
        with self._changing() as change:
            change.living(key_id)
            until = change.now + round(grace_seconds * 1000)
            change.run(END_SECRETS, (until, key_id, until))
            _, secret = self._mint(key_id)
            change.keep_secret(key_id, secret)
            change.tell((actor, address), "key.rotate", key_id, {"grace_seconds": grace_seconds})
            return change.key(key_id), secret

    def revoke_key(self, key_id: str, actor: str, address: str | None) -> KeyRecord:
        """Ends all secrets of a key, for good; its row stays. Again it changes nothing. Raises NoSuch."""
        with self._changing() as change:
            if change.key(key_id).revoked_at is None:
                change.run("UPDATE keys SET revoked_at = ? WHERE id = ?", (change.now, key_id))
                change.tell((actor, address), "key.revoke", key_id, {})
            return change.key(key_id)

    # Teams.

    def create_team(
        self, fields: Fields, actor: str, address: str | None, idempotency: str | None = None
    ) -> TeamRecord:
        """A new team. ``fields`` has the name, and may have the id and all others of TeamRecord. Raises Duplicate,
        Conflict."""
        with self._changing() as change:
            if known := change.repeated("team", actor, fields, idempotency):
                return change.team(known)
            team_id = fields.get("id") or self._mint()[0]
            change.free("teams", fields["name"], {*self._declared.teams.values()})
            if team_id in self._declared.teams or change.one("SELECT 1 FROM teams WHERE id = ?", team_id):
                raise Duplicate(f"a team with the id {team_id!r} exists already", "id")
            others = _others(fields, ("id", *OF_TEAMS))
            change.run(INSERT_TEAM, (team_id, fields["name"], change.now, int(bool(fields.get("disabled"))), others))
            change.remember("team", actor, fields, idempotency, team_id)
            change.tell((actor, address), "team.create", team_id, fields)
            return change.team(team_id)

    def edit_team(self, team_id: str, changes: Fields, actor: str, address: str | None) -> TeamRecord:
        """The team after the changes, as ``edit_key``. Raises NoSuch, Duplicate."""
        with self._changing() as change:
            team = change.team(team_id)
            if "name" in changes and changes["name"] != team.name:
                change.free("teams", changes["name"], {*self._declared.teams.values()})
            new = {"name": team.name, "disabled": team.disabled, **changes}
            others = _others(_edited(team.fields, changes), OF_TEAMS)
            change.run(UPDATE_TEAM, (new["name"], int(bool(new["disabled"])), others, team_id))
            change.tell((actor, address), "team.edit", team_id, changes)
            return change.team(team_id)

    def delete_team(self, team_id: str, actor: str, address: str | None) -> None:
        """Ends also the management keys of the team. Raises NoSuch, InUse while a key that is not revoked belongs to
        the team."""
        with self._changing() as change:
            change.team(team_id)
            count = change.one("SELECT count(*) FROM keys WHERE team = ? AND revoked_at IS NULL", team_id)
            if count and count[0]:
                keys = f"{count[0]} key{'s' * (count[0] > 1)}"
                raise InUse(f"the team {team_id} has {keys}; move or revoke them first")
            change.run("DELETE FROM teams WHERE id = ?", (team_id,))
            # A later team with this id is another one.
            change.run("DELETE FROM management_keys WHERE scope = ?", (f"team:{team_id}",))
            change.tell((actor, address), "team.delete", team_id, {})

    # Management keys.

    def create_management_key(
        self, fields: Fields, actor: str, address: str | None, idempotency: str | None = None
    ) -> tuple[ManagementRecord, str | None]:
        """A new key for the operator's API and its secret; ``fields`` are name and scope. Raises as ``create_key``."""
        with self._changing() as change:
            if known := change.repeated("management_key", actor, fields, idempotency):
                return change.management(known), None
            key_id, secret = self._mint(prefix="mk-torii-")
            change.free("management_keys", fields["name"], ())
            scope = fields["scope"]
            if scope.startswith("team:"):
                scope = f"team:{change.team_of(scope.removeprefix('team:'), self._declared.teams, 'scope')}"
            change.run(INSERT_MANAGEMENT, (key_id, fields["name"], scope, *_marks(secret), change.now))
            change.remember("management_key", actor, fields, idempotency, key_id)
            change.tell((actor, address), "management_key.create", key_id, fields)
            return change.management(key_id), secret

    def delete_management_key(self, key_id: str, actor: str, address: str | None) -> None:
        """Ends the key at once. Raises NoSuch."""
        with self._changing() as change:
            name = change.management(key_id).name
            change.run("DELETE FROM management_keys WHERE id = ?", (key_id,))
            change.tell((actor, address), "management_key.delete", key_id, {"name": name})

    # Reading.

    def load(self) -> KeySnapshot:
        """As the function ``load``."""
        return load(self.location)

    def audit(self, after: int | None = None, limit: int = 20) -> list[AuditEntry]:
        """The latest entries first, at most ``limit``; those before the entry with the id ``after``."""
        with reading(self.location) as connection:
            rows = connection.execute(SELECT_AUDIT, (2**63 - 1 if after is None else after, limit))
            return [AuditEntry._make((*row[:6], msgspec.json.decode(row[6]))) for row in rows]

    @contextmanager
    def _changing(self) -> Iterator[KeyChange]:
        """One transaction, which ends with the block. Raises StoreError."""
        try:
            with closing(connect(self.location, "rw", BUSY_SECONDS)) as connection:
                connection.begin()
                if not current(connection):
                    raise StoreError("it is of another version, or no ledger of Torii's; torii db upgrade upgrades it")
                yield KeyChange(connection, time.time_ns() // 1_000_000)
                connection.commit()
        except DRIVER_ERRORS as error:
            raise store_error(error) from None


class KeyChange:
    """A transaction. ``now`` is in Unix milliseconds."""

    def __init__(self, connection: StoreConnection, now: int) -> None:
        self.now = now
        self._connection = connection

    def run(self, statement: str, values: Sequence[Any]) -> None:
        self._connection.execute(statement, values)

    def one(self, statement: str, *values: Any) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
        return found

    def key(self, key_id: str) -> KeyRecord:
        """Raises NoSuch."""
        row = self.one(f"{SELECT_KEYS} WHERE id = ?", key_id)
        if row is None:
            raise NoSuch(f"there is no key with the id {key_id[:64]!r}")
        secrets = self._connection.execute(f"{SECRETS} WHERE key_id = ? {PRESENT_FIRST}", (key_id,))
        return key_of(row, [SecretRecord(*secret[1:]) for secret in secrets])

    def living(self, key_id: str) -> KeyRecord:
        """Raises NoSuch, Revoked."""
        key = self.key(key_id)
        if key.revoked_at is not None:
            raise Revoked(f"the key {key_id} was revoked, which is final; create another one")
        return key

    def team(self, team_id: str) -> TeamRecord:
        """Raises NoSuch."""
        row = self.one(f"{SELECT_TEAMS} WHERE id = ?", team_id)
        if row is None:
            raise NoSuch(f"there is no team with the id {team_id[:64]!r}")
        return team_of(row)

    def management(self, key_id: str) -> ManagementRecord:
        """Raises NoSuch."""
        row = self.one(f"{SELECT_MANAGEMENT} WHERE id = ?", key_id)
        if row is None:
            raise NoSuch(f"there is no management key with the id {key_id[:64]!r}")
        return ManagementRecord(*row)

    def team_of(self, given: str | None, declared: Mapping[str, str], field: str = "team") -> str | None:
        """The id of a team, by its id or name. Raises NoSuch, which names the nearest."""
        if given is None:
            return None
        teams = {**dict(self._connection.execute("SELECT id, name FROM teams")), **declared}
        found = given if given in teams else next((each for each, name in teams.items() if name == given), None)
        if found is None:
            near = nearest(given, [*teams, *teams.values()]) if teams else []
            hint = f"nearest: {', '.join(near)}" if near else "there are no teams yet"
            raise NoSuch(f"there is no team {given[:64]!r}; {hint}", field)
        return found

    def free(self, table: str, name: str, declared: Collection[str]) -> None:
        """Raises Duplicate if the name is taken; a revoked key keeps its name."""
        if name in declared or self.one(f"SELECT 1 FROM {table} WHERE name = ?", name):  # noqa: S608 - our own table
            what = table.rstrip("s").replace("_", " ")
            raise Duplicate(f"a {what} with the name {name!r} exists already; each needs a name of its own", "name")

    def keep_secret(self, key_id: str, secret: str) -> None:
        self.run(KEEP_MARKS, (key_id, *_marks(secret), self.now))

    def repeated(self, what: str, actor: str, fields: Fields, idempotency: str | None) -> str | None:
        """The id of what an earlier request with this Idempotency-Key made; None if there was none. Raises Conflict."""
        if idempotency is None:
            return None
        self.run("DELETE FROM idempotency WHERE time < ?", (self.now - REMEMBERED_MS,))
        known = self.one("SELECT request, object_id FROM idempotency WHERE key = ?", idempotency)
        if known is None:
            return None
        if known[0] != _request(what, actor, fields):
            raise Conflict("this Idempotency-Key came with another request before; use a new one for a new request")
        return str(known[1])

    def remember(self, what: str, actor: str, fields: Fields, idempotency: str | None, object_id: str) -> None:
        if idempotency is not None:
            values = (idempotency, _request(what, actor, fields), object_id, self.now)
            self.run("INSERT INTO idempotency (key, request, object_id, time) VALUES (?, ?, ?, ?)", values)

    def tell(self, who: tuple[str, str | None], action: str, object_id: str, changes: Fields) -> None:
        """The line of the audit, and the change number."""
        self.run(INSERT_AUDIT, (self.now, *who, action, object_id, _json(changes)))
        self.run(RAISE_NUMBER, ())
        self._connection.announce(CHANNEL)


# Statements. The columns have the order of the records' fields.

INSERT_KEY = "INSERT INTO keys (id, name, team, created_at, expires_at, disabled, fields) VALUES (?, ?, ?, ?, ?, ?, ?)"
UPDATE_KEY = "UPDATE keys SET name = ?, team = ?, expires_at = ?, disabled = ?, fields = ? WHERE id = ?"
KEEP_MARKS = "INSERT INTO secrets (key_id, hash, tail, created_at) VALUES (?, ?, ?, ?)"
END_SECRETS = "UPDATE secrets SET valid_until = ? WHERE key_id = ? AND (valid_until IS NULL OR valid_until > ?)"
INSERT_TEAM = "INSERT INTO teams (id, name, created_at, disabled, fields) VALUES (?, ?, ?, ?, ?)"
UPDATE_TEAM = "UPDATE teams SET name = ?, disabled = ?, fields = ? WHERE id = ?"
INSERT_MANAGEMENT = "INSERT INTO management_keys (id, name, scope, hash, tail, created_at) VALUES (?, ?, ?, ?, ?, ?)"
INSERT_AUDIT = "INSERT INTO audit (time, actor, address, action, object_id, changes) VALUES (?, ?, ?, ?, ?, ?)"
SELECT_AUDIT = (
    "SELECT id, time, actor, address, action, object_id, changes FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?"
)
RAISE_NUMBER = (
    "INSERT INTO state (name, value) VALUES ('keys', 1) ON CONFLICT (name) DO UPDATE SET value = state.value + 1"
)


def _others(fields: Fields, columns: Collection[str]) -> str:
    """The fields without columns of their own that are set, as JSON."""
    return _json({name: value for name, value in fields.items() if name not in columns and value is not None})


def _edited(fields: Fields, changes: Fields) -> Fields:
    """The fields after the changes. Of the limits, those that are absent stay as they are too, and None clears them."""
    if changes.get("limits") is None:
        return {**fields, **changes}
    limits = {**fields.get("limits", {}), **changes["limits"]}
    left = {name: limit for name, limit in limits.items() if limit is not None}
    return {**fields, **changes, "limits": left or None}


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _request(what: str, actor: str, fields: Fields) -> str:
    return hashlib.sha256(_json([what, actor, fields]).encode()).hexdigest()


def _marks(secret: str) -> tuple[str, str]:
    """The traces of a secret in the file: its SHA-256, and its last four characters."""
    return hashlib.sha256(secret.encode()).hexdigest(), secret[-4:]
