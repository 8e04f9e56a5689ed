"""Clients of r.jina.ai and s.jina.ai, unmodified: by a base URL of their own, or by the provider's host names.

LangChain's, Agno's and Haystack's classes are in the extra `clients`; `make clients` installs them. Open WebUI is an
application, and jina-cli a program: of these two the tests send what is known of them, the latter's source code
(jina-ai/cli d27a62d) and the former's documented request; its header X-Retain-Images is from memory.

Some clients have the provider's hosts fixed in their code. They reach the gateway as a team would lead them there: the
names lead to this machine, where a proxy with a certificate of its own terminates TLS, and the gateway routes by
``Host`` (``hosts: true``).
"""

from __future__ import annotations

import ast
import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trustme
from pydantic import SecretStr

from app.config.settings import Settings
from app.gateway.build import in_sandbox
from app.sandbox import Sandbox

from ..conftest import WITH_CURL, until
from .conftest import CALLER_KEY, Beside, served
from .test_jina_classes import have

# These libraries use deprecated functions of their own, and leave sockets open.
pytestmark = pytest.mark.filterwarnings("default")

TIDES = "https://almanac.example.org/tides"
TITLE = "Tides and the Moon"
SENTENCE = "Most coasts have two high tides a day, about 12 hours and 25 minutes apart."
NAMES = ("r.jina.ai", "s.jina.ai", "svip.jina.ai")
BEARER = {"authorization": f"Bearer {CALLER_KEY}"}
ACCEPT_JSON = {**BEARER, "accept": "application/json"}


@pytest.fixture(scope="module")
def pages() -> Iterator[Beside]:
    """The gateway with the sandbox's reader and search, which answers to the provider's names too."""
    with Sandbox(pace=0) as sandbox:
        given = Settings.model_validate({"caller_key": SecretStr(CALLER_KEY), "hosts": True, "svip": True})
        with served(in_sandbox(given, sandbox.urls)) as beside:
            yield beside


@pytest.fixture
def web(pages: Beside) -> Beside:
    pages.records.clear()
    return pages


def settled(web: Beside, *names: str) -> list[int]:
    """The tokens of the calls, once all of them are settled; ``names`` are their endpoints."""
    asyncio.run(until(lambda: len(web.records) >= len(names)))
    assert [(record.call.endpoint.name, record.status) for record in web.records] == [(name, 200) for name in names]
    return [record.usage["total_tokens"] for record in web.records if record.usage]


# --- by a base URL -----------------------------------------------------------------------------


def test_langchain_searches(web: Beside) -> None:
    search = have("langchain_community.utilities.jina_search")
    wrapper = search.JinaSearchAPIWrapper(api_key=web.key, base_url=f"{web.root}/s/")
    [found] = msgspec.json.decode(wrapper.run("high tides"))
    assert (found["title"], found["link"], found["snippet"]) == (TITLE, TIDES, SENTENCE)
    assert SENTENCE in found["content"]
    [document] = wrapper.download_documents("high tides")
    assert document.metadata == {"title": TITLE, "link": TIDES, "description": SENTENCE}


def test_langchain_is_told_that_nothing_was_found(web: Beside) -> None:
    search = have("langchain_community.utilities.jina_search")
    with pytest.raises(Exception, match="HTTP error 422"):
        search.JinaSearchAPIWrapper(api_key=web.key, base_url=f"{web.root}/s/").run("xyzzy")


def test_agno_reads_and_searches(web: Beside) -> None:
    agno = have("agno.tools.jina")
    tools = agno.JinaReaderTools(api_key=web.key, base_url=f"{web.root}/r/", search_url=f"{web.root}/s/", timeout=20)
    page = ast.literal_eval(tools.read_url(f"{TIDES}?a=b&c=d"))
    assert (page["data"]["title"], page["data"]["url"]) == (TITLE, f"{TIDES}?a=b&c=d")
    assert set(page["data"]["links"]) == {"Why there are seasons", "Why the sky is blue"}
    found = ast.literal_eval(tools.search_query("high tides"))
    assert [item["url"] for item in found["data"]] == [TIDES]
    brief = agno.JinaReaderTools(api_key=web.key, search_url=f"{web.root}/s/", search_query_content=False)
    assert ast.literal_eval(brief.search_query("high tides"))["data"][0]["content"] == ""


def test_open_webui_searches_with_a_bare_key(web: Beside) -> None:
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "Authorization": web.key,
        "X-Retain-Images": "none",
    }
    answer = httpx.post(f"{web.root}/s/", headers=headers, json={"q": "high tides", "count": 3}, timeout=10)
    [found] = answer.json()["data"]
    assert (answer.status_code, found["url"], found["title"]) == (200, TIDES, TITLE)
    assert "![Image" not in found["content"]


