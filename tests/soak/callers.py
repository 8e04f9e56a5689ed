"""The soak's callers: one call after another on raw sockets, each in a random manner; and the replies they received.

A caller checks each reply at once: it must be the answer to their own call, complete, and in time.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec

from .configurations import AGAIN, CALLERS, EVERYONE, TIMEOUTS
from .plays import PAGE_WORDS, Kind, text_of, vector_of
from .upstreams import Witness

# Additional time for slow callers, and for a machine with other work.
SPARE_SECONDS = 60.0
PATIENCE = TIMEOUTS["total_seconds"] + SPARE_SECONDS
NONSENSE_SECONDS = TIMEOUTS["request_head_seconds"] + TIMEOUTS["request_body_seconds"] + SPARE_SECONDS
REFUSALS = frozenset((400, 404, 429, 502, 503, 504))

MANNERS = {"patient": 64, "leaves": 20, "resets": 5, "slow": 5, "stands still": 1}
AGAIN_SHARE = 0.15  # of the calls
# Failures of an upstream that answered correctly. Only a machine with other work causes them.
OWN_FAILURES = ("upstream_error", "upstream_timeout", "upstream_unreachable", "upstream_stream_truncated")
KINDS: dict[Kind, int] = {"embeddings": 40, "rerank": 20, "chat": 20, "deepsearch": 20}
PATHS: dict[Kind, str] = {
    "embeddings": "/v1/embeddings",
    "rerank": "/v1/rerank",
    "chat": "/v1/chat/completions",
    "deepsearch": "/v1/chat/completions",
}


@dataclass(frozen=True, slots=True)
class Wish:
    """A call as its caller intends it. ``number`` is in all of its inputs, unless it is a call ``again``: its inputs
    come from a few texts shared by many calls, so the gateway may have some, all or none of them cached."""

    number: int
    kind: Kind
    body: dict[str, Any]
    stream: bool = False
    long: bool = False
    again: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind} stream" if self.stream else f"{self.kind} again" if self.again else self.kind

    @classmethod
    def some(cls, number: int, chance: Random, *, long: bool) -> Wish:
        """``long``: the answer is larger than any socket buffer."""
        if long:
            return cls(number, "chat", _asks("gpt-4o-mini", f"soak {number} long", stream=True), True, True)
        if chance.random() < AGAIN_SHARE:
            return cls._again(number, chance)
        kind = chance.choices([*KINDS], [*KINDS.values()])[0]
        inputs = [f"soak {number} {place}" for place in range(chance.randint(1, 6))]
        if kind == "embeddings":
            model = chance.choice(("jina-embeddings-v3", "in-parts", "aihubmix/jina-embeddings-v3"))
            # The unknown option keeps the call out of batches: the ids of batched calls could not be told apart
            # upstream.
            return cls(number, kind, {"model": model, "input": inputs, "soak": number})
        if kind == "rerank":
            return cls(number, kind, {"model": "jina-reranker-m0", "query": inputs[0], "documents": inputs})
        model = "gpt-4o-mini" if kind == "chat" else "jina-deepsearch-v1"
        stream = chance.random() < 0.6
        return cls(number, kind, _asks(model, inputs[0], stream=stream), stream)

    @classmethod
    def _again(cls, number: int, chance: Random) -> Wish:
        """A few shared texts in any order, some of them twice."""
        texts = [f"again {chance.randrange(40)} {chance.randrange(3)}" for _ in range(chance.randint(1, 6))]
        if chance.random() < 0.3:
            query = {"model": "jina-reranker-m0", "query": "again", "documents": texts}
            return cls(number, "rerank", query, again=True)
        encoding = chance.choice(({}, {}, {"encoding_format": "base64"}))
        body = {"model": chance.choice(("jina-embeddings-v3", "in-parts")), "input": texts, **encoding}
        return cls(number, "embeddings", body, again=True)

    def request(self, chance: Random) -> bytes:
        caller = AGAIN if self.again else chance.choice([*CALLERS])
        body = msgspec.json.encode(self.body)
        head = f"POST {PATHS[self.kind]} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {EVERYONE[caller]}\r\n"
        return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def _asks(model: str, text: str, *, stream: bool) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream}


@dataclass(slots=True)
class Told:
    """The outcome of a call as its caller knows it.

    ``status``: the status in the ledger: the reply's, or that of the failure that ended a stream; None if the caller
    does not know it. ``left``: the Unix time of a disconnect.
    """

    number: int
    name: str
    manner: str
    outcome: str = ""
    status: int | None = None
    code: str | None = None
    left: float | None = None
    seconds: float = 0.0


@dataclass
class Journal:
    """All replies that the callers received, and all failed checks."""

    witness: Witness
    told: dict[int, Told] = field(default_factory=dict)
    nonsense: Counter[str] = field(default_factory=Counter)
    wrongs: list[str] = field(default_factory=list)
    needless: list[str] = field(default_factory=list)  # failures although only correct answers were played
    leaving: bool = False  # the gateway is shutting down, and may close idle connections

    def wrong(self, what: str) -> None:
        self.wrongs.append(what)


class Cut(Exception):
    """The connection ended before the answer did. ``begun``: a part of the answer had arrived."""

    def __init__(self, begun: bool) -> None:
        self.begun = begun


@dataclass
class Caller:
    """One of many callers, at ``port``. Their calls follow from the seed and their number, one after another."""

    number: int
    port: int
    journal: Journal
    seed: int
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None

    async def calls(self, stop: asyncio.Event) -> None:
        for turn in range(1_000_000):
            if stop.is_set():
                break
            chance = Random(f"{self.seed}/caller/{self.number}/{turn}")
            await asyncio.sleep(chance.uniform(0.0, 0.1))
            if chance.random() < 0.08:
                await self._nonsense(chance)
            else:
                await self._call(self.number * 1_000_000 + turn, chance)
        self._hang_up()

    async def _call(self, number: int, chance: Random) -> None:
        manner = chance.choices([*MANNERS], [*MANNERS.values()])[0]
        wish = Wish.some(number, chance, long=manner in ("slow", "stands still"))
        told = self.journal.told[number] = Told(number, wish.name, manner)
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._asked(wish, told, chance)
        except TimeoutError:
            told.outcome = "no end"
            self.journal.wrong(f"call {number} ({wish.name}, {manner}) had not ended after {PATIENCE} s")
            self._hang_up()
        told.seconds = time.monotonic() - began

    async def _asked(self, wish: Wish, told: Told, chance: Random) -> None:
        kept = self.writer is not None and told.manner in ("patient", "leaves")
        try:
            if not kept:
                await self._connect(small=wish.long)
            assert self.writer is not None
            self.writer.write(wish.request(chance))
            await self._listened(wish, told, chance)
        except (OSError, Cut) as error:
            self._hang_up()
            if told.outcome == "left":
                return
            told.outcome = "cut off"
            if kept and not getattr(error, "begun", False) and told.number not in self.journal.witness.id_of:
                told.outcome = "closed before"  # the kept connection was closed while the request was being sent
            elif told.manner != "stands still" and not self.journal.leaving:
                self.journal.wrong(f"call {told.number} ({told.name}, {told.manner}) was cut off: {error!r}")

    async def _listened(self, wish: Wish, told: Told, chance: Random) -> None:
        if told.manner in ("leaves", "resets"):
            try:
                async with asyncio.timeout(chance.choice((0.01, 0.1, 1.5)) * chance.random()):
                    judged(wish, told, *await self._read(), self.journal)
            except TimeoutError:
                told.left, told.outcome = time.time(), "left"
                self._hang_up(reset=told.manner == "resets")
        elif told.manner == "stands still":
            await asyncio.sleep(TIMEOUTS["write_seconds"] + 1)
            judged(wish, told, *await self._read(), self.journal)
        else:
            judged(wish, told, *await self._read(slow=told.manner == "slow"), self.journal)

    async def _read(self, *, slow: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a complete answer. Raises Cut."""
        assert self.reader is not None
        begun = False
        try:
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            begun = True
            headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
            if headers.get("transfer-encoding") == "chunked":
                body = await self._chunks(slow)
            else:
                body = await self.reader.readexactly(int(headers["content-length"]))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Cut(begun or bool(getattr(error, "partial", b""))) from None
        if headers.get("connection") == "close":
            self._hang_up()
        return int(lines[0].split(" ")[1]), headers, body

    async def _chunks(self, slow: bool) -> bytes:
        assert self.reader is not None
        pieces = []
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            pieces.append((await self.reader.readexactly(size + 2))[:-2])
            if slow:
                await asyncio.sleep(0.1)
        await self.reader.readexactly(2)
        return b"".join(pieces)

    async def _connect(self, *, small: bool = False) -> None:
        """``small``: use a small receive buffer, so that the system buffers little of an answer."""
        self._hang_up()
        sock = socket.socket()
        sock.setblocking(False)
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
            self.reader, self.writer = await asyncio.open_connection(sock=sock)
        except BaseException:
            sock.close()
            raise

    def _hang_up(self, *, reset: bool = False) -> None:
        if self.writer is None:
            return
        if reset:
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        self.writer.close()
        self.reader = self.writer = None

    # ----------------------------------------------------------- invalid requests

    async def _nonsense(self, chance: Random) -> None:
        """Send an invalid request, which must soon end in a refusal or a closed connection, and reaches no upstream."""
        name, sent = chance.choice([*NONSENSE.items()])
        try:
            async with asyncio.timeout(NONSENSE_SECONDS):
                await self._connect()
                assert self.writer is not None
                assert self.reader is not None
                self.writer.write(sent(chance))
                said = await self.reader.readuntil(b"\r\n")
                outcome = said.split(b" ")[1].decode()
        except (asyncio.IncompleteReadError, ConnectionError):
            outcome = "closed"
        except TimeoutError:
            outcome = "no end"
            self.journal.wrong(f"{name} had no end after {NONSENSE_SECONDS} s")
        if outcome not in NONSENSE_ENDS:
            self.journal.wrong(f"{name} was answered with {outcome}")
        self.journal.nonsense[f"{name}: {outcome}"] += 1
        self._hang_up()


