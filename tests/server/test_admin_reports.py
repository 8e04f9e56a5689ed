"""What the operator's API and GET /v1/usage report: limits, sums by time, calls, and the documents."""

from __future__ import annotations

import csv
import io
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from app.storage.ledger_file import CallRow
from app.storage.opening import open_file
from app.storage.rollups import step
from app.storage.rows import INSERT_CALL

from ..conftest import ScriptedUpstream, replies, running_gateway, settings_for
from ..ledger import call
from .operating import OPERATOR, OperatorClient, operated, refused

VECTORS = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"total_tokens": 1}}
ALL = {
    "requests_per_minute": 60,
    "tokens_per_minute": 1000,
    "concurrent_calls": 4,
    "concurrent_runs": 2,
    "requests_per_day": 100,
    "tokens_per_day": 5000,
}
BUDGETS: list[Any] = [
    {"unit": "usd", "amount": "12.5", "window": "month"},
    {"unit": "tokens", "amount": 9000, "window": "total", "models": ["jina-*"]},
    {"unit": "requests", "amount": 10, "window": "week", "endpoints": ["rerank"]},
]
DAY = 86_400_000  # milliseconds


@pytest.fixture
async def operator(tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[OperatorClient]:
    upstream.plays(replies(VECTORS))
    async with operated(tmp_path, upstream.url) as client:
        yield client


def write(folder: Path, *rows: CallRow) -> None:
    """Rows of calls, as if they had been."""
    with closing(sqlite3.connect(folder / "ledger.db")) as file:
        file.executemany(INSERT_CALL, rows)
        file.commit()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def keyed(operator: OperatorClient, name: str = "a", **fields: Any) -> Any:
    return await operator.post("/keys", {"name": name, **fields})


# Limits.


async def test_what_is_left_of_each_limit_and_budget_and_when_it_frees(
    operator: OperatorClient, tmp_path: Path
) -> None:
    team = await operator.post("/teams", {"name": "search", "limits": {"tokens_per_day": 7000}})
    key = await keyed(operator, team="search", limits=ALL, budgets=BUDGETS)
    now = now_ms()
    write(tmp_path, call(time=now, key_id=key["id"], team=team["id"], total_tokens=100, cost=2_500_000_000, requests=1))
    own, teams, organization = (await operator.get(f"/limits?key={key['id']}"))["data"]
    assert [(scope["scope"], scope["id"]) for scope in (own, teams, organization)] == [
        ("key", key["id"]),
        ("team", team["id"]),
        ("organization", "organization"),
    ]
    assert {limit["limit"]: limit["amount"] for limit in own["limits"]} == ALL
    left = {limit["limit"]: (limit["used"], limit["remaining"]) for limit in own["limits"]}
    assert left == {
        "requests_per_minute": (1, 59),
        "tokens_per_minute": (100, 900),
        "concurrent_calls": (0, 4),
        "concurrent_runs": (0, 2),
        "requests_per_day": (1, 99),
        "tokens_per_day": (100, 4900),
    }
    frees = {limit["limit"]: limit["resets_at"] for limit in own["limits"]}
    assert (frees["concurrent_calls"], frees["concurrent_runs"]) == (None, None)
    minute = datetime.fromisoformat(frees["tokens_per_minute"]).timestamp()
    assert now // 1000 + 60 <= minute <= now // 1000 + 62
    midnight = datetime.fromisoformat(frees["tokens_per_day"])
    assert (midnight.hour, midnight.minute, midnight.second) == (0, 0, 0)
    assert frees["tokens_per_day"].endswith("Z")
    dollars, total, week = own["budgets"]
    assert {name: dollars[name] for name in ("amount", "spent", "held", "remaining")} == {
        "amount": "12.5",
        "spent": "2.5",
        "held": "0",
        "remaining": "10",
    }
    assert datetime.fromisoformat(dollars["resets_at"]).day == 1
    assert (total["spent"], total["remaining"], total["resets_at"], total["models"]) == (100, 8900, None, ["jina-*"])
    assert (week["spent"], week["endpoints"]) == (0, ["rerank"])
    assert [(limit["limit"], limit["used"]) for limit in teams["limits"]] == [("tokens_per_day", 100)]
    assert (organization["limits"], organization["budgets"]) == ([], [])


async def test_limits_are_listed_by_pages(tmp_path: Path) -> None:
    callers = [{"name": "old", "key": "caller-key-0123456789", "limits": {"requests_per_day": 3}}]
    async with operated(tmp_path, organization={"limits": {"requests_per_day": 9}}, callers=callers) as operator:
        team = await operator.post("/teams", {"name": "t"})
        key = await keyed(operator)
        gone = await keyed(operator, "gone")
        await operator.delete(f"/keys/{gone['id']}")
        first = await operator.get("/limits?limit=2")
        rest = await operator.get(f"/limits?after={first['last_id']}")
        scopes = [(scope["scope"], scope["id"]) for scope in first["data"] + rest["data"]]
        assert scopes == [("organization", "organization"), ("team", team["id"]), ("key", "old"), ("key", key["id"])]
        assert (first["has_more"], rest["has_more"]) == (True, False)
        assert (await operator.get("/limits?key=old"))["data"][0]["limits"][0]["amount"] == 3
        for query, field in (
            ("key=nothing", "key"),
            ("team=nothing", "team"),
            (f"key={gone['id']}", "key"),
            ("key=a&team=b", "team"),
        ):
            assert refused(await operator.ask("GET", f"/limits?{query}"))[:2] == (400, field)


async def test_a_long_list_of_limits_says_the_same_as_each_key_alone(operator: OperatorClient, tmp_path: Path) -> None:
    await operator.post("/teams", {"id": "t", "name": "t", "budgets": BUDGETS})
    keys = [await keyed(operator, f"key {number}", team="t", limits=ALL, budgets=BUDGETS) for number in range(6)]
    for key in keys[:2]:
        with closing(open_file(tmp_path / "ledger.db", "rw", 5.0)) as file:
            step(file)  # the first row is in the roll-ups then, and the second is not
        write(tmp_path, call(time=now_ms(), key_id=key["id"], team="t", total_tokens=100, cost=5))
    listed = {(each["scope"], each["id"]): each for each in (await operator.get("/limits"))["data"]}
    for key in keys:
        own, team, _ = (await operator.get(f"/limits?key={key['id']}"))["data"]
        assert (listed["key", key["id"]], listed["team", "t"]) == (own, team)
    assert [listed["key", key["id"]]["budgets"][1]["spent"] for key in keys[:3]] == [100, 100, 0]


# Sums by time.


async def test_usage_is_a_page_of_buckets(operator: OperatorClient, tmp_path: Path) -> None:
    key = await keyed(operator)
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    start = int(noon.timestamp()) * 1000
    rows = [call(time=start + hour * 3_600_000, key_id=key["id"], cost=1_500_000_000) for hour in (0, 1, 24)]
    write(tmp_path, *rows, call(time=start, caller="other", key_id=None))
    span = "start_time=2026-11-21T00:00:00Z&end_time=2026-11-23T00:00:00Z"
    page = await operator.get(f"/usage?{span}&group_by=key")
    assert (page["object"], page["has_more"], page["next_page"]) == ("page", False, None)
    assert [(bucket["object"], bucket["end_time"] - bucket["start_time"]) for bucket in page["data"]] == [
        ("bucket", 86400)
    ] * 2
    first, second = (bucket["results"] for bucket in page["data"])
    assert {result["key"]: (result["requests"], result["total_tokens"], result["cost"]) for result in first} == {
        key["id"]: (2, 2000, "3"),
        None: (1, 1000, "0"),
    }
    assert [(result["requests"], result["cost"]) for result in second] == [(1, "1.5")]
    assert first[0]["team"] is None
    hours = await operator.get(f"/costs?{span}&bucket_width=1h&limit=13&key={key['id']}")
    assert [bucket["results"] != [] for bucket in hours["data"]] == [False] * 12 + [True]
    more = await operator.get(f"/costs?{span}&bucket_width=1h&limit=13&key={key['id']}&page={hours['next_page']}")
    assert more["data"][0]["start_time"] == hours["data"][-1]["end_time"]
    seconds = start // 1000
    again = await operator.get(
        f"/usage?start_time={seconds}&end_time={seconds + 3600}&group_by=model,endpoint&group_by=upstream"
    )
    (result,) = again["data"][0]["results"]
    assert (result["model"], result["endpoint"], result["upstream"], result["requests"]) == (
        "jina-embeddings-v3",
        "embeddings",
        "jina",
        2,
    )


async def test_without_a_start_a_page_ends_now(operator: OperatorClient, tmp_path: Path) -> None:
    write(tmp_path, call(time=now_ms()))
    for width, count in (("1d", 7), ("1h", 24)):
        page = await operator.get(f"/usage?bucket_width={width}")
        assert (len(page["data"]), page["has_more"]) == (count, False)
        assert [bucket["results"] != [] for bucket in page["data"]] == [False] * (count - 1) + [True]
    kolkata = await operator.get("/usage?bucket_width=1h&time_zone=Asia/Kolkata")
    assert (len(kolkata["data"]), kolkata["data"][0]["start_time"] % 3600) == (24, 1800)


async def test_usage_is_also_a_table(operator: OperatorClient, tmp_path: Path) -> None:
    noon = int(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()) * 1000
    write(tmp_path, *(call(time=noon - day * DAY, user="=1+1", cost=5) for day in range(3)))
    answer = await operator.ask(
        "GET", "/usage?start_time=2026-01-01T00:00:00Z&end_time=2026-11-22T00:00:00Z&group_by=model,user&format=csv"
    )
    assert answer.headers["content-type"].startswith("text/csv"), answer.text
    head, *lines = csv.reader(io.StringIO(answer.text))
    sums = ["requests", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cost"]
    assert head == ["start_time", "end_time", "model", "user", *sums]
    assert len(lines) == 3
    assert lines[-1] == [
        *("2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z", "jina-embeddings-v3", "'=1+1"),
        *("1", "1000", "0", "1000", "0", "0.000000005"),
    ]


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        (
            "start_time=yesterday",
            "start_time",
            "start_time must be a time in RFC 3339, such as 2026-11-30T12:00:00Z, or in",
        ),
        ("end_time=1e9", "end_time", "end_time must be a time in RFC 3339"),
        ("start_time=253402200799&end_time=253402300799", "end_time", "end_time must be a time in RFC 3339"),
        ("start_time=2000000000&end_time=1000000000", "end_time", "end_time must be Unix seconds after start_time"),
        ("bucket_width=1m", "bucket_width", "bucket_width must be '1h' or '1d'; it is '1m'"),
        ("group_by=colour", "group_by", "group_by must be one of key, team, model"),
        (
            "time_zone=Mars/Olympus",
            "time_zone",
            "time_zone must be an IANA time zone such as Europe/Berlin; it is 'Mars/",
        ),
        ("limit=0", "limit", "limit must be at least 1; it is '0'"),
        ("limit=1000", "limit", "limit must be from 1 to 366 for buckets of 1d; it is '1000'"),
        ("page=x", "page", "page must be the next_page of an earlier answer"),
        ("format=xml", "format", "format must be 'json' or 'csv'; it is 'xml'"),
        (
            "start_time=0&bucket_width=1h&format=csv",
            "start_time",
            "start_time must be later: a table has at most",
        ),
        ("groupby=key", "groupby", "groupby: unknown parameter; did you mean group_by?"),
    ],
)
async def test_a_wrong_report_is_a_400(operator: OperatorClient, query: str, field: str, message: str) -> None:
    for path in ("usage", "costs"):
        status, param, said = refused(await operator.ask("GET", f"/{path}?{query}"))
        assert (status, param) == (400, field)
        assert said.startswith(message)


