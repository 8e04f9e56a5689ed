"""The processes of a gateway: one, or a parent and several workers that share its sockets.

The parent serves no requests. It starts the workers, replaces a worker that has died, reads the configuration for all
of them, and passes signals on. If the parent dies, its workers drain and end.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from socket import socket
from types import FrameType
from typing import Any

from fastapi import FastAPI

from ..config.settings import Settings
from ..core.redaction import Redactor
from ..gateway.build import Share, open_ledger, secrets
from ..storage.ledger_file import LedgerFile
from . import logs, writer
from .app import create_app
from .reload import ConfigurationSource, NotRenewed, Reload, unforeseen
from .runfile import RunFile
from .server import LAST_SECONDS, Server, ends_now, last_resort

logger = logging.getLogger("torii.workers")

# Not fork: a lock that a thread of the parent holds would never be released in the child.
SPAWN = get_context("spawn")
COLLECT_AFTER = 10_000, 5, 5  # objects; a call makes some hundred, all of which are freed without the collector
AGAIN_SECONDS = 1.0  # before a worker that failed to start is started again
KILL_SECONDS = 0.75 * LAST_SECONDS  # after which a worker that should have ended at once is killed
HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(
    source: ConfigurationSource,
    sockets: list[socket],
    runfile: RunFile | None,
    database: LedgerFile | None,
    begun: Callable[[], None],
) -> int:
    """Serve until a signal ends it; returns the exit code. ``begun`` is called once signals are handled.

    Several workers open the database themselves; ``database`` then only served to check the file, and is closed.
    """
    settings = source.resolve(source.settings)
    json = not sys.stderr.isatty()
    if settings.workers > 1:
        if database:
            database.close()
        _configure(settings, frozenset(), json)
        return asyncio.run(Workers(source, sockets, json).run(runfile, begun))
    app = create_app(settings, database=database)
    app.state.port = sockets[0].getsockname()[1]
    server = _server(Server, settings, app, json)

    async def renew(settings: Settings) -> None:
        _renew(server, settings, json)

    reload = Reload(source, renew, runfile)
    server.hangup = lambda: server.handle_exit(signal.SIGTERM, None) if _hung_up(json) else reload.ask()
    server.take_signals()
    begun()
    server.run(sockets)
    return 0


def _server(kind: type[Server], settings: Settings, app: FastAPI, json: bool) -> Server:
    _configure(settings, frozenset(), json)
    server = kind(app, settings)
    # Objects that exist by now live on; the collector need not scan them again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    return server


def _renew(server: Server, settings: Settings, json: bool) -> None:
    server.renew(settings)
    _configure(settings, server.secrets, json)


def _configure(settings: Settings, others: frozenset[str], json: bool) -> None:
    logs.configure(settings.log_level, Redactor({*secrets(settings), *others}).secrets, json)


def _hung_up(json: bool) -> bool:
    """True if the process ran in a terminal and lost it, which is one meaning of SIGHUP."""
    return not json and not sys.stderr.isatty()


# ---------------------------------------------------------------- in a worker


@dataclass(frozen=True, slots=True)
class WorkerJob:
    settings: Settings = field(repr=False)
    share: Share
    json: bool


class WorkerServer(Server):
    """The server of a worker. Ctrl+C reaches all processes of a terminal; the parent decides what it means."""

    link: Connection

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        with suppress(OSError):  # the parent has died, which ends this process anyway
            self.link.send(None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on SIGTERM, and never end at once: a signal to the whole process group arrives twice, from its sender
        and from the parent, and only the parent decides to end at once."""
        if sig == signal.SIGTERM:
            self._heard = min(self._heard, 1)
            super().handle_exit(sig, frame)


def work(job: WorkerJob, sockets: list[socket], link: Connection) -> None:
    """The main function of a worker process."""
    writer.redirect()
    database, _ = open_ledger(job.settings)
    app = create_app(job.settings, share=job.share, database=database)
    app.state.port = sockets[0].getsockname()[1]
    server = _server(WorkerServer, job.settings, app, job.json)
    assert isinstance(server, WorkerServer)
    server.link = link
    server.take_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
    threading.Thread(target=_obey, args=(server, link, job.json), daemon=True).start()
    server.run(sockets)
    if database:
        database.close()


def _obey(server: WorkerServer, link: Connection, json: bool) -> None:
    """Receive from the parent until it ends: settings to apply, answered by None or the error's text, or the name of a
    signal at which to end at once."""

    async def renew(settings: Settings) -> None:
        _renew(server, settings, json)

    while True:
        try:
            said = link.recv()
        except (EOFError, OSError):
            server.handle_exit(signal.SIGTERM, None)
            return
        if isinstance(said, str):
            server.end_now(said)
            continue
        try:
            server.do(renew(said))
        except Exception as error:
            logger.exception("a reload failed")
            link.send(unforeseen(error))
        else:
            link.send(None)


