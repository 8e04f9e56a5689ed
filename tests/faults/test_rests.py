"""Keys that are refused, empty or limited, and upstreams that keep failing: which target many callers' calls go to,
and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Script, Seen, replies, until
from ..program import Program
from .crowd import (
    Kind,
    Provider,
    Told,
    after,
    aihubmix_at,
    asks,
    crowd,
    gateway,
    jina_at,
    key_of,
    provider,
    right,
    secret,
    wrongs,
)

REFUSALS: dict[str, Script] = {
    "401": replies({"detail": "Invalid API key"}, 401),
    "402": replies({"detail": "Insufficient balance"}, 402),
    "403": replies({"detail": "Forbidden"}, 403),
    "429": replies({"detail": "slow down"}, 429, retry_after="30"),
}
refused = pytest.mark.parametrize("refusal", REFUSALS)
BREAK_SECONDS = 10.0  # as documented in docs/keys.md
WAITING_SECONDS = 0.1  # delay of an answer, in bursts that wait for an event


async def burst(program: Program, count: int = 40, kind: Kind = "embeddings") -> list[Told]:
    return await crowd(program.port, asks(kind, count))


def both(jina: Provider, aihubmix: Provider, *keys: str) -> dict[str, Any]:
    return {"jina": jina_at(jina.url, *keys), "aihubmix": aihubmix_at(aihubmix.url)}


# Only calls in flight use a key that is known to fail.


@refused
@pytest.mark.parametrize("kind", ["embeddings", "rerank", "deepsearch stream", "deepsearch"])
async def test_a_key_known_to_fail_is_left_alone(kind: Kind, refusal: str, tmp_path: Path) -> None:
    async with provider() as jina, provider() as aihubmix:
        jina.always(REFUSALS[refusal])
        async with gateway(tmp_path, both(jina, aihubmix)) as program:
            for count in (1, 40, 200):
                assert wrongs(await burst(program, count, kind)) == []
    assert len(jina.seen) == 1


@refused
async def test_calls_on_the_wire_meet_the_refusal_and_no_others_do(refusal: str, tmp_path: Path) -> None:
    """The first of 40 calls gets the refusal. While the others wait for theirs, 40 more calls come: none of them
    uses the key."""
    known = asyncio.Event()
    async with provider() as jina, provider() as aihubmix:
        all_came = after(lambda: len(jina.seen) == 40, REFUSALS[refusal])
        jina.first(all_came, *[after(known.is_set, REFUSALS[refusal])] * 39, *[REFUSALS[refusal]] * 1000)
        async with gateway(tmp_path, both(jina, aihubmix)) as program:
            on_the_wire = asyncio.create_task(burst(program))
            await until(lambda: len(aihubmix.seen) == 1)  # the call that got the refusal
            assert wrongs(await burst(program)) == []
            known.set()
            assert wrongs(await on_the_wire) == []
            assert wrongs(await burst(program, 200)) == []
    assert len(jina.seen) == 40


# Some keys of one upstream.


@refused
@pytest.mark.parametrize("count", [40, 200])
async def test_one_of_two_keys_fails_and_nobody_sees_it(count: int, refusal: str, tmp_path: Path) -> None:
    bad = secret("jina", "bad")
    async with provider() as jina:
        jina.faults = lambda request: REFUSALS[refusal] if key_of(request) == bad else None
        async with gateway(tmp_path, {"jina": jina_at(jina.url, "bad", "good")}) as program:
            assert wrongs(await burst(program, count)) == []
            met = times(jina, bad)
            assert met >= 1
            for _ in range(2):
                assert wrongs(await burst(program, count)) == []
    assert times(jina, bad) == met


@pytest.mark.parametrize("count", [40, 200])
@pytest.mark.parametrize(("kind", "status"), [("embeddings", 500), ("rerank", 502), ("deepsearch stream", 503)])
async def test_a_lasting_fault_of_one_of_two_keys_is_nobodys(
    count: int, kind: Kind, status: int, tmp_path: Path
) -> None:
    """The upstream fails for each call with one of its keys."""
    bad = secret("jina", "bad")
    async with provider() as jina:
        jina.faults = lambda request: replies({"detail": "oops"}, status) if key_of(request) == bad else None
        async with gateway(tmp_path, {"jina": jina_at(jina.url, "bad", "good")}) as program:
            for _ in range(3):
                assert wrongs(await burst(program, count, kind)) == []
    assert times(jina, secret("jina", "good")) == 3 * count
    assert 1 <= times(jina, bad) <= 3 * count


async def test_a_fault_for_all_keys_is_not_asked_of_all_of_them_by_each_call(tmp_path: Path) -> None:
    names = [f"key-{number}" for number in range(8)]
    async with provider() as jina:
        jina.always(replies({"detail": "oops"}, 500))
        async with gateway(tmp_path, {"jina": jina_at(jina.url, *names)}) as program:
            await burst(program, 1)
            assert len(jina.seen) == 3  # max_attempts
            await burst(program, 40)
            await burst(program, 40)
            before = len(jina.seen)
            await burst(program, 40)
    assert len(jina.seen) - before <= 40 + 8  # each call once, and repeats within their budget


def times(provider: Provider, key: str) -> int:
    """The number of requests with this key."""
    return sum(key_of(request) == key for request in provider.seen)


@refused
async def test_four_keys_that_fail_cost_nobody_an_answer(refusal: str, tmp_path: Path) -> None:
    """With a single caller, even the first call gets an answer. No key is used twice."""
    names = ("a", "b", "c", "d")
    async with provider() as jina, provider() as aihubmix:
        jina.always(REFUSALS[refusal])
        async with gateway(tmp_path, both(jina, aihubmix, *names)) as program:
            for _ in range(8):
                assert wrongs(await burst(program, 1)) == []
            for _ in range(3):
                assert wrongs(await burst(program)) == []
    assert all(times(jina, secret("jina", name)) <= 1 for name in names)


def by_key(scripts: Mapping[str, Script], other: Script) -> Script:
    """The script of the request's key: two requests at once arrive in either order."""

    async def play(request: Seen, writer: asyncio.StreamWriter) -> Any:
        return await scripts.get(key_of(request), other)(request, writer)

    return play


