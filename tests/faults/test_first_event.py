"""Rows 53, 55, 57: the wait for a stream's first event, before and after the gateway has sent its own head."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest

from ..conftest import RunningGateway, Script, streams, until
from .bench import (
    CHATS,
    DEEP,
    LONG,
    SOON,
    Bench,
    above_the_wire,
    asked,
    assert_booked,
    assert_booked_as,
    assert_clean,
    assert_complete,
    assert_failed,
    at_once,
    read_events,
)
from .scripts import LAST, STREAM_HEAD, chunk, delta, hang, sse, thought, wire
from .test_streams import DEEPSEARCH, DONE, MODEL, SILENT, TEXT, Speech, each_speech

PING = b": ping\n"
OPERATOR = "operator-key-0123456789"

# Events without any content.
HOLLOW: dict[str, bytes] = {
    "nothing": b"",
    "comments": b": working\n\n:\n\n",
    "an open event": b": working\n\ndata: ",
    "<think>": sse(thought("<think>")),
    "a role": sse(
        {"id": "u", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    ),
    "no choices": sse({"id": "u", "choices": [], "prompt_filter_results": []}),
}


def hollow(speech: Speech) -> dict[str, bytes]:
    """``<think>`` counts as text if the model does not mark its thinking."""
    return {kind: first for kind, first in HOLLOW.items() if speech is DEEPSEARCH or kind != "<think>"}


async def state(gateway: RunningGateway) -> dict[str, Any]:
    """The state of the only key, from the operator's endpoint."""
    answer = await gateway.client.get("/admin/upstreams", headers={"authorization": f"Bearer {OPERATOR}"})
    [row] = answer.json()["data"]
    assert isinstance(row, dict)
    return row


async def rested(gateway: RunningGateway) -> dict[str, Any]:
    """The state of the only key, once no call uses the key."""
    row = await state(gateway)
    for _ in range(1000):
        if not row["at_work"]:
            break
        await asyncio.sleep(0.005)
        row = await state(gateway)
    assert row["at_work"] == 0
    return row


class Upstream:
    """An upstream that sends ``first`` after its head, and the rest when ``more`` is set."""

    def __init__(self, speech: Speech, bench: Bench, first: bytes, *rest: bytes | float, end: str = "fin") -> None:
        self.at = speech.of(bench)
        self.speech = speech
        self.more = asyncio.Event()
        self.head_out = asyncio.Event()
        self.closed = asyncio.Event()
        self._first = [chunk(first)] if first else []
        self._rest = rest
        self._end = end
        self.at.plays(self.play)

    async def play(self, request: Any, writer: asyncio.StreamWriter) -> bool:
        writer.write(STREAM_HEAD + b"".join(self._first))
        await writer.drain()
        self.head_out.set()
        await self.more.wait()
        return bool(await wire(*self._rest, end=self._end)(request, writer))


class Caller:
    """A caller who has received the gateway's head and a comment while the upstream has sent no content."""

    def __init__(self, response: httpx.Response, pieces: AsyncIterator[bytes], got: bytes) -> None:
        self.response = response
        self.got = got
        self._pieces = pieces

    async def rest(self) -> bytes:
        """The whole body, once it has ended."""
        async for piece in self._pieces:
            self.got += piece
        return self.got


@asynccontextmanager
async def told_that_it_lives(gateway: RunningGateway, body: Any) -> AsyncIterator[Caller]:
    async with gateway.client.stream("POST", CHATS, json=body) as response:
        assert response.status_code == 200
        pieces, got = response.aiter_raw(), b""
        while PING not in got:
            got += await anext(pieces)
        yield Caller(response, pieces, got)


def assert_only_an_error(got: bytes, code: str) -> str:
    """Check for comments, events without content, one error event and no [DONE]. Returns the message."""
    *before, last = read_events(got)
    assert set(last) == {"error", "detail"}
    assert last["error"]["code"] == code
    for event in before:
        [choice] = event["choices"] or [{"delta": {}}]
        assert not any(value for name, value in choice["delta"].items() if name != "role")
    return assert_clean(last["detail"])


# 55: comments are signs of life.


