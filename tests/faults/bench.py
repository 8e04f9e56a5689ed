"""The bench of the faults: gateways, what a refusal must look like, and how much memory something took."""

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

COMMENT = re.compile(rb"^:.*\n", re.MULTILINE)  # one line, without a blank one behind it

# The HTTP engines behind app/upstreams/client/client.py, as the setting http_client names them.
ENGINES = ("httptools", "httpx")
# Of a test about what is in a whole answer or in an event: whichever engine brought it.
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

# Seconds of the deadlines that a test is not about: no machine may be so busy that one of them is met.
LONG = 60.0
DEADLINES = ("connect_seconds", "headers_seconds", "reply_seconds", "idle_seconds", "event_seconds", "total_seconds")
# Seconds of the one that a test is about: enough for all that has to happen before it on a machine that is busy.
SOON = 1.0
# Seconds after which a test gives up on a call: longer than any deadline.
PATIENCE = 2 * LONG

# What a caller is told of an answer that ended too early, and of one that is no HTTP.
BROKE_OFF = "the upstream broke off the connection"
MALFORMED = "the upstream sent malformed HTTP"

TYPES = {
    "invalid_request": "invalid_request_error",
    "upstream_rejected": "invalid_request_error",
    "model_not_found": "invalid_request_error",
    "upstream_quota": "insufficient_quota",
    "upstream_rate_limited": "rate_limit_error",
}


def patient(engine: str, jina: str | None, aihubmix: str | None = None, **values: Any) -> Settings:
    """Settings whose deadlines are long. ``timeouts`` are laid over them: that which the test is about."""
    timeouts = {**dict.fromkeys(DEADLINES, LONG), **values.pop("timeouts", {})}
    return settings_for(jina, aihubmix, http_client=engine, timeouts=timeouts, **values)


@dataclass
class Bench:
    """Both upstreams, and gateways before them with the engine that is tested."""

    engine: str
    jina: ScriptedUpstream
    aihubmix: ScriptedUpstream
    loose: list[asyncio.Event] = field(default_factory=list)

    def gateway(self, *, both: bool = False, **values: Any) -> AbstractAsyncContextManager[RunningGateway]:
        """Before Jina alone, or before ``both``."""
        return running_gateway(patient(self.engine, self.jina.url, self.aihubmix.url if both else None, **values))

    def mixed(self, **values: Any) -> AbstractAsyncContextManager[RunningGateway]:
        """Before AIHubMix alone, which sells the models that need no translation."""
        return running_gateway(patient(self.engine, None, self.aihubmix.url, **values))

    def before(self, url: str, other: str | None = None, **values: Any) -> AbstractAsyncContextManager[RunningGateway]:
        """Before whatever is at ``url``."""
        return running_gateway(patient(self.engine, url, other, **values))


Case = TypeVar("Case")


async def at_once(
    cases: Mapping[str, Case],
    engine: str,
    gateway: Callable[[Bench, Case], AbstractAsyncContextManager[RunningGateway]],
    check: Callable[[Bench, RunningGateway, Case], Awaitable[None]],
    subtests: pytest.Subtests,
) -> None:
    """Checks all cases together, as each waits for a deadline, on benches and before gateways of their own."""
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
    """The answer, which has to come within the test's own patience: every call ends."""
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
    """The whole of a refusal: status, envelope, headers, and nothing in it of hosts, keys and markup. Its message."""
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
    """One printable line that names no host, port or key and holds no markup."""
    assert message
    assert len(message) < 1000
    assert message.isprintable()
    assert not re.search(r"127\.0\.0\.1|localhost|https?:|<|Traceback|httpx|reqwest", message), message
    assert JINA_KEY not in message
    assert AIHUBMIX_KEY not in message
    return message


async def assert_booked(gateway: RunningGateway, *statuses: int) -> list[CallRecord]:
    """One record for each call, with these statuses, in the order in which they ended."""
    records = await gateway.ended(len(statuses))
    assert [record.status for record in records] == list(statuses)
    for record in records:
        assert_ended_in_time(record)
        assert_counts(record.usage)
    return records


async def assert_booked_as(gateway: RunningGateway, response: httpx.Response, status: int) -> CallRecord:
    """The one record of this answer's call, among those of others."""
    own = response.headers["x-request-id"]
    await until(lambda: any(record.request_id == own for record in gateway.records))
    [record] = [record for record in gateway.records if record.request_id == own]
    assert record.status == status
    assert_ended_in_time(record)
    assert_counts(record.usage)
    return record


def assert_ended_in_time(record: CallRecord) -> None:
    """At once, or by the deadline that the test is about: the others tell the caller the same, but later."""
    assert record.seconds is not None
    assert record.seconds < LONG


def assert_counts(usage: Any) -> None:
    """What is booked is nothing or counts: whole numbers, none below zero, none without bounds."""
    assert usage is None or isinstance(usage, dict)
    for name, value in (usage or {}).items():
        if not isinstance(value, dict):
            assert type(value) is int, (name, value)
            assert 0 <= value <= 2**53, (name, value)


def chunks_of(response: httpx.Response) -> list[Any]:
    """The events of a stream: parsed, [DONE] as text; comments are left out."""
    return read_events(response.content)


def read_events(data: bytes) -> list[Any]:
    parts = COMMENT.sub(b"", data).split(b"\n\n")
    assert parts.pop() == b"", data[-200:]
    lines = [part.removeprefix(b"data: ") for part in parts]
    return ["[DONE]" if line == b"[DONE]" else msgspec.json.decode(line) for line in lines]


def assert_complete(response: httpx.Response, content: str) -> list[Any]:
    """One clean OpenAI stream: this content, one finish, one [DONE] at its end, no error."""
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
    """A stream that had begun and failed: an error event at its end, no [DONE], no second error. The message."""
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


# Other ends of a connection.


@dataclass
class Listener:
    """A server that speaks no HTTP of its own: what came in, and on how many connections."""

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
    """The most memory that this process has had, in bytes."""
    if sys.platform == "linux":
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found is not None
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextmanager
def at_most_megabytes(limit: int) -> Iterator[None]:
    """What is done within takes no more memory than this, on top of what there was; generously meant."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    before = resident_peak()
    yield
    grown = (resident_peak() - before) / 1024 / 1024
    assert grown < limit, f"{grown:.0f} MB more, where {limit} were allowed"


def descriptors() -> int:
    """The open files of this process."""
    return len(os.listdir("/dev/fd"))
