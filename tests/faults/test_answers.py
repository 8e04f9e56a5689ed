"""Rows 36-47: errors in every shape, and invalid answers, checked over the wire up to the last header."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ..conftest import JINA_KEY, replies, scripted_upstream
from .bench import (
    ANSWERED,
    CHAT,
    CHATS,
    DEEP,
    EMBED,
    EMBEDDINGS,
    RERANK,
    RERANKS,
    VECTORS,
    Bench,
    above_the_wire,
    asked,
    assert_booked,
    assert_booked_as,
    assert_counts,
    assert_failed,
)
from .scripts import wire

ASK = {**CHAT, "stream": False}
GOOD = replies(VECTORS)

# 36: the caller's mistake, in every shape.

SAID: dict[str, Any] = {
    "an object": {"error": {"message": "bad input", "type": "x", "code": "y", "param": None}},
    "a string": {"error": "bad input"},
    "a detail": {"detail": "bad input"},
    "a detail's object": {"detail": {"message": "bad input", "code": "X"}},
    "a list": {"detail": [{"loc": ["body", "input"], "msg": "bad input", "type": "x", "input": "my words"}]},
    "a list alone": [{"msg": "bad input"}],
    "null": None,
    "an empty object": {},
    "nothing": b"",
    "text": b"bad input",
    "HTML": b"<html><head><title>x</title></head><body><h1>bad input</h1><script>alert(1)</script></body></html>",
    "4 MB": {"error": {"message": "bad input " * 400_000}},
    "4 MB of HTML": b"<p>bad input</p>" * 260_000,
    "control characters": {"error": {"message": "bad\r\n\x00\x1b[2J\x07\u2028\u202einput\x7f"}},
    "other characters": b"bad input \xff\xfe\x80",
    "half JSON": b'{"error": {"message": "bad inp',
    "a deep one": b'{"error":' * 5000 + b'"bad input"' + b"}" * 5000,
    "a page about a key": {"error": f"bad input for {JINA_KEY} at http://127.0.0.1:1/v1"},
}
REJECTED = {400: (400, "upstream_rejected"), 404: (404, "model_not_found"), 413: (413, "upstream_rejected")}
REJECTED |= {415: (415, "upstream_rejected"), 422: (400, "upstream_rejected")}


@above_the_wire
@pytest.mark.parametrize("shape", SAID)
async def test_the_callers_mistake_in_any_shape(shape: str, bench: Bench) -> None:
    """The error keeps its class, its text is cleaned, and no further attempt is made."""
    async with bench.gateway(both=True) as gateway:
        for status, (told, code) in REJECTED.items():
            bench.jina.plays(replies(SAID[shape], status))
            body = {**EMBED, "model": "jina/a-model-of-theirs"}
            message = assert_failed(await asked(gateway, body=body), told, code, should_retry=False)
            assert len(message) < 600
            assert "my words" not in message
            assert "alert" not in message
        await assert_booked(gateway, *(told for told, _ in REJECTED.values()))
    assert (len(bench.jina.seen), len(bench.aihubmix.seen)) == (len(REJECTED), 0)


# A wrong address: 404 or 405 for a model that the upstream serves.

HERE = f"for {EMBED['model']}, which it serves; upstreams.jina.base_url in the gateway's configuration may be wrong"


@above_the_wire
@pytest.mark.parametrize("shape", SAID)
@pytest.mark.parametrize("status", [404, 405])
async def test_nothing_is_there_for_a_model_that_it_serves(status: int, shape: str, bench: Bench) -> None:
    """The next upstream is tried. If there is none, the error names the setting and contains none of the upstream's
    text."""
    bench.jina.plays(replies(SAID[shape], status))
    bench.aihubmix.plays(GOOD)
    async with bench.gateway() as gateway:
        message = assert_failed(await asked(gateway), 502, "upstream_misplaced", should_retry=False)
        assert message == f"jina answered {status} {HERE}, for example without /v1"
    async with bench.gateway(both=True) as gateway:
        for _ in range(6):  # the upstream keeps its place in the order
            response = await asked(gateway)
            assert (response.json(), response.headers["x-torii-upstream"]) == (ANSWERED, "aihubmix")
    assert len(bench.jina.seen) == 7


UNKNOWN: dict[int, dict[str, Any]] = {  # by status: the texts of AIHubMix, Jina, Ollama and vLLM
    400: {"error": {"message": "Incorrect model ID 'jina-embeddings-v3'.", "type": "Aihubmix_api_error"}},
    422: {"detail": "Model 'jina-embeddings-v3' not found", "code": "INPUT_MODEL_NOT_FOUND"},
    404: {"error": {"message": 'model "JINA-embeddings-v3" not found, try pulling it first', "type": "api_error"}},
    405: {"object": "error", "message": "The model `jina-embeddings-v3` does not exist.", "type": "NotFoundError"},
}


@above_the_wire
@pytest.mark.parametrize("status", UNKNOWN)
async def test_a_name_that_the_upstream_does_not_know_is_told_in_its_words(status: int, bench: Bench) -> None:
    """The address may be right, and the model's name in the configuration wrong."""
    bench.jina.plays(replies(UNKNOWN[status], status))
    bench.aihubmix.plays(GOOD)
    async with bench.gateway() as gateway:
        message = assert_failed(await asked(gateway), 502, "upstream_misplaced", should_retry=False)
        assert message.startswith("jina: ")
        assert message.endswith(
            ". The gateway expects it there: the model's name, or upstreams.jina.base_url, may be wrong in the "
            "gateway's configuration"
        )
        assert "jina-embeddings-v3" in message.lower()
    async with bench.gateway(both=True) as gateway:
        assert (await asked(gateway)).json() == ANSWERED


