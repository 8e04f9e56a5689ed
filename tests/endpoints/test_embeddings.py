"""POST /v1/embeddings: all forms of requests become one, and the reply has the form that was asked for."""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidRequest, UpstreamFailed
from app.core.types import EmbeddingsCall, Encoding, Json, Key, Model, Target
from app.core.vectors import encoded
from app.endpoints import Endpoint
from app.endpoints.embeddings import ENCODINGS, FORMS, Embeddings
from app.endpoints.fields import FORBIDDEN
from app.upstreams import Jina

MODEL = Model(id="jina-embeddings-v3", endpoints=("embeddings",))
UPSTREAM = Jina()
TARGET = Target(UPSTREAM, MODEL, "jina-embeddings-v3", Key("k" * 20))


def parse(endpoint: Embeddings | None = None, /, **body: Any) -> EmbeddingsCall:
    return (endpoint or Embeddings()).parse({"model": "m", **body}, "/embeddings")


def refusal(endpoint: Embeddings | None = None, /, **body: Any) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        parse(endpoint, **body)
    assert caught.value.status == 400
    return caught.value.message, caught.value.param


def answer(call: EmbeddingsCall, *bodies: bytes) -> bytes:
    """The reply to the caller if the upstream answers the parts of their call with ``bodies``."""
    endpoint: Endpoint = Embeddings()
    replies = [
        UPSTREAM.reply(part, TARGET, body) for part, body in zip(endpoint.split(call, None), bodies, strict=True)
    ]
    return endpoint.render(call, endpoint.merge(call, replies))


def upstream_body(*vectors: Any, usage: Any = None) -> bytes:
    data = [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)]
    return msgspec.json.encode({"model": "jina-embeddings-v3", "object": "list", "usage": usage, "data": data})


# --- requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "canonical"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ({"text": "a"}, [{"text": "a"}]),
        (
            [{"text": "a"}, "b", {"image": "https://x.example/y.png"}],
            [{"text": "a"}, "b", {"image": "https://x.example/y.png"}],
        ),
        ({"image": "iVBORw0KGgo="}, [{"image": "iVBORw0KGgo="}]),
        ([{"url": "u"}, {"bytes": "b"}, {"pdf": "p"}], [{"url": "u"}, {"bytes": "b"}, {"pdf": "p"}]),
        ([{"audio": "a"}, {"video": "v"}], [{"audio": "a"}, {"video": "v"}]),
        ({"content": [{"text": "a"}, {"image": "b"}]}, [{"content": [{"text": "a"}, {"image": "b"}]}]),
        ([{"hologram": {"x": 1}}], [{"hologram": {"x": 1}}]),
        (" ", [" "]),
    ],
)
def test_every_form_of_input_becomes_a_list(given_: Any, canonical: list[Any]) -> None:
    assert parse(input=given_) == EmbeddingsCall(model="m", body={"input": canonical})


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ("", "input is an empty string: there is nothing to embed"),
        ([], "input is an empty list: there is nothing to embed"),
        (["a", ""], "input[1] is an empty string: there is nothing to embed"),
        ([{"text": "a"}, {"text": ""}], "input[1] is empty: there is nothing to embed"),
        ([{}], "input[0] is empty: there is nothing to embed"),
        (["a", 1.5], "input[1] must be a string, an object or a list of token ids"),
        (["a", None], "input[1] must be a string, an object or a list of token ids"),
        ([1, True], "input[0] must be a string, an object or a list of token ids"),
        ([[1], []], "input[1] must be a string, an object or a list of token ids"),
        (7, f"input must be {FORMS}"),
    ],
)
def test_an_input_that_is_none_is_named(given_: Any, message: str) -> None:
    assert refusal(Embeddings(lambda ids: "x"), input=given_) == (message, "input")


def test_a_body_without_a_model_is_refused() -> None:
    for body in ({"input": "a"}, {"input": "a", "model": " "}, {"input": "a", "model": 7}):
        with pytest.raises(InvalidRequest) as caught:
            Embeddings().parse(body, "/embeddings")
        assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"query": "q", "documents": ["d"]}, "/v1/rerank"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "/v1/chat/completions"),
    ],
)
def test_a_body_for_another_endpoint_is_told_where_to_go(body: Json, path: str) -> None:
    assert refusal(**body) == (f"input is missing. This looks like a request for POST {path}", "input")


def test_a_body_without_input_is_told_what_may_be_sent() -> None:
    assert refusal()[0].startswith("input is missing: send a string, an object such as")


