"""What pages and searches cost, hold and share; their streams, deadlines and limits. Over sockets."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.callers.keys import digest
from app.config.sections import KeyLimits
from app.storage.ledger_file import LedgerFile
from app.usage.ledger import spent

from ..conftest import (
    RunningGateway,
    ScriptedUpstream,
    replies,
    running_gateway,
    settings_for,
    streams,
    until,
)
from .test_web import CALLER_KEY, PAGE, READ, RESULTS, TEXT, failure, text

EVENTS = {"accept": "text/event-stream"}


def snapshot(tokens: int | None, content: str = "a") -> bytes:
    usage = {} if tokens is None else {"usage": {"tokens": tokens}}
    return b"event: data\ndata: " + msgspec.json.encode({"content": content, **usage}) + b"\n\n"


def limited(upstream: ScriptedUpstream, **values: Any) -> Any:
    caller = {"name": "team", "key": CALLER_KEY, **values}
    return settings_for(upstream.url, callers=[caller])


async def posted(gateway: RunningGateway, path: str, body: Any, **headers: str) -> Any:
    return await gateway.post(path, body, authorization=f"Bearer {CALLER_KEY}", **headers)


async def total(gateway: RunningGateway, number: int = 1) -> Any:
    """The tokens of the last of so many calls, and whether they are an estimate."""
    record = (await gateway.ended(number))[-1]
    (use,) = record.uses.values()
    return spent(use).total, spent(use).estimated


# Usage.


async def test_the_usage_of_json_is_in_meta_else_in_the_header_else_in_the_pages(upstream: ScriptedUpstream) -> None:
    async with running_gateway(settings_for(upstream.url)) as gateway:
        items = {"code": 200, "data": RESULTS["data"]}
        for number, (script, tokens) in enumerate(
            (
                (replies(RESULTS, x_usage_tokens="7"), (10000, False)),
                (replies(items, x_usage_tokens="7"), (7, False)),
                (replies(items), (10002, False)),
                (replies({"code": 200, "data": [{"content": "abcd" * 100}]}), (109, True)),
            ),
            1,
        ):
            upstream.plays(script)
            assert (await gateway.post("/v1/search", {"q": "x"})).status_code == 200
            assert await total(gateway, number) == tokens


async def test_text_without_a_count_is_estimated(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(b"abcd" * 50, content_type="text/plain"))
    async with running_gateway(settings_for(upstream.url)) as gateway:
        assert (await gateway.client.get("/r/https://a.example")).headers["x-usage-tokens"] == "50"
        assert await total(gateway) == (50, True)


async def test_the_ledger_names_the_model_and_what_came_of_it(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    file = LedgerFile(path)
    async with running_gateway(settings_for(upstream.url), file) as gateway:
        upstream.plays(replies(PAGE))
        await gateway.post("/v1/reader", READ)
        upstream.plays(failure(422, 42206))
        await gateway.post("/v1/search", {"q": "x"})
        await gateway.ended(2)
    file.close()
    with sqlite3.connect(path) as books:
        rows = books.execute(
            "select endpoint, model, upstream_model, status, error, total_tokens, estimated from calls order by rowid"
        ).fetchall()
    assert rows == [
        ("reader", "jina-reader", "jina-reader", 200, None, 12, 0),
        ("search", "jina-search", "jina-search", 422, "nothing_found", 0, 0),
    ]


# Streams.


async def test_snapshots_pass_and_the_last_one_counts(upstream: ScriptedUpstream) -> None:
    snapshots = [snapshot(10), snapshot(200, "ab"), snapshot(250, "abc")]
    upstream.plays(streams(*snapshots))
    async with running_gateway(settings_for(upstream.url)) as gateway:
        response = await gateway.client.get("/r/https://a.example", headers=EVENTS)
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.content == b"".join(snapshots)
        assert await total(gateway) == (250, False)
    assert upstream.seen[0].headers["accept"] == "text/event-stream"


async def test_a_cut_stream_ends_with_an_error_and_counts_what_was_seen(upstream: ScriptedUpstream) -> None:
    upstream.plays(streams(snapshot(10), snapshot(200), b"event: data\ndata: {", end="cut"))
    async with running_gateway(settings_for(upstream.url)) as gateway:
        response = await gateway.client.get("/r/https://a.example", headers=EVENTS)
        passed, _, last = response.content.partition(b"event: error\ndata: ")
        assert passed == snapshot(10) + snapshot(200)
        said = msgspec.json.decode(last)
        assert (said["data"], said["code"], said["error"]["code"]) == (None, 502, "upstream_error")
        assert await total(gateway) == (200, False)
        assert gateway.records[-1].status == 502


async def test_an_error_in_a_stream_has_its_status_before_the_first_page(upstream: ScriptedUpstream) -> None:
    said = {"code": 422, "status": 42206, "name": "AssertionFailureError", "message": "No content"}
    error = b"event: error\ndata: " + msgspec.json.encode(said) + b"\n\n"
    async with running_gateway(settings_for(upstream.url)) as gateway:
        for script in (streams(error), replies(b'data: "AssertionFailureError: No content"\n\n', 422)):
            upstream.plays(script)
            response = await gateway.client.get("/r/https://a.example", headers=EVENTS)
            assert (response.status_code, response.json()["error"]["code"]) == (422, "nothing_found")
        upstream.plays(streams(snapshot(10), error))
        response = await gateway.client.get("/r/https://a.example", headers=EVENTS)
        assert response.status_code == 200
        assert b"event: error\ndata: " in response.content
        assert msgspec.json.decode(response.content.rpartition(b"data: ")[2])["error"]["code"] == "nothing_found"
        upstream.plays(streams())
        response = await gateway.client.get("/r/https://a.example", headers=EVENTS)
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_stream_truncated")
        upstream.plays(streams(b"data: nonsense\n\n"))
        assert (await gateway.client.get("/r/https://a.example", headers=EVENTS)).status_code == 502


async def test_snapshots_without_a_count_are_estimated_by_the_last(upstream: ScriptedUpstream) -> None:
    last = snapshot(None, "abcd" * 100)
    upstream.plays(streams(snapshot(None), last))
    async with running_gateway(settings_for(upstream.url)) as gateway:
        await gateway.client.get("/s/x", headers=EVENTS)
        assert await total(gateway) == ((len(last) - len(b"event: data\ndata: \n\n")) // 4, True)


# Deadlines.


async def test_a_slow_page_is_a_504(upstream: ScriptedUpstream) -> None:
    never = asyncio.Event()
    settings = settings_for(upstream.url, timeouts={"reader_seconds": 0.2, "search_seconds": 0.2})
    async with running_gateway(settings) as gateway:
        for script in (streams(never), streams(b'{"code"', never)):
            upstream.plays(script)
            response = await gateway.post("/v1/reader", READ)
            assert (response.status_code, response.json()["error"]["code"]) == (504, "upstream_timeout")
        assert (await gateway.post("/v1/search", {"q": "x"})).status_code == 504
        upstream.plays(streams(snapshot(10), never))
        response = await gateway.client.get("/r/https://a.example", headers=EVENTS)
        assert b"event: error" in response.content
    assert len(upstream.seen) == 4  # nobody knows whether it was done: it is not asked for again


async def test_the_time_that_a_call_gives_its_page_is_its_deadline(upstream: ScriptedUpstream) -> None:
    release = asyncio.Event()
    upstream.plays(streams(release, msgspec.json.encode(PAGE), content_type="application/json"))
    settings = settings_for(upstream.url, timeouts={"reader_seconds": 0.05, "headers_seconds": 0.05})
    async with running_gateway(settings) as gateway:
        call = asyncio.create_task(gateway.post("/v1/reader", {**READ, "timeout": 5}))
        await until(lambda: len(upstream.seen) == 1)
        await asyncio.sleep(0.2)  # longer than any deadline of the settings
        release.set()
        assert (await call).json() == PAGE


# Holds.


async def test_a_page_gets_the_token_budget_that_is_left(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(replies(PAGE))
    file = LedgerFile(tmp_path / "ledger.db")
    budget = {"unit": "tokens", "amount": 15_000, "window": "day"}
    async with running_gateway(limited(upstream, budgets=[budget]), file) as gateway:
        await posted(gateway, "/v1/reader", READ)
        await posted(gateway, "/v1/reader", READ, **{"x-token-budget": "100"})
        await posted(gateway, "/v1/reader", READ)
        refused = await posted(gateway, "/v1/search", {"q": "x"})
        await gateway.ended(4)
    file.close()
    assert [seen.headers["x-token-budget"] for seen in upstream.seen] == ["15000", "100", "14976"]
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")


async def test_a_search_is_held_for_its_price_and_its_pages(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(replies(RESULTS))
    file = LedgerFile(tmp_path / "ledger.db")
    budget = {"unit": "tokens", "amount": 30_000, "window": "day"}
    async with running_gateway(limited(upstream, budgets=[budget]), file) as gateway:
        assert (await posted(gateway, "/v1/search", {"q": "x", "num": 2})).status_code == 429  # 10,000 + 40,000
        assert (await posted(gateway, "/v1/search", {"q": "x", "num": 0})).status_code == 429  # as 10
        assert (await posted(gateway, "/v1/search", {"q": "x", "num": 1})).status_code == 200  # 10,000 + 20,000
        snippets = {"q": "x", "num": 10, "respondWith": "no-content"}
        assert (await posted(gateway, "/v1/search", {**snippets, "type": "news"})).status_code == 429  # 50,000
        assert (await posted(gateway, "/v1/search", snippets)).status_code == 200  # 10,000
        await gateway.ended(5)
    file.close()
    assert len(upstream.seen) == 2
    assert "x-token-budget" not in upstream.seen[0].headers  # the provider ignores it


async def test_a_key_may_be_for_some_endpoints_only(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(replies(PAGE))
    keys = [{"name": "readers", "sha256": digest(CALLER_KEY).hex(), "allowed_endpoints": ["reader"]}]
    file = LedgerFile(tmp_path / "ledger.db")
    async with running_gateway(settings_for(upstream.url, keys=keys), file) as gateway:
        assert (await posted(gateway, "/v1/reader", READ)).status_code == 200
        refused = await posted(gateway, "/s", {"q": "x"})
    file.close()
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
    assert "allowed endpoints: reader" in refused.json()["message"]


# The limits of a provider's key.


async def test_reader_and_search_have_limits_of_their_own(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(PAGE))
    limits = {"reader_per_minute": 1, "requests_per_minute": 1, "search_per_minute": 5}
    settings = settings_for(upstream.url, queue_timeout_seconds=0.05)
    async with running_gateway(with_limits(settings, limits)) as gateway:
        assert (await gateway.post("/v1/reader", READ)).status_code == 200
        assert (await gateway.post("/v1/reader", READ)).status_code == 429
        upstream.plays(replies(RESULTS))
        assert (await gateway.post("/v1/search", {"q": "x"})).status_code == 200
        upstream.plays(replies({"data": [{"index": 0, "embedding": [0.5]}], "usage": {"total_tokens": 1}}))
        body = {"model": "jina-embeddings-v3", "input": "a"}
        assert (await gateway.post("/v1/embeddings", body)).status_code == 200  # reader's calls are no requests there
        assert (await gateway.post("/v1/embeddings", body)).status_code == 429
        upstream.plays(replies(RESULTS))
        assert (await gateway.post("/v1/search", {"q": "x"})).status_code == 200


async def test_a_429_of_the_reader_rests_the_reader_only(upstream: ScriptedUpstream) -> None:
    settings = settings_for(upstream.url, queue_timeout_seconds=0.05)
    async with running_gateway(settings) as gateway:
        upstream.plays(failure(429, 42903, retry_after="30"))
        for _ in range(2):
            answer = await gateway.post("/v1/reader", READ)
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "30")
        assert len(upstream.seen) == 1  # the second call was not sent: its time is known
        upstream.plays(replies(RESULTS))
        assert (await gateway.post("/v1/search", {"q": "x"})).status_code == 200
        upstream.plays(replies({"data": [{"index": 0, "embedding": [0.5]}], "usage": {"total_tokens": 1}}))
        body = {"model": "jina-embeddings-v3", "input": "a"}
        assert (await gateway.post("/v1/embeddings", body)).status_code == 200


def with_limits(settings: Any, limits: dict[str, int]) -> Any:
    jina = settings.upstreams["jina"].model_copy(update={"limits": KeyLimits(**limits)})
    return settings.model_copy(update={"upstreams": {"jina": jina}})


# The cache and single-flight.


def cached(upstream: ScriptedUpstream, **values: Any) -> Any:
    options = {"reader": {"cache_seconds": 60}, "search": {"cache_seconds": 60}, "cache": {"store": "memory"}}
    return settings_for(upstream.url, **{**options, **values})


async def test_pages_are_not_cached_by_default(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(PAGE))
    async with running_gateway(settings_for(upstream.url, cache={"store": "memory"})) as gateway:
        for _ in range(2):
            assert "x-torii-cache" not in (await gateway.post("/v1/reader", READ)).headers
    assert len(upstream.seen) == 2


async def test_a_cached_page_costs_nothing_and_says_so(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(replies(PAGE))
    store = {"store": "sqlite", "path": tmp_path / "cache.db"}
    for rounds in range(2):  # the second gateway reads the file of the first
        async with running_gateway(cached(upstream, cache=store)) as gateway:
            states = [await gateway.post("/v1/reader", READ) for _ in range(2)]
            expected = ["hit" if rounds else "miss", "hit"]
            assert [each.headers["x-torii-cache"] for each in states] == expected
            hit = states[1]
            assert hit.headers["x-usage-tokens"] == "0"
            assert hit.json()["meta"] == {"usage": {"tokens": 0, "cached_tokens": 12}}
            assert hit.json()["data"] == {**PAGE["data"], "usage": {"tokens": 0}}  # type: ignore[dict-item]
            upstream.plays(text())
            texts = [await gateway.client.get("/r/https://a.example/") for _ in range(2)]
            assert [each.content for each in texts] == [TEXT] * 2
            assert texts[1].headers["content-type"] == "text/plain; charset=utf-8"
            upstream.plays(replies(PAGE))
    assert len(upstream.seen) == 2


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"viewport": {"width": 1}}, {}),
        ({"instruction": "a"}, {}),
        ({}, {"dnt": "1"}),
        ({}, {"x-proxy": "de"}),
        ({}, {"x-respond-with": "screenshot"}),
        ({}, {"x-cache-tolerance": "0"}),
        ({}, {"x-no-cache": "true"}),
        ({}, {"cache-control": "no-store"}),
    ],
)
async def test_some_pages_are_never_answered_from_the_cache(
    upstream: ScriptedUpstream, body: dict[str, Any], headers: dict[str, str]
) -> None:
    upstream.plays(replies(PAGE))
    async with running_gateway(cached(upstream)) as gateway:
        for _ in range(2):
            answer = await gateway.post("/v1/reader", {**READ, **body}, **headers)
            assert answer.headers.get("x-torii-cache") != "hit"
    assert len(upstream.seen) == 2


async def test_a_fresh_page_is_kept_for_the_next(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(PAGE))
    async with running_gateway(cached(upstream)) as gateway:
        for headers in ({}, {"x-no-cache": "true"}, {"x-cache-tolerance": "0"}, {}):
            await gateway.post("/v1/reader", READ, **headers)
        states = [record.cache for record in await gateway.ended(4)]
    assert states == ["miss", "miss", "miss", "hit"]


@pytest.mark.parametrize("data", [{"content": "a", "warning": "blocked"}, {"content": ""}, {"title": "a"}])
async def test_a_page_with_a_warning_or_without_content_is_not_kept(upstream: ScriptedUpstream, data: Any) -> None:
    upstream.plays(replies({"code": 200, "data": data}))
    async with running_gateway(cached(upstream)) as gateway:
        for _ in range(2):
            assert (await gateway.post("/v1/reader", READ)).headers["x-torii-cache"] == "miss"


async def test_a_page_with_half_an_emoji_is_not_kept(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(rb'{"code":200,"data":{"content":"\ud83d"}}'))
    async with running_gateway(cached(upstream)) as gateway:
        for _ in range(2):
            answer = await gateway.post("/v1/reader", READ)
            assert (answer.status_code, answer.headers["x-torii-cache"]) == (200, "miss")


async def test_failures_are_not_kept(upstream: ScriptedUpstream) -> None:
    upstream.plays(failure(422, 42206))
    async with running_gateway(cached(upstream)) as gateway:
        for _ in range(2):
            assert (await gateway.post("/v1/search", {"q": "x"})).status_code == 422
    assert len(upstream.seen) == 2


async def test_one_key_for_all_spellings_of_a_search(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies({"code": 200, "data": [{"content": "a"}]}))
    async with running_gateway(cached(upstream)) as gateway:
        await gateway.post("/v1/search", {"q": "x", "num": 3, "gl": "de"})
        await gateway.post("/v1/search", {"gl": "de", "count": 3, "q": "x"})
        await gateway.client.get("/v1/search?count=3&gl=de&q=x")
        await gateway.post("/v1/search", {"q": "x", "num": 4, "gl": "de"})
        assert [record.cache for record in await gateway.ended(4)] == ["miss", "hit", "hit", "miss"]


async def test_equal_reads_under_way_are_one_upstream_call(upstream: ScriptedUpstream) -> None:
    release = asyncio.Event()
    upstream.plays(streams(release, msgspec.json.encode(PAGE), content_type="application/json"))
    async with running_gateway(cached(upstream)) as gateway:
        calls = [asyncio.create_task(gateway.post("/v1/reader", READ)) for _ in range(3)]
        await until(lambda: gateway.generations.now.gateway.singleflight.waiting() == 3)
        release.set()
        answers = [await call for call in calls]
    assert sorted(answer.headers["x-torii-cache"] for answer in answers) == ["hit", "hit", "miss"]
    assert len(upstream.seen) == 1


async def test_a_budget_that_is_too_small_is_not_that_of_others(upstream: ScriptedUpstream) -> None:
    release = asyncio.Event()

    async def play(request: Any, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        limited = "x-token-budget" in request.headers
        await (failure(409, 40904, "BudgetExceededError") if limited else replies(PAGE))(request, writer)

    upstream.plays(play)
    async with running_gateway(cached(upstream)) as gateway:
        first = asyncio.create_task(gateway.post("/v1/reader", READ, **{"x-token-budget": "5"}))
        await until(lambda: len(upstream.seen) == 1)
        others = [asyncio.create_task(gateway.post("/v1/reader", READ)) for _ in range(3)]
        await until(lambda: gateway.generations.now.gateway.singleflight.waiting() == 4)
        release.set()
        assert (await first).json()["error"]["code"] == "token_budget_exceeded"
        assert [(await other).status_code for other in others] == [200] * 3
    assert len(upstream.seen) == 2


# Several accounts, callers who leave, large pages.


async def test_another_account_reads_what_the_first_cannot(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    settings = settings_for(upstream.url)
    second = settings.upstreams["jina"].model_copy(update={"reader_base_url": f"{other_upstream.url}/reader"})
    settings = settings.model_copy(update={"upstreams": {"jina": settings.upstreams["jina"], "second": second}})
    other_upstream.plays(replies(PAGE))
    async with running_gateway(settings) as gateway:
        for status, inner, name in ((402, 40203, "second"), (500, 50001, "second"), (503, 50301, "second")):
            upstream.plays(failure(status, inner))
            answer = await gateway.post("/v1/reader", READ)
            assert (answer.status_code, answer.headers["x-torii-upstream"]) == (200, name)
    async with running_gateway(settings) as gateway:
        upstream.plays(failure(422, 42206))
        assert (await gateway.post("/v1/reader", READ)).status_code == 422  # an answer: nobody else is asked
    assert len(other_upstream.seen) == 3


async def test_a_caller_who_leaves_ends_the_read(upstream: ScriptedUpstream) -> None:
    never = asyncio.Event()
    upstream.plays(streams(never))
    async with running_gateway(settings_for(upstream.url)) as gateway:
        call = asyncio.create_task(gateway.post("/v1/reader", READ))
        await until(lambda: len(upstream.seen) == 1)
        call.cancel()
        await upstream.gone()
        (record,) = await gateway.ended(1)
    assert record.status == 499


LARGE = 3 * 1024 * 1024


async def test_pages_up_to_the_limit_pass_and_leave_nothing_behind(upstream: ScriptedUpstream) -> None:
    piece = b"a" * 65_536
    pieces = [piece] * (LARGE // len(piece))
    async with running_gateway(settings_for(upstream.url, max_reply_megabytes=3)) as gateway:
        upstream.plays(streams(*pieces, content_type="text/plain"))
        await drained(gateway)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(5):
                assert await drained(gateway) == LARGE
            gc.collect()
            after, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < LARGE // 2
        assert peak - before < 5 * LARGE
        upstream.plays(streams(*pieces, b"a", content_type="text/plain"))
        answer = await gateway.client.get("/r/https://a.example")
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_too_large")


async def drained(gateway: RunningGateway) -> int:
    """The bytes of a page, which are read and thrown away."""
    async with gateway.client.stream("GET", "/r/https://a.example") as answer:
        assert answer.status_code == 200
        return sum([len(data) async for data in answer.aiter_raw()])


async def test_a_page_that_is_cut_is_no_page(upstream: ScriptedUpstream) -> None:
    async with running_gateway(settings_for(upstream.url)) as gateway:
        for form, path in (("application/json", "/v1/reader"), ("text/plain", "/r")):
            upstream.plays(streams(msgspec.json.encode(PAGE)[:-9], end="cut", content_type=form))
            answer = await gateway.post(path, READ)
            assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    assert len(upstream.seen) == 2
