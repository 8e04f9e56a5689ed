"""The targets of a model name, and the errors for a name without targets."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidRequest, ModelNotFound, ToriiError
from app.core.names import nearest, shown
from app.core.types import Json, Key, Model, Route
from app.routing.table import REMEMBERED, Account, RouteTable
from app.upstreams import AIHubMix, Jina, OpenAICompatible
from app.upstreams.catalogue import CATALOGUE, unlisted

JINA = Account(Jina("jina", "https://jina.example/v1"), "jina", Key("jina_" + "0" * 60))
AIHUBMIX = Account(AIHubMix("aihubmix", "https://aihubmix.example/v1"), "aihubmix", Key("sk-" + "0" * 40))
LOCAL = Account(OpenAICompatible("local", "http://127.0.0.1:1/v1"), "openai", Key("none"))
ACCOUNTS = {"jina": JINA, "aihubmix": AIHUBMIX}
OWN = Model(id="my-embeddings", endpoints=("embeddings",), dimensions=1024)

BOTH = RouteTable(ACCOUNTS, unknown="aihubmix")
ONLY_JINA = RouteTable({"jina": JINA, "aihubmix": None})


def ways(table: RouteTable, name: str) -> list[tuple[str, str]]:
    """Upstream and the upstream's name of the model, in the order of the targets."""
    return [(target.upstream.name, target.name) for target in table.find(name).targets]


def not_found(table: RouteTable, name: str) -> str:
    with pytest.raises(ModelNotFound) as error:
        table.find(name)
    assert error.value.status == 404
    assert error.value.param == "model"
    assert error.value.code == "model_not_found"
    return error.value.message


def test_a_known_model_goes_to_all_that_serve_it_in_the_order_of_the_accounts() -> None:
    assert ways(BOTH, "jina-embeddings-v3") == [("jina", "jina-embeddings-v3"), ("aihubmix", "jina-embeddings-v3")]
    turned = RouteTable({"aihubmix": AIHUBMIX, "jina": JINA})
    assert ways(turned, "jina-embeddings-v3") == [("aihubmix", "jina-embeddings-v3"), ("jina", "jina-embeddings-v3")]
    assert ways(BOTH, "jina-embeddings-v4") == [("jina", "jina-embeddings-v4")]


def test_a_target_carries_the_model_the_key_and_the_upstream() -> None:
    first, second = BOTH.find("jina-reranker-m0").targets
    assert (first.upstream, first.key, first.model) == (JINA.upstream, JINA.key, CATALOGUE["jina-reranker-m0"].model)
    assert (second.upstream, second.key) == (AIHUBMIX.upstream, AIHUBMIX.key)
    assert JINA.key.secret not in repr(first)


def test_trap_33_prefixed_ids_lead_to_the_same_route() -> None:
    assert BOTH.find("jina-ai/jina-embeddings-v3") is BOTH.find("jina-embeddings-v3")
    assert ways(BOTH, "jina/jina-ai/jina-embeddings-v3") == [("jina", "jina-embeddings-v3")]


def test_an_upstream_in_front_forces_it() -> None:
    assert ways(BOTH, "jina/jina-embeddings-v3") == [("jina", "jina-embeddings-v3")]
    assert ways(BOTH, "aihubmix/jina-embeddings-v3") == [("aihubmix", "jina-embeddings-v3")]
    assert BOTH.find("aihubmix/jina-embeddings-v3").model == CATALOGUE["jina-embeddings-v3"].model


def test_a_forced_upstream_is_asked_for_what_its_page_does_not_name() -> None:
    assert ways(BOTH, "aihubmix/jina-embeddings-v4") == [("aihubmix", "jina-embeddings-v4")]
    assert BOTH.find("aihubmix/jina-embeddings-v4").model.dimensions == 2048
    assert ways(BOTH, "jina/jina-embeddings-v9") == [("jina", "jina-embeddings-v9")]
    assert BOTH.find("jina/jina-embeddings-v9").model == unlisted("jina-embeddings-v9", "jina")


def test_a_forced_upstream_may_be_any_configured_one() -> None:
    table = RouteTable({**ACCOUNTS, "local": LOCAL})
    assert ways(table, "local/library/bge-m3:latest") == [("local", "library/bge-m3:latest")]


def test_a_forced_upstream_without_a_key_is_said() -> None:
    message = not_found(ONLY_JINA, "aihubmix/gpt-4o")
    assert message.startswith("The model 'aihubmix/gpt-4o' names the upstream aihubmix, which has no key. Nearest: ")


def test_unknown_models_go_where_they_are_to_go() -> None:
    route = BOTH.find("gpt-4o")
    assert ways(BOTH, "gpt-4o") == [("aihubmix", "gpt-4o")]
    assert route.model == Model(id="gpt-4o", endpoints=(), owned_by="aihubmix")
    assert BOTH.describe("gpt-4o")["endpoints"] == ["embeddings", "rerank", "chat"]
    assert ways(BOTH, "Qwen/Qwen3-32B:free") == [("aihubmix", "Qwen/Qwen3-32B:free")]