# ---------------------------------------------------------------- in the parent


class Worker:
    """A worker process and the pipe to it. ``ready()`` waits until the worker serves and is False if it ended first;
    ``ended`` gets the exit code."""

    def __init__(self, job: WorkerJob, sockets: list[socket]) -> None:
        self._loop = asyncio.get_running_loop()
        self._link, other = SPAWN.Pipe()
        self._process = SPAWN.Process(target=work, args=(job, sockets, other), name=f"torii-{job.share.worker}")
        self._answers: deque[asyncio.Future[Any]] = deque()
        self._ready = self._answer()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        with _held():
            self._process.start()
        other.close()
        self._loop.add_reader(self._link.fileno(), self._hear)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    async def ready(self) -> bool:
        return await asyncio.shield(self._ready) is None

    async def renew(self, settings: Settings) -> None:
        """Raises NotRenewed if the worker kept its settings. A dead worker is ignored: its successor has them."""
        if await self.ready() and not self.ended.done():
            answer = self._answer()
            self._link.send(settings)
            if (said := await answer) not in (None, _GONE):
                raise NotRenewed(f"a worker kept its configuration: {said}")

    def terminate(self) -> None:
        self._process.terminate()

    def end_now(self, cause: str) -> None:
        """End at once; ``cause`` is the signal's name. A worker that is not ready has no calls and is killed."""
        if not self._ready.done():
            self.kill()
            return
        with suppress(OSError):  # the worker has ended
            self._link.send(cause)

    def kill(self) -> None:
        self._process.kill()

    def _answer(self) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._answers.append(answer)
        return answer

    def _hear(self) -> None:
        try:
            said = self._link.recv()
        except (EOFError, OSError):
            self._end()
        else:
            self._answers.popleft().set_result(said)

    def _end(self) -> None:
        """Only the worker holds the other end of the pipe, so its process has ended or is about to."""
        self._loop.remove_reader(self._link.fileno())
        self._process.join()
        self._link.close()
        for answer in self._answers:
            answer.set_result(_GONE)
        self.ended.set_result(self._process.exitcode or 0)


_GONE = "the worker has ended"


class Workers:
    def __init__(self, source: ConfigurationSource, sockets: list[socket], json: bool) -> None:
        self._source = source
        self._settings = source.resolve(source.settings)
        self._sockets = sockets
        self._json = json
        self._workers: dict[int, Worker] = {}
        self._leaving = False
        self._heard = 0
        self._code = 0

    async def run(self, runfile: RunFile | None, begun: Callable[[], None]) -> int:
        """Run the workers until all have ended; returns the exit code."""
        loop = asyncio.get_running_loop()
        reload = Reload(self._source, self._renew, runfile)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._leave() if _hung_up(self._json) else reload.ask())
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, self._end, sig)
        keeping = [asyncio.create_task(self._keep(number)) for number in range(self._settings.workers)]
        begun()
        await asyncio.gather(*keeping)
        return self._code

    async def _keep(self, number: int) -> None:
        """Keep worker ``number`` alive until shutdown."""
        served = False
        while not self._leaving:
            share = Share(number, self._settings.workers)
            worker = self._workers[number] = Worker(WorkerJob(self._settings, share, self._json), self._sockets)
            if ready := await worker.ready():
                logger.info("worker %d is ready: process %s", number, worker.pid)
            code = await worker.ended
            if self._leaving:
                return
            served = served or ready
            if not served:
                logger.error("worker %d did not start (exit code %d)", number, code)
                self._code = 1
                self._leave()
                return
            logger.error("worker %d, process %s, ended with %d; a new worker replaces it", number, worker.pid, code)
            if not ready:
                await asyncio.sleep(AGAIN_SECONDS)

    async def _renew(self, settings: Settings) -> None:
        """Apply the settings to all workers, and to those that start from now on."""
        self._settings = settings
        _configure(settings, frozenset(secrets(settings)), self._json)
        await asyncio.gather(*(worker.renew(settings) for worker in self._workers.values()))

    def _end(self, sig: signal.Signals) -> None:
        self._heard += 1
        if ends_now(sig, self._heard):
            last_resort()
            for worker in self._workers.values():
                worker.end_now(sig.name)
            asyncio.get_running_loop().call_later(KILL_SECONDS, self._kill)
        else:
            self._leave()

    def _kill(self) -> None:
        for worker in self._workers.values():
            worker.kill()

    def _leave(self) -> None:
        self._leaving = True
        for sock in self._sockets:
            sock.close()  # otherwise it would still accept connections when no worker does
        for worker in self._workers.values():
            worker.terminate()


@contextmanager
def _held() -> Iterator[None]:
    """Block signals in a process that is being started, until it has installed its handlers."""
    resource_tracker.ensure_running()  # its start, otherwise part of the process's, unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
