"""Callers who leave before their answer is complete, and what becomes of their calls then.

    cancel   the upstream's connection is closed at once
    drain    the upstream's answer is read to its end, for what it cost, but only for some seconds
    detach   the call goes on to its own end, within the time that any call has

The word for the caller goes before the one for the model, and that before the general one. Only an upstream
that is at work is waited for: no further attempt is made for a caller who has left, and of a call in parts
only a detached one asks for the rest. At most ``calls`` go on at once; the next one is cancelled.

Others may wait for the same answer. Then the call goes on for them, whoever of them leaves, until the last has.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from .errors import shutting_down
from .types import OnDisconnect, Target


class CallerGone(Exception):
    """The caller has closed their connection; there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Policies:
    """Policies for calls whose callers leave: the general one, those of models by id and those of callers by name."""

    general: OnDisconnect = "cancel"
    models: Mapping[str, OnDisconnect] = field(default_factory=dict)
    callers: Mapping[str, OnDisconnect] = field(default_factory=dict)

    def of(self, caller: str, model: str) -> OnDisconnect:
        return self.callers.get(caller) or self.models.get(model) or self.general


class Work(Protocol):
    """Work for a call."""

    @property
    def at_work(self) -> Target | None:
        """The target that has a request of the call; None while none has."""


class DisconnectPolicy:
    """The calls that go on without their callers: a drained one for ``seconds``, any for ``total`` from its begin."""

    def __init__(
        self, policies: Policies | None = None, *, seconds: float = 30.0, calls: int = 20, total: float = 1800.0
    ) -> None:
        self.going_on: set[ClientConnection] = set()
        self._policies = policies or Policies()
        self._seconds = seconds
        self._calls = calls
        self._total = total

    def admit(self, connection: ClientConnection) -> tuple[OnDisconnect, float]:
        """The policy for a call whose caller has just left, and its deadline on the monotonic clock."""
        now = time.monotonic()
        policy: OnDisconnect = "cancel"
        if connection.target is not None and len(self.going_on) < self._calls:
            policy = self._policies.of(connection.caller, connection.target.model.id)
        if policy == "cancel":
            return policy, now
        self.going_on.add(connection)
        return policy, now + self._seconds if policy == "drain" else connection.begun + self._total


class ClientConnection:
    """The connection of one call's caller, and of others who wait for the same answer.

    ``work`` is done for the call; ``task`` is cancelled if the call has to end. ``left``: the caller has closed it;
    ``gone``: and nothing is done for them any more. ``over``: nobody wanted the answer when more was
    to be asked for, so that it will not come.
    """

    __slots__ = (
        *("_ahead", "_company", "_cut", "_disconnects", "_policy", "_task", "_timer"),
        *("begun", "caller", "gone", "left", "over", "work"),
    )

    def __init__(
        self, disconnects: DisconnectPolicy | None = None, caller: str = "", task: asyncio.Task[Any] | None = None
    ) -> None:
        self.caller = caller
        self.begun = time.monotonic()
        self.left = self.gone = self.over = False
        self.work: Work | None = None
        self._disconnects = disconnects
        self._policy: OnDisconnect = "cancel"
        self._task = task
        self._timer: asyncio.TimerHandle | None = None
        self._cut = False
        self._ahead: ClientConnection | None = None
        self._company: list[ClientConnection] = []

    @property
    def target(self) -> Target | None:
        """The target at work for the caller; None while none is."""
        if self._ahead is not None:
            return self._ahead.target
        return self.work.at_work if self.work is not None else None

    # Others who wait for the same.

    def follow(self, first: ClientConnection) -> None:
        """Waits for the answer to the call of ``first``."""
        self._ahead = first
        first._company.append(self)

    def unfollow(self) -> None:
        """The last who does ends a call whose own caller is gone."""
        if (first := self._ahead) is not None:
            first._company.remove(self)
            if first.gone:
                first._cancel()

    @property
    def awaited(self) -> int:
        """The number of callers for whom something is done."""
        return len(self._company) + (not self.gone)

    @property
    def deserted(self) -> bool:
        """True if all have left, even if something is still done for them."""
        return self.left and all(other.left for other in self._company)

    @property
    def wants(self) -> bool:
        """True if more may be asked for the caller, or for the others."""
        if not self.left or (self._policy == "detach" and not self.gone):
            return True
        return any(other.wants for other in self._company)

    def ask(self) -> None:
        """Before each question to an upstream. Raises CallerGone where there is no one left to ask for."""
        if not self.wants:
            self.over = True
            raise CallerGone

    # The end.

    def leave(self) -> None:
        """The caller has left. The call ends with that, at once or in its time."""
        if self.left:
            return
        self.left = True
        until = self.begun
        if self._disconnects is not None:
            self._policy, until = self._disconnects.admit(self)
        seconds = until - time.monotonic()
        if seconds <= 0:
            self._cancel()
        else:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._cancel)

    def ended(self) -> Exception:
        """The error for a cancellation: CallerGone if it came from here, Unavailable if it is the server's. One that
        was not of this task is a failure of something that it waited for, and is none of the caller's."""
        if self._task is not None:
            if not self._task.cancelling():
                return RuntimeError("what the call waited for was cancelled")
            self._task.uncancel()
        return CallerGone() if self._cut else shutting_down()

    def end(self) -> None:
        """The call has ended; another one may go on without its caller in its place."""
        self._task = self.work = None
        if self.left:
            self._go()

    def _go(self) -> None:
        self.gone = True
        if self._timer is not None:
            self._timer.cancel()
        if self._disconnects is not None:
            self._disconnects.going_on.discard(self)

    def _cancel(self) -> None:
        self._go()
        if self._task is not None and not self._company:
            self._cut = True
            self._task.cancel()
