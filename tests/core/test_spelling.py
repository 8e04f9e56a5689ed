"""Equivalent spellings of model names, values and inputs, which share their cache entries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.core.errors import ModelNotFound
from app.core.types import Json, Key
from app.routing.table import Account, RouteTable
from app.upstreams import AIHubMix, Jina, OpenAICompatible

from ..answering import answer, both, seen_by
from ..conftest import RunningGateway, ScriptedUpstream, replies

Both = tuple[RunningGateway, ScriptedUpstream, ScriptedUpstream]
V3 = "jina-embeddings-v3"
EMBED: Json = {"model": V3, "input": ["Hi"]}
ASK: Json = {"model": "jina-deepsearch-v1", "messages": [{"role": "user", "content": "Hi"}]}
IMAGE = "https://x.example/a.png"

JINA = Account(Jina("jina", "http://127.0.0.1:1/v1"), "jina", Key("k" * 20))
AIHUBMIX = Account(AIHubMix("aihubmix", "http://127.0.0.1:1/v1"), "aihubmix", Key("k" * 20))
LOCAL = Account(OpenAICompatible("local", "http://127.0.0.1:1/v1"), "openai", Key("k" * 20))
ACCOUNTS = {"jina": JINA, "aihubmix": AIHUBMIX}


@pytest.fixture
async def here() -> AsyncIterator[Both]:
    async with both() as there:
        yield there


# --- names of models ---------------------------------------------------------------------------

SPELLINGS = (
    f"jinaai/{V3}",
    f"jina_ai/{V3}",
    f"jina-ai/{V3}",
    "JINA-EMBEDDINGS-V3",
    "Jina-Embeddings-v3",
    "jinaai/JINA-EMBEDDINGS-V3",
    "JinaAI/jina-embeddings-v3",
)


@pytest.mark.parametrize("name", SPELLINGS)
async def test_a_spelling_is_the_model_and_is_echoed(here: Both, name: str) -> None:
    gateway, jina, aihubmix = here
    response = await gateway.post("/v1/embeddings", {**EMBED, "model": name})
    assert (response.status_code, response.json()["model"]) == (200, name)
    assert response.headers["x-torii-upstream-model"] == V3
    assert (seen_by(jina), seen_by(aihubmix)) == ([EMBED], [])
    assert (await gateway.client.get(f"/v1/models/{name}")).json()["upstreams"] == ["jina", "aihubmix"]


async def test_a_spelling_does_not_pin_the_upstream(here: Both) -> None:
    gateway, jina, aihubmix = here
    jina.plays(replies({"detail": "Insufficient account balance", "code": "AUTHZ_INSUFFICIENT_BALANCE"}, 403))
    response = await gateway.post("/v1/embeddings", {**EMBED, "model": f"jina_ai/{V3}"})
    assert (response.status_code, response.headers["x-torii-upstream"]) == (200, "aihubmix")
    assert seen_by(jina, aihubmix) == [EMBED, EMBED]


async def test_an_exact_name_in_the_table_wins() -> None:
    models: Json = {"JINA-EMBEDDINGS-V3": "aihubmix/text-embedding-3-small", f"jinaai/{V3}": "jina/jina-embeddings-v4"}
    async with both(models=models) as (gateway, jina, aihubmix):
        for name in ("JINA-EMBEDDINGS-V3", f"jinaai/{V3}", V3, f"jina_ai/{V3}"):
            assert (await gateway.post("/v1/embeddings", {**EMBED, "model": name})).status_code == 200
        assert [body["model"] for body in seen_by(aihubmix)] == ["text-embedding-3-small"]
        assert [body["model"] for body in seen_by(jina)] == ["jina-embeddings-v4", V3, V3]


def ways(table: RouteTable, name: str) -> list[tuple[str, str]]:
    return [(target.upstream.name, target.name) for target in table.find(name).targets]


def test_an_upstream_in_front_stays_in_front() -> None:
    table = RouteTable({**ACCOUNTS, "local": LOCAL}, unknown="aihubmix")
    assert ways(table, f"jina/jinaai/{V3}") == ways(table, "JINA/Jina-Embeddings-V3") == [("jina", V3)]
    assert ways(table, "aihubmix/JINA-EMBEDDINGS-V3") == [("aihubmix", V3)]
    # An upstream of the user's own gets the name as it is written.
    assert ways(table, f"local/jinaai/{V3}") == [("local", f"jinaai/{V3}")]


def test_an_upstream_of_such_a_name_is_that_upstream() -> None:
    table = RouteTable({**ACCOUNTS, "jinaai": AIHUBMIX}, unknown="jina")
    assert ways(table, f"jinaai/{V3}") == ways(table, "jinaai/JINA-EMBEDDINGS-V3") == [("aihubmix", V3)]
    assert ways(table, "jinaai/a-new-one") == [("aihubmix", "a-new-one")]


async def test_the_configuration_may_spell_so_too() -> None:
    spelled = (*SPELLINGS, f"jina/{V3}", f"JINA/{V3.upper()}", f"Jina/jinaai/{V3}")
    models: Json = {f"alias-{number}": name for number, name in enumerate(spelled)}
    models |= {
        f"own-{number}": {"targets": [{"upstream": "jina", "model": name}]} for number, name in enumerate(SPELLINGS)
    }
    async with both(models=models) as (gateway, jina, aihubmix):
        for name in models:
            assert (await gateway.post("/v1/embeddings", {**EMBED, "model": name})).status_code == 200
        assert (seen_by(jina), seen_by(aihubmix)) == ([EMBED] * len(models), [])
        described = (await gateway.client.get("/v1/models/alias-3")).json()
        assert described["endpoints"] == ["embeddings", "classify", "train"]
        assert described["upstreams"] == ["jina", "aihubmix"]


def test_an_upstream_in_front_may_be_written_in_other_letters() -> None:
    table = RouteTable({**ACCOUNTS, "local": LOCAL, "gone": None}, unknown="aihubmix")
    assert ways(table, "AIHubMix/Gpt-4o") == [("aihubmix", "Gpt-4o")]
    assert ways(table, "JINA/jinaai/x") == [("jina", "jinaai/x")]
    assert ways(table, f"Local/{V3.upper()}") == [("local", V3)]
    with pytest.raises(ModelNotFound, match="names the upstream gone, which has no key"):
        table.find("Gone/x")


def test_a_model_that_nobody_knows_loses_the_prefix_and_keeps_its_letters() -> None:
    table = RouteTable(ACCOUNTS, unknown="aihubmix")
    assert ways(table, "jinaai/jina-embeddings-v9") == ways(table, "jina_ai/jina-embeddings-v9")
    assert ways(table, "jina_ai/Jina-Embeddings-V9") == [("aihubmix", "Jina-Embeddings-V9")]
    assert ways(table, "GPT-4o") == [("aihubmix", "GPT-4o")]


@pytest.mark.parametrize(
    "name", ["JINA-CLIP-V1", "jinaai/jina-clip-v1", "jina_ai/Jina-Clip-V1", "aihubmix/JINA-CLIP-V1"]
)
def test_a_removed_model_is_gone_under_all_its_spellings(name: str) -> None:
    for written in ("jina-clip-v1", "JINA-Clip-V1", "jinaai/jina-clip-v1"):
        table = RouteTable(ACCOUNTS, {written: None}, unknown="aihubmix")
        for asked in (name, "jina-clip-v1"):
            with pytest.raises(ModelNotFound, match="is disabled in this gateway's configuration"):
                table.find(asked)


# --- models that the upstream does not know either ---------------------------------------------

UNKNOWN = {"error": {"message": "Incorrect model ID, request the list (tid: 1)", "type": "Aihubmix_api_error"}}
NEAREST = (
    " Nearest: jina-embeddings-v3, jina-embeddings-v4, jina-embeddings-v2-base-zh. GET /v1/models lists all models."
)


@pytest.mark.parametrize("status", [400, 404, 200])
@pytest.mark.parametrize("name", ["jina-embedings-v3", "aihubmix/jina-embedings-v3"])
async def test_its_404_gets_our_nearest_names(here: Both, status: int, name: str) -> None:
    gateway, _, aihubmix = here
    aihubmix.plays(replies(UNKNOWN, status))
    response = await gateway.post("/v1/embeddings", {**EMBED, "model": name})
    message = response.json()["error"]["message"]
    assert (response.status_code, response.json()) == (
        404,
        {
            "error": {
                "message": message,
                "type": "invalid_request_error",
                "param": "model",
                "code": "model_not_found",
            },
            "detail": message,
        },
    )
    assert message.startswith("aihubmix: Incorrect model ID, request the list (tid: 1).")
    assert "jina-embeddings-v3" in message
    assert message.endswith(NEAREST)


async def test_a_stream_that_was_never_begun_says_so_too(here: Both) -> None:
    gateway, _, aihubmix = here
    aihubmix.plays(replies(UNKNOWN, 400))
    body = {**ASK, "model": "jina-deepserch", "stream": True}
    response = await gateway.post("/v1/chat/completions", body)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert "Nearest: jina-deepsearch-v2, jina-deepsearch-v1" in response.json()["error"]["message"]


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effort", "sent"),
    [("max", "high"), ("auto", "medium"), ("HIGH", "high"), ("Minimal", "low"), (" xHigh ", "high"), ("None", "low")],
)
async def test_reasoning_efforts_are_taken_as_meant(here: Both, effort: str, sent: str) -> None:
    gateway, jina, _ = here
    assert (await gateway.post("/v1/chat/completions", {**ASK, "reasoning_effort": effort})).status_code == 200
    assert seen_by(jina) == [{**ASK, "reasoning_effort": sent, "stream": True}]


async def test_other_models_have_their_own_efforts(here: Both) -> None:
    gateway, _, aihubmix = here
    await gateway.post("/v1/chat/completions", {**ASK, "model": "gpt-4o-mini", "reasoning_effort": "MAX"})
    assert seen_by(aihubmix) == [{**ASK, "model": "gpt-4o-mini", "reasoning_effort": "MAX", "stream": False}]


# --- OpenAI's parts as inputs ------------------------------------------------------------------

PARTS: list[tuple[Any, Any]] = [
    ({"type": "text", "text": "a"}, {"text": "a"}),
    ({"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}}, {"image": IMAGE}),
    ({"type": "image_url", "image_url": IMAGE}, {"image": IMAGE}),
    ({"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}, {"image": "aGk="}),
    ({"type": "hologram", "hologram": 7}, {"type": "hologram", "hologram": 7}),
    ({"type": "image_url", "image_url": 7}, {"type": "image_url", "image_url": 7}),
]


@pytest.mark.parametrize(("part", "sent"), PARTS)
@pytest.mark.parametrize("upstream", ["jina", "aihubmix"])
async def test_openais_parts_are_embedded(here: Both, upstream: str, part: Json, sent: Json) -> None:
    gateway, jina, aihubmix = here
    model = f"{upstream}/jina-clip-v2"
    for given in (part, [part], ["Hi", part]):
        assert (await gateway.post("/v1/embeddings", {"model": model, "input": given})).status_code == 200
    expected = [{"model": "jina-clip-v2", "input": items} for items in ([sent], [sent], ["Hi", sent])]
    assert seen_by(jina, aihubmix) == expected


async def test_openais_parts_fused_into_one_vector(here: Both) -> None:
    gateway, jina, _ = here
    body = {"model": "jina-embeddings-v5-omni-small", "input": [{"content": [part for part, _ in PARTS[:2]]}]}
    assert (await gateway.post("/v1/embeddings", body)).status_code == 200
    assert seen_by(jina) == [{**body, "input": [{"content": [sent for _, sent in PARTS[:2]]}]}]


async def test_other_models_are_sent_texts_as_texts(here: Both) -> None:
    gateway, _, aihubmix = here
    given = [{"type": "text", "text": "a"}, {"text": "b"}, "c", PARTS[1][0], {"text": "d", "image": IMAGE}]
    await gateway.post("/v1/embeddings", {"model": "text-embedding-3-small", "input": given})
    assert seen_by(aihubmix)[0]["input"] == ["a", "b", "c", *given[3:]]


async def test_openais_parts_are_ranked(here: Both) -> None:
    gateway, jina, _ = here
    body = {
        "model": "jina-reranker-m0",
        "query": {"type": "text", "text": "q"},
        "documents": [PARTS[1][0], PARTS[0][0]],
    }
    jina.plays(replies({"results": [{"index": n, "relevance_score": 0.5} for n in range(2)], "usage": {}}))
    response = await gateway.post("/v1/rerank", body)
    assert [result["document"] for result in response.json()["results"]] == [PARTS[1][0], PARTS[0][0]]
    assert (seen_by(jina)[0]["query"], seen_by(jina)[0]["documents"]) == ("q", [{"image": IMAGE}, {"text": "a"}])


# --- the cache ---------------------------------------------------------------------------------


async def states(gateway: RunningGateway, path: str, *bodies: Json) -> list[str]:
    answers = [await gateway.post(path, body) for body in bodies]
    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
    return [answer.headers["x-torii-cache"] for answer in answers]


async def test_spellings_share_an_entry() -> None:
    v2 = "jina-embeddings-v2-base-en"
    spelled: list[Json] = [
        {"model": v2.upper()},
        {"model": f"jinaai/{v2}"},
        {"input": "Hi"},
        {"dimensions": None, "field_of_tomorrow": None},
        {"dimensions": 768},
        {"return_multivector": False, "late_chunking": False, "input_type": "document"},
        {"user": "ann", "metadata": {"a": "b"}, "litellm_call_id": "1", "encoding_format": "base64"},
    ]
    async with both(cache={"store": "memory"}) as (gateway, jina, _):
        plain = {"model": v2, "input": ["Hi"]}
        assert await states(gateway, "/v1/embeddings", plain, *({**plain, **more} for more in spelled)) == [
            "miss",
            *["hit"] * len(spelled),
        ]
        assert seen_by(jina) == [plain]


async def test_parts_share_an_entry_with_what_they_mean() -> None:
    async with both(cache={"store": "memory"}) as (gateway, jina, _):
        bodies = [{"model": "jina-clip-v2", "input": item} for part, sent in PARTS[:3] for item in (part, sent)]
        assert await states(gateway, "/v1/embeddings", *bodies) == ["miss", "hit", "miss", "hit", "hit", "hit"]
        assert len(seen_by(jina)) == 2


async def test_what_differs_shares_no_entry() -> None:
    differing: list[Json] = [
        {},
        {"input": [{"text": "Hi"}]},
        {"dimensions": 64},
        {"task": "retrieval.query"},
        {"task": "retrieval.passage"},
        {"normalized": False},
        {"truncate": True},
        {"late_chunking": True},
        {"model": "jina-embeddings-v4"},
        {"field_of_tomorrow": False},
        {"field_of_tomorrow": 0},
    ]
    async with both(cache={"store": "memory"}) as (gateway, jina, _):
        jina.plays(answer)
        bodies = [{**EMBED, **more} for more in differing]
        assert await states(gateway, "/v1/embeddings", *bodies) == ["miss"] * len(differing)
        assert seen_by(jina) == bodies