@each_speech
@pytest.mark.parametrize("ping_seconds", [0.05, LONG], ids=["told", "untold"])
async def test_comments_before_the_first_event_keep_a_call_alive(
    ping_seconds: float, speech: Speech, bench: Bench
) -> None:
    """The comments last longer than the deadlines for a head and for a silence."""
    comments: list[bytes | float | asyncio.Event] = [chunk(b": keepalive\n\n"), 0.1] * 15
    speech.of(bench).plays(wire(STREAM_HEAD, *comments, chunk(speech.good), LAST, end="open"))
    timeouts = {"headers_seconds": SOON, "idle_seconds": SOON}
    async with speech.before(bench, timeouts=timeouts, ping_seconds=ping_seconds) as gateway:
        response = await asked(gateway, CHATS, speech.asks)
        assert_complete(response, TEXT)
        [record] = await assert_booked(gateway, 200)
    assert (PING in response.content) == (ping_seconds < SOON)
    assert record.usage == speech.usage
    assert response.headers["x-torii-upstream"] == speech.name
    assert len(speech.of(bench).seen) == 1


async def test_comments_keep_a_run_alive_for_a_caller_who_does_not_stream(bench: Bench) -> None:
    comments: list[bytes | float | asyncio.Event] = [chunk(b": keepalive\n\n"), 0.1] * 15
    bench.jina.plays(wire(STREAM_HEAD, *comments, chunk(DEEPSEARCH.good), LAST, end="open"))
    timeouts = {"headers_seconds": SOON, "idle_seconds": SOON}
    async with bench.gateway(timeouts=timeouts, ping_seconds=0.05) as gateway:
        response = await asked(gateway, CHATS, {**DEEP, "stream": False})
        await assert_booked(gateway, 200)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json()["choices"][0]["message"]["content"] == TEXT


@each_speech
async def test_what_says_nothing_does_not_begin_a_stream(
    speech: Speech, bench: Bench, subtests: pytest.Subtests
) -> None:
    """A failure after such a beginning gets a status of its own, and a retryable call is retried."""
    async with speech.before(bench, ping_seconds=LONG) as gateway:
        for kind, first in hollow(speech).items():
            with subtests.test(kind):
                speech.of(bench).seen.clear()
                broken = Upstream(speech, bench, first, chunk(b'{"error":{"message":"boom"}}\n\n'), LAST, end="open")
                if kind != "an open event":
                    broken = Upstream(
                        speech, bench, first, chunk(sse({"error": {"message": "boom"}})), LAST, end="open"
                    )
                broken.more.set()
                response = await asked(gateway, CHATS, speech.asks)
                assert_failed(response, 502, "upstream_error", should_retry=speech.retry, upstream=speech.name)
                await assert_booked_as(gateway, response, 502)
                assert len(speech.of(bench).seen) == speech.tries


@above_the_wire
async def test_another_answers_where_nothing_was_said(bench: Bench) -> None:
    """Before the gateway has sent its own head, another attempt is made."""
    role = HOLLOW["a role"]
    bench.aihubmix.plays(streams(role, sse({"error": {"message": "boom"}})), streams(role + MODEL.good))
    async with bench.mixed(ping_seconds=LONG) as gateway:
        response = await asked(gateway, CHATS, MODEL.asks)
        assert_complete(response, TEXT)
    assert len(bench.aihubmix.seen) == 2


@each_speech
async def test_a_caller_is_told_that_his_stream_lives(speech: Speech, bench: Bench, subtests: pytest.Subtests) -> None:
    """After the upstream's 200, for each kind of empty beginning; then comes the answer, without repetition."""
    async with speech.before(bench, ping_seconds=0.05, operator_key=OPERATOR) as gateway:
        for kind, first in hollow(speech).items():
            with subtests.test(kind):
                good = speech.good.removeprefix(b"data: " if kind == "an open event" else b"")
                upstream = Upstream(speech, bench, first, chunk(good), LAST, end="open")
                async with told_that_it_lives(gateway, speech.asks) as caller:
                    assert caller.response.headers["x-torii-upstream"] == speech.name
                    assert (await state(gateway))["at_work"] == 1
                    upstream.more.set()
                    body = await caller.rest()
                assert_complete(httpx.Response(200, headers=caller.response.headers, content=body), TEXT)
                record = await assert_booked_as(gateway, caller.response, 200)
                assert record.usage == speech.usage
                row = await rested(gateway)
                assert (row["state"], row["failures"], row["broken"]) == ("healthy", 0, False)


