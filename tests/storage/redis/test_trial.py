"""What is found at the start: a Redis that cannot serve as it is set up, and one that is only away."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme

from app.storage.redis.address import passwords
from app.storage.redis.connection import RedisAddress, Unsuitable
from app.storage.redis.counters import SharedCounters
from app.storage.redis.pushes import listen
from app.storage.redis.trial import NO_CERTIFICATE, NO_DATABASE, NO_REDIS, NO_SCRIPTS, tried

from ...cli.test_cli import ROOT
from ...conftest import until
from ...ports import closed_port
from ...servers import Cut
from .server import RedisServer, free_port, redis_server
from .test_counters import REQUESTS, taken

PASSWORD = "right-canary"
WRONG = "wrong-canary"


def tcp(server: RedisServer, login: str = "", db: int = 0) -> RedisAddress:
    return RedisAddress(f"redis://{login}127.0.0.1:{server.port}/{db}")


async def refused(address: RedisAddress) -> str:
    with pytest.raises(Unsuitable) as error:
        await tried(address, "torii")
    assert "canary" not in str(error.value)
    assert "canary" not in repr(address)
    return str(error.value)


async def test_a_redis_that_runs_the_script_keeps_nothing_of_the_trial(tmp_path: Path) -> None:
    async with redis_server(tmp_path / "redis") as server:
        assert await tried(RedisAddress(server.url), "torii") is None
        assert await server.run("KEYS", "*") == []


@pytest.mark.parametrize(
    "options",
    [
        ["--rename-command", "EVAL", "", "--rename-command", "EVALSHA", ""],
        ["--rename-command", "EVALSHA", ""],
        ["--user", *["default", "on", "nopass", "~*", "&*", "+@all", "-@scripting"]],
    ],
)
async def test_forbidden_scripts(options: list[str], tmp_path: Path) -> None:
    async with redis_server(tmp_path / "redis", *options) as server:
        assert await refused(RedisAddress(server.url)) == NO_SCRIPTS


@pytest.mark.parametrize("rights", ["resetkeys ~other:* &* +@all", "~* &* +@all -zadd"])
async def test_rights_that_are_too_few(rights: str, tmp_path: Path) -> None:
    async with redis_server(tmp_path / "redis", "--user", "default", "on", "nopass", *rights.split()) as server:
        assert await refused(RedisAddress(server.url)) == NO_SCRIPTS


async def test_the_rights_of_the_documentation_are_enough(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    _, name, *rights = page.partition("```text\n")[2].partition("```")[0].split()
    options = ["--user", name, *rights, "--user", "default", "off", "resetkeys", "resetchannels", "-@all"]
    heard: list[None] = []

    async def hear() -> None:
        heard.append(None)

    async with redis_server(tmp_path / "redis", *options, port=free_port()) as server:
        address = tcp(server, f"{name}:password@")
        assert await tried(address, "torii") is None
        counters = SharedCounters(address)
        await counters.start()
        listening = asyncio.create_task(listen(address, counters.channel, hear))
        await until(lambda: len(heard) == 1)
        counters.publish()
        await until(lambda: len(heard) == 2)
        assert (await taken(counters, REQUESTS))[1].refused is None
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
        await counters.aclose()


async def test_a_proxy_that_ends_the_connection_when_it_gets_a_script(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (line := await reader.readline()) and b"EVALSHA" not in line:
            if line.startswith(b"*"):
                writer.write(b"+OK\r\n")
        writer.close()

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = RedisAddress(f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
    assert await refused(address) == f"{NO_SCRIPTS}, and ends the connection"
    proxy.close()


@pytest.mark.parametrize(
    ("login", "said"),
    [
        (f":{WRONG}@", "it refuses the user or the password"),
        (f"ann:{PASSWORD}@", "it refuses the user or the password"),
        ("", "it needs a password, which the URL lacks"),
    ],
)
async def test_a_wrong_password(login: str, said: str, tmp_path: Path) -> None:
    async with redis_server(tmp_path / "redis", "--requirepass", PASSWORD, port=free_port()) as server:
        assert await refused(tcp(server, login)) == said
        assert await tried(tcp(server, f":{PASSWORD}@"), "torii") is None


async def test_a_database_that_there_is_not(tmp_path: Path) -> None:
    async with redis_server(tmp_path / "redis", port=free_port()) as server:
        assert await refused(tcp(server, db=99)) == NO_DATABASE


async def test_another_program(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    other = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = RedisAddress(f"redis://127.0.0.1:{other.sockets[0].getsockname()[1]}")
    assert await refused(address) == NO_REDIS
    other.close()


async def test_a_redis_that_is_away_does_not_prevent_the_start() -> None:
    with closed_port() as url:
        assert await tried(RedisAddress(url.replace("http", "redis")), "torii") == "Connection refused"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--replicaof", "127.0.0.1 1"], "it is a replica, which only reads"),
        (["--maxmemory", "1"], "its memory is full (maxmemory)"),
        (["--cluster-enabled", "yes"], "its cluster is down"),
    ],
)
async def test_a_state_that_may_pass_does_not_prevent_the_start(options: list[str], said: str, tmp_path: Path) -> None:
    port = free_port() if "--cluster-enabled" in options else 0
    async with redis_server(tmp_path / "redis", *options, port=port) as server:
        assert await tried(RedisAddress(server.url), "torii") == said


async def test_a_master_that_sentinels_know(tmp_path: Path) -> None:
    async with redis_server(tmp_path / "redis", "--requirepass", PASSWORD, port=free_port()) as master:
        port = free_port()
        watched = f"monitor torii-master 127.0.0.1 {master.port} 1", f"auth-pass torii-master {PASSWORD}"
        sentinel = RedisServer(tmp_path / "sentinel", *(f"--sentinel {words}" for words in watched), port=port)
        sentinel._command.append("--sentinel")
        place = f"redis+sentinel://:{PASSWORD}@127.0.0.1:1,127.0.0.1:{port}"
        try:
            await sentinel.start()
            address = RedisAddress(f"{place}/torii-master/0")
            assert await tried(address, "torii") is None
            counters = SharedCounters(address)
            await counters.start()
            assert (await taken(counters, REQUESTS))[1].refused is None
            await counters.aclose()
            said = await tried(RedisAddress(f"{place}/another/0"), "torii")
            assert said == "no Sentinel that answers knows a master of this name"
        finally:
            sentinel.stop()


async def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with redis_server(tmp_path / "redis", port=free_port()) as server:
        with Cut(server.port, tls=context) as tls:
            url = f"rediss://127.0.0.1:{tls.port}/0"
            assert await refused(RedisAddress(url)) == NO_CERTIFICATE
            assert await tried(RedisAddress(url, authority.cert_pem.bytes()), "torii") is None


async def test_nothing_of_the_address_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with redis_server(tmp_path / "redis", "--requirepass", PASSWORD, port=free_port()) as server:
        for login in (f":{WRONG}@", f":{PASSWORD}@"):
            counters = SharedCounters(tcp(server, login))
            await counters.start()
            assert (counters.trouble is None) == (PASSWORD in login)
            server.stop() if counters.trouble is None else None
            await counters.aclose()
    await until(lambda: "is away" in caplog.text)
    assert "canary" not in caplog.text


def test_passwords_are_redacted_as_they_are_written_and_as_they_are_meant() -> None:
    assert passwords("redis://:p%40ss@host/0") == ["p%40ss", "p@ss"]
    url = "redis+sentinel://u:one@a:1,b:2/name/0?sentinel_password=two"
    assert passwords(url) == ["one", "two"]
    assert passwords("unix:///tmp/redis.sock") == []
