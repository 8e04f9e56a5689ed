"""Batched calls and identical calls: one failure counts as one failure and causes one retry."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Script, Seen, replies, until
from ..program import Program
from .crowd import (
    Ask,
    Provider,
    Told,
    after,
    aihubmix_at,
    asks,
    crowd,
    gateway,
    jina_at,
    provider,
    texts_of,
    waiting,
    wrongs,
)
from .scripts import hang, head, json_of, wire
from .test_failover import ERROR, changed, fewer

CONCURRENCY = 2
LONG = 60.0
CANARY = "the provider's words about text 1"

OOPS = replies({"error": {"message": CANARY}}, 500)
BROKEN: dict[str, Script] = {
    "500": OOPS,
    "502": replies(ERROR, 502),
    "short": changed(fewer),
    "broken JSON": changed(lambda right: json_of(right)[:-9]),
    "half a head": wire(head("content-length: 2")[:30]),
    "half a body": wire(head("content-length: 200") + b'{"model": "m", '),
}
ONCE: dict[str, Script] = {
    **BROKEN,
    "503": replies(ERROR, 503),
    "504": replies(ERROR, 504),
    "429": replies({"detail": CANARY}, 429, retry_after="1"),
}
# For a reused connection: the request is sent again over a new one, which is not a retry.
RESET: dict[str, Script] = {"reset": wire(end="reset")}
# Faults for which splitting a batch in halves is useless or harmful.
WHOLE: dict[str, Script] = {
    "429": replies({"detail": CANARY}, 429, retry_after="1"),
    "429 for long": replies({"detail": CANARY}, 429, retry_after="30"),
    "503": replies(ERROR, 503),
    "503 Retry-After": replies(ERROR, 503, retry_after="30"),
    "500 Retry-After": replies(ERROR, 500, retry_after="30"),
    "504": replies(ERROR, 504),
    "silent": hang,
}
OF_SHARING = re.compile(r"caller|joined|shared|sharing|together|several|others|at once|batch", re.IGNORECASE)


@dataclass
class Crowded:
    """A gateway whose only key is at its limit, held by two rankings until they are released."""

    program: Program
    jina: Provider

    async def joined(self, calls: list[Ask]) -> list[Told]:
        """The answers to calls that all wait until the key is free, and are then sent as one batch."""
        free = asyncio.Event()
        faults = self.jina.faults

        def held(request: Seen) -> Script | None:
            return after(free.is_set) if request.path.endswith("/rerank") else faults(request)

        self.jina.faults = held
        before = len(self.jina.seen)
        holders = asyncio.create_task(crowd(self.program.port, asks("rerank", CONCURRENCY)))
        await until(lambda: len(self.jina.seen) == before + CONCURRENCY)
        told = asyncio.create_task(crowd(self.program.port, calls))
        await waiting(self.program, len(calls))
        free.set()
        answers = await told
        assert wrongs(await holders) == []
        return answers

    def sizes(self) -> list[int]:
        """The number of texts in each embeddings call to Jina, in order."""
        return [len(texts_of(request)) for request in self.jina.seen if request.path.endswith("/embeddings")]


@asynccontextmanager
async def crowded(folder: Path, aihubmix: Provider | None = None, **values: Any) -> AsyncIterator[Crowded]:
    async with provider() as jina:
        upstreams = {"jina": jina_at(jina.url, limits={"concurrency": CONCURRENCY})}
        if aihubmix is not None:
            upstreams["aihubmix"] = aihubmix_at(aihubmix.url)
        async with gateway(folder, upstreams, **values) as program:
            yield Crowded(program, jina)


def first(*scripts: Script) -> Callable[[Seen], Script | None]:
    """Plays these scripts for the first embeddings calls, one each."""
    rest = iter(scripts)
    return lambda request: next(rest, None)


# One failure.


@pytest.mark.parametrize("fault", ONCE | RESET)
async def test_one_failure_of_a_joined_call_is_repeated_once_and_seen_by_nobody(fault: str, tmp_path: Path) -> None:
    async with crowded(tmp_path) as here:
        here.jina.faults = first((ONCE | RESET)[fault])
        assert wrongs(await here.joined(asks("embeddings", 40))) == []
        assert here.sizes() == [40, 40]


@pytest.mark.parametrize("fault", ONCE)
async def test_one_failure_with_another_target_is_one_call_there(fault: str, tmp_path: Path) -> None:
    async with provider() as aihubmix, crowded(tmp_path, aihubmix) as here:
        here.jina.faults = first(ONCE[fault])
        assert wrongs(await here.joined(asks("embeddings", 40))) == []
        assert here.sizes() == [40]
        assert len(aihubmix.seen) == 1


@pytest.mark.parametrize("fault", ONCE)
async def test_a_free_tier_under_40_callers_loses_nobody(fault: str, tmp_path: Path) -> None:
    """The sixth call is the first batched one; each burst meets the fault once."""
    async with provider() as jina:
        async with gateway(tmp_path, {"jina": jina_at(jina.url, tier="free")}) as program:
            for _ in range(3):
                jina.first(*[None] * 5, ONCE[fault])
                assert wrongs(await crowd(program.port, asks("embeddings", 40))) == []


# A second failure: halves.


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_repeat_that_fails_too_is_halved(fault: str, tmp_path: Path) -> None:
    async with crowded(tmp_path) as here:
        here.jina.faults = first(BROKEN[fault], BROKEN[fault])
        assert wrongs(await here.joined(asks("embeddings", 12))) == []
        assert here.sizes() == [12, 12, 6, 6]


@pytest.mark.parametrize("fault", BROKEN)
async def test_an_input_that_always_fails_fails_alone(fault: str, tmp_path: Path) -> None:
    async with crowded(tmp_path) as here:
        for place in (0, 5, 11):
            here.jina.seen.clear()
            calls = asks("embeddings", 12)
            [bad] = calls[place].texts
            here.jina.faults = lambda request, bad=bad: BROKEN[fault] if bad in texts_of(request) else None  # type: ignore[misc]
            told = await here.joined(calls)
            assert [bool(each.wrong) for each in told] == [number == place for number in range(12)]
            assert_failed_alike([told[place]], 502, "upstream_error")
            assert here.sizes()[:2] == [12, 12]
            assert len(here.sizes()) - 2 <= most_halves(12)


async def test_halves_are_bounded(tmp_path: Path) -> None:
    """Every call fails, yet the number of upstream calls stays far below the number of callers."""
    async with crowded(tmp_path) as here:
        here.jina.faults = lambda request: OOPS
        told = await here.joined(asks("embeddings", 40))
        assert_failed_alike(told, 502, "upstream_error")
        assert here.sizes()[:2] == [40, 40]
        assert len(here.sizes()) - 2 <= most_halves(40)


def most_halves(calls: int) -> int:
    return 2 * math.ceil(math.log2(calls)) + 1


@pytest.mark.parametrize("fault", WHOLE)
async def test_what_says_nothing_of_an_input_is_never_halved(fault: str, tmp_path: Path) -> None:
    async with crowded(tmp_path, timeouts={"headers_seconds": 2.0 if fault == "silent" else LONG}) as here:
        here.jina.faults = lambda request: WHOLE[fault]
        told = await here.joined(asks("embeddings", 12))
        assert not any(each.status == 200 or CANARY in each.message for each in told)
        assert set(here.sizes()) == {12}
        assert len(here.sizes()) <= 2


async def test_an_open_breaker_is_no_reason_to_halve(tmp_path: Path) -> None:
    async with crowded(tmp_path) as here:
        here.jina.faults = lambda request: OOPS
        for _ in range(5):
            await crowd(here.program.port, asks("embeddings", 1))
        held = here.jina.faults
        here.jina.seen.clear()
        here.jina.faults = held
        told = await joined_behind_failures(here, asks("embeddings", 12))
        assert_failed_alike(told, 502, "upstream_error")
        assert set(here.sizes()) == {12}
        assert len(here.sizes()) <= 2


async def joined_behind_failures(here: Crowded, calls: list[Ask]) -> list[Told]:
    """As ``joined``, but the calls that hold the key fail too, so the upstream never seems to have recovered."""
    free = asyncio.Event()
    here.jina.faults = lambda request: after(free.is_set, OOPS) if request.path.endswith("/rerank") else OOPS
    holders = asyncio.create_task(crowd(here.program.port, asks("rerank", CONCURRENCY)))
    await until(lambda: len(here.jina.seen) == CONCURRENCY)
    told = asyncio.create_task(crowd(here.program.port, calls))
    await waiting(here.program, len(calls))
    free.set()
    await holders
    return await told


# The callers' errors.


def assert_failed_alike(told: list[Told], status: int, code: str) -> None:
    """Each caller is told about their own call, and nothing about others."""
    assert {(each.status, each.code) for each in told} == {(status, code)}
    for each in told:
        assert "jina" in each.message or "the upstream" in each.message
        assert not OF_SHARING.search(each.message), each.message


async def test_callers_are_told_of_a_rate_limit_and_when_it_ends(tmp_path: Path) -> None:
    async with crowded(tmp_path) as here:
        here.jina.faults = lambda request: replies({"detail": CANARY}, 429, retry_after="30")
        told = await here.joined(asks("embeddings", 40))
        assert_failed_alike(told, 429, "upstream_rate_limited")
        assert {each.headers["retry-after"] for each in told} <= {"29", "30"}
        for each in told:
            assert CANARY not in each.message
            assert re.search(r"rate limited by jina; retry after (29|30) s", each.message), each.message
        assert here.sizes() == [40]


@pytest.mark.parametrize("fault", ["500", "502", "short", "broken JSON"])
async def test_callers_are_told_of_a_failure(fault: str, tmp_path: Path) -> None:
    async with crowded(tmp_path) as here:
        here.jina.faults = lambda request: BROKEN[fault]
        assert_failed_alike(await here.joined(asks("embeddings", 3)), 502, "upstream_error")


# Identical calls.


async def shared(program: Program, jina: Provider, faults: Callable[[Seen], Script | None]) -> list[Told]:
    """The answers to 40 identical calls. The upstream answers the first one after all have been sent."""
    [ask] = asks("embeddings", 1)
    before = len(jina.seen)
    jina.pause = 0.3
    jina.faults = faults
    told = await crowd(program.port, [replace(ask) for _ in range(40)])
    assert len(jina.seen) > before
    return told


@pytest.mark.parametrize("fault", ONCE | RESET)
async def test_one_failure_of_a_shared_call_is_repeated_once_and_seen_by_nobody(fault: str, tmp_path: Path) -> None:
    async with provider() as jina, gateway(tmp_path, {"jina": jina_at(jina.url)}) as program:
        assert wrongs(await shared(program, jina, first((ONCE | RESET)[fault]))) == []
        assert len(jina.seen) == 2


@pytest.mark.parametrize(
    ("fault", "status", "calls"), [("500", 502, 2), ("503", 503, 2), ("429", 429, 2)], ids=["500", "503", "429"]
)
async def test_a_shared_call_that_fails_is_a_failure_for_all(
    fault: str, status: int, calls: int, tmp_path: Path
) -> None:
    async with provider() as jina, gateway(tmp_path, {"jina": jina_at(jina.url)}) as program:
        told = await shared(program, jina, lambda request: ONCE[fault])
        assert {each.status for each in told} == {status}
        assert not any(OF_SHARING.search(each.message) for each in told)
        assert len(jina.seen) == calls
