"""The host names and the web pages that an open gateway answers.

A browser carries any page's request to 127.0.0.1, and a page whose name is rebound to 127.0.0.1 even reads the answer.
No page can forge three headers of such a request: Host, Origin (WHATWG Fetch) and Sec-Fetch-Site (W3C Fetch Metadata).
Clients that are no browsers send the first of them only.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache, partial
from typing import NamedTuple

from .errors import Forbidden

# Of a request: all values of each header, by its name in lower case.
Headers = Mapping[bytes, list[bytes]]

ANYONE = "*"
# The origin of sandboxed frames, of data: URLs and of local files: any page can have it.
NULL = "null"

_NAME = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9_.-]*[a-z0-9_-])\.?(?::(\d{1,5}))?")
_ORIGIN = re.compile(rb"([a-z][a-z0-9+.-]*)://([^/?#@*\s]*)", re.IGNORECASE)
_PORTS = {b"http": b"80", b"https": b"443"}
# Of this machine: RFC 6761 for localhost; Docker and Podman name the container's host below internal (as ICANN
# reserves it).
_HERE = (b".localhost", b".internal")
_REMEMBERED = 64


class Place(NamedTuple):
    """A host in lower case, and its port as it is written; None where the scheme says it."""

    host: bytes
    port: bytes | None


def place(authority: bytes) -> Place | None:
    """The host and the port of a Host header, without the dot at its end. None if it is malformed."""
    found = _HOST.fullmatch(authority.lower())
    return Place(found[1], found[2]) if found else None


def of_the_web(origin: bytes) -> bool:
    """True if a web page may have such an origin. An extension or a desktop application has a scheme of its own."""
    found = _ORIGIN.fullmatch(origin)
    return found is None or found[1].lower() in _PORTS


def same(origin: bytes, host: bytes) -> bool:
    """True if ``origin`` is that of what ``host`` serves. A missing port is that of the origin's scheme."""
    found = _ORIGIN.fullmatch(origin)
    if found is None or (default := _PORTS.get(found[1].lower())) is None:
        return False
    page, here = place(found[2]), place(host)
    return page is not None and here is not None and _ported(page, default) == _ported(here, default)


def _ported(place: Place, default: bytes) -> tuple[bytes, bytes]:
    return place.host, place.port or default


# What may stand in the configuration.


def host_name(text: str) -> str:
    """A name of ``allowed_hosts`` as a browser sends it. ``*.`` before it is everything below it. Raises ValueError."""
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
    """An origin of ``cors.allowed_origins`` as a browser sends it. Raises ValueError."""
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


# What is looked at in each request.


class Hosts:
    """The names under which the gateway is reached on purpose: addresses, localhost, and ``names`` beside them."""

    def __init__(self, names: Iterable[str]) -> None:
        given = [name.encode() for name in names]
        exact = frozenset((b"localhost", *(name for name in given if not name.startswith(b"*"))))
        below = (*_HERE, *(name[1:] for name in given if name.startswith(b"*")))
        self.known = lru_cache(_REMEMBERED)(partial(_known, exact, below))


def _known(exact: Collection[bytes], below: tuple[bytes, ...], host: bytes) -> bool:
    found = place(host)
    return found is not None and (found.host in exact or found.host.endswith(below) or _is_address(found.host))


def _is_address(host: bytes) -> bool:
    """True if the host is an IP address, which no name server can turn into another one."""
    try:
        if host.startswith(b"["):
            ipaddress.IPv6Address(host[1:-1].decode())
        else:
            socket.inet_aton(host.decode())  # 127.1 is one too, to browsers and to curl
    except (OSError, ValueError):
        return False
    return True


class Guard:
    """Keeps web pages away from a gateway whose keys anyone may spend who reaches it. ``origins`` may ask;
    ``pages`` are the paths that a link elsewhere may lead to, none of which asks a provider."""

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
        """Somebody has followed a link, and sees the page by itself: no other page can read it."""
        return (
            method == "GET"
            and path in self._pages
            and headers.get(b"sec-fetch-mode") == [b"navigate"]
            and headers.get(b"sec-fetch-dest") == [b"document"]
        )


# Typed in, from a bookmark, or a page of the gateway's own.
_OWN = ([b"none"], [b"same-origin"])

_OR_CALLERS = "or set a caller key (TORII_CALLER_KEY), which no page has"
_CROSS_SITE = (
    "a web page of another site made this request, and the gateway has no callers. To allow it, "
    f"add its origin to cors.allowed_origins and use fetch() in mode 'cors', {_OR_CALLERS}"
)


def shown(values: list[bytes]) -> str:
    """A header's values for a message."""
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
