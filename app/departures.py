"""Callers who leave before their answer is complete, and what becomes of their calls then.

    cancel   the upstream's connection is closed at once
    drain    the upstream's answer is read to its end, for what it cost, but only for some seconds
    detach   the call goes on to its own end, within the time that any call has

The word for the caller goes before the one for the model, and that before the general one. Only an upstream
that is at work is waited for: no further attempt is made for a caller who has left, and of a call in parts
only a detached one asks for the rest. At most ``calls`` go on at once; the next one is cancelled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from .types import OnDisconnect, Target


class CallerGone(Exception):
    """The caller has closed his connection; there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Policies:
    """What was said in general, of models by their ids and of callers by their names."""

    general: OnDisconnect = "cancel"
    models: Mapping[str, OnDisconnect] = field(default_factory=dict)
    callers: Mapping[str, OnDisconnect] = field(default_factory=dict)

    def of(self, caller: str, model: str) -> OnDisconnect:
        return self.callers.get(caller) or self.models.get(model) or self.general


class Departures:
    """The calls that go on without their callers: a drained one for ``seconds``, any for ``total`` from its begin."""

    def __init__(
        self, policies: Policies | None = None, *, seconds: float = 30.0, calls: int = 20, total: float = 1800.0
    ) -> None:
        self.going_on: set[Presence] = set()
        self._policies = policies or Policies()
        self._seconds = seconds
        self._calls = calls
        self._total = total

    def admit(self, presence: Presence) -> tuple[OnDisconnect, float]:
        """What becomes of a call whose caller has just left, and until when, by the monotonic clock."""
        now = time.monotonic()
        policy: OnDisconnect = "cancel"
        if presence.target is not None and len(self.going_on) < self._calls:
            policy = self._policies.of(presence.caller, presence.target.model.id)
        if policy == "cancel":
            return policy, now
        self.going_on.add(presence)
        return policy, now + self._seconds if policy == "drain" else presence.begun + self._total


class Waiting(Protocol):
    """Whoever an upstream is asked for: a caller, or several. ``target`` is who is at work for them."""

    target: Target | None

    @property
    def left(self) -> bool: ...

    @property
    def wants(self) -> bool: ...

    def ask(self) -> None: ...


class Presence:
    """Whether the caller of one call is still there. ``target`` is who is at work for him, None while nobody is;
    ``task`` what is cancelled when the call has to end because he has left."""

    __slots__ = ("_cut", "_departures", "_policy", "_task", "_timer", "begun", "caller", "left", "target")

    def __init__(
        self, departures: Departures | None = None, caller: str = "", task: asyncio.Task[Any] | None = None
    ) -> None:
        self.caller = caller
        self.begun = time.monotonic()
        self.left = False
        self.target: Target | None = None
        self._departures = departures
        self._policy: OnDisconnect = "cancel"
        self._task = task
        self._timer: asyncio.TimerHandle | None = None
        self._cut = False

    def leave(self) -> None:
        """The caller has left. The call ends with that, at once or in its time."""
        if self.left:
            return
        self.left = True
        until = self.begun
        if self._departures is not None:
            self._policy, until = self._departures.admit(self)
        seconds = until - time.monotonic()
        if seconds <= 0:
            self._cancel()
        else:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._cancel)

    @property
    def wants(self) -> bool:
        """Whether more may be asked for him."""
        return not self.left or self._policy == "detach"

    def ask(self) -> None:
        """Before each question to an upstream. Raises CallerGone where there is no one left to ask for."""
        if not self.wants:
            raise CallerGone

    def ended(self, error: asyncio.CancelledError) -> BaseException:
        """What a cancellation means: CallerGone where it came from here; that of the server as it is. One that was
        not of this task is a failure of something that it waited for, and is none of the caller's."""
        if self._cut and self._task is not None:
            self._task.uncancel()
            return CallerGone()
        if self._task is not None and not self._task.cancelling():
            return RuntimeError("what the call waited for was cancelled")
        return error

    def end(self) -> None:
        """The call has ended; another one may go on without its caller in its place."""
        self._task = None
        if self.left:
            if self._timer is not None:
                self._timer.cancel()
            if self._departures is not None:
                self._departures.going_on.discard(self)

    def _cancel(self) -> None:
        if self._task is not None:
            self._cut = True
            self._task.cancel()


class Company:
    """The callers who wait for one answer: as long as one of them wants it, it is asked for.

    ``over``: none did, so that it will not come, and nobody may join them any more.
    """

    __slots__ = ("_members", "_target", "over")

    def __init__(self) -> None:
        self.over = False
        self._members: list[Waiting] = []
        self._target: Target | None = None

    def __len__(self) -> int:
        return len(self._members)

    def join(self, member: Waiting) -> None:
        member.target = self._target
        self._members.append(member)

    def leave(self, member: Waiting) -> None:
        self._members.remove(member)

    @property
    def target(self) -> Target | None:
        return self._target

    @target.setter
    def target(self, target: Target | None) -> None:
        self._target = target
        for member in self._members:
            member.target = target

    @property
    def left(self) -> bool:
        return all(member.left for member in self._members)

    @property
    def wants(self) -> bool:
        return any(member.wants for member in self._members)

    def ask(self) -> None:
        if not self.wants:
            self.over = True
            raise CallerGone
