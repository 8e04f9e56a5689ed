"""POST /v1/rerank and /v2/rerank: Jina's and Cohere's requests in one form, the reply in theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.core.errors import InvalidRequest
from app.core.types import Json, Key, Model, RerankCall, Target
from app.endpoints import Endpoint
from app.endpoints.rerank import Rerank
from app.upstreams import AIHubMix, Jina

WIRE = Path(__file__).parents[1] / "wire"
MODEL = Model(id="jina-reranker-v3", endpoints=("rerank",))
TARGET = Target(Jina(), MODEL, "jina-reranker-v3", Key("k" * 20))


def parse(path: str = "/rerank", **body: Any) -> RerankCall:
    return Rerank().parse({"model": "m", "query": "q", "documents": ["a", "b"], **body}, path)


def refusal(**body: Any) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        parse(**body)
    return caught.value.message, caught.value.param


def answer(call: RerankCall, body: bytes) -> Json:
    endpoint: Endpoint = Rerank()
    call = replace(call, id="1")
    reply = endpoint.merge(call, [TARGET.upstream.reply(call, TARGET, body)])
    return msgspec.json.decode(endpoint.render(call, reply), type=dict[str, Any])


def ranked(*scores: float, **more: Any) -> bytes:
    results = [{"index": place, "relevance_score": score} for place, score in enumerate(scores)]
    return msgspec.json.encode({"model": "jina-reranker-v3", "results": results, "usage": {"total_tokens": 7}, **more})


# --- requests -----------------------------------------------------------------------------------


def test_jinas_request_becomes_the_canonical_one() -> None:
    call = parse(top_n=1, return_documents=False, max_doc_length=100, return_embeddings=True, new_option=[1])
    assert call == RerankCall(
        model="m",
        body={"query": "q", "documents": ["a", "b"], "return_embeddings": True, "new_option": [1]},
        documents=["a", "b"],
        top_n=1,
        return_documents=False,
        max_doc_length=100,
    )


def test_coheres_second_version_gives_no_documents_unless_asked() -> None:
    call = parse("/v2/rerank", max_tokens_per_doc=4096)
    assert (call.return_documents, call.cohere, call.max_doc_length) == (False, True, 4096)
    assert parse("/v2/rerank", return_documents=True).return_documents is True
    assert parse("/rerank").return_documents is True
    assert parse("/rerank", return_documents=None).return_documents is True
    assert parse("/v1/rerank").cohere is False


def test_coheres_first_version_ranks_by_the_fields_that_it_names() -> None:
    documents = [{"title": "T", "text": "x", "year": 1999}, {"title": "U", "text": None}]
    call = parse(documents=documents, rank_fields=["title", "text", "year"], max_chunks_per_doc=10)
    assert call.body == {"query": "q", "documents": ["T\nx\n1999", "U"], "max_chunks_per_doc": 10}
    assert call.documents == documents
    assert call.max_doc_length is None
    assert refusal(documents=[{"a": "b"}], rank_fields=["title"]) == (
        "documents[0] has none of the fields of rank_fields",
        "rank_fields",
    )
    assert refusal(rank_fields="title")[1] == "rank_fields"


@pytest.mark.parametrize(
    ("documents", "upstream"),
    [
        (["a", "b"], ["a", "b"]),
        ([{"text": "a"}, "b"], ["a", "b"]),
        ([{"text": "a", "id": 7}], ["a"]),
        ([{"image": "i"}, "b", {"text": "c"}], [{"image": "i"}, {"text": "b"}, {"text": "c"}]),
        ([{"video": "v"}], [{"video": "v"}]),
    ],
)
def test_documents_go_up_in_one_form_and_are_kept_for_the_way_back(documents: list[Any], upstream: list[Any]) -> None:
    call = parse(documents=documents)
    assert call.body["documents"] == upstream
    assert call.documents == documents


def test_a_query_is_a_text_or_an_image() -> None:
    assert parse(query={"text": "q"}).body["query"] == "q"
    assert parse(query={"image": "i"}).body["query"] == {"image": "i"}
    for wrong in ("", {}, 7, ["q"], {"text": ""}):
        assert refusal(query=wrong) == ("query must be a non-empty text or {'image': ...}", "query")
    assert refusal(query=None) == ("query is missing: send a text or {'image': ...}", "query")


def test_documents_that_are_none_are_named() -> None:
    assert refusal(documents=[]) == ("documents must be a list of at least one document", "documents")
    assert refusal(documents="a") == ("documents must be a list of at least one document", "documents")
    assert refusal(documents=["a", 7]) == ("documents[1] must be a string or an object", "documents")
    assert refusal(documents=["a", {}]) == ("documents[1] must be a string or an object", "documents")


def test_top_n_is_absent_or_null_or_a_whole_number() -> None:
    assert parse(top_n=None).top_n is None
    assert parse(top_k=2).top_n == 2
    assert parse(top_n=1, top_k=2).top_n == 1
    for wrong in (0, -1, 1.5, True, "3"):
        assert refusal(top_n=wrong) == ("top_n must be a whole number of at least 1", "top_n")
    assert refusal(max_tokens_per_doc=0)[1] == "max_tokens_per_doc"
    assert refusal(return_documents="yes") == ("return_documents must be true or false", "return_documents")


def test_trap_01_aihubmixs_own_mistaken_request_is_told_where_to_go() -> None:
    body = msgspec.json.decode((WIRE / "aihubmix" / "embeddings-text-sent-to-rerank.request.json").read_bytes())
    with pytest.raises(InvalidRequest) as caught:
        Rerank().parse(body, "/rerank")
    assert caught.value.envelope() == {
        "error": {
            "message": "documents is missing. This looks like a request for POST /v1/embeddings",
            "type": "invalid_request_error",
            "param": "documents",
            "code": "invalid_request",
        },
        "detail": "documents is missing. This looks like a request for POST /v1/embeddings",
    }


def test_a_chat_sent_here_is_told_where_to_go() -> None:
    with pytest.raises(InvalidRequest, match="This looks like a request for POST /v1/chat/completions"):
        Rerank().parse({"model": "m", "messages": []}, "/rerank")
    with pytest.raises(InvalidRequest, match="documents is missing: send a list of strings"):
        Rerank().parse({"model": "m", "query": "q"}, "/rerank")


# --- replies ------------------------------------------------------------------------------------


def test_an_answer_without_documents_gets_them_from_the_request() -> None:
    assert answer(parse(documents=["a", {"text": "b", "id": 2}]), ranked(0.25, 0.75)) == {
        "id": "rerank-1",
        "object": "list",
        "model": "m",
        "results": [
            {"index": 1, "relevance_score": 0.75, "document": {"text": "b", "id": 2}},
            {"index": 0, "relevance_score": 0.25, "document": {"text": "a"}},
        ],
        "usage": {"total_tokens": 7, "prompt_tokens": 7},
    }


def test_coheres_answer_has_its_meta_and_no_documents() -> None:
    assert answer(parse("/v2/rerank"), ranked(0.75, 0.25)) == {
        "id": "rerank-1",
        "object": "list",
        "model": "m",
        "results": [{"index": 0, "relevance_score": 0.75}, {"index": 1, "relevance_score": 0.25}],
        "usage": {"total_tokens": 7, "prompt_tokens": 7},
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }


def test_trap_09_documents_are_objects_whatever_the_upstream_sent() -> None:
    call = parse(documents=["first", "second"])
    body = (WIRE / "jina" / "rerank-v2-string-documents.reply.json").read_bytes()
    assert [result["document"] for result in answer(call, body)["results"]] == [{"text": "second"}, {"text": "first"}]
    assert all("document" not in result for result in answer(replace(call, return_documents=False), body)["results"])


def test_trap_09_scores_below_zero_go_back_byte_for_byte() -> None:
    call = parse(documents=["a", "b", "c", "d"], return_documents=False)
    endpoint: Endpoint = Rerank()
    body = (WIRE / "jina" / "rerank-v3.reply.json").read_bytes()
    rendered = endpoint.render(call, endpoint.merge(call, [TARGET.upstream.reply(call, TARGET, body)]))
    assert rendered == (
        b'{"id":"rerank-","object":"list","model":"m","usage":{"total_tokens":312,"prompt_tokens":312},"results":['
        b'{"index":2,"relevance_score":0.41230001,"embedding":[0.5,0.25]},'
        b'{"index":0,"relevance_score":0.40128118,"embedding":[0.5,0.5]},'
        b'{"index":1,"relevance_score":0.3,"embedding":[0.25,0.5]},'
        b'{"index":3,"relevance_score":-0.00312500,"embedding":[0.1,0.5]}]}'
    )


def test_trap_09_aihubmixs_printed_answer_is_completed() -> None:
    """Three results for nine documents, no object, no documents: as on AIHubMix's page."""
    request = msgspec.json.decode((WIRE / "aihubmix" / "rerank-multimodal.request.json").read_bytes())
    call = replace(Rerank().parse(request, "/rerank"), id="1")
    target = Target(AIHubMix(), MODEL, "jina-reranker-m0", Key("k" * 20))
    body = (WIRE / "aihubmix" / "rerank-multimodal.reply.json").read_bytes()
    endpoint: Endpoint = Rerank()
    rendered = endpoint.render(call, endpoint.merge(call, [target.upstream.reply(call, target, body)]))
    assert msgspec.json.decode(rendered) == {
        "id": "rerank-1",
        "object": "list",
        "model": "jina-reranker-m0",
        "results": [
            {"index": 1, "relevance_score": 0.8814517277012487, "document": request["documents"][1]},
            {"index": 3, "relevance_score": 0.7756727858283531, "document": request["documents"][3]},
            {"index": 7, "relevance_score": 0.6128658982982312, "document": request["documents"][7]},
        ],
        "usage": {"total_tokens": 2894, "prompt_tokens": 2894},
    }
    assert b"0.8814517277012487" in rendered


