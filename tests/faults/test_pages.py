"""Rows 36, 40, 42-44, 53: HTML in place of an answer, and JSON after a byte order mark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from app.core.json import encode

from ..conftest import JINA_KEY, replies, streams
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
    assert_booked_as,
    assert_broken,
    assert_complete,
    assert_failed,
)
from .scripts import sse
from .test_streams import DEEPSEARCH, MODEL, TEXT, Speech, each_speech

pytestmark = above_the_wire

BOM = b"\xef\xbb\xbf"
SECRETS = ("203.0.113.9", "8ab1cdef", "Ray", "blocked", "Sign in", "proxy-7")
WORDS = "Sorry, you have been blocked. Ray ID: 8ab1cdef. Your IP: 203.0.113.9. proxy-7"
WHOLE = f"<!DOCTYPE html><html><head><title>Sign in {WORDS}</title></head><body><h1>{WORDS}</h1></body></html>"

PAGES: dict[str, str] = {
    "a page": WHOLE,
    "in capitals": WHOLE.upper().replace("SIGN IN", "Sign in"),
    "white space first": f"\r\n\n \t{WHOLE}",
    "a comment first": f"<!-- {WORDS} -->\n{WHOLE}",
    "a prolog": f'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0">\n{WHOLE}',
    "no doctype": f"<html>\n<body>{WORDS}</body></html>",
    "a namespace": f'<html xmlns="http://www.w3.org/1999/xhtml"><body>{WORDS}</body></html>',
    "a fragment": f"<h1>403</h1><p>{WORDS}</p>",
    "an unknown tag": f"<cf-error>{WORDS}</cf-error>",
    "text, then markup": f"{WORDS}<br>\n<hr/>nginx",
    "text, then a page": f"502: {WHOLE}",
    "cut in its middle": WHOLE[:90],
    "cut in a tag": f"<html><body><p>{WORDS}</p><di",
    "cut in its first tag": f'<html lang="{WORDS}',
    "an open script": f"<script>{WORDS}",
    "a byte order mark": f"\ufeff{WHOLE}",
}


def assert_page(response: Any, status: int, code: str, says: str, **more: Any) -> None:
    """Check the whole message, and that nothing of the page appears anywhere."""
    assert assert_failed(response, status, code, **more) == says
    assert_untold(response)


def assert_untold(response: Any) -> None:
    told = response.text + str(response.headers)
    assert not [word for word in SECRETS if word.lower() in told.lower()]


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
async def test_a_page_in_place_of_an_error(page: str, bench: Bench) -> None:
    kinds = ("text/html; charset=utf-8", "application/json", "text/plain")
    async with bench.gateway(max_attempts=1) as gateway:
        for kind in kinds:
            for status, told, code in ((502, 502, "upstream_error"), (504, 504, "upstream_timeout")):
                bench.jina.plays(replies(page.encode(), status, content_type=kind))
                says = f"jina answered {status} with an HTML page"
                assert_page(await asked(gateway), told, code, says)
                assert_page(await asked(gateway, CHATS, DEEP), told, code, says, should_retry=False)


@pytest.mark.parametrize("kind", ["text/html", "TEXT/HTML;charset=gbk", "application/xhtml+xml"])
async def test_what_calls_itself_a_page_is_one(kind: str, bench: Bench) -> None:
    """Unless the body is JSON."""
    async with bench.gateway(max_attempts=1) as gateway:
        bench.jina.plays(replies(WORDS.encode(), 503, content_type=kind))
        assert_page(await asked(gateway), 503, "upstream_error", "jina answered 503 with an HTML page")
        bench.jina.plays(replies({"detail": "busy now"}, 503, content_type=kind))
        assert assert_failed(await asked(gateway), 503, "upstream_error") == "jina: busy now"


async def test_a_page_in_utf_16(bench: Bench) -> None:
    async with bench.gateway(max_attempts=1) as gateway:
        for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
            bench.jina.plays(replies(WHOLE.encode(encoding), 502, content_type="text/plain"))
            assert_page(await asked(gateway), 502, "upstream_error", "jina answered 502 with an HTML page")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"error code: 1020", "jina: error code: 1020"),
        (b"no upstream for 10.0.0.7, ray 8ab1cdef", "jina: no upstream for 10.0.0.7, ray 8ab1cdef"),
        (b"the limit is 100%, not 3", "jina: the limit is 100%, not 3"),
    ],
)
async def test_a_text_without_markup_is_told(text: bytes, says: str, bench: Bench) -> None:
    bench.jina.plays(replies(text, 502, content_type="text/plain"))
    async with bench.gateway(max_attempts=1) as gateway:
        assert assert_failed(await asked(gateway), 502, "upstream_error") == says


@pytest.mark.parametrize(
    "text",
    [
        "expected <string>",
        "value <model> unknown",
        "the lengths must be a < b, a <b, and c <d",
        "got <class 'int'>, not list<string>",
        "send Bearer <your-api-key>",
        "input is longer than <max_tokens> <= 8192",
        "<|endoftext|> is not allowed",
    ],
)
async def test_a_word_in_angle_brackets_is_told(text: str, bench: Bench) -> None:
    """However often the text was escaped."""
    async with bench.gateway(max_attempts=1) as gateway:
        for escape in (str, escaped, twice, as_json, as_javascript):
            bench.jina.plays(replies({"detail": f"no: {escape(text)}"}, 500))
            response = await asked(gateway)
            assert (response.status_code, response.json()["detail"]) == (502, f"jina: no: {text}")


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def twice(text: str) -> str:
    return escaped(escaped(text))


def as_json(text: str) -> str:
    return text.replace("<", "\\u003c").replace(">", "\\u003e")


def as_javascript(text: str) -> str:
    return text.replace("<", "\\x3C").replace(">", "\\x3E")


# Pages without any of the usual tags.
FRAGMENTS = {
    "an unknown tag": f"<cf-error>{WORDS}</cf-error>",
    "an unknown tag, cut": f"502 <cf-error code='1020'>{WORDS}",
    "an attribute without quotes": f"<cf-error code=1020>{WORDS}",
    "closed in itself": f"{WORDS} <cf-ray/>",
    "small": f"<b>Bad</b> <small>{WORDS}</small>",
    "small, cut": f"Bad <small>{WORDS}",
    "b, cut": f"the <b>{WORDS}",
    "cut before its end": f"{WORDS}</cf-err",
    "a section of XML": f"<![CDATA[{WORDS}]]>",
}
ESCAPES: dict[str, Callable[[str], str]] = {
    "plain": str,
    "escaped": escaped,
    "twice": twice,
    "five times": lambda text: escaped(twice(twice(text))),
    "too often": lambda text: twice(twice(twice(twice(twice(twice(text)))))),
    "as numbers": lambda text: text.replace("<", "&#60;").replace(">", "&#x3e;"),
    "as JSON": as_json,
    "as JSON in JSON": lambda text: as_json(text).replace("\\", "\\\\"),
    "as JavaScript": as_javascript,
    "as an URL": lambda text: text.replace("<", "%3C").replace(">", "%3E"),
    "as JavaScript, escaped": lambda text: as_javascript(twice(text)).replace("&", "\\x26"),
}


@pytest.mark.parametrize("escape", ESCAPES)
async def test_a_page_is_one_however_it_is_escaped(escape: str, bench: Bench, subtests: pytest.Subtests) -> None:
    async with bench.gateway(max_attempts=1) as gateway:
        for kind, page in {**FRAGMENTS, "a page": WHOLE}.items():
            with subtests.test(kind):
                text = ESCAPES[escape](page)
                for status, body in ((500, {"detail": f"no: {text}"}), (500, text.encode()), (200, {"error": text})):
                    bench.jina.plays(replies(body, status, content_type="text/plain"))
                    response = await asked(gateway)
                    assert_page(response, 502, "upstream_error", f"jina answered {status} with an HTML page")


@pytest.mark.parametrize("status", [201, 202, 203, 207])
async def test_the_status_that_came_is_told(status: int, bench: Bench) -> None:
    """For the success statuses."""
    says = f"{{}} answered {status} with an HTML page"
    async with bench.gateway(max_attempts=1) as gateway:
        for body in (WHOLE.encode(), {"error": WHOLE}):
            bench.jina.plays(replies(body, status))
            assert_page(await asked(gateway), 502, "upstream_error", says.format("jina"))
            assert_page(await asked(gateway, RERANKS, RERANK), 502, "upstream_error", says.format("jina"))
            bench.jina.plays(replies(sse(WHOLE.encode()), status))
            response = await asked(gateway, CHATS, DEEP)
            assert_page(response, 502, "upstream_error", says.format("jina"), should_retry=False)
    async with bench.mixed(max_attempts=1) as gateway:
        for stream in (False, True):
            bench.aihubmix.plays(replies(WHOLE.encode(), status))
            response = await asked(gateway, CHATS, {**CHAT, "stream": stream})
            assert_page(response, 502, "upstream_error", says.format("aihubmix"), upstream="aihubmix")


def shapes(page: str) -> dict[str, Any]:
    """A page inside JSON, in each place where the gateway looks for an upstream's message."""
    return {
        "message": {"error": {"message": page, "type": "x", "code": "y"}},
        "message with words before it": {"error": {"message": f"bad response from upstream: {page}"}},
        "text": {"error": page},
        "detail": {"detail": page},
        "detail's message": {"detail": {"message": page, "code": "X"}},
        "list": {"detail": [{"loc": ["body", "input"], "msg": page}]},
        "errors": {"errors": [{"field": "input", "message": page}, {"field": "x", "message": "y"}]},
        "readableMessage": {"readableMessage": page, "code": 500},
        "escaped": {"error": {"message": page.replace("<", "&lt;").replace(">", "&gt;")}},
        "JSON in JSON": {"error": {"message": msgspec.json.encode({"error": page}).decode()}},
        "JSON in JSON, escaped": {"error": {"message": page.replace("<", "\\u003c").replace(">", "\\u003e")}},
    }


