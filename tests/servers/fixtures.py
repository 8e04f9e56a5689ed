"""One server of each kind for the session, started when a test asks for it; and servers of a test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from .postgres import PostgresServer
from .redis import RedisServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Not to be stopped or killed: all tests share it."""
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """Of a new and empty database, which is dropped after the test."""
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def new_postgres() -> Iterator[Callable[..., PostgresServer]]:
    """Makes servers that the test may stop and kill; the arguments are those of ``PostgresServer``."""
    with ExitStack() as stack:

        def make(**options: Any) -> PostgresServer:
            server = PostgresServer(**options)
            stack.callback(server.close)
            return server

        yield make


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Not to be stopped or killed: all tests share it."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Of the session's Redis, emptied before the test."""
    redis_server.empty()
    return redis_server.url()


@pytest.fixture
def new_redis() -> Iterator[Callable[..., RedisServer]]:
    """Makes servers that the test may stop and kill; the arguments are those of ``RedisServer``."""
    with ExitStack() as stack:

        def make(*lines: str, **options: Any) -> RedisServer:
            server = RedisServer(*lines, **options)
            stack.callback(server.close)
            return server

        yield make
