"""Proxies between gateway and upstreams: real processes at both ends of a tunnel, and no password leaks anywhere."""

from __future__ import annotations

import asyncio
import re
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
import trustme

from app.core.errors import UpstreamUnreachable
from app.core.types import Request
from app.upstreams.client import Wire, engine
from app.upstreams.client.proxies import Proxy, loopback, parse, place, variable

from .. import proxy as proxies
from ..cli.test_cli import environment, free_port, torii
from ..conftest import JINA_KEY, PATIENCE, ScriptedUpstream, replies, until
from ..program import Program, started

# A name that no resolver knows: only the proxy can reach it.
HOST = "provider.invalid"
PASSWORD = "p@ss:word/of-the-proxy"
TOKEN = b64encode(f"{proxies.USER}:{PASSWORD}".encode()).decode()
VECTORS = {
    "model": "jina-embeddings-v3",
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
    "usage": {"total_tokens": 2},
}
EMBED = {"model": "jina-embeddings-v3", "input": ["a"]}
OPERATOR = "the-operators-own-key-0123456789"

both_engines = pytest.mark.parametrize("http_client", ["httptools", "httpx"])
both_schemes = pytest.mark.parametrize("scheme", ["https", "http"])


@asynccontextmanager
async def provider(folder: Path, scheme: str) -> AsyncIterator[tuple[ScriptedUpstream, int]]:
    """An upstream with a certificate for HOST, and its port; the CA's certificate is in the folder as ca.pem."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    upstream = ScriptedUpstream()
    upstream.plays(replies(VECTORS))
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, ssl=context if scheme == "https" else None)
    try:
        yield upstream, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in upstream.tasks:
            task.cancel()
        await asyncio.gather(*upstream.tasks, return_exceptions=True)


def config(scheme: str, **values: Any) -> dict[str, Any]:
    jina = {"base_url": f"{scheme}://{HOST}/v1", "api_key": JINA_KEY, **values.pop("jina", {})}
    common = {"ca_file": "ca.pem", "cache": {"store": "off"}, "operator_key": OPERATOR}
    return {"upstreams": {"jina": jina}, **common, **values}


def url(port: int, password: str = PASSWORD) -> str:
    return f"http://{proxies.USER}:{quote(password, safe='')}@127.0.0.1:{port}"


def shows_nothing(text: str) -> None:
    for secret in (PASSWORD, quote(PASSWORD, safe=""), TOKEN):
        assert secret not in text


async def embed(running: Program) -> httpx.Response:
    return await running.client.post("/v1/embeddings", json=EMBED)


async def logged(running: Program, words: str) -> None:
    await until(lambda: words in running.log)


async def check(running: Program, **variables: str) -> str:
    """The output of `torii check --live` for the same configuration."""
    done = await asyncio.to_thread(torii, "check", "--live", cwd=running.folder, **variables)
    assert done.stderr == ""
    return done.stdout


@both_engines
@both_schemes
async def test_calls_go_through_the_proxy(scheme: str, http_client: str, tmp_path: Path) -> None:
    async with provider(tmp_path, scheme) as (upstream, port):
        with proxies.proxy(tmp_path, port, "--password", PASSWORD) as proxy:
            text = msgspec.json.encode(config(scheme, jina={"proxy_url": url(proxy.port)}, http_client=http_client))
            async with started(Program, tmp_path, text) as running:
                for _ in range(2):
                    answer = await embed(running)
                    assert (answer.status_code, answer.json()["data"]) == (200, VECTORS["data"])
                first = "CONNECT provider.invalid:443 HTTP/1.1"
                if scheme == "http":
                    first = "POST http://provider.invalid/v1/embeddings HTTP/1.1"
                once = 1 if (scheme, http_client) == ("https", "httptools") else 2  # httpx keeps no connection
                assert [head[0] for head in proxy.heads] == [first] * once
                for head in proxy.heads:
                    assert f"proxy-authorization: basic {TOKEN.lower()}" in [line.lower() for line in head]
                    assert scheme == "http" or not any(JINA_KEY in line for line in head)
                for seen in upstream.seen:
                    assert seen.path == "/v1/embeddings"
                    assert seen.headers["host"] == HOST
                    assert seen.headers["authorization"] == f"Bearer {JINA_KEY}"
                    assert "proxy-authorization" not in seen.headers
                admin = await running.client.get("/admin/upstreams", headers={"authorization": f"Bearer {OPERATOR}"})
                told = await check(running)
                assert f"127.0.0.1:{proxy.port}" in told
                for text_of in (running.log, answer.text, admin.text, told):
                    shows_nothing(text_of)


@both_engines
@both_schemes
async def test_a_proxy_that_refuses_is_named_to_the_operator_and_not_to_the_caller(
    scheme: str, http_client: str, tmp_path: Path
) -> None:
    async with provider(tmp_path, scheme) as (upstream, port):
        with proxies.proxy(tmp_path, port, "--password", "another-one") as proxy:
            text = msgspec.json.encode(config(scheme, jina={"proxy_url": url(proxy.port)}, http_client=http_client))
            async with started(Program, tmp_path, text) as running:
                answer = await embed(running)
                assert answer.status_code == 502
                assert answer.json()["error"]["message"] == "the upstream cannot be reached"
                assert answer.json()["error"]["code"] == "upstream_unreachable"
                why = "the proxy requires a user and a password, or different ones (407); set them in proxy_url"
                await logged(running, why)
                told = await check(running)
                assert why in " ".join(told.split())
                for text_of in (running.log, answer.text, told):
                    shows_nothing(text_of)
        assert upstream.seen == []


@both_engines
async def test_a_proxy_that_makes_no_way(http_client: str, tmp_path: Path) -> None:
    """The proxy refuses, the proxy's port is closed, or the server behind it has an untrusted certificate."""
    async with provider(tmp_path, "https") as (_, port):
        with proxies.proxy(tmp_path, port, "--says", "403 Forbidden") as proxy:
            text = msgspec.json.encode(config("https", jina={"proxy_url": url(proxy.port)}, http_client=http_client))
            async with started(Program, tmp_path, text) as running:
                assert (await embed(running)).status_code == 502
                await logged(running, "the proxy refused the tunnel (403)")
    jina = {"proxy_url": url(free_port())}
    async with started(
        Program, tmp_path, msgspec.json.encode(config("https", jina=jina, http_client=http_client))
    ) as running:
        assert (await embed(running)).status_code == 502
        await logged(running, "proxy: connection refused")
    async with provider(tmp_path, "https") as (_, port):
        with proxies.proxy(tmp_path, port) as proxy:
            jina = {"proxy_url": url(proxy.port)}
            text = msgspec.json.encode(config("https", jina=jina, http_client=http_client, ca_file=None))
            async with started(Program, tmp_path, text) as running:
                assert (await embed(running)).status_code == 502
                await logged(running, '"the certificate is not trusted"')


