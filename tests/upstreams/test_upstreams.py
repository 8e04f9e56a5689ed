"""Requests to each provider, to the byte, and the validation of their 2xx replies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from app.core.errors import UpstreamFailed, UpstreamQuota, UpstreamRateLimited, UpstreamRejected
from app.core.types import Call, EmbeddingsCall, EndpointFacts, EndpointName, Json, Key, Model, Reply, Request, Target
from app.endpoints.chat import Chat
from app.endpoints.embeddings import Embeddings
from app.endpoints.rerank import Rerank
from app.upstreams import KINDS, AIHubMix, Jina, OpenAICompatible
from app.upstreams.chat import ChatFold
from app.upstreams.deepsearch_stream import DeepSearchFold

WIRE = Path(__file__).parents[1] / "wire"
SECRET = "upstream-secret-0123456789"
OTHER = OpenAICompatible("other", "http://127.0.0.1:9/v1/")


def target(upstream: OpenAICompatible, name: str, *, deepsearch: bool = False) -> Target:
    endpoints: tuple[EndpointName, ...] = ("embeddings", "rerank", "chat")
    return Target(upstream, Model(id=name, endpoints=endpoints, deepsearch=deepsearch), name, Key(SECRET))


def embeddings(**body: Any) -> EmbeddingsCall:
    return Embeddings().parse({"model": "m", **body}, "/embeddings")


def rerank(path: str = "/rerank", **body: Any) -> Call:
    return Rerank().parse({"model": "m", "query": "q", "documents": ["a", "b"], **body}, path)


def chat(**body: Any) -> Call:
    return Chat().parse({"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}, "/chat/completions")


def sent(call: Call, upstream: OpenAICompatible, name: str) -> Json:
    request = upstream.request(call, target(upstream, name))
    return msgspec.json.decode(request.body, type=dict[str, Any])


def wire(name: str) -> Json:
    return msgspec.json.decode((WIRE / f"{name}.json").read_bytes(), type=dict[str, Any])


def documented(name: str, upstream: OpenAICompatible) -> Json:
    """The upstream's request for a documented request."""
    body = wire(name)
    endpoint = Rerank() if "documents" in body else Embeddings()
    return sent(endpoint.parse(body, endpoint.paths[0]), upstream, body["model"])


# --- requests ----------------------------------------------------------------------------------


def test_a_request_is_exactly_this() -> None:
    there = target(Jina(), "jina-embeddings-v3")
    call = replace(embeddings(input="a", dimensions=256, user="ann"), id="call-1")
    assert Jina().request(call, there) == Request(
        url="https://api.jina.ai/v1/embeddings",
        headers={
            "authorization": f"Bearer {SECRET}",
            "content-type": "application/json",
            "accept": "application/json",
            "x-request-id": "call-1",
        },
        body=b'{"model":"jina-embeddings-v3","input":["a"],"dimensions":256}',
    )


def test_no_key_is_in_a_repr() -> None:
    there = target(Jina(), "jina-embeddings-v3")
    assert SECRET not in repr(there)
    assert SECRET not in repr(Jina().request(embeddings(input="a"), there))


@pytest.mark.parametrize(
    ("upstream", "call", "deepsearch", "url"),
    [
        (Jina(), embeddings(input="a"), False, "https://api.jina.ai/v1/embeddings"),
        (Jina(), rerank(), False, "https://api.jina.ai/v1/rerank"),
        (Jina(), chat(), False, "https://api.jina.ai/v1/chat/completions"),
        (Jina(), chat(), True, "https://deepsearch.jina.ai/v1/chat/completions"),
        (AIHubMix(), embeddings(input="a"), False, "https://aihubmix.com/v1/embeddings"),
        (AIHubMix(), rerank(), False, "https://aihubmix.com/v1/rerank"),
        (AIHubMix(), chat(), True, "https://aihubmix.com/v1/chat/completions"),
        (OTHER, rerank(), False, "http://127.0.0.1:9/v1/rerank"),
    ],
)
def test_each_call_goes_to_its_own_address(upstream: OpenAICompatible, call: Call, deepsearch: bool, url: str) -> None:
    assert upstream.request(call, target(upstream, "x", deepsearch=deepsearch)).url == url


