"""The classifier and the segmenter over sockets: the vectors of the contract, ownership, accounts, faults, books."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.config.settings import Settings
from app.storage.ledger_file import LedgerFile

from ..conftest import (
    RunningGateway,
    Script,
    ScriptedUpstream,
    Seen,
    replies,
    running_gateway,
    scripted_upstream,
    until,
)
from ..ledger import read
from .operating import OPERATOR, OperatorClient

MODEL = "jina-embeddings-v3"
EXAMPLES = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
TRAIN = {"model": MODEL, "input": EXAMPLES}
MADE = replies({"classifier_id": "c1", "num_samples": 2, "usage": {"total_tokens": 40}})
CLASSIFY = {"model": MODEL, "input": ["one"], "labels": ["x", "y"]}
FEW_SHOT = {"classifier_id": "c1", "input": ["one"]}
KEYS = {"one": "jina_one_0123456789", "two": "jina_two_0123456789"}
CALLS = "SELECT endpoint, model, model_id, key, status, total_tokens, estimated, attempts, kind FROM calls"
ROWS = "SELECT classifier_id, key_id, team, account, model, labels, state FROM classifiers ORDER BY created_at"


async def classified(request: Seen, writer: asyncio.StreamWriter) -> Any:
    """The first label, or x, for each input, and a token for each."""
    body = request.body
    item = {"object": "classification", "prediction": (body.get("labels") or ["x"])[0], "score": 0.25}
    data = [{**item, "index": place} for place in range(len(body["input"]))]
    return await replies({"data": data, "usage": {"total_tokens": len(data)}})(request, writer)


def caller(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer a-key-of-{name}-0123456789"}


def settings(upstream: ScriptedUpstream, **more: Any) -> Settings:
    keys = [{"name": name, "key": key} for name, key in KEYS.items()]
    return Settings.model_validate(
        {
            "upstreams": {"jina": {"base_url": f"{upstream.url}/v1", "api_keys": keys}},
            "callers": [{"name": name, "key": f"a-key-of-{name}-0123456789"} for name in ("ann", "bob")],
            "operator_key": OPERATOR,
            "cache": {"store": "off"},
            **more,
        }
    )


@asynccontextmanager
async def serving(upstream: ScriptedUpstream, folder: Path | None = None, **more: Any) -> AsyncIterator[RunningGateway]:
    """A gateway with two keys of Jina and two callers; with a ledger in ``folder``."""
    database = LedgerFile(folder / "torii.db", flush_seconds=0.01) if folder else None
    try:
        async with running_gateway(settings(upstream, **more), database) as gateway:
            yield gateway
    finally:
        if database is not None:
            database.close()


async def train(gateway: RunningGateway, upstream: ScriptedUpstream, name: str = "ann", script: Script = MADE) -> str:
    """Trains a classifier; the key of the account that has it."""
    upstream.plays(script)
    answer = await gateway.post("/v1/train", TRAIN, **caller(name))
    assert answer.status_code == 200, answer.text
    return upstream.seen[-1].headers["authorization"]


def code(answer: Any) -> tuple[int, str]:
    error = answer.json()["error"]
    assert answer.json()["detail"] == error["message"]
    assert not any(key in answer.text for key in KEYS.values())
    return answer.status_code, error["code"]


# ---------------------------------------------------------------- the vectors


async def test_train_without_access_is_private(upstream: ScriptedUpstream) -> None:
    async with serving(upstream) as gateway:
        await train(gateway, upstream)
        assert (upstream.seen[-1].path, upstream.seen[-1].body) == ("/v1/train", {**TRAIN, "access": "private"})
        refused = await gateway.post("/v1/train", {**TRAIN, "access": "public"}, **caller("ann"))
        assert (code(refused), len(upstream.seen)) == ((400, "invalid_request"), 1)
    async with serving(upstream, classifiers={"public": True}) as gateway:
        await gateway.post("/v1/train", {**TRAIN, "access": "public"}, **caller("ann"))
        assert upstream.seen[-1].body["access"] == "public"


async def test_who_is_not_the_owner_learns_nothing(upstream: ScriptedUpstream) -> None:
    async with serving(upstream) as gateway:
        await train(gateway, upstream)
        answers = []
        for made in ("c1", "c2"):
            answers += [
                await gateway.client.delete(f"/v1/classifiers/{made}", headers=caller("bob")),
                await gateway.post("/v1/classify", {"classifier_id": made, "input": "t"}, **caller("bob")),
                await gateway.post("/v1/train", {"classifier_id": made, "input": EXAMPLES}, **caller("bob")),
            ]
        assert {code(answer) for answer in answers} == {(404, "classifier_not_found")}
        assert len({answer.json()["detail"] for answer in answers}) == 1
        assert len(upstream.seen) == 1
        assert (await gateway.client.get("/v1/classifiers", headers=caller("bob"))).json() == []
        assert len(upstream.seen) == 1


async def test_700_inputs_and_3_labels(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(classified)
    async with serving(upstream, tmp_path) as gateway:
        body = {"model": MODEL, "input": [str(number) for number in range(700)], "labels": ["a", "b", "c"]}
        answer = await gateway.post("/v1/classify", body, **caller("ann"))
        assert sorted(len(seen.body["input"]) for seen in upstream.seen) == [188, 512]
        assert [item["index"] for item in answer.json()["data"]] == list(range(700))
        assert answer.json()["usage"] == {"total_tokens": 700}
    ((*row, key),) = read(tmp_path / "torii.db", "SELECT endpoint, model, total_tokens, attempts, key FROM calls")
    assert (row, key[:5]) == (["classify", MODEL, 700, 2], "jina-")


async def test_groups_of_labels_come_back_as_they_are(upstream: ScriptedUpstream) -> None:
    item = (
        b'{"object":"classification","index":0,"prediction":{"a":"x","b":"q"},"score":{"a":0.50,"b":1e-2},'
        b'"predictions":{"a":[{"label":"x","score":0.50}],"b":[{"label":"q","score":1e-2}]}}'
    )
    upstream.plays(replies(b'{"usage":{"total_tokens":9},"data":[' + item + b"]}"))
    labels = {"a": ["x", "y"], "b": ["p", "q"]}
    async with serving(upstream) as gateway:
        answer = await gateway.post("/v1/classify", {**CLASSIFY, "labels": labels}, **caller("ann"))
        assert upstream.seen[-1].body == {"model": MODEL, "input": ["one"], "labels": labels}
        assert item in answer.content


@pytest.mark.parametrize("path", ["/v1/segment", "/segment"])
async def test_positions_of_chunks_count_utf_16_units(upstream: ScriptedUpstream, path: str) -> None:
    text = "🚀\nab"
    chunks = '"num_chunks":2,"chunk_positions":[[0,3],[3,5]],"chunks":["🚀\\n","ab"]}'
    upstream.plays(replies(f'{{"num_tokens":5,"tokenizer":"cl100k_base","usage":{{"tokens":0}},{chunks}'.encode()))
    async with serving(upstream) as gateway:
        posted = await gateway.post(path, {"content": text, "return_chunks": True}, **caller("ann"))
        got = await gateway.client.get(path, params={"content": text, "return_chunks": "true"}, headers=caller("ann"))
        assert posted.status_code == got.status_code == 200
        assert (
            posted.json()
            == got.json()
            == {
                "num_tokens": 5,
                "tokenizer": "cl100k_base",
                "usage": {"tokens": 0},
                "num_chunks": 2,
                "chunk_positions": [[0, 3], [3, 5]],
                "chunks": ["🚀\n", "ab"],
            }
        )
        assert [(seen.method, seen.path, seen.body) for seen in upstream.seen] == [
            ("POST", "/v1/segment", {"content": text, "return_chunks": True})
        ] * 2


# ---------------------------------------------------------------- one account


async def test_a_classifier_is_asked_at_its_account_only(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with serving(upstream, tmp_path) as gateway:
        account = await train(gateway, upstream)
        upstream.plays(classified)
        for _ in range(4):
            answer = await gateway.post("/v1/classify", FEW_SHOT, **caller("ann"))
            assert answer.status_code == 200
            assert upstream.seen[-1].body == {"classifier_id": "c1", "input": ["one"]}
        update = {"classifier_id": "c1", "model": MODEL, "input": {"text": "c", "label": "z"}, "num_iters": 2}
        upstream.plays(MADE)
        assert (await gateway.post("/train", update, **caller("ann"))).status_code == 200
        assert upstream.seen[-1].body == {"classifier_id": "c1", "input": [update["input"]], "num_iters": 2}
        assert {seen.headers["authorization"] for seen in upstream.seen} == {account}
        other = await gateway.post("/v1/classify", {**FEW_SHOT, "model": "jina-clip-v2"}, **caller("ann"))
        assert code(other) == (400, "invalid_request")
    path = tmp_path / "torii.db"
    alias = "jina-one" if KEYS["one"] in account else "jina-two"
    assert read(path, ROWS) == [("c1", "ann", None, alias, MODEL, '["x","y","z"]', "ready")]
    few = ("classify", MODEL, MODEL, alias, 200, 1, 0, 1, "call")
    made = ("train", MODEL, MODEL, alias, 200, 40, 0, 1, "call")
    assert read(path, CALLS) == [made, few, few, few, few, made]


@pytest.mark.parametrize(
    ("status", "error"), [(429, "upstream_rate_limited"), (401, "upstream_auth"), (402, "upstream_quota")]
)
async def test_a_refused_key_of_its_account_does_not_send_it_elsewhere(
    upstream: ScriptedUpstream, status: int, error: str
) -> None:
    async with serving(upstream, queue_timeout_seconds=0.2) as gateway:
        account = await train(gateway, upstream)
        upstream.plays(replies({"detail": "no"}, status, retry_after="30"))
        answer = await gateway.post("/v1/classify", FEW_SHOT, **caller("ann"))
        assert code(answer)[1] == error
        assert {seen.headers["authorization"] for seen in upstream.seen} == {account}


@pytest.mark.parametrize("change", ["adopted", "deleted"])
async def test_a_training_that_ends_late_changes_no_owner(
    upstream: ScriptedUpstream, tmp_path: Path, change: str
) -> None:
    go = asyncio.Event()

    async def late(request: Seen, writer: asyncio.StreamWriter) -> Any:
        await go.wait()
        return await MADE(request, writer)

    async with serving(upstream, tmp_path) as gateway:
        await train(gateway, upstream)
        upstream.plays(late)
        update = {"classifier_id": "c1", "input": {"text": "c", "label": "z"}}
        training = asyncio.create_task(gateway.post("/v1/train", update, **caller("ann")))
        await until(lambda: len(upstream.seen) == 2)
        upstream.plays(replies({"message": "deleted"}))
        if change == "adopted":
            await OperatorClient(gateway).post("/classifiers/c1/adopt", {"key": "bob"})
        else:
            assert (await gateway.client.delete("/v1/classifiers/c1", headers=caller("ann"))).status_code == 200
        go.set()
        assert (await training).status_code == 200
        assert code(await gateway.post("/v1/classify", FEW_SHOT, **caller("ann"))) == (404, "classifier_not_found")
    ((_, key, _, _, _, labels, state),) = read(tmp_path / "torii.db", ROWS)
    assert (key, labels, state) == (
        ("bob", '["x","y","z"]', "ready") if change == "adopted" else ("ann", '["x","y"]', "deleted")
    )


async def test_a_fault_of_its_account_is_repeated_there(upstream: ScriptedUpstream) -> None:
    async with serving(upstream) as gateway:
        account = await train(gateway, upstream)
        upstream.plays(replies({"detail": "oops"}, 500), classified)
        assert (await gateway.post("/v1/classify", FEW_SHOT, **caller("ann"))).status_code == 200
        assert [seen.headers["authorization"] for seen in upstream.seen] == [account] * 3


async def test_an_account_is_found_by_its_key_and_by_its_name(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """Another order of the keys, a replaced key under the same name, and neither."""
    async with serving(upstream, tmp_path) as gateway:
        account = (await train(gateway, upstream)).removeprefix("Bearer ")
    name = next(name for name, key in KEYS.items() if key == account)
    other = {"key": "jina_other_0123456789", "name": "other"}
    upstream.plays(classified)
    for keys, expected in (
        ([other, {"key": account, "name": "renamed"}], account),
        ([other, {"key": "jina_new_0123456789", "name": name}], "jina_new_0123456789"),
        ([other], None),
    ):
        jina = {"base_url": f"{upstream.url}/v1", "api_keys": keys}
        async with serving(upstream, tmp_path, upstreams={"jina": jina}) as gateway:
            answer = await gateway.post("/v1/classify", FEW_SHOT, **caller("ann"))
            if expected is None:
                assert code(answer) == (503, "classifier_account_missing")
            else:
                assert answer.status_code == 200
                assert upstream.seen[-1].headers["authorization"] == f"Bearer {expected}"


# ---------------------------------------------------------------- list and delete


async def test_the_list_is_cut_to_ones_own(upstream: ScriptedUpstream) -> None:
    everything = [
        {"classifier_id": name, "user_id": "u", "labels": ["x", "y"], "access": "private"}
        for name in ("c0", "c1", "c2")
    ]
    async with serving(upstream) as gateway:
        account = await train(gateway, upstream)
        await train(gateway, upstream, "bob", replies({"classifier_id": "c2", "num_samples": 2}))
        upstream.plays(replies(everything))
        for ask in (gateway.client.get, gateway.client.post):
            answer = await ask("/v1/classifiers", headers=caller("ann"))
            assert answer.json() == [{"classifier_id": "c1", "labels": ["x", "y"], "access": "private"}]
            seen = upstream.seen[-1]
            assert (seen.method, seen.path, seen.raw) == ("GET", "/v1/classifiers", b"")
            assert seen.headers["authorization"] == account


@pytest.mark.parametrize("http_client", ["httptools", "httpx"])
async def test_the_owner_deletes(upstream: ScriptedUpstream, tmp_path: Path, http_client: str) -> None:
    async with serving(upstream, tmp_path, http_client=http_client) as gateway:
        account = await train(gateway, upstream)
        upstream.plays(replies({"message": "deleted", "user_id": "u"}))
        answer = await gateway.client.delete("/classifiers/c1", headers=caller("ann"))
        assert (answer.status_code, answer.json()) == (200, {"classifier_id": "c1", "deleted": True})
        seen = upstream.seen[-1]
        assert (seen.method, seen.path, seen.headers["authorization"]) == ("DELETE", "/v1/classifiers/c1", account)
        for again in (
            await gateway.client.delete("/v1/classifiers/c1", headers=caller("ann")),
            await gateway.post("/v1/classify", FEW_SHOT, **caller("ann")),
        ):
            assert code(again) == (404, "classifier_not_found")
        assert len(upstream.seen) == 2
    assert [row[-1] for row in read(tmp_path / "torii.db", ROWS)] == ["deleted"]


async def test_what_was_deleted_elsewhere_is_a_404_and_is_forgotten(upstream: ScriptedUpstream) -> None:
    gone = replies({"detail": "not found or access denied", "code": "RESOURCE_NOT_FOUND"}, 404)
    async with serving(upstream) as gateway:
        await train(gateway, upstream)
        upstream.plays(gone)
        assert code(await gateway.post("/v1/classify", FEW_SHOT, **caller("ann"))) == (404, "classifier_gone")
        for expected in (3, 3):
            answer = await gateway.client.delete("/v1/classifiers/c1", headers=caller("ann"))
            assert (code(answer), len(upstream.seen)) == ((404, "classifier_not_found"), expected)


@pytest.mark.parametrize(
    ("status", "error"),
    [(500, (502, "upstream_error")), (401, (502, "upstream_auth")), (404, (502, "upstream_misplaced"))],
)
async def test_a_list_that_fails_says_so(upstream: ScriptedUpstream, status: int, error: tuple[int, str]) -> None:
    async with serving(upstream) as gateway:
        await train(gateway, upstream)
        upstream.plays(replies({"detail": "no"}, status))
        assert code(await gateway.client.get("/v1/classifiers", headers=caller("ann"))) == error


async def test_a_key_may_be_kept_from_classifiers(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with serving(upstream, tmp_path) as gateway:
        operator = OperatorClient(gateway)
        made = await operator.post("/keys", {"name": "cyd", "allowed_endpoints": ["classify", "segment"]})
        headers = {"authorization": f"Bearer {made['secret']}"}
        assert code(await gateway.client.get("/v1/classifiers", headers=headers)) == (403, "permission_denied")
        assert code(await gateway.post("/v1/train", TRAIN, **headers)) == (403, "permission_denied")
        upstream.plays(classified)
        assert (await gateway.post("/v1/classify", CLASSIFY, **headers)).status_code == 200


async def test_lists_and_deletions_count_and_are_recorded_as_other_calls(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async with serving(upstream, tmp_path) as gateway:
        limits = {"requests_per_minute": 4}
        key = await OperatorClient(gateway).post("/keys", {"name": "cyd", "limits": limits})
        headers = {"authorization": f"Bearer {key['secret']}", "x-torii-tag": "t"}
        upstream.plays(MADE)
        assert (await gateway.post("/v1/train", TRAIN, **headers)).status_code == 200
        upstream.plays(replies([{"classifier_id": "c1"}]), replies({"detail": "no"}, 500), replies({"message": "gone"}))
        listed = await gateway.client.get("/v1/classifiers", headers=headers)
        assert (listed.json(), listed.headers["x-ratelimit-remaining-requests"]) == ([{"classifier_id": "c1"}], "2")
        failed = await gateway.client.delete("/v1/classifiers/c1", headers=headers)
        assert code(failed) == (502, "upstream_error")
        assert (await gateway.client.delete("/v1/classifiers/c1", headers=headers)).status_code == 200
        refused = await gateway.client.get("/v1/classifiers", headers=headers)
        assert (code(refused), len(upstream.seen)) == ((429, "rate_limit_exceeded"), 4)
        assert int(refused.headers["retry-after"]) > 0
        ids = [answer.headers["x-request-id"] for answer in (listed, failed)]
        assert [seen.headers["x-request-id"] for seen in upstream.seen[1:3]] == ids
    rows = read(
        tmp_path / "torii.db",
        "SELECT model, key, status, error, total_tokens, estimated, attempts, requests, key_id, tag "
        "FROM calls WHERE endpoint = 'classifiers'",
    )
    account = "jina-one" if KEYS["one"] in upstream.seen[0].headers["authorization"] else "jina-two"
    whose = (0, 0, 1, 1, key["id"], "t")
    assert rows == [
        ("jina-classifier", account, 200, None, *whose),
        ("jina-classifier", account, 502, "upstream_error", *whose),
        ("jina-classifier", account, 200, None, *whose),
    ]


async def test_lists_count_against_concurrent_calls(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    go = asyncio.Event()

    async def waits(request: Seen, writer: asyncio.StreamWriter) -> Any:
        await go.wait()
        return await replies([])(request, writer)

    async with serving(upstream, tmp_path, queue_timeout_seconds=0.1) as gateway:
        key = await OperatorClient(gateway).post("/keys", {"name": "cyd", "limits": {"concurrent_calls": 1}})
        headers = {"authorization": f"Bearer {key['secret']}"}
        upstream.plays(MADE)
        assert (await gateway.post("/v1/train", TRAIN, **headers)).status_code == 200
        upstream.plays(waits)
        first = asyncio.create_task(gateway.client.get("/v1/classifiers", headers=headers))
        await until(lambda: len(upstream.seen) == 2)
        second = await gateway.client.delete("/v1/classifiers/c1", headers=headers)
        assert code(second) == (429, "rate_limit_exceeded")
        go.set()
        assert ((await first).status_code, len(upstream.seen)) == (200, 2)


# ---------------------------------------------------------------- whose it is


async def test_a_team_shares_and_outsiders_do_not(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with serving(upstream, tmp_path) as gateway:
        operator = OperatorClient(gateway)
        await operator.post("/teams", {"name": "red", "id": "red"})
        secrets = [
            (await operator.post("/keys", {"name": name, "team": team}))["secret"]
            for name, team in (("r1", "red"), ("r2", "red"), ("b1", None))
        ]
        first, second, outsider = ({"authorization": f"Bearer {secret}"} for secret in secrets)
        upstream.plays(MADE)
        assert (await gateway.post("/v1/train", TRAIN, **first)).status_code == 200
        upstream.plays(classified)
        assert (await gateway.post("/v1/classify", FEW_SHOT, **second)).status_code == 200
        for headers in (outsider, caller("ann")):
            assert code(await gateway.post("/v1/classify", FEW_SHOT, **headers)) == (404, "classifier_not_found")
    assert [row[2] for row in read(tmp_path / "torii.db", ROWS)] == ["red"]


async def test_another_worker_and_the_next_start_know_the_owner(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with serving(upstream, tmp_path) as gateway, serving(upstream, tmp_path) as other:
        await train(gateway, upstream)
        upstream.plays(classified)
        assert (await other.post("/v1/classify", FEW_SHOT, **caller("ann"))).status_code == 200
        assert code(await other.post("/v1/classify", FEW_SHOT, **caller("bob"))) == (404, "classifier_not_found")
    async with serving(upstream, tmp_path) as gateway:
        assert (await gateway.post("/v1/classify", FEW_SHOT, **caller("ann"))).status_code == 200


async def test_without_a_ledger_ownership_is_in_memory(upstream: ScriptedUpstream) -> None:
    async with serving(upstream) as gateway:
        await train(gateway, upstream)
    async with serving(upstream) as gateway:
        assert code(await gateway.post("/v1/classify", FEW_SHOT, **caller("ann"))) == (404, "classifier_not_found")


async def test_while_the_gateway_is_open_everybody_owns_together(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with serving(upstream, tmp_path, callers=[]) as gateway:
        upstream.plays(MADE)
        assert (await gateway.post("/v1/train", TRAIN)).status_code == 200
        upstream.plays(classified)
        assert (await gateway.post("/v1/classify", FEW_SHOT)).status_code == 200
    assert [row[1] for row in read(tmp_path / "torii.db", ROWS)] == ["open"]


async def test_foreign_ids_only_if_nobody_here_owns_them(upstream: ScriptedUpstream) -> None:
    async with serving(upstream, classifiers={"foreign": True}) as gateway:
        await train(gateway, upstream)
        upstream.plays(classified)
        foreign = await gateway.post("/v1/classify", {"classifier_id": "theirs", "input": "t"}, **caller("bob"))
        assert foreign.status_code == 200
        assert upstream.seen[-1].body == {"classifier_id": "theirs", "input": ["t"]}
        assert code(await gateway.post("/v1/classify", FEW_SHOT, **caller("bob"))) == (404, "classifier_not_found")
        update = {"classifier_id": "theirs", "input": EXAMPLES}
        assert code(await gateway.post("/v1/train", update, **caller("bob"))) == (404, "classifier_not_found")
        assert len(upstream.seen) == 2


# ---------------------------------------------------------------- training and faults


@pytest.mark.parametrize(
    ("script", "error", "kept"),
    [
        (replies({"detail": "oops"}, 500), (502, "upstream_error"), "unknown"),
        (replies({"num_samples": 2}), (502, "upstream_error"), "unknown"),
        (replies({"detail": "no"}, 503), (503, "upstream_error"), None),
        (replies({"detail": "no"}, 429), (429, "upstream_rate_limited"), None),
        (replies({"detail": "no"}, 401), (502, "upstream_auth"), None),
        (replies({"detail": "busy", "code": "CONFLICT_RESOURCE_BUSY"}, 409), (409, "classifier_busy"), None),
        (replies({"detail": "16 of 16", "code": "AUTHZ_RESOURCE_LIMIT_EXCEEDED"}, 403), (403, "resource_limit"), None),
        (replies({"detail": "bad", "code": "INPUT_INVALID_LABELS"}, 400), (400, "upstream_rejected"), None),
    ],
)
async def test_a_training_that_was_sent_is_never_sent_again(
    upstream: ScriptedUpstream, tmp_path: Path, script: Script, error: tuple[int, str], kept: str | None
) -> None:
    upstream.plays(script)
    async with serving(upstream, tmp_path) as gateway:
        answer = await gateway.post("/v1/train", TRAIN, **caller("ann"))
        assert (code(answer), len(upstream.seen)) == (error, 1)
        if error[0] == 409:
            assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("2", "true")
        if kept:
            assert answer.headers["x-should-retry"] == "false"
    assert [row[-1] for row in read(tmp_path / "torii.db", ROWS)] == ([kept] if kept else [])


async def test_a_training_that_was_not_sent_goes_to_the_next_upstream(upstream: ScriptedUpstream) -> None:
    async with scripted_upstream() as closed:
        port = closed.url
    upstreams = {
        "first": {"kind": "jina", "base_url": f"{port}/v1", "api_key": "jina_first_0123456789"},
        "jina": {"base_url": f"{upstream.url}/v1", "api_key": "jina_0123456789"},
    }
    upstream.plays(MADE)
    async with serving(upstream, upstreams=upstreams) as gateway:
        assert (await gateway.post("/v1/train", TRAIN, **caller("ann"))).status_code == 200
        assert len(upstream.seen) == 1


async def test_the_owner_is_written_before_the_training_is_sent(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    rows: list[Any] = []

    async def look(request: Seen, writer: asyncio.StreamWriter) -> Any:
        rows.extend(read(tmp_path / "torii.db", ROWS))
        return await MADE(request, writer)

    upstream.plays(look)
    async with serving(upstream, tmp_path) as gateway:
        await gateway.post("/v1/train", TRAIN, **caller("ann"))
        assert [(row[0], row[1], row[4:]) for row in rows] == [(None, "ann", (MODEL, '["x","y"]', "training"))]


async def test_a_caller_who_leaves_a_training_leaves_a_possible_orphan(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async def silent(request: Seen, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    upstream.plays(silent)
    async with serving(upstream, tmp_path) as gateway:
        asking = asyncio.create_task(gateway.post("/v1/train", TRAIN, **caller("ann")))
        await until(lambda: len(upstream.seen) == 1)
        asking.cancel()
        await until(lambda: [row[-1] for row in read(tmp_path / "torii.db", ROWS)] == ["unknown"])


async def test_train_without_usage_is_estimated(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(replies({"classifier_id": "c1", "num_samples": 2}))
    async with serving(upstream, tmp_path) as gateway:
        body = {"model": MODEL, "input": [{"text": "four" * 3, "label": "xxxx"}, {"text": "four" * 3, "label": "yyyy"}]}
        answer = await gateway.post("/v1/train", {**body, "num_iters": 3}, **caller("ann"))
        assert answer.json() == {"classifier_id": "c1", "num_samples": 2}
    assert [row[5:7] for row in read(tmp_path / "torii.db", CALLS)] == [(24, 1)]


# ---------------------------------------------------------------- the cache, the books, the limits


async def test_labels_and_texts_are_cached_in_memory_and_classifiers_never(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    cache = {"store": "sqlite", "path": str(tmp_path / "cache.db")}
    segmented = replies({"num_tokens": 1, "tokenizer": "gpt2", "usage": {"tokens": 0}, "chunks": ["a-secret-text"]})
    async with serving(upstream, tmp_path, cache=cache) as gateway:
        await train(gateway, upstream)
        upstream.plays(classified)
        bodies = [await gateway.post("/v1/classify", CLASSIFY, **caller(name)) for name in ("ann", "bob")]
        assert [answer.headers["x-torii-cache"] for answer in bodies] == ["miss", "hit"]
        assert bodies[0].json()["data"] == bodies[1].json()["data"]
        assert bodies[1].json()["usage"] == {"total_tokens": 0, "cached_tokens": 1}
        for _ in range(2):
            assert "x-torii-cache" not in (await gateway.post("/v1/classify", FEW_SHOT, **caller("ann"))).headers
        upstream.plays(segmented)
        text = {"content": "a-secret-text", "return_chunks": True}
        bodies = [await gateway.post("/v1/segment", text, **caller("ann")) for _ in range(2)]
        assert [answer.headers["x-torii-cache"] for answer in bodies] == ["miss", "hit"]
        assert bodies[0].content == bodies[1].content
        assert len(upstream.seen) == 5
    assert not any(b"a-secret-text" in path.read_bytes() for path in tmp_path.glob("cache.db*"))
    segments = [row for row in read(tmp_path / "torii.db", CALLS) if row[0] == "segment"]
    assert {row[1:3] + row[5:7] for row in segments} == {("jina-segment", "jina-segment", 0, 0)}


async def test_equal_calls_under_way_share_one(upstream: ScriptedUpstream) -> None:
    go = asyncio.Event()

    async def slow(request: Seen, writer: asyncio.StreamWriter) -> Any:
        await go.wait()
        return await classified(request, writer)

    upstream.plays(slow)
    async with serving(upstream, cache={"store": "memory"}) as gateway:
        asking = [asyncio.create_task(gateway.post("/v1/classify", CLASSIFY, **caller("ann"))) for _ in range(2)]
        await until(lambda: len(upstream.seen) == 1 and gateway.generations.load.calls == 2)
        go.set()
        answers = await asyncio.gather(*asking)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert len(upstream.seen) == 1


async def test_classify_has_two_limits_and_neither_is_that_of_embeddings(upstream: ScriptedUpstream) -> None:
    limits = {"requests_per_minute": 1, "classify_per_minute": 2, "train_per_minute": 3, "segment_per_minute": 1}
    jina = {"base_url": f"{upstream.url}/v1", "api_key": "jina_0123456789", "limits": limits}
    async with serving(upstream, upstreams={"jina": jina}, queue_timeout_seconds=0.05) as gateway:
        await train(gateway, upstream)
        upstream.plays(classified)
        few = [(await gateway.post("/v1/classify", FEW_SHOT, **caller("ann"))).status_code for _ in range(3)]
        zero = [(await gateway.post("/v1/classify", CLASSIFY, **caller("ann"))).status_code for _ in range(3)]
        assert (few, zero) == ([200, 200, 429], [200, 200, 429])
        upstream.plays(replies({"num_tokens": 1}))
        segmented = [(await gateway.post("/v1/segment", {"content": "a"}, **caller("ann"))).status_code for _ in "ab"]
        assert segmented == [200, 429]
        upstream.plays(replies({"data": [{"index": 0, "embedding": [0.5]}], "usage": {"total_tokens": 1}}))
        embedded = await gateway.post("/v1/embeddings", {"model": MODEL, "input": "a"}, **caller("ann"))
        assert embedded.status_code == 200


async def test_budgets_are_held_for_inputs_labels_and_iterations(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with serving(upstream, tmp_path) as gateway:
        key = await OperatorClient(gateway).post(
            "/keys", {"name": "cyd", "budgets": [{"unit": "tokens", "amount": 200, "window": "day"}]}
        )
        headers = {"authorization": f"Bearer {key['secret']}"}
        upstream.plays(classified)
        assert (await gateway.post("/v1/classify", CLASSIFY, **headers)).status_code == 200
        refused = await gateway.post("/v1/train", TRAIN, **headers)
        assert code(refused) == (429, "insufficient_quota")
        upstream.plays(replies({"num_tokens": 1}))
        assert (await gateway.post("/v1/segment", {"content": "a" * 10_000}, **headers)).status_code == 200
        assert len(upstream.seen) == 2


async def test_a_price_for_each_call_is_held_for_each_part(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    prices = {"jina": {MODEL: {"per_call": "0.5"}}}
    async with serving(upstream, tmp_path, prices=prices) as gateway:
        key = await OperatorClient(gateway).post(
            "/keys", {"name": "cyd", "budgets": [{"unit": "usd", "amount": 1.75, "window": "day"}]}
        )
        headers = {"authorization": f"Bearer {key['secret']}"}
        upstream.plays(classified)
        large = {**CLASSIFY, "input": [str(number) for number in range(600)]}
        assert (await gateway.post("/v1/classify", large, **headers)).status_code == 200
        assert code(await gateway.post("/v1/classify", large, **headers)) == (429, "insufficient_quota")
        assert len(upstream.seen) == 2
    assert read(tmp_path / "torii.db", "SELECT cost, attempts FROM calls") == [(1_000_000_000, 2)]


@pytest.mark.parametrize(
    "body",
    [
        b'{"data":[]}',
        b'{"data":[{"index":1,"prediction":"x","score":1}]}',
        b'{"data":[{"index":0,"prediction":"x"}]}',
        b'{"data":[{"index":0,"prediction":"x","score":1e999}]}',
        b'{"data":[{"index":0,"prediction":"x","score":1},{"index":0,"prediction":"x","score":1}]}',
        b"<html>",
    ],
)
async def test_an_answer_that_is_none_is_a_502(upstream: ScriptedUpstream, body: bytes) -> None:
    upstream.plays(replies(body))
    async with serving(upstream, max_attempts=1) as gateway:
        assert code(await gateway.post("/v1/classify", CLASSIFY, **caller("ann"))) == (502, "upstream_error")


async def test_a_key_without_bearer_and_a_key_in_the_query(upstream: ScriptedUpstream) -> None:
    upstream.plays(classified)
    async with serving(upstream) as gateway:
        plain = {"authorization": "a-key-of-ann-0123456789"}
        assert (await gateway.post("/v1/classify", CLASSIFY, **plain)).status_code == 200
        sent = await gateway.post("/v1/classify", {**CLASSIFY, "_token": "jina_of_theirs"}, **plain)
        assert (sent.status_code, b"jina_of_theirs" in upstream.seen[-1].raw) == (200, False)
        alone = await gateway.client.get("/v1/segment", params={"content": "a", "_token": "jina_of_theirs"})
        assert (alone.status_code, alone.json()["error"]["param"]) == (400, "_token")


async def test_a_model_that_does_not_classify_says_what_it_does(upstream: ScriptedUpstream) -> None:
    async with serving(upstream) as gateway:
        answer = await gateway.post("/v1/classify", {**CLASSIFY, "model": "jina-reranker-v3"}, **caller("ann"))
        assert answer.json()["detail"] == "jina-reranker-v3 does not serve this endpoint; use POST /v1/rerank"
        allowed = await gateway.client.delete("/v1/segment", headers=caller("ann"))
        assert (allowed.status_code, allowed.headers["allow"]) == (405, "GET, POST")


# ---------------------------------------------------------------- the operator


async def test_the_operator_sees_orphans_and_gives_them_away(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async def play(request: Seen, writer: asyncio.StreamWriter) -> Any:
        if request.path == "/v1/train":
            return await replies({"detail": "oops"}, 500)(request, writer)
        if request.path == "/v1/classifiers":
            lost = {"classifier_id": "lost", "user_id": "u", "model": MODEL, "labels": ["x", "y"]}
            mine = [lost] if KEYS["one"] in request.headers["authorization"] else []
            return await replies(mine)(request, writer)
        return await classified(request, writer)

    async with serving(upstream, tmp_path) as gateway:
        await train(gateway, upstream)
        upstream.plays(play)
        jina = {"model": MODEL, "input": EXAMPLES}
        assert (await gateway.post("/v1/train", jina, **caller("ann"))).status_code == 502
        operator = OperatorClient(gateway)
        listed = (await operator.get("/classifiers"))["data"]
        assert [(entry["classifier_id"], entry["state"], entry["orphan"]) for entry in listed] == [
            ("c1", "ready", None),
            (None, "unknown", "unknown_outcome"),
        ]
        found = await operator.get("/classifiers?orphans=true")
        assert [(entry["classifier_id"], entry["orphan"], entry["account"]) for entry in found["data"]][1:] == [
            ("lost", "unowned", "jina-one")
        ]
        assert found["unasked"] == []
        given = await operator.post("/classifiers/lost/adopt", {"key": "bob"})
        assert (given["key"], given["account"], given["model"], given["orphan"]) == ("bob", "jina-one", MODEL, None)
        used = await gateway.post("/v1/classify", {"classifier_id": "lost", "input": "t"}, **caller("bob"))
        assert used.status_code == 200
        assert KEYS["one"] in upstream.seen[-1].headers["authorization"]
        await operator.post("/classifiers/c1/adopt", {"key": "bob"})
        assert code(await gateway.post("/v1/classify", FEW_SHOT, **caller("ann"))) == (404, "classifier_not_found")
        for wrong, body, status in (
            ("c1", {"key": "nobody"}, 400),
            ("c1", {"team": "none"}, 400),
            ("c1", {}, 400),
            ("c1", {"key": "ann", "team": "red"}, 400),
            ("c9", {"key": "ann"}, 404),
        ):
            assert (await operator.ask("POST", f"/classifiers/{wrong}/adopt", body)).status_code == status
    audit = read(tmp_path / "torii.db", "SELECT actor, action, object_id FROM audit ORDER BY id")
    assert audit[:2] == [("operator", "classifier.adopt", "lost"), ("operator", "classifier.adopt", "c1")]


async def test_giving_away_what_is_owned_finds_no_lost_one(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """The classifier that the second call may have made is still to be found."""
    jina = {"base_url": f"{upstream.url}/v1", "api_key": KEYS["one"]}
    async with serving(upstream, tmp_path, upstreams={"jina": jina}) as gateway:
        await train(gateway, upstream)
        upstream.plays(replies({"detail": "oops"}, 500))
        assert (await gateway.post("/v1/train", TRAIN, **caller("ann"))).status_code == 502
        await OperatorClient(gateway).post("/classifiers/c1/adopt", {"key": "bob"})
    rows = [(row[0], row[1], row[-1]) for row in read(tmp_path / "torii.db", ROWS)]
    assert rows == [("c1", "bob", "ready"), (None, "ann", "unknown")]


async def test_the_classifiers_of_a_revoked_key_are_orphans(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with serving(upstream, tmp_path) as gateway:
        operator = OperatorClient(gateway)
        key = await operator.post("/keys", {"name": "cyd"})
        upstream.plays(MADE)
        await gateway.post("/v1/train", TRAIN, authorization=f"Bearer {key['secret']}")
        await operator.delete(f"/keys/{key['id']}")
        upstream.plays(replies({"detail": "no"}, 500))
        found = await operator.get("/classifiers?orphans=true")
        assert [(entry["classifier_id"], entry["orphan"]) for entry in found["data"]] == [("c1", "owner_gone")]
        assert found["unasked"] == ["jina-one", "jina-two"]


async def test_the_commands_ask_the_gateway(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with serving(upstream, tmp_path) as gateway:
        await train(gateway, upstream)
        port = gateway.url.rpartition(":")[2]

        async def torii(*words: str) -> str:
            given = {**os.environ, "TORII_OPERATOR_KEY": OPERATOR, "JINA_API_KEY": "jina_0123456789"}
            command = [sys.executable, "-m", "app", "classifiers", *words, "--port", port]
            process = await asyncio.create_subprocess_exec(
                *command, env=given, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            return (await process.communicate())[0].decode()

        assert [line.split()[:3] for line in (await torii("list")).splitlines()[1:]] == [["c1", "ann", "jina-one"]]
        assert "bob" in await torii("adopt", "c1", "--key", "bob")
        upstream.plays(replies([{"classifier_id": "lost", "labels": ["x"]}]))
        assert [line.split()[0] for line in (await torii("list", "--orphans")).splitlines()[1:]] == ["lost"]
        assert "name the new owner by --key or by --team" in await torii("adopt", "c1")
