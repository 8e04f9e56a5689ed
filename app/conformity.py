"""An answer held against the JSON schema that was asked for, in a process of its own.

A schema is a caller's, and checking against it may take for ever: a pattern that backtracks, definitions that multiply.
The process is killed then, and the event loop never waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from weakref import WeakKeyDictionary

import msgspec

from .jsontext import Malformed, decode
from .types import Json

logger = logging.getLogger("torii.conformity")

SECONDS = 5.0  # for a check; a usual one takes 0.05
AT_ONCE = 4

CHECKER = str(Path(__file__).with_name("checker.py"))

_rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


async def misfit(schema: Json, answer: str) -> str | None:
    """Why the answer is not JSON of this schema, as the end of a sentence; None if it is."""
    try:
        decode(answer.encode("utf-8", "replace"))
    except Malformed:
        return "is not JSON"
    room = _rooms.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE))
    async with room:
        try:
            found = await _checked(msgspec.json.encode({"schema": schema, "answer": answer}))
        except TimeoutError:
            return f"could not be checked against the schema within {SECONDS:g} s"
        except (OSError, ValueError) as error:
            logger.error("a JSON answer could not be checked: %s", type(error).__name__)
            return "could not be checked against the schema"
    return f"does not fit the schema: {found}" if found else None


async def _checked(question: bytes) -> str:
    """The checker's finding, empty if there is none. Raises ValueError if it ended without one."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        CHECKER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},  # keys are none of its business
    )
    try:
        async with asyncio.timeout(SECONDS):
            said, _ = await process.communicate(question)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise ValueError(process.returncode)
    return said.decode()
