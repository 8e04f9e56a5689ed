"""One connection to Redis, on which one command at a time is under way.

redis-py makes it: addresses, TLS, Sentinels, passwords, and reading. Commands are written here, because redis-py's own
way costs 45 microseconds more for each (docs/decisions.md).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import StoreError
from .address import SENTINELS, SentinelAddress, sentinel_address
from .script import SCRIPT, SHA

if TYPE_CHECKING:
    from redis.asyncio.connection import ConnectionPool


class RedisAddress(NamedTuple):
    """Where Redis is. ``ca``: PEM certificates to trust besides the usual ones."""

    url: str
    ca: bytes = b""

    def __repr__(self) -> str:
        return "RedisAddress(...)"  # the URL may hold a password


class Unsuitable(StoreError):
    """A Redis that cannot serve as it is set up: the gateway does not start with it."""


def pool(address: RedisAddress, connect_seconds: float, answer_seconds: float | None = None) -> ConnectionPool:
    """Makes connections. Without ``answer_seconds``, who waits for an answer has a deadline of their own."""
    from redis.asyncio.connection import ConnectionPool
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    options: dict[str, Any] = {
        "socket_connect_timeout": connect_seconds,
        "socket_timeout": answer_seconds,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # every Redis and every proxy speaks it
    }
    scheme = address.url.partition(":")[0]
    if address.ca and scheme.startswith("rediss"):
        options["ssl_ca_data"] = address.ca.decode("ascii")
    if scheme in SENTINELS:
        return _master_pool(sentinel_address(address.url), options)
    return ConnectionPool.from_url(address.url, **options)


def _master_pool(given: SentinelAddress, options: dict[str, Any]) -> ConnectionPool:
    from redis.asyncio.connection import SSLConnection
    from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool

    own = {**options, "username": given.sentinel_username, "password": given.sentinel_password}
    own["socket_timeout"] = options["socket_connect_timeout"]
    if given.tls:
        own["connection_class"] = SSLConnection
    sentinel = Sentinel(given.places, sentinel_kwargs=own)  # type: ignore[no-untyped-call]  # has no types
    login = {"db": given.db, "username": given.username, "password": given.password}
    # The class has no types.
    return SentinelConnectionPool(given.service, sentinel, ssl=given.tls, **login, **options)  # type: ignore[no-untyped-call]


class ScriptConnection:
    """Runs the script. ``run`` is for one caller at a time."""

    def __init__(self, address: RedisAddress, connect_seconds: float) -> None:
        self._address, self._seconds = address, connect_seconds
        self._pool: ConnectionPool | None = None
        self._connection: Any = None

    async def run(self, command: tuple[bytes, ...]) -> bytes:
        """The script's answer. A kept connection that has ended is replaced, once, and the script is run again: what it
        had done already is done twice, which is stricter, never looser. Raises what redis-py raises, and OSError."""
        from redis.exceptions import ConnectionError as Lost
        from redis.exceptions import NoScriptError

        kept = self._connection is not None
        try:
            if not kept:
                await self._connect()
            try:
                return await self._answer(b"EVALSHA", SHA, *command)
            except NoScriptError:
                return await self._answer(b"EVAL", SCRIPT, *command)
        except (Lost, OSError) as error:
            await self.close()
            if not kept or _refused(error):
                raise
        except BaseException as error:
            if not _answered(error):
                await self.close()  # the answer may still come
            raise
        return await self.run(command)

    async def keeps_scripts(self, command: tuple[bytes, ...]) -> bool:
        """False if a script that was just run is unknown. Raises as ``run``."""
        from redis.exceptions import NoScriptError

        try:
            await self._answer(b"EVALSHA", SHA, *command)
        except NoScriptError:
            return False
        return True

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self._pool is not None:
            with suppress(Exception):
                await connection.disconnect(nowait=True)
            with suppress(Exception):
                await self._pool.release(connection)
            await _emptied(self._pool)

    async def connect(self) -> None:
        """Raises what redis-py raises, and OSError."""
        if self._connection is None:
            await self._connect()

    async def ping(self) -> None:
        """Raises what redis-py raises: without its password Redis does not even read a script."""
        await self._answer(b"PING")

    async def _connect(self) -> None:
        if self._pool is None:
            self._pool = pool(self._address, self._seconds)
        try:
            self._connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]  # has no types
        except BaseException:
            await _emptied(self._pool)
            raise

    async def _answer(self, *parts: bytes) -> bytes:
        await self._connection.send_packed_command([packed(*parts)], check_health=False)
        answer: bytes = await self._connection.read_response(disable_decoding=True)
        return answer


async def _emptied(pool: ConnectionPool) -> None:
    """Closes what the pool has open, to Sentinels too."""
    with suppress(Exception):
        await pool.disconnect()
    for client in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()):
        with suppress(Exception):
            await client.aclose()


def packed(*parts: bytes) -> bytes:
    """A command as it is sent."""
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


def _answered(error: BaseException) -> bool:
    """True for an error that was Redis's answer, so that the connection is of use."""
    from redis.exceptions import ResponseError

    return isinstance(error, ResponseError)