@both_engines
@both_schemes
async def test_the_environments_proxy_if_it_is_asked_for(
    scheme: str, http_client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by default, and never for this machine itself."""
    async with provider(tmp_path, scheme) as (_, port):
        with proxies.proxy(tmp_path, port, "--password", PASSWORD) as proxy:
            variables = {f"{scheme.upper()}_PROXY": url(proxy.port)}
            for name, value in variables.items():
                monkeypatch.setenv(name, value)
            monkeypatch.setattr("tests.program.environment", lambda given: environment({**given, **variables}))
            asked = config(scheme, http_client=http_client, proxy_from_environment=True)
            async with started(Program, tmp_path, msgspec.json.encode(asked)) as running:
                answer = await embed(running)
                assert (answer.status_code, answer.json()["data"]) == (200, VECTORS["data"])
                told = await check(running, **variables)
                shows_nothing(running.log + told)
                assert f"127.0.0.1:{proxy.port}" in told
            heads = len(proxy.heads)
            (tmp_path / "config.yaml").unlink()
            async with started(
                Program, tmp_path, msgspec.json.encode(config(scheme, http_client=http_client))
            ) as running:
                assert (await embed(running)).status_code == 502
                await logged(running, '"DNS lookup failed"')
                told = await check(running, **variables)
                note = f"{scheme.upper()}_PROXY is set but not used; set proxy_from_environment: true to use a proxy."
                assert note in " ".join(told.split())
            here = {"base_url": f"http://127.0.0.1:{port}/v1"}
            if scheme == "http":
                async with started(
                    Program, tmp_path, msgspec.json.encode({**asked, "upstreams": {"jina": {**here, "api_key": "x"}}})
                ) as running:
                    assert (await embed(running)).status_code == 200
            assert len(proxy.heads) == heads


async def raw_proxy(answer: bytes) -> tuple[asyncio.Server, int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "the proxy closed the connection before the tunnel was open"),
        (b"HTTP/1.1 200 OK\r\n", "the proxy closed the connection before the tunnel was open"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "the proxy's response is not HTTP"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "the proxy's response is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000, "the proxy's response is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\n\x16\x03", "the proxy sent data before the request"),
        (b"HTTP/1.0 503 Busy\r\n\r\n<html>", "the proxy refused the tunnel (503)"),
    ],
)
async def test_what_a_proxy_may_answer(answer: bytes, why: str) -> None:
    server, port = await raw_proxy(answer)
    made = engine("httptools", Wire("torii-test", proxies={(HOST, 443, True): Proxy("127.0.0.1", port)}))
    with pytest.raises(UpstreamUnreachable) as error:
        async with asyncio.timeout(PATIENCE):
            await made.open(Request(f"https://{HOST}/v1/x", {}, b"{}"))
    assert error.value.reason == why
    await made.aclose()
    server.close()


def test_a_proxys_address() -> None:
    found = parse("http://torii:p%40ss%3Aword%2F@proxy.example:3128/")
    assert (found.host, found.port, found.user, found.password) == ("proxy.example", 3128, "torii", "p@ss:word/")
    assert found.authorization == "Basic " + b64encode(b"torii:p@ss:word/").decode()
    assert repr(found) == "Proxy(host='proxy.example', port=3128)"
    assert [parse(text).name for text in ("proxy:8080", "http://proxy", "http://[::1]:3128")] == [
        *("proxy:8080", "proxy:80", "[::1]:3128"),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "http://", "http://proxy:port", "http://proxy:3128/path", "http://proxy/?q", "http://a b", "é"),
        *("ftp://proxy", "https://proxy:3128", "socks5://proxy:1080"),
    ],
)
def test_what_is_no_proxys_address(wrong: str) -> None:
    with pytest.raises(ValueError, match="must be a URL such as http://proxy"):
        parse(wrong)


@pytest.mark.parametrize(
    ("host", "spared"),
    [
        ("api.jina.ai", "*"),
        ("api.jina.ai", "jina.ai"),
        ("api.jina.ai", "other.example, .jina.ai"),
        ("api.jina.ai", "*.jina.ai"),
        ("api.jina.ai", "API.jina.ai:443"),
        ("10.1.2.3", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3"),
        ("fd00::1", "fd00::/8"),
        ("fd00::1", "[fd00::1]:443"),
    ],
)
def test_what_no_proxy_spares(host: str, spared: str) -> None:
    there = (host, 443, True)
    assert variable(there, {"HTTPS_PROXY": "http://p", "NO_PROXY": spared}) is None
    assert variable(there, {"HTTPS_PROXY": "http://p", "no_proxy": spared, "NO_PROXY": ""}) is None


@pytest.mark.parametrize(
    "spared", ["", " , ", "ina.ai", "jina.ai.example", "api.jina.ai:80", "10.0.0.0/8", "[", ".", ":"]
)
def test_what_no_proxy_does_not_spare(spared: str) -> None:
    assert variable(("api.jina.ai", 443, True), {"HTTPS_PROXY": "http://p", "NO_PROXY": spared}) == "HTTPS_PROXY"


def test_which_variable_names_the_proxy() -> None:
    tls, plain = place("https://api.jina.ai/v1"), place("http://api.jina.ai:8080/v1")
    assert (tls, plain) == (("api.jina.ai", 443, True), ("api.jina.ai", 8080, False))
    both = {"HTTPS_PROXY": "http://s", "HTTP_PROXY": "http://p"}
    assert (variable(tls, both), variable(plain, both)) == ("HTTPS_PROXY", "HTTP_PROXY")
    assert variable(tls, {**both, "https_proxy": "http://l"}) == "https_proxy"
    assert variable(plain, {"HTTPS_PROXY": "http://s", "ALL_PROXY": "http://a"}) == "ALL_PROXY"
    assert variable(plain, {"HTTPS_PROXY": "http://s"}) is None


def test_to_this_machine_there_is_no_proxy() -> None:
    assert all(map(loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost", "models.localhost")))
    assert not any(map(loopback, ("10.0.0.1", "api.jina.ai", "localhost.example", "0.0.0.0")))


def test_mistakes_with_proxies_are_named_without_their_values(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "proxy_from_environment: true\n"
        "upstreams:\n"
        f"  jina: {{proxy_url: 'https://torii:{quote(PASSWORD, safe='')}@proxy.example'}}\n"
    )
    done = torii("serve", cwd=tmp_path, JINA_API_KEY=JINA_KEY)
    assert done.returncode == 2
    form = "must be a URL such as http://proxy.example:3128 or http://user:password@proxy.example:3128"
    assert done.stderr == (
        "torii: the configuration has a mistake:\n"
        f"  config.yaml:3: upstreams.jina.proxy_url: {form}; "
        "a proxy reached over https is not supported\n"
    )
    (tmp_path / "config.yaml").write_text(
        "proxy_from_environment: true\n"
        "upstreams:\n"
        "  one: {kind: openai, base_url: 'https://models.test/v1', api_key: one}\n"
        "  two: {kind: openai, base_url: 'https://models.test/v1', api_key: two, proxy_url: 'proxy.example:3128'}\n"
    )
    wrong = f"http://torii:{PASSWORD}@proxy.example"
    done = torii("serve", cwd=tmp_path, JINA_API_KEY=JINA_KEY, HTTPS_PROXY=wrong)
    shows_nothing(done.stderr)
    assert done.stderr.splitlines()[1:] == [
        f"  config.yaml:1: proxy_from_environment: the variable HTTPS_PROXY {form}",
        "  config.yaml:4: upstreams.two.proxy_url: differs from the proxy_url of another upstream at the same address",
    ]


def test_no_settings_object_shows_the_password() -> None:
    from app.config.settings import Settings
    from app.gateway.build import build_proxies, hosts, secrets

    given: Any = {"jina": {"proxy_url": f"http://torii:{quote(PASSWORD, safe='')}@proxy.example:1"}}
    settings = Settings(upstreams=given)
    for shown in (
        repr(settings),
        str(settings.model_dump()),
        settings.model_dump_json(),
        repr(build_proxies(settings)),
    ):
        shows_nothing(shown)
        assert not re.search("torii:", shown)
    assert {PASSWORD, TOKEN} <= set(secrets(settings))
    assert "proxy.example" in hosts(settings)