def hold_the_busy_key(jina: Provider, done: asyncio.Event) -> Script:
    """Answers the busy key when ``done``, and the free key when both are asked, so that two calls take both keys."""
    return by_key({secret("jina", "busy"): after(done.is_set)}, after(lambda: len(jina.seen) >= 2))


def with_a_busy_key(url: str) -> dict[str, Any]:
    """Two keys; the second allows one call at a time."""
    free, busy = secret("jina", "free"), secret("jina", "busy")
    return jina_at(
        url, api_keys=[{"key": free, "name": "free"}, {"key": busy, "name": "busy", "limits": {"concurrency": 1}}]
    )


@refused
async def test_a_busy_key_is_not_waited_for_while_another_target_answers(refusal: str, tmp_path: Path) -> None:
    done = asyncio.Event()
    async with provider() as jina, provider() as aihubmix:
        busy_or_free = hold_the_busy_key(jina, done)
        jina.first(busy_or_free, busy_or_free, REFUSALS[refusal])
        upstreams = {"jina": with_a_busy_key(jina.url), "aihubmix": aihubmix_at(aihubmix.url)}
        async with gateway(tmp_path, upstreams, queue_timeout_seconds=600) as program:
            busy = asyncio.create_task(burst(program, 2))
            await until(lambda: len(jina.seen) == 2)
            assert wrongs(await burst(program, 1)) == []
            assert (len(jina.seen), len(aihubmix.seen)) == (3, 1)
            done.set()
            assert wrongs(await busy) == []