async def test_a_base_url_without_its_version_is_named_to_the_operator(bench: Bench) -> None:
    """DeepSearch has an address setting of its own. A model that the table does not list for the upstream is the
    caller's mistake, not the configuration's."""
    bench.jina.plays(replies({"detail": "Not Found"}, 404))
    async with bench.gateway() as gateway:
        failed = await asked(gateway, CHATS, {**DEEP, "stream": False})
        message = assert_failed(failed, 502, "upstream_misplaced", should_retry=False)
        assert "; upstreams.jina.deepsearch_base_url in the gateway's configuration" in message
        unknown = {**EMBED, "model": "jina/x"}
        assert_failed(await asked(gateway, body=unknown), 404, "model_not_found", should_retry=False)


# 37, 38: the gateway's own key and account.


@above_the_wire
@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key(status: int, bench: Bench, subtests: pytest.Subtests) -> None:
    async with bench.gateway() as gateway:
        for shape, body in SAID.items():
            with subtests.test(shape):
                bench.jina.seen.clear()
                bench.jina.plays(replies(body, status, www_authenticate='Bearer realm="jina"'))
                response = await asked(gateway)
                message = assert_failed(response, 502, "upstream_auth", should_retry=False)
                assert "your own key is fine" in message.lower()
                assert "www-authenticate" not in response.headers
                assert len(bench.jina.seen) == 1
                await assert_booked_as(gateway, response, 502)


BALANCE = "Account balance not enough to run this query, please recharge."
EMPTY: dict[str, tuple[int, Any]] = {
    "402 alone": (402, b""),
    "402 of DeepSearch": (402, {"error": BALANCE}),
    "403 of api.jina.ai": (403, {"detail": "Insufficient account balance.", "code": "AUTHZ_INSUFFICIENT_BALANCE"}),
    "403 of AIHubMix": (403, {"error": {"message": "Your account balance is insufficient.", "type": "x"}}),
    "400 of AIHubMix": (400, {"error": {"message": "Your account balance is insufficient.", "type": "x"}}),
    "429 of OpenAI": (429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}),
    "403 of one-api": (403, {"error": {"message": "x", "code": "insufficient_user_quota"}}),
    "500 of Reader": (500, {"code": 402, "status": 40203, "message": "x"}),
    "200 of Reader": (200, {"data": None, "code": 402, "status": 40203, "message": "x"}),
    "200 of AIHubMix": (200, {"error": {"message": "Your account balance is insufficient.", "type": "x"}}),
}


