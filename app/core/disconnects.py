"""The policy for calls whose callers disconnect before the answer is complete.

    cancel   the upstream's connection is closed at once
    drain    the upstream's answer is read to its end for its usage, for at most some seconds
    detach   the call continues to its end, within the total time of any call

A caller's own policy takes precedence over the model's, and the model's over the general one; for a call that is paid
for whether its end is seen or not, ``detach`` takes the place of the general one. Only a request that an
upstream already works on is waited for: a call whose caller has left is not retried, and only a detached call sends the
parts that have not been sent yet. At most ``calls`` calls continue without their callers; further ones are cancelled.

Several callers may wait for the same answer (single-flight). The call continues until the last of them has left.
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
    """The caller has closed the connection: nobody is left to answer."""


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies: the general one, those of models by id, and those of callers by name."""

    general: OnDisconnect = "cancel"
    models: Mapping[str, OnDisconnect] = field(default_factory=dict)
    callers: Mapping[str, OnDisconnect] = field(default_factory=dict)

    def of(self, caller: str, model: str, own: OnDisconnect | None = None, *, prepaid: bool = False) -> OnDisconnect:
        """``own`` is the policy of the caller's key. ``prepaid``: the call costs its whole hold if its end is not
        seen."""
        policy = own or self.callers.get(caller) or self.models.get(model)
        return policy or ("detach" if prepaid else self.general)


class Work(Protocol):
    """The work that is done for a call; a call's record is one."""

    @property
    def at_work(self) -> Target | None:
        """The target that has a request of the call; None if no target has one."""


class DisconnectPolicy:
    """The calls that continue without their callers, at most ``calls`` at once.

    A drained call has ``seconds`` from the disconnect, a detached call ``total`` seconds from its start.
    """

    def __init__(
        self, policies: Policies | None = None, *, seconds: float = 30.0, calls: int = 20, total: float = 1800.0
    ) -> None:
        self.unattended: set[ClientConnection] = set()
        self._policies = policies or Policies()
        self._seconds = seconds
        self._calls = calls
        self._total = total

    def admit(self, connection: ClientConnection) -> tuple[OnDisconnect, float]:
        """The policy for a call whose caller has just left, and the call's deadline on the monotonic clock."""
        now = time.monotonic()
        policy: OnDisconnect = "cancel"
        if connection.target is not None and len(self.unattended) < self._calls:
            model = connection.target.model.id
            policy = self._policies.of(connection.caller, model, connection.own, prepaid=connection.prepaid)
        if policy == "cancel":
            return policy, now
        self.unattended.add(connection)
        return policy, now + self._seconds if policy == "drain" else connection.begun + self._total


class ClientConnection:
    """The connection of a call's caller, and of other callers that wait for the same answer.

    ``work`` is done for the call; ``task`` is cancelled if the call has to end. ``own`` is the policy of the caller's
    key, ``prepaid`` means that a call whose end is not seen costs all that is held for it. ``left``: the caller has
    closed the connection. ``gone``: the caller has left, and nothing is done for them any more. ``over``: no caller
    wanted the answer when the next request was due, so the answer will never come.
    """

    __slots__ = (
        *("_ahead", "_company", "_cut", "_disconnects", "_policy", "_task", "_timer"),
        *("begun", "caller", "gone", "left", "over", "own", "prepaid", "work"),
    )

    def __init__(
        self, disconnects: DisconnectPolicy | None = None, caller: str = "", task: asyncio.Task[Any] | None = None
    ) -> None:
        self.caller = caller
        self.own: OnDisconnect | None = None
        self.prepaid = False
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
        """The target that has a request of the caller's call; None if no target has one."""
        if self._ahead is not None:
            return self._ahead.target
        return self.work.at_work if self.work is not None else None

    # Callers that wait for the same answer.

    def follow(self, first: ClientConnection) -> None:
        """Adds this caller to those that wait for the answer to ``first``'s call."""
        self._ahead = first
        first._company.append(self)

    def unfollow(self) -> None:
        """Removes this caller again. The last one to be removed cancels the call if its own caller is gone."""
        if (first := self._ahead) is not None:
            first._company.remove(self)
            if first.gone:
                first._cancel()

    @property
    def awaited(self) -> int:
        """The number of callers that the call is still made for."""
        return len(self._company) + (not self.gone)

    @property
    def deserted(self) -> bool:
        """True if all callers have left, even if the call continues for them."""
        return self.left and all(other.left for other in self._company)

    @property
    def wants(self) -> bool:
        """True if more requests may be sent for this caller, or for the others."""
        if not self.left or (self._policy == "detach" and not self.gone):
            return True
        return any(other.wants for other in self._company)

    def ask(self) -> None:
        """To be called before each request to an upstream. Raises CallerGone if no caller wants the answer any more."""
        if not self.wants:
            self.over = True
            raise CallerGone

    # The end.

    def leave(self) -> None:
        """The caller has left: cancels the call, at once or at the policy's deadline, unless others still wait."""
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
        """The error for a cancellation: CallerGone if it came from here, Unavailable if it came from the server.

        RuntimeError if the task itself was not cancelled, but something that it awaited: no disconnect is the cause.
        """
        if self._task is not None:
            if not self._task.cancelling():
                return RuntimeError("what the call waited for was cancelled")
            self._task.uncancel()
        return CallerGone() if self._cut else shutting_down()

    def end(self) -> None:
        """The call has ended, which makes room for another call without a caller."""
        self._task = self.work = None
        if self.left:
            self._go()

    def _go(self) -> None:
        self.gone = True
        if self._timer is not None:
            self._timer.cancel()
        if self._disconnects is not None:
            self._disconnects.unattended.discard(self)

    def _cancel(self) -> None:
        self._go()
        if self._task is not None and not self._company:
            self._cut = True
            self._task.cancel()
