"""The identity of calls: any difference that matters gives another digest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.cache.digests import INDEPENDENT_OPTIONS, keys_of
from app.cache.entries import CacheEntry, unpacked
from app.cache.merge import Partition
from app.core.types import Call, Json, Key, Target
from app.core.usage import shares
from app.core.vectors import read
from app.endpoints.embeddings import Embeddings
from app.endpoints.rerank import Rerank
from app.upstreams import KINDS
from app.upstreams.catalogue import unlisted

URL = "https://host.example/v1"
UNKNOWN = "jina-embeddings-v9"  # this model is sent every option
EMBED: Json = {
    "model": "m",
    "input": ["a", "b"],
    "task": "text-matching",
    "dimensions": 8,
    "a_new_field": {"x": [1, None]},
}
RERANK: Json = {"model": "m", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1, "max_doc_length": 9}

values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**30) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from([*sorted(INDEPENDENT_OPTIONS - {"encoding_format"}), "late_chunking", "a_new_field", "seed"])
texts = st.text(min_size=1)
kinds = pytest.mark.parametrize("kind", KINDS)


def target(kind: str = "jina", model: str = "jina-embeddings-v3", url: str = URL) -> Target:
    return Target(KINDS[kind]("name", url), unlisted(model), model, Key("k"))


def embed(body: Json) -> Call:
    return Embeddings().parse(body, "/v1/embeddings")


def rank(body: Json) -> Call:
    return Rerank().parse(body, "/v1/rerank")


def differs(one: Any, other: Any) -> bool:
    """True differs from 1, and 1 from 1.0, for some readers."""
    return msgspec.json.encode(one, order="deterministic") != msgspec.json.encode(other, order="deterministic")


def may_be(name: str, value: Any) -> bool:
    """Null counts as absent, and a size must be an integer above 0."""
    return value is not None and (name != "dimensions" or (type(value) is int and value > 0))


@kinds
@given(name=names, value=values)
def test_any_option_that_changes_makes_it_another_call(kind: str, name: str, value: Any) -> None:
    changed = {**EMBED, name: value}
    assume(differs(changed, EMBED) and may_be(name, value))
    there = target(kind, UNKNOWN)
    assert not set(keys_of(embed(EMBED), there)) & set(keys_of(embed(changed), there))


@kinds
@given(name=names, value=values)
def test_an_option_that_is_left_out_is_not_one_that_is_given(kind: str, name: str, value: Any) -> None:
    assume(may_be(name, value))
    without = {field: given for field, given in EMBED.items() if field != name}
    there = target(kind, UNKNOWN)
    assert not set(keys_of(embed(without), there)) & set(keys_of(embed({**without, name: value}), there))


@kinds
@pytest.mark.parametrize("name", ["dimensions", "task", "late_chunking", "a_new_field", "user"])
def test_null_is_the_same_as_nothing(kind: str, name: str) -> None:
    without = {field: given for field, given in EMBED.items() if field != name}
    assert keys_of(embed({**without, name: None}), target(kind)) == keys_of(embed(without), target(kind))


options = st.fixed_dictionaries(
    {},
    optional={
        "dimensions": st.sampled_from([64, 768]),
        "return_multivector": st.just(False),
        "late_chunking": st.just(False),
        "normalized": st.booleans(),
        "truncate": st.booleans(),
        "input_type": st.just("document"),
        "user": st.text(max_size=1),
    },
)


@kinds
@pytest.mark.parametrize("model", ["jina-embeddings-v3", "jina-clip-v2", "a-new-one"])
@given(one=options, other=options)
def test_keys_are_equal_exactly_where_the_bodies_are(kind: str, model: str, one: Json, other: Json) -> None:
    """Fields that the translation drops do not matter."""
    there = target(kind, model)
    calls = [embed({"model": "m", "input": "a", **dict(sorted(given.items()))}) for given in (one, other)]
    sent = [there.upstream.request(call, there).body for call in calls]
    assert (keys_of(calls[0], there) == keys_of(calls[1], there)) is (sent[0] == sent[1])


@given(inputs=st.lists(texts, min_size=1, max_size=5), others=st.lists(texts, min_size=1, max_size=5))
def test_inputs_are_the_same_only_where_they_are_the_same_texts(inputs: list[str], others: list[str]) -> None:
    one = dict(zip(inputs, keys_of(embed({"model": "m", "input": inputs}), target()), strict=True))
    two = dict(zip(others, keys_of(embed({"model": "m", "input": others}), target()), strict=True))
    assert set(one.values()) & set(two.values()) == {one[text] for text in set(inputs) & set(others)}
    assert len(set(one.values())) == len(set(inputs))


@given(inputs=st.lists(texts, min_size=1, max_size=4), others=st.lists(texts, min_size=1, max_size=4))
def test_a_batch_is_the_same_only_where_all_of_it_is(inputs: list[str], others: list[str]) -> None:
    one, two = (keys_of(embed({"model": "m", "input": i, "late_chunking": True}), target()) for i in (inputs, others))
    assert len(one) == len(two) == 1
    assert (one == two) is (inputs == others)


def test_forms_of_unicode_are_different_texts() -> None:
    composed, decomposed = "é", "e\u0301"
    [one, two] = keys_of(embed({"model": "m", "input": [composed, decomposed]}), target())
    assert one != two


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"url": "https://x.example/a.png"}, {"image": "https://x.example/a.png"}, True),
        ({"image": "data:image/png;base64,aGk="}, {"image": "aGk="}, True),
        ({"image": "aGk="}, {"text": "aGk="}, False),
        ({"text": "a"}, "a", False),  # the two are sent differently
        ({"type": "text", "text": "a"}, {"text": "a"}, True),
        ({"type": "image_url", "image_url": {"url": "u"}}, {"image": "u"}, True),
        ({"type": "image_url", "image_url": {"url": "u"}}, {"text": "u"}, False),
        ({"text": "a", "id": 1}, {"id": 1, "text": "a"}, True),
    ],
)
def test_what_is_sent_alike_is_alike(one: Any, other: Any, same: bool) -> None:
    first, second = (keys_of(embed({"model": "m", "input": item}), target()) for item in (one, other))
    assert (first == second) is same


@pytest.mark.parametrize(
    "other",
    [
        target(model="jina-embeddings-v4"),
        target(url="https://other.example/v1"),
        target("aihubmix"),
        replace(target(), upstream=KINDS["openai"]("name", URL)),
    ],
)
def test_another_model_or_place_is_another_call(other: Target) -> None:
    here, there = keys_of(embed(EMBED), target()), keys_of(embed(EMBED), other)
    same_request = target().upstream.request(embed(EMBED), target()) == other.upstream.request(embed(EMBED), other)
    assert same_request is (here == there)


def test_what_changes_nothing_of_the_answer_changes_no_key() -> None:
    """The gateway makes the caller's encoding itself, does not send `user`, and any key gives the same answer."""
    body: Json = {"input": ["a", "b"], "model": "another-name-of-it", "dimensions": 8, "task": "text-matching"}
    here = keys_of(embed({"model": "m", "task": "text-matching", "dimensions": 8, "input": ["a", "b"]}), target())
    for more in ({"encoding_format": "base64"}, {"embedding_type": "ubinary", "user": "ann"}, {}):
        assert keys_of(embed({**body, **more}), replace(target(), key=Key("another"))) == here


