"""Files whose paths an operator names, in a process that has many others open."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from ..cli.test_cli import ROOT, SECONDS, environment

MANY = 1100  # select knows descriptors below 1024

READS = """
import os, resource, sys, threading
from pathlib import Path
from app.storage import files
many = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (many + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
while os.dup(0) < many:
    pass

def write(file, data):
    with open(file, "wb") as pipe:
        pipe.write(data)

ours, theirs = os.pipe()
large = bytes(range(256)) * 2**12  # many times what a pipe holds, so that its writer and its reader wait for each other
threading.Thread(target=write, args=(theirs, large), daemon=True).start()
assert files.read(Path(f"/dev/fd/{ours}")) == large
print("read")
ours, theirs = os.pipe()
files.PIPE_SECONDS = 0.1
try:
    files.read(Path(f"/dev/fd/{ours}"))
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < MANY + 100, reason="this machine allows no 1200 open files"
)
def test_a_pipe_is_read_by_a_process_with_many_open_files() -> None:
    """As of ``--config <(...)``; one that says nothing is given up on."""
    done = subprocess.run(
        [sys.executable, "-c", READS, str(MANY)],
        cwd=ROOT,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    late = "it is not a regular file, and was not read within 0.1 seconds; use a regular file"
    assert (done.stdout.splitlines(), done.stderr) == (["read", late], "")
