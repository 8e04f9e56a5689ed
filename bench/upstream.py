"""The stub as the gateways see it: its addresses, and the CA to trust."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from .processes import Cores, Running, free_port, python, start

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


@dataclass(frozen=True)
class Stub:
    """``port`` speaks plain HTTP. With ``ca``, the gateways use ``secure_port`` instead, which speaks TLS."""

    port: int
    secure_port: int = 0
    ca: Path | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.secure_port if self.ca else self.port}"

    @property
    def scheme(self) -> str:
        return "https" if self.ca else "http"

    def url(self, place: str) -> str:
        return f"{self.scheme}://{self.address}/{place}/v1"


def started(folder: Path, cores: Cores, *, tls: bool = False) -> tuple[Running, Stub]:
    """Raises NotStarted, and CalledProcessError if openssl cannot make certificates."""
    stub = Stub(free_port(), free_port(), certificates(folder)) if tls else Stub(free_port())
    secure = [str(stub.secure_port), str(folder / "cert.pem"), str(folder / "key.pem")] if tls else []
    command = python("bench.stub", str(stub.port), str(cores.upstream), *secure)
    process = start("stub", command, core=cores.upstream, folder=folder)
    process.until_it_listens(stub.port)
    return process, stub


def certificates(folder: Path) -> Path:
    """Make a certificate authority and the stub's own certificate, cert.pem with key.pem. Returns the authority's
    file."""
    ca = folder / "ca.pem"
    _openssl(*CURVE, "-subj", "/CN=bench", "-keyout", folder / "ca.key", "-out", ca)
    names = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE")
    signed = ("-CA", ca, "-CAkey", folder / "ca.key", "-subj", "/CN=localhost", *names)
    _openssl(*CURVE, *signed, "-keyout", folder / "key.pem", "-out", folder / "cert.pem")
    return ca


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", "req", "-x509", *arguments], check=True, capture_output=True)
