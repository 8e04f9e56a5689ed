"""Embeddings, rerank, plain chat and model lists in the sandbox, with each provider's errors."""

from __future__ import annotations

import base64
import struct
from typing import Any

import httpx
import msgspec
import pytest

from app.sandbox import Sandbox

PICTURE = base64.b64encode(b"GIF89a a small picture").decode()


class Provider:
    """One of the base URLs, with the calls of this file."""

    def __init__(self, url: str, http: httpx.Client) -> None:
        self.url, self.http = url, http

    def embed(self, given: Any, model: str = "jina-embeddings-v3", **options: Any) -> httpx.Response:
        return self.http.post(f"{self.url}/embeddings", json={"model": model, "input": given, **options})

    def rerank(self, query: Any, documents: Any, model: str, **options: Any) -> httpx.Response:
        body = {"model": model, "query": query, "documents": documents, **options}
        return self.http.post(f"{self.url}/rerank", json=body)

    def chat(self, question: Any, model: str, **options: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": question}], **options}
        return self.http.post(f"{self.url}/chat/completions", json=body)


@pytest.fixture(scope="module")
def jina(sandbox: Sandbox, http: httpx.Client) -> Provider:
    return Provider(sandbox.urls["jina"], http)


@pytest.fixture(scope="module")
def aihubmix(sandbox: Sandbox, http: httpx.Client) -> Provider:
    return Provider(sandbox.urls["aihubmix"], http)


def vectors(answer: httpx.Response) -> list[list[float]]:
    return [item["embedding"] for item in answer.json()["data"]]


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


# ---------------------------------------------------------------------- embeddings


def test_an_embedding_of_jina_has_its_keys_in_jinas_order(jina: Provider) -> None:
    answer = jina.embed(["Hello, world!"], dimensions=16)
    assert answer.content.startswith(
        b'{"model":"jina-embeddings-v3","object":"list","usage":{"total_tokens":4},'
        b'"data":[{"object":"embedding","index":0,"embedding":['
    )
    assert answer.headers["x-sandbox"] == "torii"


def test_an_embedding_of_aihubmix_is_in_openais_form(aihubmix: Provider) -> None:
    answer = aihubmix.embed(["Hello, world!"])
    assert list(answer.json()) == ["object", "data", "model", "usage"]
    assert answer.json()["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert vectors(answer) == vectors(aihubmix.embed(["Hello, world!"]))


@pytest.mark.parametrize(
    ("model", "given", "options", "told"),
    [
        ("jina-embeddings-v2-base-en", ["a b"], {}, True),
        ("jina-clip-v2", ["a b"], {}, True),
        ("jina-embeddings-v3", ["a b"], {}, False),
        ("jina-embeddings-v3", ["a b"], {"late_chunking": True}, True),
        ("jina-embeddings-v3", [{"text": "a b"}], {}, True),
        ("jina-embeddings-v4", [{"text": "a b"}], {}, False),
    ],
)
def test_trap_06_prompt_tokens_are_missing_where_jina_leaves_them_out(
    jina: Provider, model: str, given: list[Any], options: dict[str, Any], told: bool
) -> None:
    usage = jina.embed(given, model, **options).json()["usage"]
    assert usage == ({"total_tokens": 2, "prompt_tokens": 2} if told else {"total_tokens": 2})


def test_texts_that_share_words_are_near(jina: Provider) -> None:
    sea, beach, tea, sunset, evening = vectors(
        jina.embed(
            [
                "A boat on the SEA",
                "the boats on a sea",
                "green tea is bitter",
                "海滩上美丽的日落",
                "美丽的日落在海滩",
            ]
        )
    )
    assert dot(sea, sea) == pytest.approx(1, abs=1e-5)
    assert dot(sea, beach) > 0.5 > 0.15 > dot(sea, tea)
    assert dot(sunset, evening) > 0.5 > 0.15 > dot(sunset, sea)


def test_images_are_near_only_to_themselves(jina: Provider) -> None:
    same, again, other, url = vectors(
        jina.embed(
            [
                {"image": PICTURE},
                {"image": f"data:image/gif;base64,{PICTURE}"},
                {"image": base64.b64encode(b"another").decode()},
                {"image": "https://example.org/beach1.jpg"},
            ],
            "jina-clip-v2",
        )
    )
    assert same == again
    assert dot(same, other) < 0.3
    assert dot(url, vectors(jina.embed(["a beach"], "jina-clip-v2"))[0]) > 0.1


def test_a_shorter_vector_is_the_start_of_the_longer_one(jina: Provider) -> None:
    full, half = vectors(jina.embed(["tides"]))[0], vectors(jina.embed(["tides"], dimensions=512))[0]
    norm = dot(full[:512], full[:512]) ** 0.5
    assert half == pytest.approx([value / norm for value in full[:512]], abs=1e-6)


def test_even_a_very_short_vector_tells_texts_apart(jina: Provider) -> None:
    texts = ["the sea", "green tea", "a shrine", "honey bees", "a lighthouse"]
    assert len({tuple(vector) for vector in vectors(jina.embed(texts, dimensions=4))}) == 5


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("jina-embeddings-v2-base-code", 768),
        ("jina-embeddings-v3", 1024),
        ("jina-embeddings-v4", 2048),
        ("jina-embeddings-v5-text-nano", 768),
        ("jina-code-embeddings-0.5b", 896),
        ("jina-code-embeddings-1.5b", 1536),
        ("jina-clip-v1", 768),
        ("jina-clip-v2", 1024),
    ],
)
def test_trap_07_every_model_has_its_own_size(jina: Provider, model: str, size: int) -> None:
    assert [len(vector) for vector in vectors(jina.embed(["a", "b"], model))] == [size, size]