def test_trap_10_top_n_holds_where_the_upstream_ignored_it() -> None:
    call = parse(documents=["a", "b", "c"], top_n=2, return_documents=False)
    assert answer(call, ranked(0.1, 0.5, 0.3))["results"] == [
        {"index": 1, "relevance_score": 0.5},
        {"index": 2, "relevance_score": 0.3},
    ]


def test_equal_scores_keep_the_upstreams_order() -> None:
    call = parse(documents=["a", "b", "c"], return_documents=False)
    assert [result["index"] for result in answer(call, ranked(0.5, 0.5, 0.5))["results"]] == [0, 1, 2]


def test_fields_that_nobody_knows_stay() -> None:
    rendered = answer(parse(), ranked(0.5, 0.4, new_field={"a": 1}, id="upstream's", meta={"x": 1}))
    assert rendered["new_field"] == {"a": 1}
    assert rendered["id"] == "rerank-1"
    assert "meta" not in rendered


def test_what_the_upstream_says_of_a_document_is_left_out() -> None:
    """Also in a result with unknown fields, which stay."""
    items = [{"index": 0, "relevance_score": 0.5, "document": "theirs", "new_field": 1}]
    for kept, left_out in ((1, items), (0, [{k: v for k, v in items[0].items() if k != "new_field"}])):
        [result] = answer(parse(documents=["mine"]), ranked(results=left_out))["results"]
        assert result["document"] == {"text": "mine"}
        assert result.get("new_field", 0) == kept


def test_documents_are_never_ranked_in_parts() -> None:
    call = parse(documents=["a"] * 2000)
    assert Rerank().split(call, 512) == [call]


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.integers(1, 40))
def test_any_scores_come_back_sorted_with_their_own_documents(scores: list[float], top_n: int) -> None:
    call = parse(documents=[f"d{place}" for place in range(len(scores))], top_n=top_n)
    results = answer(call, ranked(*scores))["results"]
    assert [result["relevance_score"] for result in results] == sorted(scores, reverse=True)[:top_n]
    assert all(result["document"] == {"text": f"d{result['index']}"} for result in results)
    assert all(scores[result["index"]] == result["relevance_score"] for result in results)
