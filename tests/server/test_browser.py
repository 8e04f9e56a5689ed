"""A gateway visited by a real Chromium: pages of other sites can read nothing, allowed pages can read everything."""

from __future__ import annotations

import asyncio
import html
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from ..callers.test_cors import CHUNK, END, cors
from ..conftest import RunningGateway, ScriptedUpstream, replies, running_gateway, serving, settings_for, streams
from ..endpoints.test_strict_input import BODY, CALLER_KEY, VECTORS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is on this machine: no page was tried in one")

# Both names lead to 127.0.0.1, as a rebound name does.
NAMES = "--host-resolver-rules=MAP evil.example 127.0.0.1, MAP app.example 127.0.0.1"
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--no-proxy-server"),
)
# In the page's own time, which stands still while the page waits for a response.
BUDGET = "--virtual-time-budget=20000"
SECONDS = 120

ATTACK = """
const tries = {
  hidden: () => fetch(GATE + "/v1/embeddings", {mode: "no-cors", method: "POST", body: BODY}),
  read: () => fetch(GATE + "/v1/models").then(answer => answer.text()),
  health: () => fetch(GATE + "/healthz").then(answer => answer.text()),
  json: () => fetch(GATE + "/v1/embeddings", {method: "POST", body: BODY, headers: {"x-stainless-lang": "js"}}),
  picture: () => new Promise((right, wrong) => {
    const image = new Image();
    image.onload = right;
    image.onerror = () => wrong(new Error("no picture"));
    image.src = GATE + "/docs/favicon.png";
  }),
  script: () => new Promise((right, wrong) => {
    const script = document.createElement("script");
    script.onload = right;
    script.onerror = () => wrong(new Error("no script"));
    script.src = GATE + "/docs/swagger-ui-bundle.js";
    document.head.append(script);
  }),
};
"""
APPLICATION = """
const post = (path, body) => fetch(GATE + path, {method: "POST", body: JSON.stringify(body), headers: {
  "content-type": "application/json", "authorization": "Bearer KEY", "x-stainless-retry-count": "0"}});
const tries = {
  answer: async () => {
    const answer = await post("/v1/embeddings", {model: "jina-embeddings-v3", input: "hi"});
    return [answer.status, (await answer.json()).data.length, answer.headers.get("x-torii-upstream"),
            answer.headers.get("x-request-id").length];
  },
  stream: async () => {
    const answer = await post("/v1/chat/completions", {model: "gpt-4o-mini", stream: true,
      messages: [{role: "user", content: "hi"}]});
    return (await answer.text()).trim().split("\\n").at(-1);
  },
  failure: async () => {
    const answer = await post("/v1/embeddings", {model: "jina-embeddings-v3", input: []});
    return [answer.status, (await answer.json()).error.param];
  },
};
"""
REPORT = """
const found = {};
Promise.all(Object.entries(tries).map(async ([name, tried]) => {
  try { const got = await tried(); found[name] = got instanceof Response ? "response " + got.type : got ?? "loaded"; }
  catch (error) { found[name] = error.name + ": " + error.message; }
})).then(() => { document.body.textContent = JSON.stringify(found); });
"""


@asynccontextmanager
async def site(page: str) -> AsyncIterator[int]:
    """A web server with one page; yields its port."""
    body = page.encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")  # fails for the unused connections that a browser opens in advance
        writer.write(head.encode() + body)
        await writer.drain()

    async with serving(serve) as url:
        port = urlsplit(url).port
        assert port is not None
        yield port


async def shown(url: str, folder: Path) -> str:
    """The text of a page after its scripts have run."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        *(CHROMIUM, *QUIET, NAMES, BUDGET, f"--user-data-dir={folder}/profile", "--dump-dom", url),
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found = re.search(r"<body>(.*)</body>", out.decode(), re.S)
    assert found is not None, out
    return html.unescape(re.sub(r"<[^>]+>", "", found[1])).strip()


def page(script: str, gateway: RunningGateway) -> str:
    given = (
        script.replace("GATE", quoted(gateway.url)).replace("BODY", quoted(BODY.decode())).replace("KEY", CALLER_KEY)
    )
    return f"<!doctype html><body><script>{given}</script></body>"


def quoted(text: str) -> str:
    """The text as a JavaScript literal."""
    return msgspec.json.encode(text).decode()


async def tried(
    script: str, gateway: RunningGateway, name: str, folder: Path, allow: Callable[[str], object] = len
) -> Any:
    """The report of a page of ``name`` on a gateway. ``allow`` gets the page's origin before the page is opened."""
    async with site(page(script + REPORT, gateway)) as port:
        allow(f"http://{name}:{port}")
        return msgspec.json.decode(await shown(f"http://{name}:{port}/", folder))


