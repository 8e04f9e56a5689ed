"""Errors of upstreams, replayed from tests/wire/errors.jsonl, and the resulting errors for callers."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import errors
from app.core.errors import (
    UpstreamAuth,
    UpstreamError,
    UpstreamFailed,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
)
from app.core.types import Reply
from app.upstreams.errors import RETRY_AFTER, failure, hidden_failure, told_as_text

LINES = (Path(__file__).parents[1] / "wire" / "errors.jsonl").read_bytes().splitlines()
CASES: list[dict[str, Any]] = [msgspec.json.decode(line) for line in LINES]


def _failure(status: int, body: object, **headers: str) -> UpstreamError:
    encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return failure(
        Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, encoded), upstream="u"
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['upstream']}: {case['case']}")
def test_every_documented_error_becomes_its_class_and_leaks_nothing(case: dict[str, Any]) -> None:
    reply = Reply(case["status"], case["headers"], case["body"].encode())
    error = failure(reply, upstream=case["upstream"], deepsearch=case["deepsearch"])
    expected = case["expect"]
    assert type(error) is getattr(errors, expected["class"])
    assert {name: getattr(error, name) for name in expected if name != "class"} == {
        name: value for name, value in expected.items() if name != "class"
    }
    for secret in ("https://", "jina.ai", "<", "my private text", "secret words", "\n", "\x00", "alert"):
        assert secret not in error.message


def test_trap_18_deepsearchs_error_is_a_string() -> None:
    error = _failure(400, {"error": "Last message must be from user"})
    assert isinstance(error, UpstreamRejected)
    assert error.message == "u: Last message must be from user"
    hidden = hidden_failure({"error": "Internal error"}, upstream="u")
    assert isinstance(hidden, UpstreamFailed)
    assert hidden.message == "u: Internal error"


def test_trap_19_nothing_of_an_html_error_page_is_told() -> None:
    page = (
        b"<html><head><title>x</title></head><body><h1>Bad&nbsp;gateway</h1><!-- a --><p>nginx &lt;b&gt;x&lt;/b&gt;</p>"
    )
    page += b"<script src='"
    assert _failure(502, page).message == "u answered 502 with an HTML page"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (402, {"error": "Account balance not enough to run this query, please recharge."}),
        (403, {"detail": "Insufficient account balance.", "code": "AUTHZ_INSUFFICIENT_BALANCE"}),
        (
            403,
            {
                "error": {
                    "message": "Your account balance is insufficient. Please recharge",
                    "type": "Aihubmix_api_error",
                }
            },
        ),
        (
            400,
            {
                "error": {
                    "message": "Your account balance is insufficient. Please recharge",
                    "type": "Aihubmix_api_error",
                }
            },
        ),
        (500, {"code": 402, "status": 40203, "message": "x"}),
    ],
)
def test_trap_28_an_empty_account_is_one_error_whichever_status_tells_it(status: int, body: object) -> None:
    error = _failure(status, body)
    assert type(error) is UpstreamQuota
    assert (error.status, error.type, error.should_retry) == (503, "insufficient_quota", False)
    assert (
        error.message
        == "the gateway's account at u has no balance left; the gateway's operator must top it up or add a key"
    )


@pytest.mark.parametrize("status", [401, 403])
def test_trap_29_a_refused_upstream_key_is_never_the_callers_401(status: int) -> None:
    error = _failure(status, {"error": {"message": "Incorrect API key provided: sk-live-1234567890"}})
    assert type(error) is UpstreamAuth
    assert (error.status, error.should_retry) == (502, False)
    assert "sk-live" not in error.message


def test_trap_30_the_input_that_a_validation_echoes_is_taken_out() -> None:
    body = {
        "detail": "Validation errors in 1 fields. my private text",
        "errors": [
            {"field": "body -> input", "message": "'my private text' is not a list", "input": "my private text"},
        ],
    }
    error = _failure(422, body)
    assert isinstance(error, UpstreamRejected)
    assert error.envelope() == {
        "error": {
            "message": "u: input: '(your input)' is not a list",
            "type": "invalid_request_error",
            "param": "input",
            "code": "upstream_rejected",
        },
        "detail": "u: input: '(your input)' is not a list",
    }


@pytest.mark.parametrize(
    ("given_", "seconds"),
    [
        ({"retry_after": "12"}, 12.0),
        ({"retry_after": "0.5"}, 0.5),
        ({"retry_after": "999999999"}, 86_400.0),
        ({"retry_after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        ({"retry_after": "Wed, 21 Oct 2026 07:27:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0.0),
        ({"retry_after": "Wed, 21 Oct 2026 07:28:30 GMT"}, RETRY_AFTER),
        ({"retry_after": "soon"}, RETRY_AFTER),
        ({"retry_after": "-5"}, RETRY_AFTER),
        ({"retry_after": "1e999"}, RETRY_AFTER),
        ({}, RETRY_AFTER),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(given_: dict[str, str], seconds: float) -> None:
    error = _failure(429, {"error": "slow down"}, **given_)
    assert isinstance(error, UpstreamRateLimited)
    assert error.retry_after == seconds


def test_a_message_of_4_mb_is_cut() -> None:
    long = (b"x", b"<", b"<a", b"\\", b"\\u00", b"&amp;", b"%25", b"<a =", b"<p ", b"<a/")
    for body in ({"error": {"message": "x" * 4_000_000}}, *(piece * (4_000_000 // len(piece)) for piece in long)):
        assert len(_failure(500, body).message) < 600


def test_an_error_nested_without_end_is_no_error_of_ours() -> None:
    deep = b'{"error":' * 5000 + b"1" + b"}" * 5000
    assert isinstance(_failure(500, deep), UpstreamFailed)
    assert isinstance(_failure(500, b'{"error":' * 200 + b'"x"' + b"}" * 200), UpstreamFailed)


def test_a_timeout_of_deepsearch_is_not_to_be_repeated_but_one_of_embeddings_may_be() -> None:
    reply = Reply(504, {}, b"")
    assert failure(reply, upstream="u", deepsearch=True).should_retry is False
    assert failure(reply, upstream="u").should_retry is None


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"error": {"message": "Your account balance is insufficient.", "type": "Aihubmix_api_error"}}, UpstreamQuota),
        ({"error": {"message": "no key provided (tid: 1)", "type": "Aihubmix_api_error"}}, UpstreamAuth),
        ({"error": {"message": "Incorrect model ID. (tid: 1)", "type": "Aihubmix_api_error"}}, UpstreamRejected),
        ({"error": {"message": "no_valid_channel_error", "type": "Aihubmix_api_error"}}, UpstreamFailed),
        ({"error": {"message": "bad", "type": "invalid_request_error"}}, UpstreamRejected),
        ({"error": {"message": "slow", "code": "429"}}, UpstreamRateLimited),
        ({"error": "boom", "choices": []}, UpstreamFailed),
        ({"detail": "Service request timed out.", "code": "SERVICE_TIMEOUT"}, UpstreamTimeout),
        ({"detail": "anything"}, UpstreamFailed),
        ({"data": None, "code": 402, "status": 40203, "message": "x"}, UpstreamQuota),
    ],
)
def test_an_error_sent_with_status_200_is_found(payload: object, expected: type[UpstreamError]) -> None:
    assert type(hidden_failure(payload, upstream="u")) is expected


@pytest.mark.parametrize(
    "payload",
    [
        {"data": [], "usage": {}},
        {"results": [], "message": "ok"},
        {"choices": [], "error": None},
        {"choices": [{}], "error": {"message": "", "type": "", "code": None}},
        {"id": "x", "object": "chat.completion.chunk"},
        {},
        [],
        "error",
        None,
    ],
)
def test_an_answer_is_not_taken_for_an_error(payload: object) -> None:
    assert hidden_failure(payload, upstream="u") is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "detail", "message", "errors", "code", "msg", "loc", "input"]), inner
        )
    ),
    max_leaves=12,
)


@given(status=st.integers(300, 599), body=JSON)
def test_no_body_is_too_odd_to_be_read(status: int, body: object) -> None:
    error = failure(Reply(status, {}, msgspec.json.encode(body)), upstream="u", deepsearch=status % 2 == 0)
    assert error.status in (400, 404, 413, 415, 429, 502, 503, 504)
    assert error.message
    assert not any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in error.message)


@given(status=st.integers(300, 599), body=st.binary(max_size=200))
def test_no_bytes_are_too_odd_to_be_read(status: int, body: bytes) -> None:
    assert failure(Reply(status, {}, body), upstream="u").message.startswith(
        ("u", "the gateway's account at u", "the upstream")
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Error: Invalid argument", "Invalid argument"),
        ("Failed <b>hard</b> at https://x.example/z?key=1", "Failed hard at (link)"),
        ("see www.x.example/path, ftp://a.example/c and //cdn.example/x.js", "see (link) (link) and (link)"),
        ("[a](javascript:alert(1)) and ![b](https://a.example/c) end", "a and b end"),
        ("mailto:a@b.example data:text/html;base64,AAAA", "(link) (link)"),
        ("&lt;b&gt;x&lt;/b&gt; &amp;lt;i&amp;gt;y \\u003cu\\u003ez", "x y z"),
        ("No such file\n    at read (/srv/app/a.js:3:4)\n    at node:internal:1:2", "No such file"),
        ("a < b and c > d, at\nat noon: [x] (y)", "a < b and c > d, at at noon: [x] (y)"),
    ],
)
def test_an_error_told_as_text_has_no_markup_links_and_paths(text: str, told: str) -> None:
    assert told_as_text(text, upstream="u").message == f"u: {told}"


# A call of the gateway's own that has come back to it.


def test_a_loop_is_not_tried_again() -> None:
    error = failure(
        Reply(508, {}, b'{"error": {"message": "the name leads back", "code": "loop_detected"}}'), upstream="jina"
    )
    assert (error.status, error.code, error.repeatable) == (502, "upstream_misplaced", False)
