"""What /openapi.json says is what the gateway does, asked over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app import __version__
from app.main import create_app
from app.openapi.models import ALIAS

from .conftest import settings_for
from .test_openapi import DOCUMENT, envelopes, posted, response

KEY = "torii-key-of-the-tests"


@pytest.fixture
async def caller() -> AsyncIterator[httpx.AsyncClient]:
    """A caller of a gateway as the examples have it; no upstream is asked for anything."""
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
    assert (await caller.get("/openapi.json")).json() == DOCUMENT


async def test_the_docs_page_reads_it(caller: httpx.AsyncClient) -> None:
    page = await caller.get("/docs")
    assert page.status_code == 200
    assert "/openapi.json" in page.text


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


async def test_the_processs_own_answers_are_as_described(caller: httpx.AsyncClient) -> None:
    alive, ready = await caller.get("/healthz"), await caller.get("/readyz")
    assert alive.json() == {"status": "ok", "version": __version__}
    assert ready.json() == {"status": "ready"}
    for path, body in (("/healthz", alive.json()), ("/readyz", ready.json())):
        content = DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]
        assert content["schema"]["required"] == list(body) == list(content["example"])
