"""The operator's endpoint: present only with a key of its own, and listing the state of each upstream key."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from app.config.settings import Settings

from ..conftest import (
    AIHUBMIX_KEY,
    RunningGateway,
    ScriptedUpstream,
    replies,
    running_gateway,
    settings_for,
)

OPERATOR = "operator-key-0123456789"
CALLER = "caller-key-0123456789"
ONE, TWO = "first-key-of-jina-0001", "second-key-of-jina-0002"
VECTORS = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"total_tokens": 1}}
EMBED = {"model": "jina-embeddings-v3", "input": ["hi"]}


def two_keys(url: str, *, more: Any = None, **settings: Any) -> Settings:
    """Settings with the keys ``one`` and ``two`` at Jina, and an operator key; ``more`` updates Jina's settings."""
    jina = {
        "base_url": f"{url}/v1",
        "deepsearch_base_url": f"{url}/deepsearch/v1",
        "api_keys": [{"key": ONE, "name": "one"}, {"key": TWO, "name": "two"}],
    }
    upstreams = {"jina": {**jina, **(more or {})}}
    common = {"operator_key": OPERATOR, "cache": {"store": "off"}}
    return Settings.model_validate({"upstreams": upstreams, **common, **settings})


async def states(gateway: RunningGateway) -> dict[str, Any]:
    """The state of each key, by its alias, from the operator's endpoint."""
    answer = await gateway.client.get("/admin/upstreams", headers={"authorization": f"Bearer {OPERATOR}"})
    assert answer.status_code == 200
    assert set(answer.json()) == {"object", "data"}
    return {row["key"]: row for row in answer.json()["data"]}


async def test_each_key_with_what_it_does_and_what_is_left_to_it(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies({"detail": "slow"}, 429, retry_after="90"), replies(VECTORS))
    async with running_gateway(two_keys(upstream.url, more={"tier": "free"})) as gateway:
        before = datetime.now(UTC)
        assert (await gateway.post("/v1/embeddings", EMBED)).status_code == 200
        seen = await states(gateway)
    until = datetime.fromisoformat(seen["jina-one"].pop("until"))
    assert 88 <= (until - before).total_seconds() <= 100
    assert until.tzinfo == UTC
    minute = {"requests": {"used": 1, "limit": 500}, "deepsearch": {"used": 0, "limit": 50}}
    tokens = {"used": seen["jina-two"]["minute"]["tokens"]["used"], "limit": 1_000_000}
    assert tokens["used"] > 0
    same = {
        "upstream": "jina",
        "broken": False,
        "waiting": 0,
        "at_work": 0,
        "concurrency": 5,
        "weight": 1,
        "minute": {**minute, "tokens": tokens},
        "calls": 1,
    }
    assert seen == {
        "jina-one": {
            **same,
            "key": "jina-one",
            "tail": "0001",
            "state": "resting",
            "cause": "rate limited",
            "failures": 1,
        },
        "jina-two": {
            **same,
            "key": "jina-two",
            "tail": "0002",
            "state": "healthy",
            "cause": None,
            "until": None,
            "failures": 0,
        },
    }


async def test_without_an_operator_there_is_nothing(gateway: RunningGateway) -> None:
    answer = await gateway.client.get("/admin/upstreams", headers={"authorization": f"Bearer {OPERATOR}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_callers_keys_and_the_operators_open_their_own_doors_only(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(VECTORS))
    async with running_gateway(two_keys(upstream.url, caller_key=CALLER)) as gateway:
        asked = [
            (await gateway.client.get(path, headers={"authorization": f"Bearer {key}"} if key else {})).status_code
            for path in ("/admin/upstreams", "/v1/models")
            for key in (OPERATOR, CALLER, ONE, None)
        ]
        in_query = await gateway.client.get(
            f"/admin/upstreams?key={OPERATOR}", headers={"authorization": f"Bearer {OPERATOR}"}
        )
        posted = await gateway.post("/admin/upstreams", {}, authorization=f"Bearer {OPERATOR}")
        embedded = await gateway.post("/v1/embeddings", EMBED, authorization=f"Bearer {OPERATOR}")
    assert asked == [200, 401, 401, 401, 401, 200, 401, 401]
    assert [answer.status_code for answer in (in_query, posted, embedded)] == [401, 405, 401]
    assert not upstream.seen


async def test_an_open_gateway_has_a_closed_door_for_the_operator(upstream: ScriptedUpstream) -> None:
    async with running_gateway(two_keys(upstream.url)) as gateway:
        assert (await gateway.client.get("/admin/upstreams")).status_code == 401
        assert (await gateway.client.get("/v1/models")).status_code == 200


async def test_it_is_not_in_the_document_for_callers(upstream: ScriptedUpstream) -> None:
    async with running_gateway(two_keys(upstream.url)) as gateway:
        document = (await gateway.client.get("/openapi.json")).text
        lost = (await gateway.client.get("/v1/nothing")).text
    assert "admin" not in document + lost


@pytest.mark.parametrize("name", [TWO, AIHUBMIX_KEY, "api.of.jina.test"])
async def test_no_key_and_no_host_is_shown_whatever_the_keys_are_named(name: str, upstream: ScriptedUpstream) -> None:
    keys = [{"key": ONE, "name": name}, {"key": TWO}]
    given = two_keys(upstream.url, more={"api_keys": keys, "deepsearch_base_url": "http://api.of.jina.test/v1"})
    async with running_gateway(given) as gateway:
        shown = str(await states(gateway))
    for secret in (ONE, TWO, AIHUBMIX_KEY, OPERATOR, "api.of.jina.test"):
        assert secret not in shown
    assert re.findall(r"'tail': '(\w+)'", shown) == ["0001", "0002"]


async def test_an_upstream_that_keeps_failing_is_shown(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(b"<html>", 500))
    async with running_gateway(settings_for(upstream.url, operator_key=OPERATOR)) as gateway:
        for _ in range(3):
            await gateway.post("/v1/embeddings", EMBED)
        assert (await states(gateway))["jina"]["broken"] is True
        upstream.plays(replies(VECTORS))
        await gateway.post("/v1/embeddings", EMBED)
        assert (await states(gateway))["jina"]["broken"] is False
