"""Multipart forms: what is read of them, and what is refused. Skipped where python-multipart is not installed."""

from __future__ import annotations

import sys
from base64 import b64encode
from typing import Any

import pytest

from app.core.errors import InvalidRequest, UnsupportedMedia
from app.server.uploads import PARTS, uploaded

from ..conftest import ScriptedUpstream, replies, running_gateway, settings_for
from .test_web import PAGE

TYPE = "multipart/form-data; boundary=limit"
PDF = b"%PDF-1.4\r\n--limi\0\xff"


def part(head: bytes, data: bytes) -> bytes:
    return b"--limit\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + data + b"\r\n"


def with_package() -> Any:
    return pytest.importorskip("python_multipart", reason="python-multipart is not installed: no form was read")


def test_files_come_in_base64_and_all_else_as_text() -> None:
    with_package()
    body = (
        part(b'name="pdf"; filename="a.pdf"', PDF)
        + part(b'name="url"', "https://ä.example".encode())
        + b"--limit--\r\n"
    )
    assert uploaded(TYPE, body) == {"pdf": b64encode(PDF).decode(), "url": "https://ä.example"}
    assert uploaded('multipart/form-data; boundary="limit"', body)["url"] == "https://ä.example"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--limit--\r\n"),
        ("multipart/form-data; boundary=" + "a" * 300, b"--" + b"a" * 300 + b"--\r\n"),
        (TYPE, b"no form at all"),
        (TYPE, part(b'name="pdf"', PDF)),
        (TYPE, part(b'name="a"', b"b") * (PARTS + 1) + b"--limit--\r\n"),
        (TYPE, part(b'name="' + b"a" * 10_000 + b'"', b"b") + b"--limit--\r\n"),
    ],
)
def test_what_is_no_whole_form_is_refused(kind: str, body: bytes) -> None:
    with_package()
    with pytest.raises(InvalidRequest):
        uploaded(kind, body)


async def test_an_uploaded_file_goes_upstream_in_base64(upstream: ScriptedUpstream) -> None:
    with_package()
    upstream.plays(replies(PAGE))
    async with running_gateway(settings_for(upstream.url)) as gateway:
        answer = await gateway.client.post("/v1/reader", files={"file": ("a.pdf", PDF)}, data={"respondWith": "text"})
        assert answer.json() == PAGE
    (seen,) = upstream.seen
    assert seen.body == {"file": b64encode(PDF).decode()}
    assert seen.headers["x-respond-with"] == "text"


async def test_without_the_package_a_form_says_what_is_missing(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("python_multipart", "python_multipart.exceptions", "python_multipart.multipart"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnsupportedMedia, match="python-multipart is not installed"):
        uploaded(TYPE, b"")
    async with running_gateway(settings_for(upstream.url)) as gateway:
        answer = await gateway.client.post("/r", files={"file": ("a.pdf", PDF)})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
