"""The runtime state of one upstream key: calls at work, use of its limits, its cooldown and the cause.

    rate limited     in cooldown until the time that the provider stated
    refused          shut: in cooldown until a probe or a trial call succeeds
    account empty    shut: the same

When a cooldown ends, one trial call uses the key; no other call uses the key until the trial call has an outcome.

Times are of the monotonic clock. Only Cooldown, which outlives the process, is in Unix time.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from ..core.errors import UpstreamError, UpstreamFailed, UpstreamRateLimited, account_empty, key_refused, rate_limited
from ..core.types import Json, Key
from .limits import KEPT, MINUTE, Cost, RateLimits, SlidingWindow

Cause = Literal["", "rate limited", "refused", "account empty"]
SHUT = ("refused", "account empty")
UNSOUND_AFTER = 3  # faults of the upstream in a row that a key has met


@dataclass(frozen=True, slots=True)
class Cooldown:
    """A key's cooldown, to be saved. ``until`` is a Unix time in seconds; an empty ``cause`` ends the cooldown."""

    upstream: str
    fingerprint: str
    alias: str
    cause: Cause
    until: float


def fingerprint(upstream: str, key: Key) -> str:
    """The identity of a key's secret at an upstream, whatever the alias: SHA-256 in 64 hexadecimal digits."""
    return hashlib.sha256(f"torii:{upstream}\0{key.secret}".encode()).hexdigest()


