"""Disconnects of callers: the upstream is closed or read to its end, and one record is written in either case."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from app.config.sections import CacheSettings, DisconnectSettings
from app.config.settings import Settings
from app.core.disconnects import Policies
from app.core.types import OnDisconnect
from app.usage.record import CallRecord

from ..conftest import (
    AIHUBMIX_KEY,
    JINA_KEY,
    PATIENCE,
    RunningGateway,
    Script,
    ScriptedUpstream,
    Seen,
    replies,
    running_gateway,
    settings_for,
    streams,
    until,
)
from ..endpoints.test_strict_input import posted
from ..server.test_slow_clients import Flood
from .test_gateway import ASK, EMBED, FULL, VECTORS

CHAT = "/v1/chat/completions"
HALF = len(FULL) // 2
WHO = {"ann": "a-key-of-ann-0123456789", "bob": "a-key-of-bob-0123456789"}


@dataclass
class Hold:
    """An answer whose second half waits for ``more``."""

    more: asyncio.Event = field(default_factory=asyncio.Event)

    def plays(self, first: bytes, rest: bytes, **how: Any) -> Script:
        return streams(first, self.more, rest, **how)

    async def embeds(self, request: Seen, writer: asyncio.StreamWriter) -> None:
        await self.more.wait()
        await replies(VECTORS)(request, writer)


@dataclass
class Case:
    """A call: the upstream's answer, whether the caller has received bytes before leaving, and the total tokens."""

    path: str
    body: Any
    halves: tuple[bytes, bytes] | None
    read: bool
    tokens: int

    def script(self, hold: Hold) -> Script:
        return hold.plays(*self.halves) if self.halves else hold.embeds