def test_the_kinds_are_named_as_in_the_configuration() -> None:
    assert {"openai": OpenAICompatible, "jina": Jina, "aihubmix": AIHubMix} == KINDS


@pytest.mark.parametrize(
    "name", ["jina/embeddings-v3.request", "jina/embeddings-v4.request", "jina/embeddings-v4-pdf.request"]
)
def test_jinas_documented_embeddings_requests_arrive_as_they_are(name: str) -> None:
    expected = {field: value for field, value in wire(name).items() if field != "embedding_type"}
    assert documented(name, Jina()) == expected


@pytest.mark.parametrize("upstream", [Jina(), AIHubMix()])
def test_aihubmixs_documented_requests_arrive_as_they_are(upstream: OpenAICompatible) -> None:
    assert documented("aihubmix/embeddings-multimodal.request", upstream) == wire(
        "aihubmix/embeddings-multimodal.request"
    )
    for name in ("aihubmix/rerank-multimodal.request", "aihubmix/rerank-text.request"):
        assert documented(name, upstream) == {**wire(name), "return_documents": False}


def test_jinas_documented_rerank_requests_arrive_in_one_form() -> None:
    assert documented("jina/rerank-v3.request", Jina()) == wire("jina/rerank-v3.request")
    request = wire("jina/rerank-m0.request")
    documents = [{"text": document} if isinstance(document, str) else document for document in request["documents"]]
    assert documented("jina/rerank-m0.request", Jina()) == {**request, "documents": documents}


@pytest.mark.parametrize("spelling", ["encoding_format", "encoding_type", "embedding_type", "embedding_format"])
@pytest.mark.parametrize("value", ["float", "base64", "binary"])
def test_trap_02_only_floats_are_asked_for_whichever_encoding_the_caller_wants(spelling: str, value: str) -> None:
    call = embeddings(input="a", **{spelling: value})
    assert sent(call, Jina(), "jina-embeddings-v3") == {"model": "jina-embeddings-v3", "input": ["a"]}
    assert sent(call, AIHubMix(), "jina-embeddings-v3") == {"model": "jina-embeddings-v3", "input": ["a"]}
    floats = {"input": ["a"], "encoding_format": "float"}
    assert sent(call, AIHubMix(), "text-embedding-3-small") == {"model": "text-embedding-3-small", **floats}
    assert sent(call, OTHER, "x") == {"model": "x", **floats}


def test_trap_07_no_dimensions_are_sent_unless_the_caller_named_them() -> None:
    for upstream in (Jina(), AIHubMix()):
        assert "dimensions" not in sent(embeddings(input="a"), upstream, "jina-embeddings-v2-base-code")
        assert sent(embeddings(input="a", dimensions=64), upstream, "jina-embeddings-v3")["dimensions"] == 64


@pytest.mark.parametrize("upstream", [Jina(), AIHubMix()])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"image": "data:image/png;base64,iVBOR"}, {"image": "iVBOR"}),
        ({"image": "DATA:image/png;charset=x;base64,iVBOR"}, {"image": "iVBOR"}),
        ({"image": "https://x.example/data:;base64,y.png"}, {"image": "https://x.example/data:;base64,y.png"}),
        ({"image": "iVBOR"}, {"image": "iVBOR"}),
        ({"url": "https://x.example/y.png"}, {"image": "https://x.example/y.png"}),
        ({"bytes": "data:image/jpeg;base64,/9j/"}, {"image": "/9j/"}),
        ({"audio": "data:audio/wav;base64,UklG"}, {"audio": "UklG"}),
        ({"content": [{"text": "a"}, {"url": "u"}]}, {"content": [{"text": "a"}, {"image": "u"}]}),
        ({"url": "u", "new": 1}, {"url": "u", "new": 1}),
        ({"hologram": 7}, {"hologram": 7}),
        ({"image": {"odd": 1}}, {"image": {"odd": 1}}),
    ],
)
def test_objects_go_up_as_jina_takes_them(upstream: OpenAICompatible, given: Json, expected: Json) -> None:
    assert sent(embeddings(input=given), upstream, "jina-clip-v2")["input"] == [expected]


