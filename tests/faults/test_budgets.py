"""Budgets under a crowd: what passes is exactly what is left, and what is left can be spent to the last unit."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from app.storage.verify import verify

from ..conftest import Script, Seen, replies, streams, until
from ..ledger import read
from ..program import Program
from .crowd import Ask, Line, aihubmix_at, asks, booked, cost, crowd, gateway, jina_at, provider
from .scripts import answer, hang, sse, thought, wire

KEY = "a-key-of-the-crowd-0123456789"


def caller(*budgets: dict[str, Any], **limits: int) -> dict[str, Any]:
    given = [{"window": "day", **budget} for budget in budgets]
    return {"name": "ann", "key": KEY, "budgets": given, "limits": limits}


async def at_rest(program: Program) -> list[str]:
    """The differences between counters and rows, once nothing is held."""
    path = program.folder / "torii.db"
    await until(lambda: read(path, "SELECT 1 FROM holds LIMIT 1") == [])
    return verify(path)


def spent(program: Program, unit: str) -> int:
    [(found,)] = read(program.folder / "torii.db", f"SELECT spent FROM counters WHERE unit = '{unit}' AND until > 0")
    return int(found)


@pytest.mark.parametrize("workers", [1, 4])
async def test_of_five_hundred_calls_at_once_exactly_those_that_fit_pass(workers: int, tmp_path: Path) -> None:
    """The last 100 of a budget of 150 requests."""
    async with (
        provider() as jina,
        gateway(
            tmp_path,
            {"jina": jina_at(jina.url)},
            callers=[caller({"unit": "requests", "amount": 150})],
            workers=workers,
            cache={"store": "off"},
        ) as program,
    ):
        first = await crowd(program.port, asks("embeddings", 50, key=KEY), 10)
        told = await crowd(program.port, asks("embeddings", 500, key=KEY))
        assert Counter(each.status for each in first) == {200: 50}
        assert Counter(each.status for each in told) == {200: 100, 429: 400}
        assert len(jina.seen) == 150
        refused = [each for each in told if each.status == 429]
        assert {(each.code, each.headers["x-should-retry"]) for each in refused} == {("insufficient_quota", "false")}
        assert {int(each.headers["retry-after"]) <= 86_400 for each in refused} == {True}
        assert await at_rest(program) == []
        assert spent(program, "requests") == 150
        assert len(await booked(program, 150)) == 150


async def test_the_rest_can_be_spent_to_the_last_token_after_all_kinds_of_faults(tmp_path: Path) -> None:
    """Upstreams fail in turn in many ways, callers leave, calls are split, joined, shared and cached. Then what is left
    is spent, call by call, until less is left than a call may need."""
    faults: list[Script | None] = [
        None,
        replies({"detail": "busy"}, 429, retry_after="0"),
        None,
        replies({"detail": "oops"}, 500),
        replies({"detail": "no"}, 422),
        wire(end="reset"),
        replies(b"{"),
    ]
    turns = itertools.cycle(faults)
    amount = 6_000
    async with (
        provider() as jina,
        provider() as aihubmix,
        gateway(
            tmp_path,
            {"jina": jina_at(jina.url, limits={"concurrency": 4}), "aihubmix": aihubmix_at(aihubmix.url)},
            callers=[caller({"unit": "tokens", "amount": amount}, {"unit": "requests", "amount": 100_000})],
            models={"jina-embeddings-v3": {"max_inputs": 8}},
            queue_timeout_seconds=10,
        ) as program,
    ):
        jina.faults = lambda request: next(turns)
        aihubmix.faults = lambda request: next(turns)
        calls = [*asks("embeddings", 60, key=KEY), *asks("rerank", 20, key=KEY, inputs=3)]
        calls += asks("embeddings", 10, key=KEY, inputs=20)
        shared = asks("embeddings", 5, key=KEY)
        leaving = asyncio.gather(*(leaves(program.port, ask) for ask in asks("embeddings", 20, key=KEY)))
        await crowd(program.port, [*calls, *(shared * 6)], 40)
        await leaving
        assert await at_rest(program) == []
        for each in (jina, aihubmix):
            each.faults, each.pause = lambda request: None, 0.0
        left = amount - spent(program, "tokens")
        for inputs in (8, 1):
            left = await spends(program, left, inputs)
        assert await at_rest(program) == []


async def spends(program: Program, left: int, inputs: int) -> int:
    """Spends what is left of the tokens, call by call. Returns the rest, which is less than a call may need."""
    line = await Line.to(program.port)
    for ask in asks("embeddings", 10_000, key=KEY, inputs=inputs):
        need = sum(len(text) + 16 for text in ask.texts)
        status = (await line.asks(ask)).status
        assert status == (200 if left >= need else 429)
        if status == 429:
            break
        left -= cost(ask.texts)
    line.writer.close()
    return left


async def leaves(port: int, ask: Ask) -> None:
    """A caller who sends a call and closes the connection."""
    line = await Line.to(port)
    line.writer.write(ask.request())
    await line.writer.drain()
    await asyncio.sleep(0.01)
    line.writer.close()
    with suppress(ConnectionError):
        await line.writer.wait_closed()


@pytest.mark.parametrize("policy", ["cancel", "drain"])
async def test_streams_that_are_left_or_cut_hold_nothing(policy: str, tmp_path: Path) -> None:
    """Half of the callers leave mid-stream, and a third of the streams is cut."""
    numbers = itertools.count()

    def play(request: Seen) -> Script:
        begun = sse(thought("Well"))
        end = sse(answer("because", usage={"total_tokens": 1000}))
        return streams(begun, end="cut") if next(numbers) % 3 == 0 else streams(begun, end)

    async with (
        provider() as jina,
        gateway(
            tmp_path,
            {"jina": jina_at(jina.url)},
            callers=[{**caller({"unit": "tokens", "amount": 10_000_000}, concurrent_runs=50), "on_disconnect": policy}],
        ) as program,
    ):
        jina.faults = play
        calls = asks("deepsearch stream", 40, key=KEY, budget_tokens=20_000)
        staying, left = calls[::2], calls[1::2]
        leaving = asyncio.gather(*(leaves(program.port, ask) for ask in left))
        await crowd(program.port, staying)
        await leaving
        assert await at_rest(program) == []
        rows = await booked(program, 1)
        assert all(row["total_tokens"] in (0, 1000, 40_000) for row in rows)
        assert sum(row["requests"] for row in rows) <= 40


async def test_a_killed_process_spends_what_it_held(tmp_path: Path) -> None:
    """Calls under way at the kill are booked at their bound by the next process, so that nothing is overspent."""
    async with provider() as jina:
        upstreams = {"jina": jina_at(jina.url)}
        values: dict[str, Any] = {
            "callers": [caller({"unit": "requests", "amount": 30}, {"unit": "tokens", "amount": 10_000})]
        }
        jina.always(hang)
        async with gateway(tmp_path, upstreams, **values) as program:
            calls = [asyncio.create_task(crowd(program.port, [ask])) for ask in asks("embeddings", 20, key=KEY)]
            await until(lambda: len(jina.seen) == 20)
            program.process.kill()
            await asyncio.gather(*calls, return_exceptions=True)
        path = tmp_path / "torii.db"
        assert len(read(path, "SELECT 1 FROM holds")) == 20
        assert verify(path) == []
        jina.always(None)
        async with gateway(tmp_path, upstreams, **values) as program:
            told = await crowd(program.port, asks("embeddings", 40, key=KEY))
            assert Counter(each.status for each in told) == {200: 10, 429: 30}
            assert len(jina.seen) == 30


@pytest.mark.parametrize("workers", [1, 4])
async def test_a_hot_caller_spends_a_budget_to_the_last_request(workers: int, tmp_path: Path) -> None:
    """Far from the end calls draw from slices of 700 requests, near it each is decided by itself."""
    async with (
        provider() as jina,
        gateway(
            tmp_path,
            {"jina": jina_at(jina.url)},
            callers=[
                caller(
                    {"unit": "requests", "amount": 700}, {"unit": "tokens", "amount": 10**8}, tokens_per_minute=10**7
                )
            ],
            workers=workers,
            cache={"store": "off"},
        ) as program,
    ):
        jina.pause = 0.0
        sliced = asyncio.create_task(slices(program))
        told = await crowd(program.port, asks("embeddings", 900, key=KEY), 40)
        assert Counter(each.status for each in told) == {200: 700, 429: 200}
        assert len(jina.seen) == 700
        assert await at_rest(program) == []
        assert (spent(program, "requests"), spent(program, "tokens")) == (700, 4 * 700)
        assert len(await booked(program, 700)) == 700
        sliced.cancel()


async def slices(program: Program) -> None:
    """Ends as soon as a slice is in the ledger."""
    await until(lambda: read(program.folder / "torii.db", SLICED) != [])


SLICED = "SELECT request_id, body FROM holds WHERE request_id LIKE 'slice-%'"


async def test_what_a_killed_process_had_sliced_is_charged_once(tmp_path: Path) -> None:
    async with provider() as jina:
        jina.pause = 0.0
        upstreams = {"jina": jina_at(jina.url)}
        values: dict[str, Any] = {
            "callers": [caller({"unit": "requests", "amount": 100_000}, requests_per_minute=50_000)],
            "cache": {"store": "off"},
        }
        async with gateway(tmp_path, upstreams, **values) as program:
            calls = asyncio.create_task(crowd(program.port, asks("embeddings", 5_000, key=KEY), 40))
            await slices(program)
            program.process.kill()
            await asyncio.gather(calls, return_exceptions=True)
        path = tmp_path / "torii.db"
        assert verify(path) == []
        [(held,)] = read(path, "SELECT sum(held) FROM counters WHERE unit = 'requests' AND until > 0")
        before, held_by = len(read(path, "SELECT 1 FROM calls")), set(read(path, "SELECT request_id FROM holds"))
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE processes SET until = 0")  # as if 30 seconds had passed
        async with gateway(tmp_path, upstreams, **values) as program:
            await until(lambda: read(path, "SELECT 1 FROM holds WHERE lost IS NULL") == [])
            assert verify(path) == []
            lost = read(path, "SELECT requests, request_id FROM calls WHERE error = 'process_lost'")
            assert sum(requests for requests, _ in lost) == held
            assert spent(program, "requests") == before + held >= len(jina.seen)
            assert {(name,) for _, name in lost} == held_by