def test_trap_02_every_encoding_says_the_same(jina: Provider) -> None:
    floats = vectors(jina.embed(["the sea"], dimensions=64))[0]
    encoded = jina.embed(["the sea"], dimensions=64, embedding_type="base64").json()["data"][0]["embedding"]
    alias = jina.embed(["the sea"], dimensions=64, encoding_format="base64").json()["data"][0]["embedding"]
    assert list(struct.unpack("<64f", base64.b64decode(encoded))) == pytest.approx(floats, abs=1e-7)
    assert alias == encoded
    bits = [[value > 0 for value in floats[at : at + 8]] for at in range(0, 64, 8)]
    packed = [int("".join("1" if bit else "0" for bit in eight), 2) for eight in bits]
    assert vectors(jina.embed(["the sea"], dimensions=64, embedding_type="ubinary"))[0] == packed
    assert vectors(jina.embed(["the sea"], dimensions=64, embedding_type="binary"))[0] == [one - 128 for one in packed]


def test_trap_02_aihubmix_has_its_own_names(aihubmix: Provider, jina: Provider) -> None:
    for theirs, jinas in (("binary_int8", "binary"), ("binary_uint8", "ubinary"), ("base64", "base64")):
        ours = aihubmix.embed(["the sea"], embedding_format=theirs).json()["data"]
        assert ours == jina.embed(["the sea"], embedding_type=jinas).json()["data"]
    assert vectors(aihubmix.embed(["the sea"], encoding_format="base64")) == vectors(jina.embed(["the sea"]))
    assert aihubmix.embed(["the sea"], embedding_format="int8").status_code == 400


def test_trap_08_multivectors_and_sparse_ones_have_other_shapes(jina: Provider) -> None:
    (colbert,) = jina.embed(["the sea"], "jina-colbert-v2", dimensions=64).json()["data"]
    assert list(colbert) == ["object", "index", "embeddings"]
    assert (colbert["object"], [len(vector) for vector in colbert["embeddings"]]) == ("embeddings", [64, 64])
    options = {"return_multivector": True, "return_tokenized_input": True}
    (late,) = jina.embed(["the sea"], "jina-embeddings-v4", **options).json()["data"]
    assert (late["tokenized_input"], [len(one) for one in late["embeddings"]]) == (["the", "sea"], [128, 128])
    (sparse,) = jina.embed(["the sea"], "elser-v2").json()["data"]
    assert sparse == {"object": "embedding", "index": 0, "embedding": {"the": 0.1, "sea": 1.0}}


