"""The search of Jina's own tools over sockets, with an upstream that plays svip.jina.ai."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.callers.keys import digest
from app.gateway.build import in_sandbox
from app.sandbox.server import Sandbox
from app.storage.ledger_file import LedgerFile

from ..conftest import (
    JINA_KEY,
    PATIENCE,
    RunningGateway,
    ScriptedUpstream,
    replies,
    running_gateway,
    settings_for,
    streams,
)
from .test_web import CALLER_KEY, failure, raw_get
from .test_web_accounts import limited, posted, total, with_limits

META = {"query": "tides", "num_results": 1, "latency": 120, "credits": 250}
FOUND = {"results": [{"title": "A", "url": "https://a.example/", "snippet": "High tides."}], "meta": META}
FIGURES = {"id": "2301.12345", "floats": [{"type": "figure", "image": "aGk="}], "meta": {"credits": 70, "tokens": 9}}
EMBEDDING = {"data": [{"index": 0, "embedding": [0.5]}], "usage": {"total_tokens": 1}}
EMBED = {"model": "jina-embeddings-v3", "input": "a"}
ASK = {"q": "tides"}


def on(upstream: ScriptedUpstream, **values: Any) -> Any:
    return settings_for(upstream.url, svip=True, **values)


@pytest.fixture
async def svip(upstream: ScriptedUpstream) -> AsyncIterator[RunningGateway]:
    upstream.plays(replies(FOUND))
    async with running_gateway(on(upstream, hosts=True)) as running:
        yield running


async def test_it_is_off_unless_it_is_switched_on(upstream: ScriptedUpstream) -> None:
    async with running_gateway(settings_for(upstream.url, hosts=True)) as gateway:
        for path in ("/svip", "/svip/", "/v1/svip", "/svip/extract-pdf"):
            for answer in (await gateway.post(path, ASK), await gateway.client.get(path, params=ASK)):
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
                assert answer.json()["detail"].endswith(" is off; set svip: true to serve it")
        assert (await gateway.post("/", ASK, host="svip.jina.ai")).status_code == 404
        assert "svip" not in (await gateway.client.get("/v1/nothing")).text
        assert "svip" not in (await gateway.client.get("/v1/models")).text
    async with running_gateway(on(upstream)) as gateway:
        assert "POST /v1/svip, POST" in (await gateway.client.get("/v1/nothing")).text.replace(" GET /v1/svip,", "")
        (model,) = [m for m in (await gateway.client.get("/v1/models")).json()["data"] if m["id"] == "jina-svip"]
        assert (model["endpoints"], model["upstreams"]) == (["svip"], ["jina"])
    assert upstream.seen == []


async def test_a_search_is_asked_for_as_it_came(svip: RunningGateway, upstream: ScriptedUpstream) -> None:
    asked = {**ASK, "domain": "arxiv", "num": 5, "tbs": "qdr:d", "location": "Kyoto", "gl": "jp", "hl": "ja"}
    headers = {"user-agent": "jina-mcp", "cookie": "a=b", "x-field": "1", "accept": "text/plain"}
    for path in ("/svip", "/svip/", "/v1/svip"):
        answer = await svip.post(path, {**asked, "_token": "jina_not_for_us", "nonsense": 1}, **headers)
        assert (answer.status_code, answer.json()) == (200, FOUND)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-torii-dropped"] == "x-field, nonsense"
        assert answer.headers["x-usage-tokens"] == "250"
        assert answer.headers["x-content-type-options"] == "nosniff"
    for seen in upstream.seen:
        assert (seen.method, seen.path, seen.body) == ("POST", "/svip/", asked)
        assert (seen.headers["authorization"], seen.headers["accept"]) == (f"Bearer {JINA_KEY}", "application/json")
        assert seen.headers["user-agent"].startswith("torii/")
        assert not {"cookie", "x-field"} & seen.headers.keys()


@pytest.mark.parametrize("engine", ["httptools", "httpx"])
async def test_a_get_stays_one(upstream: ScriptedUpstream, engine: str) -> None:
    """As the deep search of Jina's MCP server is sent."""
    upstream.plays(replies(FOUND))
    deep = "q=high+tides%26&meta=deep&num=5&read_num=8&deep_timeout=25000&snippet_source=content"
    async with running_gateway(on(upstream, http_client=engine)) as svip:
        status, _, body = await raw_get(svip, f"/svip/?{deep}&query_expansion=true")
    assert (status, msgspec.json.decode(body)) == (200, FOUND)
    (seen,) = upstream.seen
    place, _, query = seen.path.partition("?")
    assert (seen.method, place, seen.raw) == ("GET", "/svip/", b"")
    assert sorted(query.split("&")) == sorted([*deep.split("&"), "query_expansion=true"])
    assert "content-type" not in seen.headers


