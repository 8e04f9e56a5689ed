"""The sandbox's r.jina.ai, s.jina.ai and svip.jina.ai: whole answers in every form, options, errors and triggers."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from app.sandbox import Sandbox
from app.sandbox.server import hosts, respond
from app.sandbox.wire import Ask, Whole

TIDES = "https://almanac.example.org/tides"
IMAGE = "![Image 1: Tides and the Moon](https://almanac.example.org/tides.png)"
SENTENCES = (
    "Tides rise and fall because the Moon, and to a lesser degree the Sun, pulls on the sea.",
    "Most coasts have two high tides a day, about 12 hours and 25 minutes apart.",
    "Spring tides come at new moon and full moon, when the Sun and the Moon pull in one line.",
)
LINKS = {
    "Why there are seasons": "https://almanac.example.org/seasons",
    "Why the sky is blue": "https://almanac.example.org/blue-sky",
}
SHOWN_LINKS = [f"[{words}]({url})" for words, url in LINKS.items()]
CONTENT = "\n\n".join([IMAGE, *SENTENCES, *SHOWN_LINKS])
PAGE = {
    "title": "Tides and the Moon",
    "description": SENTENCES[0],
    "url": TIDES,
    "content": CONTENT,
    "publishedTime": "2026-09-01 08:00:00",
    "metadata": {"lang": "en"},
    "external": {},
    "usage": {"tokens": 125},
}
TEXT = (
    f"Title: Tides and the Moon\n\nURL Source: {TIDES}\n\nPublished Time: 2026-09-01 08:00:00\n\n"
    f"Markdown Content:\n{CONTENT}\n"
)
JSON = {"accept": "application/json"}
STREAM = {"accept": "text/event-stream"}


class Web:
    """The reader and the search, with the calls of this file."""

    def __init__(self, sandbox: Sandbox, http: httpx.Client) -> None:
        self.urls, self.http = sandbox.urls, http

    def read(self, url: str = TIDES, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        return self.http.post(f"{self.urls['reader']}/", json={"url": url, **body}, headers=headers)

    def page(self, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
        answer = self.read(headers={**JSON, **(headers or {})}, **body)
        assert answer.status_code == 200, answer.text
        page: dict[str, Any] = answer.json()["data"]
        return page

    def search(self, q: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        return self.http.post(f"{self.urls['search']}/", json={"q": q, **body}, headers=headers)


@pytest.fixture(scope="module")
def web(sandbox: Sandbox, http: httpx.Client) -> Web:
    return Web(sandbox, http)


def events(answer: httpx.Response) -> list[Any]:
    blocks = answer.text.removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("event: data\ndata: ") for block in blocks)
    return [msgspec.json.decode(block.removeprefix("event: data\ndata: ")) for block in blocks]


# ------------------------------------------------------------------------ the forms


@pytest.mark.parametrize(
    "accept", ["*/*", "", "text/plain", "text/markdown", "application/json, text/plain, */*", "text/*", "image/png"]
)
def test_text_goes_before_all_other_forms(web: Web, accept: str) -> None:
    answer = web.read(headers={"accept": accept} if accept else {"accept": "*/*"})
    assert answer.content == TEXT.encode()
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-usage-tokens"] == "125"


@pytest.mark.parametrize("accept", ["application/json", "text/json", "application/json, text/plain;q=0"])
def test_json_comes_only_where_text_is_not_acceptable(web: Web, accept: str) -> None:
    answer = web.read(headers={"accept": accept})
    whole = {"code": 200, "status": 20000, "data": PAGE, "meta": {"usage": {"tokens": 125}}}
    assert answer.content == msgspec.json.encode(whole)
    assert answer.headers["content-type"] == "application/json"
    assert "x-usage-tokens" not in answer.headers


def test_a_stream_is_three_snapshots_each_in_place_of_the_one_before(web: Web) -> None:
    answer = web.read(headers=STREAM)
    assert answer.headers["content-type"] == "text/event-stream"
    pages = events(answer)
    assert pages[-1] == PAGE
    assert [page["usage"]["tokens"] for page in pages] == [46, 84, 125]
    assert [CONTENT.startswith(page["content"]) for page in pages] == [True] * 3
    assert b"event: data\ndata: " + msgspec.json.encode(PAGE) + b"\n\n" in answer.content
    assert "[DONE]" not in answer.text


def test_a_get_decodes_the_path_and_the_query_once(web: Web) -> None:
    for target, url in (
        (f"{TIDES}?q=a%26b", f"{TIDES}?q=a&b"),
        ("https%3A%2F%2Falmanac.example.org%2Ftides%3Fx%3D1", f"{TIDES}?x=1"),
        ("https:/almanac.example.org/tides", TIDES),
        ("https://r.jina.ai/https://almanac.example.org/tides", TIDES),
        ("almanac.example.org/tides", "http://almanac.example.org/tides"),
    ):
        answer = web.http.get(f"{web.urls['reader']}/{target}", headers=JSON)
        assert (answer.status_code, answer.json()["data"]["url"]) == (200, url)
    assert web.page(url=f"{TIDES}?q=a%26b")["url"] == f"{TIDES}?q=a%26b"


def test_options_of_a_get_come_from_headers_only(web: Web) -> None:
    url = f"{web.urls['reader']}/{TIDES}?withLinksSummary=true"
    assert "links" not in web.http.get(url, headers=JSON).json()["data"]
    assert web.http.get(url, headers={**JSON, "x-with-links-summary": "true"}).json()["data"]["links"] == LINKS


def test_forms_are_read(web: Web) -> None:
    assert web.http.post(web.urls["reader"], data={"url": TIDES}).text == TEXT
    assert web.http.post(web.urls["reader"], files={"url": (None, TIDES)}).text == TEXT


def test_the_index_needs_no_key(web: Web) -> None:
    text = (
        "[Usage 1] https://r.jina.ai/YOUR_URL\n[Usage 2] https://s.jina.ai/YOUR_SEARCH_QUERY\n"
        "[Homepage] https://jina.ai/reader\n"
    )
    assert httpx.get(web.urls["reader"]).text == text
    note = "[Note] Authentication is required to use this endpoint. Please provide a valid API key via Authorization"
    assert httpx.get(f"{web.urls['search']}/").text == f"{text}{note} header.\n"


# ---------------------------------------------------------------------- the options


def test_html_text_and_pictures_take_the_place_of_the_content(web: Web) -> None:
    html = web.page({"x-respond-with": "html"})
    assert "content" not in html
    assert html["html"].startswith(
        '<!DOCTYPE html><html lang="en"><head><title>Tides and the Moon</title></head><body>'
    )
    both = web.page(respondWith="markdown,text")
    assert (both["content"], both["text"].partition("\n")[0]) == (CONTENT, "Tides and the Moon")
    shot = web.page({"x-return-format": "screenshot"})
    assert "content" not in shot
    assert shot["screenshotUrl"].startswith("https://storage.example.org/instant-screenshots/")
    assert shot["usage"] == {"tokens": 765 + 21}


def test_a_screenshot_as_text_is_a_redirect_to_a_signed_address(web: Web) -> None:
    answer = web.read(headers={"x-respond-with": "screenshot"})
    assert (answer.status_code, answer.headers["x-usage-tokens"]) == (302, "786")
    assert "X-Goog-Expires=14400" in answer.headers["location"]
    assert answer.text == f"{answer.headers['location']}\n"
    png = web.read(f"{TIDES}?sandbox:screenshot-bytes", {"x-respond-with": "pageshot"})
    assert (png.status_code, png.headers["content-type"], png.content[:4]) == (200, "image/png", b"\x89PNG")


def test_html_and_text_come_bare(web: Web) -> None:
    assert web.read(headers={"x-respond-with": "html"}).text == web.page({"x-respond-with": "html"})["html"]
    assert web.read(headers={"x-respond-with": "text"}).text == web.page({"x-respond-with": "text"})["text"]


def test_lists_of_links_and_images(web: Web) -> None:
    lists = {"x-with-links-summary": "all", "x-with-images-summary": "true"}
    page = web.page(lists)
    assert page["links"] == [list(pair) for pair in LINKS.items()]
    assert page["images"] == {"Image 1: Tides and the Moon": "https://almanac.example.org/tides.png"}
    assert web.read(headers=lists).text == TEXT + (
        "\nImages:\n- ![Image 1: Tides and the Moon](https://almanac.example.org/tides.png)\n\n"
        "Links/Buttons:\n- [Why there are seasons](https://almanac.example.org/seasons)\n"
        "- [Why the sky is blue](https://almanac.example.org/blue-sky)\n"
    )


def test_any_value_makes_a_boolean_header_true_upstream(web: Web) -> None:
    assert web.page({"x-with-links-summary": "false"})["links"] == LINKS
    assert "links" not in web.page(withLinksSummary=False)


def test_what_is_kept_of_images_and_links(web: Web) -> None:
    assert web.page({"x-retain-images": "none", "x-retain-links": "none"})["content"] == "\n\n".join(SENTENCES)
    assert web.page(retainImages="alt")["content"].startswith("(Image 1: Tides and the Moon)\n\n")
    assert web.page(retainLinks="text")["content"].endswith("\n\nWhy there are seasons\n\nWhy the sky is blue")
    assert web.page({"x-retain-images": "nonsense"})["content"] == CONTENT


def test_selectors(web: Web) -> None:
    assert web.page({"x-target-selector": "main p, h1"})["content"] == "\n\n".join([PAGE["title"], *SENTENCES])  # type: ignore[list-item]
    assert web.page({"x-remove-selector": "img, a"})["content"] == "\n\n".join(SENTENCES)
    missing = web.read(headers={"x-target-selector": "#nowhere"})
    message = f"No content available for URL {TIDES} with target selector #nowhere"
    assert (missing.status_code, missing.json()["message"]) == (422, message)


def test_the_body_goes_before_the_header_for_a_few_options(web: Web) -> None:
    assert web.page({"x-target-selector": "a"}, targetSelector="img")["content"] == IMAGE
    assert web.page({"x-retain-images": "none"}, retainImages="all")["content"].startswith(SENTENCES[0])


def test_chunks(web: Web) -> None:
    assert web.page({"x-markdown-chunking": "true"})["chunks"] == CONTENT.split("\n\n")
    assert web.read(headers={"x-markdown-chunking": "true"}).text == CONTENT.replace("\n\n", "\n\n\u001d")


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({"proxy": "auto"}, 625),
        ({"proxy": "none"}, 125),
        ({"respondWith": "readerlm-v2"}, 4000),
        ({"engine": "cf-browser-rendering"}, 4000),
        ({"injectPageScript": ["1"]}, 4000),
        ({"withGeneratedAlt": True}, 765),
        ({"respondWith": "markdown,html"}, 341),
    ],
)
def test_prices(web: Web, options: dict[str, Any], tokens: int) -> None:
    assert web.page(**options)["usage"] == {"tokens": tokens}


def test_a_page_of_the_callers_own(web: Web) -> None:
    html = "<html><head><title>Ours &amp; theirs</title><style>p{}</style></head><body><p>One</p><p>two"
    page = web.http.post(web.urls["reader"], json={"html": html}, headers=JSON).json()["data"]
    assert (page["title"], page["content"], page["url"][:5]) == ("Ours & theirs", "One\n\ntwo", "blob:")
    sent = web.http.post(web.urls["reader"], files={"pdf": ("a.pdf", b"%PDF-1.7")}, headers=JSON).json()["data"]
    assert (sent["content"], sent["numPages"]) == ("The sandbox got a file of 8 bytes (pdf).", 1)
    again = web.http.post(web.urls["reader"], json={"file": "JVBERi0xLjc="}, headers=JSON).json()["data"]
    assert again["content"] == "The sandbox got a file of 8 bytes (file)."


# ----------------------------------------------------------------------- the errors


def failed(status: int, name: str, message: str, path: str = "") -> bytes:
    readable = f"{name}({path}): {message}" if path else f"{name}: {message}"
    body = {"data": None, "code": status // 100, "status": status, "name": name, "message": message}
    return msgspec.json.encode({**body, "readableMessage": readable, **({"path": path} if path else {})})


@pytest.mark.parametrize(
    ("url", "status", "name", "message"),
    [
        ("https://a.example/", 40001, "ParamValidationError", "Domain 'a.example' could not be resolved"),
        ("ftp://almanac.example.org/", 40001, "ParamValidationError", "Invalid protocol ftp:"),
        ("file:///etc/passwd", 40001, "ParamValidationError", "Invalid protocol file:"),
        ("", 40001, "ParamValidationError", "No URL provided"),
        *(
            (url, 45102, "SecurityCompromiseError", f"Suspicious action: Request to localhost or non-public IP: {host}")
            for url, host in (
                ("http://localhost:8000/", "localhost"),
                ("http://169.254.169.254/", "169.254.169.254"),
                ("http://[::1]/", "::1"),
            )
        ),
    ],
)
def test_addresses_that_the_reader_refuses(web: Web, url: str, status: int, name: str, message: str) -> None:
    answer = web.read(url)
    assert (answer.status_code, answer.content) == (status // 100, failed(status, name, message, "url"))


def test_an_error_has_the_form_that_the_request_accepts(web: Web) -> None:
    line = "ParamValidationError: Domain 'a.example' could not be resolved"
    for accept in ("text/plain", "text/markdown"):
        text = web.read("https://a.example/", {"accept": accept})
        assert (text.status_code, text.text) == (400, f"{line}\n")
        assert text.headers["content-type"] == "text/plain; charset=utf-8"
    stream = web.read("https://a.example/", STREAM)
    assert (stream.status_code, stream.text) == (400, f'data: "{line}"\n\n')
    assert web.read("https://a.example/", {"accept": "text/plain, */*"}).headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "body",
    [
        {"timeout": 0},
        {"timeout": 181},
        {"maxTokens": 499},
        {"retainImages": "nonsense"},
        {"engine": "netscape"},
        {"targetSelector": "*"},
        {"targetSelector": "p, :root"},
        {"respondWith": "readerlm-v2,markdown"},
        {"respondWith": "markdown,html"},
    ],
)
def test_options_that_cannot_be(web: Web, body: dict[str, Any]) -> None:
    answer = web.read(**body)
    assert (answer.status_code, answer.json()["status"]) == (400, 40001)
    assert answer.json()["path"] in body


def test_a_page_that_is_not_there_is_a_page_with_a_warning(web: Web) -> None:
    answer = web.read("https://almanac.example.org/nowhere")
    assert answer.status_code == 200
    assert "\n\nWarning: Target URL returned error 404: Not Found\n\nMarkdown Content:\n" in answer.text


def test_a_budget_that_is_too_small_is_not_charged(web: Web) -> None:
    message = "Token budget (100) exceeded, intended charge amount 125"
    for answer in (web.read(headers={"x-token-budget": "100"}), web.read(tokenBudget=100)):
        assert (answer.status_code, answer.content) == (409, failed(40904, "BudgetExceededError", message))
    assert web.read(tokenBudget=125).status_code == 200


def test_keys(web: Web) -> None:
    answer = httpx.post(web.urls["reader"], json={"url": TIDES})
    assert answer.text == TEXT
    needed = "Authentication is required to use this endpoint. Please provide a valid API key via Authorization header."
    missing = httpx.post(web.urls["search"], json={"q": "tides"})
    assert (missing.status_code, missing.content) == (401, failed(40103, "AuthenticationRequiredError", needed))
    for key in ("jina_abc", "Bearer jina_abc"):
        assert httpx.post(web.urls["search"], json={"q": "tides"}, headers={"authorization": key}).status_code == 200
    assert httpx.post(web.urls["search"], json={"q": "tides", "_token": "jina_abc"}).status_code == 200
    wrong = httpx.post(web.urls["reader"], json={"url": TIDES}, headers={"authorization": "jina_invalid"})
    assert (wrong.status_code, wrong.json()["status"]) == (401, 40102)


# ------------------------------------------------------------------------ the search

HIT = {"title": PAGE["title"], "url": TIDES, "description": SENTENCES[0], "date": PAGE["publishedTime"]}
READ = {**HIT, **{name: PAGE[name] for name in ("content", "publishedTime", "metadata", "external")}}


def test_results_show_their_share_of_the_fixed_price(web: Web) -> None:
    whole = web.search("tides", JSON)
    found = {**READ, "usage": {"tokens": 10_000}}
    told = {"code": 200, "status": 20000, "data": [found], "meta": {"usage": {"tokens": 10_000}}}
    assert whole.content == msgspec.json.encode(told)
    three = web.search("moon blue honey", JSON).json()
    assert [item["usage"]["tokens"] for item in three["data"]] == [3334] * 3
    assert three["meta"] == {"usage": {"tokens": 10_000}}


def test_results_as_text(web: Web) -> None:
    answer = web.search("tides")
    head = f"[1] Title: Tides and the Moon\n[1] URL Source: {TIDES}\n[1] Description: {SENTENCES[0]}"
    assert answer.text == f"{head}\n\n{CONTENT}\n"
    assert answer.headers["x-usage-tokens"] == "10000"
    assert web.search("tides", {"x-respond-with": "no-content"}).text == f"{head}\n"


def test_results_that_are_not_read_have_an_empty_content(web: Web) -> None:
    [found] = web.search("tides", {**JSON, "x-respond-with": "no-content"}).json()["data"]
    assert found == {**HIT, "content": "", "usage": {"tokens": 10_000}}


def test_a_stream_has_the_whole_list_each_time_and_more_than_was_asked_for(web: Web) -> None:
    lists = events(web.search("moon blue honey", STREAM, num=1))
    assert [len(found) for found in lists] == [3, 3, 3]
    assert [[bool(item["content"]) for item in found] for found in lists] == [
        [False, False, False],
        [True, False, False],
        [True, True, True],
    ]


def test_no_result_is_an_error(web: Web) -> None:
    answer = web.search("xyzzy", JSON)
    message = "No search results available for query xyzzy"
    assert (answer.status_code, answer.content) == (422, failed(42206, "AssertionFailureError", message))


def test_a_query_in_the_path_or_among_the_parameters(web: Web) -> None:
    for path in ("/high%20tides?num=1&site=almanac.example.org", "/?q=high+tides&num=1", "/search?q=tides&count=1"):
        found = web.http.get(web.urls["search"] + path, headers=JSON).json()["data"]
        assert [item["url"] for item in found] == [TIDES]
    assert web.search("tides", {"x-site": "kitchen.example.net"}).status_code == 422
    assert web.search("tides", site=["kitchen.example.net", "almanac.example.org"]).status_code == 200


@pytest.mark.parametrize(
    ("more", "tokens"), [({"engine": "bing"}, 30_000), ({"type": "images"}, 50_000), ({"type": "news"}, 50_000)]
)
def test_dearer_searches(web: Web, more: dict[str, str], tokens: int) -> None:
    assert web.search("tides", JSON, **more).json()["meta"] == {"usage": {"tokens": tokens}}


@pytest.mark.parametrize("more", [{"num": 21}, {"num": -1}, {"count": "x"}, {"gl": "nowhere"}, {"type": "maps"}])
def test_parameters_of_a_search_that_cannot_be(web: Web, more: dict[str, Any]) -> None:
    answer = web.search("tides", **more)
    assert (answer.status_code, answer.json()["status"], answer.json()["path"]) == (400, 40001, next(iter(more)))


def test_svip(web: Web) -> None:
    def ask(**body: Any) -> Any:
        return web.http.post(f"{web.urls['svip']}/", json={"q": "tides", **body}).json()

    result = {"title": PAGE["title"], "url": TIDES, "snippet": SENTENCES[0]}
    meta = {"query": "tides", "num_results": 1, "latency": 120, "credits": 10_000}
    assert ask(num=5) == {"results": [result], "meta": meta}
    assert [found["snippet"] for found in ask(url=TIDES, topk=1)["results"]] == [f"{PAGE['title']}\n\n{SENTENCES[0]}"]
    assert ask(query_expansion=True)["results"][0] == "tides explained"
    assert ask(domain="arxiv")["results"] == []
    assert ask(type="images")["results"][0]["imageUrl"] == f"{TIDES}.png"
    extract = f"{web.urls['svip']}/extract-pdf"
    floats = web.http.post(extract, json={"url": TIDES, "type": "figure,table"}).json()["floats"]
    assert [(one["type"], one["number"]) for one in floats[:2]] == [("figure", "1"), ("table", "2")]
    assert web.http.post(extract, json={}).json()["status"] == 40001


# ---------------------------------------------------------------------- the triggers

STATUSES = {
    "nothing-found": (422, 42206),
    "token-budget": (409, 40904),
    "blocked": (451, 45102),
    "robots": (409, 40902),
    "url-errors": (403, 40301),
    "tier": (402, 40202),
    "page-timeout": (408, 40801),
    "target-failed": (422, 42204),
    "capacity": (503, 50303),
    "bad-attempt": (503, 50304),
    "429": (429, 42903),
    "429-date": (429, 42903),
    "400": (400, 40001),
    "401": (401, 40102),
    "balance": (402, 40203),
    "402": (402, 40203),
    "404": (404, 40401),
    "409": (409, 40903),
    "422": (422, 42206),
    "500": (500, 50001),
    "503": (503, 50303),
    "504": (504, 50401),
    "200-error": (200, 40203),
    "nonsense": (400, 40001),
}


@pytest.mark.parametrize("case", STATUSES)
def test_a_case_in_an_address_and_in_a_query(web: Web, case: str) -> None:
    for answer in (web.read(f"{TIDES}?sandbox:{case}"), web.search(f"tides sandbox:{case}")):
        assert (answer.status_code, answer.json()["status"]) == STATUSES[case]
        assert list(answer.json())[:6] == ["data", "code", "status", "name", "message", "readableMessage"]
    encoded = web.http.get(f"{web.urls['reader']}/{TIDES}?sandbox%3A{case}")
    assert encoded.status_code == STATUSES[case][0]


def test_retry_after_in_seconds_and_as_a_date(web: Web) -> None:
    seconds = web.read(f"{TIDES}?sandbox:429")
    assert (seconds.headers["retry-after"], seconds.json()["retryAfter"]) == ("2", 2)
    assert web.read(f"{TIDES}?sandbox:429-date").headers["retry-after"].endswith(" GMT")


def test_cases_of_the_reader_have_no_effect_elsewhere(web: Web) -> None:
    body = {"model": "jina-embeddings-v3", "input": ["sandbox:blocked"]}
    assert web.http.post(f"{web.urls['jina']}/embeddings", json=body).status_code == 200


def test_the_usage_can_be_missing_everywhere(web: Web) -> None:
    url = f"{TIDES}?sandbox:no-usage"
    assert "x-usage-tokens" not in web.read(url).headers
    for answer in (web.read(url, JSON), web.read(url, STREAM), web.search("tides sandbox:no-usage", JSON)):
        assert (answer.status_code, '"usage"' in answer.text) == (200, False)
    assert web.read(url, JSON).json()["meta"] == {}


def test_streams_that_break(web: Web) -> None:
    assert len(events(web.read(f"{TIDES}?sandbox:truncate", STREAM))) == 1
    with pytest.raises(httpx.RemoteProtocolError):
        web.read(f"{TIDES}?sandbox:reset-mid-stream", STREAM)
    error = failed(50001, "InternalServerError", "upstream error").decode()
    told = web.read(f"{TIDES}?sandbox:error-event", STREAM).text
    assert told.endswith(f"}}\n\nevent: error\ndata: {error}\n\n")
    assert len(events(web.search("moon blue honey sandbox:truncate", STREAM))) == 1


def test_pages_of_proxies_and_a_huge_one(web: Web) -> None:
    assert web.read(f"{TIDES}?sandbox:502-html").headers["content-type"] == "text/html"
    assert web.read(f"{TIDES}?sandbox:redirect").status_code == 302
    huge = web.read(f"{TIDES}?sandbox:huge-page")
    assert (len(huge.content) > 5_000_000, huge.headers["x-usage-tokens"]) == (True, "1000000")


anything = some.none() | some.booleans() | some.integers(-3, 3000) | some.text(max_size=9) | some.lists(some.text())
NAMES = ("url", "q", "html", "file", "respondWith", "targetSelector", "removeSelector", "timeout", "maxTokens", "proxy")
MORE = ("tokenBudget", "withLinksSummary", "num", "count", "page", "gl", "type", "site", "intitle", "markdownChunking")


@settings(deadline=None)
@given(
    host=some.sampled_from(["reader", "search", "svip"]),
    body=some.fixed_dictionaries({}, optional=dict.fromkeys((*NAMES, *MORE), anything)),
    accept=some.sampled_from(["*/*", "application/json", "text/event-stream"]),
    target=some.sampled_from([TIDES, "tides", ""]),
)
def test_no_body_breaks_it(host: str, body: dict[str, Any], accept: str, target: str) -> None:
    headers = {"accept": accept, "authorization": "Bearer k"}
    answer = respond(Ask("POST", f"/{host}/{target}", msgspec.json.encode(body), headers=headers), hosts())
    assert 200 <= answer.status < 500
    assert isinstance(answer, Whole) or answer.items
