"""/admin/v1/keys and teams: creating, reading, changing, rotating and revoking, and every kind of bad input."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ..conftest import ScriptedUpstream, replies
from ..ledger import read
from .operating import OperatorClient, operated, refused, whole

VECTORS = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"total_tokens": 1}}
EMBED = {"model": "jina-embeddings-v3", "input": ["hi"]}
EVERYTHING: dict[str, Any] = {
    "name": "ana",
    "team": None,
    "owner": "Ana, search",
    "metadata": {"cost_centre": "7"},
    "expires_at": "2099-01-31T12:00:00Z",
    "disabled": False,
    "allowed_models": ["jina-*"],
    "allowed_endpoints": ["embeddings"],
    "allowed_ips": ["127.0.0.0/8"],
    "limits": {
        "requests_per_minute": 60,
        "tokens_per_minute": None,
        "concurrent_calls": 4,
        "concurrent_runs": None,
        "requests_per_day": None,
        "tokens_per_day": 1000,
    },
    "budgets": [
        {
            "unit": "usd",
            "amount": "12.5",
            "window": "month",
            "endpoints": ["embeddings"],
            "models": ["jina-*"],
            "warn_at": [0.9],
        },
        {
            "unit": "tokens",
            "amount": 100000,
            "window": "total",
            "endpoints": None,
            "models": None,
            "warn_at": [0.5, 0.8],
        },
    ],
    "on_disconnect": "drain",
    "cache": "private",
}


@pytest.fixture
async def operator(tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[OperatorClient]:
    upstream.plays(replies(VECTORS))
    async with operated(tmp_path, upstream.url, unpriced="allow") as client:
        yield client


async def status_of(operator: OperatorClient, secret: str) -> int:
    """The status of a call with a caller's key."""
    answer = await operator.gateway.post("/v1/embeddings", EMBED, authorization=f"Bearer {secret}")
    return answer.status_code