def test_newer_objects_are_taken_by_the_omni_models(jina: Provider) -> None:
    given = [
        "a text",
        {"image": PICTURE},
        {"content": [{"text": "a text"}, {"image": PICTURE}]},
        {"url": "https://a.example.org/b"},
    ]
    answer = jina.embed(given, "jina-embeddings-v5-omni-nano").json()
    assert [item["index"] for item in answer["data"]] == [0, 1, 2, 3]
    assert answer["usage"] == {"total_tokens": 770, "prompt_tokens": 2, "image_tokens": 768}


def test_a_text_that_is_too_long_is_cut_only_when_asked(jina: Provider) -> None:
    cut = jina.embed(["sea " * 9000], truncate=True)
    assert vectors(cut) == vectors(jina.embed(["sea " * 8192]))


def problems(answer: httpx.Response) -> list[tuple[str, Any]]:
    assert answer.status_code == 422
    assert list(answer.json()) == ["detail", "request_id", "errors"]
    assert answer.json()["detail"].startswith(f"Validation errors in {len(answer.json()['errors'])} fields. ")
    assert all(list(wrong) == ["field", "message", "type", "input"] for wrong in answer.json()["errors"])
    return [(wrong["field"], wrong["input"]) for wrong in answer.json()["errors"]]


def test_trap_05_more_than_512_inputs_are_refused(jina: Provider) -> None:
    assert len(vectors(jina.embed(["a"] * 512, dimensions=1))) == 512
    refused = jina.embed(["a"] * 513)
    assert problems(refused) == [("input", ["a"] * 513)]
    assert "Each input list can contain at most 512 items" in refused.json()["detail"]


def test_trap_04_token_ids_are_refused(jina: Provider) -> None:
    assert problems(jina.embed([1, 2])) == [("input.0", 1), ("input.1", 2)]
    assert problems(jina.embed([[1, 2]])) == [("input.0", [1, 2])]


def test_trap_30_validation_echoes_what_was_sent(jina: Provider) -> None:
    assert problems(jina.embed("")) == [("input", "")]
    assert problems(jina.embed(["a", ""])) == [("input.1", "")]
    assert problems(jina.embed([])) == [("input", [])]
    assert problems(jina.embed(["a"], dimensions=2000)) == [("dimensions", 2000)]
    assert problems(jina.embed(["a"], dimensions="64")) == [("dimensions", "64")]
    assert problems(jina.embed(["a"], dimensions=0)) == [("dimensions", 0)]
    assert problems(jina.http.post(f"{jina.url}/embeddings", json={"model": "jina-embeddings-v3"}))[0][0] == "input"
    assert problems(jina.http.post(f"{jina.url}/embeddings", json={"input": ["a"]})) == [("model", None)]
    assert problems(jina.http.post(f"{jina.url}/embeddings", json=[1])) == [("body", "[1]")]
    assert problems(jina.embed(["a"], "jina-colbert-v2", dimensions=100)) == [("dimensions", 100)]
    assert problems(jina.embed(["a"], task="nonsense", embedding_type="int4")) == [
        ("embedding_type", "int4"),
        ("task", "nonsense"),
    ]
    assert problems(jina.embed([{"image": PICTURE}])) == [("input.0", {"image": PICTURE})]
    assert problems(jina.embed([{"image": "no base64!"}], "jina-clip-v2")) == [("input.0", {"image": "no base64!"})]
    options = {"return_multivector": True, "dimensions": 128}
    assert problems(jina.embed(["a"], "jina-embeddings-v4", **options)) == [("dimensions", 128)]
    assert problems(jina.http.post(f"{jina.url}/embeddings", content=b"{not json")) == [("body", "{not json")]


