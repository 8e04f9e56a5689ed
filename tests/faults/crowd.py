"""Crowds: many callers at once on raw sockets, in front of ``torii serve`` as a process of its own.

The providers answer correctly, count the tokens they bill, and play the faults that a test asks for.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..cli.test_cli import ROOT
from ..conftest import Script, ScriptedUpstream, Seen, replies, scripted_upstream, streams, until
from ..program import Program, started
from .scripts import answer, sse, thought

Kind = Literal["embeddings", "rerank", "deepsearch stream", "deepsearch"]
KINDS: tuple[Kind, ...] = ("embeddings", "rerank", "deepsearch stream", "deepsearch")
PATHS: dict[Kind, str] = {
    "embeddings": "/v1/embeddings",
    "rerank": "/v1/rerank",
    "deepsearch stream": "/v1/chat/completions",
    "deepsearch": "/v1/chat/completions",
}
MODELS: dict[Kind, str] = {
    "embeddings": "jina-embeddings-v3",
    "rerank": "jina-reranker-m0",
    "deepsearch stream": "jina-deepsearch-v1",
    "deepsearch": "jina-deepsearch-v1",
}
CALL_SECONDS = 120.0  # timeout of a call: every call must end
BOOK_SECONDS = 10.0  # timeout for rows to be written, which takes a quarter of a second
PAUSE = 0.02  # before a provider answers, so that calls overlap there
OPERATOR = "operator-key-of-the-crowd-0123"

_numbers = itertools.count(1)


# ------------------------------------------------------------------------------ calls and replies


@dataclass(frozen=True, slots=True)
class Ask:
    """A call. Its ``texts`` are in no other call, so no cache has them. ``key`` is the caller's, none by default."""

    kind: Kind
    texts: tuple[str, ...]
    model: str = ""
    more: dict[str, Any] = field(default_factory=dict)
    key: str = ""

    @property
    def body(self) -> dict[str, Any]:
        model = {"model": self.model or MODELS[self.kind], **self.more}
        if self.kind == "embeddings":
            return {**model, "input": list(self.texts)}
        if self.kind == "rerank":
            return {**model, "query": "q", "documents": list(self.texts)}
        return {
            **model,
            "messages": [{"role": "user", "content": self.texts[0]}],
            "stream": self.kind == "deepsearch stream",
        }

    def request(self) -> bytes:
        body = msgspec.json.encode(self.body)
        head = f"POST {PATHS[self.kind]} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        head += f"authorization: Bearer {self.key}\r\n" if self.key else ""
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@dataclass(frozen=True, slots=True)
class Told:
    """The reply to a caller."""

    ask: Ask
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)["error"]
        return found

    @property
    def code(self) -> str:
        return str(self.error["code"])

    @property
    def message(self) -> str:
        return str(self.error["message"])

    @property
    def vectors(self) -> list[list[float]]:
        data = msgspec.json.decode(self.body)["data"]
        assert [item["index"] for item in data] == list(range(len(data)))
        return [item["embedding"] for item in data]

    @property
    def wrong(self) -> str:
        """Empty if the reply is the complete and correct answer to its call; else a description."""
        if self.status != 200:
            return f"{self.status} {self.body[:300]!r}"
        try:
            right = self._right()
        except (AssertionError, KeyError, IndexError, msgspec.DecodeError):
            right = False
        return "" if right else f"200 {self.body[:300]!r}"

    def _right(self) -> bool:
        if self.ask.kind == "embeddings":
            return self.vectors == [vector(text) for text in self.ask.texts]
        if self.ask.kind == "rerank":
            results = msgspec.json.decode(self.body)["results"]
            return {item["index"]: item["relevance_score"] for item in results} == scores(self.ask.texts)
        if self.ask.kind == "deepsearch":
            [choice] = msgspec.json.decode(self.body)["choices"]
            return bool(choice["message"]["content"] == said(self.ask.texts[0]) and choice["finish_reason"] == "stop")
        return self._streamed() == said(self.ask.texts[0])

    def _streamed(self) -> str:
        """The text of a stream that ends correctly. Comments are allowed anywhere."""
        lines = [line.removeprefix(b"data: ") for line in self.body.split(b"\n") if line.startswith(b"data: ")]
        assert lines.pop() == b"[DONE]"
        choices = [choice for line in lines for choice in msgspec.json.decode(line)["choices"]]
        assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