async def test_a_key_with_every_field_is_created_and_read_back(operator: OperatorClient) -> None:
    answer = await operator.ask("POST", "/keys", EVERYTHING)
    made = answer.json()
    assert answer.status_code == 201
    secret = made.pop("secret")
    assert secret.startswith(f"sk-torii-{made['id']}-")
    assert "redacted_value" not in made
    assert {name: made[name] for name in EVERYTHING} == EVERYTHING
    assert made["object"] == "key"
    assert abs(datetime.fromisoformat(made["created_at"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert made["created_at"].endswith("Z")
    shown = await operator.get(f"/keys/{made['id']}")
    assert shown.pop("redacted_value") == f"sk-torii-{made['id']}-...{secret[-4:]}"
    assert shown == made
    assert (made["status"], made["declared"], made["revoked_at"], made["last_used_at"]) == ("active", False, None, None)
    assert await status_of(operator, secret) == 200


async def test_a_key_with_a_name_only_may_everything(operator: OperatorClient) -> None:
    made = await operator.post("/keys", {"name": "bo"})
    assert [made[name] for name in ("team", "owner", "metadata", "budgets", "cache")] == [None, None, {}, [], "shared"]
    assert set(made["limits"].values()) == {None}
    assert await status_of(operator, made["secret"]) == 200


BAD: list[tuple[str, Any, str | None, str]] = [
    ("name", {}, "name", "name is missing"),
    ("no text", {"name": 7}, "name", "name must be text; put it in quotes; it is 7"),
    ("empty", {"name": ""}, "name", "name must not be empty; it is ''"),
    (
        "unknown field",
        {"name": "a", "limts": {}},
        "limts",
        "limts: unknown field; did you mean limits? Allowed: limits,",
    ),
    (
        "unknown limit",
        {"name": "a", "limits": {"tokens_per_day": 1, "request_per_minute": 1}},
        "limits.request_per_minute",
        "limits.request_per_minute: unknown field; did you mean requests_per_minute?",
    ),
    (
        "negative limit",
        {"name": "a", "limits": {"tokens_per_day": -5}},
        "limits.tokens_per_day",
        "limits.tokens_per_day must be at least 0; it is -5",
    ),
    (
        "limit that is a share",
        {"name": "a", "limits": {"tokens_per_day": 1.5}},
        "limits.tokens_per_day",
        "limits.tokens_per_day must be a whole number; it is 1.5",
    ),
    (
        "limit in words",
        {"name": "a", "limits": {"tokens_per_day": "many"}},
        "limits.tokens_per_day",
        "limits.tokens_per_day must be a whole number; it is 'many'",
    ),
    (
        "window",
        {"name": "a", "budgets": [{"unit": "usd", "amount": "1", "window": "year"}]},
        "budgets[0].window",
        "budgets[0].window must be 'day', 'week', 'month' or 'total'; it is 'year'",
    ),
    (
        "unit",
        {"name": "a", "budgets": [{"unit": "eur", "amount": "1", "window": "day"}]},
        "budgets[0].unit",
        "budgets[0].unit must be 'usd', 'tokens' or 'requests'; it is 'eur'",
    ),
    (
        "amount",
        {"name": "a", "budgets": [{"unit": "usd", "amount": "a lot", "window": "day"}]},
        "budgets[0].amount",
        "budgets[0].amount must be a number, such as 100 or \"12.50\"; it is 'a lot'",
    ),
    (
        "negative amount",
        {"name": "a", "budgets": [{"unit": "usd", "amount": "-1", "window": "day"}]},
        "budgets[0].amount",
        "budgets[0].amount must be at least 0; it is '-1'",
    ),
    (
        "too fine an amount",
        {"name": "a", "budgets": [{"unit": "usd", "amount": "0.0000000001", "window": "day"}]},
        "budgets[0].amount",
        "budgets[0].amount must have at most 9 decimals; it is '0.0000000001'",
    ),
    (
        "part of a token",
        {"name": "a", "budgets": [{"unit": "tokens", "amount": 1.5, "window": "day"}]},
        "budgets[0].amount",
        "budgets[0].amount must be a whole number of tokens, at most 9000000000000000; it is 1.5",
    ),
    (
        "address",
        {"name": "a", "allowed_ips": ["10.0.0.0/8", "10.0.0.300"]},
        "allowed_ips[1]",
        "allowed_ips[1] must be an address or a network, such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32; it is '10.0.",
    ),
    (
        "endpoint",
        {"name": "a", "allowed_endpoints": ["embedding"]},
        "allowed_endpoints[0]",
        "allowed_endpoints[0] must be 'embeddings', 'rerank', 'chat', 'reader', 'search', 'svip', 'classify', 'train', "
        "'segment' or 'classifiers'; it is 'embedding'",
    ),
    (
        "time without a zone",
        {"name": "a", "expires_at": "2027-01-31T12:00:00"},
        "expires_at",
        "expires_at must be a time with its zone, such as 2027-01-31T12:00:00Z; it is '2027-01-31T12:00:00'",
    ),
    (
        "metadata",
        {"name": "a", "metadata": {str(number): "x" for number in range(17)}},
        "metadata",
        "metadata must have at most 16 entries; it is an object",
    ),
    (
        "too many budgets",
        {"name": "a", "budgets": [{"unit": "tokens", "amount": 1, "window": "day"}] * 51},
        "budgets",
        "budgets must have at most 50 entries; it is a list",
    ),
    (
        "too many models",
        {"name": "a", "allowed_models": ["m"] * 501},
        "allowed_models",
        "allowed_models must have at most 500 entries; it is a list",
    ),
    ("team", {"name": "a", "team": "serch"}, "team", "there is no team 'serch'; nearest: search"),
    ("duplicate name", {"name": "taken"}, "name", "a key with the name 'taken' exists already"),
    ("no object", [], None, "the body must be a JSON object"),
    ("no JSON", b"{", None, "the body is not JSON"),
]


@pytest.mark.parametrize(("body", "field", "message"), [each[1:] for each in BAD], ids=[each[0] for each in BAD])
async def test_a_wrong_key_is_a_400_that_names_the_field_what_came_and_what_is_right(
    operator: OperatorClient, tmp_path: Path, body: Any, field: str | None, message: str
) -> None:
    await operator.post("/teams", {"name": "search"})
    await operator.post("/keys", {"name": "taken"})
    made = await operator.post("/keys", {"name": "whole"})
    before = rows(tmp_path)
    answers = [await operator.ask("POST", "/keys", body)]
    if body != {}:
        answers.append(await operator.ask("PATCH", f"/keys/{made['id']}", body))
    for answer in answers:
        status, param, said = refused(answer)
        assert (status, param) == (400, field)
        assert said.startswith(message)
    assert rows(tmp_path) == before


def rows(folder: Path) -> list[Any]:
    """Everything that the operator's API writes."""
    tables = ("keys", "secrets", "teams", "management_keys", "audit", "idempotency")
    return [read(folder / "ledger.db", f"SELECT * FROM {table}") for table in tables]


async def test_a_patch_leaves_what_is_absent_and_clears_what_is_null(operator: OperatorClient) -> None:
    made = await operator.post("/keys", EVERYTHING)
    place = f"/keys/{made['id']}"
    cleared = ("owner", "expires_at", "allowed_models", "allowed_endpoints", "allowed_ips", "on_disconnect", "team")
    changed = await operator.patch(place, dict.fromkeys(cleared))
    assert [changed[name] for name in cleared] == [None] * len(cleared)
    assert (changed["metadata"], changed["budgets"]) == (EVERYTHING["metadata"], EVERYTHING["budgets"])
    changed = await operator.patch(place, {"metadata": None, "budgets": None, "limits": None, "cache": None})
    assert (changed["metadata"], changed["budgets"], changed["cache"]) == ({}, [], "shared")
    assert set(changed["limits"].values()) == {None}
    assert (await operator.patch(place, {"allowed_models": []}))["allowed_models"] == []
    assert await operator.get(place) == await operator.patch(place, {})
    kept = refused(await operator.ask("PATCH", place, {"name": None}))
    assert kept == (400, "name", "name cannot be cleared; it is null")


async def test_a_patch_of_limits_leaves_the_limits_that_are_absent(operator: OperatorClient) -> None:
    made = await operator.post("/keys", {"name": "a", "limits": {"requests_per_minute": 5, "tokens_per_day": 9}})
    changed = await operator.patch(
        f"/keys/{made['id']}", {"limits": {"requests_per_minute": None, "concurrent_calls": 2}}
    )
    given = {name: amount for name, amount in changed["limits"].items() if amount is not None}
    assert given == {"tokens_per_day": 9, "concurrent_calls": 2}
    assert (await operator.patch(f"/keys/{made['id']}", {"limits": {}}))["limits"] == changed["limits"]
    team = await operator.post("/teams", {"name": "t", "limits": {"requests_per_minute": 5, "tokens_per_day": 9}})
    changed = await operator.patch(f"/teams/{team['id']}", {"limits": {"tokens_per_day": 7}})
    assert (changed["limits"]["requests_per_minute"], changed["limits"]["tokens_per_day"]) == (5, 7)


async def test_concurrent_edits_of_different_fields_are_all_kept(operator: OperatorClient) -> None:
    made = await operator.post("/keys", {"name": "a"})
    place = f"/keys/{made['id']}"
    changes: list[Any] = [
        {"owner": "Bo"},
        {"limits": {"requests_per_minute": 5}},
        {"limits": {"tokens_per_day": 7}},
        {"limits": {"concurrent_calls": 3}},
        {"metadata": {"a": "b"}},
        {"cache": "private"},
    ]
    await asyncio.gather(*(operator.patch(place, change) for change in changes))
    found = await operator.get(place)
    assert (found["owner"], found["metadata"], found["cache"]) == ("Bo", {"a": "b"}, "private")
    assert [found["limits"][name] for name in ("requests_per_minute", "tokens_per_day", "concurrent_calls")] == [
        5,
        7,
        3,
    ]


async def test_of_keys_created_at_once_with_one_name_one_is_made(operator: OperatorClient) -> None:
    answers = await asyncio.gather(*(operator.ask("POST", "/keys", {"name": "one"}) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + 7 * [400]
    assert len((await operator.get("/keys"))["data"]) == 1


async def test_a_repeated_creation_makes_nothing_again_and_shows_no_secret(operator: OperatorClient) -> None:
    answers = await asyncio.gather(
        *(operator.ask("POST", "/keys", {"name": "one"}, idempotency_key="abc") for _ in range(4))
    )
    assert [answer.status_code for answer in answers] == [201] * 4
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("secret" in answer.json() for answer in answers) == 1
    assert sum("redacted_value" in answer.json() for answer in answers) == 3
    other = await operator.ask("POST", "/keys", {"name": "two"}, idempotency_key="abc")
    assert refused(other)[0] == 409
    assert (await operator.ask("POST", "/keys", {"name": "two"}, idempotency_key="x" * 300)).status_code == 400
    teams = [await operator.post("/teams", {"name": "t"}, idempotency_key="t") for _ in range(2)]
    assert teams[0] == teams[1]
    made = [await operator.post("/management_keys", {"name": "m", "scope": "admin"}, idempotency_key="m") for _ in "ab"]
    assert ["secret" in each for each in made] == [True, False]


async def test_lists_have_pages(operator: OperatorClient) -> None:
    made = [(await operator.post("/keys", {"name": f"key {number}"}))["id"] for number in range(5)]
    first = await operator.get("/keys?limit=2")
    assert [key["id"] for key in first["data"]] == [first["first_id"], first["last_id"]] == made[:2]
    assert (first["object"], first["has_more"]) == ("list", True)
    rest = await operator.get(f"/keys?limit=3&after={first['last_id']}")
    assert ([key["id"] for key in rest["data"]], rest["has_more"]) == (made[2:], False)
    none = await operator.get(f"/keys?after={made[-1]}")
    assert none == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        ("limit=0", "limit", "limit must be at least 1; it is '0'"),
        ("limit=101", "limit", "limit must be at most 100; it is '101'"),
        ("limit=all", "limit", "limit must be a whole number; it is 'all'"),
        ("after=nothing", "after", "after must be the id of an entry of this list"),
        ("lmit=2", "lmit", "lmit: unknown parameter; did you mean limit?"),
        ("status=dead", "status", "status must be 'active', 'disabled', 'expired' or 'revoked'; it is 'dead'"),
    ],
)
async def test_a_wrong_page_is_a_400(operator: OperatorClient, query: str, field: str, message: str) -> None:
    status, param, said = refused(await operator.ask("GET", f"/keys?{query}"))
    assert (status, param) == (400, field)
    assert said.startswith(message)


async def test_keys_are_listed_by_team_and_by_state(operator: OperatorClient) -> None:
    team = await operator.post("/teams", {"name": "search"})
    given: list[Any] = [{"team": "search"}, {"disabled": True}, {"expires_at": "2020-01-01T00:00:00Z"}, {}]
    ids = [(await operator.post("/keys", {"name": str(n), **each}))["id"] for n, each in enumerate(given)]
    await operator.delete(f"/keys/{ids[3]}")
    for query, place in (
        (f"team={team['id']}", 0),
        ("status=disabled", 1),
        ("status=expired", 2),
        ("status=revoked", 3),
    ):
        assert [key["id"] for key in (await operator.get(f"/keys?{query}"))["data"]] == [ids[place]]


async def test_a_rotated_key_has_two_secrets_until_the_grace_ends(operator: OperatorClient) -> None:
    made = await operator.post("/keys", {"name": "a"})
    place = f"/keys/{made['id']}"
    rotated = await operator.post(f"{place}/rotate", {"grace_seconds": 3600})
    assert rotated["id"] == made["id"]
    assert rotated["secret"] != made["secret"]
    assert [await status_of(operator, each["secret"]) for each in (made, rotated)] == [200, 200]
    (old,) = (await operator.get(place))["old_secrets"]
    assert old["redacted_value"].endswith(made["secret"][-4:])
    left = datetime.fromisoformat(old["valid_until"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    again = await operator.post(f"{place}/rotate", {"grace_seconds": 0})
    assert [await status_of(operator, each["secret"]) for each in (rotated, again)] == [401, 200]
    assert len((await operator.post(f"{place}/rotate"))["old_secrets"]) == 1  # the default grace is a day
    wrong = await operator.ask("POST", f"{place}/rotate", {"grace_seconds": -1})
    assert refused(wrong) == (400, "grace_seconds", "grace_seconds must be at least 0; it is -1")


async def test_a_revoked_key_is_refused_at_once_and_for_good(operator: OperatorClient) -> None:
    made = await operator.post("/keys", {"name": "a"})
    place = f"/keys/{made['id']}"
    assert await status_of(operator, made["secret"]) == 200
    assert await operator.delete(place) == {"object": "key.deleted", "id": made["id"], "deleted": True}
    assert await status_of(operator, made["secret"]) == 401
    assert (await operator.get(place))["status"] == "revoked"
    for method, path, body in (("PATCH", place, {"owner": "x"}), ("POST", f"{place}/rotate", {})):
        assert refused(await operator.ask(method, path, body))[0] == 409
    assert (await operator.ask("DELETE", place)).status_code == 200


async def test_a_disabled_key_is_refused_until_it_is_enabled(operator: OperatorClient) -> None:
    made = await operator.post("/keys", {"name": "a"})
    for disabled, status in ((True, 401), (False, 200)):
        await operator.patch(f"/keys/{made['id']}", {"disabled": disabled})
        assert await status_of(operator, made["secret"]) == status


@pytest.mark.parametrize("path", ["/keys/nothing", "/teams/nothing", "/keys/sk-torii-" + "a" * 60])
async def test_what_there_is_not_is_a_404(operator: OperatorClient, path: str) -> None:
    for method, body in (("GET", None), ("PATCH", {}), ("DELETE", None)):
        status, param, said = refused(await operator.ask(method, path, body))
        assert (status, param) == (404, "id")
        assert "sk-torii-aaaa" not in said


async def test_a_team_is_created_changed_and_deleted(operator: OperatorClient) -> None:
    budget = {"unit": "usd", "amount": "200", "window": "month"}
    made = await operator.post(
        "/teams", {"id": "search", "name": "Search", "budgets": [budget], "metadata": {"a": "b"}}
    )
    assert (made["object"], made["id"], made["name"], made["disabled"]) == ("team", "search", "Search", False)
    assert made["budgets"] == [{**budget, "endpoints": None, "models": None, "warn_at": [0.5, 0.8]}]
    assert await operator.get("/teams/search") == made
    changed = await operator.patch("/teams/search", {"name": "Find", "disabled": True, "budgets": None})
    assert (changed["name"], changed["disabled"], changed["budgets"], changed["metadata"]) == (
        "Find",
        True,
        [],
        {"a": "b"},
    )
    key = await operator.post("/keys", {"name": "a", "team": "search"})
    status, _, said = refused(await operator.ask("DELETE", "/teams/search"))
    assert (status, said) == (409, "the team search has 1 key; move or revoke them first")
    await operator.delete(f"/keys/{key['id']}")
    assert await operator.delete("/teams/search") == {"object": "team.deleted", "id": "search", "deleted": True}
    assert (await operator.ask("GET", "/teams/search")).status_code == 404
    assert [team["id"] for team in (await operator.get("/teams"))["data"]] == []


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"name": "taken"}, "name", "a team with the name 'taken' exists already"),
        ({"name": "b", "id": "taken"}, "id", "a team with the id 'taken' exists already"),
        ({"name": "b", "id": "a b"}, "id", "id must have 1 to 64 characters of A-Z"),
        ({"name": "b", "limit": {}}, "limit", "limit: unknown field; did you mean limits?"),
        (
            {"name": "b", "limits": {"tokens_per_day": -1}},
            "limits.tokens_per_day",
            "limits.tokens_per_day must be at least",
        ),
    ],
)
async def test_a_wrong_team_is_a_400(operator: OperatorClient, body: Any, field: str, message: str) -> None:
    await operator.post("/teams", {"name": "taken", "id": "taken"})
    status, param, said = refused(await operator.ask("POST", "/teams", body))
    assert (status, param) == (400, field)
    assert said.startswith(message)
    assert len((await operator.get("/teams"))["data"]) == 1


SHA256 = "ab" * 32


async def test_what_the_configuration_declares_is_listed_and_read_only(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "teams": [{"id": "ops", "limits": {"requests_per_minute": 5}}],
        "keys": [{"name": "fixed", "sha256": SHA256, "team": "ops", "id": "fixed-id", "allowed_models": ["a"]}],
    }
    async with operated(tmp_path, **given) as operator:
        await operator.post("/keys", {"name": "created", "team": "ops"})
        keys, teams = (await operator.get("/keys"))["data"], (await operator.get("/teams"))["data"]
        assert [(key["name"], key["declared"], key["team"]) for key in keys] == [
            ("fixed", True, "ops"),
            ("created", False, "ops"),
        ]
        assert [(team["id"], team["declared"], team["created_at"]) for team in teams] == [("ops", True, None)]
        assert (keys[0]["redacted_value"], keys[0]["allowed_models"]) == (None, ["a"])
        assert SHA256 not in str(keys)
        for method, path in (
            *(("PATCH", "/keys/fixed-id"), ("DELETE", "/keys/fixed-id"), ("POST", "/keys/fixed-id/rotate")),
            *(("PATCH", "/teams/ops"), ("DELETE", "/teams/ops")),
        ):
            status, _, said = refused(await operator.ask(method, path, {} if method != "DELETE" else None))
            assert status == 409
            assert "stands in the configuration" in said
        assert refused(await operator.ask("POST", "/keys", {"name": "fixed"}))[:2] == (400, "name")
        assert refused(await operator.ask("POST", "/teams", {"name": "x", "id": "ops"}))[:2] == (400, "id")


async def test_a_file_that_cannot_be_written_is_a_503_and_nothing_has_changed(
    operator: OperatorClient, tmp_path: Path
) -> None:
    made = await operator.post("/keys", {"name": "a"})
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as file:
        file.execute("ALTER TABLE audit RENAME TO gone")
        answer = await operator.ask("PATCH", f"/keys/{made['id']}", {"owner": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
        assert answer.headers["retry-after"] == "1"
        file.execute("ALTER TABLE gone RENAME TO audit")
    assert (await operator.get(f"/keys/{made['id']}"))["owner"] is None


async def test_without_a_ledger_there_is_nothing_to_keep_keys_in(upstream: ScriptedUpstream) -> None:
    from ..conftest import running_gateway, settings_for
    from .operating import OPERATOR

    async with running_gateway(settings_for(upstream.url, operator_key=OPERATOR)) as gateway:
        operator = OperatorClient(gateway)
        assert (await operator.get("/keys"))["data"] == []
        answer = await operator.ask("POST", "/keys", {"name": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
        assert "keeps no ledger" in answer.text
        assert "retry-after" not in answer.headers
        assert whole(await operator.ask("GET", "/teams"))["data"] == []


@pytest.mark.parametrize(
    "expires_at", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "1969-12-31T23:00:00Z"]
)
async def test_a_time_at_the_ends_of_the_calendar_is_a_400_and_nothing_is_kept(
    operator: OperatorClient, expires_at: str
) -> None:
    status, field, message = refused(await operator.ask("POST", "/keys", {"name": "a", "expires_at": expires_at}))
    assert (status, field) == (400, "expires_at")
    assert "must be in the years 1970 to 9998" in message
    assert (await operator.get("/keys"))["data"] == []
    assert (await operator.get("/audit"))["data"] == []


@pytest.mark.parametrize("name", ["   ", "a\nb", "a\x00b", "a\x1b[31mb", "a\u2028b"])
async def test_a_name_that_no_table_can_show_is_a_400(operator: OperatorClient, name: str) -> None:
    for path, more in (("/keys", {}), ("/teams", {}), ("/management_keys", {"scope": "admin"})):
        status, field, message = refused(await operator.ask("POST", path, {"name": name, **more}))
        assert (status, field) == (400, "name")
        assert "no control characters" in message


async def test_a_mapped_address_allows_the_ipv4_address_that_it_holds(operator: OperatorClient) -> None:
    key = await operator.post("/keys", {"name": "a", "allowed_ips": ["::ffff:127.0.0.1", "::ffff:10.1.2.3/104"]})
    assert key["allowed_ips"] == ["127.0.0.1/32", "10.0.0.0/8"]
    assert await status_of(operator, key["secret"]) == 200


async def test_a_method_that_is_not_allowed_is_told_all_that_are(operator: OperatorClient) -> None:
    key = await operator.post("/keys", {"name": "a"})
    for path, allow in (("/keys", "GET, POST"), (f"/keys/{key['id']}", "GET, PATCH, DELETE")):
        answer = await operator.ask("PUT", path, {})
        assert (answer.status_code, answer.headers["allow"]) == (405, allow)


async def test_nothing_is_written_as_minus_nothing(operator: OperatorClient) -> None:
    key = await operator.post("/keys", {"name": "a", "budgets": [{"unit": "usd", "amount": -0.0, "window": "day"}]})
    assert key["budgets"][0]["amount"] == "0"
