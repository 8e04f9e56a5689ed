"""Keys, teams, limits, budgets and prices in the configuration, and what is said of mistakes in them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.callers.accounts import budget_of, key_file
from app.config.accounts import BudgetSettings, KeyChanges, KeyFields, TeamChanges, TeamFields
from app.config.loader import load
from app.config.sources import explain
from app.storage.ledger_file import LedgerFile

from .test_settings import Write, _nothing_around, mistakes, write

__all__ = ["_nothing_around", "write"]  # fixtures

ENDPOINTS = "'embeddings', 'rerank', 'chat', 'reader', 'search', 'svip', 'classify', 'train' or 'segment'"
PERMITTED = ENDPOINTS.replace(" or 'segment'", ", 'segment' or 'classifiers'")
HASH = hashlib.sha256(b"a key").hexdigest()


def said(section: Callable[..., Any], **fields: Any) -> list[tuple[str, str]]:
    """Where the mistakes are, and what is said of them."""
    with pytest.raises(ValidationError) as error:
        section(**fields)
    return [(".".join(map(str, keys)), what) for keys, what in explain(error.value, section)]  # type: ignore[arg-type]


def test_a_key_with_all_its_fields() -> None:
    key = KeyFields.model_validate(
        {
            "name": "search",
            "team": "red",
            "owner": "Ada",
            "metadata": {"room": "12"},
            "expires_at": "2027-01-31T12:00:00+02:00",
            "disabled": True,
            "allowed_models": ["jina-*"],
            "allowed_endpoints": [],
            "allowed_ips": ["10.0.0.7", "192.0.2.7/24", "2001:DB8::/32"],
            "limits": {"requests_per_minute": 5, "tokens_per_day": 0},
            "budgets": [{"unit": "usd", "amount": 12.50, "window": "month", "models": ["a"], "warn_at": [1]}],
            "on_disconnect": "drain",
            "cache": "private",
        }
    )
    assert key.stored() == {
        "name": "search",
        "team": "red",
        "owner": "Ada",
        "metadata": {"room": "12"},
        "expires_at": round(datetime(2027, 1, 31, 10, tzinfo=UTC).timestamp() * 1000),
        "disabled": True,
        "allowed_models": ["jina-*"],
        "allowed_endpoints": [],
        "allowed_ips": ["10.0.0.7/32", "192.0.2.0/24", "2001:db8::/32"],
        "limits": {"requests_per_minute": 5, "tokens_per_day": 0},
        "budgets": [{"unit": "usd", "amount": "12.5", "window": "month", "models": ["a"], "warn_at": [1.0]}],
        "on_disconnect": "drain",
        "cache": "private",
    }
    assert KeyFields(name="a").stored() == {"name": "a"}


@pytest.mark.parametrize(
    ("unit", "amount", "inside"),
    [
        ("usd", "0.000000001", 1),
        ("usd", 0.1, 100_000_000),
        ("usd", 1e-05, 10_000),
        ("usd", 9_000_000, 9 * 10**15),
        ("usd", "007.50", 7_500_000_000),
        ("tokens", "1000", 1000),
        ("requests", 0, 0),
        ("tokens", 1000.0, 1000),
    ],
)
def test_amounts_are_exact(unit: str, amount: Any, inside: int) -> None:
    budget = BudgetSettings.model_validate({"unit": unit, "amount": amount, "window": "day"})
    assert budget_of(budget.model_dump(mode="json", exclude_none=True)).amount == inside


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ({"amount": "abc"}, "amount", 'must be a number, such as 100 or "12.50"'),
        ({"amount": "1e3"}, "amount", 'must be a number, such as 100 or "12.50"'),
        ({"amount": "١"}, "amount", 'must be a number, such as 100 or "12.50"'),
        ({"amount": float("nan")}, "amount", 'must be a number, such as 100 or "12.50"'),
        ({"amount": []}, "amount", 'must be a number, such as 100 or "12.50"'),
        ({"amount": -1}, "amount", "must be at least 0"),
        ({"amount": "-0.5"}, "amount", "must be at least 0"),
        ({"amount": "0.0000000001"}, "amount", "must have at most 9 decimals"),
        ({"amount": 9_000_001}, "amount", "must be at most 9000000 dollars"),
        ({"amount": "1.5", "unit": "tokens"}, "amount", "must be a whole number of tokens, at most 9000000000000000"),
        (
            {"amount": 10**16, "unit": "requests"},
            "amount",
            "must be a whole number of requests, at most 9000000000000000",
        ),
        ({"unit": "eur"}, "unit", "must be 'usd', 'tokens' or 'requests'"),
        ({"window": "year"}, "window", "must be 'day', 'week', 'month' or 'total'"),
        ({"endpoints": ["audio"]}, "endpoints.0", f"must be {ENDPOINTS}"),
        ({"warn_at": [0]}, "warn_at.0", "must be more than 0"),
        ({"warn_at": [1.5]}, "warn_at.0", "must be at most 1"),
        ({"models": "a"}, "models", "must be a list"),
        (
            {"ammount": 1},
            "ammount",
            "unknown key; did you mean amount? Allowed: amount, unit, warn_at, endpoints, models, window",
        ),
    ],
)
def test_mistakes_in_a_budget(change: dict[str, Any], where: str, what: str) -> None:
    assert said(BudgetSettings, **{"unit": "usd", "amount": 1, "window": "day", **change}) == [(where, what)]


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ({"limits": {"tokens_per_minute": -1}}, "limits.tokens_per_minute", "must be at least 0"),
        ({"limits": {"concurrent_calls": 1.5}}, "limits.concurrent_calls", "must be a whole number"),
        (
            {"limits": {"request_per_minute": 1}},
            "limits.request_per_minute",
            "unknown key; did you mean requests_per_minute? Allowed: requests_per_minute, requests_per_day, "
            "tokens_per_minute, tokens_per_day, concurrent_runs, concurrent_calls",
        ),
        (
            {"allowed_ips": ["10.0.0.0/33"]},
            "allowed_ips.0",
            "must be an address or a network, such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32",
        ),
        ({"allowed_models": [""]}, "allowed_models.0", "must not be empty"),
        ({"allowed_endpoints": ["chats"]}, "allowed_endpoints.0", f"must be {PERMITTED}"),
        ({"expires_at": "2027-01-31"}, "expires_at", "must be a time with its zone, such as 2027-01-31T12:00:00Z"),
        ({"expires_at": 5}, "expires_at", "must be a time with its zone, such as 2027-01-31T12:00:00Z"),
        ({"cache": "own"}, "cache", "must be 'shared' or 'private'"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "must have at most 16 entries"),
        ({"metadata": {"a": "x" * 513}}, "metadata", "has names of at most 64 and texts of at most 512 characters"),
        ({"metadata": {"a": 1}}, "metadata.a", "must be text; put it in quotes"),
        ({"name": ""}, "name", "must not be empty"),
        ({"name": "x" * 65}, "name", "must have at most 64 characters"),
    ],
)
def test_mistakes_in_a_key(change: dict[str, Any], where: str, what: str) -> None:
    assert said(KeyFields, **{"name": "a", **change}) == [(where, what)]


def test_changes_tell_absent_from_null() -> None:
    changes: dict[str, Any] = {
        "owner": None,
        "limits": None,
        "budgets": None,
        "expires_at": None,
        "metadata": {},
        "disabled": False,
    }
    assert KeyChanges.model_validate(changes).stored() == changes
    assert KeyChanges().stored() == {}
    assert said(KeyChanges, name=None) == [("name", "cannot be cleared")]
    budget = {"unit": "usd", "amount": "1.0", "window": "day"}
    assert TeamChanges.model_validate({"budgets": [budget]}).stored()["budgets"][0]["amount"] == "1"
    assert said(TeamFields, name="x", id="two words")[0][1].startswith("must have 1 to 64 characters")


def test_declared_keys_and_teams(write: Write) -> None:
    settings = load(
        write(f"""
            teams: [{{id: red, budgets: [{{unit: tokens, amount: 5, window: week}}]}}, {{id: blue, name: Blue}}]
            keys: [{{name: a, sha256: {HASH.upper()}, team: red, expires_at: 2030-01-31T12:00:00Z}}]
            organization: {{limits: {{concurrent_calls: 50}}}}
            prices: {{jina: {{m: {{input: 0.05, source: mail, date: 2026-11-01}}}}}}
            trusted_proxies: [10.0.0.0/8]
            time_zone: Europe/Berlin
            week_begins: Sunday
            callers: [{{name: b, key: 0123456789abcdef, limits: {{tokens_per_day: 1}}}}]
        """),
        sandbox="on",
    )
    assert not settings.open
    assert [team.name for team in settings.teams] == ["red", "Blue"]
    assert settings.keys[0].sha256 == HASH
    assert settings.keys[0].expires_at == datetime(2030, 1, 31, 12, tzinfo=UTC)
    assert settings.organization.limits.concurrent_calls == 50
    assert settings.prices["jina"]["m"].input == Decimal("0.05")
    assert (settings.time_zone, settings.week_begins) == ("Europe/Berlin", "sunday")
    assert settings.callers[0].limits.tokens_per_day == 1


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "keys: [{name: a, sha256: abc}]",
            ["keys[0]: sha256 must be 64 hexadecimal digits, as `printf %s KEY | sha256sum` prints them"],
        ),
        (
            f"keys: [{{name: a, sha256: {HASH}, team: rde}}]\nteams: [{{id: red}}]",
            ["keys[0].team: unknown team; nearest: red. A declared key needs a declared team, by its id"],
        ),
        (
            f"keys: [{{name: a, sha256: {HASH}}}, {{name: a, sha256: {HASH}}}]",
            [
                "keys[0].name: duplicate name; each key and each caller needs a name of its own",
                "keys[1].name: duplicate name; each key and each caller needs a name of its own",
                "keys[1].sha256: duplicate key; each needs a key of its own",
            ],
        ),
        (
            f"keys: [{{name: a, sha256: {HASH}}}]\ncallers: [{{name: a, sha256: {HASH}}}]",
            [
                "keys[0].name: duplicate name; each key and each caller needs a name of its own",
                "keys[0].sha256: duplicate key; each needs a key of its own",
            ],
        ),
        (
            f"keys: [{{name: a, sha256: {HASH}}}]\noperator_key: a key of the operator",
            ["operator_key: must be printable ASCII without spaces, because it is sent in an HTTP header"],
        ),
        (
            "teams: [{id: red}, {id: red}]",
            [
                f"teams[{n}].{f}: duplicate {f}; each team needs {a} of its own"
                for n, f, a in ((0, "id", "an id"), (1, "id", "an id"), (0, "name", "a name"), (1, "name", "a name"))
            ],
        ),
        ("teams: [{name: red}]", ["teams[0].id: is missing"]),
        (
            "prices: {jino: {m: {input: 1}}}",
            ["prices.jino: unknown upstream; did you mean jina? Known: jina, aihubmix"],
        ),
        ("prices: {jina: {m: {}}}", ["prices.jina.m: must have a price: input, output or per_call"]),
        ("prices: {jina: {m: {input: -1}}}", ["prices.jina.m.input: must be at least 0"]),
        (
            "time_zone: Europe/Berln",
            ["time_zone: must be a time zone of the IANA list, such as Europe/Berlin; nearest: Europe/Berlin"],
        ),
        (
            "time_zone: europe/berlin",
            ["time_zone: must be a time zone of the IANA list, such as Europe/Berlin; nearest: Europe/Berlin"],
        ),
        ("week_begins: friday", ["week_begins: must be 'monday' or 'sunday'"]),
        ("deepsearch_max_budget: 9999", ["deepsearch_max_budget: must be at least 10000"]),
        (
            "trusted_proxies: [localhost]",
            ["trusted_proxies[0]: must be an address or a network, such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32"],
        ),
        (
            "alerts: {webhook: {url: hooks.example}}",
            ["alerts.webhook.url: must be a URL such as https://hooks.example/alerts"],
        ),
        (
            f"ledger: {{path: off}}\nkeys: [{{name: a, sha256: {HASH}}}]",
            [
                "ledger.path: is off, and keys declares virtual keys, whose limits need the ledger: set ledger.path "
                "(TORII_LEDGER__PATH) to auto or a file"
            ],
        ),
    ],
)
def test_mistakes_are_named(write: Write, text: str, lines: list[str]) -> None:
    found = [line.partition(": ")[2] for line in mistakes(write(text))]
    assert found == lines


def test_an_operators_key_is_no_declared_key(write: Write) -> None:
    key = "a-key-of-the-operator"
    text = f"keys: [{{name: a, sha256: {hashlib.sha256(key.encode()).hexdigest()}}}]\noperator_key: {key}"
    assert mistakes(write(text)) == [
        "torii.yaml:2: operator_key: is also a caller's key; the operator needs a separate key"
    ]


def test_created_keys_need_the_ledger(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    file = tmp_path / "torii" / "torii.db"
    LedgerFile(file).close()
    path = write("ledger: {path: off}")
    assert load(path, sandbox="on").ledger.path == "off"
    key_file(file).create_key({"name": "a"}, "operator", None)
    assert mistakes(path) == [
        "torii.yaml:1: ledger.path: is off, and torii/torii.db has virtual keys, which nobody could use then: set "
        "ledger.path (TORII_LEDGER__PATH) to auto or a file, or move the file away"
    ]


def test_an_operators_key_is_enough_to_listen_on_other_addresses(write: Write) -> None:
    text = "host: 0.0.0.0\noperator_key: a-key-of-the-operator\n"
    settings = load(write(text), sandbox="on")
    assert settings.open
    assert settings.waiting
    assert "host: other machines can reach this address" in mistakes(write(f"{text}ledger: {{path: off}}"))[0]
