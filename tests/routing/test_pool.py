"""Keys of an upstream: choice for the next call, cooldowns, waiting."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config.sections import KeyLimits
from app.config.settings import Settings
from app.core.errors import UpstreamAuth, UpstreamFailed, UpstreamQuota, UpstreamRateLimited, UpstreamRejected
from app.core.types import Key
from app.routing.breaker import BREAK_AFTER, Breaker
from app.routing.lease import Lease
from app.routing.limits import KEPT, Cost, RateLimits, SlidingWindow
from app.routing.pool import Pool

from ..conftest import (
    PATIENCE,
    ScriptedUpstream,
    replies,
    running_gateway,
    scripted_upstream,
    settings_for,
    streams,
    until,
)

VECTORS = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"total_tokens": 1}}
EMBED = {"model": "jina-embeddings-v3", "input": ["hi"]}
RANKED = {"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 1}}
RANK = {"model": "jina-reranker-v2-base-multilingual", "query": "q", "documents": ["a"]}
A, B = Key("secret-of-a", "a"), Key("secret-of-b", "b")


def pool(a: RateLimits | None = None, b: RateLimits | None = None, *, queue_timeout: float = 0.05) -> Pool:
    return Pool("jina", [(A, a or RateLimits()), (B, b or RateLimits())], queue_timeout=queue_timeout)


async def taken(pool: Pool, count: int, cost: Cost | None = None) -> list[Lease]:
    return [await pool.lease(cost or Cost()) for _ in range(count)]


def names(leases: list[Lease]) -> str:
    return "".join(lease.key.alias for lease in leases)


def lease_of(pool: Pool, key: Key) -> Lease:
    """A lease made just now, as if an answer had just come."""
    return Lease(pool, next(state for state in pool.states if state.key is key), time.monotonic())


async def test_the_least_loaded_key_takes_the_next_call() -> None:
    leases = await taken(keys := pool(), 4)
    assert names(leases) == "abab"
    leases[1].release()
    leases[3].release()
    leases[3].release()
    assert names(await taken(keys, 2)) == "bb"


async def test_weights_share_the_load() -> None:
    assert sorted(names(await taken(pool(b=RateLimits(weight=3)), 8))) == list("aabbbbbb")


async def test_a_weight_that_has_changed_counts_at_once() -> None:
    await taken(before := pool(), 4)
    now = pool(b=RateLimits(weight=4))
    now.take_over(before)
    assert names(await taken(now, 3)) == "bbb"


async def test_a_key_at_its_limit_does_not_hide_another() -> None:
    keys = pool(a=RateLimits(concurrency=1), b=RateLimits(weight=0.1))
    assert names(await taken(keys, 4)) == "abbb"


async def test_a_limited_key_rests_until_the_stated_time() -> None:
    keys = pool()
    keys.failed(lease_of(keys, A), UpstreamRateLimited("slow", retry_after=60))
    assert names(await taken(keys, 3)) == "bbb"


@pytest.mark.parametrize("failure", [UpstreamAuth("no"), UpstreamQuota("empty")])
async def test_a_refused_key_rests_and_is_named_in_the_log(failure: Any, caplog: pytest.LogCaptureFixture) -> None:
    keys = pool()
    keys.failed(lease_of(keys, A), failure)
    assert names(await taken(keys, 3)) == "bbb"
    assert "key a is in cooldown" in caplog.text
    assert "secret" not in caplog.text


async def test_a_limited_key_is_never_used_before_its_time() -> None:
    """Nor is a refused key beside it used, as long as the limited one will recover by itself."""
    keys = pool()
    keys.failed(lease_of(keys, A), UpstreamAuth("no"))
    keys.failed(lease_of(keys, B), UpstreamRateLimited("slow", retry_after=30))
    with pytest.raises(UpstreamRateLimited, match="rate limited by jina; retry after 30 s") as caught:
        await keys.lease(Cost())
    assert caught.value.retry_after == pytest.approx(30, abs=1)
    assert not caught.value.asked
    assert not keys.ready


@pytest.mark.parametrize("works", [False, True])
async def test_of_shut_keys_one_is_tried_by_one_call_at_a_time(works: bool) -> None:
    """The other calls wait for the outcome of that call, and share it."""
    keys = pool(queue_timeout=PATIENCE)
    for key in (A, B):
        keys.failed(lease_of(keys, key), UpstreamQuota("empty"))
    [first] = await taken(keys, 1)
    waiting = [asyncio.create_task(keys.lease(Cost())) for _ in range(3)]
    await until(lambda: keys.waiting == 3)
    if works:
        keys.succeeded(first)
        assert names([await each for each in waiting]) == first.key.alias * 3
        return
    keys.failed(first, UpstreamQuota("empty"))
    first.release()
    for each in waiting:
        with pytest.raises(UpstreamQuota, match="the gateway's account at jina has no balance left"):
            await each
    assert len(await taken(keys, 1)) == 1


async def test_after_a_429_one_call_tries_the_key_and_the_others_follow_it() -> None:
    keys = Pool("jina", [(A, RateLimits())], queue_timeout=PATIENCE)
    keys.failed(lease_of(keys, A), UpstreamRateLimited("slow", retry_after=0.01))
    waiting = [asyncio.create_task(keys.lease(Cost())) for _ in range(3)]
    await until(lambda: any(each.done() for each in waiting))
    assert [each.done() for each in waiting] == [True, False, False]
    keys.succeeded(await waiting[0])
    assert names([await each for each in waiting]) == "aaa"


async def test_a_key_that_met_a_429_since_it_was_leased_is_not_used() -> None:
    keys = pool()
    early, late = await taken(keys, 1), lease_of(keys, A)
    keys.failed(late, UpstreamRateLimited("slow", retry_after=30))
    with pytest.raises(UpstreamRateLimited) as caught:
        early[0].check()
    assert (caught.value.asked, caught.value.upstream) == (False, "jina")


async def test_a_key_that_was_tried_is_passed_over_unless_there_is_no_other() -> None:
    keys = pool()
    assert (await keys.lease(Cost(), {"a"})).key is B
    assert (await keys.lease(Cost(), {"a", "b"})).key in (A, B)
    assert keys.others({"a"})
    assert not keys.others({"a", "b"})


async def test_concurrency_is_kept_and_callers_stand_in_line() -> None:
    keys = Pool("jina", [(A, RateLimits(concurrency=1))], queue_timeout=PATIENCE)
    [first] = await taken(keys, 1)
    order: list[int] = []

    async def call(number: int) -> None:
        lease = await keys.lease(Cost())
        order.append(number)
        lease.release()

    calls = [asyncio.create_task(call(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert order == []
    first.release()
    await asyncio.gather(*calls)
    assert order == [0, 1, 2, 3, 4]


async def test_a_call_waits_no_longer_than_its_queue_timeout() -> None:
    keys = pool(RateLimits(concurrency=1), RateLimits(concurrency=1))
    await taken(keys, 2)
    with pytest.raises(UpstreamRateLimited) as caught:
        await keys.lease(Cost())
    assert caught.value.message == "every key of jina is at its limit in this gateway"
    assert caught.value.retry_after is not None


async def test_what_will_not_be_free_in_time_is_refused_at_once() -> None:
    keys = Pool("jina", [(A, RateLimits(requests=2))], queue_timeout=50)
    await taken(keys, 2)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(UpstreamRateLimited) as caught:
            await keys.lease(Cost())
    assert caught.value.retry_after is not None
    assert 50 < caught.value.retry_after <= KEPT


@pytest.mark.parametrize(
    ("limits", "cost"),
    [
        (RateLimits(requests=2), Cost()),
        (RateLimits(tokens=100), Cost(tokens=50)),
        (RateLimits(deepsearch=2), Cost(deepsearch=True, tokens=10**6)),
    ],
)
async def test_each_limit_counts_its_own(limits: RateLimits, cost: Cost) -> None:
    keys = Pool("jina", [(A, limits)], queue_timeout=0.01)
    await taken(keys, 2, cost)
    with pytest.raises(UpstreamRateLimited):
        await keys.lease(cost)


async def test_deepsearch_and_embeddings_have_limits_of_their_own() -> None:
    keys = Pool("jina", [(A, RateLimits(tokens=10, deepsearch=1))], queue_timeout=0.01)
    await keys.lease(Cost(tokens=10**6, deepsearch=True))
    await keys.lease(Cost(tokens=10))


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 12)), max_size=60), st.integers(1, 20))
def test_no_minute_holds_more_than_the_limit(calls: list[tuple[float, int]], limit: int) -> None:
    """Each amount waits as long as the window says. An amount above the limit passes alone."""
    window, now = SlidingWindow(limit), 0.0
    spent: list[tuple[float, int]] = []
    for gap, amount in calls:
        now += gap
        while (wait := window.wait(now, amount)) > 0:
            now += wait
        window.add(now, amount)
        spent.append((now, amount))
        recent = [was for when, was in spent if when > now - 60]
        assert sum(recent) <= limit or len(recent) == 1


def test_a_moment_of_a_window_ends_with_its_last_call() -> None:
    window = SlidingWindow(2)
    window.add(0.0, 1)
    window.add(0.05, 1)
    assert window.wait(KEPT + 0.01, 2) == pytest.approx(0.04)
    assert (window.used(KEPT + 0.04), window.used(KEPT + 0.06)) == (2, 0)


async def test_weights_share_calls_that_come_one_by_one_too() -> None:
    keys = pool(b=RateLimits(weight=3))
    order = ""
    for _ in range(8):
        [lease] = await taken(keys, 1)
        order += lease.key.alias
        lease.release()
    assert sorted(order) == list("aabbbbbb")


async def test_a_key_that_comes_back_does_not_get_all_that_it_missed() -> None:
    keys = pool()
    keys.failed(lease_of(keys, A), UpstreamRateLimited("slow", retry_after=0.01))
    for _ in range(10):
        (await keys.lease(Cost())).release()
    await until(lambda: keys.others({"b"}))
    order = ""
    for _ in range(6):
        [lease] = await taken(keys, 1)
        order += lease.key.alias
        lease.release()
    assert sorted(order[1:]) in (list("aaabb"), list("aabbb"))


# The queue.


async def busy(keys: Pool) -> tuple[Lease, list[asyncio.Task[Lease]]]:
    """The lease of the only key, and two waiting calls."""
    [first] = await taken(keys, 1)
    waiting = [asyncio.create_task(keys.lease(Cost())) for _ in range(2)]
    await asyncio.sleep(0)
    return first, waiting


async def test_nobody_is_overtaken_by_who_comes_at_the_moment_of_release() -> None:
    keys = Pool("jina", [(A, RateLimits(concurrency=1))], queue_timeout=PATIENCE)
    first, (second, third) = await busy(keys)
    first.release()
    last = asyncio.create_task(keys.lease(Cost()))
    (await second).release()
    assert not last.done()
    (await third).release()
    assert (await last).key is A


async def test_who_leaves_the_line_holds_up_nobody() -> None:
    keys = Pool("jina", [(A, RateLimits(concurrency=1))], queue_timeout=PATIENCE)
    first, (second, third) = await busy(keys)
    second.cancel()
    first.release()
    assert (await third).key is A
    assert second.cancelled()


async def test_a_key_given_to_who_is_just_leaving_goes_to_the_next() -> None:
    keys = Pool("jina", [(A, RateLimits(concurrency=1))], queue_timeout=PATIENCE)
    first, (second, third) = await busy(keys)
    first.release()
    second.cancel()
    assert (await third).key is A
    assert second.cancelled()
    assert keys.states[0].at_work == 1


async def test_a_full_minute_of_deepsearch_does_not_hold_up_embeddings() -> None:
    keys = Pool("jina", [(A, RateLimits(deepsearch=1))], queue_timeout=100)
    await keys.lease(Cost(deepsearch=True))
    waiting = asyncio.create_task(keys.lease(Cost(deepsearch=True)))
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        assert (await keys.lease(Cost())).key is A
    assert not waiting.done()
    waiting.cancel()


async def test_a_small_call_does_not_overtake_a_large_one_and_follows_when_that_leaves() -> None:
    keys = Pool("jina", [(A, RateLimits(tokens=100))], queue_timeout=100)
    await keys.lease(Cost(tokens=60))
    large = asyncio.create_task(keys.lease(Cost(tokens=50)))
    await asyncio.sleep(0)
    small = asyncio.create_task(keys.lease(Cost(tokens=10)))
    await asyncio.sleep(0)
    assert (keys.waiting, small.done()) == (2, False)
    large.cancel()
    async with asyncio.timeout(PATIENCE):
        assert (await small).key is A


async def test_the_end_of_a_call_is_waited_for_though_another_key_is_at_its_minutes_limit() -> None:
    keys = pool(RateLimits(concurrency=1), RateLimits(requests=1), queue_timeout=PATIENCE)
    first, _ = await taken(keys, 2)
    waiting = asyncio.create_task(keys.lease(Cost()))
    await asyncio.sleep(0)
    first.release()
    assert (await waiting).key is A


async def test_a_call_that_cannot_have_every_key_holds_up_nobody() -> None:
    """The call has failed with one key and waits for the other, for the end of a call or of a minute."""
    for limit in (RateLimits(concurrency=1), RateLimits(requests=1)):
        keys = pool(RateLimits(concurrency=1), limit, queue_timeout=100)
        first, _ = await taken(keys, 2)
        elsewhere = asyncio.create_task(keys.lease(Cost(), {"a"}))
        anywhere = asyncio.create_task(keys.lease(Cost()))
        await asyncio.sleep(0)
        first.release()
        async with asyncio.timeout(PATIENCE):
            assert (await anywhere).key is A
        assert not elsewhere.done()
        elsewhere.cancel()


async def test_the_queue_timeout_counts_from_when_the_call_came() -> None:
    """So that all waits of a call together are bounded, whatever the number of keys and upstreams."""
    keys = Pool("jina", [(A, RateLimits(concurrency=1))], queue_timeout=60)
    await taken(keys, 1)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(UpstreamRateLimited):
            await keys.lease(Cost(since=time.monotonic() - 60))


async def test_the_last_keys_rest_is_waited_for_where_it_is_short() -> None:
    keys = Pool("jina", [(A, RateLimits())], queue_timeout=PATIENCE)
    keys.failed(lease_of(keys, A), UpstreamRateLimited("slow", retry_after=0.05))
    until_then = keys.states[0].cooldown_until
    lease = await keys.lease(Cost())
    assert lease.taken >= until_then


# Refused or empty keys without a possible probe.


@pytest.mark.parametrize("failure", [UpstreamAuth("no"), UpstreamQuota("empty")])
async def test_after_its_rest_one_call_is_let_through(failure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.routing.pool.COOLDOWN_SECONDS", 0.02)
    keys = pool()
    keys.failed(lease_of(keys, A), failure)
    await until(lambda: keys.state()[0]["state"] == "trial")
    monkeypatch.setattr("app.routing.pool.COOLDOWN_SECONDS", 60)
    first, *others = await taken(keys, 4)
    assert names([first, *others]) == "abbb"
    keys.failed(first, failure)
    assert names(await taken(keys, 2)) == "bb"
    keys.succeeded(first)
    assert keys.state()[0]["state"] == "healthy"


async def test_an_answer_to_an_earlier_call_does_not_wake_a_key() -> None:
    keys = pool()
    early = lease_of(keys, A)
    keys.failed(lease_of(keys, A), UpstreamQuota("empty"))
    keys.succeeded(early)
    assert names(await taken(keys, 2)) == "bb"
    keys.succeeded(lease_of(keys, A))
    assert keys.state()[0]["state"] == "healthy"


async def test_a_429_shortens_no_rest() -> None:
    keys = pool()
    keys.failed(lease_of(keys, A), UpstreamQuota("empty"))
    keys.failed(lease_of(keys, A), UpstreamRateLimited("slow", retry_after=0.001))
    keys.failed(lease_of(keys, A), UpstreamRateLimited("slow", retry_after=3600))
    keys.failed(lease_of(keys, B), UpstreamRateLimited("slow", retry_after=60))
    keys.failed(lease_of(keys, B), UpstreamRateLimited("slow", retry_after=1))
    assert [row["cause"] for row in keys.state()] == ["account empty", "rate limited"]
    assert keys.states[1].cooldown_until > time.monotonic() + 30


# The breaker.


async def test_five_failures_in_a_row_break_and_an_answer_mends() -> None:
    breaker = Breaker("jina")
    for _ in range(BREAK_AFTER - 1):
        breaker.failed()
    breaker.succeeded()
    breaker.failed()
    assert not breaker.last
    for _ in range(BREAK_AFTER):
        breaker.failed()
    assert breaker.last
    breaker.succeeded()
    assert not breaker.last


def test_after_a_while_one_call_tries_and_the_others_go_on_passing_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.routing.breaker.BREAK_SECONDS", 0)
    breaker = Breaker("jina")
    for _ in range(BREAK_AFTER):
        breaker.failed()
    assert (breaker.open, breaker.last) == (True, False)
    monkeypatch.setattr("app.routing.breaker.BREAK_SECONDS", 60)
    breaker.called(time.monotonic())
    assert breaker.last
    monkeypatch.setattr("app.routing.breaker.BREAK_SECONDS", 0)
    breaker.failed()
    assert (breaker.open, breaker.last) == (True, False)


async def test_the_callers_mistakes_break_nothing_and_mend() -> None:
    keys = pool()
    for _ in range(BREAK_AFTER):
        keys.failed(lease_of(keys, A), UpstreamFailed("x"))
    assert keys.breaker.last
    keys.failed(lease_of(keys, A), UpstreamRejected("yours"))
    assert not keys.breaker.last
    assert keys.state()[0]["failures"] == BREAK_AFTER


# Through the gateway.


def two_keys(upstream: ScriptedUpstream, **limits: Any) -> Any:
    settings = settings_for(upstream.url)
    keys = [{"key": "first-key-of-jina-0001", "name": "one"}, {"key": "second-key-of-jina-0002", "name": "two"}]
    jina = {**settings.upstreams["jina"].model_dump(exclude={"api_key"}), "api_keys": keys, "limits": limits}
    return Settings.model_validate({"upstreams": {"jina": jina}, "cache": {"store": "off"}})


def used(upstream: ScriptedUpstream) -> list[str]:
    return [seen.headers["authorization"][-4:] for seen in upstream.seen]


@pytest.mark.parametrize(
    ("status", "body"),
    [(401, {"detail": "no"}), (403, {"detail": "x", "code": "AUTHZ_INSUFFICIENT_BALANCE"}), (429, {"detail": "slow"})],
)
async def test_one_sick_key_is_not_seen_by_callers(upstream: ScriptedUpstream, status: int, body: Any) -> None:
    upstream.plays(replies(body, status), replies(VECTORS))
    async with running_gateway(two_keys(upstream)) as gateway:
        answers = [await gateway.post("/v1/embeddings", EMBED) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert used(upstream) == ["0001", "0002", "0002", "0002"]


async def test_a_pure_call_is_made_once_more(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(b"<html>", 502), replies(VECTORS))
    async with running_gateway(settings_for(upstream.url)) as gateway:
        assert (await gateway.post("/v1/embeddings", EMBED)).status_code == 200
    assert len(upstream.seen) == 2


async def test_attempts_are_bounded(upstream: ScriptedUpstream, other_upstream: ScriptedUpstream) -> None:
    for each in (upstream, other_upstream):
        each.plays(replies(b"<html>", 500))
    async with running_gateway(settings_for(upstream.url, other_upstream.url)) as gateway:
        assert (await gateway.post("/v1/embeddings", EMBED)).status_code == 502
    assert len(upstream.seen) + len(other_upstream.seen) == 3


async def test_no_storm_while_everything_fails() -> None:
    async with scripted_upstream() as upstream:
        upstream.plays(replies({"detail": "busy"}, 503))
        async with running_gateway(settings_for(upstream.url)) as gateway:
            answers = await asyncio.gather(*(gateway.post("/v1/embeddings", EMBED) for _ in range(30)))
        assert {answer.status_code for answer in answers} == {503}
        assert len(upstream.seen) <= 60


async def test_a_stream_holds_its_key_until_it_ends(upstream: ScriptedUpstream) -> None:
    more = asyncio.Event()
    first = b'data: {"choices":[{"delta":{"type":"think","content":"<think>"}}]}\n\n'
    last = b'data: {"choices":[{"delta":{"content":"a","type":"text"},"finish_reason":"stop"}],"usage":{}}\n\n'
    upstream.plays(streams(first, more, last), streams(first, last))
    ask = {"model": "jina-deepsearch-v1", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    async with running_gateway(two_keys(upstream, concurrency=1)) as gateway:
        async with gateway.client.stream("POST", "/v1/chat/completions", json=ask) as response:
            await anext(response.aiter_bytes())
            assert (await gateway.post("/v1/chat/completions", ask)).status_code == 200
            more.set()
    assert used(upstream) == ["0001", "0002"]


async def test_concurrency_is_kept_over_sockets(upstream: ScriptedUpstream) -> None:
    now, most = 0, 0

    async def play(request: Any, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await until(lambda: most >= 4)
        await asyncio.sleep(0.01)
        now -= 1
        await replies(RANKED)(request, writer)

    upstream.plays(play)
    async with running_gateway(two_keys(upstream, concurrency=2)) as gateway:
        answers = await asyncio.gather(*(gateway.post("/v1/rerank", RANK) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert most == 4


async def test_a_429_that_is_soon_over_is_waited_for(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies({"detail": "slow"}, 429, retry_after="0.1"), replies(VECTORS))
    async with running_gateway(settings_for(upstream.url)) as gateway:
        assert (await gateway.post("/v1/embeddings", EMBED)).status_code == 200
    assert len(upstream.seen) == 2


async def test_who_leaves_the_line_is_asked_for_nowhere(upstream: ScriptedUpstream) -> None:
    more = asyncio.Event()

    async def slow(request: Any, writer: asyncio.StreamWriter) -> None:
        await more.wait()
        await replies(VECTORS)(request, writer)

    upstream.plays(slow, replies(VECTORS))
    settings = settings_for(upstream.url)
    jina = settings.upstreams["jina"].model_copy(update={"limits": KeyLimits(concurrency=1)})
    async with running_gateway(settings.model_copy(update={"upstreams": {"jina": jina}})) as gateway:
        first = asyncio.create_task(gateway.post("/v1/embeddings", EMBED))
        await until(lambda: len(upstream.seen) == 1)
        gone = asyncio.create_task(gateway.post("/v1/embeddings", EMBED))
        pool = gateway.generations.now.pools["jina"]
        await until(lambda: pool.waiting == 1)
        gone.cancel()
        await gateway.ended(1)
        more.set()
        assert (await first).status_code == 200
        assert (await gateway.post("/v1/embeddings", EMBED)).status_code == 200
    assert [record.status for record in gateway.records] == [499, 200, 200]
    assert len(upstream.seen) == 2


CHATTED = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}


async def test_nothing_is_asked_again_after_the_first_byte(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    upstream.plays(streams(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', end="cut"))
    models = {"m": {"targets": ["jina/m", "aihubmix/m"], "endpoints": ["chat"]}}
    async with running_gateway(settings_for(upstream.url, other_upstream.url, models=models)) as gateway:
        answer = await gateway.post("/v1/chat/completions", CHATTED)
    assert answer.status_code == 200
    assert "upstream_" in answer.text
    assert (len(upstream.seen), len(other_upstream.seen)) == (1, 0)


@pytest.mark.parametrize("end", [streams(end="cut"), streams(), replies(b"<html>", 524), replies({"error": "x"}, 500)])
async def test_deepsearch_that_may_have_begun_is_not_begun_again(
    end: Any, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    upstream.plays(end)
    ask = {**CHATTED, "model": "jina-deepsearch-v1"}
    async with running_gateway(settings_for(upstream.url, other_upstream.url)) as gateway:
        for stream in (True, False):
            answer = await gateway.post("/v1/chat/completions", {**ask, "stream": stream})
            assert answer.status_code in (502, 504)
            assert answer.headers["x-should-retry"] == "false"
    assert (len(upstream.seen), len(other_upstream.seen)) == (2, 0)


async def test_one_deadline_bounds_all_attempts(upstream: ScriptedUpstream, other_upstream: ScriptedUpstream) -> None:
    never = asyncio.Event()

    async def hang(request: Any, writer: asyncio.StreamWriter) -> None:
        await never.wait()

    upstream.plays(hang)
    other_upstream.plays(hang)
    timeouts = {"headers_seconds": 20, "total_seconds": 1}
    async with running_gateway(settings_for(upstream.url, other_upstream.url, timeouts=timeouts)) as gateway:
        async with asyncio.timeout(PATIENCE):
            answer = await gateway.post("/v1/embeddings", EMBED)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    assert (len(upstream.seen), len(other_upstream.seen)) == (1, 0)


async def test_the_deadline_bounds_the_wait_for_a_key_too(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies({"detail": "slow"}, 429, retry_after="20"))
    given = settings_for(upstream.url, queue_timeout_seconds=30, timeouts={"total_seconds": 1})
    async with running_gateway(given) as gateway, asyncio.timeout(PATIENCE):
        assert (await gateway.post("/v1/embeddings", EMBED)).status_code == 504
    assert len(upstream.seen) == 1


async def test_a_broken_upstream_is_asked_last_until_one_call_is_answered(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.plays(replies(b"<html>", 500))
    other_upstream.plays(replies(VECTORS))
    async with running_gateway(settings_for(upstream.url, other_upstream.url)) as gateway:
        for _ in range(BREAK_AFTER + 2):
            assert (await gateway.post("/v1/embeddings", EMBED)).status_code == 200
        assert len(upstream.seen) == BREAK_AFTER
    monkeypatch.setattr("app.routing.breaker.BREAK_SECONDS", 0.05)
    async with running_gateway(settings_for(upstream.url, other_upstream.url)) as gateway:
        for _ in range(BREAK_AFTER):
            await gateway.post("/v1/embeddings", EMBED)
        upstream.plays(replies(VECTORS))
        asked = len(upstream.seen)
        while len(upstream.seen) == asked:
            assert (await gateway.post("/v1/embeddings", EMBED)).status_code == 200
        asked = len(other_upstream.seen)
        assert (await gateway.post("/v1/embeddings", EMBED)).headers["x-torii-upstream"] == "jina"
        assert len(other_upstream.seen) == asked


async def test_where_all_are_broken_all_are_asked_in_their_order(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    for each in (upstream, other_upstream):
        each.plays(replies(b"<html>", 500))
    async with running_gateway(settings_for(upstream.url, other_upstream.url)) as gateway:
        for _ in range(2 * BREAK_AFTER):
            await gateway.post("/v1/embeddings", EMBED)
        before = len(upstream.seen), len(other_upstream.seen)
        assert (await gateway.post("/v1/embeddings", EMBED)).headers["x-torii-upstream"] == "jina"
        assert (len(upstream.seen) - before[0], len(other_upstream.seen) - before[1]) == (2, 1)
        upstream.plays(replies(VECTORS))
        assert (await gateway.post("/v1/embeddings", EMBED)).headers["x-torii-upstream"] == "jina"


async def test_a_call_in_line_goes_elsewhere_as_soon_as_no_key_is_ready() -> None:
    """The call does not wait for the end of a cooldown or for its queue timeout while another upstream could answer."""
    keys = Pool("jina", [(A, RateLimits(concurrency=1))], queue_timeout=60)
    [first] = await taken(keys, 1)
    ways: list[Any] = [lambda: True, lambda: False]
    waiting = [asyncio.create_task(keys.lease(Cost(), elsewhere=way)) for way in ways]
    await until(lambda: keys.waiting == 2)
    keys.failed(first, UpstreamRateLimited("slow", retry_after=0.05))
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(UpstreamRateLimited, match="rate limited by jina") as caught:
            await waiting[0]
        assert not caught.value.asked
        first.release()
        assert (await waiting[1]).key is A


async def test_a_call_in_line_goes_elsewhere_as_soon_as_its_upstream_keeps_failing() -> None:
    keys = Pool("jina", [(A, RateLimits(concurrency=1))], queue_timeout=60)
    [first] = await taken(keys, 1)
    waiting = asyncio.create_task(keys.lease(Cost(), elsewhere=lambda: True))
    await until(lambda: keys.waiting == 1)
    for _ in range(BREAK_AFTER):
        keys.failed(first, UpstreamFailed("no"))
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(UpstreamFailed, match="jina keeps failing") as caught:
            await waiting
    assert (caught.value.status, caught.value.asked) == (503, False)
