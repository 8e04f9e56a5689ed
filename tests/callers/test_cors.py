"""Pages of allowed origins can call the gateway and read all of its responses; no other page can read any."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.callers.cors import EXPOSED
from app.config.loader import ConfigError, load
from app.config.settings import Settings

from ..conftest import RunningGateway, ScriptedUpstream, replies, running_gateway, settings_for, streams
from ..endpoints.test_strict_input import BODY, CALLER_KEY, VECTORS, envelope, sent

APP = Path(__file__).parents[2] / "app"
PAGE = "https://app.example"
EXPOSE = (
    "x-request-id, x-torii-cache, x-torii-dropped, x-torii-sandbox, x-torii-upstream, x-torii-upstream-model, "
    "x-usage-tokens, x-should-retry, "
    "retry-after, x-ratelimit-limit-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-requests, "
    "x-ratelimit-remaining-tokens, x-ratelimit-reset-requests, x-ratelimit-reset-tokens"
)
ALLOWED = {"access-control-allow-origin": PAGE, "access-control-expose-headers": EXPOSE, "vary": "Origin"}
CHUNK = b'data: {"id":"u","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
END = b'data: {"id":"u","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
CHAT = {"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
KEYED = {"authorization": f"Bearer {CALLER_KEY}"}


def shared(answer: httpx.Response) -> dict[str, str]:
    """The response headers that state which pages may read it."""
    return {
        name: value for name, value in answer.headers.items() if name.startswith("access-control-") or name == "vary"
    }


def asks(method: str = "POST", **headers: str) -> dict[str, str]:
    """A preflight as browsers send it."""
    return {
        "origin": PAGE,
        "access-control-request-method": method,
        **{f"access-control-request-{name.replace('_', '-')}": value for name, value in headers.items()},
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "cors",
    }


def cors(*origins: str) -> Any:
    return {"cors": {"allowed_origins": list(origins)}}


@pytest.fixture(params=["open", "with callers"])
async def gateway(
    request: pytest.FixtureRequest, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> AsyncIterator[RunningGateway]:
    upstream.plays(replies(VECTORS))
    key = {} if request.param == "open" else {"caller_key": CALLER_KEY}
    given = cors(PAGE, "app://obsidian.md")
    async with running_gateway(settings_for(upstream.url, other_upstream.url, **key, **given)) as running:
        yield running


# Preflights.


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/embeddings", "/v1/models/x", "/healthz", "/nothing"])
async def test_a_preflight_needs_no_key_and_allows_what_it_asks_for(path: str, gateway: RunningGateway) -> None:
    """The OpenAI SDK in a browser sends a dozen headers of its own."""
    wanted = "api-key,authorization,content-type,x-stainless-arch,x-stainless-retry-count,x-stainless-timeout"
    answer = await gateway.client.options(path, headers=asks(headers=wanted))
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-length" not in answer.headers
    assert "transfer-encoding" not in answer.headers
    assert len(answer.headers["x-request-id"]) == 32
    assert shared(answer) == {
        **ALLOWED,
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": wanted,
        "access-control-max-age": "7200",
    }


async def test_a_preflights_exact_bytes_and_the_next_request_on_its_connection(gateway: RunningGateway) -> None:
    head = f"host: localhost\r\norigin: {PAGE}\r\n"
    preflight = f"OPTIONS /v1/embeddings HTTP/1.1\r\n{head}access-control-request-method: POST\r\n\r\n"
    after = f"GET /healthz HTTP/1.1\r\n{head}connection: close\r\n\r\n"
    data = (await sent(gateway, (preflight + after).encode())).decode()
    first, _, second = data.partition("\r\n\r\n")
    assert re.sub(r"(?<=x-request-id: )\w{32}", "ID", first).split("\r\n") == [
        "HTTP/1.1 204 No Content",
        "access-control-allow-methods: POST",
        "access-control-max-age: 7200",
        "x-request-id: ID",
        f"access-control-allow-origin: {PAGE}",
        f"access-control-expose-headers: {EXPOSE}",
        "vary: Origin",
    ]
    assert second.startswith("HTTP/1.1 200 OK\r\n")


async def test_a_preflight_of_another_scheme_and_of_a_private_network(gateway: RunningGateway) -> None:
    """Chrome asks whether a page of the public internet may reach this machine: allowed pages may."""
    asked = {**asks("GET", private_network="true"), "origin": "app://obsidian.md"}
    answer = await gateway.client.options("/v1/models", headers=asked)
    assert (answer.status_code, shared(answer)) == (
        204,
        {
            **ALLOWED,
            "access-control-allow-origin": "app://obsidian.md",
            "access-control-allow-methods": "GET",
            "access-control-allow-private-network": "true",
            "access-control-max-age": "7200",
        },
    )


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://app.example:444", "http://app.example"])
async def test_a_preflight_that_is_refused(origin: str, gateway: RunningGateway) -> None:
    asked = {**asks(headers="authorization", private_network="true"), "origin": origin}
    answer = await gateway.client.options("/v1/chat/completions", headers=asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert repr(origin) in answer.json()["detail"]
    assert "cors.allowed_origins" in answer.json()["detail"]
    assert shared(answer) == {"vary": "Origin"}


async def test_a_preflight_where_nobody_is_allowed(upstream: ScriptedUpstream) -> None:
    """A desktop application may call an open gateway, but its browser engine cannot read the response."""
    async with running_gateway(settings_for(upstream.url)) as gateway:
        answer = await gateway.client.options("/v1/models", headers={**asks(), "origin": "app://obsidian.md"})
    message = (
        "pages of 'app://obsidian.md' may not read this gateway's responses. To allow the pages, add the origin "
        "to cors.allowed_origins (TORII_CORS__ALLOWED_ORIGINS)"
    )
    assert (answer.status_code, answer.json(), shared(answer)) == (403, envelope("forbidden", message), {})


async def test_an_options_that_is_no_preflight(gateway: RunningGateway) -> None:
    plain = await gateway.client.options("/v1/embeddings")
    of_page = await gateway.client.options("/v1/embeddings", headers={"origin": PAGE})
    assert [answer.status_code for answer in (plain, of_page)] == [405, 405]
    assert [answer.headers["allow"] for answer in (plain, of_page)] == ["POST", "POST"]
    assert [shared(plain), shared(of_page)] == [{"vary": "Origin"}, ALLOWED]


# Responses.


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("POST", "/v1/embeddings", {"content": BODY, "headers": KEYED}, 200),
        ("GET", "/v1/models", {"headers": KEYED}, 200),
        ("HEAD", "/v1/models", {"headers": KEYED}, 200),
        ("GET", "/healthz", {}, 200),
        ("GET", "/docs", {}, 200),
        ("GET", "/docs/swagger-ui.css", {}, 200),
        ("GET", "/openapi.json", {}, 200),
        ("GET", "/favicon.ico", {}, 204),
        ("POST", "/v1/embeddings", {"content": b"{", "headers": KEYED}, 400),
        ("POST", "/v1/embeddings", {"content": b"x", "headers": {**KEYED, "content-encoding": "br"}}, 415),
        ("POST", "/v1/embeddings?key=x", {"content": BODY}, 401),
        ("POST", "/v1/nothing", {"content": BODY}, 404),
        ("GET", "/v1/embeddings", {}, 405),
        ("POST", "/v1/responses", {"content": BODY}, 404),
    ],
)
async def test_every_answer_can_be_read_by_its_page(
    method: str, path: str, options: Any, status: int, gateway: RunningGateway
) -> None:
    headers = {"origin": PAGE, "sec-fetch-site": "cross-site", **options.get("headers", {})}
    answer = await gateway.client.request(method, path, **{**options, "headers": headers})
    assert (answer.status_code, shared(answer)) == (status, ALLOWED)


async def test_an_answer_to_who_is_no_page_says_that_it_differs_by_origin(gateway: RunningGateway) -> None:
    """Otherwise a cache in between could serve the response to a page."""
    answer = await gateway.post("/v1/embeddings", BODY, **KEYED)
    assert (answer.status_code, shared(answer)) == (200, {"vary": "Origin"})


@pytest.mark.parametrize("early", [False, True])
async def test_a_stream_and_its_early_head_can_be_read(
    early: bool, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    """The gateway sends its head before the provider's if the provider takes longer than ``ping_seconds``."""
    more = asyncio.Event()
    other_upstream.plays(streams(b": \n\n", more, CHUNK, END))
    given = {"ping_seconds": 0.05 if early else 15, **cors(PAGE)}
    async with running_gateway(settings_for(upstream.url, other_upstream.url, **given)) as gateway:
        if not early:
            more.set()
        asked = gateway.client.stream("POST", "/v1/chat/completions", json=CHAT, headers={"origin": PAGE})
        async with asked as answer:
            assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
            assert {name: answer.headers[name] for name in ALLOWED} == ALLOWED
            assert answer.headers.get_list("vary") == ["Origin"]
            more.set()
            assert (await answer.aread()).endswith(b"data: [DONE]\n\n")


