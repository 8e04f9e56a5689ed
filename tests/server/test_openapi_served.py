"""The gateway behaves as /openapi.json says, tested over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app import __version__
from app.server import openapi
from app.server.app import create_app

from ..conftest import running_gateway, settings_for
from .examples import ALIAS
from .test_openapi import CONTENTS, DOCUMENT, envelopes, posted, resolved, response

KEY = "torii-key-of-the-tests"


@pytest.fixture
async def caller() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway configured as in the examples; no upstream is ever called."""
    settings = settings_for(
        "http://127.0.0.1:1",
        "http://127.0.0.1:1",
        models={ALIAS: "jina-embeddings-v3"},
        unknown_models_upstream="none",
        callers=[{"name": "team", "key": KEY}],
    )
    transport = httpx.ASGITransport(create_app(settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://torii") as client:
        yield client


AUTHORIZED = {"authorization": f"Bearer {KEY}"}


async def test_it_is_what_the_gateway_serves(caller: httpx.AsyncClient) -> None:
    """With the address that the client used."""
    found = (await caller.get("/openapi.json")).json()
    assert found == openapi.document(CONTENTS, __version__, "http://torii")
    assert found["servers"] == [{"url": "http://torii"}]
    assert "`http://torii/v1`" in found["info"]["description"]
    same = ("openapi", "tags", "paths", "components")
    assert {name: found[name] for name in same} == {name: DOCUMENT[name] for name in same}


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({"host": "127.0.0.1:9000"}, "http://127.0.0.1:9000"),
        ({"host": "[::1]:9000"}, "http://[::1]:9000"),
        ({"host": "torii.example", "x-forwarded-proto": "https"}, "https://torii.example"),
        ({"host": "<script>"}, "http://localhost:8000"),
    ],
)
async def test_it_names_the_address_at_which_it_is_served(
    caller: httpx.AsyncClient, headers: dict[str, str], address: str
) -> None:
    assert (await caller.get("/openapi.json", headers=headers)).json() == openapi.document(
        CONTENTS, __version__, address
    )


async def test_where_it_is_switched_off_the_refusal_says_how_to_switch_it_on() -> None:
    """This is the default if other machines can reach the gateway."""
    message = (
        "the API documentation is disabled: docs is off, or is auto and the gateway listens on an address that others "
        "can reach. To enable the documentation for everyone, set docs: on (TORII_DOCS=on) and restart the gateway"
    )
    for given in ({"host": "0.0.0.0", "caller_key": KEY}, {"docs": "off"}):
        async with running_gateway(settings_for("http://127.0.0.1:1", **given)) as gateway:
            for path in ("/docs", "/openapi.json"):
                answer = await gateway.client.get(path)
                assert (answer.status_code, answer.json()["detail"]) == (404, message)
            assert (await gateway.client.get("/docs/swagger-ui.css")).json()["detail"].startswith("there is nothing at")


@pytest.mark.parametrize("docs", ["on", "off"])
async def test_a_browsers_wish_for_an_icon_is_no_line_of_the_log(docs: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "torii")
    async with running_gateway(settings_for("http://127.0.0.1:1", docs=docs)) as gateway:
        answer = await gateway.client.get("/favicon.ico", headers={"sec-fetch-site": "same-origin"})
        assert (answer.status_code, answer.content) == (204, b"")
    assert [text for text in caplog.messages if "favicon" in text] == []


async def test_the_docs_page_reads_it(caller: httpx.AsyncClient) -> None:
    page = await caller.get("/docs")
    assert page.status_code == 200
    assert "/openapi.json" in page.text


@pytest.mark.parametrize("path", ["/docs", "/docs/swagger-ui.css", "/openapi.json", "/favicon.ico"])
async def test_head_answers_as_get_does(path: str) -> None:
    async with running_gateway(settings_for("http://127.0.0.1:1")) as gateway:
        asked = await gateway.client.get(path)
        head = await gateway.client.head(path)
        again = await gateway.client.get(path)
    assert (head.status_code, head.content) == (asked.status_code, b"")
    assert head.headers.get("content-length") == asked.headers.get("content-length")
    assert again.content == asked.content


async def test_a_missing_file_of_the_page_is_an_error_as_of_any_unknown_path(caller: httpx.AsyncClient) -> None:
    answer = await caller.get("/docs/swagger-ui.js")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert "x-request-id" in answer.headers


async def test_the_examples_of_models_are_what_the_gateway_answers(caller: httpx.AsyncClient) -> None:
    def example(path: str) -> Any:
        return DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["example"]

    one = await caller.get("/v1/models/jina-clip-v2", headers=AUTHORIZED)
    assert one.json() == example("/v1/models/{model}")
    served = {model["id"]: model for model in (await caller.get("/v1/models", headers=AUTHORIZED)).json()["data"]}
    for model in example("/v1/models")["data"]:
        assert served[model["id"]] == model


REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    ("400", "json", {"content": b'{"model": "jina-embeddings-v3" "input": "Hi"}'}),
    ("400", "no_input", {"json": {"model": "jina-embeddings-v3", "input": []}}),
    (
        "400",
        "late_chunking",
        {"json": {"model": "jina-embeddings-v3", "input": ["Hello"] * 513, "late_chunking": True}},
    ),
    ("401", "missing", {"headers": {}}),
    ("401", "unknown", {"headers": {"authorization": "Bearer sk-0"}}),
    ("404", "model", {"json": {"model": "jina-embedding-v3", "input": "Hi"}}),
    ("404", "path", {"url": "/v1/embedding"}),
    ("405", "method", {"method": "GET"}),
    ("413", "body", {"headers": {**AUTHORIZED, "content-length": str(33 * 1024 * 1024)}}),
    ("415", "form", {"headers": {**AUTHORIZED, "content-type": "multipart/form-data; boundary=x"}}),
    ("502", "unreachable", {"json": {"model": "jina-embeddings-v3", "input": "Hi"}}),
]


@pytest.mark.parametrize(("status", "name", "call"), REFUSED)
async def test_an_example_of_a_failure_is_what_the_gateway_answers(
    caller: httpx.AsyncClient, status: str, name: str, call: dict[str, Any]
) -> None:
    answer = await caller.request(**{"method": "POST", "url": "/v1/embeddings", "headers": AUTHORIZED, **call})
    operation = posted("/v1/embeddings")
    assert str(answer.status_code) == status
    assert answer.json() == envelopes(operation, status)[name]
    documented = response(operation, status)["headers"].keys()
    assert {header for header in answer.headers if header in DOCUMENT["components"]["headers"]} <= documented


async def test_the_example_of_a_refused_page_is_what_an_open_gateway_answers() -> None:
    transport = httpx.ASGITransport(create_app(settings_for(None, "http://api.test")))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        answer = await client.post("/v1/embeddings", headers={"origin": "https://page.example"})
    assert (answer.status_code, answer.json()) == (403, envelopes(posted("/v1/embeddings"), "403")["page"])


async def test_the_processs_own_answers_are_as_described(caller: httpx.AsyncClient) -> None:
    alive, ready = await caller.get("/healthz"), await caller.get("/readyz")
    assert alive.json() == {"status": "ok", "version": __version__}
    assert ready.json() == {"status": "ready"}
    for path, body in (("/healthz", alive.json()), ("/readyz", ready.json())):
        content = DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]
        assert resolved(content["schema"]["$ref"])["required"] == list(body) == list(content["example"])