def nested(answer: httpx.Response) -> tuple[int, str]:
    assert list(answer.json()) == ["detail"]
    assert list(answer.json()["detail"]) == ["message", "request_id", "code"]
    return answer.status_code, answer.json()["detail"]["code"]


def test_errors_of_jinas_models_are_nested(jina: Provider) -> None:
    assert nested(jina.embed(["a"], "jina-embeddings-v9")) == (400, "INPUT_MODEL_NOT_FOUND")
    assert nested(jina.embed(["a"], embedding_type=["float", "base64"])) == (500, "INTERNAL_ERROR")
    assert nested(jina.embed(["word " * 8193])) == (400, "INPUT_TOKEN_LIMIT_EXCEEDED")
    assert jina.embed(["word " * 8193], truncate=True).json()["usage"] == {"total_tokens": 8192}


def test_errors_of_jinas_front_are_flat(sandbox: Sandbox) -> None:
    def flat(headers: dict[str, str], path: str = "/embeddings") -> tuple[int, str]:
        answer = httpx.post(sandbox.urls["jina"] + path, json={"model": "jina-embeddings-v3"}, headers=headers)
        assert list(answer.json()) == ["detail", "code", "request_id"]
        return answer.status_code, answer.json()["code"]

    assert flat({}) == (401, "AUTH_MISSING_API_KEY")
    assert flat({"authorization": "Basic abc"}) == (401, "AUTH_INVALID_FORMAT")
    assert flat({"authorization": "Bearer an-invalid-key"}) == (401, "AUTH_INVALID_API_KEY")
    assert flat({}, "/nothing") == (404, "RESOURCE_NOT_FOUND")


def aihubmix_error(answer: httpx.Response) -> tuple[int, str]:
    assert list(answer.json()) == ["error"]
    assert list(answer.json()["error"]) == ["message", "type"]
    assert answer.json()["error"]["type"] == "Aihubmix_api_error"
    message, _, tid = answer.json()["error"]["message"].partition(" (tid: ")
    assert tid.rstrip(")").isdigit()
    return answer.status_code, message


def test_errors_of_aihubmix_have_a_message_and_a_type(aihubmix: Provider) -> None:
    with httpx.Client() as keyless:
        assert aihubmix_error(keyless.post(f"{aihubmix.url}/embeddings", json={})) == (401, "no key provided")
        bad = keyless.post(f"{aihubmix.url}/embeddings", json={}, headers={"authorization": "Bearer invalid"})
        assert aihubmix_error(bad) == (401, "Invalid token")
    assert aihubmix_error(aihubmix.embed("a text")) == (400, "input must be an array")
    assert aihubmix_error(aihubmix.embed([""])) == (400, "input must not be empty")
    assert aihubmix_error(aihubmix.embed([1, 2])) == (400, "input must be an array of strings or objects")
    assert aihubmix_error(aihubmix.embed(["a"], "jina-embeddings-v4"))[1].startswith("Incorrect model ID")
    too_many = aihubmix.embed(["a"], "jina-embeddings-v2-base-code", dimensions=1024)
    assert too_many.status_code == 200  # the model has no such field
    assert aihubmix_error(aihubmix.embed(["a"], dimensions=1025)) == (
        400,
        "dimensions must be an integer of at most 1024",
    )
    not_json = aihubmix.http.post(f"{aihubmix.url}/embeddings", content=b"<")
    assert aihubmix_error(not_json) == (400, "invalid character '<' looking for beginning of value")
    assert aihubmix_error(aihubmix.http.get(f"{aihubmix.url}/nothing"))[0] == 404


