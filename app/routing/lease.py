"""The lease of a key for one call, and the queue entry of a call that waits for one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from ..core.errors import UpstreamError, UpstreamFailed
from ..core.types import Key
from .key_state import KeyState
from .limits import Cost

P = TypeVar("P")


class Lender(Protocol):
    """The owner of the leased keys: a pool."""

    def leave(self, lease: Lease) -> None: ...
    def succeeded(self, lease: Lease) -> None: ...
    def failed(self, lease: Lease, failure: UpstreamError) -> None: ...
    def refusal(self, state: KeyState | None = None) -> UpstreamError: ...


class Lease:
    """The right to use one key for one call. A ``with`` reports the outcome to the pool and releases the key at its
    end.

    The holder of a stream's lease reports and releases by hand. Only the first report counts; a second release does
    nothing. ``taken`` is the time of the lease, by the monotonic clock. ``api`` is the provider's API that
    is called, if it has limits of its own.
    """

    __slots__ = ("_reported", "api", "lender", "released", "state", "taken")

    def __init__(self, lender: Lender, state: KeyState, taken: float, api: str = "") -> None:
        self.lender = lender
        self.state = state
        self.taken = taken
        self.api = api
        self.released = False
        self._reported = False

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, failure: BaseException | None, _: object) -> None:
        if failure is None:
            self.succeed()
        else:
            self.fail(failure)
        self.release()

    @property
    def key(self) -> Key:
        return self.state.key

    def stretch(self, tokens: int) -> bool:
        """Adds tokens to the lease, if the key's limit allows them now; False if it does not."""
        return self.state.stretch(time.monotonic(), tokens)

    def check(self) -> None:
        """Raises UpstreamError if the key has gone into cooldown since its lease. Called before a request's first
        byte."""
        if self.state.cause and self.state.since > self.taken:
            raise self.lender.refusal(self.state)

    def succeed(self) -> None:
        if not self._reported:
            self._reported = True
            self.state.faults = 0
            self.lender.succeeded(self)

    def fail(self, failure: BaseException) -> None:
        """Reports a failure. A failure that is not an UpstreamError says nothing about the key."""
        if not self._reported:
            self._reported = True
            if isinstance(failure, UpstreamError):
                if failure.asked:
                    self.state.faults = self.state.faults + 1 if isinstance(failure, UpstreamFailed) else 0
                self.lender.failed(self, failure)

    def works(self) -> None:
        """Reports the head of a stream, which ends a rate limit's cooldown: the stream may take minutes."""
        if self.state.cause == "rate limited":
            self.lender.succeeded(self)

    def release(self) -> None:
        if not self.released:
            self.released = True
            self.lender.leave(self)


@dataclass(slots=True, eq=False)
class Succession(Generic[P]):
    """The pools of one upstream that share its key states across reloads: ``current`` is the newest, ``queued`` those
    with calls in their queues."""

    current: P
    queued: dict[P, None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class KeyWaiter:
    """A call in a pool's queue. ``granted`` gets a lease; or None if the wait of ``seconds`` exceeds the queue timeout,
    if the call can go ``elsewhere`` while no key is ready, or if all keys are refused."""

    cost: Cost
    tried: Collection[str]
    granted: asyncio.Future[Lease | None]
    elsewhere: Callable[[], bool]
    seconds: float = 0.0


async def granted(waiter: asyncio.Future[Lease | None]) -> Lease | None:
    """The lease of a waiter; released if the waiter was cancelled after it was granted."""
    try:
        return await waiter
    except asyncio.CancelledError:
        if waiter.done() and not waiter.cancelled() and (lease := waiter.result()) is not None:
            lease.release()
        raise