@above_the_wire
@pytest.mark.parametrize(("path", "asks"), [(EMBEDDINGS, EMBED), (CHATS, DEEP)], ids=["embeddings", "deepsearch"])
async def test_an_empty_account(path: str, asks: Any, bench: Bench, subtests: pytest.Subtests) -> None:
    async with bench.gateway() as gateway:
        for form, (status, body) in EMPTY.items():
            with subtests.test(form):
                bench.jina.seen.clear()
                bench.jina.plays(replies(body, status))
                response = await asked(gateway, path, asks)
                assert_failed(response, 503, "upstream_quota", should_retry=False)
                assert len(bench.jina.seen) == 1
                await assert_booked_as(gateway, response, 503)


# 39: 429.

NOON = "Wed, 21 Oct 2026 12:00:00 GMT"
LIMITED: dict[str, tuple[dict[str, str], str]] = {  # the upstream's headers, the caller's Retry-After
    "nothing said": ({}, "5"),
    "seconds": ({"retry_after": "12"}, "12"),
    "half a second": ({"retry_after": "0.5"}, "1"),
    "zero": ({"retry_after": "0"}, "1"),
    "a date": ({"retry_after": "Wed, 21 Oct 2026 12:00:30 GMT", "date": NOON}, "30"),
    "a date that was": ({"retry_after": "Wed, 21 Oct 2026 11:00:00 GMT", "date": NOON}, "1"),
    "a date without a Date": ({"retry_after": "Wed, 21 Oct 2026 12:00:30 GMT"}, "5"),
    "years": ({"retry_after": "999999999"}, "86400"),
    "more digits than a number": ({"retry_after": "9" * 400}, "5"),
    "below zero": ({"retry_after": "-5"}, "5"),
    "infinite": ({"retry_after": "inf"}, "5"),
    "exponent": ({"retry_after": "1e999"}, "5"),
    "words": ({"retry_after": "soon"}, "5"),
    "empty": ({"retry_after": ""}, "5"),
}


@above_the_wire
async def test_a_rate_limit(bench: Bench, subtests: pytest.Subtests) -> None:
    """The only key is used again if the limit ends soon; otherwise a retry would only meet the limit again."""
    for form, (headers, seconds) in LIMITED.items():
        with subtests.test(form):
            async with bench.gateway() as gateway:
                bench.jina.seen.clear()
                bench.jina.plays(replies({"detail": "slow down"}, 429, **headers))
                response = await asked(gateway)
                message = assert_failed(response, 429, "upstream_rate_limited", retry_after=seconds)
                assert message == "jina: slow down"
                assert len(bench.jina.seen) == (2 if seconds == "1" else 1)
                await assert_booked_as(gateway, response, 429)


@above_the_wire
@pytest.mark.parametrize(("path", "asks"), [(EMBEDDINGS, EMBED), (CHATS, DEEP)], ids=["embeddings", "deepsearch"])
async def test_a_rate_limit_at_both_tells_the_sooner(path: str, asks: Any, bench: Bench) -> None:
    bench.jina.plays(replies({"detail": "slow"}, 429, retry_after="90"))
    bench.aihubmix.plays(replies({"error": "slow"}, 429, retry_after="9"))
    async with bench.gateway(both=True) as gateway:
        response = await asked(gateway, path, asks)
        await assert_booked(gateway, 429)
    assert_failed(response, 429, "upstream_rate_limited", retry_after="9", upstream="aihubmix")
    assert (len(bench.jina.seen), len(bench.aihubmix.seen)) == (1, 1)


# 40: the upstream's own failures.