def test_openais_model_takes_what_openai_takes(aihubmix: Provider) -> None:
    name = "text-embedding-3-small"
    (floats,) = vectors(aihubmix.embed("the sea", name))
    assert len(floats) == 1536
    encoded = aihubmix.embed("the sea", name, encoding_format="base64", dimensions=256).json()["data"][0]["embedding"]
    assert len(struct.unpack("<256f", base64.b64decode(encoded))) == 256
    assert len(vectors(aihubmix.embed([1820, 9581], name))) == 1
    assert len(vectors(aihubmix.embed([[1820], [9581]], name))) == 2


# -------------------------------------------------------------------------- rerank

QUERY = "organic skin care"
DOCUMENTS = ["bread is baked in an oven", "care for the skin, organic", "skin"]


def test_trap_09_a_cross_encoder_gives_documents_back_as_they_came(jina: Provider) -> None:
    answer = jina.rerank(QUERY, [*DOCUMENTS[:2], {"text": DOCUMENTS[2]}], "jina-reranker-v2-base-multilingual")
    assert list(answer.json()) == ["model", "object", "usage", "results"]
    assert answer.json()["usage"] == {"total_tokens": 22}
    assert [(one["index"], one["document"]) for one in answer.json()["results"]] == [
        (1, DOCUMENTS[1]),
        (2, {"text": DOCUMENTS[2]}),
        (0, DOCUMENTS[0]),
    ]
    assert all(0 < one["relevance_score"] < 1 for one in answer.json()["results"])


def test_trap_09_v3_gives_objects_and_negative_scores(jina: Provider) -> None:
    results = jina.rerank(QUERY, DOCUMENTS, "jina-reranker-v3").json()["results"]
    assert [list(one) for one in results] == [["index", "relevance_score", "document"]] * 3
    assert results[-1] == {"index": 0, "relevance_score": -0.05, "document": {"text": DOCUMENTS[0]}}
    assert [one["relevance_score"] for one in results] == sorted(
        (one["relevance_score"] for one in results), reverse=True
    )
    assert all(round(one["relevance_score"], 8) == one["relevance_score"] for one in results)


def test_rerank_options_of_jina(jina: Provider) -> None:
    two = jina.rerank(QUERY, DOCUMENTS, "jina-reranker-v3", top_n=2, return_documents=False, return_embeddings=True)
    assert [list(one) for one in two.json()["results"]] == [["index", "relevance_score", "embedding"]] * 2
    assert len(jina.rerank(QUERY, DOCUMENTS, "jina-reranker-v3", top_n=None).json()["results"]) == 3
    short = jina.rerank(QUERY, DOCUMENTS, "jina-reranker-v3", max_doc_length=1).json()
    assert short["usage"] == {"total_tokens": 12}
    image = jina.rerank({"image": PICTURE}, [{"image": PICTURE}, "a text"], "jina-reranker-m0").json()
    assert image["results"][0]["document"] == {"image": PICTURE}


def test_rerank_mistakes_at_jina(jina: Provider) -> None:
    model = "jina-reranker-v3"
    assert [
        field for field, _ in problems(jina.http.post(f"{jina.url}/rerank", json={"model": model, "input": ["a"]}))
    ] == ["query", "documents"]
    assert problems(jina.rerank(QUERY, [], model)) == [("documents", [])]
    assert problems(jina.rerank(QUERY, DOCUMENTS, model, top_n=0)) == [("top_n", 0)]
    assert problems(jina.rerank(QUERY, DOCUMENTS, model, top_n="3")) == [("top_n", "3")]
    assert problems(jina.rerank(QUERY, "a text", model)) == [("documents", "a text")]
    assert problems(jina.rerank({"text": QUERY}, DOCUMENTS, model)) == [("query", {"text": QUERY})]
    assert problems(jina.rerank(QUERY, [{"image": "?"}], "jina-reranker-m0")) == [("documents.0", {"image": "?"})]
    assert problems(jina.rerank(QUERY, DOCUMENTS, model, max_doc_length=9000)) == [("max_doc_length", 9000)]
    assert problems(jina.rerank(QUERY, [{"image": PICTURE}], model)) == [("documents.0", {"image": PICTURE})]
    assert nested(jina.rerank(QUERY, DOCUMENTS, "jina-reranker-v9")) == (400, "INPUT_MODEL_NOT_FOUND")


