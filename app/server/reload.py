"""Reloading of the configuration while calls are served. A reload applies completely or not at all."""

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

import msgspec
from pydantic import BaseModel, SecretStr

from ..config.loader import load, validate_start
from ..config.settings import Settings
from ..config.sources import ConfigError, secret_files
from ..gateway.build import in_sandbox
from ..storage.files import mounted
from .runfile import ReloadResult, RunFile

logger = logging.getLogger("torii")

T = TypeVar("T")

# Timeout for reading the configuration; `torii reload` waits a little longer.
READ_SECONDS = 20.0

# Settings that only a restart changes: sockets, processes, docs, the generated caller key, stores, the sandbox.
FIXED = (
    "host",
    "port",
    "operator_port",
    "workers",
    "docs",
    "generate_caller_key",
    "ledger",
    "counters",
    "sandbox",
    "sandbox_time_scale",
)


@dataclass(frozen=True, slots=True)
class ConfigurationSource:
    """The inputs of a run: the file and the command line, the resulting settings, the sandbox's addresses (empty
    without a sandbox), the generated caller key (None without one), and the temporary ledger of a sandbox (None without
    one)."""

    path: Path | None
    given: Mapping[str, Any]
    settings: Settings = field(repr=False)
    urls: Mapping[str, str]
    key: str | None = field(repr=False)
    ledger: Path | None = None

    @property
    def started(self) -> Settings:
        """The configuration that the process started with."""
        return self.resolve(self.settings.model_copy(update={"sandbox": "on" if self.urls else "off"}))

    def read(self) -> tuple[Settings, list[str]]:
        """The current settings, and the names of changed settings that need a restart. Raises ConfigError."""
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
        """Warnings about files whose changes may be invisible to this process."""
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
        """The settings, pointed at the sandbox and its ledger if they are there."""
        if self.ledger:
            ledger = settings.ledger.model_copy(update={"path": str(self.ledger)})
            settings = settings.model_copy(update={"ledger": ledger})
        return in_sandbox(settings, self.urls) if self.urls else settings


class NotRenewed(Exception):
    """A worker could not apply the configuration; the text says why."""


def unforeseen(error: Exception) -> str:
    """The reason for a failure that is no mistake in the configuration. The text of an unexpected exception may come
    from a library, so it only goes into the log, with its traceback."""
    if isinstance(error, NotRenewed):
        return str(error)
    return f"the configuration could not be applied ({type(error).__name__}); the gateway's log has the cause"


class Reload:
    """Reads the settings of ``source`` again on request, applies them with ``renew``, and reports to the log and
    ``runfile``."""

    def __init__(
        self, source: ConfigurationSource, renew: Callable[[Settings], Awaitable[None]], runfile: RunFile | None = None
    ) -> None:
        self._source = source
        self._renew = renew
        self._runfile = runfile
        self._now = source.started
        self._result = ReloadResult(os.getpid(), sandbox_ledger=str(source.ledger or ""))
        self._wanted = False
        self._task: asyncio.Task[None] | None = None
        self._tell()

    def ask(self) -> None:
        """Request a reload; a request during a reload starts another one after it."""
        self._wanted = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._wanted:
            self._wanted = False
            changed, restart, mistakes = await self._once()
            notes = [] if changed or restart or mistakes else self._source.notes()
            for note in notes:
                logger.warning("%s", note)
            self._result = msgspec.structs.replace(
                self._result,
                reloads=self._result.reloads + 1,
                changed=changed,
                restart=restart,
                mistakes=mistakes,
                notes=notes,
            )
            self._tell()

    async def _once(self) -> tuple[list[str], list[str], list[str]]:
        try:
            settings, restart = await aside(self._source.read, READ_SECONDS)
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
            self._runfile.tell(self._result)


async def aside(work: Callable[[], T], seconds: float) -> T:
    """Run ``work`` in its own thread; returns or raises as ``work`` does. Raises TimeoutError after ``seconds``. The
    thread is then abandoned; unlike a thread of asyncio's executor it does not delay the end of the process."""
    found: Future[T] = Future()

    def run() -> None:
        found.set_running_or_notify_cancel()  # cannot be cancelled from here on
        try:
            found.set_result(work())
        except Exception as error:  # noqa: BLE001 - raised where the result is awaited
            found.set_exception(error)

    threading.Thread(target=run, name="torii-reload", daemon=True).start()
    return await asyncio.wait_for(asyncio.wrap_future(found), seconds)


def _kept(mistakes: list[str]) -> list[str]:
    logger.error("the configuration was not reloaded, because the new one has mistakes")
    for mistake in mistakes:
        logger.error("%s", mistake)
    return mistakes


def changes(old: Settings, new: Settings) -> Iterator[str]:
    """The names of the settings that differ, without values; one level deep in sections and mappings."""
    for name in Settings.model_fields:
        before, after = _entries(getattr(old, name)), _entries(getattr(new, name))
        for key in before.keys() | after.keys():
            if before.get(key, _NONE) != after.get(key, _NONE):
                yield f"{name}.{key}" if key else name
        if list(before) != list(after) and before == after:
            yield name  # a different order


_NONE = object()


def _entries(value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return dict(value)
    return value if isinstance(value, dict) else {"": value}