async def led(script: str, gateway: RunningGateway, folder: Path) -> str:
    """The page that a page of another site sends its reader to."""
    async with site(page(script, gateway)) as port:
        return await shown(f"http://evil.example:{port}/", folder)


def gateway_for(upstream: ScriptedUpstream, other: ScriptedUpstream, **given: Any) -> Any:
    upstream.plays(replies(VECTORS))
    other.plays(streams(CHUNK, END))
    return running_gateway(settings_for(upstream.url, other.url, **given))


def spent(gateway: RunningGateway, *upstreams: ScriptedUpstream) -> int:
    return len(gateway.records) + sum(len(upstream.seen) for upstream in upstreams)


async def test_a_page_of_another_site_gets_nothing_of_an_open_gateway(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async with gateway_for(upstream, other_upstream) as gateway:
        found = await tried(ATTACK, gateway, "evil.example", tmp_path)
        assert spent(gateway, upstream, other_upstream) == 0
    refused = "TypeError: Failed to fetch"
    assert found == {
        "hidden": "response opaque",  # an opaque response does not even show that it is a refusal
        "read": refused,
        "health": refused,
        "json": refused,
        "picture": "Error: no picture",
        "script": "Error: no script",
    }


async def test_a_page_whose_name_was_rebound_reads_nothing(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """The page's name leads to the gateway itself, so the gateway has the page's origin."""
    async with gateway_for(upstream, other_upstream) as gateway:
        rebound = gateway.url.replace("127.0.0.1", "evil.example")
        assert '"code":"forbidden"' in await shown(f"{rebound}/v1/models", tmp_path)
        assert '"object":"list"' in await shown(f"{gateway.url}/v1/models", tmp_path)
        assert spent(gateway, upstream, other_upstream) == 0


async def test_a_link_leads_to_a_page_and_a_form_to_nothing(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    form = """
    const form = document.createElement("form");
    Object.assign(form, {method: "post", action: GATE + "/v1/embeddings", enctype: "text/plain"});
    const field = document.createElement("input");
    Object.assign(field, {name: BODY.slice(0, -1) + ',"x":"', value: '"}'});
    form.append(field);
    document.body.append(form);
    form.submit();
    """
    async with gateway_for(upstream, other_upstream) as gateway:
        assert '"object":"list"' in await led('location = GATE + "/v1/models";', gateway, tmp_path)
        for script in ('location = GATE + "/v1/embeddings";', form):
            assert '"code":"forbidden"' in await led(script, gateway, tmp_path)
        assert spent(gateway, upstream, other_upstream) == 0


async def test_the_gateways_own_page_works(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """The page's scripts, the API's document, and the address shown."""
    async with gateway_for(upstream, other_upstream) as gateway:
        text = await shown(f"{gateway.url}/docs", tmp_path)
    assert "/v1/embeddings" in text
    assert f"Point an OpenAI SDK at {gateway.url}/v1" in text


@pytest.mark.parametrize("callers", [{}, {"caller_key": CALLER_KEY}], ids=["open", "with callers"])
async def test_a_page_that_is_allowed_reads_answers_streams_and_failures(
    callers: dict[str, str], upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """The page's port is not known in advance, so a reload puts its origin in force."""
    async with gateway_for(upstream, other_upstream, **callers) as gateway:

        def allow(origin: str) -> None:
            gateway.server.renew(settings_for(upstream.url, other_upstream.url, **callers, **cors(origin)))

        found = await tried(APPLICATION, gateway, "app.example", tmp_path, allow)
    assert found == {"answer": [200, 1, "jina", 32], "stream": "data: [DONE]", "failure": [400, "input"]}


async def test_a_page_that_is_not_allowed_reads_nothing_of_a_gateway_with_callers(
    upstream: ScriptedUpstream, other_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Not even with a valid key."""
    async with gateway_for(upstream, other_upstream, caller_key=CALLER_KEY) as gateway:
        found = await tried(APPLICATION, gateway, "evil.example", tmp_path)
        assert spent(gateway, upstream, other_upstream) == 0
    assert set(found.values()) == {"TypeError: Failed to fetch"}
