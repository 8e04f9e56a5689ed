"""Keys of an upstream: who takes the next call, who rests, what is waited for."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.breaker import BREAK_AFTER
from app.errors import UpstreamAuth, UpstreamFailed, UpstreamQuota, UpstreamRateLimited
from app.pool import Lease, Pool
from app.quota import Need, Quota, Window
from app.settings import Settings
from app.types import Key

from .conftest import ScriptedUpstream, replies, running_gateway, scripted_upstream, settings_for, streams

VECTORS = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"total_tokens": 1}}
EMBED = {"model": "jina-embeddings-v3", "input": ["hi"]}
A, B = Key("secret-of-a", "a"), Key("secret-of-b", "b")


def pool(a: Quota | None = None, b: Quota | None = None, *, patience: float = 0.05) -> Pool:
    return Pool("jina", [(A, a or Quota()), (B, b or Quota())], patience=patience)


async def taken(pool: Pool, count: int, need: Need | None = None) -> list[Lease]:
    return [await pool.lease(need or Need()) for _ in range(count)]


def names(leases: list[Lease]) -> str:
    return "".join(lease.key.alias for lease in leases)


def lease_of(pool: Pool, key: Key) -> Lease:
    """A lease that was made just now, as an answer finds it."""
    return Lease(pool, next(seat for seat in pool.seats if seat.key is key), time.monotonic())


async def test_the_least_loaded_key_takes_the_next_call() -> None:
    leases = await taken(keys := pool(), 4)
    assert names(leases) == "abab"
    leases[1].release()
    leases[3].release()
    leases[3].release()
    assert names(await taken(keys, 2)) == "bb"


async def test_weights_share_the_load() -> None:
    assert sorted(names(await taken(pool(b=Quota(weight=3)), 8))) == list("aabbbbbb")


async def test_a_limited_key_rests_until_the_stated_time() -> None:
    keys = pool()
    keys.failed(lease_of(keys, A), UpstreamRateLimited("slow", retry_after=60))
    assert names(await taken(keys, 3)) == "bbb"


@pytest.mark.parametrize("failure", [UpstreamAuth("no"), UpstreamQuota("empty")])
async def test_a_refused_key_rests_and_is_named_in_the_log(failure: Any, caplog: pytest.LogCaptureFixture) -> None:
    keys = pool()
    keys.failed(lease_of(keys, A), failure)
    assert names(await taken(keys, 3)) == "bbb"
    assert "key a rests" in caplog.text
    assert "secret" not in caplog.text


async def test_the_last_key_is_never_locked_out() -> None:
    keys = pool()
    keys.failed(lease_of(keys, A), UpstreamAuth("no"))
    keys.failed(lease_of(keys, B), UpstreamRateLimited("slow", retry_after=30))
    assert names(await taken(keys, 2)) == "bb"


async def test_a_key_that_was_tried_is_passed_over_unless_there_is_no_other() -> None:
    keys = pool()
    assert (await keys.lease(Need(), {"a"})).key is B
    assert (await keys.lease(Need(), {"a", "b"})).key in (A, B)
    assert keys.others({"a"})
    assert not keys.others({"a", "b"})


async def test_concurrency_is_kept_and_callers_stand_in_line() -> None:
    keys = Pool("jina", [(A, Quota(concurrency=1))], patience=5)
    [first] = await taken(keys, 1)
    order: list[int] = []

    async def call(number: int) -> None:
        lease = await keys.lease(Need())
        order.append(number)
        lease.release()

    calls = [asyncio.create_task(call(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert order == []
    first.release()
    await asyncio.gather(*calls)
    assert order == [0, 1, 2, 3, 4]


async def test_a_call_waits_no_longer_than_its_patience() -> None:
    keys = pool(Quota(concurrency=1), Quota(concurrency=1))
    await taken(keys, 2)
    with pytest.raises(UpstreamRateLimited) as caught:
        await keys.lease(Need())
    assert caught.value.message == "every key of jina is at the limit that this gateway keeps for it"
    assert caught.value.retry_after is not None


async def test_what_will_not_be_free_in_time_is_refused_at_once() -> None:
    keys = Pool("jina", [(A, Quota(requests=2))], patience=5)
    await taken(keys, 2)
    async with asyncio.timeout(1):
        with pytest.raises(UpstreamRateLimited) as caught:
            await keys.lease(Need())
    assert caught.value.retry_after is not None
    assert 50 < caught.value.retry_after <= 60


@pytest.mark.parametrize(
    ("quota", "need"),
    [
        (Quota(requests=2), Need()),
        (Quota(tokens=100), Need(tokens=50)),
        (Quota(deepsearch=2), Need(deepsearch=True, tokens=10**6)),
    ],
)
async def test_each_limit_counts_its_own(quota: Quota, need: Need) -> None:
    keys = Pool("jina", [(A, quota)], patience=0.01)
    await taken(keys, 2, need)
    with pytest.raises(UpstreamRateLimited):
        await keys.lease(need)


async def test_deepsearch_and_embeddings_have_limits_of_their_own() -> None:
    keys = Pool("jina", [(A, Quota(tokens=10, deepsearch=1))], patience=0.01)
    await keys.lease(Need(tokens=10**6, deepsearch=True))
    await keys.lease(Need(tokens=10))


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 12)), max_size=60), st.integers(1, 20))
def test_no_minute_holds_more_than_the_limit(calls: list[tuple[float, int]], limit: int) -> None:
    """Each waits as long as it is told; more than the limit at once passes alone."""
    window, now = Window(limit), 0.0
    spent: list[tuple[float, int]] = []
    for gap, amount in calls:
        now += gap
        while (wait := window.wait(now, amount)) > 0:
            now += wait
        window.add(now, amount)
        spent.append((now, amount))
        recent = [was for when, was in spent if when > now - 60]
        assert sum(recent) <= limit or len(recent) == 1


async def test_an_upstream_that_keeps_failing_is_asked_last_for_a_while() -> None:
    keys = pool()
    for _ in range(BREAK_AFTER - 1):
        keys.failed(lease_of(keys, A), UpstreamFailed("x"))
    keys.succeeded(lease_of(keys, A))
    keys.failed(lease_of(keys, A), UpstreamFailed("x"))
    assert not keys.breaker.last
    for _ in range(BREAK_AFTER):
        keys.failed(lease_of(keys, A), UpstreamFailed("x"))
    assert keys.breaker.last


# Through the gateway.


def two_keys(upstream: ScriptedUpstream, **limits: Any) -> Any:
    settings = settings_for(upstream.url)
    keys = [{"key": "first-key-of-jina-0001", "name": "one"}, {"key": "second-key-of-jina-0002", "name": "two"}]
    jina = {**settings.upstreams["jina"].model_dump(exclude={"api_key"}), "api_keys": keys, "limits": limits}
    return Settings.model_validate({"upstreams": {"jina": jina}})


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
