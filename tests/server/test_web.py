"""Reader and search over sockets with an upstream that plays r.jina.ai and s.jina.ai: paths, forms, options, errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from app.usage.ledger import spent

from ..conftest import (
    JINA_KEY,
    RunningGateway,
    ScriptedUpstream,
    replies,
    running_gateway,
    settings_for,
)

PAGE = {
    "code": 200,
    "status": 20000,
    "data": {"title": "A", "url": "https://a.example/", "content": "# A", "usage": {"tokens": 12}},
    "meta": {"usage": {"tokens": 12}},
}
RESULTS = {
    "code": 200,
    "status": 20000,
    "data": [{"title": "A", "url": "https://a.example/", "content": "", "usage": {"tokens": 3334}}] * 3,
    "meta": {"usage": {"tokens": 10000}},
}
TEXT = b"Title: A\n\nURL Source: https://a.example/\n\nMarkdown Content:\n# A\n"
PLAIN = {"content-type": "text/plain; charset=utf-8", "x-usage-tokens": "12"}
CALLER_KEY = "sk-torii-1-of-the-tests"
READ = {"url": "https://a.example/"}


@pytest.fixture
async def reader(upstream: ScriptedUpstream) -> AsyncIterator[RunningGateway]:
    upstream.plays(replies(PAGE))
    async with running_gateway(settings_for(upstream.url)) as running:
        yield running


def text(body: bytes = TEXT, **headers: Any) -> Any:
    given: dict[str, Any] = {**PLAIN, **headers}
    return replies(body, 200, **given)


def failure(status: int, inner: int, name: str = "AssertionFailureError", **headers: str) -> Any:
    said = {"data": None, "code": status, "status": inner, "name": name, "message": "No content", "readableMessage": ""}
    return replies(said, status, **headers)


async def raw_get(gateway: RunningGateway, target: str, *lines: str) -> tuple[int, dict[str, str], bytes]:
    """An answer to a GET of exactly this target: HTTP clients repair what they are given."""
    host, port = gateway.url.removeprefix("http://").split(":")
    stream, writer = await asyncio.open_connection(host, int(port))
    named = "" if any(line.startswith("host:") for line in lines) else f"host: {host}\r\n"
    head = "".join(f"{line}\r\n" for line in lines)
    writer.write(f"GET {target} HTTP/1.1\r\n{named}connection: close\r\n{head}\r\n".encode())
    answer = await stream.read()
    writer.close()
    first, _, body = answer.partition(b"\r\n\r\n")
    status, *rest = first.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
    return int(status.split()[1]), headers, body


# The target of a page is what came over the wire.


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/r/https://a.example/p?x=1&y=2", "https://a.example/p?x=1&y=2"),
        ("/r/https%3A%2F%2Fa.example%2Fp%3Fx%3D1", "https://a.example/p?x=1"),
        ("/r/https://a.example/?q=a%26b", "https://a.example/?q=a&b"),
        ("/r/https:/a.example", "https://a.example"),
        ("/r/a.example", "a.example"),
        ("/r/https://a.example//b//c/?token=x&key=y", "https://a.example//b//c/?token=x&key=y"),
        ("/r/https://a.example/%23/route", "https://a.example/#/route"),
        ("/r/https://a.example/%zz?%E0", "https://a.example/%zz?%E0"),
        ("/r/https://r.jina.ai/https://a.example/", "https://a.example/"),
        ("/r/https://a.example/v1/v1/embeddings", "https://a.example/v1/v1/embeddings"),
        ("/r/https://a.example/%2e%2e/admin/v1/keys?api_key=1", "https://a.example/../admin/v1/keys?api_key=1"),
    ],
)
async def test_the_address_behind_r_is_the_page(
    reader: RunningGateway, upstream: ScriptedUpstream, path: str, url: str
) -> None:
    upstream.plays(text())
    status, headers, body = await raw_get(reader, path)
    assert (status, body) == (200, TEXT)
    assert headers["content-type"] == "text/plain; charset=utf-8"
    (seen,) = upstream.seen
    assert (seen.method, seen.path, seen.raw) == ("POST", "/reader/", msgspec.json.encode({"url": url}))
    assert seen.headers["accept"] == "text/plain"
    assert seen.headers["authorization"] == f"Bearer {JINA_KEY}"


async def test_a_post_is_exact(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    for path in ("/r", "/r/", "/v1/reader", "/reader", "/v1//reader"):
        assert (
            await reader.post(path, {"url": "https://a.example/?q=a%26b"}, accept="application/json")
        ).json() == PAGE
    assert [seen.body for seen in upstream.seen] == [{"url": "https://a.example/?q=a%26b"}] * 5


async def test_a_get_has_the_address_in_its_query(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    response = await reader.client.get("/v1/reader", params={"url": "https://a.example/?a=b&c=d"})
    assert response.json() == PAGE
    assert upstream.seen[0].body == {"url": "https://a.example/?a=b&c=d"}


@pytest.mark.parametrize(
    "path",
    ["/r/http://169.254.169.254/", "/r/file:///etc/passwd", "/r/http://localhost:8000/", "/r/http://0x7f.1/x"],
)
async def test_an_address_that_the_provider_refuses_never_leaves(
    reader: RunningGateway, upstream: ScriptedUpstream, path: str
) -> None:
    status, _, body = await raw_get(reader, path)
    said = msgspec.json.decode(body)
    assert (status, said["error"]["code"], said["error"]["param"]) == (400, "url_not_allowed", "url")
    assert said.keys() == {"data", "code", "status", "name", "message", "readableMessage", "error", "detail"}
    assert (said["data"], said["code"], said["status"]) == (None, 400, 40001)
    assert upstream.seen == []


async def test_without_an_address_nothing_is_asked(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    for response in (
        await reader.client.get("/r/"),
        await reader.client.get("/r"),
        await reader.client.get("/v1/reader"),
        await reader.post("/r", {}),
        await reader.post("/v1/reader", b""),
    ):
        assert (response.status_code, response.json()["error"]["param"]) == (400, "url")
    for response in (await reader.client.get("/s/"), await reader.post("/v1/search", {"q": " "})):
        assert (response.status_code, response.json()["error"]["param"]) == (400, "q")
    assert upstream.seen == []


async def test_other_methods_are_told_what_is_right(reader: RunningGateway) -> None:
    for path in ("/r/https://a.example", "/v1/search", "/s"):
        response = await reader.client.put(path)
        assert (response.status_code, response.headers["allow"]) == (405, "GET, POST")


async def test_a_long_address_is_a_414(reader: RunningGateway) -> None:
    status, _, _ = await raw_get(reader, "/r/https://a.example/" + "a" * 9000)
    assert status == 414


# The form of an answer.


@pytest.mark.parametrize(
    ("path", "accept", "form"),
    [
        ("/r/https://a.example", "*/*", "text/plain"),
        ("/r/https://a.example", "", "text/plain"),
        ("/r/https://a.example", "text/markdown", "text/plain"),
        ("/r/https://a.example", "application/json", "application/json"),
        ("/r/https://a.example", "application/json, text/plain, */*", "text/plain"),
        ("/r/https://a.example", "application/json, text/plain;q=0", "application/json"),
        ("/v1/reader?url=https://a.example", "*/*", "application/json"),
        ("/v1/reader?url=https://a.example", "", "application/json"),
        ("/v1/reader?url=https://a.example", "text/plain", "text/plain"),
    ],
)
async def test_the_accept_header_decides_the_form(
    reader: RunningGateway, upstream: ScriptedUpstream, path: str, accept: str, form: str
) -> None:
    upstream.plays(text() if form == "text/plain" else replies(PAGE))
    status, headers, _ = await raw_get(reader, path, *([f"accept: {accept}"] if accept else []))
    assert status == 200
    assert headers["content-type"].partition(";")[0] == form
    assert upstream.seen[0].headers["accept"] == form
    assert headers["x-usage-tokens"] == "12"
    assert (headers["x-content-type-options"], headers["content-security-policy"]) == ("nosniff", "sandbox")
    assert (headers["x-torii-upstream"], headers["x-torii-upstream-model"]) == ("jina", "jina-reader")


async def test_a_page_in_html_is_shown_to_nobody_as_a_page(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(text(b"<script>alert(1)</script>", content_type="text/html"))
    response = await reader.client.get("/r/https://a.example", headers={"x-respond-with": "html"})
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.content == b"<script>alert(1)</script>"
    assert "set-cookie" not in response.headers


async def test_a_picture_passes_as_it_is(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    picture = b"\x89PNG\r\n\x1a\n\0\xff"
    upstream.plays(text(picture, content_type="image/png", set_cookie="a=b"))
    response = await reader.client.get("/r/https://a.example", headers={"x-respond-with": "pageshot"})
    assert (response.headers["content-type"], response.content) == ("image/png", picture)
    assert "set-cookie" not in response.headers


async def test_a_screenshot_as_text_is_a_redirect_to_it(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(b"", 302, location="https://pictures.example/a?signature=s", x_usage_tokens="765"))
    response = await reader.client.get("/r/https://a.example", headers={"x-respond-with": "screenshot"})
    assert (response.status_code, response.content) == (302, b"")
    assert response.headers["location"] == "https://pictures.example/a?signature=s"
    (record,) = await reader.ended(1)
    assert (record.status, record.usage and record.usage["total_tokens"]) == (302, 765)


@pytest.mark.parametrize(
    "picture", [replies(b"", 302, location="https://pictures.example/a"), replies(b"\x89PNG", content_type="image/png")]
)
async def test_a_picture_without_a_count_costs_what_one_costs_at_least(
    reader: RunningGateway, upstream: ScriptedUpstream, picture: Any
) -> None:
    upstream.plays(picture)
    response = await reader.client.get("/r/https://a.example", headers={"x-respond-with": "screenshot"})
    assert response.headers.get("x-usage-tokens") == ("765" if response.status_code == 200 else None)
    (record,) = await reader.ended(1)
    (use,) = record.uses.values()
    assert (spent(use).total, spent(use).estimated) == (765, True)


@pytest.mark.parametrize("location", ["http://pictures.example/a", "/a", "https://a.example/ b", ""])
async def test_any_other_redirect_is_none(reader: RunningGateway, upstream: ScriptedUpstream, location: str) -> None:
    upstream.plays(replies(b"", 302, location=location))
    response = await reader.client.get("/r/https://a.example", headers={"x-respond-with": "screenshot"})
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_redirect")
    assert "location" not in response.headers


async def test_a_redirect_that_nobody_asked_for_is_a_fault(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(b"", 302, location="https://pictures.example/a"))
    response = await reader.client.get("/r/https://a.example")
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_redirect")


# Options.


async def test_only_what_is_asked_for_goes_upstream(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    response = await reader.client.get(
        "/v1/reader?url=a.example",
        headers={
            "x-no-cache": "false",
            "x-with-links-summary": "all",
            "x-field-of-tomorrow": "1",
            "x-forwarded-for": "192.0.2.7",
            "cookie": "a=b",
            "user-agent": "an agent of the caller's",
        },
    )
    assert response.headers["x-torii-dropped"] == "x-field-of-tomorrow"
    sent = upstream.seen[0].headers
    assert {name: value for name, value in sent.items() if name.startswith("x-")} == {"x-with-links-summary": "all"}
    assert "cookie" not in sent
    assert sent["user-agent"].startswith("torii/")


async def test_options_of_a_body_go_as_headers_where_these_can_hold_them(
    reader: RunningGateway, upstream: ScriptedUpstream
) -> None:
    body = {
        **READ,
        "respondWith": ["markdown", "html"],
        "targetSelector": ["main", "#körper"],
        "removeSelector": ["nav", "footer"],
        "noCache": False,
        "withLinksSummary": True,
        "maxTokens": 500,
        "timeout": 12.5,
        "markdown": {"headingStyle": "atx"},
        "viewport": {"width": 100, "height": 50},
        "_token": "jina_not_for_us",
        "nonsense": 1,
    }
    response = await reader.post("/v1/reader", body, **{"x-max-tokens": "900", "x-engine": "browser"})
    assert response.headers["x-torii-dropped"] == "nonsense"
    (seen,) = upstream.seen
    assert seen.body == {**READ, "targetSelector": ["main", "#körper"], "viewport": {"width": 100, "height": 50}}
    assert {name: value for name, value in seen.headers.items() if name.startswith("x-")} == {
        "x-respond-with": "markdown,html",
        "x-engine": "browser",
        "x-remove-selector": "nav, footer",
        "x-with-links-summary": "true",
        "x-max-tokens": "500",
        "x-timeout": "12.5",
        "x-md-heading-style": "atx",
    }


async def test_a_header_that_says_nothing_does_not_hide_the_field(
    reader: RunningGateway, upstream: ScriptedUpstream
) -> None:
    body = {**READ, "retainImages": "none", "engine": "curl", "base": "final"}
    await reader.post("/v1/reader", body, **{"x-retain-images": "bogus", "x-engine": "", "x-base": "initial"})
    sent = upstream.seen[0].headers
    assert (sent["x-retain-images"], sent["x-engine"], sent["x-base"]) == ("none", "curl", "initial")


SECRETS: list[Any] = [
    ({"X-Set-Cookie": "a=b-secret-c"}, {}, "X-Set-Cookie"),
    ({"X-Proxy-Url": "http://u:b-secret-c@p.example"}, {}, "X-Proxy-Url"),
    ({}, {"setCookies": [{"name": "a", "value": "b-secret-c"}]}, "setCookies"),
    ({}, {"customHeader": {"authorization": "b-secret-c"}}, "customHeader"),
    ({}, {"injectPageScript": ["b-secret-c"]}, "injectPageScript"),
    ({}, {"injectFrameScript": ["b-secret-c"]}, "injectFrameScript"),
    ({}, {"proxyUrl": "http://u:b-secret-c@p.example"}, "proxyUrl"),
]


@pytest.mark.parametrize(("headers", "fields", "name"), SECRETS)
async def test_a_secret_option_is_refused(
    reader: RunningGateway,
    upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
    headers: dict[str, str],
    fields: dict[str, Any],
    name: str,
) -> None:
    with caplog.at_level(logging.DEBUG):
        response = await reader.post("/r", {**READ, **fields}, **headers)
    said = response.json()["error"]
    assert (response.status_code, said["code"], said["param"]) == (400, "option_not_allowed", name)
    assert upstream.seen == []
    assert "b-secret-c" not in response.text + caplog.text + repr(reader.records)


@pytest.mark.parametrize(("headers", "fields", "name"), SECRETS)
async def test_a_secret_option_that_is_allowed_comes_back_in_no_message(
    upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
    headers: dict[str, str],
    fields: dict[str, Any],
    name: str,
) -> None:
    allow = ["setCookies", "proxyUrl", "customHeader", "injectPageScript", "injectFrameScript"]
    upstream.plays(replies({"code": 400, "status": 40001, "message": "I do not like b-secret-c at all"}, 400))
    settings = settings_for(upstream.url, reader={"allow": allow, "cache_seconds": 60}, cache={"store": "memory"})
    async with running_gateway(settings) as gateway:
        with caplog.at_level(logging.DEBUG):
            response = await gateway.post("/v1/reader", {**READ, **fields}, **headers)
        upstream.plays(replies(PAGE))
        for _ in range(2):
            again = await gateway.post("/v1/reader", {**READ, **fields}, **headers)
            assert (again.status_code, again.headers.get("x-torii-cache")) == (200, None)
    assert response.status_code == 400
    assert "I do not like [redacted] at all" in response.text
    assert "b-secret-c" in str(upstream.seen[0].headers) + upstream.seen[0].raw.decode()
    assert "b-secret-c" not in response.text + caplog.text + repr(gateway.records)


@pytest.mark.parametrize(
    ("headers", "body", "param"),
    [
        ({}, {"timeout": 181}, "timeout"),
        ({}, {"timeout": 0}, "timeout"),
        ({"x-timeout": "soon"}, {}, "X-Timeout"),
        ({}, {"maxTokens": 499}, "maxTokens"),
        ({"x-max-tokens": "499"}, {}, "X-Max-Tokens"),
        ({}, {"retainImages": "some"}, "retainImages"),
        ({}, {"withIframe": "maybe"}, "withIframe"),
        ({}, {"noCache": [1]}, "noCache"),
        ({}, {"targetSelector": 7}, "targetSelector"),
        ({}, {"tokenBudget": "many"}, "tokenBudget"),
    ],
)
async def test_a_wrong_option_is_named(
    reader: RunningGateway, upstream: ScriptedUpstream, headers: dict[str, str], body: dict[str, Any], param: str
) -> None:
    response = await reader.post("/v1/reader", {**READ, **body}, **headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert param in response.json()["message"]
    assert upstream.seen == []


# Forms.


async def test_a_form_is_read(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(text())
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = b"url=https%3A%2F%2Fa.example%2F%23%2Froute&noCache=true&maxTokens=600&targetSelector=a&targetSelector=b"
    response = await reader.client.post("/r", content=body, headers=form)
    assert response.content == TEXT
    (seen,) = upstream.seen
    assert seen.body == {"url": "https://a.example/#/route"}
    sent = {name: value for name, value in seen.headers.items() if name.startswith("x-")}
    assert sent == {"x-no-cache": "true", "x-max-tokens": "600", "x-target-selector": "a, b"}


@pytest.mark.parametrize("q", ["caf\u00e9 \u6f6e\u6c50", "a\ufffd"])
async def test_a_query_and_a_form_may_be_in_any_script(
    reader: RunningGateway, upstream: ScriptedUpstream, q: str
) -> None:
    upstream.plays(replies(RESULTS))
    written = {"caf\u00e9 \u6f6e\u6c50": "caf%C3%A9+%E6%BD%AE%E6%B1%90", "a\ufffd": "a%ff"}[q]
    assert (await reader.client.get(f"/s?q={written}&num=2", headers={"accept": "application/json"})).json() == RESULTS
    assert (await reader.client.get(f"/v1/search?q={written}&num=2")).json() == RESULTS
    form = {"content-type": "application/x-www-form-urlencoded"}
    for body in (f"q={written}&num=2", f"q={q}&num=2"):
        assert (await reader.client.post("/v1/search", content=body.encode(), headers=form)).json() == RESULTS
    assert [seen.body for seen in upstream.seen] == [{"q": q, "num": 2}] * 4


async def test_a_field_that_nobody_filled_in_is_none(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = await reader.client.post(
        "/r", content=b"url=&html=%3Cp%3Ea", headers=form | {"accept": "application/json"}
    )
    assert answer.json() == PAGE
    assert upstream.seen[0].body == {"html": "<p>a"}
    twice = (await reader.client.get("/v1/search?q=a&q=b")).json()["error"]
    assert (twice["param"], twice["message"]) == ("q", "q must be one text: what to search for")


async def test_json_that_curl_calls_a_form_is_json(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    response = await reader.client.post("/v1/reader", content=b' {"url": "https://a.example/"}', headers=form)
    assert response.json() == PAGE


async def test_a_form_of_too_many_fields_is_refused(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    response = await reader.client.post("/v1/reader", content=b"a=b&" * 2000, headers=form)
    assert response.status_code == 400
    assert upstream.seen == []


async def test_another_kind_of_body_is_a_415(reader: RunningGateway) -> None:
    response = await reader.client.post("/r", content=b"<a/>", headers={"content-type": "application/xml"})
    assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_media_type")
    form = await reader.client.post("/v1/embeddings", files={"file": b"%PDF-1.4"})
    assert form.status_code == 415  # only these paths read forms


# Searches.


async def test_a_search_behind_s(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(RESULTS))
    path = "/s/C%23%20jobs?num=5&site=a.example&engine=bing&nfpr=true&x=1"
    status, headers, body = await raw_get(reader, path, "accept: application/json")
    assert (status, msgspec.json.decode(body)) == (200, RESULTS)
    assert headers["x-torii-dropped"] == "x"
    (seen,) = upstream.seen
    assert (seen.method, seen.path) == ("POST", "/search/")
    assert seen.body == {"q": "C# jobs", "num": 5, "provider": "bing", "nfpr": True}
    assert seen.headers["x-site"] == "a.example"
    (record,) = await reader.ended(1)
    assert record.usage is not None
    assert record.usage["total_tokens"] == 10000


async def test_a_query_beats_the_path_and_count_is_num(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(RESULTS))
    for response in (
        await reader.client.get("/s/other?q=x&count=3", headers={"accept": "application/json"}),
        await reader.post("/s", {"q": "x", "count": 3}, accept="application/json"),
        await reader.post("/s/x", {"num": 3}, accept="application/json"),
        await reader.client.get("/v1/search?q=x&num=3"),
        await reader.post("/search", {"q": "x", "num": 3}),
    ):
        assert response.json() == RESULTS
    assert [seen.body for seen in upstream.seen] == [{"q": "x", "num": 3}] * 5


@pytest.mark.parametrize(
    ("body", "param"),
    [({"num": 21}, "num"), ({"num": -1}, "num"), ({"count": "many"}, "num"), ({"type": "maps"}, "type")],
)
async def test_a_wrong_parameter_of_a_search_is_named(reader: RunningGateway, body: Any, param: str) -> None:
    response = await reader.post("/v1/search", {"q": "x", **body})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


# Keys.


@pytest.fixture
async def closed(upstream: ScriptedUpstream) -> AsyncIterator[RunningGateway]:
    upstream.plays(replies(RESULTS))
    async with running_gateway(settings_for(upstream.url, caller_key=CALLER_KEY)) as running:
        yield running


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": CALLER_KEY},
        {"authorization": f"Bearer {CALLER_KEY}"},
        {"x-api-key": CALLER_KEY},
        {"api-key": CALLER_KEY, "authorization": CALLER_KEY},
    ],
)
async def test_a_key_is_taken_with_and_without_bearer(
    closed: RunningGateway, upstream: ScriptedUpstream, headers: dict[str, str]
) -> None:
    response = await closed.post("/s", {"q": "x", "count": 3}, accept="application/json", **headers)
    assert response.status_code == 200
    assert upstream.seen[0].body == {"q": "x", "num": 3}
    assert CALLER_KEY not in str(upstream.seen[0].headers)


async def test_a_key_in_a_query_of_ours_is_refused_and_in_a_pages_is_none(
    closed: RunningGateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(text())
    assert (await closed.client.get(f"/r/https://a.example?token={CALLER_KEY}")).status_code == 401
    key = {"authorization": f"Bearer {CALLER_KEY}"}
    assert (await closed.client.get("/r/https://a.example?token=x", headers=key)).status_code == 200
    assert (await closed.client.get(f"/s/x?token={CALLER_KEY}", headers=key)).status_code == 401
    response = await closed.client.get("/s/x?_token=jina_1")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "_token")
    assert "_token" not in str((await closed.client.get("/s/x?_token=jina_1", headers=key)).headers)
    assert all("jina_1" not in seen.raw.decode() for seen in upstream.seen)


async def test_a_refusal_has_the_form_that_the_caller_reads(closed: RunningGateway) -> None:
    response = await closed.client.get("/r/https://a.example", headers={"accept": "text/plain"})
    assert (response.status_code, response.headers["content-type"]) == (401, "text/plain; charset=utf-8")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.text.startswith("AuthenticationRequiredError: ")
    assert response.text.endswith("\n")
    response = await closed.client.get("/r/https://a.example", headers={"accept": "*/*"})
    assert (response.status_code, response.json()["status"]) == (401, 40103)


# Errors.


async def test_nothing_found_is_an_answer(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(failure(422, 42206))
    for _ in range(20):
        response = await reader.post("/v1/reader", READ)
        assert (response.status_code, response.headers["x-should-retry"]) == (422, "false")
        said = response.json()
        assert (said["error"]["code"], said["status"], said["name"]) == (
            "nothing_found",
            42206,
            "AssertionFailureError",
        )
        assert said["detail"] == said["message"] == "jina: No content"
        assert said["readableMessage"] == "AssertionFailureError: jina: No content"
    assert len(upstream.seen) == 20
    assert not reader.generations.now.pools["jina"].breaker.open


@pytest.mark.parametrize(
    ("upstreams", "ours"),
    [
        ((400, 40001), (400, "invalid_request")),
        ((401, 40103), (502, "upstream_auth")),
        ((403, 40304), (502, "upstream_auth")),
        ((402, 40203), (503, "upstream_quota")),
        ((402, 40202), (400, "tier_feature")),
        ((403, 40301), (403, "target_blocked")),
        ((403, 40399), (403, "target_blocked")),
        ((451, 45102), (403, "target_blocked")),
        ((408, 40801), (504, "target_timeout")),
        ((409, 40902), (403, "robots_denied")),
        ((409, 40904), (400, "token_budget_exceeded")),
        ((413, 41301), (413, "too_large")),
        ((422, 42205), (502, "target_failed")),
        ((429, 42903), (429, "upstream_rate_limited")),
        ((500, 50001), (502, "upstream_error")),
        ((503, 50301), (503, "upstream_error")),
        ((404, 40400), (502, "upstream_misplaced")),
    ],
)
async def test_an_error_says_whose_fault_it_is(
    reader: RunningGateway, upstream: ScriptedUpstream, upstreams: tuple[int, int], ours: tuple[int, str]
) -> None:
    upstream.plays(failure(*upstreams, retry_after="30"))
    response = await reader.post("/v1/reader", READ)
    assert (response.status_code, response.json()["error"]["code"]) == ours
    again = upstreams[1] // 100 == 503  # only a refusal before the work is repeated, once
    assert len(upstream.seen) == 1 + again


async def test_a_wrong_address_of_the_reader_is_named(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(b"nothing here", 404, content_type="text/plain"))
    said = (await reader.post("/v1/reader", READ)).json()["message"]
    assert "upstreams.jina.reader_base_url" in said
    assert "/v1" not in said  # these hosts have none
    assert "upstreams.jina.search_base_url" in (await reader.post("/v1/search", {"q": "x"})).json()["message"]


async def test_an_error_in_text_is_read_too(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    body = b"AssertionFailureError: No content available for this page\n"
    upstream.plays(replies(body, 422, content_type="text/plain"))
    response = await reader.client.get("/r/https://a.example", headers={"accept": "text/plain"})
    assert response.status_code == 422
    assert response.text == "AssertionFailureError: jina: No content available for this page\n"


async def test_an_error_sent_as_success_is_an_error(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies({"code": 422, "status": 42206, "data": None, "message": "No content"}))
    assert (await reader.post("/v1/reader", READ)).status_code == 422
    for body in (
        b"",
        b"{}",
        b'{"code":200,"data":[]}',
        b"<html><body>ray id</body></html>",
        b'{"code":200,"data":{"a":',
    ):
        upstream.plays(replies(body))
        response = await reader.post("/v1/reader", READ)
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_error")
        assert "ray id" not in response.text


NOTHING = {"data": None, "code": 422, "status": 42206, "name": "AssertionFailureError", "message": "No content"}


@pytest.mark.parametrize("accept", ["text/plain", "application/json", "text/event-stream"])
async def test_an_error_in_json_with_a_status_of_success_is_one_in_every_form(
    reader: RunningGateway, upstream: ScriptedUpstream, accept: str
) -> None:
    streamed = b"event: data\ndata: " + msgspec.json.encode(NOTHING) + b"\n\n"
    upstream.plays(replies(streamed, 200, content_type="text/event-stream") if "event" in accept else replies(NOTHING))
    answer = await reader.post("/v1/reader", READ, accept=accept)
    assert (answer.status_code, b"AssertionFailureError" in answer.content) == (422, True)


async def test_json_in_place_of_text_has_its_usage(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    for body, tokens in ((PAGE, "12"), ([1, 2], "1"), ({"code": "a", "data": [None]}, "6")):
        upstream.plays(replies(body))
        answer = await reader.client.get("/r/https://a.example")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert (answer.content, answer.headers["x-usage-tokens"]) == (msgspec.json.encode(body), tokens)


async def test_html_that_nobody_asked_for_is_no_page(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(text(b"<!DOCTYPE html><title>Just a moment</title>", content_type="text/html"))
    answer = await reader.client.get("/r/https://a.example")
    assert (answer.status_code, "HTML page" in answer.json()["message"]) == (502, True)


async def test_half_an_emoji_and_a_byte_order_mark_are_no_fault(
    reader: RunningGateway, upstream: ScriptedUpstream
) -> None:
    body = rb'{"code":200,"data":{"content":"\ud83d\ude80 \\ud83d \ud83d","usage":{"tokens":7}}}'
    upstream.plays(replies(b"\xef\xbb\xbf" + body))
    answer = await reader.post("/v1/reader", READ)
    assert (answer.status_code, answer.content, answer.headers["x-usage-tokens"]) == (200, body, "7")
    page = rb'{"content":"\ude80 \ud83d","usage":{"tokens":7}}'
    upstream.plays(replies(b"event: data\ndata: " + page + b"\n\n", 200, content_type="text/event-stream"))
    answer = await reader.post("/v1/reader", READ, accept="text/event-stream")
    assert answer.content == b"event: data\ndata: " + page + b"\n\n"


async def test_an_event_of_another_name_is_no_page(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    page = b'event: data\ndata: {"content":"a","usage":{"tokens":7}}\n\n'
    upstream.plays(replies(page + b"event: ping\ndata: {}\n\n", 200, content_type="text/event-stream"))
    answer = await reader.post("/v1/reader", READ, accept="text/event-stream")
    assert answer.content == page
    (record,) = await reader.ended(1)
    assert record.usage is not None
    assert record.usage["total_tokens"] == 7


async def test_a_breaker_counts_only_what_is_the_providers(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    breaker = reader.generations.now.pools["jina"].breaker
    for inner in (40301, 45102, 42204):
        upstream.plays(failure(inner // 100, inner))
        for _ in range(6):
            await reader.post("/v1/reader", READ)
        assert not breaker.open
    for inner in (40801, 50001):
        upstream.plays(failure(inner // 100, inner))
        for _ in range(6):
            await reader.post("/v1/reader", READ)
        assert breaker.open
        upstream.plays(replies(PAGE))
        await reader.post("/v1/reader", READ)
        assert not breaker.open


async def test_a_timeout_of_the_provider_is_asked_for_once(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(failure(408, 40801))
    answer = await reader.post("/v1/reader", READ)
    assert (answer.status_code, answer.json()["status"], answer.json()["error"]["code"]) == (
        504,
        40801,
        "target_timeout",
    )
    assert len(upstream.seen) == 1


async def test_a_408_of_an_api_counts_as_a_timeout(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies({"detail": "Request timeout"}, 408))
    for _ in range(5):
        answer = await reader.post("/v1/embeddings", {"model": "jina-embeddings-v3", "input": "a"})
        assert answer.json()["error"]["code"] == "upstream_timeout"
    assert reader.generations.now.pools["jina"].breaker.open


# What nobody may see, and who may call.


async def test_no_log_has_the_address_of_a_page_or_a_picture(
    closed: RunningGateway, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.plays(replies(b"", 302, location="https://pictures.example/?signature=s1gned"))
    key = {"authorization": f"Bearer {CALLER_KEY}", "x-respond-with": "screenshot"}
    with caplog.at_level(logging.INFO, "torii"):
        await closed.client.get("/r/https%3A%2F%2Fa.example%2F%3Fpassword%3Dpa55")
        await closed.client.get("/r/http://localhost/pa55", headers=key)
        assert (await closed.client.get("/r/https://a.example/pa55?pa55", headers=key)).status_code == 302
        await closed.ended(1)
    assert "refused" in caplog.text
    assert "pa55" not in caplog.text
    assert "s1gned" not in caplog.text


async def test_a_page_of_another_site_cannot_read(reader: RunningGateway, upstream: ScriptedUpstream) -> None:
    """Not even by a link: a read costs the operator's tokens."""
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    for path in ("/r/https://a.example", "/s/x", "/v1/reader?url=a.example"):
        for headers in (link, {"origin": "https://evil.example"}, {"host": "rebound.example"}):
            assert (await reader.client.get(path, headers=headers)).status_code == 403
    assert upstream.seen == []


async def test_no_key_leaks_in_any_direction(closed: RunningGateway, upstream: ScriptedUpstream) -> None:
    said = f"the key {JINA_KEY} of {CALLER_KEY} at r.jina.ai is not welcome"
    key = {"authorization": CALLER_KEY}
    for status, inner in ((400, 40001), (422, 42206), (500, 50001)):
        upstream.plays(replies({"code": status, "status": inner, "name": JINA_KEY, "message": said}, status))
        for accept in ("application/json", "text/plain", "text/event-stream"):
            answer = await closed.client.get("/r/https://a.example", headers={**key, "accept": accept})
            assert answer.status_code >= 400
            assert JINA_KEY not in answer.text + str(answer.headers)
            assert CALLER_KEY not in answer.text + str(answer.headers)
    assert all(CALLER_KEY not in str(seen.headers) + seen.raw.decode() for seen in upstream.seen)
