"""Processes as the kernel sees them: CPU time, memory, pinned cores."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
ROOT = Path(__file__).parents[1]


class NotStarted(Exception):
    """A process did not start; the message names it and has the end of its output."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The assignment of cores. With fewer than four, some are shared, and the figures are less reliable."""

    gateway: int
    upstream: int
    load: tuple[int, ...]

    @classmethod
    def of_this_machine(cls) -> Cores:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 4:
            return cls(cores[0], cores[1 % len(cores)], (cores[-1],))
        return cls(cores[0], cores[1], tuple(cores[2:4]))


def pin(cores: str) -> None:
    """Pin this process to the cores, given as `2,3`; an empty text changes nothing."""
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})


@dataclass
class Running:
    """A started program with all its child processes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    started: float = field(default_factory=time.monotonic)

    def cpu(self) -> float:
        """CPU seconds of the program and its children, in user and system mode."""
        return sum(_cpu(pid) for pid in family(self.process.pid))

    def memory(self) -> int:
        """Resident memory of the program and its children, in bytes."""
        return sum(_memory(pid) for pid in family(self.process.pid))

    def stop(self, seconds: float = 10) -> None:
        """Terminate the program, kill it after ``seconds``, and kill its remaining children."""
        pids = family(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in pids[1:]:
            if _parent_of(pid) is not None:
                os.kill(pid, signal.SIGKILL)

    def until_it_listens(self, port: int, seconds: float = 90) -> None:
        while time.monotonic() - self.started < seconds and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.002)  # noqa: TID251 - waits for another program, outside any loop
        self.stop()
        raise NotStarted(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-2000:]}")


def start(
    name: str, command: Iterable[str | Path], *, core: int, folder: Path, environment: Mapping[str, str] | None = None
) -> Running:
    """Start the program pinned to one core; its output goes to a file in ``folder``."""
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env={**_own_environment(), **(environment or {})},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    return Running(name, process, log)


def python(module: str, *arguments: str) -> list[str]:
    """A command that runs a module's ``main`` from any working directory."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {module} import main; main()"
    return [sys.executable, "-c", code, *arguments]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


def family(pid: int) -> list[int]:
    """The process and all its descendants, the process first; empty if it has ended."""
    parents = {int(entry): _parent_of(int(entry)) for entry in os.listdir("/proc") if entry.isdigit()}
    found = [pid] if pid in parents else []
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def _own_environment() -> dict[str, str]:
    """Our environment without variables that would configure Torii or send a client through a proxy."""
    foreign = ("TORII_", "JINA_", "AIHUBMIX_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(foreign)}


def _fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on, after the name, which may contain any character."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _parent_of(pid: int) -> int | None:
    fields = _fields(pid)
    return int(fields[1]) if fields else None


def _cpu(pid: int) -> float:
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS if fields else 0.0


def _memory(pid: int) -> int:
    fields = _fields(pid)
    return int(fields[21]) * PAGE if fields else 0