def test_objects_for_other_models_are_left_alone() -> None:
    given = {"image": "data:image/png;base64,iVBOR"}
    assert sent(embeddings(input=given), AIHubMix(), "gemini-embedding-2")["input"] == [given]


def test_a_pdf_goes_alone_to_jina_and_in_a_list_to_aihubmix() -> None:
    call = embeddings(input=[{"pdf": "data:application/pdf;base64,JVBE"}])
    assert sent(call, Jina(), "jina-embeddings-v4")["input"] == {"pdf": "JVBE"}
    assert sent(call, AIHubMix(), "jina-embeddings-v4")["input"] == [{"pdf": "JVBE"}]


@pytest.mark.parametrize(
    ("upstream", "name", "expected"),
    [
        (Jina(), "jina-reranker-v3", {"top_n": 1, "return_documents": False, "max_doc_length": 8192}),
        (Jina(), "jina-reranker-v3.5", {"top_n": 1, "return_documents": False, "max_doc_length": 8192}),
        (Jina(), "jina-ai/jina-reranker-v3", {"top_n": 1, "return_documents": False, "max_doc_length": 8192}),
        (Jina(), "jina-reranker-m0", {"top_n": 1, "return_documents": False}),
        (AIHubMix(), "jina-reranker-v3", {"top_n": 1, "return_documents": False}),
        (AIHubMix(), "rerank-v3.5", {"top_n": 1, "max_chunk_per_doc": 9000, "max_chunks_per_doc": 10}),
        (OTHER, "x", {"top_n": 1, "max_tokens_per_doc": 9000, "max_chunks_per_doc": 10}),
    ],
)
def test_limits_of_a_document_go_where_they_are_known(upstream: OpenAICompatible, name: str, expected: Json) -> None:
    call = rerank(top_n=1, max_tokens_per_doc=9000, max_chunks_per_doc=10)
    assert sent(call, upstream, name) == {"model": name, "query": "q", "documents": ["a", "b"], **expected}


def test_an_image_as_query_goes_up_as_jina_takes_it() -> None:
    call = rerank(query={"image": "data:image/png;base64,iVBOR"}, documents=[{"image": "data:image/png;base64,AAAA"}])
    body = sent(call, Jina(), "jina-reranker-m0")
    assert (body["query"], body["documents"]) == ({"image": "iVBOR"}, [{"image": "AAAA"}])


def test_deepsearch_is_always_streamed_and_other_models_as_asked() -> None:
    research = target(Jina(), "jina-deepsearch-v1", deepsearch=True)
    plain = target(AIHubMix(), "gpt-x")
    assert Jina().streams(chat(), research)
    assert not AIHubMix().streams(chat(), plain)
    assert AIHubMix().streams(chat(stream=True), plain)
    request = Jina().request(chat(), research)
    assert request.headers["accept"] == "text/event-stream"
    assert msgspec.json.decode(request.body)["stream"] is True
    assert msgspec.json.decode(AIHubMix().request(chat(), plain).body)["stream"] is False


def test_each_model_has_the_fold_of_its_form() -> None:
    assert isinstance(Jina().fold(chat(), target(Jina(), "d", deepsearch=True)), DeepSearchFold)
    assert isinstance(AIHubMix().fold(chat(), target(AIHubMix(), "gpt-x")), ChatFold)


def test_a_call_to_an_endpoint_that_an_upstream_does_not_have_is_a_bug() -> None:
    """The gateway only asks upstreams that serve the endpoint."""
    with pytest.raises(KeyError):
        OTHER.body(Call(endpoint=EndpointFacts("made up"), model="m", body={}), target(OTHER, "x"))


# --- replies -----------------------------------------------------------------------------------


def read(call: Call, body: bytes) -> Any:
    return Jina().reply(call, target(Jina(), "jina-embeddings-v3"), body)


