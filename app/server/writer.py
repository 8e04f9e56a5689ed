"""Writing to stderr or stdout without ever waiting for a reader.

The calling thread writes what can be written at once: to a regular file, or into the free space of a pipe or socket
(RWF_NOWAIT). The writer's own thread writes the rest: to a full pipe, a terminal, a full disk. A queue of
``QUEUE_BYTES`` feeds that thread; while the queue is full, lines are dropped and counted, and one line reports their
number as soon as writing works again. O_NONBLOCK is no alternative: it applies to every process that shares the pipe.
A thread for every line is none either: handing over the interpreter's lock costs a call a tenth of its CPU time.
"""

from __future__ import annotations

import atexit
import errno
import io
import logging
import os
import select
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TextIO, cast

QUEUE_BYTES = 2**20  # exceeded by at most one turn of the event loop
# Bytes that the system writes to a pipe atomically, even if other workers write to it at the same time.
PIECE_BYTES = getattr(select, "PIPE_BUF", 512)
AGAIN_SECONDS = 1.0  # between two attempts after a failed write
LAST_SECONDS = 1.0  # for the remaining lines at the end of the process

RWF_NOWAIT: int | None = getattr(os, "RWF_NOWAIT", None)  # Linux only

STDOUT, STDERR = 1, 2


class DescriptorWriter:
    """The writer of one file descriptor. ``dropped`` makes the line that reports how many lines were dropped."""

    def __init__(self, descriptor: int) -> None:
        self.dropped: Callable[[int], str] = _dropped
        self._descriptor = descriptor
        self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._change = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._waiting = 0  # bytes
        self._lost = 0  # lines
        self._pause = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def full(self) -> bool:
        return self._waiting >= QUEUE_BYTES

    def put(self, text: str, lines: int) -> None:
        """Write whole lines now or soon, or drop them. Never waits."""
        with self._change:
            if self.full:
                self._lost += lines
                return
            data = text.encode("utf-8", "backslashreplace")
            if not self._queue:
                data = data[self._write_at_once(data) :]
            if data:
                self._add(data)

    def drop(self, lines: int) -> None:
        with self._change:
            self._lost += lines

    def drain(self, seconds: float) -> None:
        """Wait until everything is written, for at most ``seconds``."""
        with self._change:
            self._change.wait_for(lambda: not self._queue, seconds)

    def _write_at_once(self, data: bytes) -> int:
        """Write what fits without waiting; returns the number of bytes. The thread meets any error again."""
        done = 0
        with suppress(OSError):
            if self._is_file:
                return os.write(self._descriptor, data)
            while done < len(data):
                done += _write_into_room(self._descriptor, data[done : done + _piece(data, done)])
        return done

    def _add(self, data: bytes) -> None:
        self._queue.append(data)
        self._waiting += len(data)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="torii-log", daemon=True)
            self._thread.start()
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
                    self._add(self.dropped(lost).encode("utf-8", "backslashreplace"))
                self._change.notify_all()

    def _write(self, data: bytes) -> None:
        """Write all of it, however long that takes. A line that was cut off is continued."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest[: _piece(data, len(data) - len(rest))]) :]
            except BlockingIOError:  # another process has set O_NONBLOCK on the pipe
                select.select([], [self._descriptor], [], AGAIN_SECONDS)
            except OSError:  # a closed pipe, a full disk
                self._pause.wait(AGAIN_SECONDS)


def _write_into_room(descriptor: int, piece: bytes) -> int:
    """The bytes written into the free space of a pipe or socket. Raises OSError if there is none, or no RWF_NOWAIT."""
    if RWF_NOWAIT is None:
        raise OSError(errno.ENOTSUP, "no writes without waiting")
    return os.pwritev(descriptor, [piece], -1, RWF_NOWAIT)  # -1: the current position


def _piece(data: bytes, start: int) -> int:
    """The bytes of the next write: the whole lines that can be written atomically, else one longer line alone."""
    end = data.rfind(b"\n", start, start + PIECE_BYTES) + 1 or data.find(b"\n", start) + 1
    return (end or len(data)) - start


def _dropped(lines: int) -> str:
    return f"{lines} log lines were dropped\n"


@cache
def writer(descriptor: int) -> DescriptorWriter:
    """The writer of STDERR or STDOUT; of the null device if the stream is closed: its number may be another file's."""
    stream = {STDOUT: sys.__stdout__, STDERR: sys.__stderr__}[descriptor]
    return DescriptorWriter(os.open(os.devnull, os.O_WRONLY) if stream is None else descriptor)


class LineStream(io.TextIOBase):
    """Replaces ``sys.stderr`` or ``sys.stdout``, for the output of Python, its warnings and libraries."""

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
        """Write the beginning of an unfinished line."""
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
    """Send everything that this process prints through the writers from now on."""
    atexit.register(_end)
    sys.stdout, sys.stderr = cast(TextIO, LineStream(STDOUT)), cast(TextIO, LineStream(STDERR))


def _end() -> None:
    logging.shutdown()  # passes the buffered log lines to the writer
    drain()


def drain() -> None:
    """Wait for the remaining lines, for at most LAST_SECONDS."""
    for descriptor in (STDERR, STDOUT):
        writer(descriptor).drain(LAST_SECONDS / 2)
