"""JSON schemas of callers: checks of the schemas, and of answers against them, in a child process.

Compiling a schema may take for ever, and so may checking against it: definitions that multiply, a pattern that
backtracks. The child is killed then, and the event loop never waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from weakref import WeakKeyDictionary

import msgspec

from ..core.errors import InvalidRequest, Unavailable
from ..core.json import BOM, Malformed, decode
from ..core.types import Json

logger = logging.getLogger("torii.conformity")

SECONDS = 5.0  # for a check; a typical one takes 0.05
DESCRIPTORS = 8  # that a process and its pipes need while it starts
AT_ONCE = 4

CHECKER = str(Path(__file__).with_name("checker.py"))

_rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
_threads = ThreadPoolExecutor(AT_ONCE, "conformity")


async def usable(schema: Json, field: str) -> None:
    """Raises InvalidRequest for a schema that cannot be checked against, Unavailable if the checker cannot start."""
    try:
        wrong = await _found({"schema": schema})
    except TimeoutError:
        wrong = f"{{}} takes longer than {SECONDS:g} s to compile; use a smaller schema"
    except OSError as error:
        logger.error("a JSON schema could not be checked: %s", type(error).__name__)
        raise Unavailable("this gateway could not start the JSON schema check", retry_after=1) from None
    except ValueError:
        wrong = "{} takes too much memory to compile; use a smaller schema"
    if wrong:
        raise InvalidRequest(wrong.replace("{}", field, 1), param=field)


async def misfit(schema: Json, answer: str) -> str | None:
    """The reason why the answer is not JSON of this schema, as the end of a sentence; None if it is."""
    text = answer.encode("utf-8", "replace")
    try:
        decode(text)
    except Malformed:
        return "is not JSON"
    if text.startswith(BOM):  # most parsers reject it
        return "is not JSON"
    try:
        found = await _found({"schema": schema, "answer": answer})
    except TimeoutError:
        return f"could not be checked against the schema within {SECONDS:g} s"
    except (OSError, ValueError) as error:
        logger.error("a JSON answer could not be checked: %s", type(error).__name__)
        return "could not be checked against the schema"
    return f"does not fit the schema: {found}" if found else None


async def _found(question: Json) -> str:
    """The checker's finding; empty if the check has passed.

    Raises TimeoutError, OSError if the checker cannot be started, ValueError if it ended without a finding.
    """
    text = msgspec.json.encode(question)
    async with _rooms.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)):
        process = _start()
        asked = _threads.submit(_ask, process, text, SECONDS)
        try:
            finding = await asyncio.wrap_future(asked)
        finally:
            process.kill()
            if asked.cancelled():  # before it began
                with process:
                    pass
    if process.returncode:
        raise ValueError(process.returncode)
    return finding.decode()


def _start() -> subprocess.Popen[bytes]:
    """Starts the checker, without asyncio: uvloop leaks the files of a process that fails to start. Raises OSError."""
    _have_room()
    return subprocess.Popen(  # noqa: S603 - our own program, run by the interpreter that runs us
        [sys.executable, "-I", CHECKER, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},  # the environment may hold keys
    )


def _have_room() -> None:
    """Raises OSError if too few descriptors are free. Python 3.11 leaks the pipes of a process that were made before
    the one that failed."""
    held: list[int] = []
    try:
        for _ in range(DESCRIPTORS):
            held.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for file in held:
            os.close(file)


def _ask(process: subprocess.Popen[bytes], question: bytes, seconds: float) -> bytes:
    with process:
        try:
            return process.communicate(question, seconds)[0]
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        finally:
            process.kill()