@dataclass(slots=True, eq=False)
class KeyState:
    """The state of one key. The key with the lowest ``load`` takes the next call.

    ``load`` is (calls at work / weight, ``virtual_time``): ``virtual_time`` breaks ties and grows by 1 / weight with
    each call, as in weighted fair queueing. ``cause``, ``since`` and ``cooldown_until`` describe the cooldown (empty
    and 0 if there is none), ``rests`` are the ends of those of single APIs, which have limits of their own. ``trial``
    is the lease of the call that tries the key after its cooldown, ``probing`` the task that probes the key. ``calls``
    and ``failures`` count since the start, ``faults`` the faults of the upstream (5xx) in a row that it met.
    """

    key: Key
    limits: RateLimits
    at_work: int = 0
    virtual_time: float = 0.0
    load: tuple[float, float] = (0.0, 0.0)
    calls: int = 0
    failures: int = 0
    faults: int = 0
    cause: Cause = ""
    since: float = 0.0
    cooldown_until: float = 0.0
    trial: object = None
    probing: asyncio.Task[None] | None = None
    rests: dict[str, float] = field(default_factory=dict)
    windows: dict[str, SlidingWindow] = field(init=False)

    def __post_init__(self) -> None:
        limits = {"requests": self.limits.requests, "tokens": self.limits.tokens, "deepsearch": self.limits.deepsearch}
        self.windows = {name: SlidingWindow(limit) for name, limit in limits.items() if limit is not None}
        self.windows |= {name: SlidingWindow(limit) for name, limit in self.limits.apis.items()}

    def reconfigure(self, new: KeyState) -> KeyState:
        """Takes the name and the limits of ``new``; the cooldown, the calls and the use of the limits stay."""
        for name, window in new.windows.items():
            if name in self.windows:
                self.windows[name].limit = window.limit
                new.windows[name] = self.windows[name]
        self.key, self.limits, self.windows = new.key, new.limits, new.windows
        self.load = self.at_work / self.limits.weight, self.virtual_time
        return self

    @property
    def shut(self) -> bool:
        return self.cause in SHUT

    def in_cooldown(self, now: float) -> bool:
        return now < self.cooldown_until

    def usable(self, now: float) -> bool:
        """True if the key's cooldown, if any, allows a call now. Its limits are not checked."""
        return not self.cause or (self.trial is None and now >= self.cooldown_until)

    def sound(self, now: float, cost: Cost) -> bool:
        """True if the key is free now for a call of this ``cost``, and the upstream does not keep failing for it."""
        return self.faults < UNSOUND_AFTER and self.usable(now) and self.room(now, cost) == 0

    def room(self, now: float, cost: Cost, delay_until: float = 0.0) -> float | None:
        """Seconds until the limits allow a call of this ``cost``; None if another call has to end first.

        Near a limit the call is held back until ``delay_until`` (monotonic), so that others can be batched with it.
        """
        if self.limits.concurrency is not None and self.at_work >= self.limits.concurrency:
            return None
        wait = max(self.rests.get(cost.api, 0.0) - now, 0.0) if cost.api else 0.0
        for name, window in self.windows.items():
            wait = max(wait, window.wait(now, cost.amount(name)))
        if not wait and delay_until > now and (requests := self.windows.get("requests")):
            return min(requests.pace(now), delay_until - now)
        return wait

    def wait(self, now: float, cost: Cost, delay_until: float) -> float | None:
        """Seconds until the cooldown has ended and the limits allow the call; None if another call has to end first."""
        room = self.room(now, cost, delay_until)
        if room is None or (self.trial and not self.in_cooldown(now)):
            return None
        return max(room, self.cooldown_until - now)

    def take(self, now: float, cost: Cost) -> None:
        self.at_work += 1
        self.calls += 1
        self.virtual_time += 1 / self.limits.weight
        self.load = self.at_work / self.limits.weight, self.virtual_time
        for name, window in self.windows.items():
            if amount := cost.amount(name):
                window.add(now, amount)

    def leave(self) -> None:
        self.at_work -= 1
        self.load = self.at_work / self.limits.weight, self.virtual_time

    def stretch(self, now: float, tokens: int) -> bool:
        """Adds tokens to the use of the limit for a call, if the limit allows them now; False if it does not."""
        window = self.windows.get("tokens")
        if window is not None and tokens:
            if window.wait(now, tokens):
                return False
            window.add(now, tokens)
        return True

    def described(self, now: float, clock: float) -> Json:
        """The state as plain JSON values. ``clock`` is the Unix time of ``now``. The state ``trial`` means that the
        next call, or the one at work, decides whether the key works. Of APIs with limits of their own, ``minute`` has
        those that were called."""
        cooling = self.in_cooldown(now)
        until = datetime.fromtimestamp(clock + self.cooldown_until - now, UTC).isoformat(timespec="seconds")
        limits = {name: {"used": window.used(now), "limit": window.limit} for name, window in self.windows.items()}
        limits = {name: use for name, use in limits.items() if use["used"] or name not in self.limits.apis}
        return {
            "key": self.key.alias,
            "tail": self.key.tail,
            "state": "resting" if cooling else "trial" if self.cause else "healthy",
            "cause": self.cause or None,
            "until": until.replace("+00:00", "Z") if cooling else None,
            "at_work": self.at_work,
            "concurrency": self.limits.concurrency,
            "weight": self.limits.weight,
            "minute": limits,
            "calls": self.calls,
            "failures": self.failures,
        }


def refused(states: Sequence[KeyState], upstream: str, failing: bool, seconds: float) -> UpstreamError:
    """The error if none of these keys can be used now. ``failing``: the upstream keeps failing. ``seconds`` is the
    least ``retry_after``."""
    if all(state.shut for state in states):
        return key_refused(upstream) if any(state.cause == "refused" for state in states) else account_empty(upstream)
    if all(state.cause for state in states):
        left = min(state.cooldown_until for state in states if not state.shut) - time.monotonic()
        return rate_limited(upstream, max(left, seconds))
    if failing:
        return UpstreamFailed(f"{upstream} keeps failing", status=503)
    # OpenAI's SDK obeys at most 60 seconds; what a window is kept beyond its minute passes in the queue.
    after = MINUTE if MINUTE < seconds <= KEPT else seconds
    return UpstreamRateLimited(f"every key of {upstream} is at its limit in this gateway", retry_after=after)
