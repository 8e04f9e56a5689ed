"""The test bench of the faults: gateways, checks of error replies, and memory measurement."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from app.config.settings import Settings
from app.usage.record import CallRecord

from ..conftest import (
    AIHUBMIX_KEY,
    JINA_KEY,
    RunningGateway,
    ScriptedUpstream,
    running_gateway,
    scripted_upstream,
    serving,
    settings_for,
    until,
)

COMMENT = re.compile(rb"^:.*\n", re.MULTILINE)  # a comment is one line, without a blank line after it

# The HTTP engines behind app/upstreams/client/client.py, as the setting http_client names them.
ENGINES = ("httptools", "httpx")
# For tests of the content of a whole answer or an event, which does not depend on the engine.
above_the_wire = pytest.mark.above_the_wire

EMBED = {"model": "jina-embeddings-v3", "input": ["a", "b"]}
VECTORS = {
    "model": "jina-embeddings-v3",
    "object": "list",
    "data": [
        {"object": "embedding", "index": 0, "embedding": [0.5]},
        {"object": "embedding", "index": 1, "embedding": [0.25]},
    ],
    "usage": {"total_tokens": 4},
}
ANSWERED = {**VECTORS, "usage": {"total_tokens": 4, "prompt_tokens": 4}}
RERANK = {"model": "jina-reranker-m0", "query": "q", "documents": ["a", "b"]}
DEEP = {"model": "jina-deepsearch-v1", "messages": [{"role": "user", "content": "hi"}], "stream": True}
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "stream": True}

EMBEDDINGS, CHATS, RERANKS = "/v1/embeddings", "/v1/chat/completions", "/v1/rerank"

# Deadlines that a test is not about, in seconds: long enough that even a busy machine never reaches one.
LONG = 60.0
DEADLINES = ("connect_seconds", "headers_seconds", "reply_seconds", "idle_seconds", "event_seconds", "total_seconds")
# The deadline that a test is about, in seconds: long enough for the steps before it on a busy machine.
SOON = 1.0
# The timeout of a call in a test, in seconds: longer than any deadline.
PATIENCE = 2 * LONG

# The messages for an answer that ended too early, and for one that is not HTTP.
BROKE_OFF = "the upstream closed the connection early"
MALFORMED = "the upstream sent malformed HTTP"

TYPES = {
    "invalid_request": "invalid_request_error",
    "upstream_rejected": "invalid_request_error",
    "model_not_found": "invalid_request_error",
    "upstream_quota": "insufficient_quota",
    "upstream_rate_limited": "rate_limit_error",
}


def patient(engine: str, jina: str | None, aihubmix: str | None = None, **values: Any) -> Settings:
    """Settings with long deadlines. ``timeouts`` override them: the deadline that the test is about."""
    timeouts = {**dict.fromkeys(DEADLINES, LONG), **values.pop("timeouts", {})}
    return settings_for(jina, aihubmix, http_client=engine, timeouts=timeouts, **values)


@dataclass
class Bench:
    """Both upstreams, and gateways in front of them with the engine under test."""

    engine: str
    jina: ScriptedUpstream
    aihubmix: ScriptedUpstream
    loose: list[asyncio.Event] = field(default_factory=list)

    def gateway(self, *, both: bool = False, **values: Any) -> AbstractAsyncContextManager[RunningGateway]:
        """In front of Jina alone, or of ``both``."""
        return running_gateway(patient(self.engine, self.jina.url, self.aihubmix.url if both else None, **values))

    def mixed(self, **values: Any) -> AbstractAsyncContextManager[RunningGateway]:
        """In front of AIHubMix alone, whose chat models need no translation."""
        return running_gateway(patient(self.engine, None, self.aihubmix.url, **values))

    def before(self, url: str, other: str | None = None, **values: Any) -> AbstractAsyncContextManager[RunningGateway]:
        """In front of any server at ``url``."""
        return running_gateway(patient(self.engine, url, other, **values))


Case = TypeVar("Case")


async def at_once(
    cases: Mapping[str, Case],
    engine: str,
    gateway: Callable[[Bench, Case], AbstractAsyncContextManager[RunningGateway]],
    check: Callable[[Bench, RunningGateway, Case], Awaitable[None]],
    subtests: pytest.Subtests,
) -> None:
    """Check all cases concurrently, since each waits for a deadline. Each case has its own bench and gateway."""
    async with AsyncExitStack() as stack:
        places = []
        for case in cases.values():
            jina, aihubmix = [await stack.enter_async_context(scripted_upstream()) for _ in range(2)]
            bench = Bench(engine, jina, aihubmix)
            places.append((bench, await stack.enter_async_context(gateway(bench, case)), case))
        ends = await asyncio.gather(*(check(*place) for place in places), return_exceptions=True)
    for kind, end in zip(cases, ends, strict=True):
        with subtests.test(kind):
            if end is not None:
                raise end


async def asked(gateway: RunningGateway, path: str = EMBEDDINGS, body: Any = EMBED) -> httpx.Response:
    """The answer. Fails after PATIENCE seconds: every call must end."""
    async with asyncio.timeout(PATIENCE):
        return await gateway.post(path, body)


def assert_failed(
    response: httpx.Response,
    status: int,
    code: str,
    *,
    retry_after: str | None = None,
    should_retry: bool | None = None,
    upstream: str | None = "jina",
) -> str:
    """Check an error reply completely: status, envelope, headers, and no host, key or markup in it. Returns its
    message."""
    assert response.status_code == status, response.text[:500]
    envelope = response.json()
    assert envelope["error"]["code"] == code, response.text[:500]
    assert set(envelope) == {"error", "detail"}
    assert set(envelope["error"]) == {"message", "type", "param", "code"}
    assert envelope["error"]["type"] == TYPES.get(code, "api_error")
    assert envelope["detail"] == envelope["error"]["message"]
    assert response.headers["content-type"] == "application/json"
    assert len(response.headers["x-request-id"]) == 32
    assert response.headers.get("retry-after") == retry_after
    assert response.headers.get("x-should-retry") == (None if should_retry is None else str(should_retry).lower())
    assert response.headers.get("x-torii-upstream") == upstream
    return assert_clean(envelope["detail"])


def assert_clean(message: str) -> str:
    """Check that the message is one printable line without host, port, key or markup."""
    assert message
    assert len(message) < 1000
    assert message.isprintable()
    assert not re.search(r"127\.0\.0\.1|localhost|https?:|<|Traceback|httpx|reqwest", message), message
    assert JINA_KEY not in message
    assert AIHUBMIX_KEY not in message
    return message


async def assert_booked(gateway: RunningGateway, *statuses: int) -> list[CallRecord]:
    """Check that there is one record per call, with these statuses in the order in which the calls ended."""
    records = await gateway.ended(len(statuses))
    assert [record.status for record in records] == list(statuses)
    for record in records:
        assert_ended_in_time(record)
        assert_counts(record.usage)
    return records


async def assert_booked_as(gateway: RunningGateway, response: httpx.Response, status: int) -> CallRecord:
    """The single record of this answer's call, among those of other calls."""
    own = response.headers["x-request-id"]
    await until(lambda: any(record.request_id == own for record in gateway.records))
    [record] = [record for record in gateway.records if record.request_id == own]
    assert record.status == status
    assert_ended_in_time(record)
    assert_counts(record.usage)
    return record