async def test_a_limited_key_is_used_again_before_a_busy_one_is_free(tmp_path: Path) -> None:
    """There is no other upstream: the key that is free first serves the call, and the calls queued behind it."""
    done = asyncio.Event()
    async with provider() as jina:
        busy_or_free = hold_the_busy_key(jina, done)
        jina.first(busy_or_free, busy_or_free, replies({"detail": "slow down"}, 429, retry_after="1"))
        async with gateway(tmp_path, {"jina": with_a_busy_key(jina.url)}, queue_timeout_seconds=600) as program:
            busy = asyncio.create_task(burst(program, 2))
            await until(lambda: len(jina.seen) == 2)
            assert wrongs(await burst(program, 40)) == []
            done.set()
            assert wrongs(await busy) == []
    assert times(jina, secret("jina", "busy")) == 1


@pytest.mark.parametrize("limits", [{"concurrency": 1}, {"requests_per_minute": 1}], ids=["busy", "spent"])
async def test_a_repeat_takes_the_key_that_is_free(limits: dict[str, int], tmp_path: Path) -> None:
    """The upstream caused the failure, so neither this call nor later ones wait for the other key."""
    done = asyncio.Event()
    free, other = secret("jina", "free"), secret("jina", "other")
    keys = [
        {"key": free, "name": "free", "limits": {"concurrency": 1}},
        {"key": other, "name": "other", "limits": limits},
    ]
    async with provider() as jina:
        jina.first(None, after(done.is_set), replies({"detail": "oops"}, 500))
        async with gateway(tmp_path, {"jina": jina_at(jina.url, api_keys=keys)}, queue_timeout_seconds=600) as program:
            assert wrongs(await burst(program, 1)) == []
            held = asyncio.create_task(burst(program, 1))
            await until(lambda: len(jina.seen) == 2)
            assert wrongs(await burst(program, 40)) == []
            done.set()
            assert wrongs(await held) == []
    assert times(jina, other) == 1


# All keys of all upstreams.


@pytest.mark.parametrize(
    ("refusal", "status", "code"), [("401", 502, "upstream_auth"), ("402", 503, "upstream_quota")], ids=["401", "402"]
)
async def test_where_every_key_is_refused_each_is_asked_by_one_call_at_a_time(
    refusal: str, status: int, code: str, tmp_path: Path
) -> None:
    async with provider() as jina, provider() as aihubmix:
        for each in (jina, aihubmix):
            each.always(REFUSALS[refusal])
        async with gateway(tmp_path, both(jina, aihubmix, "a", "b")) as program:
            for _ in range(4):
                assert_refused(await burst(program, 1), status, code)
            assert all(times(jina, secret("jina", name)) for name in ("a", "b"))
            for each in (jina, aihubmix):
                each.most.clear()
            for _ in range(3):
                assert_refused(await burst(program), status, code)
            assert set((jina.most | aihubmix.most).values()) <= {1}
            # If the account is topped up, the next call succeeds.
            jina.always(None)
            assert wrongs(await burst(program, 1)) == []
            assert wrongs(await burst(program)) == []


def assert_refused(told: list[Told], status: int, code: str) -> None:
    assert {(each.status, each.code) for each in told} == {(status, code)}
    assert {each.headers.get("x-should-retry") for each in told} == {"false"}


async def test_where_every_key_is_limited_the_time_is_told_and_none_is_asked_before(tmp_path: Path) -> None:
    async with provider() as jina, provider() as aihubmix:
        jina.always(replies({"detail": "slow"}, 429, retry_after="90"))
        aihubmix.always(replies({"error": "slow"}, 429, retry_after="60"))
        async with gateway(tmp_path, both(jina, aihubmix)) as program:
            await burst(program, 1)
            for _ in range(3):
                told = await burst(program)
                assert {(each.status, each.code) for each in told} == {(429, "upstream_rate_limited")}
                assert all(30 <= int(each.headers["retry-after"]) <= 60 for each in told)
    assert (len(jina.seen), len(aihubmix.seen)) == (1, 1)


