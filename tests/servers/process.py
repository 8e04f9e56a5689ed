"""A server as a child process in a folder of its own, which ends with the test session however that ends."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import keeper

PATIENCE = 30.0
LOOK_SECONDS = 0.005
# Outside of the ranges from which a system picks ports of its own, so that a port is free again at a restart.
PORTS = range(20000, 32000)


class Keeper:
    """The end of the pipe to the keeper; the process is started with the first server."""

    process: subprocess.Popen[str] | None = None

    def tell(self, line: str) -> None:
        if self.process is None:
            command = [sys.executable, "-I", "-S", keeper.__file__]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()


KEEPER = Keeper()


def free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


class ServerProcess:
    """What PostgreSQL and Redis have in common. ``start`` returns when the server takes connections.

    As root the process runs as ``nobody``: PostgreSQL refuses root, and a server of tests needs no rights.
    """

    host = "127.0.0.1"

    def __init__(self) -> None:
        # Not in TMPDIR: a path of a Unix socket has at most 103 bytes, and nobody must be able to reach it.
        self.folder = Path(tempfile.mkdtemp(prefix="torii-", dir="/tmp"))
        KEEPER.tell(str(self.folder))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped = False
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self.user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def reachable(self, package: Path, program: str) -> Path:
        """``package``, or a copy of it if the server's user cannot run ``program`` there, as below /root."""
        with suppress(OSError):
            done = subprocess.run([package / program, "--version"], cwd="/", stdout=subprocess.DEVNULL, **self.user)
            if done.returncode == 0:
                return package
        for folder in (package, *package.parent.glob(f"{package.name}.libs")):
            shutil.copytree(folder, self.folder / "package" / folder.name)
        (self.folder / "package").chmod(0o755)
        return self.folder / "package" / package.name

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def launch(self, *command: str | Path) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self.user,
            )
        KEEPER.tell(f"+{self.pid} {self.folder}")
        self.wait(self.ready)

    def wait(self, happened: Callable[[], bool]) -> None:
        """Polls until ``happened``; raises RuntimeError with the log if the server ends first or takes too long."""
        assert self.process is not None
        for _ in range(round(PATIENCE / LOOK_SECONDS)):
            if happened():
                return
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(LOOK_SECONDS)
                break
        raise RuntimeError(f"the server on port {self.port} did not start:\n{self.log}")

    def start(self) -> None:
        """Starts it, or starts it again on the same port with the same data."""
        raise NotImplementedError

    def ready(self) -> bool:
        raise NotImplementedError

    def stop(self) -> None:
        """SIGSTOP: connections stay open, and nothing is answered."""
        keeper.signal_all(self.pid, signal.SIGSTOP)
        self.stopped = True

    def resume(self) -> None:
        keeper.signal_all(self.pid, signal.SIGCONT)
        self.stopped = False

    def shut_down(self) -> None:
        """An orderly end: clients are disconnected, data is kept, the port refuses."""
        self.end(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL to all its processes, as when the machine fails."""
        if self.running:
            keeper.signal_all(self.pid, signal.SIGKILL)
        self.ended()

    def end(self, sig: signal.Signals) -> None:
        if self.running:
            if self.stopped:
                self.resume()
            os.kill(self.pid, sig)
        self.ended()

    def ended(self) -> None:
        if self.process is not None:
            self.process.wait(PATIENCE)
            KEEPER.tell(f"-{self.pid}")
        self.stopped = False

    def close(self) -> None:
        """Ends it at once and removes its files."""
        self.kill()
        keeper.remove_shared_memory(self.folder / "data")
        shutil.rmtree(self.folder, ignore_errors=True)
        KEEPER.tell(f"~{self.folder}")
