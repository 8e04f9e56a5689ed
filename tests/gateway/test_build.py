"""Construction of routes, callers and upstreams from settings, with the sandbox in place of the providers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.callers.keys import Caller, digest
from app.config.settings import Settings
from app.core.errors import ModelNotFound, Unauthorized
from app.core.types import Key
from app.gateway.build import (
    SANDBOX_KEY,
    build_callers,
    build_keys,
    build_routes,
    build_upstreams,
    hosts,
    in_sandbox,
    open_ledger,
    secrets,
    with_caller_key,
)
from app.routing.limits import RateLimits
from app.storage.errors import StoreError
from app.upstreams import AIHubMix, Jina, OpenAICompatible
from app.upstreams.catalogue import CATALOGUE

URLS = {
    "jina": "http://127.0.0.1:7001/v1",
    "deepsearch": "http://127.0.0.1:7001/deepsearch/v1",
    "aihubmix": "http://127.0.0.1:7001/aihubmix/v1",
}
UPSTREAMS = {
    "jina": {"api_key": "jina-key-of-ours"},
    "local": {"kind": "openai", "base_url": "http://127.0.0.1:11434/v1", "api_key": "local-key"},
    "aihubmix": {"api_key": "aihubmix-key-of-ours"},
}


def settings(**given: Any) -> Settings:
    return Settings(**{"upstreams": UPSTREAMS, **given})


def ways(given: Settings, name: str) -> list[tuple[str, str, str]]:
    return [(t.upstream.name, t.name, t.key.secret) for t in build_routes(given).find(name).targets]


def test_upstreams_of_every_kind_with_their_urls_in_order() -> None:
    assert list(build_upstreams(settings()).items()) == [
        ("jina", Jina("jina", "https://api.jina.ai/v1", "https://deepsearch.jina.ai/v1")),
        ("local", OpenAICompatible("local", "http://127.0.0.1:11434/v1")),
        ("aihubmix", AIHubMix("aihubmix", "https://aihubmix.com/v1")),
    ]


def test_an_upstream_without_a_key_is_not_used() -> None:
    given = settings(upstreams={"jina": {"api_key": "jina-key-of-ours"}})
    assert list(build_upstreams(given)) == ["jina"]
    assert ways(given, "jina-embeddings-v3") == [("jina", "jina-embeddings-v3", "jina-key-of-ours")]


def test_the_order_of_the_upstreams_is_the_order_of_the_targets() -> None:
    turned = settings(upstreams={"aihubmix": {"api_key": "a-key"}, "jina": {"api_key": "j-key"}})
    assert ways(turned, "jina-embeddings-v3") == [
        ("aihubmix", "jina-embeddings-v3", "a-key"),
        ("jina", "jina-embeddings-v3", "j-key"),
    ]


def test_two_accounts_of_one_kind_both_serve_its_models() -> None:
    given = settings(upstreams={"jina": {"api_key": "one"}, "jina-eu": {"kind": "jina", "api_key": "two"}})
    assert [key for _, _, key in ways(given, "jina-embeddings-v4")] == ["one", "two"]
    assert ways(given, "jina-eu/jina-embeddings-v4") == [("jina-eu", "jina-embeddings-v4", "two")]


def test_unknown_models_go_to_the_first_that_sells_more_than_a_catalogue() -> None:
    assert ways(settings(), "gpt-4o") == [("local", "gpt-4o", "local-key")]
    assert ways(settings(unknown_models_upstream="aihubmix"), "gpt-4o")[0][0] == "aihubmix"
    with pytest.raises(ModelNotFound):
        build_routes(settings(unknown_models_upstream=None)).find("gpt-4o")


def test_a_model_may_be_reordered_and_its_limits_changed() -> None:
    given = settings(models={"jina-embeddings-v3": {"targets": ["aihubmix", "jina"], "max_inputs": 100, "tasks": []}})
    assert [name for name, _, _ in ways(given, "jina-embeddings-v3")] == ["aihubmix", "jina"]
    model = build_routes(given).find("jina-ai/jina-embeddings-v3").model
    assert (model.max_inputs, model.tasks, model.dimensions) == (100, (), 1024)


def test_limits_may_be_changed_without_naming_targets() -> None:
    given = settings(models={"jina-reranker-m0": {"max_inputs": 100}})
    assert [name for name, _, _ in ways(given, "jina-reranker-m0")] == ["jina", "aihubmix"]
    assert build_routes(given).find("jina-reranker-m0").model.max_inputs == 100


def test_a_model_of_ones_own() -> None:
    own = {
        "targets": [{"upstream": "local", "model": "bge-m3"}, "aihubmix/BAAI/bge-m3"],
        "endpoints": ["embeddings"],
        "dimensions": 1024,
    }
    given = settings(models={"my-embeddings": own})
    assert ways(given, "my-embeddings") == [
        ("local", "bge-m3", "local-key"),
        ("aihubmix", "BAAI/bge-m3", "aihubmix-key-of-ours"),
    ]
    model = build_routes(given).find("my-embeddings").model
    assert (model.id, model.endpoints, model.dimensions) == ("my-embeddings", ("embeddings",), 1024)


def test_a_known_model_under_another_name_keeps_what_is_known_of_it() -> None:
    given = settings(models={"search": {"targets": [{"upstream": "jina", "model": "jina-embeddings-v3"}]}})
    model = build_routes(given).find("search").model
    assert model.dimensions == 1024
    assert build_routes(given).find("jina/jina-embeddings-v3").model == CATALOGUE["jina-embeddings-v3"].model


def test_a_model_whose_upstreams_have_no_key_is_not_there() -> None:
    given = settings(
        upstreams={"jina": {"api_key": "jina-key-of-ours"}},
        models={"mine": {"targets": ["aihubmix"]}, "other": "aihubmix/gpt-4o"},
    )
    names = {model["id"] for model in build_routes(given).models()}
    assert not names & {"mine", "other"}


def test_aliases_and_removals_come_from_the_settings() -> None:
    routes = build_routes(settings(models={"text-embedding-3-small": "jina-embeddings-v3", "jina-clip-v1": None}))
    assert routes.describe("text-embedding-3-small")["alias_of"] == "jina-embeddings-v3"
    assert "jina-clip-v1" not in {model["id"] for model in routes.models()}


def test_callers_by_key_by_hash_and_the_default_one() -> None:
    callers = build_callers(
        settings(
            callers=[
                {"name": "a", "key": "0123456789abcdef-a"},
                {"name": "b", "sha256": digest("0123456789abcdef-b").hex().upper()},
            ],
            caller_key="0123456789abcdef-c",
        )
    )
    for letter, name in (("a", "a"), ("b", "b"), ("c", "default")):
        assert callers.check({b"api-key": [f"0123456789abcdef-{letter}".encode()]}) == Caller(name, name)
    with pytest.raises(Unauthorized):
        callers.check({b"authorization": [b"Bearer "]})
    assert build_callers(settings()).open


APIS = {"reader": 500, "search": 100, "classify": 200, "classify_tokens": 500_000}
APIS |= {"train": 20, "train_tokens": 200_000, "segment": 200}
MORE = {"reader": 5000, "search": 1000, "classify": 1000, "classify_tokens": 3_000_000}
MORE |= {"train": 60, "train_tokens": 1_000_000, "segment": 1000}
FREE, PAID = RateLimits(500, 10**6, 50, 5, apis=APIS), RateLimits(500, 10**7, 50, 50, apis=APIS)
PREMIUM = RateLimits(5000, 10**8, 500, 500, apis=MORE)


@pytest.mark.parametrize(
    ("upstream", "key", "limits"),
    [
        ({}, {}, RateLimits()),
        ({"tier": "free"}, {}, FREE),
        ({"tier": "free"}, {"tier": "paid"}, PAID),
        ({}, {"tier": "premium"}, PREMIUM),
        ({"tier": "free", "limits": {"reader_per_minute": 7}}, {}, replace(FREE, apis={**APIS, "reader": 7})),
        ({"tier": "free", "limits": {"concurrency": 2}}, {}, replace(FREE, concurrency=2)),
        ({"tier": "free", "limits": {"concurrency": 2}}, {"tier": "paid"}, PAID),
        ({"tier": "free"}, {"tier": "paid", "limits": {"tokens_per_minute": 7}}, replace(PAID, tokens=7)),
        ({"limits": {"concurrency": 2}}, {"limits": {"requests_per_minute": 3}}, RateLimits(requests=3, concurrency=2)),
    ],
)
def test_each_limit_is_the_nearest_that_is_said(upstream: Any, key: Any, limits: RateLimits) -> None:
    given = settings(upstreams={"jina": {**upstream, "api_keys": [{"key": "a-key", **key}]}})
    assert build_keys(given, "jina") == [(Key("a-key", "jina"), limits)]


def test_all_secrets_and_hosts_are_named_for_the_redactor() -> None:
    own = {"caller_key": "0123456789abcdef-c", "operator_key": "0123456789abcdef-o"}
    given = settings(callers=[{"name": "a", "key": "0123456789abcdef-a"}], **own)
    assert secrets(given) == [
        "jina-key-of-ours",
        "local-key",
        "aihubmix-key-of-ours",
        "0123456789abcdef-a",
        "0123456789abcdef-c",
        "0123456789abcdef-o",
    ]
    assert hosts(given) == [
        *("127.0.0.1", "aihubmix.com", "api.jina.ai", "deepsearch.jina.ai"),
        *("r.jina.ai", "s.jina.ai", "svip.jina.ai"),
    ]


def test_in_the_sandbox_nothing_leaves_the_machine() -> None:
    given = in_sandbox(settings(models={"search": "jina-embeddings-v3"}), URLS)
    assert given.sandbox == "on"
    assert list(build_upstreams(given).values()) == [
        Jina(
            *("jina", URLS["jina"], URLS["deepsearch"]),
            *(URLS.get(name, URLS["jina"]) for name in ("reader", "search", "svip")),
        ),
        AIHubMix("aihubmix", URLS["aihubmix"]),
    ]
    assert ways(given, "search") == [
        ("jina", "jina-embeddings-v3", SANDBOX_KEY),
        ("aihubmix", "jina-embeddings-v3", SANDBOX_KEY),
    ]
    assert ways(given, "gpt-4o") == [("aihubmix", "gpt-4o", SANDBOX_KEY)]
    assert set(secrets(given)) == {SANDBOX_KEY}
    assert hosts(given) == ["127.0.0.1"]


def test_the_sandbox_needs_no_keys() -> None:
    given = in_sandbox(Settings(sandbox="auto"), URLS)
    assert {model["id"] for model in build_routes(given).models()} == set(CATALOGUE) - {"jina-svip"}
    given = given.model_copy(update={"svip": True})
    assert {model["id"] for model in build_routes(given).models()} == set(CATALOGUE)


def test_a_random_key_is_made_only_where_it_is_asked_for_and_needed() -> None:
    for given in (
        settings(host="0.0.0.0"),
        settings(generate_caller_key=True),
        settings(host="0.0.0.0", generate_caller_key=True, caller_key="0123456789abcdef-c"),
    ):
        assert with_caller_key(given) == (given, None)
    made, key = with_caller_key(settings(host="0.0.0.0", generate_caller_key=True))
    assert key is not None
    assert key not in repr(made)
    assert build_callers(made).check({b"x-api-key": [key.encode()]}) == Caller("default", "default")


def test_a_gateway_that_cannot_see_its_keys_does_not_start_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    file = tmp_path / "torii" / "torii.db"
    file.mkdir(parents=True)
    with pytest.raises(StoreError, match="it is not a regular file"):
        open_ledger(settings())
    closed = settings(caller_key="0123456789abcdef-c")
    assert open_ledger(closed)[1].startswith("none, calls are not recorded:")
    file.rmdir()
    file.parent.rmdir()
    file.parent.touch()
    assert open_ledger(settings())[1].startswith("none, calls are not recorded:")