def assert_ended_in_time(record: CallRecord) -> None:
    """Check that the call ended before any long deadline, which would return the same error, but later."""
    assert record.seconds is not None
    assert record.seconds < LONG


def assert_counts(usage: Any) -> None:
    """Check that the recorded usage is empty or consists of integers from 0 to 2**53."""
    assert usage is None or isinstance(usage, dict)
    for name, value in (usage or {}).items():
        if not isinstance(value, dict):
            assert type(value) is int, (name, value)
            assert 0 <= value <= 2**53, (name, value)


def chunks_of(response: httpx.Response) -> list[Any]:
    """The events of a stream: parsed, [DONE] as text, without comments."""
    return read_events(response.content)


def read_events(data: bytes) -> list[Any]:
    parts = COMMENT.sub(b"", data).split(b"\n\n")
    assert parts.pop() == b"", data[-200:]
    lines = [part.removeprefix(b"data: ") for part in parts]
    return ["[DONE]" if line == b"[DONE]" else msgspec.json.decode(line) for line in lines]


def assert_complete(response: httpx.Response, content: str) -> list[Any]:
    """Check a clean OpenAI stream: this content, one finish reason, one [DONE] at its end, no error."""
    assert response.status_code == 200, response.text[:500]
    assert response.headers["content-type"].startswith("text/event-stream")
    got = chunks_of(response)
    assert got.count("[DONE]") == 1
    assert got[-1] == "[DONE]"
    chunks = got[:-1]
    assert all("error" not in chunk and isinstance(chunk["choices"], list) for chunk in chunks)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == content
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    return chunks


def assert_broken(response: httpx.Response, status: int, code: str) -> str:
    """Check a stream that failed after its start: one error event at its end, no [DONE]. Returns the message."""
    assert response.status_code == 200, response.text[:500]
    got = chunks_of(response)
    assert "[DONE]" not in got
    assert [set(chunk) == {"error", "detail"} for chunk in got] == [False] * (len(got) - 1) + [True]
    assert len(got) > 1
    error = got[-1]["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["type"]) == (code, TYPES.get(code, "api_error"))
    assert got[-1]["detail"] == error["message"]
    return assert_clean(error["message"])


# Servers that do not speak HTTP.


@dataclass
class Listener:
    """A server that does not speak HTTP itself. Counts its connections and keeps the bytes received."""

    url: str
    connections: int = 0
    received: bytearray = field(default_factory=bytearray)

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port


@asynccontextmanager
async def listening(act: Any, *, tls: Any = None, host: str = "127.0.0.1") -> AsyncIterator[Listener]:
    """``act(listener, reader, writer)`` plays each connection."""
    listener = Listener("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        listener.connections += 1
        await act(listener, reader, writer)

    async with serving(serve, tls=tls, host=host) as listener.url:
        yield listener


# Memory.


def resident_peak() -> int:
    """The peak memory of this process, in bytes."""
    if sys.platform == "linux":
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found is not None
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextmanager
def at_most_megabytes(limit: int) -> Iterator[None]:
    """Check that the block needs at most ``limit`` MB of additional memory. Limits are generous."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident_peak()
    yield
    grown = (resident_peak() - before) / 1024 / 1024
    assert grown < limit, f"{grown:.0f} MB more, where {limit} were allowed"


def descriptors() -> int:
    """The number of open files of this process."""
    return len(os.listdir("/dev/fd"))
