"""The names of Jina's hosts, for clients that have them fixed in their code, and the loop that they may lead to."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from ..conftest import RunningGateway, ScriptedUpstream, replies, running_gateway, settings_for
from .test_web import PAGE, RESULTS, TEXT, raw_get, text

VECTORS = {"data": [{"index": 0, "embedding": [0.5]}], "usage": {"total_tokens": 1}}
EMBED = {"model": "jina-embeddings-v3", "input": "a"}


@pytest.fixture
async def named(upstream: ScriptedUpstream) -> AsyncIterator[RunningGateway]:
    """An open gateway, which accepts no other names than its own."""
    async with running_gateway(settings_for(upstream.url, hosts=True)) as running:
        yield running


@pytest.mark.parametrize("host", ["r.jina.ai", "R.JINA.AI:443", "eu.r.jina.ai"])
async def test_the_readers_host_is_the_drop_in(named: RunningGateway, upstream: ScriptedUpstream, host: str) -> None:
    upstream.plays(text())
    status, _, body = await raw_get(named, "/https://a.example//p?x=1&token=2", f"host: {host}")
    assert (status, body) == (200, TEXT)
    upstream.plays(replies(PAGE))
    answer = await named.post("/", {"url": "https://a.example/#/b"}, host=host, accept="application/json")
    assert answer.json() == PAGE
    assert [seen.body["url"] for seen in upstream.seen] == ["https://a.example//p?x=1&token=2", "https://a.example/#/b"]


@pytest.mark.parametrize("path", ["/docs", "/admin/v1/keys", "/v1/models", "/healthz"])
async def test_every_path_of_the_readers_host_is_a_page(
    named: RunningGateway, upstream: ScriptedUpstream, path: str
) -> None:
    upstream.plays(text())
    status, _, body = await raw_get(named, path, "host: r.jina.ai")
    assert (status, body) == (200, TEXT)
    assert upstream.seen[0].body == {"url": path[1:]}


async def test_the_searches_host_and_the_apis(named: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(RESULTS))
    status, _, body = await raw_get(named, "/C%23?num=3", "host: s.jina.ai", "accept: application/json")
    assert (status, msgspec.json.decode(body)) == (200, RESULTS)
    assert upstream.seen[0].body == {"q": "C#", "num": 3}
    upstream.plays(replies(VECTORS))
    assert (await named.post("/v1/embeddings", EMBED, host="api.jina.ai")).status_code == 200
    assert (await named.post("/v1/embeddings", EMBED, host="a.jina.ai")).status_code == 403


async def test_without_the_option_the_names_are_strangers(upstream: ScriptedUpstream) -> None:
    async with running_gateway(settings_for(upstream.url)) as gateway:
        for host in ("r.jina.ai", "api.jina.ai"):
            assert (await gateway.post("/v1/embeddings", EMBED, host=host)).status_code == 403
    async with running_gateway(settings_for(upstream.url, caller_key="sk-torii-1-of-the-tests")) as gateway:
        status, _, _ = await raw_get(gateway, "/https://a.example/", "host: r.jina.ai")
        assert status == 404


@pytest.mark.parametrize(
    ("host", "path", "body"),
    [
        ("r.jina.ai", "/v1/reader", {"url": "https://a.example/"}),
        ("s.jina.ai", "/v1/search", {"q": "x"}),
        ("api.jina.ai", "/v1/embeddings", EMBED),
    ],
)
async def test_a_call_of_its_own_that_comes_back_is_refused(
    upstream: ScriptedUpstream, host: str, path: str, body: dict[str, str]
) -> None:
    """The upstream is a TLS proxy that hands the call to the gateway again, as a wrong entry in DNS would."""
    seen = 0

    async with running_gateway(settings_for(upstream.url, hosts=True)) as gateway:

        async def back(request: object, writer: object) -> None:
            nonlocal seen
            seen += 1
            received = upstream.seen[-1]
            place = "/v1/embeddings" if host == "api.jina.ai" else "/"
            kept = {name: value for name, value in received.headers.items() if name in ("user-agent", "accept")}
            answer = await gateway.client.post(place, content=received.raw, headers={**kept, "host": host})
            assert answer.status_code == 508
            assert answer.json()["error"]["code"] == "loop_detected"
            await replies(answer.content, answer.status_code)(received, writer)  # type: ignore[arg-type]

        upstream.plays(back)
        answer = await gateway.post(path, body)
    assert answer.status_code == 502
    assert "leads back" in answer.json()["error"]["message"]
    assert seen == 1
