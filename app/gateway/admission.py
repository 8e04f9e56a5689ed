"""The life of a call towards its caller: admitted, its cost reserved, settled.

admit     before its body is read: this process has room for it
reserve   after the route and the cache: what is to be asked of upstreams costs so much
settle    with the end of its record, however it ends: the record goes to the ledger and the log
free      at the end of the ``with``: its room
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
    """The open calls of a process, whichever configuration serves them; whether it is about to go; and whose packed
    body is unpacked."""

    calls: int = 0
    leaving: bool = False
    unpacking: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)


def nothing() -> None: ...


@dataclass(slots=True)
class Admission:
    """Room for the calls of one configuration: at most ``most`` in a process. ``ended`` is called when none is open any
    more. ``seconds`` bounds a call in all."""

    load: Load
    most: int
    recorder: Recorder = field(repr=False)
    disconnects: DisconnectPolicy = field(repr=False)
    seconds: float = 1800.0
    clock: DeadlineClock = field(default_factory=DeadlineClock, repr=False)
    calls: int = 0
    ended: Callable[[], None] = field(default=nothing, repr=False)

    def admit(self, caller: str) -> Reservation:
        """Raises Overloaded. The reservation has to be entered at once."""
        if self.load.calls >= self.most:
            raise Overloaded(
                f"{self.load.calls} calls are open, the limit of this gateway (max_concurrent_calls)", retry_after=1
            )
        return Reservation(self, ClientConnection(self.disconnects, caller, asyncio.current_task()))


class Reservation:
    """What a call holds of the gateway from its admission to its settlement. ``record`` is there once it is a call."""

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
        """The total time of the call, as a context that raises TimeoutError."""
        return self._admission.clock.within(self._admission.seconds)

    def reserve(self, body: bytes, route: Route) -> None:
        """``cost`` is that of the call at upstreams, about: it counts against the limits of their keys."""
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