def test_an_owner_has_keys_of_his_own() -> None:
    assert not set(keys_of(embed(EMBED), target(), "ann")) & set(keys_of(embed(EMBED), target(), "bob"))


@kinds
@given(name=st.sampled_from(["query", "top_n", "rank_fields", "max_doc_length", "a_new_field"]), value=values)
def test_any_change_of_what_a_ranker_is_sent_is_another_ranking(kind: str, name: str, value: Any) -> None:
    try:
        changed = rank({**RERANK, name: value})
    except Exception:  # noqa: BLE001 - no call at all
        assume(False)
    there = target(kind, "jina-reranker-v3")
    sent = there.upstream.request(changed, there).body == there.upstream.request(rank(RERANK), there).body
    assert (keys_of(changed, there) == keys_of(rank(RERANK), there)) is sent


@given(documents=st.lists(texts, min_size=1, max_size=4))
def test_documents_count_with_their_order(documents: list[str]) -> None:
    one, two = keys_of(rank(RERANK), target()), keys_of(rank({**RERANK, "documents": documents}), target())
    assert (one == two) is (documents == ["a", "b"])


def test_an_embedding_is_never_taken_for_a_ranking() -> None:
    body = {"model": "m", "input": "a", "query": "a", "documents": ["a"]}
    assert not set(keys_of(embed(body), target())) & set(keys_of(rank(body), target()))