# A cooldown that ends.


class Limited:
    """A provider that answers 429 ``limits`` times, with a cooldown of one second each. ``early`` counts requests
    during a cooldown."""

    def __init__(self, limits: int) -> None:
        self.limits = limits
        self.until = 0.0
        self.early = 0

    def __call__(self, request: Seen) -> Script | None:
        now = time.monotonic()
        self.early += now < self.until
        if not self.limits:
            return None
        self.limits -= 1
        self.until = now + 1.0
        return replies({"detail": "slow down"}, 429, retry_after="1")


async def test_a_limited_key_is_waited_for(tmp_path: Path) -> None:
    """There is no other key: all calls wait until its cooldown ends, and are answered."""
    async with provider() as jina:
        jina.faults = limited = Limited(1)
        async with gateway(tmp_path, {"jina": jina_at(jina.url)}) as program:
            assert wrongs(await burst(program, 1)) == []
            limited.limits = 1
            assert wrongs(await burst(program, 1)) + wrongs(await burst(program)) == []
    assert limited.early == 0


async def test_a_rest_that_ends_is_tried_by_one_call_whose_failure_is_seen_by_nobody(tmp_path: Path) -> None:
    """The call that tries the key is delayed until 40 others are answered elsewhere; then it gets a 429 too."""
    async with provider() as jina, provider() as aihubmix:
        limited, before = Limited(3), 0
        aihubmix.pause = WAITING_SECONDS

        def tried(request: Seen) -> Script | None:
            script = limited(request)
            if len(jina.seen) == 1:
                return script
            return after(lambda: len(aihubmix.seen) >= before + 39, script or right)

        jina.faults = tried
        async with gateway(tmp_path, both(jina, aihubmix)) as program:
            assert wrongs(await burst(program, 1)) == []
            for trials in (2, 3):
                async with asyncio.timeout(60):
                    while len(jina.seen) < trials:
                        before = len(aihubmix.seen)
                        assert wrongs(await burst(program)) == []
                assert len(jina.seen) == trials
    assert limited.early == 0


# An upstream that keeps failing.


async def test_a_broken_upstream_is_asked_last_and_then_by_one_call(tmp_path: Path) -> None:
    failed = [0.0]

    async def fails(request: Seen, writer: asyncio.StreamWriter) -> None:
        failed.append(time.monotonic())
        await replies({"detail": "busy"}, 503)(request, writer)

    async with provider() as jina, provider() as aihubmix:
        jina.always(fails)
        async with gateway(tmp_path, both(jina, aihubmix)) as program:
            assert wrongs(await burst(program)) == []
            met, until_then = len(jina.seen), failed[-1] + BREAK_SECONDS
            for _ in range(3):
                assert wrongs(await burst(program)) == []
            assert len(jina.seen) == met or time.monotonic() > until_then
            aihubmix.pause = WAITING_SECONDS
            jina.always(after(lambda: len(aihubmix.seen) >= before + 39, fails))
            async with asyncio.timeout(60):
                while len(jina.seen) == met:
                    before = len(aihubmix.seen)
                    assert wrongs(await burst(program)) == []
            assert time.monotonic() > until_then
    assert len(jina.seen) == met + 1


async def test_where_all_are_broken_all_are_asked(tmp_path: Path) -> None:
    """Calls are never refused because of open breakers: the first call after a recovery is answered."""
    async with provider() as jina, provider() as aihubmix:
        for each in (jina, aihubmix):
            each.always(replies({"detail": "busy"}, 503))
        async with gateway(tmp_path, both(jina, aihubmix)) as program:
            told = await burst(program)
            assert {(each.status, each.code) for each in told} == {(503, "upstream_error")}
            aihubmix.always(None)
            assert wrongs(await burst(program)) == []
