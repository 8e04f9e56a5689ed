"""The load generator: `python -m bench.load` reads a Plan from standard input and writes an Outcome.

Three kinds of load: `closed`, each connection sends its next request as soon as it has the answer; `steady`, one call
at a time at a fixed rate; `streams`, each connection reads one stream to its end.
"""

from __future__ import annotations

import asyncio
import math
import os
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec
import uvloop

from .processes import pin
from .wire import FRESH, STAMP

BACK_OFF_SECONDS = 1.0
"""Pause after an answer that is not a 200; SDKs also wait before they retry."""


class Plan(msgspec.Struct, frozen=True):
    """``requests`` are sent in turn. ``seconds`` is the length of a round; streams end by themselves, at the latest
    then."""

    kind: Literal["closed", "steady", "streams"]
    port: int
    requests: list[bytes]
    connections: int = 1
    seconds: float = 3.0
    rate: float = 0.0
    cores: str = ""
    first_event: bool = False
    """For a steady rate: measure the latency of a stream's first event, not of the whole answer."""


class Outcome(msgspec.Struct):
    """Times in seconds. ``cpu``: of this generator; ``late``: the age of events on arrival."""

    done: int = 0
    failed: int = 0
    elapsed: float = 0.0
    cpu: float = 0.0
    latencies: list[float] = msgspec.field(default_factory=list)
    events: int = 0
    ended: int = 0
    late: list[float] = msgspec.field(default_factory=list)
    least_progress: float = 0.0
    """The slowest stream's share of its events when the first stream ended."""
    first_failure: str = ""
    first_answer: str = ""


class Connection(asyncio.Protocol):
    """Sends a request and detects the end of its answer, by length or last chunk."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.pieces: list[bytes] = []
        self.missing = -1
        self.sent = 0.0

    def ask(self, request: bytes) -> None:
        self.sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self.missing < 0:
            data = b"".join((*self.pieces, data))
            self.pieces.clear()
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self.pieces.append(data)
                return
            self.missing = self._length(data[:end].lower()) - (len(data) - end)
        else:
            self.missing -= len(data)
        self.pieces.append(data)
        if self.missing <= 0 or (self.missing > 1 << 40 and ended(self.pieces)):
            whole, self.pieces, self.missing = b"".join(self.pieces), [], -1
            self.answered(whole)

    @staticmethod
    def _length(head: bytes) -> int:
        at = head.find(b"content-length:")
        return int(head[at + 15 : head.index(b"\r", at)]) if at >= 0 else 1 << 41

    def answered(self, whole: bytes) -> None:
        raise NotImplementedError


def ended(pieces: list[bytes]) -> bool:
    """True if a chunked body is complete: its last chunk has arrived, possibly in pieces."""
    return b"".join(piece[-5:] for piece in pieces[-5:]).endswith(b"0\r\n\r\n")


class Caller(Connection):
    """A connection of a closed loop."""

    def __init__(self, loop: ClosedLoop) -> None:
        self.shared = loop

    def go_on(self) -> None:
        if time.perf_counter() < self.shared.until:
            self.ask(self.shared.next_request())
        else:
            self.shared.leave()

    def answered(self, whole: bytes) -> None:
        outcome = self.shared.outcome
        if whole.startswith(b"HTTP/1.1 200"):
            outcome.done += 1
            outcome.latencies.append(time.perf_counter() - self.sent)
            if not outcome.first_answer:
                outcome.first_answer = whole[:2000].decode("latin-1")
            self.go_on()
        else:
            self.shared.fail(whole)
            asyncio.get_running_loop().call_later(BACK_OFF_SECONDS, self.go_on)

    def connection_lost(self, error: Exception | None) -> None:
        self.shared.lost(error)


class ClosedLoop:
    """The shared state of the connections of one closed loop."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.outcome = Outcome()
        self.until = time.perf_counter() + plan.seconds
        self.over = asyncio.Event()
        self._turn = 0
        self._open = plan.connections

    def next_request(self) -> bytes:
        self._turn += 1
        return fresh(self.plan.requests, self._turn)

    def fail(self, whole: bytes) -> None:
        self.outcome.failed += 1
        self.outcome.first_failure = self.outcome.first_failure or whole[:500].decode("latin-1")

    def leave(self) -> None:
        self._open -= 1
        if self._open <= 0:
            self.over.set()

    def lost(self, error: Exception | None) -> None:
        if not self.over.is_set():
            self.fail(f"the connection was lost: {error}".encode())
            self.leave()


async def closed(plan: Plan) -> Outcome:
    loop = asyncio.get_running_loop()
    shared = ClosedLoop(plan)
    callers: list[Caller] = []
    for _ in range(plan.connections):
        _, caller = await loop.create_connection(lambda: Caller(shared), "127.0.0.1", plan.port)
        callers.append(caller)
    begin = time.perf_counter()
    shared.until = begin + plan.seconds
    for caller in callers:
        caller.go_on()
    async with asyncio.timeout(plan.seconds + 90):
        await shared.over.wait()
    shared.outcome.elapsed = time.perf_counter() - begin
    for caller in callers:
        caller.transport.close()
    return shared.outcome


def fresh(requests: list[bytes], turn: int) -> bytes:
    """The next request, with texts that were in no earlier request. The process id distinguishes generators."""
    return requests[turn % len(requests)].replace(FRESH, b"#%03d%05d" % (os.getpid() % 1000, turn % 100_000))


