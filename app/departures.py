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


class Presence:
    """Whether the caller of one call is still there. ``target`` is who is at work for him, None while nobody is."""

    __slots__ = ("_departures", "_policy", "_until", "begun", "caller", "left", "target")

    def __init__(self, departures: Departures | None = None, caller: str = "") -> None:
        self.caller = caller
        self.begun = time.monotonic()
        self.left = False
        self.target: Target | None = None
        self._departures = departures or Departures()
        self._policy: OnDisconnect = "cancel"
        self._until = self.begun

    async def gone(self) -> None:
        """The caller has left. Returns when the call has to end too, which may be at once."""
        if not self.left:
            self.left = True
            self._policy, self._until = self._departures.admit(self)
        if (seconds := self._until - time.monotonic()) > 0:
            await asyncio.sleep(seconds)

    def ask(self) -> None:
        """Before each question to an upstream. Raises CallerGone where there is no one left to ask for."""
        if self.left and self._policy != "detach":
            raise CallerGone

    def end(self) -> None:
        """The call has ended; another one may go on without its caller in its place."""
        self._departures.going_on.discard(self)