async def test_a_form_is_read(svip: RunningGateway, upstream: ScriptedUpstream) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = await svip.client.post("/svip", content=b"q=high+tides&num=3&query_expansion=true&gl=", headers=form)
    assert answer.json() == FOUND
    assert upstream.seen[0].body == {"q": "high tides", "num": 3, "gl": "", "query_expansion": True}


async def test_the_passages_of_a_page_and_the_figures_of_a_pdf(
    svip: RunningGateway, upstream: ScriptedUpstream
) -> None:
    passages = {**ASK, "url": "https://a.example/?b=c%26d", "topk": 2, "chunk_size": 100}
    assert (await svip.post("/svip", passages)).json() == FOUND
    upstream.plays(replies(FIGURES))
    for path in ("/svip/extract-pdf", "/v1/svip/extract-pdf", "/svip/extract-pdf/"):
        asked = {"id": "2301.12345", "max_edge": 1024, "type": "figure,table"}
        answer = await svip.post(path, asked)
        assert (answer.json(), answer.headers["x-usage-tokens"]) == (FIGURES, "70")
        assert (upstream.seen[-1].method, upstream.seen[-1].path) == ("POST", "/svip/extract-pdf")
        assert upstream.seen[-1].body == asked
    assert upstream.seen[0].body == passages
    assert await total(svip, 4) == (70, False)


async def test_jinas_own_name_leads_to_it(svip: RunningGateway, upstream: ScriptedUpstream) -> None:
    for path in ("/", ""):
        status, _, body = await raw_get(svip, f"{path or '/'}?q=tides", "host: svip.jina.ai")
        assert (status, msgspec.json.decode(body)) == (200, FOUND)
    assert (await svip.post("/", ASK, host="SVIP.jina.ai:443")).json() == FOUND
    upstream.plays(replies(FIGURES))
    assert (await svip.post("/extract-pdf", {"id": "1"}, host="svip.jina.ai")).json() == FIGURES
    assert [seen.path for seen in upstream.seen] == [*["/svip/?q=tides"] * 2, "/svip/", "/svip/extract-pdf"]
    assert (await svip.post("/nothing", ASK, host="svip.jina.ai")).status_code == 404
    loop = await svip.post("/", ASK, host="svip.jina.ai", **{"user-agent": "torii/1"})
    assert (loop.status_code, loop.json()["error"]["code"]) == (508, "loop_detected")
    wrong = await svip.client.put("/", headers={"host": "svip.jina.ai"})
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, POST")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/svip", {}, "q"),
        ("/svip", {"q": " "}, "q"),
        ("/svip", {"url": "https://a.example"}, "q"),
        ("/svip", {**ASK, "num": 101}, "num"),
        ("/svip", {**ASK, "num": "x"}, "num"),
        ("/svip", {**ASK, "topk": 0}, "topk"),
        ("/svip", {**ASK, "deep_timeout": 180_001}, "deep_timeout"),
        ("/svip", {**ASK, "domain": "web"}, "domain"),
        ("/svip", {**ASK, "gl": 7}, "gl"),
        ("/svip", {**ASK, "url": ["a"]}, "url"),
        ("/svip", {**ASK, "url": "http://169.254.169.254/"}, "url"),
        ("/svip", {**ASK, "setCookies": [{"name": "a", "value": "b"}]}, "setCookies"),
        ("/svip/extract-pdf", {}, "url"),
        ("/svip/extract-pdf", {"url": "file:///etc/passwd"}, "url"),
        ("/svip/extract-pdf", {"id": 7}, "id"),
        ("/svip/extract-pdf", {"id": "1", "max_edge": 0}, "max_edge"),
    ],
)
async def test_bad_input_is_named_and_never_sent(
    svip: RunningGateway, upstream: ScriptedUpstream, path: str, body: Any, param: str
) -> None:
    answer = await svip.post(path, body)
    said = answer.json()
    assert (answer.status_code, said["error"]["param"], said["status"], said["data"]) == (400, param, 40001, None)
    assert param in said["message"]
    plain = await svip.post(path, body, accept="text/plain")
    assert plain.headers["content-type"] == "text/plain; charset=utf-8"
    assert plain.text == f"{said['readableMessage']}\n"
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("status", "inner", "shown", "code"),
    [
        (401, 40103, 502, "upstream_auth"),
        (402, 40203, 503, "upstream_quota"),
        (402, 40202, 400, "tier_feature"),
        (408, 40801, 504, "target_timeout"),
        (422, 42206, 422, "nothing_found"),
        (429, 42903, 429, "upstream_rate_limited"),
        (500, 50001, 502, "upstream_error"),
    ],
)
async def test_a_failure_is_read_as_the_readers(
    svip: RunningGateway, upstream: ScriptedUpstream, status: int, inner: int, shown: int, code: str
) -> None:
    upstream.plays(failure(status, inner))
    answer = await svip.post("/svip", ASK)
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["code"]) == (shown, code, shown)
    assert JINA_KEY not in answer.text + str(answer.headers)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": []}', b'{"results": {}}', b"<html>busy</html>", b'{"results"'])