@pytest.mark.parametrize("shape", shapes(""))
async def test_a_page_inside_of_json(shape: str, bench: Bench) -> None:
    async with bench.gateway(max_attempts=1) as gateway:
        for page in (WHOLE, f"<h1>502</h1>{WORDS}"):
            bench.jina.plays(replies(shapes(page)[shape], 500))
            response = await asked(gateway)
            assert_untold(response)
            assert_failed(response, 502, "upstream_error")
            assert response.json()["error"]["message"] == "jina answered 500 with an HTML page"
            bench.jina.plays(replies(shapes(page)[shape]))
            response = await asked(gateway)
            assert_untold(response)
            assert response.json()["error"]["message"] == "jina answered 200 with an HTML page"


async def test_words_beside_a_page_are_told(bench: Bench) -> None:
    bench.jina.plays(replies({"message": WHOLE, "detail": "model overloaded", "param": f"<p>{WORDS}"}, 500))
    async with bench.gateway(max_attempts=1) as gateway:
        response = await asked(gateway)
    assert_untold(response)
    assert assert_failed(response, 502, "upstream_error") == "jina: model overloaded"
    assert response.json()["error"]["param"] is None


async def test_what_a_page_says_still_decides(bench: Bench) -> None:
    """An empty account is recognised in HTML too."""
    bench.jina.plays(replies(f"<html><p>Insufficient account balance. {WORDS}</p></html>".encode(), 403))
    async with bench.gateway(max_attempts=1) as gateway:
        response = await asked(gateway)
        assert_failed(response, 503, "upstream_quota", should_retry=False)
        assert_untold(response)


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
async def test_a_page_in_place_of_an_answer(page: str, bench: Bench) -> None:
    says = "jina answered 200 with an HTML page"
    async with bench.gateway(max_attempts=1) as gateway:
        bench.jina.plays(replies(page.encode(), content_type="text/html"))
        assert_page(await asked(gateway), 502, "upstream_error", says)
        assert_page(await asked(gateway, RERANKS, RERANK), 502, "upstream_error", says)
    async with bench.mixed(max_attempts=1) as gateway:
        bench.aihubmix.plays(replies(page.encode(), content_type="text/html"))
        response = await asked(gateway, CHATS, {**CHAT, "stream": False})
        assert_page(response, 502, "upstream_error", says.replace("jina", "aihubmix"), upstream="aihubmix")