def test_trap_09_aihubmix_sends_no_object_and_no_documents(aihubmix: Provider) -> None:
    answer = aihubmix.rerank(QUERY, [{"text": text} for text in DOCUMENTS], "jina-reranker-m0", return_documents=True)
    assert list(answer.json()) == ["model", "results", "usage"]
    assert [list(one) for one in answer.json()["results"]] == [["index", "relevance_score"]] * 3
    assert [one["index"] for one in answer.json()["results"]] == [1, 2, 0]
    assert list(answer.json()["usage"]) == ["total_tokens"]
    one = aihubmix.rerank(QUERY, DOCUMENTS, "jina-reranker-m0", top_n=1).json()["results"]
    assert [result["index"] for result in one] == [1]
    assert aihubmix_error(aihubmix.rerank(QUERY, [], "jina-reranker-m0"))[0] == 400
    assert aihubmix_error(aihubmix.rerank(QUERY, DOCUMENTS, "jina-reranker-m0", top_n=0))[0] == 400
    assert aihubmix_error(aihubmix.rerank(QUERY, [5], "jina-reranker-m0"))[0] == 400
    assert aihubmix_error(aihubmix.rerank(QUERY, DOCUMENTS, "jina-reranker-v3"))[1].startswith("Incorrect model ID")


# ---------------------------------------------------------------------- plain chat

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
        },
    },
}
OTHER = {"type": "function", "function": {"name": "send_mail", "parameters": {"type": "object", "properties": {}}}}


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    data = answer.text.removesuffix("data: [DONE]\n\n").removesuffix("\n\n").split("\n\n")
    assert answer.text.endswith("data: [DONE]\n\n")
    return [msgspec.json.decode(one.removeprefix("data: ")) for one in data]


@pytest.mark.parametrize(("host", "model"), [("jina", "jina-vlm"), ("aihubmix", "gpt-4o-mini")])
def test_a_plain_model_answers_in_openais_form(request: pytest.FixtureRequest, host: str, model: str) -> None:
    provider: Provider = request.getfixturevalue(host)
    whole = provider.chat("What are tides?", model)
    text = (
        f"The Torii sandbox answers in place of {model}: "
        "Tides rise and fall because the Moon, and to a lesser degree the Sun, pulls on the sea."
    )
    assert whole.headers["content-type"] == "application/json"
    assert whole.json()["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert whole.json()["usage"] == {"prompt_tokens": 8, "completion_tokens": 26, "total_tokens": 34}
    streamed = events(provider.chat("What are tides?", model, stream=True))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in streamed) == text
    assert [chunk["choices"][0]["finish_reason"] for chunk in streamed[-2:]] == [None, "stop"]
    assert len({chunk["id"] for chunk in streamed}) == 1
    assert "usage" not in streamed[-1]


def test_usage_logprobs_and_several_choices(aihubmix: Provider) -> None:
    options = {"n": 2, "logprobs": True, "top_logprobs": 2, "stream_options": {"include_usage": True}}
    streamed = events(aihubmix.chat("What are tides?", "gpt-4o-mini", stream=True, **options))
    assert {choice["index"] for chunk in streamed for choice in chunk["choices"]} == {0, 1}
    assert (streamed[-1]["choices"], streamed[-1]["usage"]["completion_tokens"]) == ([], 52)
    assert all(chunk["usage"] is None for chunk in streamed[:-1])
    spoken = streamed[2]["choices"][0]
    assert spoken["logprobs"]["content"][0]["token"] == spoken["delta"]["content"]
    assert len(spoken["logprobs"]["content"][0]["top_logprobs"]) == 2
    whole = aihubmix.chat("What are tides?", "gpt-4o-mini", n=2, logprobs=True).json()
    assert len(whole["choices"][1]["logprobs"]["content"]) == 26