def items(*given: Any) -> bytes:
    return msgspec.json.encode({"data": list(given), "usage": {"total_tokens": 1}})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "cannot be read"),
        (b"null", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"<html>", "jina answered 200 with an HTML page"),
        (b'{"data":[{"index":0,"embe', "cannot be read"),
        (b'{"data":[{"index":0,"embedding":[NaN]},{"index":1,"embedding":[1]}]}', "cannot be read"),
        (b'{"data":' + b"[" * 100_000, "cannot be read"),
        (b'{"model":"\xff","data":[]}', "cannot be read"),
        (b"{}", "without data"),
        (b'{"data":null}', "without data"),
        (b'{"data":7}', "data that is not a list"),
        (b'{"data":{"a":1}}', "data that is not a list"),
        (b'{"data":[1,2]}', "data that is not a list"),
        (items(), "0 vectors for 2 inputs"),
        (items({"index": 0, "embedding": [0.5]}), "1 vectors for 2 inputs"),
        (items(*[{"index": n, "embedding": [0.5]} for n in range(3)]), "3 vectors for 2 inputs"),
        (items({"index": 0, "embedding": [0.5]}, {"index": 0, "embedding": [0.5]}), "indexes do not match"),
        (items({"index": 1, "embedding": [0.5]}, {"index": 2, "embedding": [0.5]}), "indexes do not match"),
        (items({"index": -1, "embedding": [0.5]}, {"index": 0, "embedding": [0.5]}), "indexes do not match"),
        (items({"index": 0, "embedding": [0.5]}, {"embedding": [0.5]}), "an item without an index"),
        (items({"index": 0, "embedding": [0.5]}, {"index": "1", "embedding": [0.5]}), "an item without an index"),
        (items({"index": 0, "embedding": [0.5]}, {"index": 1}), "an item without a vector"),
        (items({"index": 0, "embedding": [0.5]}, {"index": 1, "embedding": None}), "an item without a vector"),
        (items({"index": 0, "embedding": [0.5]}, {"index": 1, "embedding": []}), "an item without a vector"),
        (items({"index": 0, "embedding": [0.5]}, {"index": 1, "embedding": {}}), "an item without a vector"),
        (items({"index": 0, "embedding": [0.5]}, {"index": 1, "embedding": ""}), "an item without a vector"),
        (items({"index": 0, "embedding": [0.5]}, {"index": 1, "embedding": "!"}), "not finite numbers"),
        (items({"index": 0, "embedding": [0.5]}, {"index": 1, "embedding": 7}), "an item without a vector"),
        (items({"index": 0, "embedding": "AAAA"}, {"index": 1, "embedding": "AAAA"}), "not finite numbers"),
        (items({"index": 0, "embedding": "AAAAPw=="}, {"index": 1, "embedding": "AACAfw=="}), "not finite"),
        (items({"index": 0, "embedding": "AACA/w=="}, {"index": 1, "embedding": "AAAAPw=="}), "not finite"),
        (items({"index": 0, "embedding": "AADAfw=="}, {"index": 1, "embedding": "AAAAPw=="}), "not finite"),
        (items({"index": 0, "embedding": "AAAAPw=="}, {"index": 1, "embedding": "AAAAPwAAgD8="}), "sizes: [1, 2]"),
        (items({"index": 0, "embedding": [0.5, 1]}, {"index": 1, "embedding": "AAAAPw=="}), "sizes: [1, 2]"),
        (items({"index": 0, "embedding": [0.5]}, {"index": 1, "embedding": [None]}), "not finite numbers"),
        (items({"index": 0, "embedding": [0.5]}, {"index": 1, "embedding": [False]}), "not finite numbers"),
        (items({"index": 0, "embedding": [0.5]}, {"index": 1, "embedding": ["a"]}), "not finite numbers"),
        (b'{"data":[{"index":0,"embedding":[0.5]},{"index":1,"embedding":[1e999]}]}', "not finite numbers"),
        (b'{"data":[{"index":0,"embedding":[0.5]},{"index":1,"embedding":[-1E+999]}]}', "not finite numbers"),
        (
            b'{"data":[{"index":0,"embedding":[0.5]},{"index":1,"embedding":[' + b"9" * 400 + b"]}]}",
            "not finite",
        ),
        (b'{"data":[{"index":0,"embedding":[0.5]},{"index":1,"embedding":[[1e999]]}]}', "not finite numbers"),
        (items({"index": 0, "embedding": [0.5]}, {"index": 1, "embedding": [0.5, 1]}), "of different sizes: [1, 2]"),
    ],
)
def test_a_wrong_answer_is_no_answer(body: bytes, reason: str) -> None:
    with pytest.raises(UpstreamFailed) as caught:
        read(embeddings(input=["a", "b"]), body)
    assert reason in caught.value.message
    assert caught.value.message.startswith("jina ")


