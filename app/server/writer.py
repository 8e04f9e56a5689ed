"""Writing to stderr or stdout without ever waiting for whoever reads it.

A thread writes. Before it stands a queue of ``QUEUE_BYTES``: while that is full, because nobody reads the pipe or the
disk has no room, lines are dropped and counted, and one line says how many as soon as something could be written again.
O_NONBLOCK would be no way to do it: it would hold for every process that has the same pipe.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TextIO, cast

QUEUE_BYTES = 2**20  # and what one turn of the event loop adds to it
# A system writes so much to a pipe in one piece, whoever else writes to it at the time: other workers do.
PIECE_BYTES = getattr(select, "PIPE_BUF", 512)
AGAIN_SECONDS = 1.0  # between two attempts to write where that fails
LAST_SECONDS = 1.0  # for what is left at the end of the process

STDOUT, STDERR = 1, 2


class Writer:
    """Of one file descriptor. ``dropped`` says in a line that so many were dropped."""

    def __init__(self, descriptor: int) -> None:
        self.dropped: Callable[[int], str] = _dropped
        self._descriptor = descriptor
        self._change = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._waiting = 0  # bytes
        self._lost = 0  # lines
        self._pause = threading.Event()
        threading.Thread(target=self._work, name="torii-log", daemon=True).start()

    @property
    def full(self) -> bool:
        return self._waiting >= QUEUE_BYTES

    def put(self, text: str, lines: int) -> None:
        """Has whole lines written soon, or drops them. Never waits."""
        with self._change:
            if self.full:
                self._lost += lines
            else:
                self._add(text)

    def drop(self, lines: int) -> None:
        with self._change:
            self._lost += lines

    def drain(self, seconds: float) -> None:
        """Returns when all is written, or after ``seconds``."""
        with self._change:
            self._change.wait_for(lambda: not self._queue, seconds)

    def _add(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        self._queue.append(data)
        self._waiting += len(data)
        self._change.notify_all()

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._queue)
                data = self._queue[0]
            self._write(data)
            with self._change:
                self._queue.popleft()
                self._waiting -= len(data)
                if self._lost:
                    lost, self._lost = self._lost, 0
                    self._add(self.dropped(lost))
                self._change.notify_all()

    def _write(self, data: bytes) -> None:
        """All of it, however long that takes: what is cut off in the midst of a line is continued there."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest[: _piece(data, len(data) - len(rest))]) :]
            except BlockingIOError:  # whoever has the pipe too has set O_NONBLOCK
                select.select([], [self._descriptor], [], AGAIN_SECONDS)
            except OSError:  # a closed pipe, a full disk
                self._pause.wait(AGAIN_SECONDS)


def _piece(data: bytes, start: int) -> int:
    """Bytes of the next write: whole lines that nobody can write into, else the longer line, and no other."""
    end = data.rfind(b"\n", start, start + PIECE_BYTES) + 1 or data.find(b"\n", start) + 1
    return (end or len(data)) - start


def _dropped(lines: int) -> str:
    return f"{lines} log lines were dropped\n"


@cache
def writer(descriptor: int) -> Writer:
    """The one of STDERR or STDOUT. Where that was closed before the start, its number may be another file's by now."""
    stream = {STDOUT: sys.__stdout__, STDERR: sys.__stderr__}[descriptor]
    return Writer(os.open(os.devnull, os.O_WRONLY) if stream is None else descriptor)


class Stream(io.TextIOBase):
    """In the place of ``sys.stderr`` or ``sys.stdout``: what Python, its warnings and libraries print."""

    encoding = "utf-8"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._writer = writer(descriptor)
        self._lock = threading.RLock()
        self._begun = ""

    def write(self, text: str) -> int:
        with self._lock:
            whole, end, self._begun = (self._begun + text).rpartition("\n")
            if end:
                self._writer.put(whole + end, whole.count("\n") + 1)
        return len(text)

    def flush(self) -> None:
        """Writes the start of a line that has not ended."""
        with self._lock:
            text, self._begun = self._begun, ""
            if text:
                self._writer.put(text, 1)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        with suppress(OSError):
            return os.isatty(self._descriptor)
        return False

    def fileno(self) -> int:
        return self._descriptor


def redirect() -> None:
    """Whatever this process prints goes through writers from now on."""
    atexit.register(_end)
    sys.stdout, sys.stderr = cast(TextIO, Stream(STDOUT)), cast(TextIO, Stream(STDERR))


def _end() -> None:
    logging.shutdown()  # it hands over what waits to be put into words
    drain()


def drain() -> None:
    """Gives what is left to be written a last chance."""
    for descriptor in (STDERR, STDOUT):
        writer(descriptor).drain(LAST_SECONDS / 2)
