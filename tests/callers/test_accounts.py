"""Callers, declared keys and created keys together: who is admitted, and with which scopes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.callers.accounts import Accounts, key_file
from app.callers.keys import Caller, digest
from app.callers.limits import Budget, Limits, Scope
from app.callers.registry import Registry, mark
from app.callers.virtual_key import new
from app.config.settings import Settings
from app.core.errors import Barred, PermissionDenied, ToriiError
from app.gateway.build import build_callers
from app.storage.keys import KeyFile
from app.storage.ledger_file import LedgerFile
from app.storage.new_file import VERSION
from tests.conftest import until

WHO = ("operator", None)
FIRST = "0123456789abcdef-first"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    LedgerFile(tmp_path / "torii.db").close()
    return tmp_path / "torii.db"


@contextmanager
def registry_of(file: Path | None) -> Iterator[Registry]:
    registry = Registry(file, poll_seconds=0.01)
    registry.start()
    try:
        yield registry
    finally:
        registry.close()


@pytest.fixture
def registry(file: Path) -> Iterator[Registry]:
    with registry_of(file) as registry:
        yield registry


@pytest.fixture
def keys(file: Path) -> KeyFile:
    return key_file(file)


def check(accounts: Accounts, key: str | None, **about: Any) -> Caller:
    headers = {b"authorization": [b"Bearer " + key.encode()]} if key else {}
    return accounts.check(headers, **about)


def refused(accounts: Accounts, key: str | None, **about: Any) -> tuple[int, str | None, str]:
    with pytest.raises(ToriiError) as refusal:
        check(accounts, key, **about)
    return refusal.value.status, refusal.value.code, refusal.value.message


def made(keys: KeyFile, registry: Registry, **fields: Any) -> tuple[str, str]:
    """The id and the secret of a new key, which the registry has seen."""
    key, secret = keys.create_key({"name": f"key {time.monotonic_ns()}", **fields}, *WHO)
    registry.refresh()
    assert secret is not None
    return key.id, secret


def test_a_created_key_is_admitted_with_its_scopes(keys: KeyFile, registry: Registry) -> None:
    organization = {"limits": {"concurrent_calls": 9}}
    accounts = build_callers(Settings.model_validate({"organization": organization}), registry)
    budgets = [{"unit": "usd", "amount": "0.5", "window": "day", "models": ["a*"], "warn_at": [0.9]}]
    team = keys.create_team({"name": "red", "budgets": budgets}, *WHO)
    key, secret = keys.create_key(
        {"name": "search", "team": "red", "limits": {"requests_per_minute": 3}, "cache": "private"}, *WHO
    )
    registry.refresh()
    caller = check(accounts, secret)
    assert (caller.name, caller.id, caller.team, caller.private_cache) == ("search", key.id, team.id, True)
    assert caller.scopes == (
        Scope(f"key:{key.id}", "search", Limits(requests_per_minute=3)),
        Scope(f"team:{team.id}", "red", budgets=(Budget("usd", 500_000_000, "day", None, ("a*",), (0.9,)),)),
        Scope("organization", "the organization", Limits(concurrent_calls=9)),
    )
    assert accounts.keys[key.id].name == "search"
    _, plain = made(keys, registry)
    assert [scope.id for scope in check(accounts, plain).scopes] == ["organization"]


def test_configured_callers_may_have_limits(registry: Registry) -> None:
    caller = {
        "name": "a",
        "key": FIRST,
        "limits": {"tokens_per_day": 5},
        "budgets": [{"unit": "tokens", "amount": 7, "window": "total"}],
    }
    accounts = build_callers(Settings.model_validate({"callers": [caller]}), registry)
    scope = Scope("key:a", "a", Limits(tokens_per_day=5), (Budget("tokens", 7, "total"),))
    assert check(accounts, FIRST) == Caller("a", "a", scopes=(scope,))


def test_declared_keys_and_teams_stand_beside_created_ones(keys: KeyFile, registry: Registry) -> None:
    hashed = digest(FIRST).hex()
    declared = {"name": "in git", "sha256": hashed.upper(), "team": "git", "allowed_models": ["jina-*"]}
    team = {"id": "git", "limits": {"concurrent_calls": 1}}
    accounts = build_callers(Settings.model_validate({"keys": [declared], "teams": [team]}), registry)
    caller = check(accounts, FIRST)
    assert (caller.name, caller.team, [scope.id for scope in caller.scopes]) == ("in git", "git", ["team:git"])
    assert len(caller.id or "") == 12
    record = accounts.keys[caller.id or ""]
    assert record.declared
    assert accounts.teams["git"].declared
    assert accounts.store is not None
    created, secret = accounts.store.create_key({"name": "b", "team": "git"}, *WHO)
    registry.refresh()
    assert check(accounts, secret).scopes == caller.scopes
    assert not accounts.keys[created.id].declared
    with pytest.raises(Exception, match="'in git' exists already"):
        accounts.store.create_key({"name": "in git"}, *WHO)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"disabled": True}, "key_disabled", "this key is disabled"),
        ({"expires_at": 1_000}, "key_expired", "this key expired at 1970-01-01T00:00:01Z"),
    ],
)
def test_a_key_that_is_refused_says_why(
    keys: KeyFile, registry: Registry, change: dict[str, Any], code: str, words: str
) -> None:
    accounts = build_callers(Settings(), registry)
    key, secret = made(keys, registry)
    assert check(accounts, secret).id == key
    keys.edit_key(key, change, *WHO)
    registry.refresh()
    assert refused(accounts, secret) == (
        401,
        code,
        f"Incorrect API key provided: {words}. The gateway's operator can give you another.",
    )
    keys.edit_key(key, dict.fromkeys(change), *WHO)
    registry.refresh()
    assert check(accounts, secret).id == key


async def test_a_key_expires_without_a_change(keys: KeyFile, registry: Registry) -> None:
    accounts = build_callers(Settings(), registry)
    _, secret = made(keys, registry, expires_at=round(time.time() * 1000) + 250)
    caller = check(accounts, secret)
    assert caller.expires_at is not None
    await until(lambda: time.time() >= (caller.expires_at or 0))
    assert refused(accounts, secret)[:2] == (401, "key_expired")


def test_a_revoked_key(keys: KeyFile, registry: Registry) -> None:
    accounts = build_callers(Settings(), registry)
    key, first = made(keys, registry)
    _, second = keys.rotate_key(key, 60, *WHO)
    registry.refresh()
    assert check(accounts, first) == check(accounts, second)
    keys.revoke_key(key, *WHO)
    registry.refresh()
    for secret in (first, second):
        status, code, message = refused(accounts, secret)
        assert (status, code) == (401, "key_revoked")
        assert "this key was revoked at 20" in message


def test_a_secret_ends_with_the_grace_of_its_rotation(keys: KeyFile, registry: Registry) -> None:
    accounts = build_callers(Settings(), registry)
    key, first = made(keys, registry)
    _, second = keys.rotate_key(key, 0, *WHO)
    registry.refresh()
    status, code, message = refused(accounts, first)
    assert (status, code) == (401, "key_revoked")
    assert "this key was replaced by a rotation, and its grace ended at" in message
    assert check(accounts, second).id == key


def test_a_disabled_team_disables_its_keys(keys: KeyFile, registry: Registry) -> None:
    accounts = build_callers(Settings(), registry)
    team = keys.create_team({"name": "red"}, *WHO)
    _, secret = made(keys, registry, team="red")
    keys.edit_team(team.id, {"disabled": True}, *WHO)
    registry.refresh()
    status, code, message = refused(accounts, secret)
    assert (status, code) == (401, "key_disabled")
    assert f"this key belongs to the team red ({team.id}), which is disabled" in message


def test_a_key_whose_declared_team_is_gone_is_not_free_of_its_limits(keys: KeyFile, registry: Registry) -> None:
    with_team = build_callers(Settings.model_validate({"teams": [{"id": "git"}]}), registry)
    assert with_team.store is not None
    _, secret = with_team.store.create_key({"name": "a", "team": "git"}, *WHO)
    registry.refresh()
    assert check(with_team, secret).team == "git"
    status, code, message = refused(build_callers(Settings(), registry), secret)
    assert (status, code) == (401, "key_disabled")
    assert "belongs to the team git, which does not exist any more" in message


def test_what_a_key_is_for(keys: KeyFile, registry: Registry) -> None:
    accounts = build_callers(Settings(trusted_proxies=["127.0.0.1"]), registry)
    _, secret = made(
        keys, registry, allowed_ips=["10.0.0.0/8"], allowed_endpoints=["rerank"], allowed_models=["jina-rerank*"]
    )
    assert refused(accounts, secret, peer="192.0.2.1", endpoint="chat")[1:] == (
        "permission_denied",
        "this key may not be used from 192.0.2.1; allowed: 10.0.0.0/8",
    )
    with pytest.raises(Barred, match="may not use chat; allowed endpoints: rerank"):
        check(accounts, secret, peer="10.1.1.1", endpoint="chat")
    caller = check(accounts, secret, peer="10.1.1.1")
    caller.check_model("jina-reranker-m0")
    with pytest.raises(PermissionDenied, match="may not use jina-clip-v2; allowed models: jina-rerank"):
        caller.check_model("jina-clip-v2")
    assert caller.may_use("jina-reranker-m0", ["rerank", "chat"])
    assert not caller.may_use("jina-reranker-m0", ["chat"])
    assert not caller.may_use("jina-clip-v2", ["rerank"])
    headers = {b"api-key": [secret.encode()], b"x-forwarded-for": [b"10.2.2.2"]}
    assert accounts.check(headers, "127.0.0.1", "rerank") == caller
    assert refused(accounts, secret, peer="127.0.0.1")[1] == "permission_denied"


def test_a_mistyped_key_is_told_from_an_unknown_one(keys: KeyFile, registry: Registry) -> None:
    accounts = build_callers(Settings(), registry)
    _, secret = made(keys, registry)
    wrong = secret[:-1] + ("a" if secret[-1] != "a" else "b")
    mistyped = "Incorrect API key provided: this key is mistyped: its checksum does not fit. Copy the key again."
    assert refused(accounts, wrong) == (401, "invalid_api_key", mistyped)
    assert "this gateway does not know the key" in refused(accounts, new()[1])[2]


# ---------------------------------------------------------------- open or not


def test_the_first_key_closes_the_gateway_for_good(file: Path, keys: KeyFile, registry: Registry) -> None:
    accounts = build_callers(Settings(), registry)
    assert accounts.open
    assert check(accounts, None) == Caller("open")
    key, secret = made(keys, registry)
    assert not accounts.open
    assert refused(accounts, None)[:2] == (401, "invalid_api_key")
    keys.revoke_key(key, *WHO)
    registry.refresh()
    assert not accounts.open
    with registry_of(file) as again:
        assert not build_callers(Settings(), again).open
        assert refused(build_callers(Settings(), again), secret)[1] == "key_revoked"


def test_a_team_alone_closes_nothing(keys: KeyFile, registry: Registry) -> None:
    keys.create_team({"name": "red"}, *WHO)
    registry.refresh()
    assert build_callers(Settings(), registry).open


def test_an_open_gateway_keeps_the_organizations_limits(registry: Registry) -> None:
    settings = Settings.model_validate({"organization": {"budgets": [{"unit": "usd", "amount": 1, "window": "month"}]}})
    caller = check(build_callers(settings, registry), None)
    assert (caller.id, [scope.id for scope in caller.scopes]) == (None, ["organization"])


def test_a_gateway_that_others_reach_waits_for_its_first_key(keys: KeyFile, registry: Registry) -> None:
    accounts = build_callers(Settings(host="0.0.0.0"), registry)
    said = "Incorrect API key provided: this gateway has no keys yet. Its operator creates the first one by `torii keys"
    for key in (None, FIRST):
        status, code, message = refused(accounts, key)
        assert (status, code) == (401, "invalid_api_key")
        assert message.startswith(said)
    _, secret = made(keys, registry)
    assert check(accounts, secret).id
    assert refused(accounts, None)[2].startswith("The request has no API key.")


def test_declared_keys_close_the_gateway() -> None:
    key = {"name": "a", "sha256": digest(FIRST).hex()}
    assert not build_callers(Settings.model_validate({"keys": [key]})).open


# ---------------------------------------------------------------- the registry


async def test_changes_of_another_process_are_seen(keys: KeyFile, registry: Registry) -> None:
    accounts = build_callers(Settings(), registry)
    key, secret = keys.create_key({"name": "a"}, *WHO)
    await until(lambda: key.id in accounts.keys)
    assert check(accounts, secret).id == key.id
    keys.revoke_key(key.id, *WHO)
    await until(lambda: accounts.keys[key.id].revoked_at is not None)
    assert refused(accounts, secret)[1] == "key_revoked"


async def test_the_last_known_keys_hold_while_the_file_cannot_be_read(
    file: Path, keys: KeyFile, registry: Registry
) -> None:
    accounts = build_callers(Settings(), registry)
    key, secret = made(keys, registry)
    assert registry.trouble is None
    away = file.with_name("away.db")
    move(file, away)
    await until(lambda: registry.trouble == "there is no such file")
    assert check(accounts, secret).id == key
    file.mkdir()
    await until(lambda: registry.trouble not in (None, "there is no such file"))
    assert check(accounts, secret).id == key
    file.rmdir()
    LedgerFile(file).close()
    await until(lambda: registry.trouble == "a file without keys is in its place")
    assert check(accounts, secret).id == key
    file.unlink()
    move(away, file)
    await until(lambda: registry.trouble is None)
    assert check(accounts, secret).id == key


def move(file: Path, place: Path) -> None:
    """Moves a database with all that its -wal holds. A -wal that stays would be taken for the next file's."""
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    for name in ("-wal", "-shm"):
        place.with_name(place.name + name).unlink(missing_ok=True)
        file.with_name(file.name + name).unlink(missing_ok=True)
    file.rename(place)


