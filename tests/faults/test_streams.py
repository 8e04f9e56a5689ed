"""Rows 53-60: streams that fail early or late, have an odd format, fall silent or never end."""

from __future__ import annotations

import asyncio
import gzip
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import pytest

from ..conftest import RunningGateway, Script, ScriptedUpstream, raw, replies, running_gateway, streams, until
from .bench import (
    CHAT,
    CHATS,
    DEEP,
    LONG,
    SOON,
    Bench,
    above_the_wire,
    asked,
    assert_booked,
    assert_booked_as,
    assert_broken,
    assert_complete,
    assert_failed,
    at_most_megabytes,
    at_once,
    patient,
)
from .scripts import (
    STREAM_HEAD,
    USAGE,
    answer,
    chunk,
    delta,
    endless,
    forever,
    hang,
    head,
    sse,
    thought,
    wire,
)

TEXT = "Grüße, 世界 😀\u2028!"
DONE = sse(b"[DONE]")


@dataclass(frozen=True)
class Speech:
    """The dialect of one kind of upstream: its request, the beginning and the end of its stream, its usage."""

    name: str
    asks: Any
    begin: bytes
    end: bytes
    usage: Any
    retry: bool | None

    def before(self, bench: Bench, **values: Any) -> AbstractAsyncContextManager[RunningGateway]:
        return bench.gateway(**values) if self.name == "jina" else bench.mixed(**values)

    def of(self, bench: Bench) -> ScriptedUpstream:
        return bench.jina if self.name == "jina" else bench.aihubmix

    @property
    def good(self) -> bytes:
        return self.begin + self.end

    @property
    def tries(self) -> int:
        """Upstream calls for a call that fails before its first event: a DeepSearch run is not started again."""
        return 1 if self.name == "jina" else 2


DEEPSEARCH = Speech(
    "jina", DEEP, sse(thought("<think>"), thought("hm ")), sse(answer(TEXT)), {"total_tokens": 9}, False
)
MODEL = Speech(
    "aihubmix",
    {**CHAT, "stream_options": {"include_usage": True}},
    sse(delta(TEXT[:3])),
    sse(delta(TEXT[3:]), delta("", "stop"), USAGE) + DONE,
    USAGE["usage"],
    None,
)
each_speech = pytest.mark.parametrize("speech", [DEEPSEARCH, MODEL], ids=["deepsearch", "model"])


# 53: before the first event.

# The first two need a new connection: on a reused one, the request is sent again.
EARLY: dict[str, tuple[Script, int, str]] = {
    "closed": (wire(), 502, "upstream_error"),
    "reset": (wire(end="reset"), 502, "upstream_error"),
    "500": (replies({"error": "boom"}, 500), 502, "upstream_error"),
    "an error as an answer": (replies({"error": {"message": "boom"}}), 502, "upstream_error"),
    "an error as an event": (streams(sse({"error": {"message": "boom"}})), 502, "upstream_error"),
    "an error event with a name": (streams(b'event: error\ndata: {"message":"boom"}\n\n'), 502, "upstream_error"),
    "closed behind the head": (wire(STREAM_HEAD), 502, "upstream_error"),
    "reset behind the head": (wire(STREAM_HEAD, end="reset"), 502, "upstream_error"),
    "ended behind the head": (streams(), 502, "upstream_stream_truncated"),
    "only [DONE]": (streams(DONE), 502, "upstream_stream_truncated"),
    "only comments": (streams(b": hi\n\n"), 502, "upstream_stream_truncated"),
    "HTML": (replies(b"<html><body>Sign in</body></html>", content_type="text/html"), 502, "upstream_error"),
}
# Each with the deadline that ends it: the one for the head, then those for pieces and for events.
SILENT: dict[str, tuple[Script, str]] = {
    "silence": (hang, "headers_seconds"),
    "silence behind the head": (wire(STREAM_HEAD, end="hang"), "idle_seconds"),
    "silence in the first event": (wire(STREAM_HEAD, chunk(b"data: {"), end="hang"), "idle_seconds"),
    "comments for ever": (endless(STREAM_HEAD, forever(chunk(b": hi\n\n")), every=0.05), "event_seconds"),
    "a byte at a time": (endless(STREAM_HEAD, forever(chunk(b" ")), every=0.05), "event_seconds"),
}


