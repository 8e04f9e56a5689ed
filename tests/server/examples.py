"""The expected examples of the OpenAPI document, computed by the gateway's own code from answers of providers.

So no example can show anything that the gateway does not do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import msgspec
from msgspec.structs import replace

from app.callers.keys import Caller, Callers, KnownKey, digest
from app.core.errors import (
    BodyTooSlow,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    TooLarge,
    ToriiError,
    Unavailable,
    UnsupportedMedia,
    UpstreamTimeout,
    UpstreamTruncated,
    UpstreamUnreachable,
)
from app.core.json import decode
from app.core.origins import Guard, Hosts
from app.core.types import ChatCall, Event, Json, Key, Reply
from app.endpoints import ENDPOINTS, Endpoint
from app.endpoints.chat import Chat, collect
from app.endpoints.classify import Classify
from app.endpoints.embeddings import Embeddings
from app.endpoints.rerank import Rerank
from app.endpoints.segment import Segment
from app.endpoints.train import Train
from app.routing.table import Account, RouteTable
from app.server.app import served
from app.upstreams import validation
from app.upstreams.aihubmix import AIHubMix
from app.upstreams.deepsearch import deepsearch_body
from app.upstreams.deepsearch_stream import DeepSearchFold
from app.upstreams.errors import failure
from app.upstreams.jina import Jina

UPSTREAM = "jina"
ID = "7f3c1be0a4d24c6f9c5e1b7a2d8e4f60"

# Models.

ALIAS = "text-embedding-3-small"
SHOWN = ("jina-embeddings-v3", "jina-colbert-v2", "jina-reranker-m0", "jina-deepsearch-v1", ALIAS)


@cache
def routes() -> RouteTable:
    """A route table with both providers and one alias."""
    accounts = {"jina": Account(Jina(), "jina", Key("")), "aihubmix": Account(AIHubMix(), "aihubmix", Key(""))}
    return RouteTable(accounts, {ALIAS: "jina-embeddings-v3"})


def model_list() -> Json:
    return {"object": "list", "data": [routes().describe(name) for name in SHOWN]}


# The provider's answers to the example requests that have an example answer, by the example's name.

SUNSETS = (
    [0.4175, -0.1355, 0.5722, 0.0903, -0.34, 0.2207, 0.5459, -0.0971],
    [0.3974, -0.15, 0.584, 0.1116, -0.3292, 0.2062, 0.5516, -0.1047],
)


def _vectors(tokens: int, *vectors: Any) -> Json:
    data = [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)]
    # jina-embeddings-v3 gives no prompt_tokens for plain texts.
    return {"model": "jina-embeddings-v3", "object": "list", "usage": {"total_tokens": tokens}, "data": data}


def _ranking(model: str, tokens: int, *scores: tuple[int, float]) -> Json:
    results = [{"index": index, "relevance_score": score} for index, score in scores]
    return {"model": model, "usage": {"total_tokens": tokens}, "results": results}


def _classified(index: int, *scores: tuple[str, float], best: int) -> Json:
    label, score = scores[best]
    predictions = [{"label": label, "score": score} for label, score in scores]
    item = {"object": "classification", "index": index, "prediction": label, "score": score}
    return {**item, "predictions": predictions}


EMBEDDINGS: Json = {
    "texts": _vectors(20, *SUNSETS),
    "base64": _vectors(8, SUNSETS[0]),
    "binary": _vectors(8, SUNSETS[0]),
    "multivector": {
        "model": "jina-embeddings-v4",
        "object": "list",
        "usage": {"total_tokens": 2},
        "data": [
            {"object": "embeddings", "index": 0, "embeddings": [[0.0812, -0.0391, 0.1176], [0.1094, 0.0217, -0.0658]]}
        ],
    },
}
RERANK: Json = {
    "texts": _ranking("jina-reranker-v2-base-multilingual", 96, (0, 0.87415754), (2, 0.76483965)),
    "images": _ranking(
        "jina-reranker-m0", 2894, (1, 0.8814517277012487), (2, 0.7756727858283531), (0, 0.6128658982982312)
    ),
}
# By path and name, in the forms of Jina's OpenAPI description and, for the segmenter, of jina-ai/meta-prompt.
CLASSIFIER: dict[str, Json] = {
    "/v1/classify": {
        "labels": {
            "data": [
                _classified(0, ("Simple task", 0.35543), ("Complex reasoning", 0.64457), best=1),
                _classified(1, ("Simple task", 0.56732), ("Complex reasoning", 0.43268), best=0),
            ],
            "usage": {"total_tokens": 37},
        },
        "groups": {
            "data": [
                {
                    "object": "classification",
                    "index": 0,
                    "prediction": {"subject": "phones", "mood": "complaint"},
                    "score": {"subject": 0.81, "mood": 0.62},
                    "predictions": {
                        "subject": [{"label": "phones", "score": 0.81}, {"label": "food", "score": 0.19}],
                        "mood": [{"label": "praise", "score": 0.38}, {"label": "complaint", "score": 0.62}],
                    },
                }
            ],
            "usage": {"total_tokens": 23},
        },
    },
    "/v1/train": {
        "new": {
            "classifier_id": "6d1f6e3c-1d2b-4f7e-9a55-3f0c8f6f2a10",
            "num_samples": 2,
            "usage": {"total_tokens": 160},
        }
    },
    "/v1/segment": {
        "counts": {"num_tokens": 10, "tokenizer": "cl100k_base", "usage": {"tokens": 0}},
        "chunks": {
            "num_tokens": 5,
            "tokenizer": "cl100k_base",
            "usage": {"tokens": 0},
            "num_chunks": 2,
            "chunk_positions": [[0, 3], [3, 5]],
            "chunks": ["\N{ROCKET}\n", "ab"],
        },
    },
}
CLASSIFIER_ENDPOINTS: dict[str, Endpoint] = {"/v1/classify": Classify(), "/v1/train": Train(), "/v1/segment": Segment()}
RERANK_V2: Json = {"texts": RERANK["texts"]}

POST = "https://jina.ai/news/snippet-selection-and-url-ranking-in-deepsearch-deepresearch"
TITLE = "Snippet Selection and URL Ranking in DeepSearch/DeepResearch"


def _thought(text: str) -> Json:
    return {"content": text, "type": "think"}


# From Jina's DeepSearch page; the thoughts from AIHubMix's.
DELTAS: list[Json] = [
    {"role": "assistant", **_thought("<think>")},
    _thought("I need to find the latest blog post from Jina AI. "),
    {"type": "think", "query": "jina ai latest blog post"},
    {"type": "think", "url": POST},
    _thought("Let me read it."),
    _thought("</think>\n\n"),
    {
        "content": f'The latest blog post from Jina AI is titled "{TITLE}," published on March 12, 2025 [^1].\n\n'
        f"[^1]: Since our DeepSearch release on February 2nd 2025 we ve discovered two implementation details that "
        f"greatly improved quality [jina.ai]({POST})",
        "type": "text",
        "annotations": [
            {
                "type": "url_citation",
                "url_citation": {
                    "title": TITLE,
                    "exactQuote": "Since our DeepSearch release on February 2nd 2025, we've discovered two "
                    "implementation details that greatly improved quality.",
                    "url": POST,
                    "dateTime": "2025-03-13 06:48:01",
                },
            }
        ],
    },
]

LAST: Json = {
    "usage": {"prompt_tokens": 169670, "completion_tokens": 27285, "total_tokens": 196526},
    "visitedURLs": ["https://huggingface.co/jinaai/jina-embeddings-v3", "https://github.com/jina-ai/reader"],
    "readURLs": ["https://jina.ai/news", POST],
    "numURLs": 98,
}


def embedded(request: Json, reply: Json) -> Json:
    endpoint = Embeddings()
    call = endpoint.parse(request, "/v1/embeddings")
    checked = validation.embeddings(call, msgspec.json.encode(reply), UPSTREAM)
    answer: Json = decode(endpoint.render(call, endpoint.merge(call, [checked])))
    return answer


def ranked(request: Json, reply: Json, path: str) -> Json:
    endpoint = Rerank()
    call = replace(endpoint.parse(request, path), id=ID)
    checked = validation.ranking(call, msgspec.json.encode(reply), UPSTREAM)
    answer: Json = decode(endpoint.render(call, endpoint.merge(call, [checked])))
    return answer


def checked(path: str, request: Json, reply: Json) -> Json:
    """The canonical reply for a provider's answer."""
    call = CLASSIFIER_ENDPOINTS[path].parse(request, path)
    read = Jina.endpoints[call.endpoint.name].read
    found: Json = read(Jina(), call, msgspec.json.encode(reply), 200)
    return found


