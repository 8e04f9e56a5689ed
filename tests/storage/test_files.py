"""Files at paths that an operator names, in a process with many other open files."""

from __future__ import annotations

import resource
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from app.storage.files import make

from ..cli.test_cli import ROOT, SECONDS, environment

MANY = 1100  # select() only works for descriptors below 1024

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
    """For example from ``--config <(...)``. A pipe without data is given up on."""
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


OPENS = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1])
print(*file.execute("SELECT * FROM notes"))
file.close()
"""


def test_making_a_file_that_is_there_leaves_it_its_locks(tmp_path: Path) -> None:
    """Without the locks, another process that closes the file would consider itself the last one and delete the log."""
    path = tmp_path / "torii.db"
    make(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as ours:
        ours.execute("PRAGMA journal_mode = WAL")
        ours.execute("CREATE TABLE notes (text)")
        ours.execute("INSERT INTO notes VALUES ('ours')")
        make(path)
        done = subprocess.run([sys.executable, "-c", OPENS, str(path)], capture_output=True, text=True, timeout=SECONDS)
        assert (done.stdout, done.stderr) == ("('ours',)\n", "")
        assert path.with_name("torii.db-wal").exists()


def test_a_file_is_made_where_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "torii.db")
    make(tmp_path / "link")
    assert (tmp_path / "torii.db").stat().st_mode & 0o777 == 0o600
