"""The ledger over real sockets: one row for each call that reached an upstream, and no other. Storage problems
affect no call."""

from __future__ import annotations

import asyncio
import re
import socket
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.storage.ledger_file import CallRow, LedgerFile
from app.storage.schema import calls

from ..conftest import (
    AIHUBMIX_KEY,
    PATIENCE,
    RunningGateway,
    Script,
    ScriptedUpstream,
    read_request,
    replies,
    running_gateway,
    scripted_upstream,
    settings_for,
    streams,
    until,
)
from ..ledger import read
from ..ports import closed_port, full_port

ROOT = Path(__file__).parents[2]
EMBED = {"model": "jina-embeddings-v3", "input": ["four", "bytes, more"]}  # 15 bytes: 3 tokens by estimate
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x" * 36}]}  # 40 bytes with the role: 10
DEEP = {"model": "jina-deepsearch-v1", "messages": [{"role": "user", "content": "x" * 36}], "stream": True}
DONE = b"data: [DONE]\n\n"


def vectors(usage: Any) -> Script:
    data = [{"index": place, "embedding": [0.5]} for place in range(2)]
    return replies({"data": data, **({} if usage is ... else {"usage": usage})})


def completion(usage: Any) -> Script:
    message = {"role": "assistant", "content": "y" * 80}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return replies({"choices": choices, **({} if usage is ... else {"usage": usage})})


def chunk(content: str, finish: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]
    return b"data: %s\n\n" % msgspec.json.encode({"choices": choices, **more})


@dataclass
class Books:
    """The gateway with a ledger, and the ledger's rows."""

    gateway: RunningGateway
    path: Path

    def rows(self) -> list[dict[str, Any]]:
        names = CallRow._fields
        found = read(self.path, f"SELECT {', '.join(names)} FROM calls")
        return [dict(zip(names, row, strict=True)) for row in found]

    async def have(self, count: int) -> list[dict[str, Any]]:
        await until(lambda: len(self.rows()) >= count)
        return self.rows()

    async def one(self) -> dict[str, Any]:
        (row,) = await self.have(1)
        return row


@pytest.fixture
async def books(upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path) -> AsyncIterator[Books]:
    path = tmp_path / "torii.db"
    with closing(LedgerFile(path, busy_seconds=0.05, flush_seconds=0.01)) as database:
        async with running_gateway(settings_for(upstream.url, other_upstream.url), database) as gateway:
            yield Books(gateway, path)