def _refused(error: BaseException) -> bool:
    """True if Redis has answered that it does not serve us, as it does while it loads its data."""
    from redis.exceptions import AuthenticationError, BusyLoadingError

    return isinstance(error, AuthenticationError | BusyLoadingError)


# ---------------------------------------------------------------- what went wrong, in our words

# The first word of an error that Redis answers.
CODES = {
    "WRONGPASS": "it refuses the user or the password",
    "NOAUTH": "it needs a password, which the URL lacks",
    "NOPERM": "the rights of its user (ACL) do not allow the commands, keys or channels that Torii needs",
    "READONLY": "it is a replica, which only reads",
    "OOM": "its memory is full (maxmemory)",
    "LOADING": "it is still loading its data",
    "BUSY": "it is busy with a script of another program",
    "MISCONF": "it takes no writes, because it cannot save its data",
    "MASTERDOWN": "it is a replica whose master is away",
    "NOREPLICAS": "it takes no writes, because it has too few replicas",
    "CLUSTERDOWN": "its cluster is down",
    "MOVED": "it is a node of a Redis Cluster, and another one has the slot of Torii's keys",
    "NOSCRIPT": "it does not keep scripts",
    "WRONGTYPE": "another program uses the same keys; set counters.prefix to another one",
}


def reason(error: BaseException, seconds: float) -> str:
    """Why Redis failed. ``seconds``: for which it was waited. Never the error's text, which may have the address."""
    from redis.asyncio.sentinel import MasterNotFoundError
    from redis.exceptions import ResponseError
    from redis.exceptions import TimeoutError as Late

    if isinstance(error, StoreError):
        return str(error)
    if said := CODES.get(code(error)):
        return said
    if isinstance(error, ResponseError):
        return "it answered with an error that Torii does not know"
    if isinstance(error, MasterNotFoundError):
        return "no Sentinel that answers knows a master of this name"
    numbers = [each.errno for each in _causes(error) if isinstance(each, OSError) and each.errno]
    if numbers and numbers[-1] > 0:
        return os.strerror(numbers[-1])
    if isinstance(error, TimeoutError | Late):
        return f"it did not answer within {seconds:g} seconds"
    return f"the connection failed ({type(_root(error)).__name__})"


# Errors whose text lacks the word.
CLASSES = {
    "NoPermissionError": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "ReadOnlyError": "READONLY",
    "OutOfMemoryError": "OOM",
    "BusyLoadingError": "LOADING",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "MovedError": "MOVED",
    "AuthenticationWrongNumberOfArgsError": "WRONGPASS",
}


def code(error: BaseException) -> str:
    """The word of CODES with which Redis answered; "" if it is none of them."""
    from redis.exceptions import AuthenticationError, ResponseError

    named = (CLASSES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in CLASSES)
    if word := next(named, ""):
        return word
    if isinstance(error, AuthenticationError):
        return "NOAUTH" if "required" in str(error) else "WRONGPASS"
    if not isinstance(error, ResponseError):
        return ""
    return next((word for word in re.findall("[A-Z]{3,}", str(error)) if word in CODES), "")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _root(error: BaseException) -> BaseException:
    *_, last = _causes(error)
    return last