async def test_days_are_those_of_the_zone(tmp_path: Path) -> None:
    async with operated(tmp_path, time_zone="Europe/Berlin") as operator:
        write(tmp_path, call(time=int(datetime(2026, 11, 20, 23, 30, tzinfo=UTC).timestamp()) * 1000))
        span = "start_time=2026-11-19T23:00:00Z&end_time=2026-11-21T23:00:00Z"
        for zone, place in (("", 1), ("&time_zone=UTC", 1), ("&time_zone=America/New_York", 0)):
            found = await operator.get(f"/usage?{span}{zone}")
            days = [bucket["end_time"] for bucket in found["data"] if bucket["results"]]
            assert len(days) == 1, place
        first = (await operator.get(f"/usage?{span}"))["data"][0]
        assert datetime.fromtimestamp(first["end_time"], UTC).isoformat() == "2026-11-20T23:00:00+00:00"


# Calls.


async def test_calls_are_listed_and_found(operator: OperatorClient, tmp_path: Path) -> None:
    key = await keyed(operator)
    now = now_ms()
    rows = [
        call(time=now - 2000, key_id=key["id"], request_id="one", cost=1_000_000, model_id="jina-embeddings-v3"),
        call(time=now - 1000, key_id=key["id"], request_id="two", status=502, error="upstream_error"),
        call(time=now, key_id=key["id"], request_id="three", kind="cached", total_tokens=0, cached_tokens=7),
    ]
    write(tmp_path, *rows)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as file:
        values = (now // 60_000, key["id"], "", "requests_per_minute", 5)
        file.execute("INSERT INTO refusals (minute, key_id, team, reason, count) VALUES (?, ?, ?, ?, ?)", values)
        file.commit()
    page = await operator.get("/calls")
    kinds = {row["kind"]: row for row in page["data"]}
    assert [row["request_id"] for row in page["data"] if row["kind"] != "refusal"] == ["three", "two", "one"]
    assert (kinds["refusal"]["count"], kinds["refusal"]["reason"], kinds["refusal"]["key"]) == (
        5,
        "requests_per_minute",
        key["id"],
    )
    one = next(row for row in page["data"] if row["request_id"] == "one")
    assert (one["cost"], one["status"], one["key"], one["estimated"], one["count"]) == (
        "0.001",
        200,
        key["id"],
        False,
        1,
    )
    assert datetime.fromisoformat(one["time"]) - datetime.now(UTC) < timedelta(minutes=1)
    for query, found in (
        ("request_id=two", ["two"]),
        ("status=502", ["two"]),
        ("kind=cached", ["three"]),
        (f"key={key['id']}&kind=call", ["two", "one"]),
        ("key=other", []),
        ("model=jina-embeddings-v3&status=200&kind=call", ["one"]),
        ("end_time=2020-01-01T00:00:00Z", []),
    ):
        assert [row["request_id"] for row in (await operator.get(f"/calls?{query}"))["data"]] == found, query
    first = await operator.get("/calls?limit=1")
    rest = await operator.get(f"/calls?after={first['last_id']}")
    assert first["data"] + rest["data"] == page["data"]
    for query, field in (("after=x", "after"), ("kind=all", "kind"), ("status=20", "status"), ("limit=0", "limit")):
        assert refused(await operator.ask("GET", f"/calls?{query}"))[:2] == (400, field)


# A caller's own usage.


async def test_a_caller_sees_its_limits_its_teams_and_its_usage_by_day(
    operator: OperatorClient, tmp_path: Path
) -> None:
    team = await operator.post("/teams", {"name": "search", "budgets": [BUDGETS[0]]})
    key = await keyed(operator, team="search", limits={"tokens_per_day": 5000})
    other = await keyed(operator, "other", team="search")
    now = now_ms()
    mine = {"key_id": key["id"], "team": team["id"], "total_tokens": 100, "cost": 1_000_000_000}
    write(
        tmp_path,
        call(time=now, **mine),
        call(time=now - 3 * DAY, **mine),
        call(time=now - 40 * DAY, **mine),
        call(time=now, **{**mine, "key_id": other["id"]}),
    )
    answer = await operator.gateway.client.get("/v1/usage", headers={"authorization": f"Bearer {key['secret']}"})
    found = answer.json()
    assert (answer.status_code, found["object"], found["key"], found["team"]) == (200, "usage", key["id"], team["id"])
    own, teams = found["data"]
    assert [(each["scope"], each["id"]) for each in (own, teams)] == [("key", key["id"]), ("team", team["id"])]
    assert [(limit["limit"], limit["remaining"]) for limit in own["limits"]] == [("tokens_per_day", 4900)]
    assert [(budget["unit"], budget["amount"]) for budget in teams["budgets"]] == [("usd", "12.5")]
    assert float(teams["budgets"][0]["spent"]) >= 2
    assert [(day["requests"], day["total_tokens"], day["cost"]) for day in found["days"]] == [(1, 100, "1")] * 2
    assert found["days"][-1]["date"] == datetime.fromtimestamp(now / 1000, UTC).date().isoformat()
    plain = await operator.gateway.client.get("/usage", headers={"api-key": key["secret"]})
    assert plain.json()["data"][0]["id"] == key["id"]
    bare = await operator.gateway.client.get("/v1/usage", headers={"api-key": other["secret"]})
    assert [(each["limits"], each["scope"]) for each in bare.json()["data"]] == [([], "key"), ([], "team")]
    assert (await operator.gateway.client.get("/v1/usage")).status_code == 401


async def test_a_configured_caller_and_an_open_gateway_have_usage_too(tmp_path: Path) -> None:
    async with operated(tmp_path) as operator:
        write(tmp_path, call(time=now_ms()))
        found = (await operator.gateway.client.get("/v1/usage")).json()
        assert (found["key"], found["data"], [day["requests"] for day in found["days"]]) == (None, [], [1])
    callers = [{"name": "old", "key": "caller-key-0123456789", "limits": {"requests_per_day": 3}}]
    async with operated(tmp_path, callers=callers) as operator:
        answer = await operator.gateway.client.get("/v1/usage", headers={"api-key": "caller-key-0123456789"})
        assert [(each["id"], each["limits"][0]["amount"]) for each in answer.json()["data"]] == [("old", 3)]
        assert answer.json()["days"] == []


async def test_without_a_ledger_there_is_no_usage(upstream: ScriptedUpstream) -> None:
    async with running_gateway(settings_for(upstream.url, operator_key=OPERATOR)) as gateway:
        for path in ("/v1/usage", "/admin/v1/usage", "/admin/v1/calls", "/admin/v1/limits", "/admin/v1/audit"):
            answer = await gateway.client.get(path, headers={"authorization": f"Bearer {OPERATOR}"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")


async def test_a_lost_file_is_a_503(operator: OperatorClient, tmp_path: Path) -> None:
    for file in tmp_path.glob("ledger.db*"):
        file.unlink()
    for path in ("usage", "calls", "limits", "audit", "keys"):
        answer = await operator.ask("GET", f"/{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")


# The document.


async def test_the_api_has_a_valid_document_of_its_own_with_every_answer_typed(operator: OperatorClient) -> None:
    document = await operator.get("/openapi.json")
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    for schema in document["components"]["schemas"].values():
        OAS31Validator.check_schema(schema)
    assert document["components"]["securitySchemes"]["bearer"] == {
        "type": "http",
        "scheme": "bearer",
        "description": "The operator's key, or a management key.",
    }
    tags = {tag["name"] for tag in document["tags"]}
    seen = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            seen.append(f"{method.upper()} {path}")
            assert operation["summary"]
            assert operation["description"]
            assert set(operation["tags"]) <= tags
            assert operation["security"] == [{"bearer": []}, {"api-key": []}, {"x-api-key": []}]
            for status, said in operation["responses"].items():
                content = said.get("content", {}).get("application/json", {})
                assert "$ref" in said or content["schema"] not in ({}, {"type": "object"}), (path, status)
    assert sorted(seen) == sorted(
        f"{method} /admin/v1/{path}"
        for path, methods in {
            "keys": ("GET", "POST"),
            "keys/{id}": ("GET", "PATCH", "DELETE"),
            "keys/{id}/rotate": ("POST",),
            "teams": ("GET", "POST"),
            "teams/{id}": ("GET", "PATCH", "DELETE"),
            "management_keys": ("GET", "POST"),
            "management_keys/{id}": ("DELETE",),
            **dict.fromkeys(("limits", "usage", "costs", "calls", "classifiers", "upstreams", "audit"), ("GET",)),
            "classifiers/{id}/adopt": ("POST",),
            "reload": ("POST",),
        }.items()
        for method in methods
    )
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(set(ids)) == len(ids)


async def test_answers_have_the_form_that_the_document_says(operator: OperatorClient, tmp_path: Path) -> None:
    document = await operator.get("/openapi.json")
    await operator.post("/teams", {"name": "t", "budgets": BUDGETS})
    await keyed(operator, team="t", limits=ALL, budgets=BUDGETS)
    await operator.post("/management_keys", {"name": "m", "scope": "admin"})
    write(tmp_path, call(time=now_ms()))
    for path in ("keys", "teams", "management_keys", "limits", "usage", "costs", "calls", "audit", "upstreams"):
        schema = document["paths"][f"/admin/v1/{path}"]["get"]["responses"]["200"]["content"]["application/json"][
            "schema"
        ]
        found = await operator.get(f"/{path}")
        assert found["data"]
        validator = OAS31Validator({**schema, "components": document["components"]})
        assert [error.message for error in validator.iter_errors(found)] == []


async def test_a_gateway_that_is_not_under_torii_serve_does_not_reload(operator: OperatorClient) -> None:
    status, _, said = refused(await operator.ask("POST", "/reload"))
    assert (status, said.partition(":")[0]) == (409, "this process cannot reload its configuration")
