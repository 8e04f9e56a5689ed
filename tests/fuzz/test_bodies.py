"""Corrupted replies of upstreams and invalid bodies of callers: only our own errors are raised."""

from __future__ import annotations

import json  # noqa: TID251 - writes what msgspec would not
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidRequest, ToriiError
from app.core.types import Call, Key, Model, Target
from app.endpoints import Endpoint
from app.endpoints.chat import Chat
from app.endpoints.embeddings import Embeddings
from app.endpoints.rerank import Rerank
from app.upstreams import AIHubMix, Jina

from .test_json import SOUP, VALUES

WIRE = Path(__file__).parents[1] / "wire"
REPLIES = [path.read_bytes() for path in sorted(WIRE.glob("*/*.reply.json"))]
MODEL = Model(id="jina-embeddings-v3", endpoints=("embeddings", "rerank", "chat"))
CALLS: list[tuple[Endpoint, Call]] = [
    (Embeddings(), Embeddings().parse({"model": "m", "input": ["a", "b"]}, "/embeddings")),
    (Embeddings(), Embeddings().parse({"model": "m", "input": "a", "encoding_format": "base64"}, "/embeddings")),
    (Embeddings(), Embeddings().parse({"model": "m", "input": "a", "embedding_type": "ubinary"}, "/embeddings")),
    (Rerank(), Rerank().parse({"model": "m", "query": "q", "documents": ["a", "b"]}, "/rerank")),
    (Chat(), Chat().parse({"model": "m", "messages": [{"role": "user", "content": "a"}]}, "/chat/completions")),
]
ODD = VALUES | st.sampled_from([-1, 2**53 + 1, 10**30, 1e300, "", "!", "AAAA", [], {}, [[1]], [None], {"1": 0.5}])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, each in inner for place in places(each, (*path, name)))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    whole = dict(value) if isinstance(value, dict) else list(value)
    whole[path[0]] = changed(value[path[0]], path[1:], new)
    return whole


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A documented reply with some values exchanged, or some bytes changed."""
    body = draw(st.sampled_from(REPLIES))
    if draw(st.booleans()):
        place = draw(st.integers(0, len(body)))
        return body[:place] + draw(SOUP) + body[place + draw(st.integers(0, 20)) :]
    value = msgspec.json.decode(body)
    for _ in range(draw(st.integers(1, 3))):
        value = changed(value, draw(st.sampled_from(places(value))), draw(ODD))
    return json.dumps(value).encode()


def answered(body: bytes) -> None:
    for upstream in (Jina(), AIHubMix()):
        target = Target(upstream, MODEL, MODEL.id, Key("k" * 20))
        for endpoint, call in CALLS:
            try:
                answer = endpoint.render(call, endpoint.merge(call, [upstream.reply(call, target, body)]))
            except ToriiError:
                continue
            msgspec.json.decode(answer)


@given(spoilt())
def test_only_our_own_errors_come_out_of_an_answer_that_was_spoilt(body: bytes) -> None:
    """A reply that is accepted can also be encoded."""
    answered(body)


@given(st.binary(max_size=60) | SOUP)
def test_only_our_own_errors_come_out_of_any_bytes(body: bytes) -> None:
    answered(body)


FIELDS = [
    *("model", "input", "documents", "query", "messages", "stream", "stream_options", "top_n", "top_k", "rank_fields"),
    *("encoding_format", "embedding_type", "return_documents", "x_reasoning", "max_doc_length", "dimensions", "user"),
]
BODIES = st.dictionaries(st.sampled_from(FIELDS), ODD, max_size=8)
LIKELY = st.fixed_dictionaries(
    {"model": st.just("m")},
    optional={
        "input": ODD | st.lists(ODD, max_size=3),
        "query": ODD | st.just("q"),
        "documents": st.lists(ODD, max_size=3),
        "messages": st.lists(
            ODD | st.fixed_dictionaries({"role": ODD | st.just("user"), "content": ODD | st.just("a")}), max_size=3
        ),
        **dict.fromkeys(FIELDS[5:], ODD),
    },
)


@pytest.mark.parametrize("deepsearch", [False, True])
@given(body=BODIES | LIKELY)
def test_a_body_is_a_call_or_an_invalid_request(deepsearch: bool, body: Any) -> None:
    """Up to the bytes of the upstream request."""
    target = Target(Jina(), Model(id="m", endpoints=MODEL.endpoints, deepsearch=deepsearch), "m", Key("k" * 20))
    endpoints: tuple[Endpoint, ...] = (Embeddings(), Rerank(), Chat())
    for endpoint in endpoints:
        for path in ("/v1/x", "/v2/rerank"):
            try:
                call = endpoint.parse(dict(body), path)
                for part in endpoint.split(call, 2):
                    target.upstream.request(part, target)
            except InvalidRequest:
                continue
