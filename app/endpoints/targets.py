"""Addresses of pages, as callers write them behind ``/r/`` or into a body.

The gateway never fetches one of them. It refuses what the provider would refuse: other schemes than http and https,
this machine and private networks, and the provider's own hosts. No name is looked up.
"""

from __future__ import annotations

import re
import unicodedata
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import unquote, unquote_to_bytes

from ..core.errors import InvalidRequest

# The hosts of the provider's readers, which do not read themselves.
OWN = frozenset(("r.jina.ai", "s.jina.ai", "eu.r.jina.ai", "eu.s.jina.ai", "r.jinaai.cn", "s.jinaai.cn"))
_DOUBLED = re.compile(r"(?:https?:/+)?(?:eu\.)?r\.jina\.ai/+(?=\S)", re.IGNORECASE)
_WEB = re.compile(r"(https?):[/\\]+", re.IGNORECASE)
_OTHER = re.compile(r"[a-z][a-z0-9+-]*:(?!\d)|[a-z][a-z0-9+.-]*:[/\\]", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# What browsers take for a dot of a host, and what they leave out of one (UTS 46); NFKC knows neither.
_IDNA = {0x3002: ".", 0xFF61: ".", **dict.fromkeys((0xAD, 0x34F, 0x200B, 0x200C, 0x200D, 0x2060, 0x2064, 0xFEFF), "")}
# Names that mean this machine, or its network: RFC 6761 and 6762, ICANN's reservation of internal.
_INSIDE = ("localhost", "local", "internal", "localdomain", "home.arpa")


def decoded(raw: bytes) -> str:
    """The text of a path and query, decoded once, as the provider decodes it. Malformed escapes stay as they are."""
    text = unquote_to_bytes(raw).decode("utf-8", "surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda found: f"%{ord(found[0]) - 0xDC00:02X}", text)


def page_url(text: str, host: str = "") -> str:
    """The address of a page, repaired as the provider would: ``https:/a`` has lost a slash to a proxy, and the provider
    itself in front of an address means nothing. ``host`` is the name under which the gateway was called.

    Raises InvalidRequest.
    """
    url = text.strip()
    if url.startswith("/") and _WEB.match(url.lstrip("/")):
        url = url.lstrip("/")  # a client joined a base URL that ends with a slash and a path that begins with one
    while doubled := _DOUBLED.match(url):
        url = url[doubled.end() :]
    if not url:
        raise InvalidRequest("url is missing: send the address of a page, such as https://host.example", param="url")
    if _CONTROL.search(url):
        raise _refused("has control characters")
    web = _WEB.match(url)
    if web is None and _OTHER.match(url):
        raise _refused("must have the scheme http or https")
    rest = url[web.end() :] if web else url
    _check(rest, host.lower())
    return f"{web[1].lower()}://{rest}" if web else url


def _check(rest: str, own: str) -> None:
    """``rest`` begins with the authority. Raises InvalidRequest."""
    authority = re.split(r"[/\\?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    there = unicodedata.normalize("NFKC", unquote(authority).translate(_IDNA)).lower()
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::\d*)?", there)
    name = found[1].rstrip(".") if found else ""
    if not name or re.search(r"\s", name):
        raise _refused("has no host")
    if name in OWN or (own and there == own):
        raise _refused("is this service itself")
    if name in _INSIDE or name.endswith(tuple(f".{inside}" for inside in _INSIDE)):
        raise _refused("is on this machine or in a private network")
    address = _address(name)
    if address is not None and not _is_public(address):
        raise _refused("is an address of this machine or of a private network")


def _address(name: str) -> IPv4Address | IPv6Address | None:
    """The literal address in a host, in any form that browsers read: 127.1, 0x7f000001. None for a name."""
    if name.startswith("["):
        try:
            return IPv6Address(name[1:-1].partition("%")[0])
        except ValueError:
            raise _refused("has a malformed host") from None
    parts = name.split(".")
    if not re.fullmatch(r"\d+|0x[0-9a-f]*", parts[-1]):
        return None
    numbers = [_part(part) for part in parts]
    whole = 0
    if len(parts) > 4 or None in numbers:
        raise _refused("has a malformed host")
    *first, last = (number or 0 for number in numbers)
    if any(number > 255 for number in first) or last >= 256 ** (5 - len(parts)):
        raise _refused("has a malformed host")
    for place, number in enumerate(first):
        whole += number << (24 - 8 * place)
    return IPv4Address(whole + last)


def _part(text: str) -> int | None:
    """A part of an IPv4 address: decimal, 0x for hexadecimal, 0 for octal (WHATWG URL, IPv4 parser)."""
    try:
        if text.startswith("0x"):
            return int(text[2:] or "0", 16)
        return int(text, 8 if len(text) > 1 and text.startswith("0") else 10) if text.isdigit() else None
    except ValueError:
        return None


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and (int(address) >> 32 in (0x64FF9B << 64, 0)):  # NAT64, and IPv4-compatible
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None and not _is_public(inner):
            return False
    return address.is_global and not address.is_multicast


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"url {why}. Send the address of a public page with http or https", param="url", code="url_not_allowed"
    )