PAGE = b"<!DOCTYPE html><html><head><title>api.example | 524: A timeout occurred</title><style>a{}</style></head>"
PAGE += b"<body><h1>A timeout occurred</h1><p>Cloudflare Ray ID: <b>8a</b> http://127.0.0.1/</p></body></html>"
FAILED: dict[int, tuple[int, str]] = {
    **dict.fromkeys((500, 501, 502, 505, 520, 521, 522, 523, 525, 526, 529, 530, 599), (502, "upstream_error")),
    503: (503, "upstream_error"),
    **dict.fromkeys((408, 504, 524), (504, "upstream_timeout")),
}
BODIES = {"JSON": {"error": {"message": "oops"}}, "HTML": PAGE, "text": b"error code: 520", "nothing": b""}


@pytest.mark.parametrize("shape", BODIES)
async def test_a_failure_of_the_upstream(shape: str, bench: Bench) -> None:
    async with bench.gateway(both=True, max_attempts=2) as gateway:
        for status, (told, code) in FAILED.items():
            for each in (bench.jina, bench.aihubmix):
                each.plays(replies(BODIES[shape], status))
            response = await asked(gateway)
            assert_failed(response, told, code, upstream=response.headers["x-torii-upstream"])
        await assert_booked(gateway, *(told for told, _ in FAILED.values()))
    assert len(bench.jina.seen) == len(bench.aihubmix.seen) == len(FAILED)


@above_the_wire
async def test_a_failure_of_deepsearch_is_not_repeated_unless_it_was_refused(
    bench: Bench, subtests: pytest.Subtests
) -> None:
    """A 503 means that the run was not started. Any other failure leaves that open, and a run costs money."""
    async with bench.gateway() as gateway:
        for status, (told, code) in FAILED.items():
            with subtests.test(status=status):
                bench.jina.seen.clear()
                bench.jina.plays(replies(PAGE, status))
                response = await asked(gateway, CHATS, DEEP)
                assert_failed(response, told, code, should_retry=False)
                assert len(bench.jina.seen) == (2 if status == 503 else 1)
                await assert_booked_as(gateway, response, told)


@above_the_wire
async def test_the_time_to_come_back_of_a_503_is_kept(bench: Bench) -> None:
    bench.jina.plays(replies({"detail": "busy"}, 503, retry_after="17"))
    async with bench.gateway() as gateway:
        assert_failed(await asked(gateway), 503, "upstream_error", retry_after="17")


# 41: redirects.


async def test_a_redirect_is_followed_nowhere(bench: Bench, subtests: pytest.Subtests) -> None:
    async with scripted_upstream() as stranger, bench.gateway(both=True) as gateway:
        stranger.plays(GOOD)
        there = {"location": f"{stranger.url}/v1/embeddings", "refresh": f"0;url={stranger.url}"}
        for status in (300, 301, 302, 303, 304, 305, 307, 308):
            with subtests.test(status=status):
                bench.jina.seen.clear()
                bench.jina.plays(replies(b"", status, **there))
                for path, asks in ((EMBEDDINGS, EMBED), (CHATS, DEEP)):
                    response = await asked(gateway, path, asks)
                    assert_failed(response, 502, "upstream_redirect", should_retry=False)
                    assert "location" not in response.headers
                    await assert_booked_as(gateway, response, 502)
                assert len(bench.jina.seen) == 2
        assert (stranger.seen, stranger.readers, bench.aihubmix.seen) == ([], [], [])


# 42: errors that are sent as answers.

HIDDEN: dict[str, tuple[Any, int, str, dict[str, Any]]] = {
    "an object": ({"error": {"message": "boom"}}, 502, "upstream_error", {}),
    "an object beside an answer": ({**VECTORS, "error": {"message": "boom"}}, 502, "upstream_error", {}),
    "a string": ({"error": "boom"}, 502, "upstream_error", {}),
    "a detail": ({"detail": "boom"}, 502, "upstream_error", {}),
    "a time that ran out": ({"detail": "x", "code": "SERVICE_TIMEOUT"}, 504, "upstream_timeout", {}),
    "a key": ({"error": {"message": "no key provided"}}, 502, "upstream_auth", {"should_retry": False}),
    "a model": ({"error": {"message": "Incorrect model ID."}}, 404, "model_not_found", {"should_retry": False}),
    "a rate limit": ({"error": {"message": "x", "code": "429"}}, 429, "upstream_rate_limited", {"retry_after": "5"}),
    "a mistake": (
        {"error": {"message": "x", "type": "invalid_request_error"}},
        400,
        "upstream_rejected",
        {"should_retry": False},
    ),
}


