"""No web page can use the keys of an open gateway or read its responses, and no other client is affected.

Raw requests over real sockets; server/test_browser.py tests with a real browser.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
from collections.abc import AsyncIterator
from typing import Any

import cohere
import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from app.core.origins import host_name, page_origin
from app.core.redaction import Redactor
from app.server.access import LOGGED_LIMIT

from ..conftest import RunningGateway, ScriptedUpstream, replies, running_gateway, settings_for
from ..endpoints.test_strict_input import BODY, CALLER_KEY, VECTORS, Got, answers, envelope, sent

KEYED = f"authorization: Bearer {CALLER_KEY}"
OR_CALLERS = "or set a caller key (TORII_CALLER_KEY), which no page has"
CROSS_SITE = (
    "a web page of another site made this request, and the gateway has no callers. To allow it, "
    f"add its origin to cors.allowed_origins and use fetch() in mode 'cors', {OR_CALLERS}"
)


# The upstream is at 127.0.0.1, and messages never name an upstream's host.
REDACTED = Redactor((), ["127.0.0.1"]).message


def wrong_host(host: str) -> str:
    return REDACTED(
        f"the host {host!r} (Host) is not allowed, and the gateway has no callers. To allow it, add it "
        f"to allowed_hosts (TORII_ALLOWED_HOSTS), {OR_CALLERS}"
    )


def wrong_origin(origin: str) -> str:
    return REDACTED(
        f"a web page of {origin!r} made this request (Origin), and the gateway has no callers. To allow it, add its "
        f"origin to cors.allowed_origins (TORII_CORS__ALLOWED_ORIGINS), {OR_CALLERS}"
    )


def request(*headers: str, line: str = "GET /healthz HTTP/1.1", body: bytes = b"") -> bytes:
    return "\r\n".join([line, *headers, "connection: close", "", ""]).encode("latin-1") + body


def embedding(*headers: str) -> bytes:
    """An embeddings request that is otherwise valid."""
    return request(*headers, f"content-length: {len(BODY)}", line="POST /v1/embeddings HTTP/1.1", body=BODY)


async def asked(gateway: RunningGateway, data: bytes) -> Got:
    [got] = answers(await sent(gateway, data))
    return got


async def code(gateway: RunningGateway, data: bytes) -> int:
    return int((await asked(gateway, data)).line.split()[1])


@pytest.fixture
async def open_gateway(upstream: ScriptedUpstream) -> AsyncIterator[RunningGateway]:
    upstream.plays(replies(VECTORS))
    given: Any = {
        "allowed_hosts": ["torii.example", "*.lan.example"],
        "cors": {"allowed_origins": ["https://app.example"]},
    }
    async with running_gateway(settings_for(upstream.url, **given)) as gateway:
        yield gateway


@pytest.fixture
async def keyed(upstream: ScriptedUpstream) -> AsyncIterator[RunningGateway]:
    upstream.plays(replies(VECTORS))
    async with running_gateway(settings_for(upstream.url, caller_key=CALLER_KEY)) as gateway:
        yield gateway


# Host.

KNOWN = [
    *("127.0.0.1", "127.0.0.1:8000", "10.1.2.3", "192.168.0.9:80", "127.1", "0:8000"),
    *("[::1]", "[::1]:8000", "[fe80::1]", "[::ffff:127.0.0.1]:8000"),
    *("localhost", "localhost:8000", "LocalHost:65535", "localhost.", "localhost.:8000", "app.localhost:8000"),
    *("host.docker.internal", "host.containers.internal:8000", "HOST.DOCKER.INTERNAL."),
    *("torii.example", "TORII.example.:443", "a.lan.example", "a.b.lan.example:1"),
    socket.gethostname(),
    f"{socket.gethostname().partition('.')[0].upper()}:8000",
]
FOREIGN = [
    *("evil.example", "evil.example:8000", "sub.torii.example", "torii.example.evil.example", "lan.example"),
    *("localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost", "evil.internal.example", "internal"),
    *("user@127.0.0.1", "127.0.0.1@evil.example", "evil.example/127.0.0.1", "127.0.0.1/", "127.0.0.1:", "[::1"),
    *("::1", "[::1]x", "[evil.example]", "[::1%25lo]", "localhost..", "127.0.0.1, evil.example", "127.0.0.1:x"),
    *("", "*", "256.1.1.1", "xn--bcher-kva.example", "b\xfccher.example", "localhost:8000:8000", "127.0.0.1 evil"),
]


@pytest.mark.parametrize("host", KNOWN)
async def test_a_host_that_is_known(host: str, open_gateway: RunningGateway) -> None:
    assert await code(open_gateway, request(f"host: {host}")) == 200
    assert await code(open_gateway, embedding(f"HOST:{host}")) == 200


@pytest.mark.parametrize("host", FOREIGN)
async def test_a_host_that_is_not_known(host: str, open_gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    """A page whose name was rebound to 127.0.0.1 has the same origin as the gateway, and its browser says so."""
    own = (f"origin: http://{host}", "sec-fetch-site: same-origin")
    for got in (
        await asked(open_gateway, request(f"host: {host}")),
        await asked(open_gateway, embedding(f"host: {host}")),
        await asked(open_gateway, embedding(f"host: {host}", *own)),
    ):
        message = wrong_host(host.encode("latin-1").decode("ascii", "backslashreplace"))
        assert (got.line, got.json) == ("HTTP/1.1 403 Forbidden", envelope("forbidden", message))
        assert (got.headers["connection"], got.headers["x-should-retry"]) == ("close", "false")
    assert upstream.seen == []


async def test_several_hosts_and_none(open_gateway: RunningGateway) -> None:
    assert await code(open_gateway, request("host: 127.0.0.1", "host: evil.example")) == 403
    assert await code(open_gateway, request("host: 127.0.0.1", "host: 127.0.0.1")) == 403
    assert await code(open_gateway, request(line="GET /healthz HTTP/1.0")) == 200
    assert await code(open_gateway, request()) == 200


async def test_a_target_with_a_host_of_its_own_is_no_way_past_it(open_gateway: RunningGateway) -> None:
    for target in ("http://evil.example/healthz", "http://127.0.0.1/healthz"):
        assert await code(open_gateway, request("host: 127.0.0.1", line=f"GET {target} HTTP/1.1")) == 400
    # A path may begin with two slashes; the gateway has no such path.
    assert await code(open_gateway, request("host: 127.0.0.1", line="GET //evil.example/healthz HTTP/1.1")) == 404
    assert await code(open_gateway, request("host: evil.example", line="GET //healthz HTTP/1.1")) == 403


# For every path, before the key and the body are checked.

LINES = [
    f"{method} {path} HTTP/1.1"
    for path in ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/favicon.ico", "/", "/nothing")
    for method in ("GET", "POST", "OPTIONS")
] + [
    f"{method} {path} HTTP/1.1"
    for path in ("/v1/embeddings", "/embeddings", "/v2/rerank", "/v1/chat/completions", "/v1/models", "/v1/responses")
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS")
]
LINES += ["GET /v1/models/jina-clip-v2 HTTP/1.1", "GET /admin/upstreams HTTP/1.1", "POST /v1/embeddings?key=x HTTP/1.1"]


@pytest.mark.parametrize("line", LINES)
async def test_every_path_is_guarded(line: str, open_gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    page = ("host: localhost:8000", "origin: https://evil.example", "sec-fetch-site: cross-site")
    assert (await asked(open_gateway, request("host: evil.example", line=line))).json["detail"] == wrong_host(
        "evil.example"
    )
    assert (await asked(open_gateway, request(*page, line=line))).json["detail"] == wrong_origin("https://evil.example")
    for site in ("cross-site", "same-site"):
        got = await asked(open_gateway, request("host: localhost", f"sec-fetch-site: {site}", line=line))
        assert (got.line, got.json["detail"]) == ("HTTP/1.1 403 Forbidden", CROSS_SITE)
    assert upstream.seen == []


async def test_a_head_is_guarded(open_gateway: RunningGateway) -> None:
    data = await sent(open_gateway, request("host: evil.example", line="HEAD /v1/models HTTP/1.1"))
    assert data.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert data.endswith(b"\r\n\r\n")


async def test_it_is_refused_before_its_body_is_there(open_gateway: RunningGateway) -> None:
    """The gateway does not wait for a body that is far too large either."""
    head = ("host: 127.0.0.1", "origin: null", "content-length: 99999999")
    got = await asked(open_gateway, request(*head, line="POST /v1/embeddings HTTP/1.1"))
    assert (got.line, got.headers["connection"]) == ("HTTP/1.1 403 Forbidden", "close")


async def test_a_pages_fetch_that_asks_for_no_leave(open_gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    """`fetch(..., {mode: "no-cors", method: "POST", body})` as Chromium sends it."""
    got = await asked(
        open_gateway,
        embedding(
            "Host: 127.0.0.1:8000",
            "Accept: */*",
            "Content-Type: text/plain;charset=UTF-8",
            "Origin: https://evil.example",
            "Referer: https://evil.example/",
            "Sec-Fetch-Dest: empty",
            "Sec-Fetch-Mode: no-cors",
            "Sec-Fetch-Site: cross-site",
        ),
    )
    message = wrong_origin("https://evil.example")
    assert (got.line, got.json) == ("HTTP/1.1 403 Forbidden", envelope("forbidden", message))
    assert upstream.seen == []


# Origin.

MAY_ASK = [
    ("127.0.0.1:8000", "http://127.0.0.1:8000"),
    ("localhost", "http://localhost"),
    ("localhost", "http://localhost:80"),
    ("localhost:80", "http://localhost"),
    ("LOCALHOST:8000", "http://localhost:8000"),
    ("localhost.:8000", "http://localhost:8000"),
    ("[::1]:8000", "http://[::1]:8000"),
    ("torii.example", "https://torii.example"),
    ("torii.example:443", "https://torii.example"),
    ("127.0.0.1:8000", "https://app.example"),
    ("127.0.0.1:8000", "chrome-extension://abcdefghijklmnopabcdefghijklmnop"),
    ("127.0.0.1:8000", "moz-extension://5c5ee4ad-3b5e-4a8b-9f65-2f6d1c0e7a11"),
    ("127.0.0.1:8000", "safari-web-extension://5C5EE4AD-3B5E-4A8B-9F65-2F6D1C0E7A11"),
    ("127.0.0.1:8000", "app://obsidian.md"),
    ("127.0.0.1:8000", "capacitor://localhost"),
    ("127.0.0.1:8000", "tauri://localhost"),
    ("127.0.0.1:8000", "vscode-webview://1a2b3c"),
    ("127.0.0.1:8000", "file://"),
]
MAY_NOT = [
    ("127.0.0.1:8000", "null"),
    ("127.0.0.1:8000", ""),
    ("127.0.0.1:8000", "*"),
    ("127.0.0.1:8000", "evil.example"),
    ("127.0.0.1:8000", "https://evil.example"),
    ("127.0.0.1:8000", "HTTPS://evil.example"),
    ("127.0.0.1:8000", "http://127.0.0.1:8001"),
    ("127.0.0.1:8000", "http://127.0.0.1"),
    ("127.0.0.1:8000", "https://127.0.0.1"),
    ("127.0.0.1:8000", "http://localhost:8000"),
    ("127.0.0.1:8000", "http://127.0.0.1:8000/"),
    ("127.0.0.1:8000", "http://127.0.0.1:8000@evil.example"),
    ("127.0.0.1:8000", "http://evil.example@127.0.0.1:8000"),
    ("127.0.0.1:8000", "http://127.0.0.1:8000 https://evil.example"),
    ("127.0.0.1:8000", "app://obsidian.md https://evil.example"),
    ("127.0.0.1:8000", "https://app.example.evil.example"),
    ("127.0.0.1:8000", "https://app.example:444"),
    ("127.0.0.1:8000", "http://app.example"),
    ("127.0.0.1:8000", "https://tauri.localhost"),
    ("torii.example", "https://torii.example:8443"),
    ("torii.example:80", "https://torii.example"),
    ("localhost", "https://localhost:80"),
    ("127.0.0.1:8000", "://"),
]


@pytest.mark.parametrize(("host", "origin"), MAY_ASK)
async def test_an_origin_that_may_ask(host: str, origin: str, open_gateway: RunningGateway) -> None:
    """Whatever its browser states in Sec-Fetch-Site."""
    for site in ("cross-site", "same-origin", "none"):
        page = (f"host: {host}", f"origin: {origin}", f"sec-fetch-site: {site}")
        assert await code(open_gateway, embedding(*page)) == 200


@pytest.mark.parametrize(("host", "origin"), MAY_NOT)
async def test_an_origin_that_may_not(
    host: str, origin: str, open_gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    got = await asked(open_gateway, embedding(f"host: {host}", f"origin: {origin}", "sec-fetch-site: same-origin"))
    message = wrong_origin(origin)
    assert (got.line, got.json) == ("HTTP/1.1 403 Forbidden", envelope("forbidden", message))
    assert upstream.seen == []


async def test_several_origins_are_none_that_may_ask(open_gateway: RunningGateway) -> None:
    for first, second in (("https://app.example", "https://evil.example"), ("app://obsidian.md", "app://obsidian.md")):
        assert await code(open_gateway, embedding("host: localhost", f"origin: {first}", f"origin: {second}")) == 403
    assert await code(open_gateway, request("origin: http://localhost", line="GET /healthz HTTP/1.0")) == 403


# Sec-Fetch-Site.

LINK = ("sec-fetch-site: cross-site", "sec-fetch-mode: navigate", "sec-fetch-dest: document")


@pytest.mark.parametrize("site", ["none", "same-origin"])
async def test_what_is_typed_in_or_of_the_gateways_own_passes(site: str, open_gateway: RunningGateway) -> None:
    assert await code(open_gateway, request("host: localhost", f"sec-fetch-site: {site}")) == 200
    assert await code(open_gateway, embedding("host: localhost", f"sec-fetch-site: {site}")) == 200


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/healthz", "/readyz", "/v1/models", "/models"])
async def test_a_link_may_lead_to_a_page(path: str, open_gateway: RunningGateway) -> None:
    assert await code(open_gateway, request("host: localhost", *LINK, line=f"GET {path} HTTP/1.1")) == 200


@pytest.mark.parametrize(
    ("line", "headers"),
    [
        ("POST /docs HTTP/1.1", LINK),
        ("HEAD /docs HTTP/1.1", LINK),
        ("POST /v1/embeddings HTTP/1.1", LINK),
        ("GET /v1/embeddings HTTP/1.1", LINK),
        ("GET /r/https://example.com HTTP/1.1", LINK),
        ("GET /docs/x HTTP/1.1", LINK),
        ("GET /docs HTTP/1.1", LINK[:2]),
        ("GET /docs HTTP/1.1", (*LINK[:2], "sec-fetch-dest: iframe")),
        ("GET /docs HTTP/1.1", (*LINK[:2], "sec-fetch-dest: document", "sec-fetch-dest: iframe")),
        ("GET /docs HTTP/1.1", (LINK[0], "sec-fetch-mode: no-cors", LINK[2])),
        ("GET /docs HTTP/1.1", ("sec-fetch-site: none", "sec-fetch-site: cross-site")),
        ("GET /docs HTTP/1.1", ("sec-fetch-site: another-galaxy",)),
        ("GET /healthz HTTP/1.1", ("sec-fetch-site: cross-site", "sec-fetch-mode: no-cors", "sec-fetch-dest: image")),
        ("GET /docs HTTP/1.1", (*LINK, "origin: null")),
    ],
)
async def test_nothing_else_of_another_site_passes(
    line: str, headers: tuple[str, ...], open_gateway: RunningGateway
) -> None:
    data = await sent(open_gateway, request("host: localhost", *headers, line=line))
    assert data.startswith(b"HTTP/1.1 403 Forbidden\r\n")


async def test_no_page_that_a_link_may_lead_to_asks_a_provider() -> None:
    from app.server.app import HOT, PAGES

    assert {path for path in PAGES if path in HOT} == set()


# Requests that are still allowed.


@pytest.mark.parametrize(
    "headers",
    [
        ("host: torii:8000",),  # as the other services of a compose file call it
        ("host: evil.example",),
        ("host: localhost", "origin: https://evil.example", "sec-fetch-site: cross-site"),
        ("host: localhost", "origin: null"),
        ("host: localhost", "sec-fetch-site: cross-site"),
    ],
)
async def test_callers_keys_are_the_guard_where_there_are_some(
    headers: tuple[str, ...], keyed: RunningGateway, upstream: ScriptedUpstream
) -> None:
    assert await code(keyed, embedding(*headers)) == 401
    assert upstream.seen == []
    assert await code(keyed, embedding(*headers, KEYED)) == 200
    assert await code(keyed, request(*headers)) == 200


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (None, 200),
        ("application/x-www-form-urlencoded", 200),
        ("text/plain;charset=UTF-8", 200),
        ("application/octet-stream", 200),
        ("multipart/form-data; boundary=x", 415),
    ],
)
async def test_the_kind_of_a_body_says_nothing(kind: str | None, status: int, open_gateway: RunningGateway) -> None:
    """Neither curl -d, nor Python's urllib, nor Node's fetch with a string states JSON as the content type."""
    named = [f"content-type: {kind}"] if kind else []
    assert await code(open_gateway, embedding("host: localhost", *named)) == status


def chat() -> Any:
    message = {"role": "assistant", "content": "hi"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "u", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}


USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
RANKED = {
    "id": "u",
    "results": [{"index": 0, "relevance_score": 0.5}],
    "model": "jina-reranker-m0",
    "usage": {"total_tokens": 9},
}


async def of_openai(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        await client.embeddings.create(model="jina-embeddings-v3", input="hi", encoding_format="float")


async def of_cohere(url: str) -> None:
    async with httpx.AsyncClient() as http:
        client = cohere.AsyncClientV2(api_key="any", base_url=url, httpx_client=http)
        await client.rerank(model="jina-reranker-m0", query="q", documents=["a"])


async def of_langchain(url: str) -> None:
    async with openai.DefaultAsyncHttpxClient() as http:
        given: Any = {"base_url": f"{url}/v1", "api_key": "any", "max_retries": 0, "http_async_client": http}
        embeddings = OpenAIEmbeddings(model="jina-embeddings-v3", check_embedding_ctx_length=False, **given)
        await embeddings.aembed_query("hi")


async def of_langchains_chat(url: str) -> None:
    async with openai.DefaultAsyncHttpxClient() as http:
        given: Any = {"base_url": f"{url}/v1", "api_key": "any", "max_retries": 0, "http_async_client": http}
        await ChatOpenAI(model="gpt-4o-mini", **given).ainvoke("hi")


CLIENTS = [
    (of_openai, VECTORS),
    (of_cohere, RANKED),
    (of_langchain, VECTORS),
    (of_langchains_chat, chat()),
]


@pytest.mark.parametrize(("client", "answer"), CLIENTS, ids=lambda given: getattr(given, "__name__", ""))
async def test_no_sdk_sends_what_is_looked_at_and_none_is_refused(
    client: Any, answer: Any, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream
) -> None:
    """First to a listener that records the request, then to a gateway."""
    upstream.plays(replies(answer))
    other_upstream.plays(replies(answer))
    await client(upstream.url)
    [seen] = upstream.seen
    assert seen.headers.keys() & {"origin", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest"} == set()
    assert seen.headers["host"].startswith("127.0.0.1:")
    async with running_gateway(settings_for(upstream.url, other_upstream.url)) as gateway:
        await client(gateway.url)
        [record] = await gateway.ended(1)
    assert record.status == 200


async def test_azures_sdk_is_known_by_its_key(keyed: RunningGateway) -> None:
    """Azure's SDK sends `api-key` and no Authorization."""
    given: Any = {"base_url": f"{keyed.url}/v1", "api_version": "1", "max_retries": 0}
    async with openai.AsyncAzureOpenAI(api_key=CALLER_KEY, **given) as client:
        assert "jina-embeddings-v3" in [model.id async for model in client.models.list()]
    async with openai.AsyncAzureOpenAI(api_key="sk-0", **given) as client:
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"):
            await client.models.list()


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not on this machine: its fetch was not tried")
async def test_nodes_fetch_is_not_taken_for_a_page(open_gateway: RunningGateway) -> None:
    """Node's fetch sends `sec-fetch-mode: cors`, and text/plain for a string. The AI SDK and openai-node use it."""
    script = f"fetch('{open_gateway.url}/v1/embeddings', {{method: 'POST', body: '{BODY.decode()}'}})"
    process = await asyncio.create_subprocess_exec(
        "node", "-e", f"{script}.then(answer => console.log(answer.status))", stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert said == b"200\n"


# The log, and a changed configuration.


async def test_a_refused_page_is_told_in_the_log_once(
    open_gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "torii")
    for _ in range(3):
        for origin in ("https://evil.example", "https://other.example"):
            await asked(open_gateway, request("host: localhost", f"origin: {origin}"))
        await asked(open_gateway, request("host: evil.example"))
        await asked(open_gateway, request("host: localhost", "sec-fetch-site: cross-site"))
    refused = [record.getMessage() for record in caplog.records if " was refused: " in record.getMessage()]
    assert refused == [
        f"GET /healthz was refused: {wrong_origin('https://evil.example')}",
        f"GET /healthz was refused: {wrong_origin('https://other.example')}",
        f"GET /healthz was refused: {wrong_host('evil.example')}",
        f"GET /healthz was refused: {CROSS_SITE}",
    ]


async def test_what_was_told_takes_bounded_memory(open_gateway: RunningGateway) -> None:
    access = open_gateway.server._generations.now.access
    for number in range(LOGGED_LIMIT + 50):
        await open_gateway.client.get("/healthz", headers={"host": f"{number}.example", "origin": "x" * 60_000})
    assert len(access._logged) == LOGGED_LIMIT
    assert max(map(len, access._logged)) < 1000


async def test_a_reload_changes_who_may_ask(upstream: ScriptedUpstream) -> None:
    async with running_gateway(settings_for(upstream.url)) as gateway:

        async def statuses() -> list[int]:
            return [
                await code(gateway, request("host: torii.example")),
                await code(gateway, request("host: localhost", "origin: https://app.example")),
                await code(gateway, request("host: evil.example")),
            ]

        assert await statuses() == [403, 403, 403]
        allowed: Any = {"allowed_hosts": ["torii.example"], "cors": {"allowed_origins": ["https://app.example"]}}
        gateway.server.renew(settings_for(upstream.url, **allowed))
        assert await statuses() == [200, 200, 403]
        gateway.server.renew(settings_for(upstream.url, caller_key=CALLER_KEY))
        assert await statuses() == [200, 200, 200]
        gateway.server.renew(settings_for(upstream.url))
        assert await statuses() == [403, 403, 403]


# Allowed settings.


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("torii.example", "torii.example"),
        ("Torii.Example.", "torii.example"),
        ("torii", "torii"),
        ("*.lan.example", "*.lan.example"),
        ("b\xfccher.example", "xn--bcher-kva.example"),
        ("10.0.0.1", "10.0.0.1"),
        ("[::1]", "[::1]"),
        ("my_service", "my_service"),
    ],
)
def test_a_host_name_as_a_browser_sends_it(given: str, name: str) -> None:
    assert host_name(given) == name


