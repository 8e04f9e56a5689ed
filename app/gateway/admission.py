"""Admission, reservation and settlement of a call.

admit     before the body is read: the process has room for the call
reserve   after the route and the cache: the call's cost at the upstreams
hold      then: what the call may use of its caller's limits and budgets
settle    with the end of the record, before the answer is written: the record goes to the ledger and the log, and what
          was held becomes what was used
release   at the end of the ``with``, however it ends: the room
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from ..callers.keys import Caller
from ..core.deadlines import Deadline, DeadlineClock
from ..core.disconnects import ClientConnection, DisconnectPolicy
from ..core.errors import Overloaded
from ..core.types import Call, Route, Target
from ..core.usage import BYTES_PER_TOKEN
from ..routing.limits import Cost
from ..usage.record import CallRecord, Payer, Recorder
from .holds import CallHold, Holds

TAG_LIMIT = 128  # characters


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

    ``seconds`` bounds a whole call, 1800 by default. ``holds`` None: no caller has limits. ``calls`` are the open calls
    of this configuration; ``ended`` is called when the last of them has ended.
    """

    load: Load
    most: int
    recorder: Recorder = field(repr=False)
    disconnects: DisconnectPolicy = field(repr=False)
    seconds: float = 1800.0
    holds: Holds | None = field(default=None, repr=False)
    clock: DeadlineClock = field(default_factory=DeadlineClock, repr=False)
    calls: int = 0
    ended: Callable[[], None] = field(default=nothing, repr=False)

    def admit(self, caller: Caller, request_id: str) -> Reservation:
        """A reservation for a call, to be entered at once. Raises Overloaded if ``most`` calls are open."""
        if self.load.calls >= self.most:
            raise Overloaded(
                f"{self.load.calls} calls are open, the limit of this gateway (max_concurrent_calls)", retry_after=1
            )
        connection = ClientConnection(self.disconnects, caller.name, asyncio.current_task())
        connection.own = caller.on_disconnect
        reservation = Reservation(self, connection, caller, request_id)
        if caller.scopes and self.holds is not None:
            reservation.account = CallHold(self.holds, caller, request_id)
        return reservation


class Reservation:
    """The room and the cost of a call. ``begin`` sets ``record``, ``reserve`` sets ``cost``. ``account`` is what is
    held of limits and budgets, None for a caller who has none."""

    __slots__ = ("_admission", "_request_id", "account", "caller", "connection", "cost", "record")

    cost: Cost

    def __init__(self, admission: Admission, connection: ClientConnection, caller: Caller, request_id: str) -> None:
        self._admission = admission
        self.caller = caller
        self._request_id = request_id
        self.account: CallHold | None = None
        self.connection = connection
        self.record: CallRecord | None = None

    def __enter__(self) -> Reservation:
        self._admission.load.calls += 1
        self._admission.calls += 1
        return self

    def begin(self, call: Call, tag: bytes = b"") -> CallRecord:
        """The record of the call, which is settled at its end. ``tag`` is the header x-torii-tag."""
        caller = self.caller
        record = CallRecord(self._request_id, caller.name, call, self.connection)
        record.recorder = self._admission.recorder
        record.account = self.account
        if caller.id is not None or tag:
            record.payer = Payer(caller.id, caller.team, shown(tag) if tag else None)
        self.record = self.connection.work = record
        return record

    def time(self) -> Deadline:
        """A context that bounds the whole call and raises TimeoutError."""
        return self._admission.clock.within(self._admission.seconds)

    def permit(self, route: Route) -> Route:
        """The route. Raises PermissionDenied if the caller may not use its model."""
        assert self.record is not None
        self.record.model_id = route.model.id
        self.caller.check_model(route.model.id)
        return route

    @property
    def owner(self) -> tuple[str, bool]:
        """Whose cached answers the call may get: the caller's, and whether they share them with others."""
        return self.caller.id or self.caller.name, self.caller.private_cache

    @property
    def limited(self) -> bool:
        """True if the call has to be held for: its caller has limits or budgets."""
        return self.account is not None

    @property
    def uncounted(self) -> bool:
        """True if the request has to be counted before the call may get an answer without cost."""
        return self.account is not None and not self.account.admitted

    def reserve(self, body: bytes, route: Route) -> None:
        """Sets ``cost``, an estimate that counts against the limits of the upstreams' keys."""
        assert self.record is not None
        tokens, about = len(body) // BYTES_PER_TOKEN, self.record.call.endpoint
        self.cost = Cost(
            tokens, route.model.deepsearch, self.record.started, api=about.api, once=about.once, slow=about.slow
        )
        if route.model.deepsearch and self._admission.holds is not None:
            self.record.call = self._admission.holds.runs.capped(self.record.call)

    async def count(self) -> None:
        """Holds the request, for an answer without cost. Raises as ``hold``."""
        assert self.record is not None
        assert self.account is not None
        await self.account.count(self.record)

    async def hold(self, part: Call, target: Target) -> None:
        """Holds what the requests for ``part`` may use at ``target``. Raises as ``CallHold.hold``."""
        assert self.record is not None
        assert self.account is not None
        await self.account.hold(self.record, part, target)

    async def extend(self, part: Call, target: Target) -> bool:
        """Holds what further requests for ``part`` may use at ``target``; False if that does not fit."""
        assert self.record is not None
        return self.account is None or await self.account.extend(self.record, part, target, None)

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


def shown(tag: bytes) -> str | None:
    """A tag's printable characters, at most TAG_LIMIT of them; None if it has none."""
    return "".join(filter(str.isprintable, tag.decode("utf-8", "replace")))[:TAG_LIMIT].strip() or None