def answered(path: str, request: Json, reply: Json) -> Json:
    """The answer of classify, train or segment."""
    endpoint = CLASSIFIER_ENDPOINTS[path]
    call = endpoint.parse(request, path)
    answer: Json = decode(endpoint.render(call, endpoint.merge(call, [checked(path, request, reply)])))
    return answer


def collected(request: Json) -> Json:
    """The whole answer of a DeepSearch run."""
    call = _chat_call(request)
    answer: Json = decode(Chat().render(call, collect(call, _events())))
    return answer


def streamed(request: Json) -> str:
    """The stream of a DeepSearch run, as text of server-sent events."""
    writer = Chat().writer(_chat_call(request))
    return (writer.write(_events()) + writer.end()).decode()


def broken(request: Json, error: ToriiError) -> str:
    """The stream of a DeepSearch run that fails with ``error`` during its reasoning."""
    fold, writer = DeepSearchFold(UPSTREAM), Chat().writer(_chat_call(request))
    events = [event for delta in DELTAS[:2] for event in fold.feed(_chunk(delta))]
    return (writer.write(events) + writer.fail(error.envelope())).decode()


def _chat_call(request: Json) -> ChatCall:
    return replace(Chat().parse(request, "/v1/chat/completions"), id=ID)


def _events() -> list[Event]:
    fold, events = DeepSearchFold(UPSTREAM), list[Event]()
    *earlier, final = DELTAS
    for delta in earlier:
        events += fold.feed(_chunk(delta))
    return events + fold.feed(_chunk(final, "stop", LAST)) + fold.end()