@each_speech
async def test_a_page_in_place_of_a_stream(speech: Speech, bench: Bench, subtests: pytest.Subtests) -> None:
    """As the body, if the body begins as a page, and as the data of an event."""
    says = f"{speech.name} answered 200 with an HTML page"
    retry = {"should_retry": speech.retry, "upstream": speech.name}
    async with speech.before(bench, max_attempts=1) as gateway:
        for kind, page in PAGES.items():
            bodies = {"event": sse(page.replace("\r", "").replace("\n", " ").encode())}
            if not kind.startswith("text"):  # as a body, such a page is an unknown line of a stream
                bodies["body"] = page.encode()
            for place, body in bodies.items():
                with subtests.test(kind, place=place):
                    speech.of(bench).plays(streams(body))
                    assert_page(await asked(gateway, CHATS, speech.asks), 502, "upstream_error", says, **retry)
                    if place == "event":
                        speech.of(bench).plays(streams(speech.begin, body))
                        response = await asked(gateway, CHATS, speech.asks)
                        assert assert_broken(response, 502, "upstream_error") == says
                        assert_untold(response)
        with subtests.test("collected"):
            speech.of(bench).plays(streams(WHOLE.encode()) if speech is DEEPSEARCH else replies(WHOLE.encode()))
            response = await asked(gateway, CHATS, {**speech.asks, "stream": False, "stream_options": None})
            assert_page(response, 502, "upstream_error", says, **retry)


