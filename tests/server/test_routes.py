"""Routes on FastAPI: a resource is one file of routes, and their errors and headers are those of all other paths."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse

from app.server import openapi
from app.server.routes import CallerRoute, InForce, OperatorRoute

from ..conftest import PATIENCE, RunningGateway, running_gateway, settings_for

OPERATOR = "operator-key-0123456789"
CALLER = "caller-key-0123456789"
AS_OPERATOR = {"authorization": f"Bearer {OPERATOR}"}


class Gate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=9)]
    kind: Literal["wood", "stone"] = "wood"
    height: Annotated[int, Field(ge=1)] | None = None


gates = APIRouter(prefix="/admin/gates", route_class=OperatorRoute)


@gates.post("", status_code=201)
async def create(gate: Gate, now: InForce) -> Gate:
    assert now.operator is not None
    return gate


@gates.post("/shut")
async def shut(gate: Gate | None = None) -> dict[str, bool]:
    return {"named": gate is not None}


@gates.get("")
async def every(limit: Annotated[int, Query(ge=1)] = 20, kind: Literal["wood", "stone"] = "wood") -> dict[str, Any]:
    return {"limit": limit, "kind": kind}


@gates.delete("/{gate}", status_code=204)
async def remove(gate: str) -> None:
    if gate == "bug":
        raise RuntimeError(gate)


@gates.get("/{gate}/events")
async def events(gate: str) -> EventSourceResponse:
    async def told() -> AsyncIterator[dict[str, str]]:
        yield {"data": gate}

    return EventSourceResponse(told(), ping=0)


callers = APIRouter(prefix="/v1/gates", route_class=CallerRoute)


@callers.get("")
async def none() -> list[Gate]:
    return []


@pytest.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    settings = settings_for("http://127.0.0.1:1", operator_key=OPERATOR, caller_key=CALLER, max_body_megabytes=1)
    async with running_gateway(settings) as running:
        app = running.server.config.app
        assert isinstance(app, FastAPI)
        app.include_router(gates)
        app.include_router(callers)
        yield running


def said(answer: httpx.Response) -> tuple[int, str | None, str]:
    """``(status, field, message)`` of an error. The envelope must not have any other field."""
    body = answer.json()
    assert body.keys() == {"error", "detail"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"] == body["detail"]
    assert len(answer.headers["x-request-id"]) == 32
    return answer.status_code, body["error"]["param"], body["detail"]


async def test_a_typed_body_is_taken_whatever_its_content_type_says(gateway: RunningGateway) -> None:
    for kind in ("application/json", "application/x-www-form-urlencoded", "text/plain"):
        headers = {**AS_OPERATOR, "content-type": kind}
        answer = await gateway.client.post("/admin/gates", content=b'{"name": "north"}', headers=headers)
        assert (answer.status_code, answer.json()) == (201, {"name": "north", "kind": "wood", "height": None})
        assert answer.headers["content-type"] == "application/json"
        assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b"", None, "the body is not JSON"),
        (b"{", None, "the body is not JSON"),
        (b'{"name": "a", "name": "b"}', None, "the body is not JSON"),
        (b"[]", None, "the body must be a JSON object"),
        (b"{}", "name", "name is missing"),
        (b'{"name": 7}', "name", "name must be text"),
        (b'{"name": "a", "kind": "paper"}', "kind", "kind must be 'wood' or 'stone'"),
        (b'{"name": "a", "height": 0}', "height", "height must be at least 1"),
        (
            b'{"name": "a", "hight": 1}',
            "hight",
            "hight: unknown field; did you mean height? Allowed: height",
        ),
    ],
)
async def test_a_wrong_body_is_a_400_of_ours_that_names_the_field(
    gateway: RunningGateway, body: bytes, param: str | None, message: str
) -> None:
    status, field, told = said(await gateway.client.post("/admin/gates", content=body, headers=AS_OPERATOR))
    assert (status, field) == (400, param)
    assert told.startswith(message)


async def test_a_body_that_need_not_be_there_may_be_empty(gateway: RunningGateway) -> None:
    for body, named in ((b"", False), (b'{"name": "north"}', True)):
        answer = await gateway.client.post("/admin/gates/shut", content=body, headers=AS_OPERATOR)
        assert (answer.status_code, answer.json()) == (200, {"named": named})


@pytest.mark.parametrize(
    ("query", "param", "message"),
    [
        ("limit=0", "limit", "limit must be at least 1; it is '0'"),
        ("limit=many", "limit", "limit must be a whole number; it is 'many'"),
        ("kind=paper", "kind", "kind must be 'wood' or 'stone'; it is 'paper'"),
        ("kinds=stone", "kinds", "kinds: unknown parameter; did you mean kind? Allowed: kind, limit"),
    ],
)
async def test_a_wrong_parameter_is_a_400_of_ours(
    gateway: RunningGateway, query: str, param: str, message: str
) -> None:
    answer = await gateway.client.get(f"/admin/gates?{query}", headers=AS_OPERATOR)
    assert said(answer) == (400, param, message)


@pytest.mark.parametrize("header", ["accept: */*", f"authorization: Bearer {CALLER}"])
async def test_the_key_is_checked_before_the_body_is_read(gateway: RunningGateway, header: str) -> None:
    """The request is refused although its body never arrives."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.client.base_url.port)
    head = f"POST /admin/gates HTTP/1.1\r\nhost: localhost\r\n{header}\r\ncontent-length: 1000\r\n\r\n"
    writer.write(head.encode())
    assert await asyncio.wait_for(reader.readline(), PATIENCE) == b"HTTP/1.1 401 Unauthorized\r\n"
    writer.close()


