"""Limits and budgets in the call's way, over real sockets: what is held, what passes, what is refused, and what the
books say afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.callers.accounts import key_file
from app.config.settings import Settings
from app.storage.ledger_file import CallRow, LedgerFile
from app.storage.verify import verify

from ..conftest import RunningGateway, Script, ScriptedUpstream, replies, running_gateway, settings_for, streams, until
from ..ledger import read
from ..ports import closed_port

KEY = "a-key-of-ann-0123456789"
OTHER = "a-key-of-bob-0123456789"
WHO = ("operator", None)
USED = "SELECT id FROM keys WHERE last_used_at IS NOT NULL"
PATH = "/v1/embeddings"
CHATS = "/v1/chat/completions"


def embed(text: str = "one", **more: Any) -> dict[str, Any]:
    return {"model": "jina-embeddings-v3", "input": [text], **more}


def vectors(tokens: int | None = 1, count: int = 1) -> Script:
    usage = {} if tokens is None else {"usage": {"total_tokens": tokens, "prompt_tokens": tokens}}
    return replies({"data": [{"index": n, "embedding": [0.5]} for n in range(count)], **usage})


def budget(amount: float, unit: str = "tokens", window: str = "day", **more: Any) -> dict[str, Any]:
    return {"unit": unit, "amount": amount, "window": window, **more}


def caller(name: str = "ann", key: str = KEY, **more: Any) -> dict[str, Any]:
    return {"name": name, "key": key, **more}


@dataclass
class Counted:
    """A gateway with callers that have limits, and its ledger."""

    gateway: RunningGateway
    path: Path
    upstream: ScriptedUpstream

    async def ask(self, body: Any = None, path: str = PATH, key: str = KEY, **headers: str) -> httpx.Response:
        return await self.gateway.post(path, body or embed(), authorization=f"Bearer {key}", **headers)

    def rows(self) -> list[dict[str, Any]]:
        found = read(self.path, f"SELECT {', '.join(CallRow._fields)} FROM calls ORDER BY id")
        return [dict(zip(CallRow._fields, row, strict=True)) for row in found]

    async def booked(self, count: int) -> list[dict[str, Any]]:
        await until(lambda: len(self.rows()) >= count)
        return self.rows()

    def held(self) -> int:
        return sum(amount for (amount,) in read(self.path, "SELECT held FROM counters"))

    def holds(self) -> int:
        return len(read(self.path, "SELECT request_id FROM holds"))

    async def at_rest(self) -> list[dict[str, Any]]:
        """The rows, once no hold is left. The counters equal them."""
        await until(lambda: not self.holds() and self.gateway.generations.load.calls == 0)
        await until(lambda: not self.held())
        assert verify(self.path) == []
        return self.rows()


@asynccontextmanager
async def counted(
    upstream: ScriptedUpstream, path: Path, other: ScriptedUpstream | None = None, **values: Any
) -> AsyncIterator[Counted]:
    settings: Settings = settings_for(upstream.url, other.url if other else None, **values)
    with closing(LedgerFile(path / "torii.db", flush_seconds=0.01)) as database:
        async with running_gateway(settings, database) as gateway:
            yield Counted(gateway, path / "torii.db", upstream)


async def hang(request: Any, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


def after(event: asyncio.Event, script: Script) -> Script:
    async def play(request: Any, writer: asyncio.StreamWriter) -> Any:
        await event.wait()
        return await script(request, writer)

    return play


# ------------------------------------------------------------------------ a call


async def test_a_call_holds_its_bound_and_settles_for_what_it_used(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    go = asyncio.Event()
    upstream.plays(after(go, vectors(7)))
    async with counted(upstream, tmp_path, callers=[caller(budgets=[budget(1000)])]) as books:
        asking = asyncio.create_task(books.ask())
        await until(lambda: len(upstream.seen) == 1)
        assert books.held() == len("one") + 16
        go.set()
        assert (await asking).status_code == 200
        [row] = await books.at_rest()
        assert (row["key_id"], row["total_tokens"], row["requests"], row["kind"]) == ("ann", 7, 1, "call")
        assert read(books.path, "SELECT spent FROM counters WHERE unit = 'tokens'") == [(7,)]


async def test_nothing_is_sent_that_does_not_fit(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(vectors(19))
    async with counted(upstream, tmp_path, callers=[caller(budgets=[budget(38)])]) as books:
        answers = [await books.ask() for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].json()["error"]["code"] == "insufficient_quota"
        assert answers[2].headers["x-should-retry"] == "false"
        assert len(upstream.seen) == 2
        assert len(await books.at_rest()) == 2
        await until(
            lambda: read(books.path, "SELECT key_id, reason, count FROM refusals") == [("ann", "tokens/day", 1)]
        )


async def test_the_row_of_a_call_belongs_to_the_window_that_was_charged(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Which is that of its admission, even if its body comes later."""
    upstream.plays(vectors(7))
    times = []

    async def body() -> AsyncIterator[bytes]:
        yield b'{"model": "jina-embeddings-v3", '
        await until(lambda: books.gateway.generations.load.calls == 1)
        times.append(time.time())
        await until(lambda: time.time() > times[0] + 0.01)
        yield b'"input": ["one"]}'

    async with counted(upstream, tmp_path, callers=[caller(budgets=[budget(1000)])]) as books:
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        assert (await books.gateway.client.post(PATH, content=body(), headers=headers)).status_code == 200
        [row] = await books.at_rest()
        assert row["time"] <= times[0] * 1000