def test_vectors_of_another_size_than_asked_for_are_no_answer() -> None:
    call = embeddings(input="a", dimensions=16)
    with pytest.raises(UpstreamFailed, match="jina returned vectors of 3 dimensions instead of 16"):
        read(call, items({"index": 0, "embedding": [0.5, 0.25, 0.1]}))
    for size in (16, 2):
        assert read(call, items({"index": 0, "embedding": [1] * size}))["data"][0]["index"] == 0


@pytest.mark.parametrize("encoding", ["float", "base64", "binary", "ubinary"])
@pytest.mark.parametrize(
    ("vector", "right"),
    [
        ("AAAAPwAAAD8=", False),  # two numbers
        ([0.5, 0.5], False),
        ([256, 0], False),
        ([-129, 0], False),
        ([-1, 128], False),
        ([255, 0], True),
        ([-128, 127], True),
    ],
)
def test_an_eighth_of_the_dimensions_is_right_in_whole_bytes_alone(vector: Any, right: bool, encoding: str) -> None:
    call = embeddings(input="a", dimensions=16, encoding_format=encoding)
    if right:
        assert read(call, items({"index": 0, "embedding": vector}))["data"]
    else:
        with pytest.raises(UpstreamFailed, match="jina returned vectors of 2 dimensions instead of 16"):
            read(call, items({"index": 0, "embedding": vector}))


def test_an_exponent_of_any_spelling_is_read_right() -> None:
    for numbers in ([b"1e-5"] * 200, [b"1e-5", b"1E2"], [b"1e+2"], [b"1e2"], [b"1E-5"], [b"0." + b"1" * 90]):
        vector = b"[" + b",".join(numbers) + b"]"
        reply = read(embeddings(input="a"), b'{"data":[{"index":0,"embedding":' + vector + b"}]}")
        assert bytes(reply["data"][0]["embedding"]) == vector