@above_the_wire
@pytest.mark.parametrize(("body", "status", "code", "also"), HIDDEN.values(), ids=HIDDEN)
async def test_an_error_sent_as_an_answer(body: Any, status: int, code: str, also: Any, bench: Bench) -> None:
    bench.jina.plays(replies(body))
    async with bench.gateway() as gateway:
        response = await asked(gateway)
        assert_failed(response, status, code, **also)
        seen = len(bench.jina.seen)
        bench.aihubmix.plays(replies(body))
        await assert_booked(gateway, status)
    assert seen == (2 if code in ("upstream_error", "upstream_timeout") else 1)
    async with bench.mixed(max_attempts=1) as gateway:
        response = await asked(gateway, CHATS, ASK)
    assert_failed(response, status, code, upstream="aihubmix", **also)


@above_the_wire
@pytest.mark.parametrize("stream", [False, True])
async def test_deepsearchs_finish_reason_error(stream: bool, bench: Bench) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Error: boom"}, "finish_reason": "error"}
    bench.jina.plays(replies({"object": "chat.completion", "choices": [choice], "usage": {"total_tokens": 3}}))
    async with bench.gateway() as gateway:
        response = await asked(gateway, CHATS, {**DEEP, "stream": stream})
        [record] = await assert_booked(gateway, 502)
    assert assert_failed(response, 502, "upstream_error", should_retry=False) == "jina: boom"
    assert record.usage == {"total_tokens": 3}
    assert len(bench.jina.seen) == 1


@above_the_wire
async def test_another_models_finish_reason_error(bench: Bench) -> None:
    """Relays report failures of any model this way."""
    choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "error"}
    bench.aihubmix.plays(replies({"object": "chat.completion", "choices": [choice]}))
    async with bench.mixed() as gateway:
        assert_failed(await asked(gateway, CHATS, ASK), 502, "upstream_error", upstream="aihubmix")


# 43-45: invalid answers.

ITEM = {"object": "embedding", "index": 0, "embedding": [0.5]}


def vectors(*items: Any) -> bytes:
    return msgspec.json.encode({"data": items, "usage": {"total_tokens": 4}})


def vector(written: bytes) -> bytes:
    return b'{"data":[{"index":0,"embedding":[0.5]},{"index":1,"embedding":' + written + b"}]}"


def beside(written: bytes) -> bytes:
    """A good answer with an unknown field."""
    return b'{"new":' + written + b"," + msgspec.json.encode(VECTORS)[1:]