async def test_an_upstreams_failure_can_be_read(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies({"detail": "slow", "code": "RATE_REQUEST_LIMIT_EXCEEDED"}, 429, retry_after="7"))
    async with running_gateway(settings_for(upstream.url, **cors(PAGE))) as gateway:
        answer = await gateway.post("/v1/embeddings", BODY, origin=PAGE)
    assert (answer.status_code, answer.headers["retry-after"], shared(answer)) == (429, "7", ALLOWED)


async def test_without_the_setting_no_answer_speaks_of_it(upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(VECTORS))
    async with running_gateway(settings_for(upstream.url, caller_key=CALLER_KEY)) as gateway:
        for origin in (PAGE, "app://obsidian.md", "null"):
            answer = await gateway.post("/v1/embeddings", BODY, origin=origin, **KEYED)
            assert (answer.status_code, shared(answer)) == (200, {})


@pytest.mark.parametrize("origin", ["https://any.example", "null", "chrome-extension://abc"])
async def test_a_star_allows_every_origin_where_there_are_callers(origin: str, upstream: ScriptedUpstream) -> None:
    upstream.plays(replies(VECTORS))
    async with running_gateway(settings_for(upstream.url, caller_key=CALLER_KEY, **cors("*"))) as gateway:
        answer = await gateway.post("/v1/embeddings", BODY, origin=origin, **KEYED)
        keyless = await gateway.post("/v1/embeddings", BODY, origin=origin)
        preflight = await gateway.client.options("/v1/embeddings", headers={**asks(), "origin": origin})
    assert [got.status_code for got in (answer, keyless, preflight)] == [200, 401, 204]
    allowed = {**ALLOWED, "access-control-allow-origin": origin}
    assert shared(answer) == shared(keyless) == allowed
    assert "access-control-allow-credentials" not in preflight.headers


