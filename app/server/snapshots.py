"""The configuration in force, and earlier ones that still serve calls.

A reload builds the next configuration completely and then switches at once: every call is served from beginning to end
by the configuration it started with. A replaced configuration closes its connections when its last call has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from ..callers.accounts import Accounts
from ..callers.keys import Callers
from ..config.settings import Settings
from ..gateway.admission import Load, nothing
from ..gateway.build import keep_key_states
from ..gateway.gateway import Gateway
from ..routing.pool import Pool
from .access import Access
from .handlers import Handlers
from .web import WebRoutes


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One configuration and everything built from it. ``callers`` are those who may call, ``hot`` are the applications
    of the hot paths, ``web`` those of pages and searches, ``operator`` is the caller of the operator's routes,
    ``clean`` redacts a text, and ``secrets`` are the configuration's own keys and passwords."""

    settings: Settings = field(repr=False)
    gateway: Gateway = field(repr=False)
    handlers: Handlers = field(repr=False)
    access: Access = field(repr=False)
    pools: Mapping[str, Pool] = field(repr=False)
    hot: Mapping[str, ASGIApp] = field(repr=False)
    web: WebRoutes = field(repr=False)
    callers: Accounts = field(repr=False)
    operator: Callers | None = field(repr=False)
    clean: Callable[[str], str] = field(repr=False)
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

    def start(self) -> None:
        """Start the background work of the pools. Needs a running loop."""
        for pool in self.now.pools.values():
            pool.start()

    def renew(self, settings: Settings) -> None:
        """Put new settings in force for the calls from now on. If it raises, nothing has changed."""
        old = self.now
        fresh = self._build(settings, self.load, self.secrets)
        keep_key_states(settings, fresh.pools, old.settings, old.pools)
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
        """The keys and passwords of all configurations that still serve calls."""
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
        generation.handlers.admission.ended = nothing  # the callback refers to its generation, a cycle
        task = asyncio.ensure_future(_end(generation))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _end(generation: Generation) -> None:
    for pool in generation.pools.values():
        await pool.stop()
    await generation.gateway.aclose()