def test_a_known_model_that_nobody_here_serves_goes_to_the_upstream_for_unknown_ones() -> None:
    table = RouteTable({"jina": None, "aihubmix": AIHUBMIX}, unknown="aihubmix")
    assert ways(table, "jina-embeddings-v4") == [("aihubmix", "jina-embeddings-v4")]
    assert ways(table, "jina-ai/jina-embeddings-v4") == [("aihubmix", "jina-embeddings-v4")]
    assert table.find("jina-embeddings-v4").model == CATALOGUE["jina-embeddings-v4"].model


def test_a_known_model_that_nobody_here_serves_says_who_does() -> None:
    message = not_found(RouteTable({"jina": None, "local": LOCAL}), "jina-reranker-m0")
    assert message == (
        "The model 'jina-reranker-m0' is served by jina and aihubmix, for which no key is set. "
        "GET /v1/models lists all models."
    )


def test_an_unknown_model_names_the_nearest() -> None:
    assert not_found(ONLY_JINA, "Jina-Embedings-V3") == (
        "The model 'Jina-Embedings-V3' is unknown. Nearest: jina-embeddings-v3, jina-embeddings-v4, "
        "jina-embeddings-v2-base-zh. GET /v1/models lists all models."
    )
    assert 1 <= len(nearest("zzzzzz", CATALOGUE)) <= 3
    assert nearest("x", []) == []


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("gpt-4o\r\nx-evil: 1", r"gpt-4o\r\nx-evil: 1"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\u202eb", r"a\u202eb"),
        ("a\u2028b", r"a\u2028b"),
        ("\ud800", r"\ud800"),
        ("../../etc/passwd", "../../etc/passwd"),
        ("a/../b", "a/../b"),
        ("/v1/models", "/v1/models"),
        ("aihubmix/", "aihubmix/"),
        ("aihubmix/../admin", "aihubmix/../admin"),
        ("a b", "a b"),
        ("x" * 257, "x" * 64 + "..."),
        ("y" * 1_000_000, "y" * 64 + "..."),
    ],
)
def test_a_weird_name_goes_nowhere_and_is_shown_cut_and_escaped(name: str, seen: str) -> None:
    assert not_found(BOTH, name).startswith(f"The model '{seen}' is not a valid model name. Nearest: ")


def test_an_empty_name() -> None:
    with pytest.raises(InvalidRequest, match="name is empty") as error:
        BOTH.find("")
    assert (error.value.status, error.value.param) == (400, "model")


@given(st.text())
def test_any_name_has_a_route_or_an_error_of_one_printable_line(name: str) -> None:
    try:
        said = BOTH.find(name).targets[0].name
    except ToriiError as error:
        said = error.message
    assert said.isprintable()
    assert len(said) < 600


def test_aliases_are_the_model_that_they_stand_for() -> None:
    table = RouteTable(
        ACCOUNTS,
        {
            "text-embedding-3-small": "jina-embeddings-v3",
            "embed": "text-embedding-3-small",
            "cheap": "aihubmix/jina-reranker-m0",
            "prefixed": "jina-ai/jina-embeddings-v4",
            "fast": "gpt-4o-mini",
        },
        unknown="aihubmix",
    )
    assert table.find("text-embedding-3-small") is table.find("embed") is table.find("jina-embeddings-v3")
    assert ways(table, "cheap") == [("aihubmix", "jina-reranker-m0")]
    assert ways(table, "prefixed") == [("jina", "jina-embeddings-v4")]
    assert ways(table, "fast") == [("aihubmix", "gpt-4o-mini")]


def test_an_alias_may_take_a_known_name_to_one_upstream() -> None:
    table = RouteTable(ACCOUNTS, {"jina-embeddings-v3": "aihubmix/jina-embeddings-v3"})
    assert ways(table, "jina-embeddings-v3") == ways(table, "jina-ai/jina-embeddings-v3")
    assert ways(table, "jina-embeddings-v3") == [("aihubmix", "jina-embeddings-v3")]
    assert ways(table, "jina/jina-embeddings-v3") == [("jina", "jina-embeddings-v3")]


def test_an_alias_for_what_has_no_key_here_is_not_listed() -> None:
    table = RouteTable({"jina": JINA, "aihubmix": None}, {"fast": "aihubmix/gpt-4o-mini"})
    assert "is unknown" in not_found(table, "fast")
    assert "fast" not in {model["id"] for model in table.models()}


def test_aliases_in_a_circle_lead_nowhere() -> None:
    table = RouteTable({"jina": JINA}, {"a": "b", "b": "a", "jina-clip-v2": "jina-clip-v2"})
    assert "is unknown" in not_found(table, "a")
    assert ways(table, "jina-clip-v2") == [("jina", "jina-clip-v2")]


