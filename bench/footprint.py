"""The footprint of an idle gateway: start time, memory, installed size."""

from __future__ import annotations

import re
import socket
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from .gateways import PEERS, Gateway
from .processes import Cores, NotStarted
from .scenarios import SMALL
from .upstream import Stub, started

REST_SECONDS = 1.0
TOOLS = {"pip", "setuptools", "wheel"}  # part of every venv, needed by none of its programs


@dataclass(frozen=True)
class Footprint:
    """``starts``: seconds from each start to the first answer; ``rest_mb``: memory at rest, after that answer, in
    MB."""

    starts: list[float]
    rest_mb: float
    disk_mb: float | None = None
    packages: int | None = None

    @property
    def start(self) -> float:
        return statistics.median(self.starts)

    def told(self) -> tuple[str, str, str, str]:
        disk = "-" if self.disk_mb is None else f"{self.disk_mb:.0f} MB"
        return f"{self.start:.2f} s", f"{self.rest_mb:.0f} MB", disk, str(self.packages or "-")

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def footprints(gateways: Iterable[Gateway], rounds: int, folder: Path) -> dict[str, Footprint]:
    cores = Cores.of_this_machine()
    upstream, stub = started(folder, cores)
    found: dict[str, Footprint] = {}
    try:
        for gateway in gateways:
            try:
                starts = [_start(gateway, stub, folder, cores) for _ in range(rounds)]
            except (NotStarted, OSError) as error:
                print(f"{gateway.name}: {error}")
                continue
            disk, packages = _installed(gateway.name)
            rest = statistics.median(held for _, held in starts)
            found[gateway.name] = Footprint([seconds for seconds, _ in starts], rest, disk, packages)
    finally:
        upstream.stop()
    return found


def _start(gateway: Gateway, stub: Stub, folder: Path, cores: Cores) -> tuple[float, float]:
    running, port = gateway.start([SMALL], stub, folder, cores.gateway)
    try:
        request = gateway.request(SMALL, stub)
        while not _answered(port, request):
            if time.monotonic() - running.started > 60:
                raise NotStarted(f"{gateway.name} has no answer after a minute")
            time.sleep(0.005)  # noqa: TID251 - waits for another program, outside any loop
        seconds = time.monotonic() - running.started
        time.sleep(REST_SECONDS)  # noqa: TID251 - outside any loop
        return seconds, running.memory() / 1e6
    finally:
        running.stop()


def _answered(port: int, request: bytes) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        return connection.recv(64).startswith(b"HTTP/1.1 200")


def _installed(name: str) -> tuple[float | None, int | None]:
    """Installed size in megabytes, including compiled modules, and the number of packages."""
    if name == "torii":
        needed = needs("torii-gateway")
        return (sum(_size(package) for package in needed) + _folder(Path(__file__).parents[1] / "app")) / 1e6, len(
            needed
        )
    if name == "litellm":
        (site,) = (PEERS / "litellm" / "lib").glob("python3*/site-packages")
        packages = [path for path in site.glob("*.dist-info") if path.name.partition("-")[0] not in TOOLS]
        tools = sum(_folder(site / tool) for tool in TOOLS)
        return (_folder(site) - tools) / 1e6, len(packages)
    if name == "portkey":
        modules = PEERS / "portkey" / "node_modules"
        packages = [
            path
            for path in modules.rglob("package.json")
            if re.search(r"node_modules/(@[^/]+/)?[^/]+$", str(path.parent))
        ]
        return _folder(modules) / 1e6, len(packages)
    return None, None


def needs(package: str) -> set[str]:
    """The package and all dependencies of its base installation, without its own extras."""
    found: set[str] = set()
    todo = [Requirement(package)]
    while todo:
        wanted = todo.pop()
        name = plain_name(wanted)
        if name in found and not wanted.extras:
            continue
        found.add(name)
        extras = ("", *wanted.extras)
        required = map(Requirement, metadata.requires(name) or [])
        inside = [one for one in required if not one.marker or any(one.marker.evaluate({"extra": e}) for e in extras)]
        todo += [one for one in inside if one.extras or plain_name(one) not in found]
    return found


def plain_name(requirement: Requirement) -> str:
    return re.sub(r"[-_.]+", "-", requirement.name).lower()


def _size(package: str) -> int:
    """The size of the package's files in bytes, 0 for an editable installation."""
    paths = (Path(str(file.locate())) for file in metadata.files(package) or [])
    return sum(path.stat().st_size for path in paths if path.exists())


def _folder(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
