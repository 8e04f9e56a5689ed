"""What a key may be used for, and from which address."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from app.callers.permissions import Permissions, Proxies
from app.core.errors import Barred, PermissionDenied


@pytest.mark.parametrize(
    ("models", "model", "allowed"),
    [
        (None, "anything", True),
        ((), "jina-clip-v2", False),
        (("jina-clip-v2",), "jina-clip-v2", True),
        (("jina-clip-v2",), "jina-clip-v22", False),
        (("jina-clip-v2",), "xjina-clip-v2", False),
        (("Jina-CLIP-v2",), "jina-clip-v2", True),
        (("jina-*",), "jina-clip-v2", True),
        (("jina-*",), "bge-m3", False),
        (("*-v2", "bge*"), "bge-m3", True),
        (("*",), "a/b\nc", True),
        (("a.c",), "abc", False),
        (("a|b",), "a", False),
        (("a*b*",), "aXbY", True),
    ],
)
def test_models_by_name_and_by_pattern(models: tuple[str, ...] | None, model: str, allowed: bool) -> None:
    may = Permissions(models=models)
    assert may.allows_model(model) is allowed
    if allowed:
        may.check_model(model)
        return
    with pytest.raises(PermissionDenied) as refusal:
        may.check_model(model)
    assert (refusal.value.status, refusal.value.code, refusal.value.param) == (403, "permission_denied", "model")
    assert refusal.value.message == f"this key may not use {model}; allowed models: {', '.join(models or ()) or 'none'}"


@pytest.mark.parametrize("pattern", ["*" * 200 + "b", "*a" * 100 + "b"])
def test_no_pattern_takes_long(pattern: str) -> None:
    """A regular expression would try more ways than there are seconds."""
    assert not Permissions(models=(pattern,)).allows_model("a" * 250)


def test_endpoints() -> None:
    Permissions().check_endpoint("chat")
    Permissions(endpoints=("chat",)).check_endpoint("chat")
    with pytest.raises(Barred, match="may not use rerank; allowed endpoints: chat, embeddings"):
        Permissions(endpoints=("chat", "embeddings")).check_endpoint("rerank")
    with pytest.raises(Barred, match="may not use chat; allowed endpoints: none"):
        Permissions(endpoints=()).check_endpoint("chat")


@pytest.mark.parametrize(
    ("networks", "peer", "allowed"),
    [
        (["192.0.2.0/24"], "192.0.2.7", True),
        (["192.0.2.0/24"], "::ffff:192.0.2.7", True),
        (["192.0.2.0/24"], "192.0.3.7", False),
        (["192.0.2.0/24"], "2001:db8::1", False),
        (["2001:db8::/32", "10.0.0.1"], "10.0.0.1", True),
        ([], "127.0.0.1", False),
        (["0.0.0.0/0", "::/0"], None, False),
        (["0.0.0.0/0"], "/run/torii.sock", False),
    ],
)
def test_addresses(networks: list[str], peer: str | None, allowed: bool) -> None:
    may = Permissions(networks=tuple(map(ip_network, networks)))
    address = Proxies().address({}, peer)
    if allowed:
        may.check_place(address)
        return
    with pytest.raises(Barred, match="this key may not be used from"):
        may.check_place(address)


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "address"),
    [
        ([], "127.0.0.1", ["203.0.113.9"], "127.0.0.1"),
        (["10.0.0.0/8"], "127.0.0.1", ["203.0.113.9"], "127.0.0.1"),
        (["127.0.0.1"], "127.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        (["127.0.0.1"], "127.0.0.1", ["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        (["127.0.0.1"], "127.0.0.1", ["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        (["127.0.0.1", "10.0.0.0/8"], "127.0.0.1", ["6.6.6.6, 203.0.113.9, 10.1.2.3"], "203.0.113.9"),
        (["127.0.0.1", "10.0.0.0/8"], "127.0.0.1", ["10.9.9.9, 10.1.2.3"], "10.9.9.9"),
        (["127.0.0.1"], "127.0.0.1", [], "127.0.0.1"),
        (["127.0.0.1"], "127.0.0.1", ["203.0.113.9:8080"], "203.0.113.9"),
        (["127.0.0.1"], "127.0.0.1", ["[2001:db8::1]:8080"], "2001:db8::1"),
        (["127.0.0.1"], "127.0.0.1", ["203.0.113.9, unknown"], None),
        (["::1"], "::1", ["2001:db8::7"], "2001:db8::7"),
    ],
)
def test_who_stands_behind_a_proxy(trusted: list[str], peer: str, forwarded: list[str], address: str | None) -> None:
    headers = {b"x-forwarded-for": [value.encode() for value in forwarded]} if forwarded else {}
    found = Proxies(trusted).address(headers, peer)
    assert (found and str(found)) == address
