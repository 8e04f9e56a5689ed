"""Calls that are more than one request, or none: what is held for them, who pays, and that nothing stays held."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.callers.keys import Caller
from app.callers.limits import Budget, Scope
from app.endpoints import ENDPOINTS
from app.endpoints.incoming import RequestContext, parse

from ..conftest import ScriptedUpstream, Seen, replies, streams, until
from ..faults.scripts import answer, delta, sse, thought
from ..ledger import read
from ..ports import closed_port
from .test_batching import embeds
from .test_limits import (
    CHATS,
    KEY,
    OTHER,
    Counted,
    after,
    budget,
    caller,
    counted,
    embed,
    hang,
    vectors,
)

HELD = len("one") + 16
BOTH = [caller(budgets=[budget(10_000), budget(50, "requests")]), caller("bob", OTHER)]
MEMORY = {"store": "memory"}
DEEP = {"model": "jina-deepsearch-v1", "messages": [{"role": "user", "content": "why?"}]}
SPENT = "SELECT unit, spent FROM counters WHERE scope = 'key:ann'"


def spent(books: Counted) -> dict[str, int]:
    return dict(read(books.path, SPENT))


def deepsearch(tokens: int = 9) -> Any:
    return streams(sse(thought("Well"), answer("because", usage={"total_tokens": tokens})))


async def leave(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# ------------------------------------------------------------------------ answers without cost


async def test_a_cached_answer_counts_as_a_request_and_passes_with_a_spent_budget(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(vectors(19))
    callers = [caller(budgets=[budget(HELD), budget(3, "requests")])]
    async with counted(upstream, tmp_path, callers=callers, cache=MEMORY) as books:
        answers = [await books.ask(embed(text)) for text in ("one", "one", "two", "one", "one")]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 200, 429]
        assert len(upstream.seen) == 1
        rows = await books.at_rest()
        assert [(row["kind"], row["requests"], row["total_tokens"], row["cached_tokens"]) for row in rows] == [
            ("call", 1, 19, 0),
            ("cached", 1, 0, 19),
            ("cached", 1, 0, 19),
        ]
        assert spent(books) == {"tokens": 19, "requests": 3}


async def test_only_what_is_not_cached_is_held_for(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    go = asyncio.Event()
    upstream.plays(vectors(19), after(go, vectors(19)))
    async with counted(upstream, tmp_path, callers=BOTH, cache=MEMORY) as books:
        await books.ask()
        asking = asyncio.create_task(books.ask(embed("one", input=["one", "three"])))
        await until(lambda: len(upstream.seen) == 2)
        assert books.held() == len("three") + 16 + 1
        go.set()
        assert (await asking).headers["x-torii-cache"] == "partial"
        assert [row["cached_tokens"] for row in await books.at_rest()] == [0, 19]


async def test_the_first_of_identical_calls_pays_even_after_leaving(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    go = asyncio.Event()
    upstream.plays(after(go, vectors(19)))
    async with counted(upstream, tmp_path, callers=BOTH, cache=MEMORY) as books:
        flights = books.gateway.generations.now.gateway.singleflight
        leader = asyncio.create_task(books.ask())
        await until(lambda: flights.waiting() == 1)
        followers = [asyncio.create_task(books.ask(key=key)) for key in (KEY, OTHER)]
        await until(lambda: flights.waiting() == 3)
        await leave(leader)
        await until(lambda: flights.waiting() == 2)
        assert books.held() == HELD + 2  # the tokens, and both requests of Ann
        go.set()
        assert [answer.headers["x-torii-cache"] for answer in await asyncio.gather(*followers)] == ["hit", "hit"]
        rows = await books.at_rest()
        found = sorted((row["caller"], row["kind"], row["status"], row["total_tokens"]) for row in rows)
        assert found == [("ann", "cached", 200, 0), ("ann", "call", 499, 19), ("bob", "cached", 200, 0)]
        assert spent(books) == {"tokens": 19, "requests": 2}


async def test_a_refusal_of_the_first_is_not_shared(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """Ann waits until her limit allows no more; then the next one leads, and pays."""
    go = asyncio.Event()
    upstream.plays(after(go, vectors(19)))
    callers = [caller(limits={"concurrent_calls": 1}), caller("bob", OTHER), caller("cleo", "a-key-of-cleo-0123456789")]
    async with counted(upstream, tmp_path, callers=callers, cache=MEMORY, queue_timeout_seconds=0.3) as books:
        flights = books.gateway.generations.now.gateway.singleflight
        first = asyncio.create_task(books.ask(embed("other")))
        await until(lambda: len(upstream.seen) == 1)
        refused = asyncio.create_task(books.ask())
        await until(lambda: flights.waiting() == 2)
        others = [asyncio.create_task(books.ask(key=key)) for key in (OTHER, "a-key-of-cleo-0123456789")]
        await until(lambda: flights.waiting() == 4)
        assert (await refused).status_code == 429
        await until(lambda: len(upstream.seen) == 2)
        go.set()
        answers = await asyncio.gather(first, *others)
        assert [answer.headers["x-torii-cache"] for answer in answers] == ["miss", "miss", "hit"]
        assert len(upstream.seen) == 2
        await books.at_rest()


async def test_a_failure_after_which_the_first_may_not_ask_again_is_not_shared(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Ann has no tokens left for the second upstream; Bob has."""
    go = asyncio.Event()
    upstream.plays(after(go, replies({"detail": "busy"}, 503)))
    other_upstream.plays(vectors(5))
    callers = [caller(budgets=[budget(HELD)]), caller("bob", OTHER)]
    async with counted(upstream, tmp_path, other_upstream, callers=callers, cache=MEMORY) as books:
        flights = books.gateway.generations.now.gateway.singleflight
        calls = []
        for count, key in enumerate((KEY, OTHER), 1):
            calls.append(asyncio.create_task(books.ask(key=key)))
            await until(lambda: flights.waiting() == count)  # noqa: B023 - called before it changes
        go.set()
        assert [answer.status_code for answer in await asyncio.gather(*calls)] == [503, 200]
        await books.at_rest()


