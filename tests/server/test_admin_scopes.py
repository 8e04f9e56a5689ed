"""Who may use the operator's API, and what it tells of whom: management keys, the audit, and no secret anywhere."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.core.redaction import Redactor

from ..conftest import ScriptedUpstream, replies, running_gateway, settings_for
from ..ledger import read
from .operating import OPERATOR, OperatorClient, operated, refused

VECTORS = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"total_tokens": 1}}
CALLER = "caller-key-0123456789"


@pytest.fixture
async def operator(tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[OperatorClient]:
    upstream.plays(replies(VECTORS))
    async with operated(tmp_path, upstream.url) as client:
        yield client


async def managed(operator: OperatorClient, scope: str) -> OperatorClient:
    made = await operator.post("/management_keys", {"name": f"key of {scope}", "scope": scope})
    return operator.by(made["secret"])


EVERY_GET = (
    "keys",
    "teams",
    "limits",
    "usage",
    "costs",
    "calls",
    "classifiers",
    "upstreams",
    "management_keys",
    "audit",
    "openapi.json",
)


async def test_without_an_operator_and_management_keys_there_is_nothing(tmp_path: Path) -> None:
    async with operated(tmp_path, operator_key=None) as operator:
        for path in EVERY_GET:
            status, _, said = refused(await operator.ask("GET", f"/{path}"))
            assert (status, said.partition(". ")[0]) == (404, f"there is nothing at '/admin/v1/{path}'")
        assert refused(await operator.ask("POST", "/keys", {"name": "a"}))[0] == 404


@pytest.mark.parametrize("prefix", ["/admin%2fv1", "/%61dmin/v1", "/admin/%761"])
async def test_an_escaped_path_evades_no_rule_of_a_proxy(operator: OperatorClient, prefix: str) -> None:
    answer = await operator.gateway.client.get(f"{prefix}/keys", headers={"authorization": f"Bearer {OPERATOR}"})
    assert answer.status_code == 404


async def test_a_management_key_opens_the_api_without_an_operators_key(tmp_path: Path) -> None:
    async with operated(tmp_path) as operator:
        made = await operator.post("/management_keys", {"name": "m", "scope": "admin"})
    async with operated(tmp_path, operator_key=None) as operator:
        assert (await operator.ask("GET", "/keys")).status_code == 401
        manager = operator.by(made["secret"])
        assert (await manager.get("/keys"))["data"] == []
        await manager.delete(f"/management_keys/{made['id']}")
        assert (await manager.ask("GET", "/keys")).status_code == 404


async def test_only_the_operators_keys_open_it(operator: OperatorClient) -> None:
    key = await operator.post("/keys", {"name": "a"})
    for path in (*EVERY_GET, "keys/nothing", "teams/nothing"):
        for other in (key["secret"], "jina-key", "wrong"):
            assert (await operator.by(other).ask("GET", f"/{path}")).status_code == 401
        assert (await operator.gateway.client.get(f"/admin/v1/{path}")).status_code == 401
    assert (await operator.ask("GET", "/keys?key=x")).status_code == 401
    assert (await operator.ask("GET", f"/limits?key={key['secret']}")).status_code == 401
    answer = await operator.gateway.client.get("/v1/models", headers={"authorization": f"Bearer {OPERATOR}"})
    assert answer.status_code == 401


async def test_a_management_key_is_created_listed_and_deleted(operator: OperatorClient) -> None:
    made = await operator.post("/management_keys", {"name": "ci", "scope": "read_only"})
    secret = made.pop("secret")
    assert re.fullmatch(rf"mk-torii-{made['id']}-[0-9A-Za-z]{{49}}", secret)
    (listed,) = (await operator.get("/management_keys"))["data"]
    assert listed.pop("redacted_value") == f"mk-torii-{made['id']}-...{secret[-4:]}"
    assert listed == made
    reader = operator.by(secret)
    assert (await reader.get("/keys"))["data"] == []
    deleted = await operator.delete(f"/management_keys/{made['id']}")
    assert deleted == {"object": "management_key.deleted", "id": made["id"], "deleted": True}
    assert (await reader.ask("GET", "/keys")).status_code == 401
    assert (await operator.ask("DELETE", f"/management_keys/{made['id']}")).status_code == 404


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"name": "a"}, "scope", "scope is missing"),
        (
            {"name": "a", "scope": "root"},
            "scope",
            "scope must be admin, read_only, or team:ID with a team's id; it is 'root'",
        ),
        ({"name": "a", "scope": "team:nothing"}, "scope", "there is no team 'nothing'"),
        ({"name": "Operator", "scope": "admin"}, "name", "name must not be Operator, which the audit calls others"),
        ({"name": "a", "scope": "admin", "skope": 1}, "skope", "skope: unknown field; did you mean scope?"),
        ({"name": "taken", "scope": "admin"}, "name", "a management key with the name 'taken' exists already"),
    ],
)
async def test_a_wrong_management_key_is_a_400(operator: OperatorClient, body: Any, field: str, message: str) -> None:
    await operator.post("/management_keys", {"name": "taken", "scope": "admin"})
    status, param, said = refused(await operator.ask("POST", "/management_keys", body))
    assert (status, param) == (400, field)
    assert said.startswith(message)
    assert len((await operator.get("/management_keys"))["data"]) == 1


async def test_an_admin_may_everything_and_a_reader_only_reads(operator: OperatorClient) -> None:
    admin, reader = await managed(operator, "admin"), await managed(operator, "read_only")
    key = await admin.post("/keys", {"name": "a"})
    team = await admin.post("/teams", {"name": "t"})
    for path in EVERY_GET:
        assert (await admin.ask("GET", f"/{path}")).status_code == 200
        assert (await reader.ask("GET", f"/{path}")).status_code == 200
    for method, path, body in (
        *(
            ("POST", "/keys", {"name": "b"}),
            ("PATCH", f"/keys/{key['id']}", {}),
            ("DELETE", f"/keys/{key['id']}", None),
        ),
        *(("POST", f"/keys/{key['id']}/rotate", {}), ("POST", "/teams", {"name": "u"})),
        *(("PATCH", f"/teams/{team['id']}", {}), ("DELETE", f"/teams/{team['id']}", None)),
        ("POST", "/management_keys", {"name": "x", "scope": "admin"}),
        ("POST", "/reload", None),
    ):
        answer = await reader.ask(method, path, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
    assert (await operator.get(f"/keys/{key['id']}"))["status"] == "active"
    assert (await reader.ask("HEAD", "/keys")).status_code == 200


async def test_a_teams_key_sees_and_changes_its_team_only(operator: OperatorClient) -> None:
    own, other = [await operator.post("/teams", {"name": name}) for name in ("own", "other")]
    theirs = await operator.post("/keys", {"name": "theirs", "team": "other"})
    nobodys = await operator.post("/keys", {"name": "nobodys"})
    manager = await managed(operator, f"team:{own['id']}")
    made = await manager.post("/keys", {"name": "mine"})
    assert made["team"] == own["id"]
    assert [key["name"] for key in (await manager.get("/keys"))["data"]] == ["mine"]
    assert [team["name"] for team in (await manager.get("/teams"))["data"]] == ["own"]
    assert (await manager.patch(f"/keys/{made['id']}", {"owner": "me"}))["owner"] == "me"
    assert "secret" in await manager.post(f"/keys/{made['id']}/rotate", {})
    for key in (theirs, nobodys):
        for method, path, body in (
            *(("GET", "", None), ("PATCH", "", {"owner": "me"})),
            *(("DELETE", "", None), ("POST", "/rotate", {})),
        ):
            assert (await manager.ask(method, f"/keys/{key['id']}{path}", body)).status_code == 404
    for body in ({"name": "x", "team": other["id"]}, {"name": "x", "team": "other"}):
        assert refused(await manager.ask("POST", "/keys", body))[:2] == (403, "team")
    for team in (other["id"], None):
        assert refused(await manager.ask("PATCH", f"/keys/{made['id']}", {"team": team}))[:2] == (403, "team")
    assert [scope["name"] for scope in (await manager.get("/limits"))["data"]] == ["own", "mine"]
    assert [scope["name"] for scope in (await manager.get(f"/limits?key={made['id']}"))["data"]] == ["mine", "own"]
    assert (await manager.ask("GET", f"/limits?key={theirs['id']}")).status_code == 400
    for path in ("usage", "costs", "calls"):
        assert (await manager.ask("GET", f"/{path}?team={own['id']}")).status_code == 200
        assert refused(await manager.ask("GET", f"/{path}?team={other['id']}"))[:2] == (403, "team")
    for method, path, body in (
        *(("GET", "/upstreams", None), ("GET", "/audit", None), ("GET", "/management_keys", None)),
        *(("POST", "/management_keys", {"name": "x", "scope": "admin"}), ("POST", "/reload", None)),
        *(
            ("POST", "/teams", {"name": "x"}),
            ("PATCH", f"/teams/{own['id']}", {}),
            ("DELETE", f"/teams/{own['id']}", None),
        ),
    ):
        assert (await manager.ask(method, path, body)).status_code == 403
    assert (await manager.ask("GET", f"/teams/{other['id']}")).status_code == 404
    await manager.delete(f"/keys/{made['id']}")


async def test_a_teams_key_may_be_made_by_the_teams_name(operator: OperatorClient) -> None:
    team = await operator.post("/teams", {"name": "own"})
    made = await operator.post("/management_keys", {"name": "m", "scope": "team:own"})
    assert made["scope"] == f"team:{team['id']}"
    manager = operator.by(made["secret"])
    key = await manager.post("/keys", {"name": "a"})
    assert key["team"] == team["id"]
    await manager.delete(f"/keys/{key['id']}")
    await operator.delete(f"/teams/{team['id']}")
    await operator.post("/teams", {"name": "own", "id": team["id"]})
    assert (await manager.ask("GET", "/keys")).status_code == 401


async def test_the_audit_says_who_changed_what_when_and_from_where(operator: OperatorClient) -> None:
    manager = await managed(operator, "admin")
    key = await operator.post("/keys", {"name": "a", "expires_at": "2099-01-01T00:00:00Z"})
    await manager.patch(f"/keys/{key['id']}", {"owner": "Bo", "expires_at": None})
    await manager.post(f"/keys/{key['id']}/rotate", {"grace_seconds": 5})
    await operator.delete(f"/keys/{key['id']}")
    entries = (await operator.get("/audit"))["data"]
    assert [(entry["actor"], entry["action"], entry["changes"]) for entry in entries] == [
        ("operator", "key.revoke", {}),
        ("key of admin", "key.rotate", {"grace_seconds": 5}),
        ("key of admin", "key.edit", {"owner": "Bo", "expires_at": None}),
        ("operator", "key.create", {"name": "a", "expires_at": "2099-01-01T00:00:00Z"}),
        ("operator", "management_key.create", {"name": "key of admin", "scope": "admin"}),
    ]
    assert {entry["object_id"] for entry in entries[:4]} == {key["id"]}
    assert {entry["address"] for entry in entries} == {"127.0.0.1"}
    first = await operator.get("/audit?limit=2")
    rest = await operator.get(f"/audit?limit=3&after={first['last_id']}")
    assert (first["data"] + rest["data"], first["has_more"], rest["has_more"]) == (entries, True, False)
    assert refused(await operator.ask("GET", "/audit?after=x"))[:2] == (400, "after")


async def test_the_address_behind_a_trusted_proxy_is_the_callers(tmp_path: Path) -> None:
    async with operated(tmp_path, trusted_proxies=["127.0.0.1"]) as operator:
        await operator.post("/keys", {"name": "a"}, x_forwarded_for="192.0.2.7")
        assert (await operator.get("/audit"))["data"][0]["address"] == "192.0.2.7"


async def test_no_secret_is_in_any_later_answer_in_the_log_the_audit_or_the_file(
    operator: OperatorClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "torii")
    key = await operator.post("/keys", {"name": "a"}, idempotency_key="a")
    rotated = await operator.post(f"/keys/{key['id']}/rotate", {"grace_seconds": 60})
    manager = await operator.post("/management_keys", {"name": "m", "scope": "admin"})
    secrets = [made["secret"] for made in (key, rotated, manager)]
    said = [(await operator.ask("GET", f"/{path}")).text for path in EVERY_GET]
    said += [(await operator.ask("POST", "/keys", {"name": "a"}, idempotency_key="a")).text]
    for secret in secrets:
        said += [(await operator.ask("GET", f"/keys/{secret}")).text]
        said += [(await operator.ask("POST", "/keys", {"name": "x", "team": secret})).text]
        said += [(await operator.ask("POST", "/keys", {"name": "x", secret: 1})).text]
        said += [(await operator.ask("GET", f"/calls?status={secret}")).text]
        said += [(await operator.gateway.post("/v1/embeddings", {}, authorization=f"Bearer {secret}")).text]
    tables = ("keys", "secrets", "teams", "management_keys", "audit", "idempotency")
    said += [str(read(tmp_path / "ledger.db", f"SELECT * FROM {table}")) for table in tables]
    for secret in secrets:
        assert secret[:40] not in "".join(said)
        assert secret not in "".join(said)
        assert secret[-20:] not in "".join(said)
        assert secret not in Redactor().secrets(caplog.text)  # as the log of the process does


async def test_an_operators_route_of_earlier_versions_is_still_there(upstream: ScriptedUpstream) -> None:
    async with running_gateway(settings_for(upstream.url, operator_key=OPERATOR)) as gateway:
        answers = [
            await gateway.client.get(path, headers={"authorization": f"Bearer {OPERATOR}"})
            for path in ("/admin/upstreams", "/admin/v1/upstreams")
        ]
    assert answers[0].json() == answers[1].json()
    assert [key["key"] for key in answers[0].json()["data"]] == ["jina"]


async def test_a_repeated_creation_does_not_show_a_key_that_has_left_the_team(operator: OperatorClient) -> None:
    for team in ("alpha", "beta"):
        await operator.post("/teams", {"name": team, "id": team})
    lead = operator.by((await operator.post("/management_keys", {"name": "lead", "scope": "team:alpha"}))["secret"])
    key = await lead.post("/keys", {"name": "a"}, idempotency_key="1")
    await operator.patch(f"/keys/{key['id']}", {"team": "beta", "owner": "known to beta only"})
    answer = await lead.ask("POST", "/keys", {"name": "a"}, idempotency_key="1")
    assert refused(answer)[0] == 409
    assert "beta" not in answer.text
