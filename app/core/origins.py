"""Checks of Host, Origin and Sec-Fetch-Site that keep foreign web pages out of an open gateway.

A browser sends any page's request to 127.0.0.1, and a page whose host name is rebound to 127.0.0.1 can even read the
response. No page can forge these three headers (Origin: WHATWG Fetch; Sec-Fetch-Site: W3C Fetch Metadata). Clients
other than browsers send only the first.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache, partial
from typing import NamedTuple

from .errors import Forbidden

# All values of each header of a request, by its lower-case name.
Headers = Mapping[bytes, list[bytes]]

ANYONE = "*"
# The origin of sandboxed frames, data: URLs and local files: any page can obtain it.
NULL = "null"

_NAME = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9_.-]*[a-z0-9_-])\.?(?::(\d{1,5}))?")
_ORIGIN = re.compile(rb"([a-z][a-z0-9+.-]*)://([^/?#@*\s]*)", re.IGNORECASE)
_PORTS = {b"http": b"80", b"https": b"443"}
# Names that always mean this machine: RFC 6761 for localhost; Docker and Podman name the container's host below
# internal (which ICANN reserves).
_HERE = (b".localhost", b".internal")
_REMEMBERED = 64


class HostPort(NamedTuple):
    """A host in lower case, and the port as written; None if the port is left to the scheme."""

    host: bytes
    port: bytes | None


def place(authority: bytes) -> HostPort | None:
    """The host and port of a Host header, without a trailing dot. None if the header is malformed."""
    found = _HOST.fullmatch(authority.lower())
    return HostPort(found[1], found[2]) if found else None


def of_the_web(origin: bytes) -> bool:
    """True if ``origin`` may be a web page's. Browser extensions and desktop applications have schemes of their own."""
    found = _ORIGIN.fullmatch(origin)
    return found is None or found[1].lower() in _PORTS


def same(origin: bytes, host: bytes) -> bool:
    """True if ``origin`` is the origin of a page served under ``host``. A missing port is the default of the
    origin's scheme."""
    found = _ORIGIN.fullmatch(origin)
    if found is None or (default := _PORTS.get(found[1].lower())) is None:
        return False
    page, here = place(found[2]), place(host)
    return page is not None and here is not None and _ported(page, default) == _ported(here, default)


def _ported(place: HostPort, default: bytes) -> tuple[bytes, bytes]:
    return place.host, place.port or default


# Validation of settings.


def host_name(text: str) -> str:
    """A name in ``allowed_hosts`` as a browser sends it. ``*.`` at its start matches every subdomain. Raises
    ValueError."""
    if text == ANYONE:
        raise ValueError("must be a host name; * would admit every web page. With callers, hosts are not checked")
    try:
        name = text.removesuffix(".").encode("idna").decode().lower()
    except UnicodeError:
        name = ""
    if not (_NAME.fullmatch(name) or _is_address(name.encode())):
        raise ValueError("must be a host name such as torii.example, or *.torii.example: no scheme, port or path")
    return name


def page_origin(text: str) -> str:
    """An origin in ``cors.allowed_origins`` as a browser sends it. Raises ValueError."""
    if text in (ANYONE, NULL):
        return text
    scheme, separator, rest = text.partition("://")
    origin = _serialised(scheme.lower(), rest.removesuffix("/")) if separator else None
    if origin is None:
        raise ValueError(
            "must be an origin as browsers send it, such as https://app.example:3000 or app://obsidian.md: "
            "scheme, host and port, no path and no *"
        )
    return origin


def _serialised(scheme: str, rest: str) -> str | None:
    default = _PORTS.get(scheme.encode())
    if default is None:
        return f"{scheme}://{rest}" if _ORIGIN.fullmatch(f"{scheme}://{rest}".encode()) else None
    try:
        found = place(rest.encode("idna"))
    except UnicodeError:
        return None
    if found is None:
        return None
    port = "" if found.port in (None, default) else f":{(found.port or b'').decode()}"
    return f"{scheme}://{found.host.decode()}{port}"