def test_items_out_of_order_are_put_in_order_and_items_without_an_index_are_in_it() -> None:
    call = embeddings(input=["a", "b"])
    turned = read(call, items({"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}))
    assert [(item["index"], bytes(item["embedding"])) for item in turned["data"]] == [(0, b"[1.0]"), (1, b"[2.0]")]
    plain = read(call, items({"embedding": [1.0]}, {"embedding": [2.0]}))
    assert [(item["index"], bytes(item["embedding"])) for item in plain["data"]] == [(0, b"[1.0]"), (1, b"[2.0]")]


def test_a_pdf_may_have_as_many_vectors_as_pages() -> None:
    pages = items(*[{"index": n, "embedding": [0.5]} for n in range(3)])
    assert len(read(embeddings(input={"pdf": "p"}), pages)["data"]) == 3
    with pytest.raises(UpstreamFailed):
        read(embeddings(input={"pdf": "p"}), items())


@pytest.mark.parametrize("name", ["embeddings", "embeddings-multivector", "embeddings-sparse"])
def test_jinas_documented_embeddings_replies_are_answers(name: str) -> None:
    body = (WIRE / "jina" / f"{name}.reply.json").read_bytes()
    reply = read(embeddings(input=["a", "b"] if name == "embeddings" else "a"), body)
    text = msgspec.json.encode(reply, enc_hook=lambda vector: msgspec.Raw(bytes(vector)))
    assert msgspec.json.decode(text) == msgspec.json.decode(body)


VECTORS = [
    b"[0.10,-2.50,3]",
    b"[-0,1e-07]",
    b"[1E2,3e1]",
    b"[ 0.5\t,1\n]",
    b"[0.5,0.%s]" % (b"1" * 300),
    b'"AACAPwAAAEA="',
]


@pytest.mark.parametrize("asked", ["float", "base64", "ubinary"])
@pytest.mark.parametrize("space", ["", " ", "\n "])
@pytest.mark.parametrize("vector", VECTORS)
def test_an_answer_as_documented_is_read_as_any_other_is(vector: bytes, space: str, asked: str) -> None:
    """An undocumented field makes the gateway read the reply field by field."""
    endpoint, call = Embeddings(), embeddings(input=["a", "b"], encoding_format=asked)
    item = b'{"object":"embedding","index":%d,"embedding":%s%s}'
    data = b",".join(item % (place, space.encode(), vector) for place in (1, 0))
    told = [
        endpoint.render(
            call, endpoint.merge(call, [read(call, b'{"object":"list",%s"data":[%s]%s}' % (more, data, end))])
        )
        for more, end in (
            (b"", b',"model":"m","usage":{"total_tokens":3}'),
            (b'"x":1,', b',"usage":{"total_tokens":3}'),
        )
    ]
    plain, other = (msgspec.json.decode(text, type=dict[str, msgspec.Raw]) for text in told)
    assert bytes(plain["data"]) == bytes(other["data"])
    assert bytes(plain["usage"]) == bytes(other["usage"])


@pytest.mark.parametrize(
    ("body", "answered"),
    [
        (b'{"model":"\\"embedding\\":[7]","data":[{"index":0,"embedding":[1]}],"usage":{}}', [b"[1]"]),
        (b'{"usage":{"embedding":[7]},"data":[{"index":0,"embedding":[1]}]}', [b"[1]"]),
        (b'{"data":[{"index":0,"embedding":[1]}],"usage":{"embedding":[7]}}', [b"[1]"]),
        (b'{"data":[{"index":0,"embedding":[1],"x":{"embedding":[7]}}],"usage":{}}', [b"[1]"]),
        (b'{"data":[{"index":0,"embedding":0},{"index":1,"embedding":[7]}],"usage":{}}', None),
        (b'{"data":[{"index":0,"embedding":[7],"embedding":[8]},{"index":1,"embedding" :1}],"usage":{}}', None),
        (b'{"data":[{"index":0,"embedding":[{},0.5,0.5]}],"usage":{}}', None),
        (b'{"data":[{"index":0,"embedding":[0.5,"a]"]}],"usage":{}}', None),
        (b'{"data":[{"index":0,"embedding":"AA\\"AA"}],"usage":{}}', None),
        (b'{"data":[{"index":0,"embedding":[0.5', None),
    ],
)
@pytest.mark.parametrize("asked", ["float", "base64"])
def test_only_what_is_a_vector_is_taken_for_one(asked: str, body: bytes, answered: list[bytes] | None) -> None:
    call = embeddings(input=["a"] * body.count(b'"index"'), encoding_format=asked)
    if answered is None:
        with pytest.raises(UpstreamFailed):
            read(call, body)
    else:
        assert [bytes(item["embedding"]) for item in read(call, body)["data"]] == answered


def test_an_error_sent_with_status_200_is_an_error() -> None:
    call = embeddings(input="a")
    with pytest.raises(UpstreamQuota):
        read(call, b'{"error":{"message":"Your account balance is insufficient.","type":"Aihubmix_api_error"}}')
    with pytest.raises(UpstreamRejected):
        read(call, b'{"error":{"message":"Incorrect model ID","type":"Aihubmix_api_error"},"data":[]}')
    with pytest.raises(UpstreamQuota):
        read(call, b'{"data":null,"error":null,"code":402,"status":40203,"message":"x"}')
    with pytest.raises(UpstreamQuota):
        read(call, b'{"data":null,"code":402,"status":40203,"message":"x"}')
    with pytest.raises(UpstreamFailed):
        read(rerank(), b'{"detail":"something broke"}')
    assert read(call, b'{"error":null,"data":[{"index":0,"embedding":[1]}]}')["usage"] == {}
    assert read(call, b'{"data":[{"index":0,"embedding":[1]}],"usage":{"total_tokens":1e999}}')["usage"] == {}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"usage":{}}', "without results"),
        (b'{"results":[]}', "returned results that do not match the 2 documents"),
        (b'{"results":[{"index":2,"relevance_score":1}]}', "returned results that do not match the 2 documents"),
        (b'{"results":[{"index":-1,"relevance_score":1}]}', "returned results that do not match the 2 documents"),
        (b'{"results":[{"index":0,"relevance_score":1},{"index":0,"relevance_score":2}]}', "do not match the"),
        (b'{"results":[{"relevance_score":1}]}', "an item without an index"),
        (b'{"results":[{"index":0}]}', "a score that is not a number"),
        (b'{"results":[{"index":0,"relevance_score":"1"}]}', "a score that is not a number"),
        (b'{"results":[{"index":0,"relevance_score":1e999}]}', "a score that is not a number"),
        (b'{"results":[{"index":0,"relevance_score":1}]}', "returned 1 results instead of 2"),
        (b'{"results":[{"index":0,"relevance_score":1,"x":[1e999]}]}', "a number beyond the range of a float"),
        (b'{"x":{"y":-1e999},"results":[{"index":0,"relevance_score":1}]}', "a number beyond the range of a float"),
    ],
)
def test_a_wrong_ranking_is_no_answer(body: bytes, reason: str) -> None:
    with pytest.raises(UpstreamFailed) as caught:
        read(rerank(), body)
    assert reason in caught.value.message