async def test_what_a_row_tells_of_who_called(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(vectors(7))
    price = {"jina": {"jina-embeddings-v3": {"input": "0.02", "date": "2026-11-01"}}}
    async with counted(upstream, tmp_path, callers=[caller(budgets=[budget(1, "usd")])], prices=price) as books:
        await books.ask(embed(user="u-1", model="JINA-EMBEDDINGS-V3"), **{"x-torii-tag": "job\t7" + "x" * 200})
        [row] = await books.at_rest()
    assert (row["model_id"], row["user"], row["cost"], row["price_date"], row["stream"]) == (
        "jina-embeddings-v3",
        "u-1",
        140,
        "2026-11-01",
        0,
    )
    assert row["tag"].startswith("job7")
    assert len(row["tag"]) == 128


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_a_failure_frees_what_was_held_and_counts_as_a_request(
    status: int, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(replies({"detail": "no"}, status))
    budgets = [budget(1000), budget(10, "requests")]
    async with counted(upstream, tmp_path, callers=[caller(budgets=budgets)]) as books:
        answer = await books.ask()
        assert answer.status_code >= 400
        [row] = await books.at_rest()
        assert (row["requests"], row["total_tokens"]) == (1, 0)
        spent = dict(read(books.path, "SELECT unit, spent FROM counters"))
        assert (spent["requests"], spent["tokens"]) == (1, 0)


async def test_a_call_that_reached_nobody_counts_as_a_request(tmp_path: Path) -> None:
    budgets = [budget(1000), budget(10, "requests")]
    with closed_port() as url:
        nobody = counted(ScriptedUpstream(url), tmp_path, callers=[caller(budgets=budgets)])
    async with nobody as books:
        assert (await books.ask()).status_code == 502
        [row] = await books.at_rest()
        assert (row["upstream"], row["requests"], row["status"], row["total_tokens"]) == ("", 1, 502, 0)
        assert dict(read(books.path, "SELECT unit, spent FROM counters")) == {"requests": 1, "tokens": 0}


async def test_a_mistake_costs_nothing_and_is_told_what_is_left(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(vectors())
    limits = {"requests_per_minute": 5}
    async with counted(upstream, tmp_path, callers=[caller(limits=limits)]) as books:
        for body in (b"{", {"model": "no-such-model", "input": "x"}):
            answer = await books.ask(body)
            assert answer.status_code in (400, 404)
            assert answer.headers["x-ratelimit-limit-requests"] == "5"
            assert answer.headers["x-ratelimit-remaining-requests"] == "5"
        assert await books.at_rest() == []


async def test_headers_say_what_is_left(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(vectors(19))
    limits = {"requests_per_minute": 2, "tokens_per_day": 1000}
    async with counted(upstream, tmp_path, callers=[caller(limits=limits)]) as books:
        answers = [await books.ask() for _ in range(3)]
        heads = [answer.headers for answer in answers]
        assert [head["x-ratelimit-remaining-requests"] for head in heads] == ["1", "0", "0"]
        assert [head["x-ratelimit-remaining-tokens"] for head in heads[:2]] == ["981", "962"]
        assert answers[2].status_code == 429
        assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"
        assert 55 <= int(heads[2]["retry-after"]) <= 61
        await books.at_rest()


async def test_streams_have_the_headers_too(other_upstream: ScriptedUpstream, tmp_path: Path) -> None:
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}\n\n'
    other_upstream.plays(streams(chunk, usage, b"data: [DONE]\n\n"))
    body = {"model": "aihubmix/gpt-4o-mini", "messages": [{"role": "user", "content": "x"}], "stream": True}
    limits = {"requests_per_minute": 2, "tokens_per_minute": 10_000}
    async with counted(
        ScriptedUpstream("http://127.0.0.1:9"), tmp_path, other_upstream, callers=[caller(limits=limits)]
    ) as books:
        unbounded = await books.ask(body, CHATS)
        assert (unbounded.status_code, unbounded.json()["error"]["param"]) == (400, "max_tokens")
        answer = await books.ask({**body, "max_tokens": 10}, CHATS)
        assert answer.status_code == 200
        assert answer.text.endswith("[DONE]\n\n")
        assert answer.headers["x-ratelimit-remaining-requests"] == "1"
        assert other_upstream.seen[0].body["stream_options"] == {"include_usage": True}
        assert "usage" not in answer.text
        [row] = await books.at_rest()
        assert (row["total_tokens"], row["estimated"], row["stream"]) == (4, 0, 1)


# ------------------------------------------------------------------------ virtual keys and teams


async def test_the_keys_of_a_team_share_its_budget(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(vectors(19))
    async with counted(upstream, tmp_path, callers=[caller()]) as books:
        keys = key_file(books.path)
        keys.create_team({"id": "t1", "name": "one", "budgets": [budget(2, "requests", "total")]}, *WHO)
        made = [keys.create_key({"name": name, "team": "t1"}, *WHO) for name in ("a", "b", "c")]
        books.gateway.generations.now.callers.registry.refresh()
        answers = [await books.ask(key=str(secret)) for _, secret in made]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert "one" in answers[2].json()["error"]["message"]
        rows = await books.at_rest()
        assert [(row["key_id"], row["team"]) for row in rows] == [(key.id, "t1") for key, _ in made[:2]]
        used = [made[0][0].id]
        await until(lambda: [key for (key,) in read(books.path, USED) if key in used] == used)


async def test_a_model_that_a_key_may_not_use_costs_nothing(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """The model's own id counts, whatever the call names it."""
    upstream.plays(vectors(19))
    async with counted(upstream, tmp_path, models={"mine": "jina-embeddings-v3"}) as books:
        keys = key_file(books.path)
        fields = {"allowed_models": ["jina-reranker-*"], "budgets": [budget(10, "requests")]}
        _, secret = keys.create_key({"name": "a", **fields}, *WHO)
        books.gateway.generations.now.callers.registry.refresh()
        for model in ("mine", "JINA-EMBEDDINGS-V3", "jina-ai/jina-embeddings-v3"):
            answer = await books.ask(embed(model=model), key=str(secret))
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
        assert (upstream.seen, await books.at_rest()) == ([], [])


async def test_a_private_cache_is_shared_with_nobody(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(vectors(19))
    async with counted(upstream, tmp_path, cache={"store": "memory"}) as books:
        keys = key_file(books.path)
        made = [keys.create_key({"name": name, "cache": "private"}, *WHO) for name in ("a", "b")]
        books.gateway.generations.now.callers.registry.refresh()
        answers = [await books.ask(key=str(secret)) for _, secret in (*made, *made)]
        assert [answer.headers["x-torii-cache"] for answer in answers] == ["miss", "miss", "hit", "hit"]


async def test_a_model_without_a_price_is_refused_to_a_budget_in_dollars(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(vectors(19))
    callers = [caller(budgets=[budget(1, "usd")])]
    async with counted(upstream, tmp_path, callers=callers) as books:
        answer = await books.ask()
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "model_not_priced")
        assert (upstream.seen, await books.at_rest()) == ([], [])
