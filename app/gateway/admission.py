"""Admission, reservation and settlement of a call.

admit     before the body is read: the process has room for the call
reserve   after the route and the cache: the call's cost at the upstreams
settle    with the end of the record, before the answer is written: the record goes to the ledger and the log
release   at the end of the ``with``, however it ends: the room
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from ..core.deadlines import Deadline, DeadlineClock
from ..core.disconnects import ClientConnection, DisconnectPolicy
from ..core.errors import Overloaded
from ..core.types import Call, Route
from ..core.usage import BYTES_PER_TOKEN
from ..routing.limits import Cost
from ..usage.record import CallRecord, Recorder


@dataclass(slots=True)
class Load:
    """The open calls of a process, across configurations. ``leaving``: the process is about to end. ``unpacking`` is
    held while a compressed request body is decompressed, one at a time."""

    calls: int = 0
    leaving: bool = False
    unpacking: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)


def nothing() -> None: ...


@dataclass(slots=True)
class Admission:
    """Admits the calls of one configuration, while fewer than ``most`` are open in the process.

    ``seconds`` bounds a whole call, 1800 by default. ``calls`` are the open calls of this configuration; ``ended`` is
    called when the last of them has ended.
    """

    load: Load
    most: int
    recorder: Recorder = field(repr=False)
    disconnects: DisconnectPolicy = field(repr=False)
    seconds: float = 1800.0
    clock: DeadlineClock = field(default_factory=DeadlineClock, repr=False)
    calls: int = 0
    ended: Callable[[], None] = field(default=nothing, repr=False)

    def admit(self, caller: str) -> Reservation:
        """A reservation for a call, to be entered at once. Raises Overloaded if ``most`` calls are open."""
        if self.load.calls >= self.most:
            raise Overloaded(
                f"{self.load.calls} calls are open, the limit of this gateway (max_concurrent_calls)", retry_after=1
            )
        return Reservation(self, ClientConnection(self.disconnects, caller, asyncio.current_task()))


class Reservation:
    """The room and the cost of a call. ``begin`` sets ``record``, ``reserve`` sets ``cost``."""

    __slots__ = ("_admission", "connection", "cost", "record")

    cost: Cost

    def __init__(self, admission: Admission, connection: ClientConnection) -> None:
        self._admission = admission
        self.connection = connection
        self.record: CallRecord | None = None

    def __enter__(self) -> Reservation:
        self._admission.load.calls += 1
        self._admission.calls += 1
        return self

    def begin(self, call: Call, request_id: str) -> CallRecord:
        """The record of the call, which is settled at its end."""
        record = CallRecord(request_id, self.connection.caller, call, self.connection)
        record.recorder = self._admission.recorder
        self.record = self.connection.work = record
        return record

    def time(self) -> Deadline:
        """A context that bounds the whole call and raises TimeoutError."""
        return self._admission.clock.within(self._admission.seconds)

    def reserve(self, body: bytes, route: Route) -> None:
        """Sets ``cost``, an estimate that counts against the limits of the upstreams' keys."""
        assert self.record is not None
        self.cost = Cost(len(body) // BYTES_PER_TOKEN, route.model.deepsearch, self.record.started)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        admission = self._admission
        try:
            if self.record is not None and error is not None:
                self.record.fail(error)
        finally:
            self.connection.end()
            admission.load.calls -= 1
            admission.calls -= 1
            if not admission.calls:
                admission.ended()