def test_a_prefix_before_an_address(web: Beside) -> None:
    """As in "put https://r.jina.ai/ before the URL"."""
    text = httpx.get(f"{web.root}/r/{TIDES}?a=b", headers=BEARER)
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.text.startswith(f"Title: {TITLE}\n\nURL Source: {TIDES}?a=b\n\n")
    fetched = httpx.get(f"{web.root}/r/{TIDES}", headers={**BEARER, "accept": "application/json, text/plain, */*"})
    assert fetched.headers["content-type"] == "text/plain; charset=utf-8"


# --- curl, as in Jina's documentation ----------------------------------------------------------


def curl(*words: str) -> str:
    ran = subprocess.run(["curl", "--silent", "--show-error", *words], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


@WITH_CURL
def test_curl_reads(web: Beside) -> None:
    key = f"Authorization: Bearer {web.key}"
    text = curl(f"{web.root}/r/{TIDES}", "-H", key)
    assert text.startswith(f"Title: {TITLE}\n\nURL Source: {TIDES}\n\n")
    assert curl(f"{web.root}/r/", "-H", key, "-d", f"url={TIDES}") == text
    body = msgspec.json.encode({"url": TIDES}).decode()
    asked = ("-H", "Content-Type: application/json", "-H", "Accept: application/json", "-H", "X-Return-Format: text")
    page = msgspec.json.decode(curl("-X", "POST", f"{web.root}/r", "-H", key, *asked, "-d", body))["data"]
    assert (page["title"], SENTENCE in page["text"], "content" in page) == (TITLE, True, False)


@WITH_CURL
def test_curl_reads_a_stream_of_snapshots(web: Beside) -> None:
    headers = ("-H", f"Authorization: Bearer {web.key}", "-H", "Accept: text/event-stream")
    events = curl("-N", f"{web.root}/r/{TIDES}", *headers).split("\n\n")
    data = [event.rpartition("data: ")[2] for event in events if event.startswith("event: data\n")]
    assert [msgspec.json.decode(page)["usage"]["tokens"] for page in data] == [46, 84, 125]
    assert settled(web, "reader") == [125]


@WITH_CURL
def test_curl_searches(web: Beside) -> None:
    headers = ("-H", f"Authorization: Bearer {web.key}", "-H", "X-Respond-With: no-content")
    text = curl(f"{web.root}/s/?q=high+tides&num=3", *headers)
    assert text == f"[1] Title: {TITLE}\n[1] URL Source: {TIDES}\n[1] Description: {SENTENCE}\n"
    assert curl(f"{web.root}/s/high%20tides", *headers) == text


# --- by the provider's names -------------------------------------------------------------------


class Terminator:
    """Terminates TLS for the names of ``chain`` on a port of 127.0.0.1, and passes the bytes on to the gateway."""

    def __init__(self, chain: ssl.SSLContext, root: str) -> None:
        self._chain = chain
        self._gateway = root.removeprefix("http://").split(":")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ready, self._ended = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def start(self) -> None:
        self._thread.start()
        self._ready.wait(20)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(20)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._connected, sock=self._listener, ssl=self._chain)
        self._ready.set()
        await self._ended.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._gateway
        beyond, onward = await asyncio.open_connection(host, int(port))
        await asyncio.gather(_passed(reader, onward), _passed(beyond, writer))


async def _passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, ssl.SSLError):
        pass
    finally:
        writer.close()


@contextmanager
def led_to(port: int) -> Iterator[None]:
    """Names of NAMES lead to a port of 127.0.0.1 in this process, as an entry in the hosts file would lead there."""
    known: Any = socket.getaddrinfo

    def found(host: Any, service: Any, *more: Any, **named: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        return known("127.0.0.1", port, *more, **named) if name in NAMES else known(host, service, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", found)
        yield


@pytest.fixture
def terminator(web: Beside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, Path]]:
    """The proxy's port, and the file of the authority that signed its certificate, which all clients here trust."""
    authority = trustme.CA()
    trusted = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(trusted)
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(variable, str(trusted))
    chain = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*NAMES).configure_cert(chain)
    proxy = Terminator(chain, web.root)
    proxy.start()
    try:
        with led_to(proxy.port):
            yield proxy.port, trusted
    finally:
        proxy.stop()


def test_haystack_reads_and_searches(web: Beside, terminator: object) -> None:
    connectors = have("haystack_integrations.components.connectors.jina")
    secret = have("haystack.utils").Secret.from_token(web.key)
    [page] = connectors.JinaReaderConnector(mode="read", api_key=secret).run(query=f"{TIDES}?a=b&c=d")["documents"]
    assert SENTENCE in page.content
    assert (page.meta["title"], page.meta["url"]) == (TITLE, f"{TIDES}?a=b&c=d")
    [found] = connectors.JinaReaderConnector(mode="search", api_key=secret).run(query="high tides?")["documents"]
    assert (found.meta["url"], found.meta["description"]) == (TIDES, SENTENCE)
    raw = connectors.JinaReaderConnector(mode="read", api_key=secret, json_response=False)
    [text] = raw.run(query=TIDES)["documents"]
    assert text.content.startswith(f"Title: {TITLE}\n\n")
    assert text.meta["content_type"] == "text/plain; charset=utf-8"


