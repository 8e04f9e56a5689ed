"""Runs Java's own HTTP client against the gateway in its sandbox.

    .venv/bin/python -m tests.clients.java.check            or: make clients-java

Needs Java 11 or newer with its compiler, and no library. Prints a line for each finding; the exit code is 1 if one of
them failed, or if there is no Java.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..node.check import Finding, finding, gateway, shown

CLIENT = Path(__file__).with_name("Client.java")
SECONDS = 300


def main() -> int:
    java = shutil.which("java")
    if java is None:
        print("There is no java. On Debian or Ubuntu: apt-get install --no-install-recommends default-jdk-headless")
        return 1
    with tempfile.TemporaryDirectory() as folder, gateway(Path(folder)) as running:
        found = shown(run(java, running.root))
    failed = sum(each.fault is not None for each in found)
    print(f"\n{len(found) - failed} ok, {failed} failed")
    return 1 if failed else 0


def run(java: str, root: str) -> Iterator[Finding]:
    """The findings of the client, and one more if it exits with an error."""
    command = [java, str(CLIENT)]
    environment = {**os.environ, "TORII_ROOT": root}
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        yield Finding("java.net.http", "the client ends", f"it did not within {SECONDS} seconds")
        return
    lines = ended.stdout.splitlines()
    yield from map(finding, lines)
    if ended.returncode or not lines:
        yield Finding("java.net.http", "the client runs to its end", ended.stderr[-2000:] or "it printed nothing")


if __name__ == "__main__":
    sys.exit(main())