def test_jinas_own_fields_go_through_and_persons_and_credentials_do_not() -> None:
    own = {
        "task": "retrieval.query",
        "late_chunking": True,
        "normalized": False,
        "truncate": True,
        "dimensions": 256,
        "return_multivector": False,
        "some_new_parameter": {"a": [1]},
    }
    taken = {**dict.fromkeys(FORBIDDEN, "x"), "user": "ann", "stream": False, "encoding_format": "float"}
    assert parse(input="a", **own, **taken).body == {**own, "input": ["a"]}


def test_the_callers_body_is_not_taken_apart() -> None:
    body = {"model": "m", "input": "a", "encoding_format": "base64", "user": "ann"}
    Embeddings().parse(body, "/embeddings")
    assert body == {"model": "m", "input": "a", "encoding_format": "base64", "user": "ann"}


@pytest.mark.parametrize("field", ["encoding_format", "encoding_type", "embedding_type", "embedding_format"])
@pytest.mark.parametrize(("value", "encoding"), ENCODINGS.items())
def test_trap_02_all_spellings_of_the_encoding_take_all_values(field: str, value: str, encoding: Encoding) -> None:
    assert parse(input="a", **{field: value}) == EmbeddingsCall(model="m", body={"input": ["a"]}, encoding=encoding)
    assert parse(input="a", **{field: [value]}).encoding == encoding


def test_trap_02_a_list_of_encodings_and_an_unknown_one_are_refused() -> None:
    assert refusal(input="a", embedding_type=["float", "base64"]) == (
        "embedding_type must be one encoding, not 2",
        "embedding_type",
    )
    allowed = "float, base64, binary, ubinary, binary_int8, binary_uint8, int8, uint8"
    wrongs: list[Any] = [7, {}, [[]], ""]
    for wrong in wrongs:
        assert refusal(input="a", encoding_format=wrong) == (
            f"encoding_format must be one of {allowed}",
            "encoding_format",
        )
    assert (
        refusal(input="a", encoding_format="floats")[0] == f"encoding_format must be one of {allowed}. Nearest: float"
    )


def test_trap_02_what_the_sdk_adds_unasked_does_not_beat_what_the_caller_wrote() -> None:
    for field in ("encoding_type", "embedding_type", "embedding_format"):
        assert parse(input="a", encoding_format="base64", **{field: "ubinary"}).encoding == "ubinary"
    assert parse(input="a", encoding_format="base64", embedding_type=None).encoding == "base64"


def test_trap_04_token_ids_become_text() -> None:
    endpoint = Embeddings(lambda ids: "+".join(map(str, ids)))
    assert parse(endpoint, input=[1, 2, 3]).body == {"input": ["1+2+3"]}
    assert parse(endpoint, input=[[1, 2], [3]]).body == {"input": ["1+2", "3"]}
    assert parse(endpoint, input=["a", [3]]).body == {"input": ["a", "3"]}


def test_trap_04_without_a_decoder_token_ids_are_told_what_to_install() -> None:
    message, param = refusal(input=[[1, 2], [3]])
    assert param == "input"
    assert message.startswith("input[0] holds token ids")
    assert "in the checkout, pip install '.[tokens]'" in message
    assert "check_embedding_ctx_length=False" in message


def test_trap_04_an_id_that_is_none_is_named_with_its_input() -> None:
    def refuse(ids: list[int]) -> str:
        raise InvalidRequest("the token id 9 at position 1 is not in cl100k_base")

    assert refusal(Embeddings(refuse), input=[[1, 9]]) == (
        "input[0]: the token id 9 at position 1 is not in cl100k_base",
        "input",
    )


# --- parts -------------------------------------------------------------------------------------


def test_trap_05_more_than_512_inputs_go_in_parts_and_come_back_in_order() -> None:
    endpoint: Endpoint = Embeddings()
    texts = [f"text {n}" for n in range(1100)]
    call = parse(input=texts, task="text-matching")
    parts = endpoint.split(call, 512)
    assert [len(part.body["input"]) for part in parts] == [512, 512, 76]
    assert [text for part in parts for text in part.body["input"]] == texts
    assert all(part.body["task"] == "text-matching" for part in parts)
    replies = []
    for part in parts:
        items = [
            {"object": "embedding", "index": n, "embedding": [float(text.split()[1]), 0.5]}
            for n, text in enumerate(part.body["input"])
        ]
        body = {"model": "x", "data": items[::-1], "usage": {"total_tokens": 10, "prompt_tokens": 9}}
        replies.append(UPSTREAM.reply(part, TARGET, msgspec.json.encode(body)))
    rendered = msgspec.json.decode(endpoint.render(call, endpoint.merge(call, replies)))
    assert rendered == {
        "model": "m",
        "object": "list",
        "usage": {"total_tokens": 30, "prompt_tokens": 27},
        "data": [{"object": "embedding", "index": n, "embedding": [float(n), 0.5]} for n in range(1100)],
    }