async def test_a_key_opens_its_own_routes_only(gateway: RunningGateway) -> None:
    assert (await gateway.client.get("/v1/gates", headers=AS_OPERATOR)).status_code == 401
    assert (await gateway.client.get("/v1/gates", headers={"api-key": CALLER})).json() == []
    assert (await gateway.client.get("/admin/gates", headers={"api-key": CALLER})).status_code == 401


async def test_a_body_is_bounded_as_everywhere(gateway: RunningGateway) -> None:
    answer = await gateway.client.post("/admin/gates", content=b" " * (2 << 20), headers=AS_OPERATOR)
    assert said(answer) == (413, None, "the body is larger than 1 MB (max_body_megabytes)")


async def test_an_answer_without_a_body_and_a_stream_have_the_headers_of_all(gateway: RunningGateway) -> None:
    removed = await gateway.client.delete("/admin/gates/north", headers=AS_OPERATOR)
    streamed = await gateway.client.get("/admin/gates/north/events", headers=AS_OPERATOR)
    assert (removed.status_code, removed.content) == (204, b"")
    assert (streamed.status_code, streamed.text) == (200, "data: north\r\n\r\n")
    assert len(removed.headers["x-request-id"]) == len(streamed.headers["x-request-id"]) == 32


async def test_a_bug_is_a_500_of_ours_and_a_line_of_the_log(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await gateway.client.delete("/admin/gates/bug", headers=AS_OPERATOR)
    assert said(answer)[0] == 500
    (line,) = [record for record in caplog.records if record.exc_info]
    assert line.getMessage() == f"request {answer.headers['x-request-id']} failed"


async def test_a_head_is_a_get_without_the_body(gateway: RunningGateway) -> None:
    answer = await gateway.client.head("/v1/gates", headers={"api-key": CALLER})
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "2")
    assert (await gateway.client.head("/v1/gates")).status_code == 401


async def test_fastapis_own_form_of_a_refusal_is_not_described_either(gateway: RunningGateway) -> None:
    app = gateway.server.config.app
    assert isinstance(app, FastAPI)
    contents = openapi.contents(app.routes)
    assert {"ValidationError", "HTTPValidationError"}.isdisjoint(contents["components"]["schemas"])
    responses = contents["paths"]["/admin/gates"]["post"]["responses"]
    assert sorted(responses) == ["201", "400", "401", "403", "404", "405", "500", "503"]
