"""The run file, by which other commands find a running gateway, its process id and the result of its latest reload.

    $XDG_RUNTIME_DIR/torii/<port>.json, else torii-<user>/<port>.json in $TMPDIR or /tmp

The file is locked while the gateway runs, so that a stale file, whose process id may be another program's by now, is
never mistaken for a running gateway. A gateway that cannot create the file runs without it.
"""

from __future__ import annotations

import logging
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("torii")

# The timeout of a reload, and the interval between two checks whether it is done.
SECONDS = 30.0
LOOK_SECONDS = 0.05


class ReloadResult(msgspec.Struct):
    """The result of reload number ``reloads`` (0 before the first); settings are given by name.

    If there are ``mistakes``, nothing was changed. If nothing changed and nothing is wrong, ``notes`` give possible
    causes. ``sandbox_ledger`` is the path of the temporary ledger of a sandbox; empty without one.
    """

    pid: int
    reloads: int = 0
    changed: list[str] = []
    restart: list[str] = []
    mistakes: list[str] = []
    notes: list[str] = []
    sandbox_ledger: str = ""


class NotReloaded(Exception):
    """No gateway was found, or it did not answer; the text says which."""


class RunFile:
    """The run file, open and locked. Raises OSError if it cannot be opened or another process has locked it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise

    def tell(self, result: ReloadResult) -> None:
        data = msgspec.json.encode(result)
        with suppress(OSError):  # a full disk must not stop the gateway
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, data, 0)

    def close(self) -> None:
        with suppress(OSError):
            self._path.unlink()
        os.close(self._file)


@contextmanager
def opened(port: int) -> Iterator[RunFile | None]:
    """The run file of this gateway; None if it cannot be created."""
    try:
        if sys.platform == "win32":
            raise OSError("there is no SIGHUP on this system")
        file = RunFile(_directory(make=True) / f"{port}.json")
    except OSError as error:
        logger.debug("torii reload will not find this gateway: %s", error.strerror or error)
        yield None
        return
    try:
        yield file
    finally:
        file.close()


def reloaded(port: int) -> ReloadResult:
    """Make the gateway on ``port`` reload its configuration; returns the result. Raises NotReloaded."""
    before = _running(port)
    if before is None:
        raise NotReloaded(_nobody(port))
    os.kill(before.pid, signal.SIGHUP)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        after = _running(port)
        if after is None:
            raise NotReloaded(f"the gateway on port {port} has stopped")
        if after.reloads > before.reloads:
            return after
        time.sleep(LOOK_SECONDS)  # noqa: TID251 - there is no event loop in this command
    raise NotReloaded(f"the gateway on port {port} did not answer within {SECONDS:g} seconds; its log may say why")


def runs(port: int) -> bool:
    """True if a gateway of this user runs on ``port``."""
    return _running(port) is not None


def sandbox_ledger(port: int) -> Path | None:
    """The temporary ledger of the sandbox that runs on ``port``; None if none runs there, or it keeps no ledger."""
    running = _running(port)
    return Path(running.sandbox_ledger) if running and running.sandbox_ledger else None


def _running(port: int) -> ReloadResult | None:
    """The latest result of the gateway on ``port``; None if none is found running."""
    try:
        file = os.open(_directory() / f"{port}.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError:
        return _read(file)
    finally:
        os.close(file)


def _read(file: int) -> ReloadResult:
    """The result in the file; waits until it is written completely."""
    while True:
        with suppress(msgspec.DecodeError):
            return msgspec.json.decode(os.pread(file, 2**20, 0), type=ReloadResult)
        time.sleep(LOOK_SECONDS)  # noqa: TID251 - there is no event loop in this command


def _nobody(port: int) -> str:
    with suppress(OSError):
        ports = sorted(int(path.stem) for path in _directory().glob("*.json") if path.stem.isdecimal())
        if others := [str(other) for other in ports if _running(other)]:
            return (
                f"no gateway of yours runs on port {port}, but on {', '.join(others)}: torii reload --port {others[0]}"
            )
    by_hand = "A gateway in a container, or of another user, reloads on SIGHUP: kill -HUP and its process id"
    return f"no gateway of yours runs on port {port} of this machine. {by_hand}."


def _directory(*, make: bool = False) -> Path:
    """The folder of the run files, to which only its owner can write. Raises OSError if there is none."""
    if sys.platform == "win32":
        raise OSError("no run files on this system")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(runtime, "torii") if runtime else Path(os.environ.get("TMPDIR") or "/tmp", f"torii-{os.getuid()}")  # noqa: S108 - owner and mode are checked below
    if make:
        path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{path} is not a folder that only its owner can write to")
    return path