def test_inputs_that_are_read_as_one_text_are_never_sent_in_parts() -> None:
    call = parse(input=["a"] * 513, late_chunking=True)
    with pytest.raises(InvalidRequest, match="m takes at most 512 inputs; this call has 513"):
        Embeddings().split(call, 512)
    assert Embeddings().split(call, 513) == [call]
    assert Embeddings().split(call, None) == [call]


def test_parts_that_do_not_add_up_are_no_answer() -> None:
    endpoint: Endpoint = Embeddings()
    call = parse(input=["a", "b", "c"])
    reply = UPSTREAM.reply(parse(input=["a"]), TARGET, upstream_body([0.5]))
    with pytest.raises(UpstreamFailed, match="2 vectors were returned for 3 inputs"):
        endpoint.merge(call, [reply, reply])


@given(data=st.data(), count=st.integers(1, 40), cap=st.integers(1, 45))
def test_any_inputs_under_any_cap_get_their_own_vectors(data: st.DataObject, count: int, cap: int) -> None:
    endpoint: Endpoint = Embeddings()
    call = parse(input=[str(n) for n in range(count)])
    replies = []
    for part in endpoint.split(call, cap):
        assert 1 <= len(part.body["input"]) <= cap
        items = [{"index": n, "embedding": [float(text), -0.5]} for n, text in enumerate(part.body["input"])]
        shuffled = data.draw(st.permutations(items))
        body = msgspec.json.encode({"data": shuffled, "usage": {"total_tokens": len(items)}})
        replies.append(UPSTREAM.reply(part, TARGET, body))
    rendered = msgspec.json.decode(endpoint.render(call, endpoint.merge(call, replies)))
    assert [item["embedding"][0] for item in rendered["data"]] == [float(n) for n in range(count)]
    assert [item["index"] for item in rendered["data"]] == list(range(count))
    assert rendered["usage"] == {"total_tokens": count, "prompt_tokens": count}


# --- replies ------------------------------------------------------------------------------------


def test_floats_go_back_byte_for_byte() -> None:
    data = b'[{"object":"embedding","index":0,"embedding":[0.10, 1e-05,-0.30000001192092896]}]'
    assert answer(parse(input="a"), b'{"model":"x","data":' + data + b',"extra":[1, 2]}') == (
        b'{"model":"m","data":' + data + b","
        b'"extra":[1, 2],"usage":{"prompt_tokens":0,"total_tokens":0},"object":"list"}'
    )


def test_trap_03_base64_is_given_where_it_was_asked_for() -> None:
    rendered = msgspec.json.decode(
        answer(parse(input=["a", "b"], encoding_format="base64"), upstream_body([0.1, -2.5], [1, 0]))
    )
    packed = [b64decode(item["embedding"]) for item in rendered["data"]]
    assert packed == [struct.pack("<2f", 0.1, -2.5), struct.pack("<2f", 1.0, 0.0)]


def test_trap_03_base64_is_not_given_where_floats_were_asked_for() -> None:
    string = b64encode(struct.pack("<3f", 0.5, -0.25, 3.0)).decode()
    rendered = msgspec.json.decode(answer(parse(input="a"), upstream_body(string)))
    assert rendered["data"] == [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25, 3.0]}]
    assert msgspec.json.decode(answer(parse(input="a", encoding_type="base64"), upstream_body(string)))["data"] == [
        {"object": "embedding", "index": 0, "embedding": string}
    ]


def test_packed_encodings_are_made_here() -> None:
    body = upstream_body([0.5, -0.5, 0.0, 0.1, -0.1, -0.2, -0.3, 0.9, 0.7])
    assert msgspec.json.decode(answer(parse(input="a", embedding_type="ubinary"), body))["data"][0]["embedding"] == [
        145,
        128,
    ]
    assert msgspec.json.decode(answer(parse(input="a", embedding_type="int8"), body))["data"][0]["embedding"] == [17, 0]