CASES = {
    "mid-stream": Case(CHAT, {**ASK, "stream": True}, (FULL[:HALF], FULL[HALF:]), True, 69650),
    "before the first event": Case(CHAT, {**ASK, "stream": True}, (b"", FULL), False, 69650),
    "embeddings": Case("/v1/embeddings", EMBED, None, False, 4),
    "collected": Case(CHAT, ASK, (FULL[:HALF], FULL[HALF:]), False, 69650),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


class Caller:
    """A connection of its own that can be closed at any time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def asks(cls, gateway: RunningGateway, path: str, body: Any, key: str = "") -> Caller:
        parts = urlsplit(gateway.url)
        caller = cls(*await asyncio.open_connection(parts.hostname, parts.port))
        data = msgspec.json.encode(body)
        head = [b"content-length: %d" % len(data), *([b"authorization: Bearer " + key.encode()] if key else [])]
        caller.writer.write(posted(*head, body=data, path=path.encode()))
        return caller

    async def leaves(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@asynccontextmanager
async def gateway_with(
    upstream: ScriptedUpstream, policy: str = "cancel", other: ScriptedUpstream | None = None, **values: Any
) -> AsyncIterator[RunningGateway]:
    disconnect = {"policy": policy, **values.pop("disconnect", {})}
    settings = settings_for(upstream.url, other.url if other else None, disconnect=disconnect, **values)
    async with running_gateway(settings) as gateway:
        yield gateway


def unattended(gateway: RunningGateway) -> int:
    return len(gateway.generations.now.handlers.admission.disconnects.unattended)


async def leave(gateway: RunningGateway, upstream: ScriptedUpstream, case: Case, key: str = "") -> None:
    """Call and disconnect as soon as the upstream has the request; if ``read``, after the first bytes of the answer."""
    asked = len(upstream.seen)
    caller = await Caller.asks(gateway, case.path, case.body, key)
    await until(lambda: len(upstream.seen) > asked)
    if case.read:
        assert (await caller.reader.readuntil(b"data: ")).startswith(b"HTTP/1.1 200")
    await caller.leaves()


def tokens(record: CallRecord) -> int | None:
    return (record.usage or {}).get("total_tokens")


async def booked(gateway: RunningGateway, count: int = 1) -> list[tuple[int | None, int | None]]:
    """Status and tokens of the calls, once ``count`` of them have ended. Fails if there are more."""
    records = await gateway.ended(count)
    assert len(records) == count
    return [(record.status, tokens(record)) for record in records]


# The outcome of the call.


@every_case
async def test_cancel_closes_the_upstream_within_a_second(case: Case, upstream: ScriptedUpstream) -> None:
    hold = Hold()
    upstream.plays(case.script(hold))
    async with gateway_with(upstream) as gateway:
        await leave(gateway, upstream, case)
        await upstream.gone(1)
        assert await booked(gateway) == [(499, None)]
        assert unattended(gateway) == 0
        hold.more.set()
    assert len(gateway.records) == 1


@every_case
@pytest.mark.parametrize("policy", ["drain", "detach"])
async def test_drain_and_detach_read_the_upstream_to_its_end(
    case: Case, policy: str, upstream: ScriptedUpstream
) -> None:
    hold = Hold()
    upstream.plays(case.script(hold))
    async with gateway_with(upstream, policy) as gateway:
        await leave(gateway, upstream, case)
        await until(lambda: unattended(gateway) == 1)
        assert gateway.records == []
        hold.more.set()
        assert await booked(gateway) == [(499, case.tokens)]
        await until(lambda: unattended(gateway) == 0)
    assert len(gateway.records) == 1
    assert len(upstream.seen) == 1


async def test_cancel_books_the_last_usage_that_was_seen(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    def chunk(total: int) -> bytes:
        choices = [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]
        return b"data: " + msgspec.json.encode({"choices": choices, "usage": {"total_tokens": total}}) + b"\n\n"

    hold = Hold()
    other_upstream.plays(hold.plays(chunk(5) + chunk(6), chunk(9)))
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with gateway_with(upstream, other=other_upstream) as gateway:
        await leave(gateway, other_upstream, Case(CHAT, body, None, True, 9))
        assert await booked(gateway) == [(499, 6)]
        hold.more.set()


async def test_a_stream_that_is_drained_and_broken_off_is_booked_too(upstream: ScriptedUpstream) -> None:
    hold = Hold()
    upstream.plays(hold.plays(FULL[:HALF], b": no more", end="cut"))
    async with gateway_with(upstream, "drain") as gateway:
        await leave(gateway, upstream, CASES["mid-stream"])
        await until(lambda: unattended(gateway) == 1)
        hold.more.set()
        assert await booked(gateway) == [(499, None)]


async def test_a_caller_who_had_all_of_it_has_not_left(upstream: ScriptedUpstream) -> None:
    """OpenAI's SDK closes the connection at [DONE]."""
    upstream.plays(streams(FULL))
    async with gateway_with(upstream, "drain") as gateway:
        caller = await Caller.asks(gateway, CHAT, {**ASK, "stream": True})
        await caller.reader.readuntil(b"[DONE]")
        await caller.leaves()
        assert await booked(gateway) == [(200, 69650)]
        await until(lambda: unattended(gateway) == 0)


# Limits in time and number.


@every_case
async def test_drain_ends_when_its_seconds_are_over(case: Case, upstream: ScriptedUpstream) -> None:
    hold = Hold()
    upstream.plays(case.script(hold))
    async with gateway_with(upstream, "drain", disconnect={"seconds": 1}) as gateway:
        await leave(gateway, upstream, case)
        await until(lambda: unattended(gateway) == 1)
        assert await booked(gateway) == [(499, None)]
        await upstream.gone(1)
        await until(lambda: unattended(gateway) == 0)
        hold.more.set()


async def test_drain_ends_in_time_where_the_upstream_never_pauses(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    flood = Flood()
    other_upstream.plays(flood.play)
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with gateway_with(upstream, "drain", other_upstream, disconnect={"seconds": 1}) as gateway:
        await leave(gateway, other_upstream, Case(CHAT, body, None, True, 0))
        await until(lambda: unattended(gateway) == 1)
        await asyncio.wait_for(flood.closed.wait(), PATIENCE)
        assert await booked(gateway) == [(499, None)]


async def test_detach_outlives_the_seconds_of_a_drain_but_not_the_call(upstream: ScriptedUpstream) -> None:
    for case in (CASES["mid-stream"], CASES["embeddings"]):
        hold = Hold()
        upstream.plays(case.script(hold))
        timeouts = {"total_seconds": 1.5}
        async with gateway_with(upstream, "detach", disconnect={"seconds": 0.01}, timeouts=timeouts) as gateway:
            await leave(gateway, upstream, case)
            await until(lambda: unattended(gateway) == 1)
            await gateway.ended(1)
            hold.more.set()
            assert await booked(gateway) == [(499, None)]
            assert gateway.records[0].seconds is not None
            assert gateway.records[0].seconds >= 1.4


@pytest.mark.parametrize("policy", ["drain", "detach"])
async def test_no_more_than_so_many_go_on(policy: str, upstream: ScriptedUpstream) -> None:
    hold = Hold()
    case = CASES["mid-stream"]
    upstream.plays(case.script(hold))
    async with gateway_with(upstream, policy) as gateway:
        for count in range(1, 21):
            await leave(gateway, upstream, case)
            await until(lambda: unattended(gateway) == count)  # noqa: B023 - called before count changes
        await leave(gateway, upstream, case)  # the 21st
        assert await booked(gateway) == [(499, None)]
        assert unattended(gateway) == 20
        hold.more.set()
        assert await booked(gateway, 21) == [(499, None), *[(499, 69650)] * 20]
        await until(lambda: unattended(gateway) == 0)
        hold = Hold()
        upstream.plays(case.script(hold))
        await leave(gateway, upstream, case)  # a place is free again
        await until(lambda: unattended(gateway) == 1)
        hold.more.set()
        assert (await booked(gateway, 22))[-1] == (499, 69650)


async def test_a_part_that_has_failed_hides_no_other_that_is_at_work(upstream: ScriptedUpstream) -> None:
    """The second of two parts meets a rate limit and waits for its end. The first is in flight when the caller
    leaves."""
    hold = Hold()

    async def play(request: Seen, writer: asyncio.StreamWriter) -> None:
        if request.body["input"] == ["a"]:
            await hold.more.wait()
            vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
            await replies({**VECTORS, "data": [vector]})(request, writer)
        else:
            await until(lambda: len(upstream.seen) == 2)  # or the first would wait for the same limit
            await replies({"detail": "slow down"}, 429, retry_after="3")(request, writer)

    upstream.plays(play)
    models = {EMBED["model"]: {"max_inputs": 1}}
    async with gateway_with(upstream, "drain", models=models, queue_timeout_seconds=600) as gateway:
        caller = await Caller.asks(gateway, "/v1/embeddings", {**EMBED, "input": ["a", "b"]})
        [state] = gateway.generations.now.pools["jina"].states
        await until(lambda: state.cause == "rate limited")
        await caller.leaves()
        await until(lambda: unattended(gateway) == 1)
        hold.more.set()
        assert await booked(gateway) == [(499, 4)]


# The precedence of policies.


async def test_the_caller_s_word_goes_before_the_model_s_and_that_before_the_general_one(
    upstream: ScriptedUpstream,
) -> None:
    callers = [{"name": "ann", "key": WHO["ann"], "on_disconnect": "cancel"}, {"name": "bob", "key": WHO["bob"]}]
    models = {"jina-deepsearch-v1": {"on_disconnect": "drain"}}
    asked = {"ann": CASES["mid-stream"], "bob": CASES["mid-stream"]}
    async with gateway_with(upstream, callers=callers, models=models) as gateway:
        hold = Hold()
        upstream.plays(asked["ann"].script(hold))
        await leave(gateway, upstream, asked["ann"], WHO["ann"])
        assert await booked(gateway) == [(499, None)]
        await leave(gateway, upstream, asked["bob"], WHO["bob"])
        await until(lambda: unattended(gateway) == 1)
        hold.more.set()
        assert (await booked(gateway, 2))[1] == (499, 69650)
        upstream.plays(CASES["embeddings"].script(Hold()))
        await leave(gateway, upstream, CASES["embeddings"], WHO["bob"])
        assert (await booked(gateway, 3))[2] == (499, None)
        assert [record.caller for record in gateway.records] == ["ann", "bob", "bob"]


async def test_the_model_s_word_goes_for_all_its_names(upstream: ScriptedUpstream) -> None:
    models = {"thinker": "jina-deepsearch-v1", "jina-deepsearch-v1": {"on_disconnect": "drain"}}
    async with gateway_with(upstream, models=models) as gateway:
        for count, name in enumerate(("thinker", "jina/jina-deepsearch-v1", "jina-ai/jina-deepsearch-v1"), 1):
            hold = Hold()
            case = CASES["mid-stream"]
            upstream.plays(case.script(hold))
            await leave(gateway, upstream, Case(CHAT, {**case.body, "model": name}, None, True, 69650))
            await until(lambda: unattended(gateway) == 1)
            hold.more.set()
            assert (await booked(gateway, count))[-1] == (499, 69650)
            await until(lambda: unattended(gateway) == 0)


def test_the_order_of_the_words() -> None:
    policies = Policies("cancel", {"m": "drain"}, {"ann": "detach", "bob": "cancel"})
    words = [policies.of(caller, model) for caller in ("ann", "bob", "eve") for model in ("m", "other")]
    assert words == ["detach", "detach", "cancel", "cancel", "drain", "cancel"]


# No new upstream calls for a caller who has left.


@pytest.mark.parametrize("policy", ["drain", "detach"])
async def test_no_attempt_is_made_after_the_caller_has_left(
    policy: str, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    failing = asyncio.Event()

    async def fails(request: Seen, writer: asyncio.StreamWriter) -> None:
        await failing.wait()
        await replies({"detail": "down"}, 500)(request, writer)

    upstream.plays(fails)
    other_upstream.plays(replies(VECTORS))
    async with gateway_with(upstream, policy, other_upstream) as gateway:
        await leave(gateway, upstream, CASES["embeddings"])
        await until(lambda: unattended(gateway) == 1)
        failing.set()
        assert await booked(gateway) == [(499, None)]
        await until(lambda: unattended(gateway) == 0)
    assert (len(upstream.seen), len(other_upstream.seen)) == (1, 0)


@pytest.mark.parametrize(("policy", "parts", "usage"), [("cancel", 2, 512), ("drain", 2, 1024), ("detach", 3, 1100)])
async def test_a_call_in_parts(policy: OnDisconnect, parts: int, usage: int, upstream: ScriptedUpstream) -> None:
    """The caller leaves during the second of three parts: with cancel it is closed, with drain it is the last, with
    detach the third part follows. Answers received are recorded. The key allows one call at a time."""
    more = asyncio.Event()

    async def embed(request: Seen, writer: asyncio.StreamWriter) -> None:
        if len(upstream.seen) == 2:
            await more.wait()
        count = len(request.body["input"])
        data = [{"object": "embedding", "index": n, "embedding": [0.5]} for n in range(count)]
        await replies({**VECTORS, "data": data, "usage": {"total_tokens": count}})(request, writer)

    upstream.plays(embed)
    async with narrow_gateway(upstream, policy, 20) as gateway:
        caller = await Caller.asks(gateway, "/v1/embeddings", {**EMBED, "input": ["a"] * 1100})
        await until(lambda: len(upstream.seen) == 2)
        await caller.leaves()
        if policy == "cancel":
            await gateway.ended(1)
        else:
            await until(lambda: unattended(gateway) == 1)
        more.set()
        assert await booked(gateway) == [(499, usage)]
    assert len(upstream.seen) == parts


@pytest.mark.parametrize(("policy", "usage"), [("cancel", None), ("drain", 1024), ("detach", 1100)])
async def test_parts_that_are_at_work_come_to_their_end(
    policy: OnDisconnect, usage: int | None, upstream: ScriptedUpstream
) -> None:
    """Two of three parts are in flight when the caller leaves. With drain, both are read, and the third is not sent."""
    hold = Hold()

    async def embed(request: Seen, writer: asyncio.StreamWriter) -> None:
        await hold.more.wait()
        count = len(request.body["input"])
        data = [{"object": "embedding", "index": n, "embedding": [0.5]} for n in range(count)]
        await replies({**VECTORS, "data": data, "usage": {"total_tokens": count}})(request, writer)

    upstream.plays(embed)
    async with narrow_gateway(upstream, policy, 20, concurrency=2) as gateway:
        caller = await Caller.asks(gateway, "/v1/embeddings", {**EMBED, "input": ["a"] * 1100})
        await until(lambda: len(upstream.seen) == 2)
        await caller.leaves()
        await until(lambda: len(gateway.records) == 1 or unattended(gateway) == 1)
        hold.more.set()
        assert await booked(gateway) == [(499, usage)]
    assert len(upstream.seen) == (3 if policy == "detach" else 2)


@asynccontextmanager
async def narrow_gateway(
    upstream: ScriptedUpstream,
    policy: OnDisconnect,
    pace: float,
    first: ScriptedUpstream | None = None,
    concurrency: int = 1,
) -> AsyncIterator[RunningGateway]:
    """A gateway whose key allows one call at a time, or ``concurrency``. If given, upstream ``first`` is tried
    before it."""
    urls = {"base_url": f"{upstream.url}/v1", "deepsearch_base_url": f"{upstream.url}/deepsearch/v1"}
    other: Any = {"aihubmix": {"base_url": f"{first.url}/v1", "api_key": AIHUBMIX_KEY}} if first else {}
    jina: Any = {"jina": {**urls, "api_key": JINA_KEY, "limits": {"concurrency": concurrency}}}
    disconnect = DisconnectSettings(policy=policy)
    cache = CacheSettings(store="off")
    settings = Settings(upstreams={**other, **jina}, queue_timeout_seconds=pace, disconnect=disconnect, cache=cache)
    async with running_gateway(settings) as gateway:
        yield gateway


@pytest.mark.parametrize("policy", ["drain", "detach"])
async def test_a_call_that_still_waits_for_a_key_is_not_begun(policy: OnDisconnect, upstream: ScriptedUpstream) -> None:
    hold = Hold()
    upstream.plays(hold.embeds)
    async with narrow_gateway(upstream, policy, pace=20) as gateway:
        working = await Caller.asks(gateway, "/v1/embeddings", EMBED)
        await until(lambda: len(upstream.seen) == 1)
        waiting = await Caller.asks(gateway, "/v1/embeddings", EMBED)
        await until(lambda: len(gateway.server.server_state.tasks) == 2)
        await waiting.leaves()
        assert await booked(gateway) == [(499, None)]
        assert unattended(gateway) == 0
        hold.more.set()
        assert (await working.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        await working.leaves()
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("policy", ["drain", "detach"])
async def test_a_call_that_waits_for_another_key_is_not_tried_again(
    policy: OnDisconnect,
    upstream: ScriptedUpstream,
    other_upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hold = Hold()
    upstream.plays(hold.embeds)
    other_upstream.plays(replies({"detail": "no"}, 401))
    async with narrow_gateway(upstream, policy, 20, other_upstream) as gateway:
        working = await Caller.asks(gateway, "/v1/embeddings", {**EMBED, "model": "jina/jina-embeddings-v3"})
        await until(lambda: len(upstream.seen) == 1)
        waiting = await Caller.asks(gateway, "/v1/embeddings", EMBED)
        await until(lambda: "key aihubmix is in cooldown: refused" in caplog.text)
        await waiting.leaves()
        assert await booked(gateway) == [(499, None)]
        hold.more.set()
        assert (await working.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        await working.leaves()
    assert (len(upstream.seen), len(other_upstream.seen)) == (1, 1)


@pytest.mark.parametrize("case", [CASES["mid-stream"], CASES["embeddings"]], ids=["stream", "whole"])
async def test_the_key_is_held_until_the_upstream_s_answer_ends(case: Case, upstream: ScriptedUpstream) -> None:
    hold = Hold()
    upstream.plays(case.script(hold), replies(VECTORS))
    async with narrow_gateway(upstream, "drain", pace=0.1) as gateway:
        await leave(gateway, upstream, case)
        await until(lambda: unattended(gateway) == 1)
        refused = await gateway.post("/v1/embeddings", EMBED)
        assert (refused.status_code, len(upstream.seen)) == (429, 1)
        hold.more.set()
        await until(lambda: unattended(gateway) == 0)
        assert (await gateway.post("/v1/embeddings", EMBED)).status_code == 200


# Other ends of a call.


@pytest.mark.parametrize("case", [CASES["mid-stream"], CASES["embeddings"]], ids=["stream", "whole"])
@pytest.mark.parametrize("policy", ["drain", "detach"])
async def test_a_shutdown_ends_and_books_what_goes_on(case: Case, policy: str, upstream: ScriptedUpstream) -> None:
    hold = Hold()
    upstream.plays(case.script(hold))
    async with gateway_with(upstream, policy, drain_seconds=0.2) as gateway:
        await leave(gateway, upstream, case)
        await until(lambda: unattended(gateway) == 1)
        gateway.server.handle_exit(signal.SIGTERM, None)
        await upstream.gone(1)
        assert await booked(gateway) == [(499, None)]
        hold.more.set()
    assert len(gateway.records) == 1


async def test_a_shutdown_waits_its_time_for_what_goes_on(upstream: ScriptedUpstream) -> None:
    hold = Hold()
    case = CASES["mid-stream"]
    upstream.plays(case.script(hold))
    async with gateway_with(upstream, "detach", drain_seconds=20) as gateway:
        await leave(gateway, upstream, case)
        await until(lambda: unattended(gateway) == 1)
        gateway.server.handle_exit(signal.SIGTERM, None)
        await until(lambda: not gateway.server.servers[0].is_serving())
        hold.more.set()
        assert await booked(gateway) == [(499, 69650)]


async def test_a_caller_who_closes_his_half_has_left(upstream: ScriptedUpstream) -> None:
    """A leaving caller also sends a FIN after the request, so a half-close counts as leaving, and gets no answer."""
    upstream.plays(Hold().embeds)
    async with gateway_with(upstream) as gateway:
        caller = await Caller.asks(gateway, "/v1/embeddings", EMBED)
        await until(lambda: len(upstream.seen) == 1)
        caller.writer.write_eof()
        assert await asyncio.wait_for(caller.reader.read(), PATIENCE) == b""
        assert await booked(gateway) == [(499, None)]
        await caller.leaves()


async def test_a_caller_who_is_cut_off_has_left(upstream: ScriptedUpstream, other_upstream: ScriptedUpstream) -> None:
    """The caller was cut off for not reading. With drain their stream is read on from the point where it had
    stalled."""
    flood = Flood()
    other_upstream.plays(flood.play)
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    timeouts = {"write_seconds": 0.3}
    async with gateway_with(upstream, "drain", other_upstream, timeouts=timeouts, disconnect={"seconds": 1}) as gateway:
        caller = await Caller.asks(gateway, CHAT, body)
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: unattended(gateway) == 1)
        held = flood.written
        await until(lambda: flood.written > held)
        await asyncio.wait_for(flood.closed.wait(), PATIENCE)
        assert await booked(gateway) == [(499, None)]
        caller.writer.transport.abort()