@each_speech
async def test_a_page_in_an_error_of_a_stream(speech: Speech, bench: Bench) -> None:
    said = f"Error: {WHOLE}"
    choice = {"index": 0, "delta": {"content": said, "type": "error"}, "finish_reason": "error"}
    for data in (sse({"error": {"message": said}}), sse({"id": "1", "choices": [choice]})):
        async with speech.before(bench, max_attempts=1) as gateway:
            for begin in (b"", speech.begin):
                speech.of(bench).plays(streams(begin, data))
                response = await asked(gateway, CHATS, speech.asks)
                assert_untold(response)
                assert "answered 200 with an HTML page" in response.text
                await assert_booked_as(gateway, response, 502)


async def test_a_model_may_write_html(bench: Bench) -> None:
    """The content of an answer is the model's own and is not checked for HTML."""
    content = {"id": "u", "choices": [{"index": 0, "delta": {"content": WHOLE}, "finish_reason": "stop"}]}
    bench.aihubmix.plays(streams(sse(content), sse(b"[DONE]")))
    async with bench.mixed() as gateway:
        assert_complete(await asked(gateway, CHATS, MODEL.asks), WHOLE)


# A byte order mark before JSON.


def marked(body: Any) -> bytes:
    return BOM + encode(body)


async def test_an_answer_behind_a_byte_order_mark(bench: Bench) -> None:
    ranked = {"model": "m", "results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 4}}
    answers: tuple[tuple[str, Any, Any], ...] = (
        (EMBEDDINGS, EMBED, VECTORS),
        (EMBEDDINGS, {**EMBED, "encoding_format": "base64"}, VECTORS),
        (RERANKS, {**RERANK, "top_n": 1}, ranked),
    )
    async with bench.gateway() as gateway:
        for path, asks, body in answers:
            bench.jina.plays(replies(body), replies(marked(body)))
            plain, behind = await asked(gateway, path, asks), await asked(gateway, path, asks)
            assert plain.status_code == behind.status_code == 200, behind.text
            assert {**plain.json(), "id": None} == {**behind.json(), "id": None}
        assert len(bench.jina.seen) == 2 * len(answers)


async def test_a_chat_answer_behind_a_byte_order_mark(bench: Bench) -> None:
    body = {"id": "u", "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}}]}
    bench.aihubmix.plays(replies(marked(body)))
    async with bench.mixed() as gateway:
        response = await asked(gateway, CHATS, {**CHAT, "stream": False})
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == TEXT


@each_speech
async def test_a_stream_behind_byte_order_marks(speech: Speech, bench: Bench) -> None:
    """Before the stream, and before the data of each event."""
    speech.of(bench).plays(streams(BOM + speech.good.replace(b"data: {", b"data: " + BOM + b"{")))
    async with speech.before(bench) as gateway:
        assert_complete(await asked(gateway, CHATS, speech.asks), TEXT)


async def test_an_error_behind_a_byte_order_mark(bench: Bench) -> None:
    bench.jina.plays(replies(marked({"detail": "bad input"}), 400))
    async with bench.gateway() as gateway:
        response = await asked(gateway)
    assert assert_failed(response, 400, "upstream_rejected", should_retry=False) == "jina: bad input"


async def test_a_callers_body_behind_a_byte_order_mark(bench: Bench) -> None:
    bench.jina.plays(replies(VECTORS))
    async with bench.gateway() as gateway:
        assert (await asked(gateway, EMBEDDINGS, marked(EMBED))).json() == ANSWERED
        assert bench.jina.seen[0].body["input"] == EMBED["input"]
        for body in (BOM + marked(EMBED), encode(EMBED).decode().encode("utf-16"), BOM):
            assert (await asked(gateway, EMBEDDINGS, body)).status_code == 400
    assert len(bench.jina.seen) == 1
    assert bench.jina.seen[0].headers["authorization"] == f"Bearer {JINA_KEY}"