@pytest.mark.parametrize(
    ("sent", "asked", "expected"),
    [
        (b"[145,128]", "ubinary", [145, 128]),
        (b"[145,128]", "binary", [17, 0]),
        (b"[-128,0,127]", "ubinary", [0, 128, 255]),
        (b"[-128,0,127]", "binary", [-128, 0, 127]),
        (b"[1,0,-1,0,0,0,0,1]", "ubinary", [129]),
        (b"[300,0,0,0,0,0,0,1]", "ubinary", [129]),
    ],
)
def test_what_the_upstream_has_packed_already_is_not_packed_again(
    sent: bytes, asked: Encoding, expected: list[int]
) -> None:
    assert encoded(sent, asked) == expected


@pytest.mark.parametrize("vector", [b'"!!"', b'"AAA"', b'"AAAAAAA="', b"[1e300]", b"[null]"])
def test_a_vector_that_cannot_be_written_is_the_upstreams_failure(vector: bytes) -> None:
    with pytest.raises(UpstreamFailed, match="cannot be written as"):
        encoded(vector, "float" if vector.startswith(b'"') else "base64")


def test_trap_06_prompt_tokens_are_always_there() -> None:
    call = parse(input="a")
    for usage, shown in [
        ({"total_tokens": 9}, {"total_tokens": 9, "prompt_tokens": 9}),
        ({"prompt_tokens": 4}, {"prompt_tokens": 4, "total_tokens": 4}),
        (
            {"prompt_tokens": 4, "total_tokens": 9, "image_tokens": 5},
            {"prompt_tokens": 4, "total_tokens": 9, "image_tokens": 5},
        ),
        (None, {"prompt_tokens": 0, "total_tokens": 0}),
        ({"total_tokens": "many", "prompt_tokens": -3, "x": 1e30}, {"prompt_tokens": 0, "total_tokens": 0}),
        ("none", {"prompt_tokens": 0, "total_tokens": 0}),
    ]:
        assert msgspec.json.decode(answer(call, upstream_body([0.5], usage=usage)))["usage"] == shown


def test_trap_08_multivectors_and_sparse_vectors_come_back_whole() -> None:
    for encoding in ENCODINGS:
        call = parse(input="a", encoding_format=encoding)
        body = (
            b'{"data":[{"object":"embeddings","index":0,"embeddings":[[0.50,1],[2,3]],"tokenized_input":["a"]}],'
            b'"usage":{"total_tokens":3}}'
        )
        assert answer(call, body) == (
            b'{"data":[{"object":"embeddings","index":0,"embeddings":[[0.50,1],[2,3]],"tokenized_input":["a"]}],'
            b'"usage":{"total_tokens":3,"prompt_tokens":3},"object":"list","model":"m"}'
        )
        sparse = msgspec.json.decode(answer(call, upstream_body({"sunset": 1.5, "sea": 0.25})))
        assert sparse["data"] == [{"object": "embedding", "index": 0, "embedding": {"sunset": 1.5, "sea": 0.25}}]
        nested = msgspec.json.decode(answer(call, upstream_body([[0.5, 0.25], [1.0, 2.0]])))
        assert nested["data"][0]["embedding"] == [[0.5, 0.25], [1.0, 2.0]]


def test_trap_33_the_model_comes_back_under_the_name_that_the_caller_used() -> None:
    call = Embeddings().parse({"model": "jina-ai/jina-embeddings-v3", "input": "a"}, "/embeddings")
    assert msgspec.json.decode(answer(call, upstream_body([0.5])))["model"] == "jina-ai/jina-embeddings-v3"


FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(FLOAT32, min_size=1, max_size=40))
def test_float_to_base64_and_back_is_exact_to_float32(vector: list[float]) -> None:
    string = bytes(encoded(msgspec.json.encode(vector), "base64"))
    assert string == b'"%b"' % b64encode(struct.pack(f"<{len(vector)}f", *vector))
    assert msgspec.json.decode(bytes(encoded(string, "float"))) == vector


def naive_bits(vector: list[float]) -> list[int]:
    """The reference: bit by bit, from the highest down."""
    packed = []
    for start in range(0, len(vector), 8):
        byte = 0
        for place, value in enumerate(vector[start : start + 8]):
            if value > 0:
                byte += 2 ** (7 - place)
        packed.append(byte)
    return packed


@given(st.lists(st.floats(-1, 1, exclude_min=True, allow_nan=False), min_size=1, max_size=70))
def test_bits_are_those_of_a_naive_reference(vector: list[float]) -> None:
    sent = msgspec.json.encode(vector)
    assert encoded(sent, "ubinary") == naive_bits(vector)
    assert encoded(sent, "binary") == [byte - 128 for byte in naive_bits(vector)]