@given(tokens=st.integers(0, 10**9), lengths=st.lists(st.integers(1, 10**6), min_size=1, max_size=50))
def test_shares_are_whole_and_come_to_the_sum(tokens: int, lengths: list[int]) -> None:
    parts = shares(tokens, lengths)
    assert sum(parts) == tokens
    assert all(abs(part - tokens * length / sum(lengths)) <= 1 for part, length in zip(parts, lengths, strict=True))


@given(st.binary(max_size=200))
def test_what_is_no_entry_is_none(value: bytes) -> None:
    assert unpacked(value, embed({"model": "m", "input": "a"}), target()) is None


def test_an_entry_comes_back_as_it_was() -> None:
    call, there = embed({"model": "m", "input": ["a"]}), target()
    head = {"object": b'"list"', "data": b"", "model": b'"m"', "usage": b""}
    entry = CacheEntry(head, [{"object": b'"embedding"', "index": b"0", "embedding": b"[0.10,-1E-7]"}], 5, 2)
    assert unpacked(entry.pack(), call, there) == entry
    assert unpacked(entry.pack()[:-1], call, there) is None


def test_a_ranking_that_was_kept_result_by_result_is_read_as_one_that_is_kept_together() -> None:
    """Earlier versions stored each result by itself, and files may still have such entries."""
    call = Rerank().parse({"model": "m", "query": "q", "documents": ["a", "b"]}, "/rerank")
    results = [
        {"index": 1, "relevance_score": msgspec.Raw(b"0.10")},
        {"index": 0, "relevance_score": msgspec.Raw(b"-1")},
    ]
    items = [{name: msgspec.json.encode(value) for name, value in result.items()} for result in results]
    found = Partition(call, target(), [b"key"], {})
    found.filled({"object": "list", "results": results, "model": "m", "usage": {"total_tokens": 3}}, target())
    head = {"object": b'"list"', "results": b"", "model": b'"m"', "usage": b""}
    before = unpacked(CacheEntry(head, items, 3).pack(), call, target())
    after = unpacked(found.fresh[b"key"].pack(), call, target())
    assert before == after == found.fresh[b"key"]
    assert found.fresh[b"key"].storable
    assert msgspec.json.encode(Partition(call, target(), [b"key"], {b"key": found.fresh[b"key"]}).hit().reply) == (
        b'{"object":"list","results":[{"index":1,"relevance_score":0.10},{"index":0,"relevance_score":-1}],'
        b'"model":"m","usage":{"total_tokens":0,"cached_tokens":3}}'
    )


def test_a_reply_to_the_rest_fills_every_gap_once() -> None:
    call = embed({"model": "m", "input": ["a", "b", "a", "c"]})
    keys = keys_of(call, target())
    found = Partition(
        call,
        target(),
        keys,
        {keys[1]: CacheEntry({"data": b"", "usage": b""}, [{"index": b"0", "embedding": b"[1]"}], 3, 1)},
    )
    assert found.rest.body["input"] == ["a", "c"]
    data = [{"index": place, "embedding": read(b"[%d]" % (place + 7), "float")} for place in range(2)]
    outcome = found.filled({"data": data, "usage": {"total_tokens": 10}}, target())
    assert msgspec.json.decode(msgspec.json.encode(outcome.reply)) == {
        "data": [{"index": place, "embedding": [number]} for place, number in enumerate([7, 1, 7, 8])],
        "usage": {"total_tokens": 10, "cached_tokens": 8},
    }
    assert (outcome.state, set(found.fresh)) == ("partial", {keys[0], keys[3]})