async def test_a_file_in_the_place_of_a_removed_one_is_read_even_if_it_looks_the_same(
    file: Path, keys: KeyFile, registry: Registry
) -> None:
    """A file system gives the inode of a removed file to the next one, whose change number may be the same too."""
    accounts = build_callers(Settings(), registry)
    key, _ = made(keys, registry)
    remove(file)
    await until(lambda: registry.trouble == "there is no such file")
    LedgerFile(file).close()
    await until(lambda: registry.trouble == "a file without keys is in its place")
    other, _ = keys.create_key({"name": "b"}, *WHO)
    await until(lambda: set(accounts.keys) == {other.id} != {key})


def remove(file: Path) -> None:
    """Removes a database with its log."""
    for each in (file, *(file.with_name(f"{file.name}-{end}") for end in ("wal", "shm"))):
        each.unlink(missing_ok=True)


async def test_keys_that_were_never_read_leave_the_gateway_closed_until_they_are(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with registry_of(file) as registry:
        accounts = build_callers(Settings(callers=[]), registry)
        assert registry.trouble
        assert not accounts.open
        assert refused(accounts, None)[:2] == (503, "storage_unavailable")
        configured = build_callers(Settings.model_validate({"caller_key": FIRST}), registry)
        assert check(configured, FIRST).id == "default"
        assert refused(configured, new()[1])[:2] == (503, "storage_unavailable")
        assert refused(configured, "sk-0")[:2] == (401, "invalid_api_key")
        with closing(sqlite3.connect(file)) as connection:
            connection.execute(f"PRAGMA user_version = {VERSION}")
        await until(lambda: accounts.open)
        assert registry.trouble is None


@pytest.mark.parametrize("lost", ["removed", "empty"])
def test_a_lost_file_leaves_the_gateway_closed_after_a_restart(file: Path, keys: KeyFile, lost: str) -> None:
    with registry_of(file) as registry:
        made(keys, registry)
    remove(file)
    if lost == "empty":
        LedgerFile(file).close()
    with registry_of(file) as registry:
        accounts = build_callers(Settings(), registry)
        assert not accounts.open
        assert refused(accounts, None)[:2] == (401, "invalid_api_key")
    mark(file).unlink()
    with registry_of(file) as registry:
        assert build_callers(Settings(), registry).open


def test_without_a_file_there_are_no_keys(tmp_path: Path) -> None:
    for path in (None, tmp_path / "none.db"):
        with registry_of(path) as registry:
            assert build_callers(Settings(), registry).open
            assert registry.trouble is None


def test_a_management_key_is_found_by_its_hash(keys: KeyFile, registry: Registry) -> None:
    made, secret = keys.create_management_key({"name": "ci", "scope": "read_only"}, *WHO)
    registry.refresh()
    assert registry.management(digest(secret or "")) == made
    assert registry.management(digest("other")) is None
    keys.delete_management_key(made.id, *WHO)
    registry.refresh()
    assert registry.management(digest(secret or "")) is None


def test_a_key_of_a_later_torii_admits_nobody(file: Path, keys: KeyFile, registry: Registry) -> None:
    accounts = build_callers(Settings(), registry)
    key, secret = made(keys, registry)
    keys.edit_key(key, {"limits": {"limit_of_the_future": 1}}, *WHO)
    registry.refresh()
    assert refused(accounts, secret)[:2] == (401, "invalid_api_key")


def test_replaced_configurations_are_let_go(no_collector: None, registry: Registry) -> None:
    build_callers(Settings(), registry)
    assert len(registry._views) == 0
