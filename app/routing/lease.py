"""A key for one call, and a call's place in line for one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from ..core.errors import UpstreamError
from ..core.types import Key
from .key_state import KeyState
from .limits import Cost

P = TypeVar("P")


class Lender(Protocol):
    """Whose keys they are."""

    def leave(self, lease: Lease) -> None: ...
    def succeeded(self, lease: Lease) -> None: ...
    def failed(self, lease: Lease, failure: UpstreamError) -> None: ...
    def refusal(self, state: KeyState | None = None) -> UpstreamError: ...


class Lease:
    """A key for one call. At the end of a ``with`` the pool is told how the call went, and has the key back.

    The holder of a stream's lease does both by themselves. The pool is told once, of whatever comes first, and a second
    release does nothing. ``taken`` is when the key was given, by the monotonic clock.
    """

    __slots__ = ("_reported", "lender", "released", "state", "taken")

    def __init__(self, lender: Lender, state: KeyState, taken: float) -> None:
        self.lender = lender
        self.state = state
        self.taken = taken
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
        """Takes more tokens along, if the key's limit allows it now."""
        return self.state.stretch(time.monotonic(), tokens)

    def check(self) -> None:
        """To be called before the first byte goes out. Raises UpstreamError if the key rests since it was leased."""
        if self.state.cause and self.state.since > self.taken:
            raise self.lender.refusal(self.state)

    def succeed(self) -> None:
        if not self._reported:
            self._reported = True
            self.lender.succeeded(self)

    def fail(self, failure: BaseException) -> None:
        """A failure that is not the upstream's says nothing of the key."""
        if not self._reported:
            self._reported = True
            if isinstance(failure, UpstreamError):
                self.lender.failed(self, failure)

    def works(self) -> None:
        """The head of a stream has come, which tells enough of a key that was limited: the stream may take minutes."""
        if self.state.cause == "rate limited":
            self.lender.succeeded(self)

    def release(self) -> None:
        if not self.released:
            self.released = True
            self.lender.leave(self)


@dataclass(slots=True, eq=False)
class Succession(Generic[P]):
    """The pools that have had the same keys: the one that goes on with them, and those with calls in line."""

    current: P
    queued: dict[P, None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class KeyWaiter:
    """A call in line. It is given a lease, or None if it would take too long (``seconds``), or if it can go
    ``elsewhere`` while these keys rest."""

    cost: Cost
    tried: Collection[str]
    granted: asyncio.Future[Lease | None]
    elsewhere: Callable[[], bool]
    seconds: float = 0.0


async def granted(waiter: asyncio.Future[Lease | None]) -> Lease | None:
    """A waiter's lease; released if the waiter was cancelled after it was given."""
    try:
        return await waiter
    except asyncio.CancelledError:
        if waiter.done() and not waiter.cancelled() and (lease := waiter.result()) is not None:
            lease.release()
        raise
