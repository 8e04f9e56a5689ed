"""Ends the servers of a test session that could not do so itself, since it was killed.

A process of its own, with the standard library alone: it reads lines until the session is gone, then kills what is
still running and removes its files. ``+PID FOLDER`` is a server that runs, ``-PID`` one that has ended; a folder
``/FOLDER`` is to be removed, ``~/FOLDER`` is gone already.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    parents: dict[int, int] = {}
    if Path("/proc/self/stat").exists():
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):  # it has ended meanwhile
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    else:
        lines = subprocess.run(["ps", "-axo", "pid=,ppid="], stdout=subprocess.PIPE, text=True, check=True).stdout
        for line in lines.splitlines():
            child, parent = line.split()
            parents[int(child)] = int(parent)
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def signal_all(pid: int, sig: signal.Signals) -> None:
    """The first goes first and stops, so that it starts no others in between."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP if sig is signal.SIGKILL else sig)
    for each in reversed(family(pid)):
        with suppress(ProcessLookupError):
            os.kill(each, sig)


def remove_shared_memory(data: Path) -> None:
    """Of a PostgreSQL that was killed: the segment whose id its pid file names."""
    with suppress(OSError, IndexError, ValueError):
        segment = int((data / "postmaster.pid").read_text().splitlines()[6].split()[1])
        ctypes.CDLL(None).shmctl(segment, 0, None)  # 0 is IPC_RMID


def keep() -> None:
    running: dict[int, Path] = {}
    folders: set[Path] = set()
    for line in sys.stdin:
        kind, rest = line[0], line[1:].rstrip("\n")
        if kind == "+":
            pid, _, folder = rest.partition(" ")
            running[int(pid)] = Path(folder)
        elif kind == "-":
            running.pop(int(rest), None)
        elif kind == "~":
            folders.discard(Path(rest))
        else:
            folders.add(Path(line.rstrip("\n")))
    for pid, folder in running.items():
        signal_all(pid, signal.SIGKILL)
        remove_shared_memory(folder / "data")
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    keep()