def test_tools_are_called_with_arguments_of_their_schema(aihubmix: Provider) -> None:
    question = "What is the weather in Kyoto, in fahrenheit?"
    whole = aihubmix.chat(question, "gpt-4o-mini", tools=[OTHER, TOOL]).json()["choices"][0]
    (call,) = whole["message"]["tool_calls"]
    assert (whole["finish_reason"], whole["message"]["content"]) == ("tool_calls", None)
    assert call["function"]["name"] == "get_weather"
    assert msgspec.json.decode(call["function"]["arguments"]) == {"city": question, "unit": "fahrenheit"}
    streamed = events(aihubmix.chat(question, "gpt-4o-mini", tools=[OTHER, TOOL], stream=True))
    deltas = [chunk["choices"][0]["delta"]["tool_calls"][0] for chunk in streamed[:-1]]
    assert "".join(delta["function"]["arguments"] for delta in deltas) == call["function"]["arguments"]
    assert list(deltas[0]) == ["index", "id", "type", "function"]
    forced = {"type": "function", "function": {"name": "send_mail"}}
    chosen = aihubmix.chat(question, "gpt-4o-mini", tools=[OTHER, TOOL], tool_choice=forced).json()["choices"][0]
    assert chosen["message"]["tool_calls"][0]["function"] == {"name": "send_mail", "arguments": "{}"}
    none = aihubmix.chat(question, "gpt-4o-mini", tools=[TOOL], tool_choice="none").json()["choices"][0]
    assert none["finish_reason"] == "stop"


def test_the_result_of_a_tool_is_used(aihubmix: Provider) -> None:
    talk = [
        {"role": "user", "content": "The weather?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function"}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "18 degrees"},
    ]
    answer = aihubmix.chat("", "gpt-4o-mini", messages=talk, tools=[TOOL]).json()["choices"][0]
    assert answer["message"]["content"] == "The sandbox has the tool's result: 18 degrees"


def test_structured_output_stop_and_length(aihubmix: Provider) -> None:
    schema = {"type": "object", "properties": {"fact": {"type": "string", "maxLength": 5}}, "required": ["fact"]}
    form = {"type": "json_schema", "json_schema": {"name": "fact", "strict": True, "schema": schema}}
    filled = aihubmix.chat("What are tides?", "gpt-4o-mini", response_format=form).json()["choices"][0]["message"]
    assert filled["content"] == '{"fact":"Tides"}'
    cut = aihubmix.chat("What are tides?", "gpt-4o-mini", max_tokens=3).json()["choices"][0]
    assert (cut["message"]["content"], cut["finish_reason"]) == ("The Torii sandbox", "length")
    stopped = aihubmix.chat("What are tides?", "gpt-4o-mini", stop=[" answers"]).json()["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("The Torii sandbox", "stop")


def test_a_plain_model_sees_openais_parts(jina: Provider) -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/gif;base64,{PICTURE}"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
    ]
    content = jina.chat(parts, "jina-vlm").json()["choices"][0]["message"]["content"]
    assert content.endswith(" I was shown: image (image/gif, 22 bytes), image (type unknown, by URL).")


def test_chat_mistakes(jina: Provider, aihubmix: Provider) -> None:
    assert nested(jina.chat("a", "gpt-4o-mini")) == (400, "INPUT_MODEL_NOT_FOUND")
    assert problems(jina.chat("a", "jina-vlm", messages=[])) == [("messages", None)]
    assert aihubmix_error(aihubmix.chat("a", "gpt-4o-mini", messages=[]))[0] == 400
    assert aihubmix_error(aihubmix.chat("a", "gpt-4o-mini", tools=[{"type": "function"}]))[0] == 400
    assert aihubmix_error(aihubmix.chat([{"type": "input_audio"}], "gpt-4o-mini"))[0] == 400
    assert aihubmix_error(aihubmix.chat("a", "jina-deepsearch-v1", messages=[])) == (400, "field messages is required")
    talk = [{"role": "assistant", "content": "a"}]
    assert aihubmix_error(aihubmix.chat("a", "jina-deepsearch-v1", messages=talk))[0] == 400