class Waiter(Connection):
    """A connection at a steady rate: one answer at a time."""

    answer: asyncio.Future[bytes]
    first_at: float | None = None

    def wait(self, request: bytes) -> asyncio.Future[bytes]:
        self.answer = asyncio.get_running_loop().create_future()
        self.first_at = None
        self.ask(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        if self.first_at is None and b"data:" in data:
            self.first_at = time.perf_counter()
        super().data_received(data)

    def answered(self, whole: bytes) -> None:
        self.whole_at = time.perf_counter()
        self.answer.set_result(whole)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(error or ConnectionResetError("closed before the answer"))


async def steady(plan: Plan) -> Outcome:
    """Each call starts on schedule, or as soon as the previous one has ended. The first fifth is a warm-up."""
    outcome = Outcome()
    loop = asyncio.get_running_loop()
    _, waiter = await loop.create_connection(Waiter, "127.0.0.1", plan.port)
    begin = time.perf_counter()
    count = int(plan.seconds * plan.rate)
    for turn in range(count):
        await asyncio.sleep(max(0.0, begin + turn / plan.rate - time.perf_counter()))
        whole = await waiter.wait(fresh(plan.requests, turn))
        if not whole.startswith(b"HTTP/1.1 200"):
            outcome.failed += 1
            outcome.first_failure = whole[:500].decode("latin-1")
        elif turn >= count // 5:
            outcome.done += 1
            until = waiter.first_at if plan.first_event and waiter.first_at else waiter.whole_at
            outcome.latencies.append(until - waiter.sent)
    outcome.elapsed = time.perf_counter() - begin
    waiter.transport.close()
    return outcome


@dataclass
class Hall:
    """The shared state of the streams of one round."""

    outcome: Outcome
    over: asyncio.Event
    open: int
    counts: list[int]

    def look(self) -> None:
        self.outcome.least_progress = min(self.counts) / max(*self.counts, 1)


class Stamps:
    """Finds each event's stamp exactly once, wherever the stream is split."""

    LENGTH = 17

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[int]:
        data = self._rest + data
        last = 0
        found = []
        for stamp in STAMP.finditer(data):
            last = stamp.end()
            found.append(int(stamp[1]))
        self._rest = data[max(last, len(data) - self.LENGTH + 1) :]
        return found


class Reader(asyncio.Protocol):
    """One stream: counts its events, and records the age of each on arrival."""

    def __init__(self, hall: Hall, number: int, request: bytes) -> None:
        self.hall = hall
        self.number = number
        self.request = request
        self.stamps = Stamps()
        self.tail: list[bytes] = []
        self.begun = False
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.sent = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        outcome = self.hall.outcome
        now = time.monotonic_ns()
        if not self.begun and b"data:" in data:
            self.begun = True
            outcome.latencies.append(time.perf_counter() - self.sent)
        sent = self.stamps.feed(data)
        self.hall.counts[self.number] += len(sent)
        outcome.late += [(now - stamp) / 1e9 for stamp in sent]
        self.tail = [*self.tail[-4:], data]
        if ended(self.tail):
            if not self.begun:
                outcome.first_failure = data[:500].decode("latin-1")
            self.leave(good=self.begun)
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.leave(good=False)

    def leave(self, good: bool) -> None:
        if self.ended:
            return
        self.ended = True
        hall = self.hall
        hall.outcome.ended += good
        hall.outcome.failed += not good
        if hall.open == len(hall.counts):
            hall.look()
        hall.open -= 1
        if hall.open == 0:
            hall.over.set()


async def streams(plan: Plan) -> Outcome:
    """The streams are opened evenly over the first second, so that their events do not all coincide."""
    loop = asyncio.get_running_loop()
    outcome = Outcome()
    hall = Hall(outcome, asyncio.Event(), plan.connections, [0] * plan.connections)
    begin = time.perf_counter()

    async def open_one(number: int) -> None:
        if plan.rate:
            await asyncio.sleep(number / plan.connections)
        request = plan.requests[number % len(plan.requests)]
        await loop.create_connection(lambda: Reader(hall, number, request), "127.0.0.1", plan.port)

    openings = [asyncio.create_task(open_one(number)) for number in range(plan.connections)]
    try:
        async with asyncio.timeout(plan.seconds):
            await asyncio.gather(*openings)
            await hall.over.wait()
    except (TimeoutError, OSError) as error:
        outcome.first_failure = outcome.first_failure or f"not all streams ended: {error!r}"
        if hall.open == plan.connections:
            hall.look()
    outcome.elapsed = time.perf_counter() - begin
    outcome.done = outcome.events = sum(hall.counts)
    return outcome


def sample(values: list[float], most: int = 2000) -> list[float]:
    """At most ``most`` of the values, evenly spaced, so that the report fits a pipe."""
    return [round(value, 7) for value in values[:: math.ceil(len(values) / most)]] if values else []


def main() -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    pin(plan.cores)
    kinds: dict[str, Any] = {"closed": closed, "steady": steady, "streams": streams}
    before = resource.getrusage(resource.RUSAGE_SELF)
    outcome = uvloop.run(kinds[plan.kind](plan))
    after = resource.getrusage(resource.RUSAGE_SELF)
    outcome.cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    outcome.latencies, outcome.late = sample(outcome.latencies), sample(outcome.late)
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
