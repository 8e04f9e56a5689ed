"""The permissions of a key: models, endpoints, addresses."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from ..core.errors import Barred, PermissionDenied
from ..core.names import shown
from ..core.origins import Headers
from ..storage.filters import matches

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

FORWARDED = b"x-forwarded-for"
_PORT = re.compile(r"\[([^\]]+)\](?::\d+)?|(\d+\.\d+\.\d+\.\d+):\d+")


@dataclass(frozen=True)
class Permissions:
    """Of each list, None is any and an empty one is none. A model may have ``*`` for any characters."""

    models: tuple[str, ...] | None = None
    endpoints: tuple[str, ...] | None = None
    networks: tuple[Network, ...] | None = None

    def check_place(self, address: Address | None) -> None:
        """Raises Barred if the key must not be used from the address; None is an unknown one."""
        if self.networks is not None and not _within(address, self.networks):
            allowed = ", ".join(map(str, self.networks)) or "none"
            raise Barred(f"this key may not be used from {address or 'an unknown address'}; allowed: {allowed}")

    def check_endpoint(self, endpoint: str) -> None:
        """Raises Barred."""
        if self.endpoints is not None and endpoint not in self.endpoints:
            raise Barred(f"this key may not use {endpoint}; allowed endpoints: {', '.join(self.endpoints) or 'none'}")

    def check_model(self, model: str) -> None:
        """Raises PermissionDenied. ``model`` is an id: a name after alias, prefix and case."""
        if self.models is not None and not self.allows_model(model):
            allowed = ", ".join(self.models) or "none"
            raise PermissionDenied(f"this key may not use {shown(model)}; allowed models: {allowed}", param="model")

    def allows_model(self, model: str) -> bool:
        if self.models is None:
            return True
        wanted = model.lower()
        return wanted in self._names or any(matches(pattern, wanted) for pattern in self._patterns)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(model.lower() for model in self.models or () if "*" not in model)

    @cached_property
    def _patterns(self) -> tuple[str, ...]:
        """No regular expressions: with many ``*`` they could take for ever."""
        return tuple(model.lower() for model in self.models or () if "*" in model)


class Proxies:
    """The proxies whose X-Forwarded-For is believed."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = tuple(map(ip_network, networks))

    def address(self, headers: Headers, peer: str | None) -> Address | None:
        """The caller's address: the connection's, or behind trusted proxies the rightmost one of X-Forwarded-For that
        is none of theirs. None if it is unknown, as behind a Unix socket, or no address."""
        found = _address(peer or "")
        if not self._networks or not _within(found, self._networks):
            return found
        hops = b",".join(headers.get(FORWARDED, ())).decode("latin-1").split(",")
        for hop in reversed([hop for hop in map(str.strip, hops) if hop]):
            found = _address(hop)
            if not _within(found, self._networks):
                break
        return found


def _address(text: str) -> Address | None:
    """The address, without a port or brackets; IPv4 within IPv6 as IPv4."""
    port = _PORT.fullmatch(text)
    try:
        found = ip_address((port[1] or port[2]) if port else text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _within(address: Address | None, networks: Collection[Network]) -> bool:
    return address is not None and any(address in network for network in networks)