def used(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["prompt_tokens"], row["completion_tokens"], row["total_tokens"], row["estimated"]


# --------------------------------------------------------------- contents of a row


async def test_a_row_says_who_called_what_where_and_how_it_went(books: Books, upstream: ScriptedUpstream) -> None:
    upstream.plays(vectors({"total_tokens": 9}))
    before = time.time()
    response = await books.gateway.post("/v1/embeddings", EMBED)
    row = await books.one()
    assert before * 1000 - 1 <= row.pop("time") <= time.time() * 1000
    assert 0 < row.pop("seconds") < 30
    assert row == {
        "caller": "open",
        "endpoint": "embeddings",
        "model": "jina-embeddings-v3",
        "upstream": "jina",
        "upstream_model": "jina-embeddings-v3",
        "key": "jina",
        "status": 200,
        "error": None,
        "prompt_tokens": 9,
        "completion_tokens": 0,
        "total_tokens": 9,
        "estimated": 0,
        "first_event_seconds": None,
        "attempts": 1,
        "request_id": response.headers["x-request-id"],
        "kind": "call",
        "requests": 1,
        "key_id": None,
        "team": None,
        "model_id": "jina-embeddings-v3",
        "stream": 0,
        "cached_tokens": 0,
        "cost": None,
        "price_date": None,
        "user": None,
        "tag": None,
        "run_id": None,
    }


async def test_each_upstream_that_was_asked_has_a_row(
    books: Books, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    upstream.plays(replies({"detail": "no"}, 500))
    other_upstream.plays(vectors({"total_tokens": 9}))
    await books.gateway.post("/v1/embeddings", {**EMBED, "model": "jina-embeddings-v3"})
    left, row = await books.have(2)
    assert (left["upstream"], left["key"], left["status"], left["error"]) == ("jina", "jina", 502, "upstream_error")
    assert (row["upstream"], row["key"], row["status"], row["error"]) == ("aihubmix", "aihubmix", 200, None)
    assert left["request_id"] == row["request_id"]
    assert [(each["attempts"], used(each)) for each in (left, row)] == [(1, (0, 0, 0, 0)), (1, (9, 0, 9, 0))]


async def test_the_last_upstream_that_was_reached_has_the_calls_end(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """Although another upstream was tried after it, but could not be connected to."""
    upstream.plays(replies({"detail": "busy"}, 503))
    with closed_port() as url, closing(LedgerFile(tmp_path / "torii.db")) as database:
        async with running_gateway(settings_for(upstream.url, url, max_attempts=1), database) as gateway:
            answer = await gateway.post("/v1/embeddings", EMBED)
    [row] = Books(gateway, tmp_path / "torii.db").rows()
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unreachable")
    assert (row["upstream"], row["status"], row["error"]) == ("jina", 502, "upstream_unreachable")


async def test_a_call_that_failed_has_its_error_and_no_tokens(
    books: Books, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    upstream.plays(replies({"detail": "no"}, 500))
    other_upstream.plays(replies({"error": {"message": "no", "code": f"bad {AIHUBMIX_KEY}"}}, 400))
    assert (await books.gateway.post("/v1/embeddings", EMBED)).status_code == 400
    left, row = await books.have(2)
    assert (left["status"], left["error"], used(left)) == (502, "upstream_error", (0, 0, 0, 0))
    assert (row["status"], row["attempts"], used(row)) == (400, 1, (0, 0, 0, 0))
    assert row["error"]
    assert AIHUBMIX_KEY not in row["error"]


async def test_a_mistake_of_our_own_is_booked_too(
    books: Books, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.plays(vectors({"total_tokens": 9}))
    monkeypatch.setattr("app.endpoints.embeddings.Embeddings.render", lambda *_: 1 / 0)
    assert (await books.gateway.post("/v1/embeddings", EMBED)).status_code == 500
    row = await books.one()
    assert (row["status"], row["error"], used(row)) == (500, "internal_error", (9, 0, 9, 0))


async def test_calls_that_reached_no_upstream_have_no_row(books: Books, upstream: ScriptedUpstream) -> None:
    upstream.plays(vectors({"total_tokens": 9}))
    refused = [
        ("/v1/embeddings", b"no json", 400),
        ("/v1/embeddings", {**EMBED, "input": []}, 400),
        ("/v1/embeddings", {**EMBED, "model": "jina-reranker-m0"}, 400),
        ("/v1/chat/completions", {**DEEP, "tools": [{"type": "function"}]}, 400),
        ("/v1/nothing", EMBED, 404),
    ]
    for path, body, status in refused:
        assert (await books.gateway.post(path, body)).status_code == status
    await books.gateway.post("/v1/embeddings", EMBED)
    await books.one()
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("engine", ["httptools", "httpx"])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/chat/completions"])
@pytest.mark.parametrize(("port", "status"), [(closed_port, 502), (full_port, 502), (full_port, 499)])
async def test_a_call_that_met_nobody_has_no_row(
    port: Any, status: int, path: str, engine: Any, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """If the connection is refused, and if it is never accepted until the timeout or until the caller leaves."""
    body = {**(EMBED if path == "/v1/embeddings" else DEEP)}
    upstream.plays(vectors({"total_tokens": 9}))
    with port() as url, closing(LedgerFile(tmp_path / "torii.db")) as database:
        times = {"connect_seconds": 30 if status == 499 else 0.2}
        settings = settings_for(url, upstream.url, http_client=engine, max_attempts=1, timeouts=times)
        async with running_gateway(settings, database) as gateway:
            call = asyncio.create_task(gateway.post(path, {**body, "model": f"jina/{body['model']}"}))
            if status == 499:
                [state] = gateway.generations.now.pools["jina"].states
                await until(lambda: state.at_work == 1)
                call.cancel()
            [record] = await gateway.ended(1)
            assert (record.status, record.attempts) == (status, 0)
            await asyncio.wait([call])
            await gateway.post("/v1/embeddings", {**EMBED, "model": "aihubmix/jina-embeddings-v3"})
    assert [row["upstream"] for row in Books(gateway, tmp_path / "torii.db").rows()] == ["aihubmix"]


async def test_attempts_are_the_requests_that_went_out(tmp_path: Path) -> None:
    """The request of the second call is sent on a kept connection that is just being closed, then on a new one: one
    attempt.

    The third call gets a 503, and its retry cannot connect.
    """
    answers = vectors({"total_tokens": 9})
    refuses = replies({"detail": "busy"}, 503, connection="close")
    connections: list[list[Script]] = [[answers], [answers, refuses]]
    calls = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        scripts = connections.pop(0)
        while (request := await read_request(reader)) and scripts:
            calls += 1
            if calls == 3:
                server.close()
            await scripts.pop(0)(request, writer)
        writer.close()

    server = await asyncio.start_server(play, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with closing(LedgerFile(tmp_path / "torii.db")) as database:
        async with running_gateway(settings_for(url), database) as gateway:
            statuses = [(await gateway.post("/v1/embeddings", EMBED)).status_code for _ in range(3)]
    rows = Books(gateway, tmp_path / "torii.db").rows()
    assert statuses == [200, 200, 502]
    assert [(row["status"], row["error"], row["attempts"]) for row in rows] == [
        (200, None, 1),
        (200, None, 1),
        (502, "upstream_unreachable", 1),
    ]


async def test_what_did_not_go_out_is_estimated_nowhere(tmp_path: Path) -> None:
    """The caller leaves while the retry of a refused request waits for a connection that is never accepted."""
    loop = asyncio.get_running_loop()
    waiting = [socket.socket() for _ in range(4)]
    with socket.socket() as port, closing(LedgerFile(tmp_path / "torii.db")) as database:
        port.bind(("127.0.0.1", 0))
        port.listen(0)
        port.setblocking(False)
        url = f"http://127.0.0.1:{port.getsockname()[1]}"
        async with running_gateway(settings_for(url), database) as gateway:
            call = asyncio.create_task(gateway.post("/v1/embeddings", EMBED))
            taken, _ = await loop.sock_accept(port)
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(port.getsockname())
            reader, writer = await asyncio.open_connection(sock=taken)
            request = await read_request(reader)
            assert request is not None
            await replies({"detail": "busy"}, 503, connection="close")(request, writer)
            [state] = gateway.generations.now.pools["jina"].states
            await until(lambda: (state.calls, state.at_work) == (2, 1))
            call.cancel()
            await gateway.ended(1)
            writer.close()
    for each in waiting:
        each.close()
    [row] = Books(gateway, tmp_path / "torii.db").rows()
    assert (row["status"], row["attempts"], used(row)) == (499, 1, (0, 0, 0, 0))


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 7, "total_tokens": 7}, (7, 0, 7, 0)),
        ({"total_tokens": 7}, (7, 0, 7, 0)),
        ({"prompt_tokens": 7}, (7, 0, 7, 0)),
        ({"prompt_tokens": 0, "total_tokens": 0}, (0, 0, 0, 0)),
        ({"prompt_tokens": -5, "total_tokens": 7}, (7, 0, 7, 0)),
        (..., (3, 0, 3, 1)),
        (None, (3, 0, 3, 1)),
        ("many", (3, 0, 3, 1)),
        ({}, (3, 0, 3, 1)),
        ({"total_tokens": None}, (3, 0, 3, 1)),
        ({"total_tokens": -7}, (3, 0, 3, 1)),
        ({"total_tokens": "7"}, (3, 0, 3, 1)),
        ({"total_tokens": 1e30}, (3, 0, 3, 1)),
        ({"total_tokens": True}, (3, 0, 3, 1)),
        ({"total_tokens": 10**30}, (3, 0, 3, 1)),
    ],
    ids=str,
)
async def test_embeddings_are_booked_as_counted_or_estimated(
    usage: Any, expected: tuple[int, ...], books: Books, upstream: ScriptedUpstream
) -> None:
    raw = msgspec.json.encode({"data": [{"index": i, "embedding": [0.5]} for i in range(2)], "usage": 0})
    if isinstance(usage, dict) and usage.get("total_tokens") == 10**30:
        upstream.plays(replies(raw.replace(b'"usage":0', b'"usage":{"total_tokens":1%s}' % (b"0" * 30))))
    else:
        upstream.plays(vectors(usage))
    assert (await books.gateway.post("/v1/embeddings", EMBED)).status_code == 200
    assert used(await books.one()) == expected


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}, (7, 2, 9, 0)),
        ({"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 50}, (7, 2, 50, 0)),
        ({"prompt_tokens": 7, "completion_tokens": 2}, (7, 2, 9, 0)),
        ({"prompt_tokens": 7, "total_tokens": 9}, (7, 2, 9, 0)),
        ({"completion_tokens": 2, "total_tokens": 9}, (7, 2, 9, 0)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (0, 0, 0, 0)),
        ({"prompt_tokens": 7}, (7, 20, 27, 1)),
        ({"completion_tokens": 2}, (10, 2, 12, 1)),
        ({"total_tokens": 100}, (10, 90, 100, 1)),
        ({"total_tokens": 4}, (4, 0, 4, 1)),
        ({"prompt_tokens": 7, "completion_tokens": -2, "total_tokens": "9"}, (7, 20, 27, 1)),
        (..., (10, 20, 30, 1)),
        (None, (10, 20, 30, 1)),
        ("many", (10, 20, 30, 1)),
        ([1], (10, 20, 30, 1)),
    ],
    ids=str,
)
async def test_whole_chats_are_booked_as_counted_or_estimated(
    usage: Any, expected: tuple[int, ...], books: Books, other_upstream: ScriptedUpstream
) -> None:
    other_upstream.plays(completion(usage))
    assert (await books.gateway.post("/v1/chat/completions", CHAT)).status_code == 200
    assert used(await books.one()) == expected


@pytest.mark.parametrize(
    ("pieces", "end", "status", "expected"),
    [
        ([chunk("y" * 40), chunk("y" * 40, "stop"), DONE], "clean", 200, (10, 20, 30, 1)),
        (
            [
                chunk("y"),
                chunk("", "stop", usage={"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}),
                DONE,
            ],
            "clean",
            200,
            (5, 0, 5, 0),
        ),
        ([chunk("y" * 80)], "cut", 502, (10, 20, 30, 1)),
        ([chunk("y" * 80)], "clean", 502, (10, 20, 30, 1)),
        ([chunk("y" * 80), b"data: {half\n\n"], "open", 502, (10, 20, 30, 1)),
        ([chunk("y", usage={"prompt_tokens": 5, "completion_tokens": 1})], "cut", 502, (5, 1, 6, 0)),
        ([chunk("y" * 80), b'data: {"error":{"message":"no"}}\n\n'], "open", 502, (0, 0, 0, 0)),
        (
            [chunk("y", usage={"total_tokens": 6, "prompt_tokens": 5}), b'data: {"error":{"message":"no"}}\n\n'],
            "open",
            502,
            (5, 1, 6, 0),
        ),
    ],
    ids=["uncounted", "zero", "cut", "ended", "garbled", "cut, counted", "error", "error, counted"],
)
async def test_streams_are_booked_as_counted_or_by_what_was_seen(
    pieces: list[bytes],
    end: str,
    status: int,
    expected: tuple[int, ...],
    books: Books,
    other_upstream: ScriptedUpstream,
) -> None:
    other_upstream.plays(streams(*pieces, end=end))
    await books.gateway.post("/v1/chat/completions", {**CHAT, "stream": True})
    row = await books.one()
    assert (row["status"], used(row)) == (status, expected)
    assert 0 < row["first_event_seconds"] <= row["seconds"]


async def test_a_caller_who_leaves_a_stream_is_booked_with_what_was_seen(
    books: Books, other_upstream: ScriptedUpstream
) -> None:
    never = asyncio.Event()
    other_upstream.plays(streams(chunk("y" * 80), never))
    body = {**CHAT, "stream": True}
    async with books.gateway.client.stream("POST", "/v1/chat/completions", json=body) as response:
        await anext(response.aiter_bytes())
    row = await books.one()
    assert (row["status"], row["error"], used(row)) == (499, None, (10, 20, 30, 1))
    never.set()


async def test_a_caller_who_leaves_before_the_answer_is_booked_with_his_input(
    books: Books, upstream: ScriptedUpstream
) -> None:
    never = asyncio.Event()
    upstream.plays(streams(never))
    call = asyncio.create_task(books.gateway.post("/v1/embeddings", EMBED))
    await until(lambda: len(upstream.seen) == 1)
    call.cancel()
    row = await books.one()
    assert (row["status"], used(row)) == (499, (3, 0, 3, 1))
    never.set()


async def test_deepsearch_for_a_caller_who_does_not_stream_is_booked_as_counted(
    books: Books, upstream: ScriptedUpstream
) -> None:
    think = b'data: {"choices":[{"delta":{"type":"think","content":"<think>hm</think>"}}]}\n\n'
    upstream.plays(streams(think, chunk("y" * 76, "stop")))
    whole = {**DEEP, "stream": False}
    assert (await books.gateway.post("/v1/chat/completions", whole)).status_code == 200
    row = await books.one()
    assert used(row)[0] == 10
    assert row["estimated"] == 1
    assert used(row)[1] > 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("sent", "kept"), [('"1742181758589"', "1742181758589"), ("7", None), ('"' + "r" * 999 + '"', "r" * 128)]
)
async def test_a_run_of_deepsearch_has_the_providers_id(
    stream: bool, sent: str, kept: str | None, books: Books, upstream: ScriptedUpstream
) -> None:
    first = f'data: {{"id":{sent},"choices":[{{"delta":{{"type":"think","content":"<think>hm"}}}}]}}\n\n'
    upstream.plays(streams(first.encode(), chunk("y", "stop")))
    assert (await books.gateway.post("/v1/chat/completions", {**DEEP, "stream": stream})).status_code == 200
    assert (await books.one())["run_id"] == kept


# ----------------------------------------------------------------- one row per call


async def test_the_books_equal_the_calls(books: Books, upstream: ScriptedUpstream) -> None:
    """200 calls of every kind, ten at a time: each that reached an upstream has exactly one row."""
    never = asyncio.Event()
    scripts: dict[str, Script] = {
        "ok": vectors({"total_tokens": 2}),
        "failed": replies({"detail": "no"}, 400),
        "left": streams(never),
        "stream": streams(b'data: {"choices":[{"delta":{"type":"text","content":"hi"},"finish_reason":"stop"}]}\n\n'),
        "cut": streams(b'data: {"choices":[{"delta":{"type":"text","content":"hi"}}]}\n\n', end="cut"),
    }

    async def play(request: Any, writer: asyncio.StreamWriter) -> Any:
        name = request.body.get("play") or request.body["messages"][0]["content"]
        return await scripts[name](request, writer)

    upstream.plays(play)
    expected = {"ok": 200, "failed": 400, "left": 499, "stream": 200, "cut": 502}

    async def call(kind: str) -> None:
        if kind == "refused":
            assert (await books.gateway.post("/v1/embeddings", {**EMBED, "input": []})).status_code == 400
        elif kind in ("stream", "cut"):
            messages = [{"role": "user", "content": kind}]
            await books.gateway.post("/v1/chat/completions", {**DEEP, "messages": messages})
        elif kind == "left":
            sent = len(upstream.seen)
            task = asyncio.create_task(books.gateway.post("/v1/embeddings", {**EMBED, "play": kind}))
            await until(lambda: sum(seen.body.get("play") == "left" for seen in upstream.seen[sent:]) > 0)
            task.cancel()
        else:
            await books.gateway.post("/v1/embeddings", {**EMBED, "play": kind})

    kinds = ["ok", "failed", "stream", "refused", "cut", "ok", "stream", "ok", "refused", "left"]
    for _ in range(20):
        await asyncio.gather(*map(call, kinds))
    rows = await books.have(160)
    statuses = sorted(row["status"] for row in rows)
    assert statuses == sorted(expected[kind] for kind in kinds * 20 if kind != "refused")
    assert len({row["request_id"] for row in rows}) == 160
    assert sum(row["total_tokens"] for row in rows if row["status"] == 200 and row["endpoint"] == "embeddings") == 120
    never.set()


# ------------------------------------------------------ storage problems affect no call


async def test_a_locked_ledger_hurts_no_call_and_shows_in_the_health(books: Books, upstream: ScriptedUpstream) -> None:
    upstream.plays(vectors({"total_tokens": 2}))
    health = await books.gateway.client.get("/healthz")
    assert health.json()["status"] == "ok"
    with closing(sqlite3.connect(books.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for _ in range(5):
            assert (await books.gateway.post("/v1/embeddings", EMBED)).status_code == 200
        body: dict[str, Any] = {}
        async with asyncio.timeout(PATIENCE):
            while body.get("database", {}).get("waiting") != 5:
                health = await books.gateway.client.get("/healthz")
                body = health.json()
        assert health.status_code == 200
        assert body["status"] == "degraded"
        assert body["database"].pop("since") > 0
        assert body["database"] == {"what": "another program has locked it", "waiting": 5, "lost": 0}
        other.execute("ROLLBACK")
    assert len(await books.have(5)) == 5
    async with asyncio.timeout(PATIENCE):
        while (await books.gateway.client.get("/healthz")).json()["status"] != "ok":
            pass


async def test_without_a_database_there_is_no_ledger(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(vectors({"total_tokens": 2}))
    assert (await gateway.post("/v1/embeddings", EMBED)).status_code == 200
    assert (await gateway.client.get("/healthz")).json()["status"] == "ok"


async def test_no_key_gets_into_the_file_by_a_name(tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    model = f"aihubmix/{AIHUBMIX_KEY}-mini"
    with closing(LedgerFile(path, flush_seconds=0.01)) as database:
        async with scripted_upstream() as aihubmix:
            aihubmix.plays(completion({"total_tokens": 2}))
            async with running_gateway(settings_for(None, aihubmix.url), database) as gateway:
                answer = await gateway.post("/v1/chat/completions", {**CHAT, "model": model})
                assert answer.status_code == 200, answer.text
    assert read(path, "SELECT model, upstream_model FROM calls") == [("aihubmix/[redacted]-mini", "[redacted]-mini")]
    assert AIHUBMIX_KEY.encode() not in path.read_bytes()


# ---------------------------------------------------------------- documentation


def test_the_columns_are_those_of_the_table_and_of_the_page() -> None:
    assert [column.name for column in calls.columns] == ["id", *CallRow._fields]
    page = (ROOT / "docs/ledger.md").read_text(encoding="utf-8").partition("\n| column |")[2]
    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == list(CallRow._fields)
