"""Addresses of a Redis in the settings: ``redis://``, ``rediss://`` (TLS), ``unix://``, and Sentinels.

    redis+sentinel://user:password@host-1:26379,host-2:26379/SERVICE/0
    rediss+sentinel://...                        TLS to the Sentinels and to Redis
    ?sentinel_username=...&sentinel_password=... if the Sentinels have a password of their own

User names and passwords are percent-encoded. No message has a part of an address.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

SENTINEL_PORT = 26379
PLAIN = "must be a URL such as redis://host.example:6379/0 or rediss://:password@host.example:6379/0"
SENTINEL = "must be a URL such as redis+sentinel://:password@host-1.example:26379,host-2.example:26379/SERVICE/0"
SENTINELS = ("redis+sentinel", "rediss+sentinel")


class SentinelAddress(NamedTuple):
    """The Sentinels, and the name under which they know a master. ``tls`` holds for all of them."""

    places: tuple[tuple[str, int], ...]
    service: str
    db: int
    tls: bool
    username: str | None
    password: str | None
    sentinel_username: str | None
    sentinel_password: str | None


def checked(url: str) -> str:
    """The address, if it has a known form. Raises ValueError, which says what is right."""
    parts = _split(url)
    if parts.scheme in SENTINELS:
        sentinel_address(url)
    elif parts.scheme == "unix":
        if not parts.path.startswith("/"):
            raise ValueError("must be a URL such as unix:///run/redis/redis.sock")
    elif not re.fullmatch(r"/?[0-9]*", parts.path) or not _sound(parts):
        raise ValueError(PLAIN)
    return url


def sentinel_address(url: str) -> SentinelAddress:
    """The parts of an address with Sentinels. Raises ValueError."""
    parts = _split(url)
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    path = re.fullmatch(r"/([^/]+)(?:/([0-9]*))?", parts.path)
    places = [re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::([0-9]{1,5}))?", host) for host in hosts.split(",")]
    found = [(place[1].strip("[]"), int(place[2] or SENTINEL_PORT)) for place in places if place]
    if path is None or len(found) < len(places):
        raise ValueError(SENTINEL)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    if set(query) - {"sentinel_username", "sentinel_password"}:
        raise ValueError(SENTINEL)
    return SentinelAddress(
        tuple(found),
        unquote(path[1]),
        int(path[2] or 0),
        parts.scheme.startswith("rediss"),
        unquote(username) or None,
        unquote(password) or None,
        query.get("sentinel_username"),
        query.get("sentinel_password"),
    )


def passwords(url: str) -> list[str]:
    """The passwords in an address, as they are written and as they are meant."""
    parts = _split(url)
    written = [parts.netloc.rpartition("@")[0].partition(":")[2]]
    for name, values in parse_qs(parts.query).items():
        written += values if name.endswith("password") else []
    return sorted({text for each in written for text in (each, unquote(each)) if text})


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise ValueError(PLAIN) from None


def _sound(parts: SplitResult) -> bool:
    try:
        return parts.scheme in ("redis", "rediss") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False
