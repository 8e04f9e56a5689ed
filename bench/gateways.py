"""The gateways to measure: nginx as the lower limit, Torii as its users run it, and the installed peers."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import yaml

from app.storage.ledger_file import LedgerFile
from app.storage.rows import INSERT_CALL, CallRow

from .processes import ROOT, Running, free_port, start
from .upstream import Stub
from .wire import CALLER_KEY, UPSTREAM_KEY, Ask

PEERS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torii-bench"
"""The folder where `make bench-peers` installs the peers."""

CLIENTS_KEY = {"authorization": f"Bearer {CALLER_KEY}"}


class Gateway(Protocol):
    """A program between callers and the stub. ``missing``: how to install it; empty if it is installed."""

    @property
    def name(self) -> str: ...

    @property
    def missing(self) -> str: ...

    def start(self, asks: Iterable[Ask], stub: Stub, folder: Path, core: int) -> tuple[Running, int]:
        """The process, and the port on which it listens. Raises NotStarted."""

    def request(self, ask: Ask, stub: Stub) -> bytes:
        """The request as this gateway's callers send it, as bytes."""


def http(path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> bytes:
    raw = msgspec.json.encode(body)
    lines = {"host": "127.0.0.1", "content-type": "application/json", "content-length": str(len(raw)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + raw


@dataclass(frozen=True)
class Direct:
    """No gateway: the stub itself, to measure the capacity of generator and stub."""

    name: str = "direct"
    missing: str = ""

    def start(self, asks: Iterable[Ask], stub: Stub, folder: Path, core: int) -> tuple[Running, int]:
        raise NotImplementedError("the stub runs already")

    def request(self, ask: Ask, stub: Stub) -> bytes:
        return untouched(ask)


def untouched(ask: Ask) -> bytes:
    """The request as the upstream itself accepts it."""
    return http(f"/{ask.place}/v1/{ask.endpoint}", {"model": ask.model, **ask.body}, CLIENTS_KEY)


NGINX = """
daemon off; master_process off; worker_processes 1; pid nginx.pid; error_log stderr error;
events {{ worker_connections 8192; }}
http {{
    access_log off; client_max_body_size 64m; client_body_buffer_size 1m;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    proxy_buffers 64 16k; proxy_max_temp_file_size 0; keepalive_requests 100000000;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Authorization "Bearer {key}";
    {trust}
    upstream stub {{ server {address}; keepalive 1024; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{ proxy_pass {scheme}://stub; }}
        location /s {{ proxy_pass {scheme}://stub; proxy_buffering off; }}
    }}
}}
"""


TRUSTING = "proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca}; proxy_ssl_name localhost;"


@dataclass(frozen=True)
class Nginx:
    """`proxy_pass` and a replaced key: about the least work that a gateway can do."""

    name: str = "nginx"

    @property
    def program(self) -> str | None:
        return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

    @property
    def missing(self) -> str:
        return "" if self.program else "nginx is not installed; on Debian or Ubuntu: apt-get install nginx"

    def start(self, asks: Iterable[Ask], stub: Stub, folder: Path, core: int) -> tuple[Running, int]:
        port = free_port()
        file = folder / "nginx.conf"
        trust = TRUSTING.format(ca=stub.ca) if stub.ca else ""
        where = {"address": stub.address, "scheme": stub.scheme, "trust": trust}
        file.write_text(NGINX.format(key=UPSTREAM_KEY, port=port, **where))
        running = start("nginx", [str(self.program), "-p", folder, "-c", file], core=core, folder=folder)
        running.until_it_listens(port)
        return running, port

    def request(self, ask: Ask, stub: Stub) -> bytes:
        return untouched(ask)


@dataclass(frozen=True)
class Torii:
    """`torii serve` with a caller's key, upstreams and the log on, from this checkout or another one.

    ``keys`` is the number of callers, and of keys at each upstream; ``rows`` is the number of ledger rows at the start.
    """

    name: str = "torii"
    checkout: Path = ROOT
    settings: dict[str, Any] = field(default_factory=dict)
    keys: int = 1
    rows: int = 0
    profiler: tuple[str, ...] = ()

    @property
    def program(self) -> Path:
        """`torii` beside this interpreter for this checkout, else from the other checkout's .venv."""
        if self.checkout == ROOT:
            return Path(sys.executable).with_name("torii")
        return self.checkout / ".venv" / "bin" / "torii"

    @property
    def missing(self) -> str:
        return "" if self.program.exists() else f"Torii is not installed in {self.checkout}: make install"

    def knows(self, setting: str) -> bool:
        return setting in yaml.safe_load((self.checkout / "config.example.yaml").read_text(encoding="utf-8"))

    def start(self, asks: Iterable[Ask], stub: Stub, folder: Path, core: int) -> tuple[Running, int]:
        port = free_port()
        file = folder / f"{self.name}.yaml"
        file.write_text(yaml.safe_dump(self._configuration(asks, stub, folder), sort_keys=False))
        command: list[str | Path] = [*self.profiler, self.program, "serve", "--config", file, "--port", str(port)]
        running = start(self.name, command, core=core, folder=folder)
        running.until_it_listens(port)
        return running, port

    def _configuration(self, asks: Iterable[Ask], stub: Stub, folder: Path) -> dict[str, Any]:
        others = range(1, self.keys)
        callers = [{"name": f"caller-{n}", "key": f"{CALLER_KEY}-{n}"} for n in others]
        own: dict[str, Any] = {
            "caller_key": CALLER_KEY,
            "callers": callers,
            "upstreams": self.upstreams(asks, stub),
            "max_connections": 4000,
        }
        if stub.ca:
            own["ca_file"] = str(stub.ca)
        if self.knows("ledger"):
            own["ledger"] = {"path": str(ledger(folder / f"{self.name}.db", self.rows))}
        return {**own, **self.settings}

    def upstreams(self, asks: Iterable[Ask], stub: Stub) -> dict[str, dict[str, Any]]:
        """One upstream per place, since each place answers differently."""
        found = {ask.place: _upstream(ask, stub.url(ask.place)) for ask in asks}
        for upstream in found.values():
            upstream["api_keys"] = [{"key": f"{UPSTREAM_KEY}-{n}", "name": f"key-{n}"} for n in range(1, self.keys)]
        return found

    def request(self, ask: Ask, stub: Stub) -> bytes:
        return http(f"/v1/{ask.endpoint}", {"model": f"{ask.place}/{ask.model}", **ask.body}, CLIENTS_KEY)


CALL = ("caller", "embeddings", "m", "jina", "m", "default", 200, None, 7, 0, 7, 0, 0.1, None, 1, "id")
"""The first fields of a row after its time."""


def ledger(path: Path, rows: int) -> Path:
    """A ledger with ``rows`` calls, one per second until now."""
    if rows:
        now = int(time.time())
        LedgerFile(path).close()
        with closing(sqlite3.connect(path)) as connection, connection:
            made = (tuple(CallRow((now - age) * 1000, *CALL)) for age in range(rows, 0, -1))
            connection.executemany(INSERT_CALL, made)
    return path


def _upstream(ask: Ask, url: str) -> dict[str, Any]:
    if ask.place == "chat":
        return {"kind": "aihubmix", "base_url": url, "api_key": UPSTREAM_KEY}
    jina: dict[str, Any] = {"kind": "jina", "base_url": url, "deepsearch_base_url": url, "api_key": UPSTREAM_KEY}
    if ask.place.startswith("capped"):
        jina["limits"] = {"requests_per_minute": int(ask.place.removeprefix("capped"))}
    return jina


@dataclass(frozen=True)
class LiteLLM:
    name: str = "litellm"

    @property
    def program(self) -> Path:
        return PEERS / "litellm" / "bin" / "litellm"

    @property
    def missing(self) -> str:
        return "" if self.program.exists() else "LiteLLM is not installed: make bench-peers"

    def start(self, asks: Iterable[Ask], stub: Stub, folder: Path, core: int) -> tuple[Running, int]:
        port = free_port()
        file = folder / "litellm.yaml"
        models = [_litellm_model(ask, stub.url(ask.place)) for ask in asks]
        settings = {"general_settings": {"master_key": CALLER_KEY}, "litellm_settings": {"telemetry": False}}
        file.write_text(yaml.safe_dump({"model_list": models, **settings}))
        command: list[str | Path] = [
            self.program,
            "--config",
            file,
            "--port",
            str(port),
            "--host",
            "127.0.0.1",
            "--num_workers",
            "1",
        ]
        offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
        offline |= {"SSL_CERT_FILE": str(stub.ca)} if stub.ca else {}
        running = start(self.name, command, core=core, folder=folder, environment=offline)
        running.until_it_listens(port)
        return running, port

    def request(self, ask: Ask, stub: Stub) -> bytes:
        path = "/v1/rerank" if ask.endpoint == "rerank" else f"/v1/{ask.endpoint}"
        return http(path, {"model": ask.place, **ask.body}, CLIENTS_KEY)


def _litellm_model(ask: Ask, url: str) -> dict[str, Any]:
    provider, base = ("jina_ai", f"{url}/rerank") if ask.endpoint == "rerank" else ("openai", url)
    where = {"model": f"{provider}/{ask.model}", "api_base": base, "api_key": UPSTREAM_KEY}
    return {"model_name": ask.place, "litellm_params": where}


# Portkey 1.15.2 sets headers on `fetch` responses that it does not rewrite, which Node 20 forbids: without this, it
# answers 500.
MUTABLE_ANSWERS = """data:text/javascript,
const get = globalThis.fetch;
globalThis.fetch = async (...of) => { const got = await get(...of); return new Response(got.body, got); };
"""


@dataclass(frozen=True)
class Portkey:
    """Portkey has no keys of its own: the caller's headers select the upstream and its key."""

    name: str = "portkey"

    @property
    def program(self) -> Path:
        return PEERS / "portkey" / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"

    @property
    def missing(self) -> str:
        return "" if self.program.exists() and shutil.which("node") else "Portkey is not installed: make bench-peers"

    def start(self, asks: Iterable[Ask], stub: Stub, folder: Path, core: int) -> tuple[Running, int]:
        port = free_port()
        command: list[str | Path] = [
            str(shutil.which("node")),
            "--import",
            MUTABLE_ANSWERS,
            self.program,
            f"--port={port}",
            "--headless",
        ]
        environment = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}
        environment |= {"NODE_EXTRA_CA_CERTS": str(stub.ca)} if stub.ca else {}
        running = start(self.name, command, core=core, folder=folder, environment=environment)
        running.until_it_listens(port)
        return running, port

    def request(self, ask: Ask, stub: Stub) -> bytes:
        provider = "jina" if ask.endpoint == "rerank" else "openai"
        url = stub.url(ask.place)
        headers = {"authorization": f"Bearer {UPSTREAM_KEY}", "x-portkey-provider": provider}
        return http(f"/v1/{ask.endpoint}", {"model": ask.model, **ask.body}, {**headers, "x-portkey-custom-host": url})
