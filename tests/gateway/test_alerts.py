"""Alerts on budgets: once for each window and share across processes, over a real ledger's file and a real receiver."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.core.money import DOLLAR
from app.gateway.alerts import Alerts, Passed, event
from app.gateway.webhooks import Webhook, signature, webhook_client
from app.storage.counters import balances
from app.storage.holds import FOREVER, Balance, Charge, Decision, Hold
from app.storage.ledger_file import LedgerFile

from ..conftest import ScriptedUpstream, replies, until
from ..ledger import call, path_of

MONTH = (1_790_812_800, 1_793_491_200)  # October 2026
SECRET = "whsec-0123456789"
OK = replies(b"", 204)


def budget(limit: int = 10, amount: int = 1, unit: str = "requests", warn_at: tuple[float, ...] = (0.5, 0.8)) -> Charge:
    return Charge("key:abc", unit, MONTH, "", limit, amount, f"{unit}/month", warn_at)


def decision(spent: int, held: int = 0, refused: int | None = None) -> Decision:
    return Decision(refused, False, (Balance(spent, held, None),))


@contextmanager
def ledger(path: Path) -> Iterator[LedgerFile]:
    file = LedgerFile(path, busy_seconds=0.05, flush_seconds=0.01)
    try:
        yield file
    finally:
        file.close()


@asynccontextmanager
async def watching(file: LedgerFile, webhook: Webhook | None = None) -> AsyncIterator[Alerts]:
    alerts = Alerts(file.alert, partial(balances, path_of(file)), webhook, look_seconds=0.01)
    file.settled.append(alerts.settled)
    try:
        yield alerts
    finally:
        await alerts.aclose()


@asynccontextmanager
async def sending(url: str, secret: str | None = SECRET, **options: Any) -> AsyncIterator[Webhook]:
    webhook = Webhook(webhook_client("torii-test"), f"{url}/hook?token=of-the-address", secret, **options)
    try:
        yield webhook
    finally:
        await webhook.aclose()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "torii.alerts"]


def percents(upstream: ScriptedUpstream) -> list[int]:
    return [request.body["data"]["percent"] for request in upstream.seen]


async def test_each_share_is_told_once_by_whatever_process_sees_it(
    tmp_path: Path, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.plays(OK)
    with ledger(tmp_path / "torii.db") as one, ledger(tmp_path / "torii.db") as other:
        async with sending(upstream.url) as webhook, watching(one, webhook) as here, watching(other, webhook) as there:
            for spent in range(13):
                here.observe([budget()], decision(spent))
                there.observe([budget()], decision(spent))
            await until(lambda: len(upstream.seen) >= 3)
            here.observe([budget()], decision(12, refused=0))
            there.observe([budget(limit=20)], decision(12))  # a changed budget is another one
            await until(lambda: len(upstream.seen) >= 4)
            assert here.counts["budget_alerts"] + there.counts["budget_alerts"] == 4
    assert sorted(percents(upstream)) == [50, 50, 80, 100]
    assert "key:abc: the budget requests/month is at 80 %, 8 of 10 requests, until 2026-11-01T00:00:00Z" in (
        lines(caplog)
    )
    (record,) = [record for record in caplog.records if getattr(record, "percent", 0) == 80]
    about = ("scope", "unit", "window", "spent", "amount")
    assert [getattr(record, name) for name in about] == ["key:abc", "requests", "month", 8, 10]


async def test_a_settlement_is_told_without_another_call(tmp_path: Path) -> None:
    """Over the file: the call holds 9 of 10 dollars, uses 6, and nothing comes after it."""
    now = int(time.time())
    window = (now - 10, now + 3600)
    charge = Charge("key:abc", "usd", window, "", 10 * DOLLAR, 9 * DOLLAR, "usd/day", (0.5, 0.8))
    row = call(time=now * 1000, key_id="abc", cost=6 * DOLLAR, request_id="r1")
    with ledger(tmp_path / "torii.db") as file:
        async with watching(file) as alerts:
            decided = await file.hold(Hold("r1", now * 1000, (charge,), row))
            alerts.observe([charge], decided)
            assert decided.refused is None
            file.settle("r1", [row])
            await until(lambda: alerts.counts["budget_alerts"] == 1)
            assert balances(path_of(file), [charge])[0][:2] == (6 * DOLLAR, 0)
        with closing(sqlite3.connect(path_of(file))) as connection:
            told = connection.execute("SELECT scope, unit, filter, since, amount, percent FROM alerts").fetchall()
    assert told == [("key:abc", "usd", "", window[0], 10 * DOLLAR, 50)]


async def test_what_is_held_is_not_spent(tmp_path: Path) -> None:
    with ledger(tmp_path / "torii.db") as file:
        async with watching(file) as alerts:
            alerts.observe([budget()], decision(0, held=10))
            alerts.observe([budget(unit="tokens", limit=100, amount=99)], decision(40, refused=0))  # 60 are left
            limit = Charge("key:abc", "requests", MONTH, "", 1, 1, "requests_per_day")
            alerts.observe([limit], decision(1, refused=0))
            assert await file.alert("key:abc", "requests", "", MONTH[0], 10, 50) is True
            assert await file.alert("key:abc", "tokens", "", MONTH[0], 100, 100) is True
            assert alerts.counts["budget_alerts"] == 0


async def test_a_refusal_above_nine_tenths_means_that_all_is_spent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ledger(tmp_path / "torii.db") as file:
        async with watching(file) as alerts:
            dollars = budget(unit="usd", limit=10 * DOLLAR, amount=DOLLAR, warn_at=())
            alerts.observe([dollars], decision(9 * DOLLAR + 1, refused=0))
            await until(lambda: alerts.counts["budget_alerts"] == 1)
    assert lines(caplog) == [
        "key:abc: the budget usd/month is at 100 %, $9.000000001 of $10, until 2026-11-01T00:00:00Z"
    ]


async def test_a_store_that_is_away_is_asked_again_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now, path = 1000.0, tmp_path / "torii.db"
    with ledger(path) as closed:
        pass
    with ledger(path) as file:
        files = [closed, file]
        alerts = Alerts(lambda *row: files[0].alert(*row), clock=lambda: now)
        alerts.observe([budget()], decision(6))
        await until(lambda: "an alert waits until the database can be written" in caplog.text)
        files.pop(0)
        alerts.observe([budget()], decision(6))
        assert len(lines(caplog)) == 1
        now += 6
        alerts.observe([budget()], decision(6))
        await until(lambda: alerts.counts["budget_alerts"] == 1)
        await alerts.aclose()


async def test_an_overrun_is_told_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ledger(tmp_path / "torii.db") as file:
        async with watching(file) as alerts:
            alerts.overrun("r1", "team:t", "tokens", 200, 460)
    assert alerts.counts["budget_overruns"] == 1
    assert lines(caplog) == ["team:t: a call was billed 460 tokens, more than the 200 tokens that were held for it"]
    assert getattr(caplog.records[-1], "request_id", "") == "r1"


def test_what_an_event_says() -> None:
    charge = Charge("team:t1", "usd", (0, FOREVER), '{"models":["jina-*"]}', 10 * DOLLAR, 1, "usd/total", ())
    said = event(Passed(charge, 100, 11 * DOLLAR), 1_790_000_000.5)
    assert said.pop("id").startswith("evt_")
    assert said == {
        "object": "event",
        "type": "budget.exhausted",
        "created": 1_790_000_000,
        "created_at": "2026-09-21T14:13:20Z",
        "data": {
            "scope": "team",
            "id": "t1",
            "unit": "usd",
            "window": "total",
            "filter": {"models": ["jina-*"]},
            "percent": 100,
            "amount": "10",
            "spent": "11",
            "starts_at": "1970-01-01T00:00:00Z",
            "resets_at": None,
        },
    }
    organization = event(Passed(budget()._replace(scope="organization"), 50, 5), 0)
    assert (organization["data"]["scope"], organization["data"]["id"]) == ("organization", None)
    assert (organization["type"], organization["data"]["spent"]) == ("budget.warning", 5)


EVENT = {"id": "evt_1", "created": 1_790_000_000, "data": {"percent": 80, "text": "é"}}


async def test_the_webhook_is_signed_over_its_bytes(upstream: ScriptedUpstream) -> None:
    upstream.plays(OK)
    async with sending(upstream.url) as webhook:
        webhook.send(EVENT)
        await until(lambda: webhook.sent == 1)
    (request,) = upstream.seen
    assert (request.method, request.path, request.body) == ("POST", "/hook?token=of-the-address", EVENT)
    expected = hmac.new(SECRET.encode(), request.raw, hashlib.sha256).hexdigest()
    assert request.headers["x-torii-signature"] == f"sha256={expected}" == signature(SECRET, request.raw)
    assert request.headers["x-torii-timestamp"] == "1790000000"
    assert request.headers["x-torii-event"] == "evt_1"
    assert request.headers["content-type"] == "application/json"


async def test_without_a_secret_there_is_no_signature(upstream: ScriptedUpstream) -> None:
    upstream.plays(OK)
    async with sending(upstream.url, None) as webhook:
        webhook.send(EVENT)
        await until(lambda: webhook.sent == 1)
    assert "x-torii-signature" not in upstream.seen[0].headers


async def test_an_alert_is_tried_again_and_arrives_before_the_next(upstream: ScriptedUpstream) -> None:
    async def hangs_up(request: Any, writer: asyncio.StreamWriter) -> bool:
        return False

    upstream.plays(replies(b"", 500), hangs_up, replies(b"", 302, location="/elsewhere"), OK)
    async with sending(upstream.url, waits=(0.01,) * 4) as webhook:
        webhook.send(EVENT)
        webhook.send({**EVENT, "id": "evt_2"})
        await until(lambda: webhook.sent == 2)
    assert [request.headers["x-torii-event"] for request in upstream.seen] == ["evt_1"] * 4 + ["evt_2"]
    assert len({request.raw for request in upstream.seen[:4]}) == 1


async def test_an_alert_is_given_up_after_five_tries(
    upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "torii")
    upstream.plays(replies(b"", 503))
    async with sending(upstream.url, waits=(0.01,) * 4) as webhook:
        webhook.send(EVENT)
        await until(lambda: webhook.failed == 1)
    assert (len(upstream.seen), webhook.sent) == (5, 0)
    assert lines(caplog) == ["the webhook of alerts: an alert was not delivered in 5 tries: status 503"]
    assert "token" not in caplog.text
    assert SECRET not in caplog.text


async def test_a_receiver_that_is_away(caplog: pytest.LogCaptureFixture, unused_tcp_port: int) -> None:
    async with sending(f"http://127.0.0.1:{unused_tcp_port}", waits=(0.01,)) as webhook:
        webhook.send(EVENT)
        await until(lambda: webhook.failed == 1)
    assert lines(caplog) == [
        "the webhook of alerts: an alert was not delivered in 2 tries: no answer: connection refused"
    ]


async def test_alerts_without_room_are_dropped_and_counted(
    upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    """The receiver takes its time; ``send`` never waits for it."""
    answers = asyncio.Event()

    async def slow(request: Any, writer: asyncio.StreamWriter) -> None:
        await answers.wait()
        await OK(request, writer)

    upstream.plays(slow)
    async with sending(upstream.url, room=2) as webhook:
        for _ in range(3):
            webhook.send(EVENT)
        assert webhook.dropped == 1
        answers.set()
        await until(lambda: webhook.sent == 2)
        answers.clear()
        webhook.send(EVENT)
        await until(lambda: len(upstream.seen) == 3)
    assert lines(caplog) == [
        "the webhook of alerts: an alert was dropped, because 2 wait",
        "the webhook of alerts: 1 alerts were not delivered before the end",
    ]
    answers.set()


async def test_the_end_waits_for_alerts_on_their_way(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.plays(OK)
    with ledger(tmp_path / "torii.db") as file:
        alerts = Alerts(file.alert, webhook=Webhook(webhook_client("torii-test"), upstream.url, SECRET))
        alerts.observe([budget()], decision(6))
        await alerts.aclose(5)
    assert percents(upstream) == [50]
