"""Keys and teams in the ledger's file: each verb is one transaction, with its line in the audit."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.callers.virtual_key import new, parse
from app.storage.errors import NoFile, StoreError
from app.storage.keys import Conflict, DeclaredNames, Duplicate, InUse, KeyFile, NoSuch, NotChanged, Revoked
from app.storage.ledger_file import LedgerFile
from app.storage.location import Location

from ..ledger import read

WHO = ("operator", "127.0.0.1")


@pytest.fixture
def keys(location: Location) -> KeyFile:
    LedgerFile(location).close()
    return KeyFile(location, new, DeclaredNames(frozenset({"declared"}), {"git": "In git"}))


def sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def test_a_created_key_keeps_its_fields_and_only_the_hash_of_its_secret(keys: KeyFile) -> None:
    fields = {
        "name": "search",
        "owner": "Ada",
        "allowed_models": [],
        "expires_at": 5,
        "limits": {"concurrent_calls": 2},
    }
    key, secret = keys.create_key(fields, *WHO)
    assert secret is not None
    assert parse(secret) == key.id
    assert key.fields == {"owner": "Ada", "allowed_models": [], "limits": {"concurrent_calls": 2}}
    assert (key.name, key.team, key.expires_at, key.disabled, key.revoked_at) == ("search", None, 5, False, None)
    assert [(mark.hash, mark.tail, mark.valid_until) for mark in key.secrets] == [(sha256(secret), secret[-4:], None)]
    assert keys.load().keys == {key.id: key}
    tables = ("keys", "secrets", "audit", "idempotency", "state")
    assert secret not in str([read(keys.location, f"SELECT * FROM {table}") for table in tables])
    assert secret not in repr(key)
    assert sha256(secret) not in repr(key)


def test_absent_leaves_as_is_and_null_clears(keys: KeyFile) -> None:
    team = keys.create_team({"name": "red"}, *WHO)
    key, _ = keys.create_key({"name": "a", "team": "red", "owner": "Ada", "metadata": {"x": "y"}}, *WHO)
    assert key.team == team.id
    edited = keys.edit_key(key.id, {"owner": None, "expires_at": 7, "disabled": True}, *WHO)
    assert (edited.team, edited.expires_at, edited.disabled) == (team.id, 7, True)
    assert edited.fields == {"metadata": {"x": "y"}}
    edited = keys.edit_key(key.id, {"team": None, "expires_at": None, "disabled": False, "name": "b"}, *WHO)
    assert (edited.name, edited.team, edited.expires_at, edited.disabled) == ("b", None, None, False)
    team = keys.edit_team(team.id, {"disabled": True, "limits": {"concurrent_calls": 1}}, *WHO)
    assert (team.name, team.disabled, team.fields) == ("red", True, {"limits": {"concurrent_calls": 1}})
    assert keys.edit_team(team.id, {"limits": None, "disabled": None}, *WHO).fields == {}


def test_a_rotation_keeps_the_old_secret_for_its_grace(keys: KeyFile) -> None:
    key, first = keys.create_key({"name": "a"}, *WHO)
    rotated, second = keys.rotate_key(key.id, 3600, *WHO)
    assert parse(second) == key.id
    assert [mark.hash for mark in rotated.secrets] == [sha256(second), sha256(first or "")]
    present, old = rotated.secrets
    assert present.valid_until is None
    assert old.valid_until == present.created_at + 3_600_000
    again, _ = keys.rotate_key(key.id, 0, *WHO)
    ends = {mark.hash: mark.valid_until for mark in again.secrets}
    assert ends[sha256(first or "")] == ends[sha256(second)] == again.secrets[0].created_at


def test_a_grace_is_not_prolonged_by_a_later_rotation(keys: KeyFile) -> None:
    key, first = keys.create_key({"name": "a"}, *WHO)
    soon, _ = keys.rotate_key(key.id, 1, *WHO)
    later, _ = keys.rotate_key(key.id, 3600, *WHO)
    ends = {mark.hash: mark.valid_until for mark in later.secrets}
    assert ends[sha256(first or "")] == soon.secrets[1].valid_until


def test_a_revoked_key_stays_revoked(keys: KeyFile) -> None:
    key, _ = keys.create_key({"name": "a"}, *WHO)
    revoked = keys.revoke_key(key.id, *WHO)
    number = keys.load().number
    assert revoked.revoked_at is not None
    assert keys.revoke_key(key.id, *WHO) == revoked
    assert keys.load().number == number
    for change in (lambda: keys.rotate_key(key.id, 0, *WHO), lambda: keys.edit_key(key.id, {"disabled": False}, *WHO)):
        with pytest.raises(Revoked, match="was revoked, which is final"):
            change()


def test_a_repeated_idempotency_key_creates_nothing(keys: KeyFile) -> None:
    key, secret = keys.create_key({"name": "a"}, *WHO, "once")
    assert secret is not None
    assert keys.create_key({"name": "a"}, *WHO, "once") == (key, None)
    assert keys.create_team({"name": "t"}, *WHO, "team") == keys.create_team({"name": "t"}, *WHO, "team")
    management, _ = keys.create_management_key({"name": "ci", "scope": "read_only"}, *WHO, "ci")
    assert keys.create_management_key({"name": "ci", "scope": "read_only"}, *WHO, "ci") == (management, None)
    for fields, actor in (({"name": "b"}, "operator"), ({"name": "a"}, "somebody else")):
        with pytest.raises(Conflict, match="came with another request before"):
            keys.create_key(fields, actor, None, "once")
    assert [entry.action for entry in keys.audit()] == ["management_key.create", "team.create", "key.create"]


@pytest.mark.parametrize(
    ("verb", "error", "words", "field"),
    [
        (
            lambda keys: keys.create_key({"name": "taken"}, *WHO),
            Duplicate,
            "a key with the name 'taken' exists",
            "name",
        ),
        (lambda keys: keys.create_key({"name": "declared"}, *WHO), Duplicate, "'declared' exists already", "name"),
        (
            lambda keys: keys.create_key({"name": "x", "team": "reed"}, *WHO),
            NoSuch,
            "no team 'reed'; nearest: red",
            "team",
        ),
        (lambda keys: keys.create_team({"name": "red"}, *WHO), Duplicate, "a team with the name 'red' exists", "name"),
        (lambda keys: keys.create_team({"name": "x", "id": "git"}, *WHO), Duplicate, "with the id 'git' exists", "id"),
        (lambda keys: keys.edit_key("none", {}, *WHO), NoSuch, "there is no key with the id 'none'", None),
        (lambda keys: keys.edit_team("none", {}, *WHO), NoSuch, "there is no team with the id 'none'", None),
        (lambda keys: keys.delete_management_key("none", *WHO), NoSuch, "no management key with the id 'none'", None),
        (
            lambda keys: keys.create_management_key({"name": "x", "scope": "team:none"}, *WHO),
            NoSuch,
            "there is no team 'none'",
            "scope",
        ),
    ],
)
def test_what_cannot_be_changed_changes_nothing(
    keys: KeyFile, verb: Callable[[KeyFile], Any], error: type[NotChanged], words: str, field: str | None
) -> None:
    keys.create_key({"name": "taken"}, *WHO)
    keys.create_team({"name": "red"}, *WHO)
    before, audit = keys.load(), keys.audit()
    with pytest.raises(error, match=words) as refusal:
        verb(keys)
    assert refusal.value.field == field
    assert (keys.load(), keys.audit()) == (before, audit)


def test_a_team_with_keys_is_not_deleted(keys: KeyFile) -> None:
    team = keys.create_team({"name": "red"}, *WHO)
    key, _ = keys.create_key({"name": "a", "team": team.id}, *WHO)
    with pytest.raises(InUse, match="has 1 key; move or revoke"):
        keys.delete_team(team.id, *WHO)
    keys.revoke_key(key.id, *WHO)
    keys.delete_team(team.id, *WHO)
    assert keys.load().teams == {}


def test_a_key_may_be_of_a_declared_team(keys: KeyFile) -> None:
    assert keys.create_key({"name": "a", "team": "git"}, *WHO)[0].team == "git"
    assert keys.create_key({"name": "b", "team": "In git"}, *WHO)[0].team == "git"


def test_management_keys_come_and_go(keys: KeyFile) -> None:
    made, secret = keys.create_management_key({"name": "ci", "scope": "team:git"}, *WHO)
    assert secret is not None
    assert secret.startswith("mk-torii-")
    assert keys.load().management == {made.id: made}
    assert (made.scope, made.hash, made.tail) == ("team:git", sha256(secret), secret[-4:])
    keys.delete_management_key(made.id, *WHO)
    assert keys.load().management == {}


def test_the_audit_says_who_changed_what_from_where_and_shows_no_secret(keys: KeyFile) -> None:
    key, secret = keys.create_key({"name": "a", "owner": "Ada"}, "operator", "192.0.2.7")
    _, second = keys.rotate_key(key.id, 60, "command line", None)
    keys.revoke_key(key.id, "ci", "192.0.2.8")
    entries = keys.audit()
    assert [(entry.actor, entry.address, entry.action, entry.object_id) for entry in entries] == [
        ("ci", "192.0.2.8", "key.revoke", key.id),
        ("command line", None, "key.rotate", key.id),
        ("operator", "192.0.2.7", "key.create", key.id),
    ]
    assert entries[1].changes == {"grace_seconds": 60}
    assert entries[2].changes == {"name": "a", "owner": "Ada"}
    assert str(secret) not in repr(entries)
    assert second not in repr(entries)
    assert keys.audit(after=entries[0].id, limit=1) == entries[1:2]


def test_each_change_raises_the_number(keys: KeyFile) -> None:
    assert keys.load().number == 0
    key, _ = keys.create_key({"name": "a"}, *WHO)
    keys.edit_key(key.id, {"owner": "x"}, *WHO)
    assert keys.load().number == 2


def test_changes_of_several_threads_are_all_made(keys: KeyFile) -> None:
    threads = [threading.Thread(target=keys.create_key, args=({"name": f"k{n}"}, *WHO)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in keys.load().keys.values()} == {f"k{n}" for n in range(8)}
    assert keys.load().number == 8


def test_files_that_cannot_hold_keys(path: Path) -> None:
    keys = KeyFile(path, new)
    with pytest.raises(NoFile):
        keys.create_key({"name": "a"}, *WHO)
    assert not path.exists()
    LedgerFile(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 3")
    assert keys.load().keys == {}
    with pytest.raises(StoreError, match="another version"):
        keys.create_key({"name": "a"}, *WHO)