def _chunk(delta: Json, finish: str | None = None, last: Json | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {"created": 1742181758, "system_fingerprint": "fp_1742181758589"}
    return msgspec.json.encode({**head, "choices": [choice], **(last or {})})


DEEPSEARCH: Json = {
    "model": "jina-deepsearch-v1",
    "messages": [{"role": "user", "content": "what's the latest blog post from jina ai?"}],
}
# Requests whose answers are examples in the document. The requests are not, or have another name there.
WHOLE: Json = {"deepsearch": DEEPSEARCH, "dropped": {**DEEPSEARCH, "x_reasoning": "drop"}}
STREAMED: Json = {
    "streamed": {
        **DEEPSEARCH,
        "stream": True,
        "stream_options": {"include_usage": True},
        "reasoning_effort": "medium",
    },
    "think_tags": {**DEEPSEARCH, "stream": True, "x_reasoning": "think_tags"},
}

# Failures.

Example = tuple[str, ToriiError]


def refused(attempt: Callable[[], object]) -> ToriiError:
    """The error that ``attempt`` raises."""
    try:
        attempt()
    except ToriiError as error:
        return error
    raise AssertionError("an example of a refusal was accepted")


USUAL = [endpoint for endpoint in ENDPOINTS.values() if not endpoint.optional]
NO_PATH = NotFound(f"there is nothing at '/v1/embedding'. This gateway serves {', '.join(served(USUAL))}")
NO_JSON = InvalidRequest("the body is not JSON: unexpected '\"' (byte 31)")
DRAINING = Unavailable("this gateway is shutting down", retry_after=1)
TRUNCATED = UpstreamTruncated("jina ended the stream before the answer was complete")
OVERLOADED = Overloaded("1000 calls are open, the limit of this gateway (max_concurrent_calls)", retry_after=1)
NOT_READY = Unavailable("shutting down", retry_after=1)


_GUARD = Guard(Hosts(()), (), ())
_OF_A_PAGE = {b"host": [b"localhost:8000"], b"origin": [b"https://page.example"]}


def _upstream(status: int, body: Json, headers: dict[str, str] | None = None, deepsearch: bool = False) -> ToriiError:
    """The gateway's error for an error answer of a provider."""
    return failure(Reply(status, headers or {}, msgspec.json.encode(body)), upstream="jina", deepsearch=deepsearch)


def failures() -> dict[int, dict[str, Example]]:
    """The examples of errors: by status and name, each with its summary."""
    callers = Callers([KnownKey(digest("a key of this gateway"), Caller("team"))])
    return {
        401: {
            "missing": ("No key", refused(lambda: callers.check({}))),
            "unknown": (
                "A key of somewhere else",
                refused(lambda: callers.check({b"authorization": [b"Bearer sk-0"]})),
            ),
        },
        403: {"page": ("A web page", refused(lambda: _GUARD.check("POST", "/v1/embeddings", _OF_A_PAGE)))},
        404: {
            "model": ("A model that is not known", refused(lambda: routes().find("jina-embedding-v3"))),
            "path": ("A path that there is not", NO_PATH),
        },
        405: {"method": ("A GET", MethodNotAllowed("GET is not allowed for /v1/embeddings; use POST", allow="POST"))},
        408: {"slow": ("A body that stalls", BodyTooSlow("the body did not arrive within 60 seconds"))},
        413: {
            "body": ("The whole body", TooLarge("the body is larger than 32 MB (max_body_megabytes)")),
            "part": (
                "One part",
                TooLarge(
                    "messages[0].content[1].file is larger than the 10 MB that DeepSearch takes in one part",
                    param="messages[0].content[1].file",
                ),
            ),
        },
        415: {
            "form": (
                "A form",
                UnsupportedMedia("send JSON, not a multipart form: content-type application/json"),
            )
        },
        429: {
            "rate": (
                "The provider's limit",
                _upstream(
                    429,
                    {"detail": "Rate limit exceeded", "code": "RATE_REQUEST_LIMIT_EXCEEDED"},
                    {"retry-after": "7"},
                ),
            )
        },
        500: {"bug": ("A bug", ToriiError("internal error; the gateway's log has the cause"))},
        502: {
            "failed": ("The provider failed", _upstream(500, {"detail": "Internal error", "code": "INTERNAL_ERROR"})),
            "key": ("The gateway's key is refused", _upstream(401, {"detail": "Unauthorized"})),
            "unreachable": ("Nobody there", UpstreamUnreachable("the upstream cannot be reached")),
            "truncated": ("Cut short", TRUNCATED),
        },
        503: {
            "draining": ("Shutting down", DRAINING),
            "overloaded": ("Too many calls at once", OVERLOADED),
            "quota": ("An empty account", _upstream(403, {"detail": "-", "code": "AUTHZ_INSUFFICIENT_BALANCE"})),
        },
        504: {
            "deepsearch": (
                "DeepSearch, whose run may go on and is paid for",
                _upstream(524, {"detail": "A timeout occurred"}, deepsearch=True),
            ),
            "provider": ("The provider says so", _upstream(504, {"detail": "Timed out", "code": "SERVICE_TIMEOUT"})),
            "total": ("The gateway's limit", UpstreamTimeout("the call exceeded timeouts.total_seconds")),
        },
    }


def _embedded(body: Json) -> object:
    endpoint = Embeddings()
    return endpoint.split(endpoint.parse(body, "/v1/embeddings"), 512)


def _ranked(body: Json) -> object:
    return Rerank().parse(body, "/v1/rerank")


def _searched(body: Json) -> object:
    return deepsearch_body(Chat().parse(body, "/v1/chat/completions"))


def _parsed(path: str, body: Json) -> object:
    return CLASSIFIER_ENDPOINTS[path].parse(body, path)


_THING: Json = {"model": "jina-embeddings-v3", "input": ["t"]}
HELLO: Json = {"model": "jina-embeddings-v3", "input": "Hello"}
_RERANK_REFUSED: Json = {
    "embeddings_body": {"model": "jina-embeddings-v3", "input": ["A beautiful sunset over the beach"]},
    "top_n": {"model": "jina-reranker-m0", "query": "bread", "documents": ["A recipe for bread"], "top_n": 0},
}
# The examples of status 400 by path: the function that refuses a body, and the bodies by name.
REFUSED: dict[str, tuple[Callable[[Json], object], Json]] = {
    "/v1/embeddings": (
        _embedded,
        {
            "no_input": {**HELLO, "input": []},
            "encoding": {**HELLO, "encoding_format": "hex"},
            "late_chunking": {**HELLO, "input": ["Hello"] * 513, "late_chunking": True},
        },
    ),
    "/v1/rerank": (_ranked, _RERANK_REFUSED),
    "/v2/rerank": (_ranked, _RERANK_REFUSED),
    "/v1/classify": (
        partial(_parsed, "/v1/classify"),
        {
            "no_labels": {**_THING, "labels": []},
            "mixed": {
                "model": "jina-clip-v2",
                "input": ["t", {"image": "https://example.org/a.png"}],
                "labels": ["a", "b"],
            },
            "neither": {"input": ["t"], "labels": ["a"]},
        },
    ),
    "/v1/train": (
        partial(_parsed, "/v1/train"),
        {
            "one_label": {**_THING, "input": [{"text": "a", "label": "x"}, {"text": "b", "label": "x"}]},
            "public": {
                **_THING,
                "input": [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}],
                "access": "public",
            },
        },
    ),
    "/v1/segment": (
        partial(_parsed, "/v1/segment"),
        {"both_ends": {"content": "a", "head": 1, "tail": 1}, "tokenizer": {"content": "a", "tokenizer": "cl100k"}},
    ),
    "/v1/chat/completions": (
        _searched,
        {
            "tools": {**DEEPSEARCH, "tools": [{"type": "function", "function": {"name": "weather"}}]},
            "hostnames": {**DEEPSEARCH, "only_hostnames": "jina.ai"},
            "reasoning": {**DEEPSEARCH, "x_reasoning": "content"},
            "last_message": {
                "model": "jina-deepsearch-v1",
                "messages": [{"role": "assistant", "content": "Hi, how can I help you?"}],
            },
        },
    ),
}


def refusals(path: str) -> Json:
    """The envelopes of the examples of status 400 at a path, by name."""
    attempt, bodies = REFUSED[path]
    errors = {name: refused(partial(attempt, body)) for name, body in bodies.items()}
    return {name: error.envelope() for name, error in {**errors, "json": NO_JSON}.items()}