@pytest.mark.parametrize(("top_n", "sent", "enough"), [(None, 1, False), (1, 1, True), (2, 1, False), (9, 2, True)])
def test_a_ranking_has_as_many_results_as_were_asked_for(top_n: int | None, sent: int, enough: bool) -> None:
    """AIHubMix's page shows fewer results for a request without ``top_n``."""
    results = [{"index": place, "relevance_score": 1} for place in range(sent)]
    body = msgspec.json.encode({"results": results})
    for upstream in (Jina(), AIHubMix()):
        there = target(upstream, "m")
        if enough or (top_n is None and isinstance(upstream, AIHubMix)):
            assert len(upstream.reply(rerank(top_n=top_n), there, body)["results"]) == sent
        else:
            with pytest.raises(UpstreamFailed, match=f"returned {sent} results instead of 2"):
                upstream.reply(rerank(top_n=top_n), there, body)


@pytest.mark.parametrize("place", ["beside", "in an item"])
@pytest.mark.parametrize("odd", [b"1e999", b"[-1e999]", b'{"y":[{"z":1E400}]}'])
def test_a_number_that_no_float_holds_is_passed_on_nowhere(odd: bytes, place: str) -> None:
    beside, within = (b',"x":' + odd, b"") if place == "beside" else (b"", b',"x":' + odd)
    body = b'{"data":[{"index":0,"embedding":[1]%s}]%s}' % (within, beside)
    with pytest.raises(UpstreamFailed, match="jina sent a number beyond the range of a float"):
        read(embeddings(input="a"), body)
    assert read(embeddings(input="a"), body.replace(b"e999", b"e99").replace(b"E400", b"E40"))["data"]


def test_a_chat_answer_passes_as_it_is() -> None:
    body = b'{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"hi"}}],"new":1}'
    assert AIHubMix().reply(chat(), target(AIHubMix(), "gpt-x"), body) == msgspec.json.decode(body)


def test_an_error_status_is_read_with_the_upstreams_name() -> None:
    error = AIHubMix().error(chat(), target(AIHubMix(), "gpt-x"), Reply(429, {"retry-after": "3"}, b'{"error":"slow"}'))
    assert isinstance(error, UpstreamRateLimited)
    assert (error.message, error.retry_after) == ("aihubmix: slow", 3.0)
    broken = Jina().error(chat(), target(Jina(), "d", deepsearch=True), Reply(500, {}, b""))
    assert isinstance(broken, UpstreamFailed)
    assert broken.should_retry is False
