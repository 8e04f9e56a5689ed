"""Keys that are refused or out of balance: detection, probes, and calls meanwhile."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from ..conftest import (
    PATIENCE,
    RunningGateway,
    ScriptedUpstream,
    replies,
    running_gateway,
    settings_for,
    streams,
    until,
)
from ..server.test_admin import EMBED, ONE, OPERATOR, TWO, VECTORS, states, two_keys

CHAT = {"model": "jina-deepsearch-v1", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
ANSWER = b'data: {"choices":[{"delta":{"content":"a","type":"text"},"finish_reason":"stop"}],"usage":{}}\n\n'

# An empty account, as Jina, DeepSearch and AIHubMix report it. The last two also use a status that means something
# else.
RECHARGE = {
    "error": {"message": "Your account balance is insufficient. Please recharge.", "type": "Aihubmix_api_error"}
}
EMPTY = {
    "402": (402, {"error": "Account balance not enough to run this query, please recharge."}),
    "402 code": (402, {"data": None, "code": 402, "name": "InsufficientBalanceError", "status": 40203, "message": "x"}),
    "403 code": (403, {"detail": "Insufficient balance", "code": "AUTHZ_INSUFFICIENT_BALANCE", "request_id": "r"}),
    "403 text": (403, RECHARGE),
    "400 text": (400, RECHARGE),
    "200 error": (200, RECHARGE),
}


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes after hundredths of a second instead of minutes."""
    monkeypatch.setattr("app.routing.pool.PROBE_FIRST_SECONDS", 0.02)
    monkeypatch.setattr("app.routing.pool.COOLDOWN_SECONDS", 0.04)


def keyed(upstream: ScriptedUpstream, text: str = "hi") -> list[str]:
    """The keys of the calls with the input ``text``; a probe's input is hello."""
    found = [seen for seen in upstream.seen if seen.body.get("input") == [text]]
    return [seen.headers["authorization"].removeprefix("Bearer ") for seen in found]


async def becomes(gateway: RunningGateway, state: str) -> None:
    """Polls until the first key has this state."""
    async with asyncio.timeout(PATIENCE):
        while (await states(gateway))["jina-one"]["state"] != state:  # noqa: ASYNC110 - the gateway has no other sign
            await asyncio.sleep(0.005)


class Account:
    """Answers the first key with ``sick`` until ``well`` is set; always answers the other key."""

    def __init__(self, status: int, body: Any) -> None:
        self.sick = replies(body, status)
        self.well = False

    async def __call__(self, request: Any, writer: asyncio.StreamWriter) -> Any:
        refused = not self.well and request.headers["authorization"] == f"Bearer {ONE}"
        return await (self.sick if refused else replies(VECTORS))(request, writer)


@pytest.mark.parametrize("form", EMPTY.values(), ids=EMPTY.keys())
@pytest.mark.usefixtures("soon")
async def test_an_empty_account_rests_until_a_probe_succeeds(form: tuple[int, Any], upstream: ScriptedUpstream) -> None:
    account = Account(*form)
    upstream.plays(account)
    async with running_gateway(two_keys(upstream.url)) as gateway:
        answers = [await gateway.post("/v1/embeddings", EMBED) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert keyed(upstream) == [ONE, TWO, TWO, TWO]
        one = (await states(gateway))["jina-one"]
        assert (one["state"], one["cause"], one["calls"], one["failures"]) == ("resting", "account empty", 1, 1)
        await until(lambda: len(keyed(upstream, "hello")) >= 3)
        account.well = True
        await becomes(gateway, "healthy")
        probes = len(keyed(upstream, "hello"))
        assert set(keyed(upstream, "hello")) == {ONE}
        for _ in range(3):
            await gateway.post("/v1/embeddings", EMBED)
        assert set(keyed(upstream)[-3:]) == {ONE, TWO}
        assert len(keyed(upstream, "hello")) == probes
        seen = await states(gateway)
        assert seen["jina-one"]["calls"] + seen["jina-two"]["calls"] == len(keyed(upstream)) == 7
        assert len(gateway.records) == 6


@pytest.mark.usefixtures("soon")
async def test_deepsearchs_409_is_an_empty_account_too(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies({"error": "quota is 0"}, 409), streams(ANSWER), replies(EMPTY["402"][1], 402))
    async with running_gateway(two_keys(upstream.url)) as gateway:
        assert (await gateway.post("/v1/chat/completions", CHAT)).status_code == 200
        assert (await states(gateway))["jina-one"]["cause"] == "account empty"


@pytest.mark.usefixtures("soon")
async def test_a_refused_key_is_one_alarm_and_is_probed(
    upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    account = Account(401, {"detail": f"Invalid API key {ONE}"})
    upstream.plays(account)
    async with running_gateway(two_keys(upstream.url)) as gateway:
        await asyncio.gather(*(gateway.post("/v1/embeddings", EMBED) for _ in range(6)))
        assert (await states(gateway))["jina-one"]["cause"] == "refused"
        await until(lambda: len(keyed(upstream, "hello")) >= 3)
        account.well = True
        await becomes(gateway, "healthy")
    alarms = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert alarms == ["jina: key jina-one is in cooldown: refused"]
    assert "jina: key jina-one works again" in caplog.text
    assert ONE not in caplog.text


@pytest.mark.usefixtures("soon")
async def test_a_call_wakes_the_last_key_before_any_probe(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.routing.pool.PROBE_FIRST_SECONDS", 60)
    upstream.plays(replies(EMPTY["402"][1], 402), replies(VECTORS))
    async with running_gateway(settings_for(upstream.url, operator_key=OPERATOR)) as gateway:
        first = await gateway.post("/v1/embeddings", EMBED)
        assert (first.status_code, first.headers["x-should-retry"]) == (503, "false")
        assert (await states(gateway))["jina"]["cause"] == "account empty"
        assert (await gateway.post("/v1/embeddings", EMBED)).status_code == 200
        assert (await states(gateway))["jina"]["state"] == "healthy"
    assert keyed(upstream, "hello") == []


@pytest.mark.usefixtures("soon")
async def test_what_says_nothing_of_the_key_keeps_it_at_rest(upstream: ScriptedUpstream) -> None:
    account = Account(402, {"error": "x"})
    upstream.plays(account)
    async with running_gateway(two_keys(upstream.url)) as gateway:
        await gateway.post("/v1/embeddings", EMBED)
        account.sick = replies(b"<html>", 500)
        await until(lambda: len(keyed(upstream, "hello")) >= 3)
        assert (await states(gateway))["jina-one"]["cause"] == "account empty"


@pytest.mark.usefixtures("soon")
async def test_where_the_probe_is_wrong_a_call_is_let_through(upstream: ScriptedUpstream) -> None:
    account = Account(402, {"error": "x"})
    upstream.plays(account)
    async with running_gateway(two_keys(upstream.url)) as gateway:
        await gateway.post("/v1/embeddings", EMBED)
        account.sick = replies({"detail": "no such model"}, 404)
        await becomes(gateway, "trial")
        account.well = True
        for _ in range(2):
            await gateway.post("/v1/embeddings", EMBED)
        assert (await states(gateway))["jina-one"]["state"] == "healthy"
        assert len(keyed(upstream, "hello")) == 1


async def test_probes_end_with_the_gateway(upstream: ScriptedUpstream) -> None:
    upstream.plays(Account(402, {"error": "x"}))
    async with running_gateway(two_keys(upstream.url)) as gateway:
        await gateway.post("/v1/embeddings", EMBED)
        names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
        assert names.count("Pool._probed") == 1
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
    assert "Pool._probed" not in names