@pytest.mark.parametrize(
    "given", ["", ".", "*", "https://a.example", "a.example:80", "a.example/x", "a..b", "*.*.a", "a b", "x" * 64 + ".a"]
)
def test_no_host_name(given: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a host name"):
        host_name(given)


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://app.example", "https://app.example"),
        ("HTTPS://App.Example/", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("https://b\xfccher.example:8443", "https://xn--bcher-kva.example:8443"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("Chrome-Extension://abc/", "chrome-extension://abc"),
        ("file://", "file://"),
        ("*", "*"),
        ("null", "null"),
    ],
)
def test_an_origin_as_a_browser_sends_it(given: str, origin: str) -> None:
    assert page_origin(given) == origin


@pytest.mark.parametrize(
    "given",
    [
        *("", "app.example", "localhost:3000", "https://", "https://app.example/x", "https://*.app.example"),
        *(
            "chrome-extension://*",
            "https://user@app.example",
            "https://a..b",
            "https://app.example?x",
            "://",
            "h ttp://x",
        ),
    ],
)
def test_no_origin(given: str) -> None:
    with pytest.raises(ValueError, match=r"^must be an origin as browsers send it"):
        page_origin(given)


async def test_a_key_in_the_query_is_not_told_where_the_page_is_refused(
    open_gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "torii")
    await asked(open_gateway, request("host: evil.example", line=f"GET /v1/models?key={CALLER_KEY} HTTP/1.1"))
    assert CALLER_KEY not in caplog.text


async def test_every_client_of_the_tests_is_told_apart_from_a_page(open_gateway: RunningGateway) -> None:
    assert (await open_gateway.client.get("/healthz")).status_code == 200
    with httpx.Client(trust_env=False) as client:
        answer = await asyncio.to_thread(client.get, f"{open_gateway.url}/healthz")
    assert answer.status_code == 200