NONSENSE_ENDS = ("closed", "no end", "200", "400", "401", "404", "405", "408", "413", "415", "431", "503")
_HEAD = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\n"
_KEY = b"authorization: Bearer " + CALLERS["team"].encode() + b"\r\n"


def _stranger(chance: Random) -> bytes:
    return _HEAD + b"authorization: Bearer nobody-knows-this-one\r\ncontent-length: 2\r\n\r\n{}"


NONSENSE: dict[str, Callable[[Random], bytes]] = {
    "random bytes": lambda chance: chance.randbytes(chance.randint(1, 400)) + b"\r\n\r\n",
    "half a head": lambda chance: (_HEAD + _KEY)[: chance.randint(1, len(_HEAD + _KEY))],
    "half a body": lambda chance: _HEAD + _KEY + b"content-length: 200\r\n\r\n" + b'{"model"',
    "no JSON": lambda chance: _HEAD + _KEY + b"content-length: 4\r\n\r\n{]}{",
    "no key": _stranger,
    "too large": lambda chance: _HEAD + _KEY + b"content-length: 99999999999\r\n\r\n",
    "a giant head": lambda chance: _HEAD + b"x: " + b"x" * 70_000 + b"\r\n\r\n",
    "nothing there": lambda chance: b"GET /nowhere HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "health": lambda chance: b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "models": lambda chance: b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n" + _KEY + b"\r\n",
}


