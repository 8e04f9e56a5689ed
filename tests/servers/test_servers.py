"""The servers of the tests are real, apart from each other, and end with the session."""

from __future__ import annotations

import select
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import trustme
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..conftest import until
from . import Cut, PostgresServer, RedisServer, postgres_binaries, redis_binaries
from .keeper import alive

ONCE = Retry(NoBackoff(), 0)
NewPostgres = Callable[..., PostgresServer]
NewRedis = Callable[..., RedisServer]


def client(server: RedisServer, **options: Any) -> redis.Redis:
    return redis.Redis.from_url(server.url(), **options)


def test_two_databases_are_apart_and_need_the_password(postgres: PostgresServer, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as one, psycopg.connect(postgres.url()) as other:
        one.execute("CREATE TABLE t (n int)")
        assert other.execute("SELECT to_regclass('t')").fetchone() == (None,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres_url.replace(postgres.password, "wrong"))
    with psycopg.connect(postgres.url("t0", socket=True)) as local:
        assert local.execute("SELECT inet_client_addr()").fetchone() == (None,)


@pytest.mark.parametrize("binaries", postgres_binaries().values(), ids=postgres_binaries())
def test_postgres_keeps_its_data_over_a_restart_and_a_kill(binaries: Path, new_postgres: NewPostgres) -> None:
    server = new_postgres(binaries=binaries)
    assert server.version.partition(".")[0] in str(server.execute("SELECT version()")[0][0])
    url = server.url()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE t AS SELECT 7 AS n")
    for end in (server.shut_down, server.kill):
        end()
        with pytest.raises(psycopg.OperationalError, match="refused"):
            psycopg.connect(url)
        server.start()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT n FROM t").fetchone() == (7,)


def test_a_stopped_postgres_answers_when_it_is_resumed(new_postgres: NewPostgres) -> None:
    server = new_postgres(max_connections=2)
    url = server.url()
    with psycopg.connect(url) as first, psycopg.connect(url):
        with pytest.raises(psycopg.OperationalError, match="remaining connection slots"):
            psycopg.connect(url)
        server.stop()
        first.pgconn.send_query(b"SELECT 1")
        assert not select.select([first.fileno()], [], [], 0.1)[0]
        server.resume()
        result = first.pgconn.get_result()
        assert result is not None
        assert (result.get_value(0, 0), first.pgconn.get_result()) == (b"1", None)


async def test_a_cut_is_silent_until_it_is_healed(redis_server: RedisServer) -> None:
    with Cut(redis_server.port) as net, redis.Redis(port=net.port, socket_timeout=0.1, retry=ONCE) as impatient:
        assert impatient.ping()
        net.cut()
        with pytest.raises(redis.TimeoutError):
            impatient.ping()
        net.heal()
        assert impatient.ping()
        net.cut(requests=False)
        with pytest.raises(redis.TimeoutError):
            impatient.set("arrived", "yes")
        assert client(redis_server).get("arrived") == b"yes"
        net.heal()
        net.reset()
        assert impatient.ping()
        assert net.accepted >= 3


@pytest.mark.parametrize("binary", redis_binaries().values(), ids=redis_binaries())
def test_redis_with_a_password_without_a_command_and_over_a_kill(binary: Path, new_redis: NewRedis) -> None:
    server = new_redis("requirepass secret", "rename-command EVAL ''", binary=binary)
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=server.port, retry=ONCE).ping()
    with client(server) as connection:
        connection.set("a", "1")
        with pytest.raises(redis.ResponseError, match="unknown command"):
            connection.eval("return 1", 0)
        assert server.version
    server.kill()
    server.start()
    with client(server, socket_timeout=0.1, retry=ONCE) as connection:
        assert connection.get("a") == b"1"
        server.stop()
        with pytest.raises(redis.TimeoutError):
            connection.ping()
        server.resume()
        assert connection.ping()


def test_redis_behind_tls(redis_url: str, redis_server: RedisServer, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with Cut(redis_server.port, tls=context) as front:
        url = redis_server.url(port=front.port, scheme="rediss")
        with redis.Redis.from_url(url, ssl_ca_certs=str(tmp_path / "ca.pem")) as connection:
            assert connection.ping()


async def test_a_replica_follows_and_a_sentinel_names_the_master(new_redis: NewRedis) -> None:
    master = new_redis()
    replica = new_redis(f"replicaof 127.0.0.1 {master.port}")
    sentinel = new_redis(sentinel_of=master)
    with client(master) as writer, client(replica) as reader, redis.Redis(port=sentinel.port) as watcher:
        writer.set("a", "1")
        await until(lambda: reader.get("a") == b"1")
        assert watcher.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main") == [
            b"127.0.0.1",
            str(master.port).encode(),
        ]


async def test_no_server_outlives_a_session_that_is_killed() -> None:
    code = (
        "import sys; from tests.servers import PostgresServer, RedisServer; a, b = PostgresServer(), RedisServer();"
        "a.stop(); print(a.pid, a.folder, b.pid, b.folder, flush=True); sys.stdin.read()"
    )
    session = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with session:
        assert session.stdout is not None
        one, first, two, second = session.stdout.readline().split()
        segment = int((Path(first) / "data/postmaster.pid").read_text().splitlines()[6].split()[1])
        session.send_signal(signal.SIGKILL)
    await until(lambda: not alive(int(one)) and not alive(int(two)))
    await until(lambda: not Path(first).exists() and not Path(second).exists())
    listed = Path("/proc/sysvipc/shm")
    assert not listed.exists() or str(segment) not in [line.split()[1] for line in listed.read_text().splitlines()]