def test_jina_cli_reads(web: Beside, terminator: object) -> None:
    """``jina read URL`` and ``jina read URL --links --json``."""
    headers = {"Content-Type": "application/json", "X-Md-Link-Style": "discarded", "User-Agent": "jina-cli/0.4.0"}
    with httpx.Client(timeout=30.0, follow_redirects=True) as client:
        asked = {**headers, **BEARER, "Accept": "text/markdown", "X-Retain-Images": "none"}
        text = client.post("https://r.jina.ai/", headers=asked, json={"url": TIDES})
        asked = {**headers, **ACCEPT_JSON, "X-With-Links-Summary": "all", "X-With-Images-Summary": "true"}
        page = client.post("https://r.jina.ai/", headers=asked, json={"url": TIDES}).json()["data"]
        asked = {**headers, **ACCEPT_JSON, "X-Return-Format": "screenshot"}
        shot = client.post("https://r.jina.ai/", headers=asked, json={"url": TIDES}).json()["data"]
    assert text.text.startswith(f"Title: {TITLE}\n\n")
    assert "![Image" not in text.text
    assert page["links"][0] == ["Why there are seasons", "https://almanac.example.org/seasons"]
    assert shot["screenshotUrl"].startswith("https://")


def test_jinas_own_tools_search(web: Beside, terminator: object) -> None:
    """``jina search``, ``jina expand``, and the deep search and the figures of Jina's MCP server: the host is
    fixed in their code."""
    with httpx.Client(timeout=30.0, headers=ACCEPT_JSON) as client:
        found = client.post("https://svip.jina.ai/", json={"q": "high tides", "num": 5}).json()
        queries = client.post("https://svip.jina.ai/", json={"q": "tides", "query_expansion": True}).json()
        deep = {"q": "tides", "meta": "deep", "num": "5", "read_num": "8", "deep_timeout": "25000"}
        read = client.get("https://svip.jina.ai/", params=deep).json()
        figures = client.post("https://svip.jina.ai/extract-pdf", json={"url": TIDES, "max_edge": 1024}).json()
    assert [result["url"] for result in found["results"]] == [TIDES]
    assert queries["results"][0] == "tides explained"
    assert read["meta"]["credits"] == figures["meta"]["credits"] == 10_000
    assert figures["floats"][0]["type"] == "figure"
    assert settled(web, *["svip"] * 4) == [10_000] * 4


def test_fixed_hosts_have_the_providers_paths(web: Beside, terminator: object) -> None:
    with httpx.Client() as client:
        prefixed = client.get(f"https://r.jina.ai/{TIDES}", headers=ACCEPT_JSON)
        searched = client.get("https://s.jina.ai/?q=high+tides&num=1", headers=ACCEPT_JSON)
        pathed = client.get("https://s.jina.ai/high%20tides", headers=ACCEPT_JSON)
        nothing = client.post("https://s.jina.ai/", headers=ACCEPT_JSON, json={"q": "xyzzy"})
        keyless = client.get(f"https://r.jina.ai/{TIDES}", headers={"accept": "application/json"})
    assert prefixed.json()["data"]["url"] == TIDES
    assert searched.json()["data"] == pathed.json()["data"]
    assert (nothing.status_code, nothing.json()["status"]) == (422, 42206)
    assert keyless.status_code == 401


@WITH_CURL
def test_curl_reaches_the_provider_by_its_name(web: Beside, terminator: tuple[int, Path]) -> None:
    port, trusted = terminator
    way = [word for name in NAMES for word in ("--connect-to", f"{name}:443:127.0.0.1:{port}")]
    key = f"Authorization: Bearer {web.key}"
    text = curl(*way, "--cacert", str(trusted), f"https://r.jina.ai/{TIDES}", "-H", key)
    assert text.startswith(f"Title: {TITLE}\n\nURL Source: {TIDES}\n\n")
    found = curl(*way, "--cacert", str(trusted), "https://s.jina.ai/?q=high+tides", "-H", key)
    assert found.startswith(f"[1] Title: {TITLE}\n")


def test_usage_is_settled_for_every_client(web: Beside) -> None:
    httpx.get(f"{web.root}/r/{TIDES}", headers=BEARER)
    httpx.post(f"{web.root}/s/", headers=ACCEPT_JSON, json={"q": "high tides"})
    assert settled(web, "reader", "search") == [125, 10_000]
