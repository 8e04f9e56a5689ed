"""Files whose paths an operator names, of any kind: a pipe that nobody writes to blocks nothing."""

from __future__ import annotations

import errno
import os
import re
import select
import stat
import threading
import time
from pathlib import Path

PIPE_SECONDS = 10.0  # for all the data of a pipe, such as `--config <(...)`
MOST_BYTES = 16 * 2**20
_MAKING = threading.Lock()  # a thread that opens a new file waits until the thread that made the file has closed it
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def read(path: Path) -> bytes:
    """The whole content. Raises OSError, whose ``strerror`` is the reason."""
    file = os.open(path, _FLAGS)
    try:
        found = _read(file, time.monotonic() + PIPE_SECONDS)
        if not found and stat.S_ISFIFO(os.fstat(file).st_mode):
            raise OSError(errno.EPIPE, "it is a pipe that delivers no data; use a regular file")
        return found
    finally:
        os.close(file)


def _read(file: int, until: float) -> bytes:
    found = b""
    while True:
        try:
            piece = os.read(file, MOST_BYTES)
        except BlockingIOError:
            if not _more(file, max(0.0, until - time.monotonic())):
                late = f"it is not a regular file, and was not read within {PIPE_SECONDS:g} seconds; use a regular file"
                raise OSError(errno.ETIMEDOUT, late) from None
            continue
        found += piece
        if not piece:
            return found
        if len(found) > MOST_BYTES:
            raise OSError(errno.EFBIG, f"it is larger than {MOST_BYTES // 2**20} MB; use another file")


def _more(file: int, seconds: float) -> bool:
    """True if data, or the end, has come in time. Uses poll, since select takes no descriptor from 1024 on."""
    coming = select.poll()
    coming.register(file, select.POLLIN)
    return bool(coming.poll(seconds * 1000))


def mounted(path: Path, table: Path = Path("/proc/self/mountinfo")) -> bool:
    """True if the file itself is a mount point, as if it alone was mounted into a container. Another file that takes
    its place outside is then never seen. False if there is no table of mounts, as on systems other than Linux."""
    try:
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        places = {re.sub(r"\\(\d{3})", _octal, line.split(" ")[4]) for line in lines}  # proc_pid_mountinfo(5)
        return os.path.realpath(path) in places and not path.is_dir()
    except OSError:
        return False


def _octal(match: re.Match[str]) -> str:
    return chr(int(match[1], 8))


def make(path: Path) -> None:
    """Creates a database's file, for its owner alone, if there is none. Raises OSError, also if the path is no regular
    file or cannot be read and written.

    An existing file is not opened: when a process closes a file, it loses the locks that SQLite holds on the file in
    the same process, and another process may then remove the write-ahead log that is in use here.
    """
    real = Path(os.path.realpath(path))  # also the target of a link that does not exist yet
    with _MAKING:
        try:
            os.close(os.open(real, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            if not stat.S_ISREG(real.stat().st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file") from None
            if not os.access(real, os.R_OK | os.W_OK):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES)) from None