@each_speech
async def test_a_failure_before_the_first_event_has_a_status(
    speech: Speech, bench: Bench, subtests: pytest.Subtests
) -> None:
    async with speech.before(bench) as gateway:
        for kind, (script, status, code) in EARLY.items():
            with subtests.test(kind):
                speech.of(bench).seen.clear()
                speech.of(bench).plays(script)
                await assert_failed_early(speech, bench, gateway, status, code)


@each_speech
async def test_silence_before_the_first_event_has_a_status(
    speech: Speech, engine: str, subtests: pytest.Subtests
) -> None:
    def before(bench: Bench, silent: tuple[Script, str]) -> AbstractAsyncContextManager[RunningGateway]:
        return speech.before(bench, timeouts={silent[1]: SOON}, ping_seconds=LONG)

    async def check(bench: Bench, gateway: RunningGateway, silent: tuple[Script, str]) -> None:
        speech.of(bench).plays(silent[0])
        await assert_failed_early(speech, bench, gateway, 504, "upstream_timeout")

    await at_once(SILENT, engine, before, check, subtests)


async def assert_failed_early(speech: Speech, bench: Bench, gateway: RunningGateway, status: int, code: str) -> None:
    response = await asked(gateway, CHATS, speech.asks)
    assert_failed(response, status, code, should_retry=speech.retry, upstream=speech.name)
    assert len(speech.of(bench).seen) == speech.tries
    record = await assert_booked_as(gateway, response, status)
    assert not record.usage


@above_the_wire
@pytest.mark.parametrize(
    ("status", "told", "code"),
    [(401, 502, "upstream_auth"), (402, 503, "upstream_quota"), (429, 429, "upstream_rate_limited")],
)
@each_speech
async def test_a_refusal_in_place_of_a_stream(speech: Speech, status: int, told: int, code: str, bench: Bench) -> None:
    speech.of(bench).plays(replies({"error": "no"}, status))
    async with speech.before(bench) as gateway:
        response = await asked(gateway, CHATS, speech.asks)
        await assert_booked(gateway, told)
    limited = status == 429
    assert_failed(
        response,
        told,
        code,
        retry_after="5" if limited else None,
        should_retry=None if limited else False,
        upstream=speech.name,
    )


# 54: odd formats.


def events_of(data: bytes) -> list[bytes]:
    return data.split(b"\n\n")[:-1]