# -------------------------------------------------------------------------- models


def test_trap_33_jinas_list_has_prefixed_ids(sandbox: Sandbox) -> None:
    listed = httpx.get(f"{sandbox.urls['jina']}/models").json()
    assert list(listed) == ["data"]
    first = listed["data"][0]
    assert list(first) == ["id", "name", "created", "input_modalities", "context_length", "pricing"]
    assert all(model["id"] == f"jina-ai/{model['name']}" for model in listed["data"])
    assert len({model["id"] for model in listed["data"]}) == len(listed["data"])
    facts = {model["name"]: (model["context_length"], model["input_modalities"]) for model in listed["data"]}
    assert facts["jina-embeddings-v4"] == (32_768, ["text", "image", "pdf"])
    assert facts["jina-reranker-v3.5"] == (131_072, ["text"])
    assert facts["jina-reranker-m0"] == (10_240, ["text", "image"])
    assert facts["jina-vlm"] == (32_768, ["text", "image"])


def test_aihubmix_lists_in_openais_form(sandbox: Sandbox) -> None:
    listed = httpx.get(f"{sandbox.urls['aihubmix']}/models").json()
    assert list(listed) == ["object", "data"]
    assert {"jina-embeddings-v3", "jina-reranker-m0", "jina-deepsearch-v1", "gpt-4o-mini"} <= {
        model["id"] for model in listed["data"]
    }
    assert listed["data"][0] == {
        "id": "text-embedding-3-small",
        "object": "model",
        "created": 1626777600,
        "owned_by": "openai",
    }


EXTRA = ("Extra inputs are not permitted", "extra_forbidden")
EMBED = {"model": "jina-embeddings-v2-base-en", "input": ["Hi"]}
RANK = {"model": "jina-reranker-m0", "query": "a", "documents": ["a"]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("embeddings", {**EMBED, "return_multivector": False}),
        ("embeddings", {**EMBED, "dimensions": None}),
        ("embeddings", {**EMBED, "task": "retrieval.passage"}),
        ("embeddings", {**EMBED, "metadata": {"a": "b"}}),
        ("embeddings", {**EMBED, "model": "jina-embeddings-v4", "normalized": True}),
        ("embeddings", {**EMBED, "model": "jina-colbert-v2", "truncate": False}),
        ("rerank", {**RANK, "max_doc_length": 9}),
        ("rerank", {**RANK, "user": "ann"}),
    ],
)
def test_jina_refuses_a_field_that_the_model_has_not(jina: Provider, path: str, body: dict[str, Any]) -> None:
    answer = jina.http.post(f"{jina.url}/{path}", json=body)
    [told] = answer.json()["errors"]
    name = list(body)[-1]
    assert answer.status_code == 422
    assert told["field"] == f"body -> {body['model']} -> {name}"
    assert (told["message"], told["type"], told["input"]) == (*EXTRA, body[name])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("embeddings", {**EMBED, "normalized": True, "truncate": False, "encoding_format": "float"}),
        ("embeddings", {"model": "jina-embeddings-v3", "input": ["Hi"], "dimensions": None, "late_chunking": None}),
        ("embeddings", {"model": "jina-embeddings-v4", "input": ["Hi"], "return_multivector": False}),
        ("embeddings", {"model": "jina-colbert-v2", "input": ["Hi"], "dimensions": 64, "input_type": "query"}),
        ("rerank", {**RANK, "top_k": 1, "return_documents": False, "truncation": True}),
        ("rerank", {**RANK, "model": "jina-reranker-v3", "max_doc_length": 9, "return_embeddings": True}),
    ],
)
def test_jina_takes_the_fields_that_the_model_has(jina: Provider, path: str, body: dict[str, Any]) -> None:
    assert jina.http.post(f"{jina.url}/{path}", json=body).status_code == 200