async def test_several_origins_in_one_request_are_none(gateway: RunningGateway) -> None:
    head = f"host: localhost\r\norigin: {PAGE}\r\norigin: app://obsidian.md\r\nconnection: close\r\n\r\n"
    data = await sent(gateway, f"GET /healthz HTTP/1.1\r\n{head}".encode())
    assert b"access-control-allow-origin" not in data


def test_every_header_of_the_gateways_own_is_exposed() -> None:
    """As found in the code: all headers of a response beyond the standard ones of HTTP. Webhooks are requests."""
    own = r'"(x-(?:torii|request|should|ratelimit)-[a-z-]+|retry-after)"'
    sources = [path for path in APP.rglob("*.py") if path.parent.name != "sandbox" and path.name != "webhooks.py"]
    named = {name for path in sources for name in re.findall(own, path.read_text(encoding="utf-8"))}
    assert {"x-torii-upstream-model", "x-torii-cache", "x-request-id", "retry-after", "x-should-retry"} <= named
    assert named - {"x-torii-tag"} <= set(EXPOSED)  # a request's
    documentation = (APP.parent / "docs/browser.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in documentation for name in EXPOSED if not name.startswith("x-ratelimit-"))


# The log, and a changed configuration.


async def test_a_refused_origin_is_told_in_the_log_once(
    upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    """A gateway with callers serves the call, which has a key; no browser shows the response to the page."""
    caplog.set_level(logging.INFO, "torii.access")
    upstream.plays(replies(VECTORS))
    async with running_gateway(settings_for(upstream.url, caller_key=CALLER_KEY, **cors(PAGE))) as gateway:
        host = gateway.url.removeprefix("http://")
        for origin in 3 * ("https://evil.example", PAGE, gateway.url, "app://obsidian.md", "null"):
            answer = await gateway.post("/v1/embeddings", BODY, origin=origin, host=host, **KEYED)
            assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (200, origin == PAGE)
    assert [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "torii.access"] == [
        (
            "WARNING",
            "a page of 'https://evil.example' cannot read the response: the origin is not in cors.allowed_origins",
        ),
        ("WARNING", "a page of 'null' cannot read the response: the origin is not in cors.allowed_origins"),
    ]


async def test_a_refused_preflight_is_told_in_the_log_once(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "torii")
    for _ in range(3):
        await gateway.client.options("/v1/models", headers={**asks(), "origin": "https://evil.example"})
    [line] = [text for text in caplog.messages if "'https://evil.example'" in text]
    assert line.startswith("OPTIONS /v1/models was refused: ")
    assert "cors.allowed_origins" in line


async def test_a_reload_changes_who_is_allowed(upstream: ScriptedUpstream) -> None:
    async with running_gateway(settings_for(upstream.url)) as gateway:

        async def status() -> tuple[int, int]:
            preflight = await gateway.client.options("/v1/embeddings", headers=asks())
            return preflight.status_code, (await gateway.client.get("/healthz", headers={"origin": PAGE})).status_code

        assert await status() == (403, 403)
        gateway.server.renew(settings_for(upstream.url, **cors(PAGE)))
        assert await status() == (204, 200)
        gateway.server.renew(settings_for(upstream.url))
        assert await status() == (403, 403)


# Allowed settings.


def mistakes(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "torii.yaml"
    path.write_text(f"sandbox: on\n{text}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load(path)
    return [str(mistake).replace(f"{tmp_path}/", "") for mistake in error.value.mistakes]


CALLERS_CURE = "because the gateway has no callers. Name the intended origins, or set TORII_CALLER_KEY or callers"


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (
            'cors: {allowed_origins: ["*"]}',
            f"torii.yaml:2: cors.allowed_origins[0]: any page could spend your upstream keys, {CALLERS_CURE}",
        ),
        (
            'cors:\n  allowed_origins:\n    - https://app.example\n    - "null"',
            "torii.yaml:5: cors.allowed_origins[1]: null is the origin of any page in a sandboxed frame, which could "
            f"spend your upstream keys, {CALLERS_CURE}",
        ),
        (
            "cors: {allowed_origins: [app.example]}",
            "torii.yaml:2: cors.allowed_origins[0]: must be an origin as browsers send it, such as "
            "https://app.example:3000 or app://obsidian.md: scheme, host and port, no path and no *",
        ),
        ("cors: {allowed_origins: [null]}", "torii.yaml:2: cors.allowed_origins[0]: must be text"),
        (
            "cors: {origins: []}",
            "torii.yaml:2: cors.origins: unknown key; did you mean allowed_origins? Allowed: allowed_origins",
        ),
        (
            "allowed_hosts: ['https://torii.example']",
            "torii.yaml:2: allowed_hosts[0]: must be a host name such as torii.example, or *.torii.example: "
            "no scheme, port or path",
        ),
        (
            "allowed_hosts: ['*']",
            "torii.yaml:2: allowed_hosts[0]: must be a host name; * would admit every web page. With callers, hosts "
            "are not checked",
        ),
        ("allowed_hosts: '[x'", "torii.yaml:2: allowed_hosts: must be a list, separated by commas or in JSON"),
    ],
)
def test_a_mistake_is_named_with_its_cure(
    text: str, mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mistakes(tmp_path, text) == [mistake]


def test_a_star_is_taken_where_there_are_callers(tmp_path: Path) -> None:
    for callers in ("caller_key: 0123456789abcdef", "host: 0.0.0.0\ngenerate_caller_key: true"):
        path = tmp_path / "torii.yaml"
        path.write_text(f'sandbox: on\n{callers}\ncors: {{allowed_origins: ["*"]}}\n')
        assert load(path).cors.allowed_origins == ["*"]


@pytest.mark.parametrize(
    ("variable", "origins"),
    [
        ("https://app.example", ["https://app.example"]),
        ("https://app.example, app://obsidian.md,", ["https://app.example", "app://obsidian.md"]),
        ('["https://app.example"]', ["https://app.example"]),
        ("", []),
    ],
)
def test_a_variable_needs_no_json(variable: str, origins: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORII_CORS__ALLOWED_ORIGINS", variable)
    assert load(serving=False).cors.allowed_origins == origins
    monkeypatch.setenv("TORII_ALLOWED_HOSTS", variable.replace("https://", "").replace("app://", ""))
    hosts = [origin.partition("://")[2] for origin in origins]
    assert load(serving=False).allowed_hosts == hosts


def test_by_default_nobody_is_allowed() -> None:
    assert Settings().cors.allowed_origins == Settings().allowed_hosts == []