def asks(kind: Kind, count: int, model: str = "", *, inputs: int = 1, key: str = "", **more: Any) -> list[Ask]:
    """``count`` calls, each with ``inputs`` texts of its own."""
    return [Ask(kind, tuple(f"text {next(_numbers)}" for _ in range(inputs)), model, more, key) for _ in range(count)]


async def crowd(port: int, calls: Sequence[Ask], at_once: int | None = None) -> list[Told]:
    """The replies, in the order of the calls. All callers connect first; each then sends one call after another
    until none is left."""
    told: list[Told | None] = [None] * len(calls)
    rest = iter(enumerate(calls))
    lines = [await Line.to(port) for _ in range(at_once or len(calls))]

    async def talks(line: Line) -> None:
        for place, ask in rest:
            told[place] = await line.asks(ask)

    try:
        async with asyncio.timeout(CALL_SECONDS), asyncio.TaskGroup() as group:
            for line in lines:
                group.create_task(talks(line))
    finally:
        for line in lines:
            line.writer.close()
    return [each for each in told if each is not None]


@dataclass(slots=True)
class Line:
    """A caller's connection."""

    port: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def to(cls, port: int) -> Line:
        return cls(port, *await asyncio.open_connection("127.0.0.1", port, limit=2**24))

    async def asks(self, ask: Ask) -> Told:
        self.writer.write(ask.request())
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        if headers.get("transfer-encoding") == "chunked":
            body = await self._chunks()
        else:
            body = await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.writer.close()
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**24)
        return Told(ask, int(first.split(" ")[1]), headers, body)

    async def _chunks(self) -> bytes:
        pieces = []
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            pieces.append((await self.reader.readexactly(size + 2))[:-2])
        await self.reader.readexactly(2)
        return b"".join(pieces)


def wrongs(told: Iterable[Told]) -> list[str]:
    return [each.wrong for each in told if each.wrong]


# ---------------------------------------------------------------- providers


def vector(text: str) -> list[float]:
    """A vector that identifies its text."""
    return [float(text.split()[1]), 0.5]


def scores(texts: Iterable[str]) -> dict[int, float]:
    return {place: 1 / vector(text)[0] for place, text in enumerate(texts)}


def said(text: str) -> str:
    return f"the answer to {text}"


def texts_of(request: Seen) -> list[str]:
    body = request.body
    if "messages" in body:
        return [body["messages"][-1]["content"]]
    found: list[str] = body["input"] if "input" in body else body["documents"]
    return found


def cost(texts: Sequence[str]) -> int:
    """The cost in tokens: three per text and one per call."""
    return 3 * len(texts) + 1


def reply(request: Seen) -> dict[str, Any]:
    """The correct answer of either provider, if it is not a stream."""
    texts = texts_of(request)
    usage = {"total_tokens": cost(texts), "prompt_tokens": cost(texts)}
    if request.path.endswith("/embeddings"):
        data = [{"object": "embedding", "index": n, "embedding": vector(text)} for n, text in enumerate(texts)]
        return {"model": "m", "object": "list", "data": data, "usage": usage}
    if request.path.endswith("/rerank"):
        results = [{"index": place, "relevance_score": score} for place, score in scores(texts).items()]
        return {"model": "m", "object": "list", "results": results, "usage": usage}
    message = {"role": "assistant", "content": said(texts[0])}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": "u", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage}


async def right(request: Seen, writer: asyncio.StreamWriter) -> Any:
    if request.path.endswith("/completions") and request.body["stream"]:
        events = sse(thought("What"), answer(said(texts_of(request)[0])))
        return await streams(events)(request, writer)
    return await replies(reply(request))(request, writer)


Faults = Callable[[Seen], Script | None]


