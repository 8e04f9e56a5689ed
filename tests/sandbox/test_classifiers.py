"""The sandbox's classify, train, classifiers and segment at api.jina.ai: whole answers, limits, errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from app.sandbox import Sandbox
from app.sandbox.server import hosts, respond
from app.sandbox.tokenizers import TOKENIZERS
from app.sandbox.wire import Ask, Whole

V3 = "jina-embeddings-v3"
SEA = {"text": "high tide and the moon", "label": "sea"}
TEA = {"text": "green leaves in a pot", "label": "tea"}
BOTH = [SEA, TEA]


class Account:
    """api.jina.ai with one key."""

    def __init__(self, url: str, key: str) -> None:
        self.http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def train(self, **body: Any) -> str:
        answer = self.post("/train", **{"model": V3, "input": BOTH, **body})
        assert answer.status_code == 200, answer.text
        name: str = answer.json()["classifier_id"]
        return name

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.http.get("/classifiers").json()
        return found


@pytest.fixture
def fresh() -> Iterator[Sandbox]:
    """A sandbox of its own for tests that train, because what it keeps would be seen by others."""
    with Sandbox(pace=0) as running:
        yield running


@pytest.fixture
def ann(fresh: Sandbox) -> Iterator[Account]:
    account = Account(fresh.urls["jina"], "key-of-ann")
    with account.http:
        yield account


@pytest.fixture
def bob(fresh: Sandbox) -> Iterator[Account]:
    account = Account(fresh.urls["jina"], "key-of-bob")
    with account.http:
        yield account


@pytest.fixture(scope="module")
def jina(sandbox: Sandbox) -> Iterator[Account]:
    account = Account(sandbox.urls["jina"], "k")
    with account.http:
        yield account


# ------------------------------------------------------------------------- classify


def test_labels_in_a_list(jina: Account) -> None:
    answer = jina.post("/classify", model=V3, input=["the moon pulls the sea", "green tea"], labels=["moon", "tea"])
    assert answer.content == (
        b'{"data":[{"object":"classification","index":0,"prediction":"moon","score":0.89508165,"predictions":'
        b'[{"label":"moon","score":0.89508165},{"label":"tea","score":0.10491835}]},'
        b'{"object":"classification","index":1,"prediction":"tea","score":0.93895967,"predictions":'
        b'[{"label":"moon","score":0.06104033},{"label":"tea","score":0.93895967}]}],"usage":{"total_tokens":9}}'
    )


def test_labels_in_groups(jina: Account) -> None:
    [item] = jina.post("/classify", model=V3, input="tea", labels={"a": ["tea", "sea"], "b": ["x", True]}).json()[
        "data"
    ]
    assert item["prediction"] == {"a": "tea", "b": "x"}
    assert item["score"] == {"a": item["predictions"]["a"][0]["score"], "b": 0.5}
    assert item["predictions"]["b"] == [{"label": "x", "score": 0.5}, {"label": "true", "score": 0.5}]


def test_images_are_classified_by_clip_only(jina: Account) -> None:
    picture = {"image": "https://example.org/red-gate.png"}
    [item] = jina.post("/classify", model="jina-clip-v2", input=[picture], labels=["tea", "gate"]).json()["data"]
    assert item["prediction"] == "gate"
    assert jina.post("/classify", model=V3, input=[picture], labels=["tea", "gate"]).status_code == 422
    mixed = jina.post("/classify", model="jina-clip-v2", input=[picture, "tea"], labels=["tea", "gate"])
    assert (mixed.status_code, "cannot be mixed" in mixed.text) == (422, True)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"labels": []}, 400, "INPUT_INVALID_LABELS"),
        ({"labels": {}}, 400, "INPUT_INVALID_LABELS"),
        ({"labels": ["a", 1]}, 400, "INPUT_INVALID_LABELS"),
        ({"labels": [str(at) for at in range(513)]}, 400, "INPUT_LABEL_LIMIT_EXCEEDED"),
        ({"labels": {str(at): ["a"] for at in range(9)}}, 400, "INPUT_LABEL_LIMIT_EXCEEDED"),
        ({"labels": {"a": [str(at) for at in range(65)]}}, 400, "INPUT_LABEL_LIMIT_EXCEEDED"),
        ({"input": []}, 422, None),
        ({"input": ["a"] * 513}, 422, None),
        ({"extra": 1}, 422, None),
    ],
)
def test_what_cannot_be_classified(jina: Account, body: dict[str, Any], status: int, code: str | None) -> None:
    answer = jina.post("/classify", **{"model": V3, "input": ["a"], "labels": ["a", "b"], **body})
    assert (answer.status_code, answer.json().get("code")) == (status, code)


@pytest.mark.parametrize("model", ["jina-embeddings-v5-omni-small", "jina-colbert-v2", "elser-v2", "nonsense"])
def test_models_that_do_not_classify(jina: Account, model: str) -> None:
    answer = jina.post("/classify", model=model, input=["a"], labels=["a", "b"])
    assert (answer.status_code, answer.json()["detail"]["code"]) == (400, "INPUT_MODEL_NOT_FOUND")


# ---------------------------------------------------------------------------- train


def test_a_classifier_is_trained_used_listed_and_deleted(ann: Account) -> None:
    answer = ann.post("/train", model=V3, input=BOTH, access="private", num_iters=3)
    name = answer.json()["classifier_id"]
    assert answer.json() == {"classifier_id": name, "num_samples": 2, "usage": {"total_tokens": 30}}
    used = ann.post("/classify", classifier_id=name, input=["low tide"]).json()
    assert ([item["prediction"] for item in used["data"]], used["usage"]) == (["sea"], {"total_tokens": 2})
    more = ann.post("/train", classifier_id=name, input={"text": "bread in the oven", "label": "bread"}, num_iters=1)
    assert more.json() == {"classifier_id": name, "num_samples": 1, "usage": {"total_tokens": 4}}
    [shown] = ann.listed()
    times = {time: shown.pop(time) for time in ("created_at", "updated_at", "used_at")}
    assert all(times.values())
    assert len(shown.pop("user_id")) == 24
    assert shown == {
        "classifier_id": name,
        "model": V3,
        "labels": ["sea", "tea", "bread"],
        "access": "private",
        "updated_number": 1,
        "used_number": 1,
        "is_active": True,
        "is_latest": True,
        "metadata_": {},
    }
    assert ann.http.post("/classifiers").json() == ann.listed()
    assert ann.http.delete(f"/classifiers/{name}").json() == {"classifier_id": name, "status": "deleted"}
    assert ann.listed() == []


def test_a_private_classifier_is_there_for_its_account_only(ann: Account, bob: Account) -> None:
    private, public = ann.train(access="private"), ann.train()
    assert bob.listed() == []
    assert bob.post("/classify", classifier_id=public, input="tide").status_code == 200
    for answer in (
        bob.post("/classify", classifier_id=private, input="tide"),
        bob.post("/train", classifier_id=public, input=[SEA]),
        bob.http.delete(f"/classifiers/{public}"),
        bob.http.delete("/classifiers/nonsense"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "RESOURCE_NOT_FOUND")
        assert answer.json()["detail"] == "Classifier not found or access denied"
    assert len(ann.listed()) == 2


def test_an_account_has_at_most_16_classifiers(ann: Account, bob: Account) -> None:
    names = [ann.train() for _ in range(16)]
    answer = ann.post("/train", model=V3, input=BOTH)
    assert (answer.status_code, answer.json()["code"]) == (403, "AUTHZ_RESOURCE_LIMIT_EXCEEDED")
    bob.train()
    ann.http.delete(f"/classifiers/{names[0]}")
    ann.train()


@pytest.mark.parametrize(
    "body",
    [
        {"input": [SEA]},
        {"input": [SEA, SEA]},
        {"input": [SEA, {"text": "tea"}]},
        {"input": [SEA, TEA] * 257},
        {"access": "secret"},
        {"num_iters": 0},
        {"num_iters": "3"},
        {"input": [SEA, {"label": "tea"}]},
        {"labels": ["a"]},
    ],
)
def test_what_cannot_be_trained(jina: Account, body: dict[str, Any]) -> None:
    answer = jina.post("/train", **{"model": V3, "input": BOTH, **body})
    assert answer.status_code in (400, 422), answer.text
    assert jina.listed() == []


def test_an_update_changes_neither_model_nor_access(ann: Account) -> None:
    name = ann.train()
    for more in ({"model": V3}, {"access": "private"}):
        assert ann.post("/train", classifier_id=name, input=[SEA], **more).status_code == 422


def test_each_sandbox_has_classifiers_of_its_own(ann: Account) -> None:
    name = ann.train()
    with Sandbox(pace=0) as other:
        elsewhere = Account(other.urls["jina"], "key-of-ann")
        with elsewhere.http:
            assert elsewhere.post("/classify", classifier_id=name, input="tide").status_code == 404


@pytest.mark.parametrize(
    ("case", "status", "code"),
    [
        ("409", 409, "CONFLICT_RESOURCE_BUSY"),
        ("resource-limit", 403, "AUTHZ_RESOURCE_LIMIT_EXCEEDED"),
        ("404", 404, "RESOURCE_NOT_FOUND"),
    ],
)
def test_cases_in_what_is_trained_and_in_labels(jina: Account, case: str, status: int, code: str) -> None:
    trigger = f"sandbox:{case}"
    for answer in (
        jina.post("/train", model=V3, input=[SEA, {"text": trigger, "label": "tea"}]),
        jina.post("/classify", model=V3, input="a", labels=["a", trigger]),
        jina.post("/segment", content=trigger),
    ):
        assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_cases_that_spoil_the_list_of_classifications(jina: Account) -> None:
    body = {"model": V3, "input": ["a", "b", "sandbox:missing-item"], "labels": ["a", "b"]}
    assert [item["index"] for item in jina.post("/classify", **body).json()["data"]] == [1, 2]
    body["input"] = ["a", "sandbox:no-usage"]
    assert list(jina.post("/classify", **body).json()) == ["data"]


@pytest.mark.parametrize("path", ["/classify", "/train", "/classifiers"])
def test_a_key_is_needed(sandbox: Sandbox, path: str) -> None:
    answer = httpx.post(f"{sandbox.urls['jina']}{path}", json={})
    assert (answer.status_code, answer.json()["code"]) == (401, "AUTH_MISSING_API_KEY")


# -------------------------------------------------------------------------- segment

# The example of Jina's own documentation (meta-prompt v9), with its counts.
EXAMPLE = (
    "\n  Jina AI: Your Search Foundation, Supercharged! 🚀\n  Ihrer Suchgrundlage, aufgeladen! 🚀\n  "
    "您的搜索底座,从此不同!🚀\n  検索ベース,もう二度と同じことはありません!🚀\n"
)


def test_the_documented_example_has_its_documented_counts(jina: Account) -> None:
    found = jina.post("/segment", content=EXAMPLE, return_chunks=True, return_tokens=True).json()
    assert list(found) == [
        "num_tokens",
        "tokenizer",
        "usage",
        "num_chunks",
        "chunk_positions",
        "tokens",
        "chunks",
    ]
    assert (found["num_tokens"], found["tokenizer"], found["usage"]) == (78, "cl100k_base", {"tokens": 0})
    assert (found["num_chunks"], found["chunk_positions"]) == (4, [[3, 55], [55, 93], [93, 110], [110, 135]])
    assert found["chunks"][1] == "Ihrer Suchgrundlage, aufgeladen! 🚀\n  "
    assert found["tokens"][0][:3] == [["J", [41]], ["ina", [2259]], [" AI", [15592]]]
    assert ["🚀", [9468, 248, 222]] in found["tokens"][2]


def test_positions_are_utf_16_units(jina: Account) -> None:
    found = jina.post("/segment", content="🚀\nab", return_chunks=True).content
    assert found == (
        b'{"num_tokens":5,"tokenizer":"cl100k_base","usage":{"tokens":0},"num_chunks":2,'
        b'"chunk_positions":[[0,3],[3,5]],"chunks":["\xf0\x9f\x9a\x80\\n","ab"]}'
    )


def test_the_segmenter_counts_without_a_key_and_by_get(sandbox: Sandbox) -> None:
    answer = httpx.get(f"{sandbox.urls['jina']}/segment", params={"content": "Hello world"})
    assert answer.content == b'{"num_tokens":2,"tokenizer":"cl100k_base","usage":{"tokens":0}}'


def test_long_lines_are_cut_at_sentences_or_anywhere(jina: Account) -> None:
    text = "One two three. Four five six. " + "x" * 45
    found = jina.post("/segment", content=text, return_chunks=True, max_chunk_length=20).json()
    assert found["chunks"] == ["One two three. ", "Four five six. ", "x" * 20, "x" * 20, "x" * 5]
    assert "".join(found["chunks"]) == text


def test_head_and_tail(jina: Account) -> None:
    for end, text in (("head", "One two"), ("tail", " three four")):
        found = jina.post("/segment", content="One two three four", return_tokens=True, **{end: 2}).json()
        assert (found["num_tokens"], "".join(token for token, _ in found["tokens"])) == (2, text)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_every_tokenizer_keeps_the_text_whole(jina: Account, tokenizer: str) -> None:
    found = jina.post("/segment", content=EXAMPLE, return_tokens=True, tokenizer=tokenizer).json()
    assert "".join(token for token, _ in found["tokens"]) == EXAMPLE
    assert found["num_tokens"] == sum(len(ids) for _, ids in found["tokens"])
    assert found["tokenizer"] == tokenizer


@pytest.mark.parametrize(
    "body",
    [{"content": ""}, {"content": "a" * 64_000}, {"tokenizer": "gpt9"}, {"head": 1, "tail": 1}, {"head": 0}],
)
def test_what_cannot_be_segmented(jina: Account, body: dict[str, Any]) -> None:
    answer = jina.post("/segment", **{"content": "a", **body})
    assert (answer.status_code, answer.json()["code"]) == (400, "INPUT_INVALID")


anything = some.none() | some.booleans() | some.integers(-3, 3000) | some.text(max_size=9)
lists = anything | some.lists(anything | some.dictionaries(some.sampled_from(["text", "label", "image"]), anything))
NAMES = ("classifier_id", "access", "num_iters", "content", "tokenizer", "head", "tail", "return_chunks")


@settings(deadline=None)
@given(
    path=some.sampled_from(["/classify", "/train", "/segment", "/classifiers"]),
    body=some.fixed_dictionaries(
        {}, optional={**dict.fromkeys(NAMES, anything), **dict.fromkeys(("input", "labels"), lists)}
    ),
    model=some.sampled_from([V3, "jina-clip-v2"]),
)
def test_no_body_breaks_it(path: str, body: dict[str, Any], model: str) -> None:
    headers = {"authorization": "Bearer k"}
    content = msgspec.json.encode({"model": model, **body})
    answer = respond(Ask("POST", f"/jina/v1{path}", content, headers=headers), hosts())
    assert isinstance(answer, Whole)
    assert 200 <= answer.status < 500
