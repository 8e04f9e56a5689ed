"""An endpoint is one file and one entry in ENDPOINTS, an upstream one file and one entry in KINDS; no other code names
them. Tested over sockets with a made-up endpoint and upstream, and by comparing the lists that are written by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.config.settings import SANDBOXED
from app.core.errors import InvalidRequest
from app.endpoints import ENDPOINTS, Endpoint, Options
from app.sandbox.server import HOSTS
from app.upstreams import KINDS

from .conftest import ScriptedUpstream, replies, until
from .program import Program, started

TEXTS = {"model": "judge-1", "texts": ["a", "b"]}
GRADES = {"results": [{"index": 0, "relevance_score": 0.5}, {"index": 1, "relevance_score": 0.25}]}
VECTORS = {"data": [{"index": 0, "embedding": [0.5]}], "usage": {"total_tokens": 1}}


@pytest.fixture
async def program(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path
) -> AsyncIterator[Program]:
    """A gateway with the made-up upstream, and one that exists in the configuration only."""
    upstream.plays(replies({**GRADES, "usage": {"total_tokens": 7}}))
    other_upstream.plays(replies(VECTORS))
    settings = {
        "upstreams": {
            "judge": {"kind": "judge", "base_url": f"{upstream.url}/v1", "api_key": "judge-key-0123456789"},
            "mine": {"kind": "openai", "base_url": f"{other_upstream.url}/v1", "api_key": "mine-key-0123456789"},
        },
        "models": {
            "judge-1": {"targets": ["judge"], "endpoints": ["grade"]},
            "either": {"targets": ["mine", "judge"]},
        },
        "cache": {"store": "memory"},
    }
    configuration = msgspec.json.encode(settings)
    async with started(Program, tmp_path, configuration, module="tests.made_up") as running:
        yield running


async def test_a_made_up_endpoint_at_a_made_up_upstream_answers(program: Program, upstream: ScriptedUpstream) -> None:
    for path, cache in (("/v1/grade", "miss"), ("/grade", "hit"), ("/v1/grade", "hit")):
        response = await program.client.post(path, json=TEXTS)
        assert (response.status_code, response.headers["x-torii-cache"]) == (200, cache), response.text
        assert response.headers["x-torii-upstream"] == "judge"
        body = response.json()
        assert (body["results"], body["model"]) == (GRADES["results"], "judge-1")
    (request,) = upstream.seen
    assert (request.method, request.path) == ("POST", "/v1/judge")
    assert request.body == {"model": "judge-1", "of": ["a", "b"]}
    assert await told(program, "/v1/grade", {"model": "judge-1"}) == "texts must be a list"
    await until(lambda: any("grade 200" in line for line in program.lines))


async def told(program: Program, path: str, body: Any) -> str:
    response = await program.client.post(path, json=body)
    assert 400 <= response.status_code < 500
    message: str = response.json()["error"]["message"]
    return message


async def test_everything_that_names_the_endpoints_names_a_made_up_one(program: Program) -> None:
    assert "POST /v1/grade" in await told(program, "/v1/nowhere", {})
    document = (await program.client.get("/openapi.json")).json()
    assert document["paths"]["/v1/grade"]["post"]["summary"] == "Grade texts"
    models = {model["id"]: model for model in (await program.client.get("/v1/models")).json()["data"]}
    assert models["judge-1"]["endpoints"] == ["grade"]
    assert models["either"]["endpoints"] == ["embeddings", "rerank", "chat", "grade"]


async def test_a_call_goes_to_an_upstream_that_has_its_endpoint(
    program: Program, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    wrong = "does not serve this endpoint; use POST /v1/grade"
    assert await told(program, "/v1/embeddings", {"model": "judge/any", "input": "a"}) == f"any {wrong}"
    response = await program.client.post("/v1/grade", json={**TEXTS, "model": "either"})
    assert (response.status_code, response.headers["x-torii-upstream"]) == (200, "judge")
    response = await program.client.post("/v1/embeddings", json={"model": "either", "input": "a"})
    assert (response.status_code, response.headers["x-torii-upstream"]) == (200, "mine")
    assert (len(upstream.seen), len(other_upstream.seen)) == (1, 1)


async def test_a_server_like_openais_is_configuration_alone(program: Program, other_upstream: ScriptedUpstream) -> None:
    response = await program.client.post("/v1/embeddings", json={"model": "mine/any", "input": "a"})
    assert response.json()["data"][0]["embedding"] == [0.5]
    assert [request.path for request in other_upstream.seen] == ["/v1/embeddings"]


# --- lists written by hand ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_upstream_serves_only_endpoints_that_there_are(kind: str) -> None:
    assert set(KINDS[kind].endpoints) <= set(ENDPOINTS)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_endpoint_is_served_and_described_under_one_name(endpoint: str) -> None:
    facts, paths = ENDPOINTS[endpoint].facts, ENDPOINTS[endpoint].paths
    assert facts.name == endpoint
    assert any(endpoint in kind.endpoints for kind in KINDS.values())
    assert paths
    assert all(path.startswith(("/v1/", "/v2/")) for path in paths)
    assert not facts.batchable or facts.inputs
    assert not facts.inputs or facts.items


def test_no_two_endpoints_have_a_path_in_common() -> None:
    paths = [path for endpoint in ENDPOINTS.values() for path in endpoint.paths]
    assert sorted(paths) == sorted(set(paths))


@pytest.mark.parametrize("kind", SANDBOXED)
def test_the_sandbox_plays_all_that_a_provider_serves_and_nothing_more(kind: str) -> None:
    """The sandbox imports nothing of the gateway, so it has a list of its own."""
    served = {("POST", translation.path) for translation in KINDS[kind].endpoints.values()}
    assert {(method, path) for method, path in HOSTS[kind].routes if method == "POST"} == served


@pytest.mark.parametrize("endpoint", [endpoint for endpoint in ENDPOINTS.values() if not endpoint.facts.streamed])
def test_an_endpoint_without_streams_says_so(endpoint: type[Endpoint]) -> None:
    unstreamed = endpoint.configured(Options())
    for ask in (lambda: unstreamed.writer(None), lambda: unstreamed.collect(None, [])):
        with pytest.raises(InvalidRequest) as refused:
            ask()
        assert refused.value.message == f"{endpoint.facts.name} has no streams; leave out stream"
        assert refused.value.param == "stream"