NONE: dict[str, bytes] = {
    # 43
    "nothing": b"",
    "white space": b" \r\n",
    "null": b"null",
    "a list": b"[]",
    "a list of vectors": b"[[0.5],[0.25]]",
    "a text": b'"ok"',
    "a number": b"1",
    "true": b"true",
    "an object": b"{}",
    "HTML": b"<!DOCTYPE html><html><body>Sign in</body></html>",
    "text": b"OK",
    "a stream": b"data: {}\n\ndata: [DONE]\n\n",
    "null data": b'{"data":null}',
    # 44
    "half JSON": msgspec.json.encode(VECTORS)[:-9],
    "JSON and more": msgspec.json.encode(VECTORS) + b"x",
    "JSON twice": msgspec.json.encode(VECTORS) * 2,
    "two byte order marks": b"\xef\xbb\xbf" * 2 + msgspec.json.encode(VECTORS),
    "UTF-16": msgspec.json.encode(VECTORS).decode().encode("utf-16"),
    "bad UTF-8": b'{"model":"\xff",' + msgspec.json.encode(VECTORS)[1:],
    "deep": b'{"data":' + b"[" * 100_000,
    "deep beside": beside(b"[" * 100_000 + b"]" * 100_000),
    "NaN": vector(b"[NaN]"),
    "Infinity": vector(b"[-Infinity]"),
    "1e999": vector(b"[1e999]"),
    "a long number": vector(b"[" + b"9" * 20_000 + b"]"),
    "a long index": b'{"data":[{"index":0,"embedding":[1]},{"index":' + b"9" * 20_000 + b',"embedding":[1]}]}',
    "NaN beside": beside(b"NaN"),
    "1e999 beside": beside(b"1e999"),
    "1e999 in usage": b'{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[1]}],"x":{"y":[1e999]}}',
    # 45
    "no vector": vectors(),
    "too few": vectors(ITEM),
    "too many": vectors(*({**ITEM, "index": n} for n in range(3))),
    "an index too far": vectors(ITEM, {**ITEM, "index": 2}),
    "an index below": vectors(ITEM, {**ITEM, "index": -1}),
    "an index twice": vectors(ITEM, ITEM),
    "an index missing": vectors(ITEM, {"embedding": [0.5]}),
    "a half index": vectors(ITEM, {**ITEM, "index": 0.5}),
    "two sizes": vectors(ITEM, {**ITEM, "index": 1, "embedding": [0.5, 0.5]}),
    "an empty vector": vectors(ITEM, {**ITEM, "index": 1, "embedding": []}),
    "a null vector": vectors(ITEM, {**ITEM, "index": 1, "embedding": None}),
    "a null in a vector": vectors(ITEM, {**ITEM, "index": 1, "embedding": [None]}),
    "a text in a vector": vectors(ITEM, {**ITEM, "index": 1, "embedding": ["0.5"]}),
    "no base64": vectors(ITEM, {**ITEM, "index": 1, "embedding": "?"}),
    "null items": vectors(None, None),
}


@above_the_wire
async def test_an_answer_that_is_none(bench: Bench, subtests: pytest.Subtests) -> None:
    async with bench.gateway() as gateway:
        for kind, body in NONE.items():
            with subtests.test(kind):
                bench.jina.seen.clear()
                bench.jina.plays(replies(body))
                response = await asked(gateway)
                assert len(assert_failed(response, 502, "upstream_error")) < 200
                assert len(bench.jina.seen) == 2
                await assert_booked_as(gateway, response, 502)


@pytest.mark.parametrize("lines", [[], ["content-length: 0"]])
@pytest.mark.parametrize("status", ["204 No Content", "205 Reset Content"])
async def test_a_success_without_content(status: str, lines: list[str], bench: Bench) -> None:
    data = "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()
    endless = status.startswith("205") and not lines  # such a response ends only with its connection
    bench.jina.plays(wire(data, end="fin" if endless else "open"))
    async with bench.gateway() as gateway:
        assert_failed(await asked(gateway), 502, "upstream_error")
    assert len(bench.jina.seen) == 2


RESULT = {"index": 0, "relevance_score": 0.5}
RANKED = {
    "no results": {"results": []},
    "an index too far": {"results": [RESULT, {**RESULT, "index": 2}]},
    "an index below": {"results": [{**RESULT, "index": -1}]},
    "an index twice": {"results": [RESULT, RESULT]},
    "more than there are": {"results": [{**RESULT, "index": n} for n in range(3)]},
    "fewer than asked for": {"results": [RESULT]},
    "no score": {"results": [{"index": 0}, {"index": 1}]},
    "a text for a score": {"results": [{"index": 0, "relevance_score": "0.5"}, {**RESULT, "index": 1}]},
    "1e999": b'{"results":[{"index":0,"relevance_score":1e999},{"index":1,"relevance_score":1}]}',
    "a list": [],
    "null": None,
}


