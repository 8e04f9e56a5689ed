"""The configuration in force, and those before it that still have calls.

A reload builds the next one whole and puts it in force at once: every call is served from its beginning to its end
by the configuration that it met. One that is no longer in force closes its connections when its last call has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..config.settings import Settings
from ..gateway.admission import Load, nothing
from ..gateway.build import go_on
from ..gateway.gateway import Gateway
from ..routing.pool import Pool
from .access import Access
from .handlers import Handlers


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One configuration at work. ``doors`` by their paths, ``posted`` those for a POST, ``secrets`` its own keys."""

    settings: Settings = field(repr=False)
    gateway: Gateway = field(repr=False)
    handlers: Handlers = field(repr=False)
    access: Access = field(repr=False)
    pools: Mapping[str, Pool] = field(repr=False)
    doors: Mapping[str, ASGIApp] = field(repr=False)
    posted: Mapping[str, ASGIApp] = field(repr=False)
    secrets: frozenset[str] = field(repr=False)


class Build(Protocol):
    def __call__(self, settings: Settings, load: Load, secrets: Collection[str]) -> Generation: ...


class Generations:
    def __init__(self, build: Build, settings: Settings) -> None:
        self.load = Load()
        self._build = build
        self.now = build(settings, self.load, ())
        self._before: list[Generation] = []
        self._closing: set[asyncio.Task[None]] = set()

    def door(self, path: str) -> ASGIApp:
        """An ASGI application: the door at ``path`` of whichever configuration is in force when a call comes."""

        def door(scope: Scope, receive: Receive, send: Send) -> object:
            return self.now.doors[path](scope, receive, send)

        return door  # type: ignore[return-value]  # it gives an awaitable

    def start(self) -> None:
        """Begins what goes on beside the calls. Needs a running loop."""
        for pool in self.now.pools.values():
            pool.start()

    def renew(self, settings: Settings) -> None:
        """Puts other settings in force, for the calls that come from now on. Where it raises, nothing has changed."""
        old = self.now
        fresh = self._build(settings, self.load, self.secrets)
        go_on(settings, fresh.pools, old.settings, old.pools)
        self.now = fresh
        self.start()
        self._before.append(old)
        old.handlers.admission.ended = partial(self._close, old)
        if not old.handlers.admission.calls:
            self._close(old)

    async def no_such_route(self, request: Request, error: Exception) -> Response:
        return await self.now.handlers.no_such_route(request, error)

    def drain(self, seconds: float) -> None:
        for generation in self._living():
            generation.gateway.drain(seconds)

    @property
    def secrets(self) -> frozenset[str]:
        """The keys of all that are at work."""
        return frozenset().union(*(generation.secrets for generation in self._living()))

    @property
    def draining(self) -> bool:
        return self.now.gateway.draining

    async def aclose(self) -> None:
        for generation in self._living():
            await _end(generation)
        await asyncio.gather(*self._closing)

    def _living(self) -> list[Generation]:
        return [*self._before, self.now]

    def _close(self, generation: Generation) -> None:
        self._before.remove(generation)
        generation.handlers.admission.ended = nothing  # it would hold itself
        task = asyncio.ensure_future(_end(generation))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _end(generation: Generation) -> None:
    for pool in generation.pools.values():
        await pool.stop()
    await generation.gateway.aclose()
