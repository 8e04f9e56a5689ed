"""Reading the configuration again while calls are served: all of it is put in force, or none."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, SecretStr

from ..config.loader import load, validate_start
from ..config.settings import Settings
from ..config.sources import ConfigError, secret_files
from ..gateway.build import in_sandbox
from ..storage.files import mounted
from .runfile import Outcome, RunFile

logger = logging.getLogger("torii")

T = TypeVar("T")

# For reading the configuration; `torii reload` waits a little longer.
READ_SECONDS = 20.0

# What is fixed when the process starts: its sockets and processes, its key for the run, what stands in for providers.
FIXED = ("host", "port", "workers", "docs", "generate_caller_key", "ledger", "sandbox", "sandbox_time_scale")


@dataclass(frozen=True, slots=True)
class Origin:
    """The start of a run: the file and the command line, the settings that they came to,
    the addresses of the sandbox and the caller's key that was made, where there are such."""

    path: Path | None
    given: Mapping[str, Any]
    settings: Settings = field(repr=False)
    urls: Mapping[str, str]
    key: str | None = field(repr=False)

    @property
    def started(self) -> Settings:
        """The configuration that the run began with."""
        return self.resolve(self.settings.model_copy(update={"sandbox": "on" if self.urls else "off"}))

    def read(self) -> tuple[Settings, list[str]]:
        """The settings as they are now, and the names of those that only a restart changes. Raises ConfigError."""
        read = load(self.path, **self.given)
        fixed = {name: getattr(self.settings, name) for name in FIXED}
        fixed["sandbox"] = "on" if self.urls else "off"
        restart = [name for name in FIXED if name != "sandbox" and getattr(read, name) != fixed[name]]
        restart += ["sandbox"] if read.sandboxed != bool(self.urls) else []
        settings = read.model_copy(update=fixed)
        if self.key and settings.open:
            settings = settings.model_copy(update={"caller_key": SecretStr(self.key)})
        validate_start(settings)
        return self.resolve(settings), restart

    def notes(self) -> list[str]:
        """Notes on files that may have been changed without being seen."""
        ca = self.settings.ca_file
        files = [*([self.path] if self.path else []), *secret_files(), *([ca.path] if ca else [])]
        if not (single := [str(file) for file in files if mounted(file)]):
            return []
        which = f"{single[0]} is mounted as a single file"
        if len(single) > 1:
            which = f"{', '.join(single[:-1])} and {single[-1]} are mounted as single files"
        return [
            f"{which}: if the file is replaced outside, as editors do, only a restart reads "
            "the new file; mount its folder instead (docs/deployment.md)"
        ]

    def resolve(self, settings: Settings) -> Settings:
        """The settings against the sandbox, where it runs."""
        return in_sandbox(settings, self.urls) if self.urls else settings


class NotRenewed(Exception):
    """A worker could not put the configuration in force; the text says why."""


def unforeseen(error: Exception) -> str:
    """The reason of a failure that is no mistake in the configuration. An exception's own text may be a library's, and
    goes into the log with its traceback."""
    if isinstance(error, NotRenewed):
        return str(error)
    return f"the configuration could not be applied ({type(error).__name__}); the gateway's log has the cause"


class Reload:
    """Reads ``origin`` again when it is asked to, has ``renew`` put it in force, and tells the log and ``runfile``."""

    def __init__(
        self, origin: Origin, renew: Callable[[Settings], Awaitable[None]], runfile: RunFile | None = None
    ) -> None:
        self._origin = origin
        self._renew = renew
        self._runfile = runfile
        self._now = origin.started
        self._outcome = Outcome(os.getpid())
        self._wanted = False
        self._task: asyncio.Task[None] | None = None
        self._tell()

    def ask(self) -> None:
        """Asked again while it reads, it reads once more afterwards."""
        self._wanted = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._wanted:
            self._wanted = False
            changed, restart, mistakes = await self._once()
            notes = [] if changed or restart or mistakes else self._origin.notes()
            for note in notes:
                logger.warning("%s", note)
            self._outcome = Outcome(os.getpid(), self._outcome.reloads + 1, changed, restart, mistakes, notes)
            self._tell()

    async def _once(self) -> tuple[list[str], list[str], list[str]]:
        try:
            settings, restart = await aside(self._origin.read, READ_SECONDS)
            changed = sorted(changes(self._now, settings))
            await self._renew(settings)
        except ConfigError as error:
            return [], [], _kept([str(mistake) for mistake in error.mistakes])
        except TimeoutError:
            return [], [], _kept([f"the configuration could not be read within {READ_SECONDS:g} seconds"])
        except Exception as error:
            logger.exception("a reload failed")
            return [], [], _kept([unforeseen(error)])
        self._now = settings
        logger.info("the configuration was reloaded; changed: %s", ", ".join(changed) or "nothing")
        if restart:
            logger.warning("needs a restart: %s", ", ".join(restart))
        return changed, restart, []

    def _tell(self) -> None:
        if self._runfile is not None:
            self._runfile.tell(self._outcome)


async def aside(work: Callable[[], T], seconds: float) -> T:
    """Returns or raises as ``work`` does, in a thread of its own. Raises TimeoutError after ``seconds``; the thread is
    then left alone, and unlike one of asyncio's it holds up no end of the process."""
    found: Future[T] = Future()

    def run() -> None:
        found.set_running_or_notify_cancel()  # from here on nobody can cancel it
        try:
            found.set_result(work())
        except Exception as error:  # noqa: BLE001 - it is raised where the result is awaited
            found.set_exception(error)

    threading.Thread(target=run, name="torii-reload", daemon=True).start()
    return await asyncio.wait_for(asyncio.wrap_future(found), seconds)


def _kept(mistakes: list[str]) -> list[str]:
    logger.error("the configuration was not reloaded, because the new one has mistakes")
    for mistake in mistakes:
        logger.error("%s", mistake)
    return mistakes


def changes(old: Settings, new: Settings) -> Iterator[str]:
    """The names of the settings that differ, without a value; in sections and mappings one level down."""
    for name in Settings.model_fields:
        before, after = _entries(getattr(old, name)), _entries(getattr(new, name))
        for key in before.keys() | after.keys():
            if before.get(key, _NONE) != after.get(key, _NONE):
                yield f"{name}.{key}" if key else name
        if list(before) != list(after) and before == after:
            yield name  # another order


_NONE = object()


def _entries(value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return dict(value)
    return value if isinstance(value, dict) else {"": value}