@each_speech
async def test_the_wait_is_over_once_something_was_said(speech: Speech, bench: Bench) -> None:
    """A silence after the first content costs no CPU: a repeated scan for the first event would use all of it."""
    speech.of(bench).plays(wire(STREAM_HEAD, chunk(speech.begin), 1.0, chunk(speech.end), LAST, end="open"))
    async with speech.before(bench, ping_seconds=0.2) as gateway:
        before = time.process_time()
        response = await asked(gateway, CHATS, speech.asks)
        assert time.process_time() - before < 0.5
    assert_complete(response, TEXT)


# 53, 57: failures after the gateway's own head.

Failing = tuple[list[bytes | float], str, int, str, dict[str, Any]]
BLAMED = {"failures": 1, "state": "healthy", "cause": None}
AFTER: dict[str, Failing] = {
    "a FIN": ([], "fin", 502, "upstream_error", BLAMED),
    "a reset": ([], "reset", 502, "upstream_error", BLAMED),
    "an end": ([LAST], "open", 502, "upstream_stream_truncated", BLAMED),
    "only [DONE]": ([chunk(DONE), LAST], "open", 502, "upstream_stream_truncated", BLAMED),
    "nonsense": ([chunk(b"data: {\n\n")], "hang", 502, "upstream_error", BLAMED),
    "an error": ([chunk(sse({"error": {"message": "boom"}}))], "hang", 502, "upstream_error", BLAMED),
    "a refused key": (
        [chunk(sse({"error": {"message": "no", "code": "AUTH_INVALID"}}))],
        "hang",
        502,
        "upstream_auth",
        {"failures": 1, "state": "resting", "cause": "refused"},
    ),
    "an empty account": (
        [chunk(sse({"error": {"message": "Your account balance is insufficient."}}))],
        "hang",
        503,
        "upstream_quota",
        {"failures": 1, "state": "resting", "cause": "account empty"},
    ),
    "a rate limit": (
        [chunk(sse({"error": {"message": "slow down", "code": "RATE_LIMIT"}}))],
        "hang",
        429,
        "upstream_rate_limited",
        {"failures": 1, "state": "resting", "cause": "rate limited"},
    ),
}


@each_speech
async def test_a_failure_after_our_own_head_is_told_in_the_stream(
    speech: Speech, engine: str, subtests: pytest.Subtests
) -> None:
    """An error event, no [DONE], no retry. The failure counts against key and upstream as it does before the head."""

    def before(bench: Bench, failing: Failing) -> AbstractAsyncContextManager[RunningGateway]:
        return speech.before(bench, ping_seconds=0.05, operator_key=OPERATOR)

    async def check(bench: Bench, gateway: RunningGateway, failing: Failing) -> None:
        rest, end, status, code, about = failing
        upstream = Upstream(speech, bench, b": working\n\n", *rest, end=end)
        async with told_that_it_lives(gateway, speech.asks) as caller:
            upstream.more.set()
            assert_only_an_error(await caller.rest(), code)
        record = await assert_booked_as(gateway, caller.response, status)
        assert not record.usage
        assert len(upstream.at.seen) == 1
        row = await rested(gateway)
        assert {name: row[name] for name in about} == about

    await at_once(AFTER, engine, before, check, subtests)


@each_speech
async def test_a_silence_after_our_own_head_is_told_in_the_stream(
    speech: Speech, engine: str, subtests: pytest.Subtests
) -> None:
    def before(bench: Bench, silent: tuple[Script, str]) -> AbstractAsyncContextManager[RunningGateway]:
        return speech.before(bench, timeouts={silent[1]: SOON}, ping_seconds=0.05, operator_key=OPERATOR)

    async def check(bench: Bench, gateway: RunningGateway, silent: tuple[Script, str]) -> None:
        speech.of(bench).plays(silent[0])
        response = await asked(gateway, CHATS, speech.asks)
        record = await assert_booked_as(gateway, response, 504)
        assert response.status_code == 200
        assert PING in response.content
        assert_only_an_error(response.content, "upstream_timeout")
        assert record.seconds is not None
        assert len(speech.of(bench).seen) == 1
        assert (await rested(gateway))["failures"] == 1

    silences = {kind: silent for kind, silent in SILENT.items() if silent[0] is not hang}
    await at_once(silences, engine, before, check, subtests)


@each_speech
async def test_no_head_goes_out_before_the_upstreams(speech: Speech, bench: Bench) -> None:
    speech.of(bench).plays(hang)
    timeouts = {"headers_seconds": SOON}
    async with speech.before(bench, timeouts=timeouts, ping_seconds=0.05, max_attempts=1) as gateway:
        response = await asked(gateway, CHATS, speech.asks)
        assert_failed(response, 504, "upstream_timeout", should_retry=speech.retry, upstream=speech.name)


