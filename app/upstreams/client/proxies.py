"""Proxies between the gateway and its upstreams: parsing of proxy URLs, and the choice of a proxy for an address.

http://user:password@proxy.example:3128        a proxy is spoken to in plain HTTP
HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY   read as by curl and Go; lower-case names take precedence
"""

from __future__ import annotations

import ipaddress
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

Place = tuple[str, int, bool]  # host, port, True for TLS

FORM = "must be a URL such as http://proxy.example:3128 or http://user:password@proxy.example:3128"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy. ``authorization`` is the value of Proxy-Authorization; None without credentials. The repr leaves the
    credentials out."""

    host: str
    port: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """Host and port as text."""
        return authority(self.host, self.port)

    @property
    def authorization(self) -> str | None:
        if not (self.user or self.password):
            return None
        return "Basic " + b64encode(f"{self.user}:{self.password}".encode()).decode("ascii")

    @property
    def secrets(self) -> list[str]:
        """The password in all forms that must be redacted."""
        given = self.authorization
        return [self.password, given.removeprefix("Basic ")] if given else []


def authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse(url: str) -> Proxy:
    """The proxy of a URL, whose port is 80 by default. Raises ValueError, whose message does not contain the URL."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or 80
    except ValueError:
        raise ValueError(FORM) from None
    if parts.scheme in ("https", "socks", "socks4", "socks4a", "socks5", "socks5h"):
        raise ValueError(f"{FORM}; a proxy reached over {parts.scheme} is not supported")
    more = parts.path.strip("/") or parts.query or parts.fragment or not re.fullmatch(r"[\x21-\x7e]+", url)
    if parts.scheme != "http" or not parts.hostname or more:
        raise ValueError(FORM)
    return Proxy(parts.hostname, port, unquote(parts.username or ""), unquote(parts.password or ""))


def place(url: str) -> Place:
    """The place of an upstream's address, which must be a valid URL."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    return parts.hostname or "", parts.port or (443 if tls else 80), tls


def loopback(host: str) -> bool:
    """True if the host is this machine, for which no proxy is used."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def variable(there: Place, environ: Mapping[str, str]) -> str | None:
    """The name of the variable with the proxy for the place; None if there is none, or NO_PROXY excludes the place."""
    host, port, tls = there
    names = ("https_proxy" if tls else "http_proxy", "all_proxy")
    found = next((spelt for name in names for spelt in (name, name.upper()) if environ.get(spelt)), None)
    spared = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return None if found and any(_spares(entry, host, port) for entry in re.split(r"[,\s]+", spared)) else found


def _spares(entry: str, host: str, port: int) -> bool:
    """True if an entry of NO_PROXY matches: ``*``, a domain with its subdomains, an address or a network. An entry may
    have a port, except a network."""
    if entry == "*":
        return True
    name, colon, number = entry.lower().rpartition(":")
    if colon and number.isdecimal() and (":" not in name or name.endswith("]")):
        return int(number) == port and _spares(name, host, port)
    name = entry.lower().strip("[]")
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    except ValueError:
        domain = name.removeprefix("*").removeprefix(".").rstrip(".")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))
