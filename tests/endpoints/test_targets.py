"""Addresses of pages: what is refused, what is repaired, and how a path is decoded."""

from __future__ import annotations

import pytest

from app.core.errors import InvalidRequest
from app.endpoints.targets import decoded, page_url


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"https://a.example/?q=a%2526b", "https://a.example/?q=a%26b"),
        (b"a+b%20c", "a+b c"),
        (b"%E2%82%AC", "€"),
        (b"%E2%82", "%E2%82"),
        (b"100%", "100%"),
        (b"%u20AC%", "%u20AC%"),
        ("ä".encode(), "ä"),
    ],
)
def test_a_path_is_decoded_once_and_what_is_malformed_stays(raw: bytes, text: str) -> None:
    assert decoded(raw) == text


@pytest.mark.parametrize(
    ("given", "url"),
    [
        (" https://a.example/ ", "https://a.example/"),
        ("HTTPS:/a.example", "https://a.example"),
        ("http:\\\\a.example", "http://a.example"),
        ("a.example:8080/x", "a.example:8080/x"),
        ("https://r.jina.ai/r.jina.ai/https://a.example", "https://a.example"),
        ("https://a.example/#3", "https://a.example/#3"),
        ("https://1.1.1.1/", "https://1.1.1.1/"),
        ("https://[2606:4700:4700::1111]/", "https://[2606:4700:4700::1111]/"),
        ("https://user:pass@a.example/", "https://user:pass@a.example/"),
        ("https://例え.jp/路", "https://例え.jp/路"),
        ("localhost.example", "localhost.example"),
        ("http://10.example", "http://10.example"),
    ],
)
def test_the_address_of_a_page_is_repaired(given: str, url: str) -> None:
    assert page_url(given, "gateway.example:8000") == url


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://a.example/",
        "javascript:alert(1)",
        "data:text/html,a",
        "blob:https://a.example/1",
        "chrome://settings",
        "view-source:https://a.example",
        "https://",
        "https:///",
        "http://localhost",
        "http://LOCALHOST:80/",
        "http://a.localhost./",
        "localhost:8000",
        "http://printer.local/",
        "http://metadata.google.internal/",
        "http://127.0.0.1/",
        "127.0.0.1:8000/v1",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://017700000001/",
        "http://0/",
        "http://１２７.0.0.1/",
        "http://%31%32%37.0.0.1/",
        "http://user@127.0.0.1/",
        "http://a.example\\@127.0.0.1/".replace("a.example\\@", "a.example@"),
        "http:\\\\127.0.0.1\\",
        "http://10.0.0.1/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://100.64.0.1/",
        "http://224.0.0.1/",
        "http://[::1]/",
        "http://[fe80::1%25eth0]/",
        "http://[fd00::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[::7f00:1]/",
        "http://256.1.1.1/",
        "http://1.2.3.4.5/",
        "https://r.jina.ai/",
        "https://s.jina.ai/x",
        "http://gateway.example:8000/v1/models",
        "https://a.example/\nhost: b",
        "java\tscript:alert(1)",
    ],
)
def test_an_address_that_is_no_public_page_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        page_url(url, "Gateway.example:8000")
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "url_not_allowed", "url")


def test_the_same_host_at_another_port_is_a_page() -> None:
    assert page_url("https://gateway.example/", "gateway.example:8000") == "https://gateway.example/"


@pytest.mark.parametrize(
    "url",
    [
        "http://127\u30020\u30020\u30021/",
        "http://127.0.0.1\uff61/",
        "http://local\u00adhost/",
        "http://127.0.0.1\u200b/",
        "localhost\u2060:80",
    ],
)
def test_a_host_is_read_as_browsers_read_it(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        page_url(url)
    assert refused.value.code == "url_not_allowed"


def test_slashes_before_an_address_mean_nothing() -> None:
    assert page_url("/https://a.example//b") == "https://a.example//b"
    with pytest.raises(InvalidRequest):
        page_url("//a.example/")