# Checks of each request.


class Hosts:
    """The host names that the gateway answers to: IP addresses, localhost, and ``names``."""

    def __init__(self, names: Iterable[str]) -> None:
        given = [name.encode() for name in names]
        exact = frozenset((b"localhost", *(name for name in given if not name.startswith(b"*"))))
        below = (*_HERE, *(name[1:] for name in given if name.startswith(b"*")))
        self.known = lru_cache(_REMEMBERED)(partial(_known, exact, below))


def _known(exact: Collection[bytes], below: tuple[bytes, ...], host: bytes) -> bool:
    found = place(host)
    return found is not None and (found.host in exact or found.host.endswith(below) or _is_address(found.host))


def _is_address(host: bytes) -> bool:
    """True if the host is an IP address, which DNS cannot rebind."""
    try:
        if host.startswith(b"["):
            ipaddress.IPv6Address(host[1:-1].decode())
        else:
            socket.inet_aton(host.decode())  # 127.1 is an address too, for browsers and for curl
    except (OSError, ValueError):
        return False
    return True


class Guard:
    """Keeps web pages away from a gateway without callers, whose provider keys anyone who reaches it can spend.

    ``origins``: allowed origins. ``pages``: paths that a link on another site may open; none of them calls a provider.
    """

    def __init__(self, hosts: Hosts, origins: Collection[bytes], pages: Collection[str]) -> None:
        self._known = hosts.known
        self._origins = origins
        self._pages = pages

    def check(self, method: str, path: str, headers: Headers) -> None:
        """Raises Forbidden."""
        hosts = headers.get(b"host")
        if hosts is not None and not (len(hosts) == 1 and self._known(hosts[0])):
            raise Forbidden(_wrong_host(hosts))
        if (origins := headers.get(b"origin")) is not None:
            if not (len(origins) == 1 and self._may_ask(origins[0], hosts)):
                raise Forbidden(_wrong_origin(origins))
        elif headers.get(b"sec-fetch-site", _OWN[0]) not in _OWN and not self._is_link(method, path, headers):
            raise Forbidden(_CROSS_SITE)

    def _may_ask(self, origin: bytes, hosts: list[bytes] | None) -> bool:
        if origin in self._origins or not of_the_web(origin):
            return True
        return hosts is not None and same(origin, hosts[0])

    def _is_link(self, method: str, path: str, headers: Headers) -> bool:
        """True if a user followed a link: only the user sees the page, no other page can read it."""
        return (
            method == "GET"
            and path in self._pages
            and headers.get(b"sec-fetch-mode") == [b"navigate"]
            and headers.get(b"sec-fetch-dest") == [b"document"]
        )


# Typed in, from a bookmark, or from a page of the gateway's own.
_OWN = ([b"none"], [b"same-origin"])

_OR_CALLERS = "or set a caller key (TORII_CALLER_KEY), which no page has"
_CROSS_SITE = (
    "a web page of another site made this request, and the gateway has no callers. To allow it, "
    f"add its origin to cors.allowed_origins and use fetch() in mode 'cors', {_OR_CALLERS}"
)


def shown(values: list[bytes]) -> str:
    """The values of a header, for a message."""
    return repr(b", ".join(values)[:200].decode("ascii", "backslashreplace"))


def _wrong_host(hosts: list[bytes]) -> str:
    return (
        f"the host {shown(hosts)} (Host) is not allowed, and the gateway has no callers. To allow it, add it "
        f"to allowed_hosts (TORII_ALLOWED_HOSTS), {_OR_CALLERS}"
    )


def _wrong_origin(origins: list[bytes]) -> str:
    return (
        f"a web page of {shown(origins)} made this request (Origin), and the gateway has no callers. To allow it, "
        f"add its origin to cors.allowed_origins (TORII_CORS__ALLOWED_ORIGINS), {_OR_CALLERS}"
    )