async def test_an_answer_that_is_none_is_a_502(svip: RunningGateway, upstream: ScriptedUpstream, body: bytes) -> None:
    upstream.plays(replies(body))
    assert (await svip.post("/svip", ASK)).status_code == 502
    upstream.plays(replies({"code": 422, "status": 42206, "message": "none"}))
    assert (await svip.post("/svip", ASK)).json()["error"]["code"] == "nothing_found"


async def test_no_redirect_is_handed_on(svip: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(b"", 302, location="https://a.example/"))
    answer = await svip.post("/svip", ASK, **{"x-respond-with": "screenshot"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_redirect")
    assert "location" not in answer.headers


async def test_its_deadline_is_that_of_a_search_or_its_own(upstream: ScriptedUpstream) -> None:
    head = b'{"results": [], "meta": '
    upstream.plays(streams(head, *[b" "] * 3, end="open", content_type="application/json"))
    async with running_gateway(on(upstream, timeouts={"search_seconds": 0.2})) as gateway:
        answer = await gateway.post("/svip", ASK)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
        assert len(upstream.seen) == 1  # it may have begun there, so it is not repeated
        upstream.plays(replies(FOUND))
        assert (await gateway.post("/svip", {**ASK, "meta": "deep", "deep_timeout": 25_000})).status_code == 200


async def test_the_ledger_has_the_credits_and_a_missing_count_is_estimated(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    file = LedgerFile(tmp_path / "ledger.db")
    bare = msgspec.json.encode({"results": ["a" * 400]})
    async with running_gateway(on(upstream), file) as gateway:
        for script in (replies(FOUND), replies(bare), failure(422, 42206)):
            upstream.plays(script)
            await gateway.post("/svip", ASK)
        await gateway.ended(3)
    file.close()
    with sqlite3.connect(tmp_path / "ledger.db") as books:
        rows = books.execute(
            "select endpoint, model, status, error, completion_tokens, total_tokens, estimated from calls"
            " order by rowid"
        ).fetchall()
    assert rows == [
        ("svip", "jina-svip", 200, None, 250, 250, 0),
        ("svip", "jina-svip", 200, None, len(bare) // 4, len(bare) // 4, 1),
        ("svip", "jina-svip", 422, "nothing_found", 0, 0, 0),
    ]


async def test_what_it_may_cost_is_held(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(replies(FOUND))
    file = LedgerFile(tmp_path / "ledger.db")
    budget = {"unit": "tokens", "amount": 30_800, "window": "day"}
    settings = limited(upstream, budgets=[budget]).model_copy(update={"svip": True})
    async with running_gateway(settings, file) as gateway:
        asks: list[tuple[dict[str, Any], int]] = [
            ({"num": 31}, 429),  # 40,000
            ({"num": 10, "meta": "deep", "read_num": 2}, 429),  # 10,000 and two pages
            ({}, 200),  # 30 results
            ({"url": "https://a.example/"}, 200),  # 10,000 and a page
            ({"num": 10, "meta": "deep", "read_num": 1}, 200),
        ]
        for more, status in asks:
            assert (await posted(gateway, "/svip", {**ASK, **more})).status_code == status
        upstream.plays(replies(FIGURES))
        assert (await posted(gateway, "/svip/extract-pdf", {"id": "1"})).status_code == 200
        assert (await posted(gateway, "/svip", ASK)).status_code == 429  # 820 are spent
    file.close()
    assert len(upstream.seen) == 4


async def test_a_key_needs_permission_for_it(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(replies(FOUND))
    keys = [{"name": "a", "sha256": digest(CALLER_KEY).hex(), "allowed_endpoints": ["search"]}]
    file = LedgerFile(tmp_path / "ledger.db")
    async with running_gateway(on(upstream, keys=keys), file) as gateway:
        for path in ("/svip", "/svip/extract-pdf"):
            refused = await posted(gateway, path, ASK)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
        assert (await gateway.client.get("/svip/?q=x&_token=jina_a")).json()["error"]["param"] == "_token"
        assert (await gateway.post("/svip", ASK)).status_code == 401
    file.close()
    assert upstream.seen == []


async def test_it_has_a_limit_of_its_own(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(FOUND))
    settings = with_limits(on(upstream, queue_timeout_seconds=0.05), {"svip_per_minute": 1, "requests_per_minute": 1})
    async with running_gateway(settings) as gateway:
        assert [(await gateway.post("/svip", ASK)).status_code for _ in range(2)] == [200, 429]
        upstream.plays(replies(EMBEDDING))
        assert (await gateway.post("/v1/embeddings", EMBED)).status_code == 200


async def test_a_429_rests_it_alone(upstream: ScriptedUpstream) -> None:
    async with running_gateway(on(upstream, queue_timeout_seconds=0.05)) as gateway:
        upstream.plays(failure(429, 42903, retry_after="30"))
        for _ in range(2):
            answer = await gateway.post("/svip", ASK)
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "30")
        assert len(upstream.seen) == 1
        upstream.plays(replies(EMBEDDING))
        assert (await gateway.post("/v1/embeddings", EMBED)).status_code == 200


async def test_it_is_cached_as_a_search_is(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(FOUND))
    async with running_gateway(on(upstream, cache={"store": "memory"})) as gateway:
        for _ in range(2):
            assert "x-torii-cache" not in (await gateway.post("/svip", ASK)).headers
    assert len(upstream.seen) == 2
    async with running_gateway(on(upstream, cache={"store": "memory"}, search={"cache_seconds": 60})) as gateway:
        answers = [await gateway.post("/svip", {**ASK, "num": 3}), await gateway.client.get("/svip?num=3&q=tides")]
        assert [answer.headers["x-torii-cache"] for answer in answers] == ["miss", "hit"]
        assert answers[1].json()["results"] == FOUND["results"]
        assert answers[1].json()["meta"] == {**META, "credits": 0, "usage": {"tokens": 0, "cached_tokens": 250}}
        assert answers[1].headers["x-usage-tokens"] == "0"
        upstream.plays(replies({"results": [], "meta": META}))
        assert [(await gateway.post("/svip", {"q": "none"})).headers["x-torii-cache"] for _ in range(2)] == ["miss"] * 2
        upstream.plays(replies(FIGURES))
        for _ in range(2):
            assert "x-torii-cache" not in (await gateway.post("/svip/extract-pdf", {"id": "1"})).headers
        assert (await gateway.ended(6))[1].cached_tokens == 250


async def test_the_sandbox_plays_it() -> None:
    settings = settings_for(None, svip=True)
    with Sandbox(pace=0) as sandbox:
        async with running_gateway(in_sandbox(settings, sandbox.urls)) as gateway:
            found = await gateway.client.get("/svip/?q=tides&num=5&meta=deep", timeout=PATIENCE)
            assert found.json()["meta"] == {"query": "tides", "num_results": 1, "latency": 120, "credits": 10_000}
            url = found.json()["results"][0]["url"]
            figures = await gateway.post("/svip/extract-pdf", {"url": url, "type": "figure,table"})
            assert [figure["type"] for figure in figures.json()["floats"][:2]] == ["figure", "table"]
