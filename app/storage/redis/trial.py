"""A trial of a Redis before the gateway starts: whether it runs the script, with all the rights that it needs."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from uuid import uuid4

from ..holds import FOREVER, MINUTE, Charge
from .connection import CODES, RedisAddress, ScriptConnection, Unsuitable, code, reason
from .script import ScriptBatch

SECONDS = 2.0  # to connect, and for the script

# Codes that may pass by themselves: the gateway starts all the same.
PASSING = ("READONLY", "OOM", "LOADING", "BUSY", "MISCONF", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN")
NO_SCRIPTS = (
    "it does not run Torii's script (EVALSHA, EVAL): it or a proxy in front of it forbids scripts, or its user (ACL) "
    "may not run the commands in it or use Torii's keys"
)
NO_CERTIFICATE = "its certificate is not trusted; set ca_file to that of its authority, and use the name in it"
NO_REDIS = "what answers there is not Redis"
NO_DATABASE = "it refuses the database whose number ends the URL"


async def tried(address: RedisAddress, prefix: str) -> str | None:
    """None if all is well, or why Redis is away now. Raises Unsuitable if it can never serve as it is set up."""
    connection = ScriptConnection(address, SECONDS)
    try:
        async with asyncio.timeout(SECONDS):
            await connection.connect()
    except Exception as error:  # noqa: BLE001 - told in our words
        return _not_connected(error)
    command = _batch(prefix).command("", "1", 1.0)
    try:
        async with asyncio.timeout(SECONDS):
            await _admitted(connection)
            await connection.run(command)
            if not await connection.keeps_scripts(command):
                raise Unsuitable(f"{NO_SCRIPTS}, or forgets them at once")
    except Unsuitable:
        raise
    except Exception as error:  # noqa: BLE001 - told in our words, as above
        return _not_run(error)
    finally:
        await connection.close()
    return None


async def _admitted(connection: ScriptConnection) -> None:
    """Raises AuthenticationError if the password is missing."""
    from redis.exceptions import ResponseError

    with suppress(ResponseError):  # a proxy may not know PING
        await connection.ping()


def _batch(prefix: str) -> ScriptBatch:
    """Every command of the script, under keys of its own, which it removes."""
    name = uuid4().hex
    batch = ScriptBatch(prefix, f"try:{name}:")
    scope = "organization"
    charges = (
        Charge(scope, "requests", MINUTE, "", 1, 1, "requests_per_minute"),
        Charge(scope, "tokens", MINUTE, "", 1, 1, "tokens_per_minute"),
        Charge(scope, "calls", (0, FOREVER), "", 1, 1, "concurrent_calls"),
    )
    batch.lease(name)
    batch.hold(name, charges)
    batch.hold(name, charges)
    batch.renew(scope, "calls", [name])
    batch.end(scope, "calls", [name])
    batch.leave(name)
    batch.publish(f"{{{prefix}}}:try")
    batch.forget()
    return batch


def _not_connected(error: Exception) -> str:
    """Why Redis is away. Raises Unsuitable."""
    from redis.exceptions import AuthenticationError, InvalidResponse, ResponseError

    said = reason(error, SECONDS)
    if _has(error, ssl.SSLCertVerificationError):
        raise Unsuitable(NO_CERTIFICATE) from None
    if isinstance(error, InvalidResponse):
        raise Unsuitable(NO_REDIS) from None
    if code(error) in PASSING:
        return said
    if isinstance(error, AuthenticationError) or code(error):
        raise Unsuitable(said) from None
    if isinstance(error, ResponseError):
        raise Unsuitable(NO_DATABASE) from None
    return said


def _not_run(error: Exception) -> str:
    """Why Redis is away. Raises Unsuitable."""
    from redis.exceptions import ConnectionError as Lost
    from redis.exceptions import InvalidResponse, ResponseError

    found, said = code(error), reason(error, SECONDS)
    if found in PASSING:
        return said
    if isinstance(error, InvalidResponse):
        raise Unsuitable(NO_REDIS) from None
    if found in CODES:
        raise Unsuitable(NO_SCRIPTS if found in ("NOPERM", "NOSCRIPT") else said) from None
    if isinstance(error, ResponseError):
        raise Unsuitable(NO_SCRIPTS) from None
    if isinstance(error, Lost):
        raise Unsuitable(f"{NO_SCRIPTS}, and ends the connection") from None
    return said


def _has(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False