@above_the_wire
async def test_an_upstream_that_breaks_after_our_own_head_is_asked_last(bench: Bench) -> None:
    """Five failures in a row open the breaker, as with any other failure: the head that was sent is no success."""
    async with bench.mixed(ping_seconds=0.02, operator_key=OPERATOR) as gateway:
        for _ in range(5):
            assert not (await state(gateway))["broken"]
            upstream = Upstream(MODEL, bench, b"")
            async with told_that_it_lives(gateway, MODEL.asks) as caller:
                upstream.more.set()
                assert_only_an_error(await caller.rest(), "upstream_error")
            await rested(gateway)
        assert (await state(gateway))["broken"]
        upstream = Upstream(MODEL, bench, b"", chunk(MODEL.good), LAST, end="open")
        async with told_that_it_lives(gateway, MODEL.asks) as caller:
            assert (await state(gateway))["broken"]
            upstream.more.set()
            await caller.rest()
        assert not (await rested(gateway))["broken"]


# Waits that end without an upstream's fault.


@each_speech
async def test_a_caller_who_leaves_while_nothing_was_said(
    speech: Speech, bench: Bench, subtests: pytest.Subtests
) -> None:
    """Before and after the gateway's head: recorded once as 499, the upstream's connection closed, the key free, no
    failure counted."""
    for ping_seconds in (0.05, LONG):
        async with speech.before(bench, ping_seconds=ping_seconds, operator_key=OPERATOR) as gateway:
            with subtests.test("told" if ping_seconds < SOON else "untold"):
                upstream = Upstream(speech, bench, b": working\n\n")
                if ping_seconds < SOON:
                    async with told_that_it_lives(gateway, speech.asks):
                        pass
                else:
                    call = asyncio.ensure_future(asked(gateway, CHATS, speech.asks))
                    await upstream.head_out.wait()
                    call.cancel()
                [record] = await assert_booked(gateway, 499)
                assert record.error is None
                await until(speech.of(bench).readers[-1].at_eof)
                row = await rested(gateway)
                assert (row["state"], row["failures"], row["broken"]) == ("healthy", 0, False)
                upstream.more.set()


@each_speech
async def test_a_shutdown_while_nothing_was_said(speech: Speech, bench: Bench, subtests: pytest.Subtests) -> None:
    """Before the gateway's head, the caller gets a status, after it an error event. No failure is counted for the
    upstream."""
    for ping_seconds in (0.05, LONG):
        async with speech.before(bench, ping_seconds=ping_seconds, drain_seconds=0.2) as gateway:
            with subtests.test("told" if ping_seconds < SOON else "untold"):
                upstream = Upstream(speech, bench, b": working\n\n")
                if ping_seconds < SOON:
                    async with told_that_it_lives(gateway, speech.asks) as caller:
                        gateway.server.handle_exit(signal.SIGTERM, None)
                        assert_only_an_error(await caller.rest(), "unavailable")
                else:
                    call = asyncio.ensure_future(asked(gateway, CHATS, speech.asks))
                    await upstream.head_out.wait()
                    gateway.server.handle_exit(signal.SIGTERM, None)
                    answer, retry = await call, speech.retry
                    assert_failed(answer, 503, "unavailable", retry_after="1", should_retry=retry, upstream=None)
                await assert_booked(gateway, 503)
                upstream.more.set()


@each_speech
async def test_the_total_time_ends_the_wait(speech: Speech, bench: Bench) -> None:
    Upstream(speech, bench, b": working\n\n")
    async with speech.before(bench, ping_seconds=0.05, timeouts={"total_seconds": SOON}) as gateway:
        response = await asked(gateway, CHATS, speech.asks)
        await assert_booked(gateway, 504)
    assert_only_an_error(response.content, "upstream_timeout")


async def test_a_tool_call_is_said_something(bench: Bench) -> None:
    """A tool call is not held back until text comes, since text may never come."""
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    first = {
        "id": "u",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": None, "tool_calls": [call]}}],
    }
    upstream = Upstream(MODEL, bench, sse(first), chunk(sse(delta("", "tool_calls")) + DONE), LAST, end="open")
    async with bench.mixed(ping_seconds=LONG) as gateway:
        async with gateway.client.stream("POST", CHATS, json=MODEL.asks) as response:
            assert b'"tool_calls"' in await anext(response.aiter_raw())
            upstream.more.set()
