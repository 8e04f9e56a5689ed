"""Limits, budgets, prices and alerts, built from the settings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from .. import __version__
from ..callers.calendar import Calendar
from ..config.settings import Settings
from ..gateway.alerts import Alerts
from ..gateway.build import WHOLE, Share
from ..gateway.holds import Holds
from ..gateway.own_limits import OwnLimits
from ..gateway.runs import RunBudgets
from ..gateway.settlements import Settlements
from ..gateway.shared_limits import SharedLimits
from ..gateway.slices import Slices
from ..gateway.webhooks import Webhook, webhook_client
from ..storage.counters import balances
from ..storage.holds import Charge, Decision
from ..storage.ledger_file import LedgerFile
from ..storage.redis.counters import SharedCounters
from ..storage.slices import SlicedCounters
from ..usage.ledger import Ledger
from ..usage.prices import Prices, price_of

CLOSING_SECONDS = 5.0  # for alerts that are on their way at the end


class Accounting:
    """The part that outlives a reload: the calls that wait for others to settle, the limits while the store is away,
    slices and alerts. ``file`` None: no ledger, so no alerts. ``counters``: what replicas share in Redis."""

    def __init__(self, file: LedgerFile | None, share: Share = WHOLE, counters: SharedCounters | None = None) -> None:
        self.file = file
        replicas = counters or (file.replicas if file is not None else None)
        self.own = OwnLimits(share.part if replicas is None else partial(_part, replicas, share))
        self.shared = None if counters is None else SharedLimits(counters, self.own)
        self.settlements = Settlements()
        if counters is not None:
            counters.settled.append(self.settlements)
        self.alerts: Alerts | None = None
        self.slices: Slices | None = None
        self._webhook: tuple[str, str | None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        if file is not None:
            self.alerts = Alerts(file.alert, partial(balances, file.location))
            self.slices = Slices(file, self._observe)
            file.settled.extend((self.settlements, self.alerts.settled))

    def renew(self, settings: Settings) -> None:
        """Sends alerts where these settings say, from now on."""
        given = settings.alerts.webhook
        secret = given.secret.get_secret_value() if given is not None and given.secret is not None else None
        place = None if given is None else (given.url.get_secret_value(), secret)
        if self.alerts is None or place == self._webhook:
            return
        before, self._webhook = self.alerts.webhook, place
        ca = settings.ca_file.pem if settings.ca_file else b""
        self.alerts.webhook = None if place is None else Webhook(webhook_client(f"torii/{__version__}", ca), *place)
        if before is not None:
            task = asyncio.ensure_future(before.aclose(CLOSING_SECONDS))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _observe(self, charged: Sequence[Charge], decision: Decision) -> None:
        self.own.see(charged, decision)
        if self.alerts is not None:
            self.alerts.observe(charged, decision)

    async def aclose(self) -> None:
        if self.slices is not None:
            await self.slices.aclose()
        if self.file is not None and self.alerts is not None:
            self.file.settled.remove(self.settlements)
            self.file.settled.remove(self.alerts.settled)
            await self.alerts.aclose(CLOSING_SECONDS)
        if self.shared is not None:
            await self.shared.counters.aclose()
        await asyncio.gather(*self._closing)


def _part(replicas: SharedCounters | SlicedCounters, share: Share, limit: int) -> int:
    """This process's share of a limit, among all processes of all replicas that were known last, or among the workers
    of this host if not all of them were known yet."""
    known = replicas.processes >= share.workers
    return (Share(replicas.rank, replicas.processes) if known else share).part(limit)


def build_book(
    settings: Settings, file: LedgerFile | None, redact: Callable[[str], str], prices: Prices
) -> Ledger | None:
    """The ledger; None without a file."""
    if file is None:
        return None
    return Ledger(file, redact, prices=prices, hashed=settings.ledger.hash_users)


def build_holds(settings: Settings, ledger: Ledger | None, accounting: Accounting, prices: Prices) -> Holds:
    return Holds(
        ledger=ledger,
        calendar=Calendar(settings.time_zone, settings.week_begins),
        prices=prices,
        runs=RunBudgets(settings.deepsearch_max_budget, settings.deepsearch_hold_factor),
        own=accounting.own,
        settlements=accounting.settlements,
        alerts=accounting.alerts,
        slices=accounting.slices,
        shared=accounting.shared,
        wait_seconds=settings.queue_timeout_seconds,
        passes=settings.budgets_without_store == "open",
        unpriced=settings.unpriced == "allow",
    )


def build_prices(settings: Settings) -> Prices:
    return Prices(
        {
            upstream: {model: price_of(**price.model_dump()) for model, price in prices.items()}
            for upstream, prices in settings.prices.items()
        }
    )