@dataclass
class Provider:
    """An upstream. ``faults`` returns the script for a request in place of the correct answer, or None for the correct
    answer. Replies come after ``pause`` seconds.

    ``billed``: tokens by the gateway's request id; ``at_work``: each key's requests that are not answered yet;
    ``most``: the maximum of ``at_work``.
    """

    upstream: ScriptedUpstream
    faults: Faults = lambda request: None
    pause: float = PAUSE
    billed: Counter[str] = field(default_factory=Counter)
    at_work: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)

    @property
    def url(self) -> str:
        return self.upstream.url

    @property
    def seen(self) -> list[Seen]:
        return self.upstream.seen

    def always(self, script: Script | None) -> None:
        self.faults = lambda request: script

    def first(self, *scripts: Script | None) -> None:
        """Plays these scripts, one per request, then answers correctly."""
        rest = iter(scripts)
        self.faults = lambda request: next(rest, None)

    async def play(self, request: Seen, writer: asyncio.StreamWriter) -> Any:
        key = key_of(request)
        self.at_work[key] += 1
        self.most[key] = max(self.most[key], self.at_work[key])
        try:
            await asyncio.sleep(self.pause)
            script = self.faults(request)
            if script is not None:
                return await script(request, writer)
            self.billed[request.headers["x-request-id"]] += cost(texts_of(request))
            return await right(request, writer)
        finally:
            self.at_work[key] -= 1


def key_of(request: Seen) -> str:
    return request.headers["authorization"].removeprefix("Bearer ")


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    async with scripted_upstream() as upstream:
        made = Provider(upstream)
        upstream.plays(made.play)
        yield made


def after(happened: Callable[[], bool], script: Script = right) -> Script:
    """The script, delayed until ``happened`` is true."""

    async def play(request: Seen, writer: asyncio.StreamWriter) -> Any:
        await until(happened)
        return await script(request, writer)

    return play


# ---------------------------------------------------------------- the gateway


def jina_at(url: str, *keys: str, **more: Any) -> dict[str, Any]:
    """The configuration of an upstream with these keys, or with one key."""
    urls = {"base_url": f"{url}/v1", "deepsearch_base_url": f"{url}/deepsearch/v1"}
    return {"kind": "jina", **urls, **_keys("jina", keys), **more}


def aihubmix_at(url: str, *keys: str, **more: Any) -> dict[str, Any]:
    return {"kind": "aihubmix", "base_url": f"{url}/v1", **_keys("sk", keys), **more}


def _keys(prefix: str, names: Sequence[str]) -> dict[str, Any]:
    return {"api_keys": [{"key": secret(prefix, name), "name": name} for name in names or ("one",)]}


def secret(prefix: str, name: str) -> str:
    return f"{prefix}_{name}_0123456789abcdef"


def gateway(
    folder: Path, upstreams: dict[str, Any], *, root: Path = ROOT, **values: Any
) -> AbstractAsyncContextManager[Program]:
    """``torii serve`` in front of these upstreams, with a ledger beside its configuration and defaults for the rest.

    ``root``: the checkout to run.
    """
    configuration = {
        "sandbox": "off",
        "upstreams": upstreams,
        "operator_key": OPERATOR,
        "ledger": {"path": str(folder / "torii.db")},
        **values,
    }
    return started(Program, folder, msgspec.json.encode(configuration), root=root)


async def keys(program: Program) -> list[dict[str, Any]]:
    """The state of each key, from the operator's endpoint."""
    headers = {"authorization": f"Bearer {OPERATOR}"}
    found: list[dict[str, Any]] = (await program.client.get("/admin/upstreams", headers=headers)).json()["data"]
    return found


async def waiting(program: Program, count: int) -> None:
    """Returns when ``count`` calls wait for a key."""
    async with asyncio.timeout(CALL_SECONDS):
        while sum({key["upstream"]: key["waiting"] for key in await keys(program)}.values()) < count:
            pass


async def booked(program: Program, count: int) -> list[dict[str, Any]]:
    """The ledger's rows, once there are ``count`` of them or BOOK_SECONDS have passed."""
    path = program.folder / "torii.db"

    def rows() -> list[dict[str, Any]]:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute("SELECT * FROM calls ORDER BY rowid")]

    with suppress(TimeoutError):
        await until(lambda: len(rows()) >= count, BOOK_SECONDS)
    return rows()