# ------------------------------------------------------------------------ further requests


async def test_failover_holds_for_the_second_upstream_too(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    go = asyncio.Event()
    upstream.plays(replies({"detail": "busy"}, 503))
    other_upstream.plays(after(go, vectors(5)))
    async with counted(upstream, tmp_path, other_upstream, callers=BOTH) as books:
        asking = asyncio.create_task(books.ask())
        await until(lambda: len(other_upstream.seen) == 1)
        assert books.held() == 2 * HELD + 1
        go.set()
        assert (await asking).status_code == 200
        rows = await books.at_rest()
        assert [(row["upstream"], row["requests"], row["status"]) for row in rows] == [
            ("jina", 0, 503),
            ("aihubmix", 1, 200),
        ]
        assert len({row["request_id"] for row in rows}) == 1
        assert spent(books) == {"tokens": 5, "requests": 1}


async def test_a_further_request_that_does_not_fit_is_not_made(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(replies({"detail": "busy"}, 503, retry_after="7"))
    other_upstream.plays(vectors(5))
    callers = [caller(budgets=[budget(2 * HELD - 1)])]
    async with counted(upstream, tmp_path, other_upstream, callers=callers) as books:
        answer = await books.ask()
        assert (answer.status_code, answer.headers["x-torii-upstream"]) == (503, "jina")
        assert (len(upstream.seen), other_upstream.seen) == (1, [])
        assert [row["upstream"] for row in await books.at_rest()] == ["jina"]
        upstream.plays(vectors(5))
        await until(lambda: books.gateway.generations.now.pools["jina"].ready)


async def test_a_request_that_was_not_sent_is_not_held_for_twice(
    other_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    other_upstream.plays(vectors(5))
    with closed_port() as url:
        made = counted(ScriptedUpstream(url), tmp_path, other_upstream, callers=[caller(budgets=[budget(HELD)])])
    async with made as books:
        assert (await books.ask()).status_code == 200
        assert [row["upstream"] for row in await books.at_rest()] == ["aihubmix"]


async def test_parts_and_their_repeats(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """The first request for the second part fails, and is repeated for as much again."""
    go = asyncio.Event()
    failed: list[Seen] = []

    async def play(request: Seen, writer: asyncio.StreamWriter) -> Any:
        if request.body["input"] == ["two"] and not failed:
            failed.append(request)
            return await replies({"detail": "oops"}, 500)(request, writer)
        return await after(go, vectors(4))(request, writer)

    upstream.plays(play)
    models = {"jina-embeddings-v3": {"max_inputs": 1}}
    async with counted(upstream, tmp_path, callers=BOTH, models=models) as books:
        asking = asyncio.create_task(books.ask(embed(input=["one", "two"])))
        await until(lambda: len(upstream.seen) == 3)
        assert books.held() == 3 * HELD + 1
        go.set()
        assert (await asking).status_code == 200
        [row] = await books.at_rest()
        assert (row["total_tokens"], row["attempts"], row["requests"]) == (8, 3, 1)


async def test_a_later_part_that_begins_at_another_upstream_is_held_for_at_its_price(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first upstream is full when the ninth part begins; the other one is dearer."""
    upstream.plays(replies({"detail": "busy"}, 429, retry_after="60"))
    other_upstream.plays(vectors(19))
    prices = {name: {"jina-embeddings-v3": {"input": price}} for name, price in (("jina", "1"), ("aihubmix", "100"))}
    values = {"models": {"jina-embeddings-v3": {"max_inputs": 1}}, "prices": prices}
    callers = [caller(budgets=[budget(1, "usd")])]
    async with counted(upstream, tmp_path, other_upstream, callers=callers, **values) as books:
        asked = await books.ask(embed(input=["one"] * 20))
        assert (asked.status_code, len(other_upstream.seen)) == (200, 20)
        assert sum(row["cost"] for row in await books.at_rest()) == 20 * 19 * 100_000
    assert "more than" not in caplog.text


@pytest.mark.parametrize("bad", [False, True])
async def test_members_of_a_batch_hold_for_themselves(bad: bool, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """The bill is divided by what was held. A batch that was rejected is asked again in halves, which cost as much."""
    go = asyncio.Event()
    upstream.plays(after(go, vectors(1)), embeds)
    jina = {"base_url": f"{upstream.url}/v1", "api_key": "jina_0123456789", "limits": {"concurrency": 1}}
    texts = ["bad!" if bad else "short", "a much longer text"]
    async with counted(upstream, tmp_path, callers=BOTH, queue_timeout_seconds=10) as books:
        settings = books.gateway.generations.now.settings
        books.gateway.generations.renew(settings.model_validate({**settings.model_dump(), "upstreams": {"jina": jina}}))
        holder = asyncio.create_task(books.ask(key=OTHER))
        await until(lambda: len(upstream.seen) == 1)
        members = [asyncio.create_task(books.ask(embed(text))) for text in texts]
        pool = books.gateway.generations.now.pools["jina"]
        await until(lambda: pool.waiting == 2)
        assert books.held() == sum(len(text) + 16 for text in texts) + 2
        go.set()
        answers = await asyncio.gather(holder, *members)
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        rows = await books.at_rest()
        assert sum(row["requests"] for row in rows) == 3
        assert all(row["total_tokens"] <= 34 for row in rows)
        assert spent(books)["requests"] == 2


# ------------------------------------------------------------------------ waiting


async def test_a_call_waits_for_one_that_settles_for_less(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    go = asyncio.Event()
    upstream.plays(after(go, vectors(2)), vectors(2))
    async with counted(upstream, tmp_path, callers=[caller(budgets=[budget(HELD + 2)])]) as books:
        first = asyncio.create_task(books.ask())
        await until(lambda: len(upstream.seen) == 1)
        second = asyncio.create_task(books.ask(embed("two")))
        await until(lambda: books.gateway.generations.load.calls == 2)
        await asyncio.sleep(0)
        assert len(upstream.seen) == 1
        go.set()
        assert [answer.status_code for answer in await asyncio.gather(first, second)] == [200, 200]
        await books.at_rest()
        assert spent(books) == {"tokens": 4}


async def test_no_more_calls_at_once_than_allowed(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    now, most = [0], [0]

    async def play(request: Seen, writer: asyncio.StreamWriter) -> None:
        now[0] += 1
        most[0] = max(now + most)
        await asyncio.sleep(0.01)
        now[0] -= 1
        await vectors(2)(request, writer)

    upstream.plays(play)
    async with counted(upstream, tmp_path, callers=[caller(limits={"concurrent_calls": 2})]) as books:
        answers = await asyncio.gather(*(books.ask(embed(f"text {n}")) for n in range(8)))
        assert [answer.status_code for answer in answers] == [200] * 8
        await books.at_rest()
    assert most == [2]


async def test_who_waits_too_long_is_refused(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(hang)
    callers = [caller(limits={"concurrent_calls": 1})]
    async with counted(upstream, tmp_path, callers=callers, queue_timeout_seconds=0.05) as books:
        first = asyncio.create_task(books.ask())
        await until(lambda: len(upstream.seen) == 1)
        refused = await books.ask(embed("two"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert refused.headers["retry-after"] == "1"
        await leave(first)
        await books.at_rest()


async def test_who_leaves_while_waiting_holds_nothing(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(hang)
    async with counted(upstream, tmp_path, callers=[caller(limits={"concurrent_calls": 1})]) as books:
        calls = []
        for count in (1, 2):
            calls.append(asyncio.create_task(books.ask(embed(f"text {count}"))))
            await until(lambda: books.gateway.generations.load.calls == count)  # noqa: B023 - called before it changes
        await until(lambda: len(upstream.seen) == 1)
        for call in reversed(calls):
            await leave(call)
        [row] = await books.at_rest()
        assert (row["upstream"], row["status"]) == ("jina", 499)


# ------------------------------------------------------------------------ DeepSearch


async def test_a_run_gets_the_budget_that_is_left(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    go = asyncio.Event()
    upstream.plays(after(go, deepsearch()))
    callers = [caller(budgets=[budget(250_000)])]
    async with counted(upstream, tmp_path, callers=callers, deepsearch_max_budget=100_000) as books:
        running = []
        for count in (1, 2):
            running.append(asyncio.create_task(books.ask(DEEP, CHATS)))
            await until(lambda: len(upstream.seen) == count)  # noqa: B023 - called before it changes
        assert [seen.body["budget_tokens"] for seen in upstream.seen] == [100_000, 25_000]
        assert books.held() == 250_000
        go.set()
        assert [answer.status_code for answer in await asyncio.gather(*running)] == [200, 200]
        assert [row["total_tokens"] for row in await books.at_rest()] == [9, 9]


async def test_a_run_waits_for_another_even_if_its_budget_has_to_be_smaller(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    go = asyncio.Event()
    upstream.plays(after(go, deepsearch(10_000)))
    callers = [caller(budgets=[budget(250_000)], limits={"concurrent_runs": 1})]
    async with counted(upstream, tmp_path, callers=callers, queue_timeout_seconds=10) as books:
        first = asyncio.create_task(books.ask({**DEEP, "budget_tokens": 20_000}, CHATS))
        await until(lambda: len(upstream.seen) == 1)
        second = asyncio.create_task(books.ask(DEEP, CHATS))
        done, _ = await asyncio.wait([second], timeout=0.1)
        assert not done
        go.set()
        assert [answer.status_code for answer in await asyncio.gather(first, second)] == [200, 200]
        assert [seen.body["budget_tokens"] for seen in upstream.seen] == [20_000, 120_000]
        await books.at_rest()


async def test_a_run_for_which_too_little_is_left_is_refused(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(deepsearch(60_001))
    async with counted(upstream, tmp_path, callers=[caller(budgets=[budget(80_000)])]) as books:
        answers = [await books.ask({**DEEP, "reasoning_effort": "low"}, CHATS) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        assert [seen.body["budget_tokens"] for seen in upstream.seen] == [40_000]
        small = await books.ask({**DEEP, "budget_tokens": 9_999}, CHATS)
        assert (small.status_code, small.json()["error"]["param"]) == (400, "budget_tokens")
        await books.at_rest()


async def test_a_run_goes_on_without_its_caller_and_counts_until_its_end(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    go = asyncio.Event()
    upstream.plays(streams(sse(thought("Well")), go, sse(answer("because"))))
    callers = [caller(budgets=[budget(10_000_000)], limits={"concurrent_runs": 1})]
    async with counted(upstream, tmp_path, callers=callers, queue_timeout_seconds=0.05) as books:
        first = asyncio.create_task(books.ask({**DEEP, "stream": True}, CHATS))
        await until(lambda: len(upstream.seen) == 1)
        await leave(first)
        assert (await books.ask(DEEP, CHATS)).status_code == 429
        assert books.held() == 1_000_000 + 1
        go.set()
        [row] = await books.at_rest()
        assert (row["status"], row["total_tokens"], row["estimated"]) == (499, 9, 1)


async def test_a_run_whose_end_is_not_seen_costs_what_was_held(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(streams(sse(thought("Well")), end="cut"))
    async with counted(upstream, tmp_path, callers=[caller(budgets=[budget(10_000_000)])]) as books:
        assert (await books.ask({**DEEP, "budget_tokens": 20_000, "stream": True}, CHATS)).status_code == 200
        [row] = await books.at_rest()
        assert (row["total_tokens"], row["estimated"]) == (40_000, 1)


async def test_a_request_that_was_not_sent_is_not_charged_for_a_run_whose_end_is_not_seen(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """What was held for the first request pays for the second, and then for the third, at the first upstream again."""
    body = {**DEEP, "budget_tokens": 20_000}
    async with counted(upstream, tmp_path, other_upstream, callers=[caller(budgets=[budget(45_000)])]) as books:
        now = books.gateway.generations.now
        scope = Scope("key:ann", "ann", budgets=(Budget("tokens", 45_000, "day"),))
        with now.handlers.admission.admit(Caller("ann", "ann", scopes=(scope,)), "a") as admitted:
            call = parse(ENDPOINTS["chat"](), RequestContext(CHATS, msgspec.json.encode(body), "a"))
            record = admitted.begin(call)
            jina, aihubmix = now.gateway.routes.of(call).targets
            admitted.reserve(b"", now.gateway.routes.of(call))
            await admitted.hold(call, jina)
            account = admitted.account
            assert account is not None
            for target, unused in ((aihubmix, jina), (jina, aihubmix)):
                assert await account.extend(record, record.call, target, unused)
            assert (account.bound("jina"), account.bound("aihubmix")) == ((40_000, None), (0, None))
            record.end(503)
        await books.at_rest()


async def test_more_than_was_held_is_booked_and_counted(
    upstream: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.plays(deepsearch(50_000))
    async with counted(upstream, tmp_path, callers=[caller(budgets=[budget(45_000)])]) as books:
        body = {**DEEP, "budget_tokens": 20_000}
        assert [(await books.ask(body, CHATS)).status_code for _ in range(2)] == [200, 429]
        [row] = await books.at_rest()
        assert row["total_tokens"] == 50_000
    assert "a call was billed 50000 tokens, more than the 40000 tokens that were held for it" in caplog.text


# ------------------------------------------------------------------------ the store


@pytest.mark.parametrize("policy", ["closed", "open"])
async def test_while_the_store_is_away(policy: str, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """Callers with budgets are refused, unless the operator says otherwise; limits hold for this process's share, and
    callers without limits notice nothing. All is booked later."""
    upstream.plays(vectors(1))
    callers = [*BOTH, caller("cleo", "a-key-of-cleo-0123456789", limits={"requests_per_minute": 3})]
    async with counted(upstream, tmp_path, callers=callers, budgets_without_store=policy) as books:
        await books.ask(key=OTHER)
        assert (await books.ask(key="a-key-of-cleo-0123456789")).status_code == 200
        await books.at_rest()
        with closing(sqlite3.connect(books.path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            refused = await books.ask()
            if policy == "closed":
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "storage_unavailable")
                assert refused.headers["retry-after"] == "1"
            else:
                assert refused.status_code == 200
            assert (await books.ask(key=OTHER)).status_code == 200
            limited = [await books.ask(key="a-key-of-cleo-0123456789") for _ in range(3)]
            assert [answer.status_code for answer in limited] == [200, 200, 429]
            assert limited[1].headers["x-ratelimit-remaining-requests"] == "0"
            other.execute("COMMIT")
        await until(lambda: len(books.rows()) == 5 + (policy == "open"))
        await until(lambda: not books.holds())


async def test_other_chats_are_bounded_by_their_max_tokens(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """A caller who leaves mid-stream pays for what was seen, and nothing stays held."""
    go = asyncio.Event()
    other_upstream.plays(streams(sse(delta("hello")), go, end="cut"))
    body = {"model": "aihubmix/gpt-4o-mini", "messages": [{"role": "user", "content": "x" * 40}], "max_tokens": 100}
    async with counted(upstream, tmp_path, other_upstream, callers=BOTH) as books:
        async with books.gateway.client.stream(
            "POST", CHATS, json={**body, "stream": True}, headers={"authorization": f"Bearer {KEY}"}
        ) as answer:
            assert answer.headers["x-torii-upstream"] == "aihubmix"
            await anext(answer.aiter_bytes())
            assert 100 < books.held() < 400
        [row] = await books.at_rest()
        assert (row["status"], row["estimated"]) == (499, 1)
        assert 0 < row["total_tokens"] < 100