@above_the_wire
async def test_a_ranking_that_is_none(bench: Bench, subtests: pytest.Subtests) -> None:
    async with bench.gateway() as gateway:
        for kind, body in RANKED.items():
            with subtests.test(kind):
                bench.jina.seen.clear()
                bench.jina.plays(replies(body))
                response = await asked(gateway, RERANKS, RERANK)
                assert len(assert_failed(response, 502, "upstream_error")) < 200
                assert len(bench.jina.seen) == 2
                await assert_booked_as(gateway, response, 502)


COMPLETIONS = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "HTML": b"<html>",
    "no choices": b'{"id":"x"}',
    "null choices": b'{"choices":null}',
    "empty choices": b'{"choices":[]}',
    "choices that are none": b'{"choices":[null]}',
    "half": b'{"choices":[{"index":0,"message":{"role":"assi',
    "NaN": b'{"choices":[{"index":0,"message":{"content":NaN}}]}',
    "deep": b'{"choices":' + b"[" * 100_000,
}


@above_the_wire
async def test_a_chat_answer_that_is_none(bench: Bench, subtests: pytest.Subtests) -> None:
    async with bench.mixed() as gateway:
        for kind, body in COMPLETIONS.items():
            with subtests.test(kind):
                bench.aihubmix.seen.clear()
                bench.aihubmix.plays(replies(body))
                response = await asked(gateway, CHATS, ASK)
                assert len(assert_failed(response, 502, "upstream_error", upstream="aihubmix")) < 200
                assert len(bench.aihubmix.seen) == 2
                await assert_booked_as(gateway, response, 502)


# 46: out of order.


@above_the_wire
async def test_vectors_out_of_order_are_put_in_order(bench: Bench) -> None:
    bench.jina.plays(replies({**VECTORS, "data": [*reversed(VECTORS["data"])]}))  # type: ignore[call-overload]
    async with bench.gateway() as gateway:
        response = await asked(gateway)
    assert (response.status_code, response.json()) == (200, ANSWERED)
    assert len(bench.jina.seen) == 1


# 47: usage.

USAGES = {
    "missing": b"",
    "null": b'"usage":null,',
    "a text": b'"usage":"many",',
    "a number": b'"usage":7,',
    "a list": b'"usage":[7],',
    "empty": b'"usage":{},',
    "null counts": b'"usage":{"total_tokens":null,"prompt_tokens":null},',
    "counts as text": b'"usage":{"total_tokens":"7","prompt_tokens":"7"},',
    "below zero": b'"usage":{"total_tokens":-7,"prompt_tokens":-7},',
    "1e30": b'"usage":{"total_tokens":1e30,"prompt_tokens":1e30},',
    "2**60": b'"usage":{"total_tokens":1152921504606846976,"prompt_tokens":1},',
    "a hundred digits": b'"usage":{"total_tokens":' + b"9" * 100 + b"},",
    "half": b'"usage":{"total_tokens":7.5},',
    "true": b'"usage":{"total_tokens":true},',
    "twice": b'"usage":{"total_tokens":7,"total_tokens":9},"usage":{"total_tokens":5},',
}
CALLS: dict[str, tuple[str, Any, Any]] = {
    "embeddings": (EMBEDDINGS, EMBED, {"data": VECTORS["data"]}),
    "rerank": (RERANKS, RERANK, {"results": [RESULT, {**RESULT, "index": 1}]}),
    "chat": (CHATS, ASK, {"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}),
}


@above_the_wire
@pytest.mark.parametrize("call", CALLS)
async def test_usage_that_is_none_spoils_no_answer(call: str, bench: Bench, subtests: pytest.Subtests) -> None:
    path, asks, body = CALLS[call]
    async with bench.mixed() if call == "chat" else bench.gateway() as gateway:
        for kind, usage in USAGES.items():
            with subtests.test(kind):
                for each in (bench.jina, bench.aihubmix):
                    each.plays(replies(b"{" + usage + msgspec.json.encode(body)[1:]))
                response = await asked(gateway, path, asks)
                assert response.status_code == 200, response.text
                await assert_booked_as(gateway, response, 200)
                told = response.json().get("usage")
                assert_counts(told)
                assert call == "chat" or {"prompt_tokens", "total_tokens"} <= set(told)