def test_own_models_and_their_forced_names() -> None:
    table = RouteTable({**ACCOUNTS, "local": LOCAL}, {"my-embeddings": Route(OWN, (LOCAL.target(OWN, "bge-m3"),))})
    assert ways(table, "my-embeddings") == ways(table, "local/bge-m3") == [("local", "bge-m3")]
    assert table.find("local/bge-m3").model is OWN


@pytest.mark.parametrize(
    "name", ["jina-clip-v1", "jina-ai/jina-clip-v1", "jina/jina-clip-v1", "aihubmix/jina-clip-v1", "gpt-4o"]
)
def test_a_removed_model_is_gone_under_all_its_names(name: str) -> None:
    table = RouteTable(ACCOUNTS, {"jina-clip-v1": None, "gpt-4o": None}, unknown="aihubmix")
    assert "is disabled in this gateway's configuration" in not_found(table, name)
    assert "jina-clip-v1" not in {model["id"] for model in table.models()}


def test_an_alias_and_a_removal_together_rename() -> None:
    table = RouteTable(ACCOUNTS, {"search": "jina-embeddings-v3", "jina-embeddings-v3": None})
    assert ways(table, "search") == [("jina", "jina-embeddings-v3"), ("aihubmix", "jina-embeddings-v3")]
    assert "is disabled in this gateway's configuration" in not_found(table, "jina-embeddings-v3")


def listed(table: RouteTable, name: str) -> Json:
    return next(model for model in table.models() if model["id"] == name)


def test_the_listing_has_openais_shape_and_what_the_model_can_do() -> None:
    expected = {
        "id": "jina-colbert-v2",
        "object": "model",
        "created": 1725062400,
        "owned_by": "jina-ai",
        "endpoints": ["embeddings", "rerank"],
        "inputs": ["text"],
        "dimensions": 128,
        "dimensions_allowed": [64, 96, 128],
        "context_length": 8192,
        "tasks": [],
        "max_inputs": 512,
        "features": ["input_type", "multivector", "dimensions"],
        "parameters": {
            "dimensions": {"type": "integer", "enum": [64, 96, 128], "default": 128},
            "input_type": {"type": "string", "enum": ["query", "document"], "default": "document"},
        },
        "upstreams": ["jina", "aihubmix"],
        "alias_of": None,
    }
    assert listed(BOTH, "jina-colbert-v2") == BOTH.describe("jina-colbert-v2") == expected
    assert BOTH.describe("jina-ai/jina-colbert-v2") == {**expected, "id": "jina-ai/jina-colbert-v2"}
    assert BOTH.describe("jina/jina-colbert-v2") == {**expected, "id": "jina/jina-colbert-v2", "upstreams": ["jina"]}


def test_the_listing_is_what_can_be_had_and_its_aliases() -> None:
    table = RouteTable({"aihubmix": AIHUBMIX}, {"small": "jina-embeddings-v3"})
    names = [model["id"] for model in table.models()]
    assert names == [name for name, entry in CATALOGUE.items() if "aihubmix" in entry.kinds] + ["small"]
    assert listed(table, "small") == {
        **listed(table, "jina-embeddings-v3"),
        "id": "small",
        "alias_of": "jina-embeddings-v3",
    }


def test_an_unknown_model_can_be_described_where_it_would_be_asked_for() -> None:
    assert BOTH.describe("gpt-4o")["upstreams"] == ["aihubmix"]
    assert BOTH.describe("gpt-4o")["created"] == 0
    with pytest.raises(ModelNotFound):
        ONLY_JINA.describe("gpt-4o")


def test_shown_keeps_other_scripts() -> None:
    assert shown("модель-嵌入") == "модель-嵌入"


def test_a_known_name_is_one_look_up() -> None:
    start = time.process_time()
    for _ in range(10_000):
        BOTH.find("jina-embeddings-v3")
    assert (time.process_time() - start) / 10_000 < 20e-6


def test_the_route_of_a_name_beyond_the_table_is_made_once_and_few_are_remembered() -> None:
    table = RouteTable(ACCOUNTS, unknown="aihubmix")
    assert table.find("aihubmix/gpt-9") is table.find("aihubmix/gpt-9")
    assert ways(table, "aihubmix/gpt-9") == [("aihubmix", "gpt-9")]
    for number in range(2 * REMEMBERED + 1):
        assert ways(table, f"gpt-{number}") == [("aihubmix", f"gpt-{number}")]
    assert len(table._beyond) <= REMEMBERED
    with pytest.raises(ModelNotFound):
        table.find("no model")
    assert "no model" not in table._beyond


def test_a_name_for_an_upstream_without_a_key_says_so() -> None:
    table = RouteTable({"jina": JINA, "aihubmix": None}, unknown="aihubmix")
    assert not_found(table, "gpt-4o-mini").startswith(
        "The model 'gpt-4o-mini' is unknown, and aihubmix, the upstream for unknown models, has no key. Nearest: "
    )
