"""Classify, train, segment: what is taken, what is refused, and what a split call looks like."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from app.core.classifiers import ClassifyCall, SegmentCall, TrainCall
from app.core.errors import InvalidRequest
from app.core.types import Json
from app.endpoints import Endpoint
from app.endpoints.classify import Classify
from app.endpoints.segment import Segment
from app.endpoints.train import Train

MODEL = "jina-embeddings-v3"
EXAMPLES = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


def classified(**body: Any) -> ClassifyCall:
    return Classify().parse({"model": MODEL, "input": ["t"], "labels": ["a", "b"], **body}, "/v1/classify")


def trained(**body: Any) -> TrainCall:
    return Train().parse({"model": MODEL, "input": EXAMPLES, **body}, "/v1/train")


def refused(endpoint: Endpoint, **body: Any) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as error:
        endpoint.parse(body, endpoint.paths[0])
    return error.value.param, error.value.message


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("t", ["t"]),
        ({"text": "t"}, ["t"]),
        (["t", {"text": "u"}], ["t", "u"]),
        ({"image": "https://a.example/b.png"}, [{"image": "https://a.example/b.png"}]),
        (
            [{"image": "aGk="}, {"url": "https://a.example/b.png"}],
            [{"image": "aGk="}, {"url": "https://a.example/b.png"}],
        ),
    ],
)
def test_inputs_become_a_list(given: Any, inputs: list[Any]) -> None:
    assert classified(input=given).body["input"] == inputs


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"input": ["t"], "labels": ["a"]}, "model", "model is missing: send a model"),
        ({"model": MODEL, "labels": ["a"]}, "input", "input is missing"),
        ({"model": MODEL, "input": [], "labels": ["a"]}, "input", "input is an empty list"),
        ({"model": MODEL, "input": "", "labels": ["a"]}, "input", "input is empty"),
        ({"model": MODEL, "input": ["t", {}], "labels": ["a"]}, "input", "input[1] is empty"),
        ({"model": MODEL, "input": ["t", 3], "labels": ["a"]}, "input", "input[1] must be a text"),
        ({"model": MODEL, "input": ["t", {"image": "x"}], "labels": ["a"]}, "input", "input holds texts and images"),
        ({"model": MODEL, "input": [{"text": "t", "image": "x"}], "labels": ["a"]}, "input", "input[0] is both"),
        ({"model": MODEL, "input": ["t"]}, "labels", "labels is missing"),
        ({"model": MODEL, "input": ["t"], "labels": []}, "labels", "labels is empty"),
        ({"model": MODEL, "input": ["t"], "labels": {}}, "labels", "labels is empty"),
        ({"model": MODEL, "input": ["t"], "labels": "a"}, "labels", "labels must be a list of labels"),
        ({"model": MODEL, "input": ["t"], "labels": ["a", ""]}, "labels", "labels[1] must be a text"),
        ({"model": MODEL, "input": ["t"], "labels": ["a"] * 513}, "labels", "labels has 513 labels; at most 512"),
        ({"model": MODEL, "input": ["t"], "labels": {"g": []}}, "labels", "labels.g is empty"),
        ({"model": MODEL, "input": ["t"], "labels": {"g": ["a"] * 65}}, "labels", "labels.g has 65 labels; at most 64"),
        (
            {"model": MODEL, "input": ["t"], "labels": {str(number): ["a"] for number in range(9)}},
            "labels",
            "labels has 9 groups; at most 8",
        ),
        ({"classifier_id": "c", "input": ["t"], "labels": ["a"]}, "labels", "labels are for a call with a model"),
        ({"classifier_id": "", "input": ["t"]}, "classifier_id", "classifier_id must be the id"),
        ({"classifier_id": 7, "input": ["t"]}, "classifier_id", "classifier_id must be the id"),
    ],
)
def test_a_classification_that_cannot_be_asked_for(body: Json, param: str, message: str) -> None:
    said = refused(Classify(), **body)
    assert (said[0], said[1][: len(message)]) == (param, message)


def test_the_most_labels_are_taken() -> None:
    assert len(classified(labels=[str(number) for number in range(512)]).body["labels"]) == 512
    groups = {str(group): [str(label) for label in range(64)] for group in range(8)}
    assert classified(labels=groups).body["labels"] == groups


def test_a_key_in_the_body_goes_nowhere() -> None:
    assert "_token" not in classified(_token="jina_secret").body
    assert "_token" not in Segment().parse({"content": "a", "_token": "jina_secret"}, "/v1/segment").body


def test_700_inputs_are_512_and_188_and_come_back_as_one() -> None:
    call = classified(input=[str(number) for number in range(700)])
    parts = Classify().split(call, None)
    assert [len(part.body["input"]) for part in parts] == [512, 188]
    assert all(part.body["labels"] == ["a", "b"] for part in parts)
    replies = [
        {
            "data": [{"index": place, "prediction": text, "score": 1} for place, text in enumerate(part.body["input"])],
            "usage": {"total_tokens": tokens},
        }
        for part, tokens in zip(parts, (5, 7), strict=True)
    ]
    merged = msgspec.json.decode(Classify().render(call, Classify().merge(call, replies)))
    assert merged["usage"] == {"total_tokens": 12}
    assert [(item["index"], item["prediction"]) for item in merged["data"]] == [(n, str(n)) for n in range(700)]


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"input": EXAMPLES}, "model", "model is missing"),
        ({"model": MODEL}, "input", "input is missing"),
        ({"model": MODEL, "input": EXAMPLES[:1]}, "input", "input has 1 example; at least 2"),
        ({"model": MODEL, "input": EXAMPLES[:1] * 2}, "input", "input has examples of one label only"),
        ({"model": MODEL, "input": EXAMPLES * 257}, "input", "input has 514 examples; at most 512"),
        ({"model": MODEL, "input": EXAMPLES[0]}, "input", "input must be a list of"),
        ({"model": MODEL, "input": [*EXAMPLES, "t"]}, "input", "input[2] must be {'text'"),
        ({"model": MODEL, "input": [*EXAMPLES, {"text": "t"}]}, "input", "input[2].label must be a text"),
        ({"model": MODEL, "input": [*EXAMPLES, {"label": "x"}]}, "input", "input[2] is empty"),
        ({"model": MODEL, "input": EXAMPLES, "num_iters": 0}, "num_iters", "num_iters must be a whole number"),
        ({"model": MODEL, "input": EXAMPLES, "num_iters": 10**30}, "num_iters", "num_iters must be at most 10,000"),
        ({"model": MODEL, "input": EXAMPLES, "access": "all"}, "access", "access must be one of private, public"),
        ({"model": MODEL, "input": EXAMPLES, "access": "public"}, "access", "access must be private"),
        ({"classifier_id": "c", "input": []}, "input", "input has 0 examples; at least 1"),
        ({"classifier_id": "c", "input": EXAMPLES, "access": "private"}, "access", "access can be chosen for a new"),
    ],
)
def test_a_training_that_cannot_be_asked_for(body: Json, param: str, message: str) -> None:
    said = refused(Train(), **body)
    assert (said[0], said[1][: len(message)]) == (param, message)


def test_a_new_classifier_is_private_unless_both_say_otherwise() -> None:
    assert trained().body["access"] == "private"
    public = Train(public=True)
    assert public.parse({"model": MODEL, "input": EXAMPLES}, "/v1/train").body["access"] == "private"
    assert public.parse({"model": MODEL, "input": EXAMPLES, "access": "public"}, "/v1/train").body["access"] == "public"


def test_further_examples_need_no_second_label() -> None:
    call = Train().parse({"classifier_id": "c", "input": EXAMPLES[0]}, "/v1/train")
    assert (call.classifier, call.body, call.passes) == ("c", {"input": EXAMPLES[:1]}, 10)
    assert trained(num_iters=3).passes == 3


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "content", "content is missing"),
        ({"content": ""}, "content", "content must be a text that is not empty"),
        ({"content": ["a"]}, "content", "content must be a text"),
        ({"content": "a" * 64_000}, "content", "content has 64,000 characters"),
        ({"content": "🚀" * 32_000}, "content", "content has 64,000 characters"),
        ({"content": "a", "tokenizer": "cl100k"}, "tokenizer", "tokenizer must be one of cl100k_base, o200k_base"),
        ({"content": "a", "return_chunks": "yes"}, "return_chunks", "return_chunks must be true or false"),
        ({"content": "a", "max_chunk_length": 0}, "max_chunk_length", "max_chunk_length must be a whole number"),
        ({"content": "a", "head": 1, "tail": 1}, "tail", "head and tail exclude each other"),
    ],
)
def test_a_text_that_cannot_be_segmented(body: Json, param: str, message: str) -> None:
    said = refused(Segment(), **body)
    assert (said[0], said[1][: len(message)]) == (param, message)


def test_the_fields_of_a_query_have_the_types_of_a_body() -> None:
    fields = {"content": "1", "return_chunks": "true", "return_tokens": "0", "head": "12", "tokenizer": "gpt2"}
    body = Segment().from_query(fields)
    assert body == {"content": "1", "return_chunks": True, "return_tokens": False, "head": 12, "tokenizer": "gpt2"}
    call = Segment().parse(body, "/v1/segment")
    assert isinstance(call, SegmentCall)
    assert refused(Segment(), **Segment().from_query({"content": "a", "head": "-1"}))[0] == "head"