# ----------------------------------------------------------------- checking a reply


def judged(wish: Wish, told: Told, status: int, headers: dict[str, str], body: bytes, journal: Journal) -> None:
    """Record the reply. A reply is wrong if a client could mistake it for something else."""
    told.status, told.outcome = status, str(status)
    played = journal.witness.played[wish.number] if not wish.again else []
    names = [fault.name for fault in played]
    try:
        if status != 200:
            told.code = _failure(body)
            if status not in REFUSALS:
                journal.wrong(f"call {wish.number} ({wish.name}) got {status} {told.code}")
        elif wish.stream:
            _streamed(wish, told, body)
        else:
            _answered(wish, body)
        if told.outcome in ("200", "done") and not wish.again and not journal.witness.finished(wish.number):
            journal.wrong(f"call {wish.number} ({wish.name}) looks complete, and was played {names}")
    except (AssertionError, msgspec.DecodeError, KeyError, TypeError, IndexError) as error:
        journal.wrong(
            f"call {wish.number} ({wish.name}) was told nonsense: {error!r} in {body[:300]!r}; played: {names}"
        )
    own = told.code in OWN_FAILURES and told.manner == "patient" and wish.kind != "deepsearch"
    if own and played and all(fault.finishes for fault in played):
        journal.needless.append(f"call {wish.number} ({wish.name}) got {told.code}, and was played {names}")


def _failure(body: bytes) -> str:
    envelope = msgspec.json.decode(body)
    assert set(envelope) == {"error", "detail"}
    assert envelope["detail"] == envelope["error"]["message"]
    code = envelope["error"]["code"]
    assert isinstance(code, str)
    assert not any(word in envelope["detail"] for word in PAGE_WORDS)
    return code


def _streamed(wish: Wish, told: Told, body: bytes) -> None:
    *events, rest = body.replace(b": ping\n", b"").split(b"\n\n")
    assert rest == b""
    data = [event.removeprefix(b"data: ") for event in events]
    if data[-1] != b"[DONE]":
        told.code, told.outcome, told.status = _failure(data[-1]), "error event", None
        assert b"[DONE]" not in data
        return
    chunks = [msgspec.json.decode(event) for event in data[:-1]]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    said = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert said == text_of(wish.number, long=wish.long), f"another text: {said[:100]}"
    told.outcome = "done"


def _answered(wish: Wish, body: bytes) -> None:
    reply = msgspec.json.decode(body)
    if wish.kind == "embeddings":
        texts = wish.body["input"]
        assert [item["index"] for item in reply["data"]] == [*range(len(texts))]
        assert [_floats(item["embedding"]) for item in reply["data"]] == [vector_of(text) for text in texts]
    elif wish.kind == "rerank":
        scores = dict(enumerate(vector_of(text)[0] for text in wish.body["documents"]))
        assert {item["index"]: item["relevance_score"] for item in reply["results"]} == scores
    else:
        assert reply["choices"][0]["message"]["content"] == text_of(wish.number)
        assert reply["choices"][0]["finish_reason"] == "stop"


def _floats(vector: Any) -> list[float]:
    if not isinstance(vector, str):
        return [float(number) for number in vector]
    packed = b64decode(vector)
    return [*struct.unpack(f"<{len(packed) // 4}f", packed)]