def each_event(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda data: b"".join(change(event) + b"\n\n" for event in events_of(data))


ODD: dict[str, Callable[[bytes], bytes]] = {
    "as it should be": lambda data: data,
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "CR": lambda data: data.replace(b"\n", b"\r"),
    "comments": each_event(lambda event: b": ping\n\n:\n: more\n" + event),
    "comments of one line": each_event(lambda event: b": ping\n" + event),
    "no space": lambda data: data.replace(b"data: ", b"data:"),
    "ids and names": each_event(lambda event: b"id: 1\nretry: 5\nevent: message\nnew: x\n" + event),
    "several lines": each_event(lambda event: event.replace(b'{"', b'{\ndata: "', 1)),
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "empty lines": lambda data: b"\n\n\n" + data.replace(b"\n\n", b"\n\n\n\n"),
    "no [DONE]": lambda data: data.replace(DONE, b""),
    "two [DONE]": lambda data: data + DONE + DONE,
    "data behind [DONE]": lambda data: data + DONE + sse(delta("more"), {"error": {"message": "late"}}, b"{half"),
    "no last empty line": lambda data: data.removesuffix(b"\n"),
    "no last line end": lambda data: data.removesuffix(b"\n\n"),
}


@above_the_wire
@each_speech
async def test_a_stream_written_oddly_comes_out_clean(speech: Speech, bench: Bench, subtests: pytest.Subtests) -> None:
    async with speech.before(bench) as gateway:
        for kind, write in ODD.items():
            data = write(speech.good)
            cuts = {"in one": [data], "in bytes": [data[n : n + 1] for n in range(len(data))]}
            for cut, pieces in cuts.items():
                with subtests.test(kind, cut=cut):
                    speech.of(bench).plays(streams(*pieces))
                    response = await asked(gateway, CHATS, speech.asks)
                    assert_complete(response, TEXT)
                    record = await assert_booked_as(gateway, response, 200)
                    assert record.usage == speech.usage


HEADS: dict[str, tuple[list[str], Callable[[bytes], bytes]]] = {
    "a wrong content type": (["content-type: text/plain; charset=latin-1"], bytes),
    "JSON's content type": (["content-type: application/json"], bytes),
    "no content type": ([], bytes),
    "gzip": (["content-type: text/event-stream", "content-encoding: gzip"], gzip.compress),
}


@each_speech
async def test_a_stream_under_an_odd_head(speech: Speech, bench: Bench, subtests: pytest.Subtests) -> None:
    async with speech.before(bench) as gateway:
        for kind, (lines, pack) in HEADS.items():
            with subtests.test(kind):
                top = "\r\n".join(["HTTP/1.1 200 OK", "connection: close", *lines, "", ""]).encode()
                speech.of(bench).plays(raw(top + pack(speech.good)))
                assert_complete(await asked(gateway, CHATS, speech.asks), TEXT)


@above_the_wire
async def test_usage_is_cumulative_and_not_summed(bench: Bench) -> None:
    counts = [{**delta("a"), "usage": {"total_tokens": n}} for n in (3, 5, 7)]
    bench.aihubmix.plays(streams(sse(*counts, delta("", "stop")) + DONE))
    async with bench.mixed() as gateway:
        assert_complete(await asked(gateway, CHATS, CHAT), "aaa")
        [record] = await assert_booked(gateway, 200)
    assert record.usage == {"total_tokens": 7}


# 55: comments for a long time, then the answer.


@each_speech
async def test_comments_keep_a_stream_alive(speech: Speech, bench: Bench) -> None:
    """Comments last longer than the idle deadline: a stream is not cut while its upstream shows signs of life."""
    comments: list[bytes | float | asyncio.Event] = [chunk(b": working\n\n"), 0.1] * 15
    speech.of(bench).plays(
        wire(STREAM_HEAD, chunk(speech.begin), *comments, chunk(speech.end), b"0\r\n\r\n", end="open")
    )
    async with speech.before(bench, timeouts={"idle_seconds": SOON}) as gateway:
        assert_complete(await asked(gateway, CHATS, speech.asks), TEXT)
        await assert_booked(gateway, 200)


# 56, 57: cut or silent in the middle.

SOME = sse({**delta(), "choices": [], "usage": {"total_tokens": 2}})
LATE: dict[str, tuple[Callable[[bytes], Script], int, str]] = {
    "a reset": (lambda data: wire(STREAM_HEAD, chunk(data), end="reset"), 502, "upstream_error"),
    "a FIN": (lambda data: wire(STREAM_HEAD, chunk(data)), 502, "upstream_error"),
    "a FIN in a chunk": (lambda data: wire(STREAM_HEAD, chunk(data), b"ff\r\ndata"), 502, "upstream_error"),
    "an end": (lambda data: streams(data), 502, "upstream_stream_truncated"),
    "an end without a length": (
        lambda data: raw(head("connection: close", kind="text/event-stream") + data),
        502,
        "upstream_stream_truncated",
    ),
    "half an event": (lambda data: streams(data, b'data: {"choices":[{"ind'), 502, "upstream_stream_truncated"),
    "[DONE] without a finish": (lambda data: streams(data, DONE), 502, "upstream_stream_truncated"),
    "a bad chunk": (lambda data: wire(STREAM_HEAD, chunk(data), b"xyz\r\n"), 502, "upstream_error"),
}
# Each with the deadline that ends it: the one for pieces if nothing arrives, else the one for events.
STUCK: dict[str, tuple[Callable[[bytes], Script], str]] = {
    "silence": (lambda data: wire(STREAM_HEAD, chunk(data), end="hang"), "idle_seconds"),
    "silence in an event": (lambda data: wire(STREAM_HEAD, chunk(data + b"data: {"), end="hang"), "idle_seconds"),
    "comments for ever": (
        lambda data: endless(STREAM_HEAD + chunk(data), forever(chunk(b": hi\n\n")), every=0.05),
        "event_seconds",
    ),
    "an event that drips": (
        lambda data: endless(STREAM_HEAD + chunk(data + b"data: "), forever(chunk(b" ")), every=0.05),
        "event_seconds",
    ),
}


@pytest.mark.parametrize(("play", "status", "code"), LATE.values(), ids=LATE)
@each_speech
async def test_a_stream_that_breaks_ends_in_an_error(
    speech: Speech, play: Callable[[bytes], Script], status: int, code: str, bench: Bench
) -> None:
    """One error event, no [DONE], no retry; the last reported usage is recorded."""
    speech.of(bench).plays(play(speech.begin + SOME))
    async with speech.before(bench) as gateway:
        await assert_broken_once(speech, bench, gateway, status, code)


Stuck = tuple[Callable[[bytes], Script], str]


@each_speech
async def test_a_stream_that_gets_stuck_ends_in_an_error(
    speech: Speech, engine: str, subtests: pytest.Subtests
) -> None:
    def before(bench: Bench, stuck: Stuck) -> AbstractAsyncContextManager[RunningGateway]:
        return speech.before(bench, timeouts={stuck[1]: SOON})

    async def check(bench: Bench, gateway: RunningGateway, stuck: Stuck) -> None:
        speech.of(bench).plays(stuck[0](speech.begin + SOME))
        await assert_broken_once(speech, bench, gateway, 504, "upstream_timeout")

    await at_once(STUCK, engine, before, check, subtests)


async def assert_broken_once(speech: Speech, bench: Bench, gateway: RunningGateway, status: int, code: str) -> None:
    response = await asked(gateway, CHATS, speech.asks)
    [record] = await assert_booked(gateway, status)
    assert_broken(response, status, code)
    assert record.usage == {"total_tokens": 2}
    assert len(speech.of(bench).seen) == 1


@each_speech
async def test_a_stream_without_an_end_is_ended(speech: Speech, bench: Bench) -> None:
    """By the call's total time, however much it sends."""
    piece = chunk(sse(thought("hm ") if speech is DEEPSEARCH else delta("a")))
    speech.of(bench).plays(endless(STREAM_HEAD + chunk(speech.begin), forever(piece), every=0.05))
    async with speech.before(bench, timeouts={"total_seconds": SOON}) as gateway:
        response = await asked(gateway, CHATS, speech.asks)
        await assert_booked(gateway, 504)
    assert_broken(response, 504, "upstream_timeout")


@pytest.mark.parametrize("ended_by", ["its time", "a shutdown"])
@each_speech
async def test_a_stream_that_never_pauses_is_ended(ended_by: str, speech: Speech, bench: Bench) -> None:
    """If more data is always available, the reading task never waits, so no timer would wake it."""
    piece = chunk(sse(thought("hm ") if speech is DEEPSEARCH else delta("a")) * 100)
    speech.of(bench).plays(endless(STREAM_HEAD + chunk(speech.begin), forever(piece)))
    timeouts = {"total_seconds": SOON if ended_by == "its time" else LONG}
    async with speech.before(bench, timeouts=timeouts, drain_seconds=0.2) as gateway:
        call = asyncio.ensure_future(asked(gateway, CHATS, speech.asks))
        if ended_by == "a shutdown":
            await until(lambda: bool(speech.of(bench).seen))
            gateway.server.handle_exit(signal.SIGTERM, None)
        response = await call
    if ended_by == "its time":
        assert_broken(response, 504, "upstream_timeout")
    else:
        assert_broken(response, 503, "unavailable")


@above_the_wire
async def test_a_deepsearch_run_for_a_caller_who_does_not_stream_has_a_status(
    engine: str, subtests: pytest.Subtests
) -> None:
    """The caller has received nothing yet, so every failure of the stream becomes a status."""
    broken = {kind: (LATE[kind][0], "idle_seconds", *LATE[kind][1:]) for kind in ("a FIN", "an end")}
    broken |= {kind: (*STUCK[kind], 504, "upstream_timeout") for kind in ("silence", "comments for ever")}

    def before(bench: Bench, case: Any) -> AbstractAsyncContextManager[RunningGateway]:
        return bench.gateway(timeouts={case[1]: SOON})

    async def check(bench: Bench, gateway: RunningGateway, case: Any) -> None:
        play, _, status, code = case
        bench.jina.plays(play(DEEPSEARCH.begin))
        response = await asked(gateway, CHATS, {**DEEP, "stream": False})
        assert_failed(response, status, code, should_retry=False)
        await assert_booked_as(gateway, response, status)
        assert len(bench.jina.seen) == 1

    await at_once(broken, engine, before, check, subtests)


# 58: errors reported in the middle.

LINK = "http://127.0.0.1:9/v1"
TOLD: dict[str, tuple[bytes, int, str]] = {
    "an object": (
        sse({"error": {"message": f"boom <b>\r\n {LINK}"}, "usage": {"total_tokens": 3}}),
        502,
        "upstream_error",
    ),
    "a string": (sse({"error": "boom", "usage": {"total_tokens": 3}}), 502, "upstream_error"),
    "with a name": (b'event: error\ndata: {"message":"boom","usage":{"total_tokens":3}}\n\n', 502, "upstream_error"),
    "a balance": (
        sse({"error": {"message": "Your account balance is insufficient."}, "usage": {"total_tokens": 3}}),
        503,
        "upstream_quota",
    ),
    "and [DONE]": (sse({"error": {"message": "boom"}, "usage": {"total_tokens": 3}}) + DONE, 502, "upstream_error"),
}


@above_the_wire
@each_speech
async def test_an_error_told_in_the_middle(speech: Speech, bench: Bench, subtests: pytest.Subtests) -> None:
    async with speech.before(bench) as gateway:
        for kind, (data, status, code) in TOLD.items():
            with subtests.test(kind):
                speech.of(bench).plays(streams(speech.begin, data))
                response = await asked(gateway, CHATS, speech.asks)
                assert_broken(response, status, code)
                record = await assert_booked_as(gateway, response, status)
                assert record.usage == {"total_tokens": 3}


@above_the_wire
async def test_deepsearchs_finish_reason_error_in_the_middle(bench: Bench) -> None:
    def failing(text: str, kind: str) -> dict[str, Any]:
        choice = {"index": 0, "delta": {"content": text, "type": kind}, "finish_reason": "error"}
        return {"id": "1", "choices": [choice], "usage": {"total_tokens": 3}}

    told = sse(failing("</think>", "think"), failing(f"Error: boom at {LINK}", "error"))
    bench.jina.plays(streams(DEEPSEARCH.begin, told))
    async with bench.gateway() as gateway:
        response = await asked(gateway, CHATS, DEEP)
        [record] = await assert_booked(gateway, 502)
    assert "boom" in assert_broken(response, 502, "upstream_error")
    assert record.usage == {"total_tokens": 3}


# 59: invalid events.

BAD: dict[str, bytes] = {
    "half JSON": b'data: {"choices":[\n\n',
    "text": b"data: CANARY\n\n",
    "bad UTF-8": b'data: {"choices":[{"index":0,"delta":{"content":"CANARY\xff"}}]}\n\n',
    "NaN": b'data: {"choices":[],"CANARY":NaN}\n\n',
    "1e999": b'data: {"choices":[],"CANARY":1e999}\n\n',
    "a list": b'data: ["CANARY"]\n\n',
    "null": b"data: null\n\n",
    "a number": b"data: 7\n\n",
    "deep": b'data: {"CANARY":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n\n",
}


@above_the_wire
@each_speech
async def test_an_event_that_is_none_is_never_passed_on(
    speech: Speech, bench: Bench, subtests: pytest.Subtests
) -> None:
    async with speech.before(bench) as gateway:
        for kind, data in BAD.items():
            with subtests.test(kind):
                speech.of(bench).plays(streams(speech.begin, data, speech.end))
                response = await asked(gateway, CHATS, speech.asks)
                assert_broken(response, 502, "upstream_error")
                assert "CANARY" not in response.text
                await assert_booked_as(gateway, response, 502)


# 60: large events.


@each_speech
async def test_an_event_of_4_megabytes_passes(speech: Speech, bench: Bench) -> None:
    text = "x" * 4 * 1024 * 1024
    large = sse(answer(text)) if speech is DEEPSEARCH else sse(delta(text), delta("", "stop")) + DONE
    begin = speech.begin if speech is DEEPSEARCH else b""
    speech.of(bench).plays(streams(begin, large))
    async with speech.before(bench) as gateway:
        assert_complete(await asked(gateway, CHATS, speech.asks), text)
        await assert_booked(gateway, 200)


ENDLESS = {
    "a line": b"x" * 65536,
    "lines": b"data: x\n" * 8192,
    "short lines": b"data\n" * 8192,
    "names": b"event: " + b"x" * 65536,
    "a comment": b":" + b"x" * 65536,
}


@above_the_wire
@pytest.mark.parametrize("piece", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("begun", [False, True], ids=["first", "later"])
async def test_an_event_that_never_ends_is_cut(begun: bool, piece: bytes, bench: Bench) -> None:
    """The event fails by size, long before a deadline, in time linear in the size."""
    begin = chunk(DEEPSEARCH.begin) if begun else b""
    bench.jina.plays(endless(STREAM_HEAD + begin + chunk(b"data: "), forever(chunk(piece))))
    async with bench.gateway(max_event_megabytes=4) as gateway:
        with at_most_megabytes(100):
            response = await asked(gateway, CHATS, DEEP)
        await assert_booked(gateway, 502)
    if begun:
        assert_broken(response, 502, "upstream_too_large")
    else:
        assert_failed(response, 502, "upstream_too_large", should_retry=False)


@above_the_wire
async def test_all_attempts_of_a_call_have_its_total_time_together(bench: Bench) -> None:
    """Row 57: the stream of a second attempt ends with the call's total time, not with a new one."""
    drip = endless(STREAM_HEAD, forever(chunk(sse(delta("x")))), every=0.05)
    bench.aihubmix.plays(hang, drip)
    async with bench.mixed(timeouts={"headers_seconds": 1.5, "total_seconds": 2.5}) as gateway:
        response = await asked(gateway, CHATS, CHAT)
        [record] = await gateway.ended(1)
    assert '"code":"upstream_timeout"' in response.text
    assert record.seconds is not None
    assert 2.5 <= record.seconds < 1.5 + 2.5
    assert len(bench.aihubmix.seen) == 2


@pytest.mark.parametrize("engine", ["httptools"])
async def test_a_run_that_is_paid_for_is_put_on_no_idle_connection(upstream: ScriptedUpstream, engine: str) -> None:
    """The server may be closing the connection at that moment, and the run is not sent again."""
    upstream.plays(replies({"data": [{"index": 0, "embedding": [1.0]}], "usage": {}}), streams(RUN))
    async with running_gateway(patient(engine, upstream.url)) as gateway:
        for _ in range(2):
            await gateway.post("/v1/embeddings", {"model": "jina-embeddings-v3", "input": ["hi"]})
        assert len(upstream.readers) == 1
        upstream.plays(streams(RUN))
        body = {"model": "jina-deepsearch-v1", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        assert "[DONE]" in (await gateway.post("/v1/chat/completions", body)).text
    assert len(upstream.readers) == 2


RUN = b'data: {"choices":[{"delta":{"content":"a","type":"text"},"finish_reason":"stop"}],"usage":{}}\n\n'


async def test_a_run_whose_time_is_over_is_not_asked_for_again(upstream: ScriptedUpstream) -> None:
    """Row 57: the run is collected for a caller who does not stream, and never ends."""
    think = b'data: {"choices":[{"delta":{"type":"think","content":"<think>hm"}}]}\n\n'
    upstream.plays(endless(STREAM_HEAD, forever(chunk(think)), every=0.02))
    async with running_gateway(patient("httptools", upstream.url, timeouts={"total_seconds": SOON})) as gateway:
        body = {"model": "jina-deepsearch-v1", "messages": [{"role": "user", "content": "hi"}]}
        response = await gateway.post("/v1/chat/completions", body)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "upstream_timeout")
    assert (response.headers["x-should-retry"], response.headers["x-torii-upstream"]) == ("false", "jina")
    assert len(upstream.seen) == 1
