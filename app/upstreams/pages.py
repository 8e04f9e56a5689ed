"""Jina's reader and searches on the wire: r.jina.ai, s.jina.ai and svip.jina.ai.

    POST /, {"url": ...} or {"q": ...}, options as headers, one media type in Accept
        json     {"code": 200, "data": {...}, "meta": {"usage": {"tokens"}}}
        text     the page, X-Usage-Tokens; a picture; 302 to a picture
        events   snapshots, each of which replaces the one before; the body ends without [DONE]

    svip: POST /, or GET /?q=...; POST /extract-pdf
        json     {"results": [...], "meta": {"credits"}}; {"floats": [...], "meta": {"credits"}}

Usage is in ``meta``, else in the header, else that of the pages. Sources: jina-ai/reader (2026-05),
jina-ai/MCP (2026-08).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
from msgspec.structs import replace

from ..core.errors import UpstreamFailed, UpstreamRedirected, UpstreamTruncated
from ..core.json import BOM, Malformed, check_text, decode
from ..core.types import EndpointName, Event, Fold, Json, Reply, Request, Target, Upstream
from ..core.usage import BYTES_PER_TOKEN, LARGEST
from ..core.web import LOCATION, MEDIA, Snapshot, WebCall
from .errors import refuse_page
from .page_errors import page_failure

KEPT = ("content-type", "x-usage-tokens", "location", "retry-after", "date")
PLAIN = "text/plain; charset=utf-8"
SNAPSHOTS = ("data", "message", "")  # names of events; others, such as pings, hold no page
PICTURE = re.compile(r"image/(?:png|jpeg|webp|gif)", re.IGNORECASE)
WARNING = re.compile(rb"^Warning: ", re.MULTILINE)
HEAD_BYTES = 4096  # of a page as text, in which a warning stands

_HIGH, _LOW, _HALF = rb"\\u[dD][89abAB]..", rb"\\u[dD][c-fC-F]..", rb"\\u[dD][89a-fA-F].."
_ESCAPE = re.compile(_HIGH + _LOW + rb"|(?P<half>" + _HALF + rb")|\\.", re.DOTALL)

# What a screenshot costs at least; a total alone counts as an estimate.
A_PICTURE: Json = {"total_tokens": 765}

# Options that do not change what an answer is worth to another caller.
OWN = frozenset(("x-no-cache", "x-token-budget"))


def page_request(upstream: Upstream, call: WebCall, target: Target) -> Request:
    headers = {
        "authorization": f"Bearer {target.key.secret}",
        "content-type": "application/json",
        "accept": MEDIA[call.form],
        **call.headers,
    }
    body = msgspec.json.encode(call.body)
    return Request(upstream.url(call, target), headers, body, seconds=call.seconds, kept=KEPT)


def svip_request(upstream: Upstream, call: WebCall, target: Target) -> Request:
    """As ``page_request``, at the call's own path, and by GET with the body in the query if the caller asked so."""
    request = page_request(upstream, call, target)
    url = request.url.rstrip("/") + call.path
    if call.method != "GET":
        return replace(request, url=url)
    query = {name: str(value).lower() if isinstance(value, bool) else value for name, value in call.body.items()}
    headers = {name: value for name, value in request.headers.items() if name != "content-type"}
    return replace(request, url=f"{url}?{urlencode(query)}", headers=headers, body=b"", method="GET")


def write_page(upstream: Any, call: WebCall, target: Target) -> Json:
    """All that decides the answer, for the cache's key; ``page_request`` writes the request."""
    options = {name: value for name, value in call.headers.items() if name not in OWN}
    if options.get("x-cache-tolerance") == "0":
        del options["x-cache-tolerance"]
    return {"body": call.body, "options": options, "form": call.form}


class _Page(msgspec.Struct):
    """The part of a page that is read. The content stays JSON."""

    usage: Any = None
    warning: Any = None
    code: Any = None  # in a stream, of an error in the place of a page
    content: msgspec.Raw = msgspec.Raw(b"")
    html: msgspec.Raw = msgspec.Raw(b"")
    text: msgspec.Raw = msgspec.Raw(b"")

    @property
    def tokens(self) -> int | None:
        return _tokens(self.usage)

    @property
    def full(self) -> bool:
        return any(bytes(part) not in (b"", b'""', b"null") for part in (self.content, self.html, self.text))


class _Told(msgspec.Struct):
    """An answer in JSON. ``results`` and ``floats`` are those of svip.jina.ai."""

    data: _Page | list[_Page] | None = None
    code: Any = 200
    meta: Any = None
    results: list[msgspec.Raw] | None = None
    floats: list[msgspec.Raw] | None = None

    @property
    def pages(self) -> list[_Page]:
        return self.data if isinstance(self.data, list) else [self.data] if self.data else []

    def holds(self, endpoint: EndpointName) -> bool:
        """True if it is an answer of this endpoint."""
        if endpoint == "svip":
            return self.results is not None or self.floats is not None
        return isinstance(self.data, list if endpoint == "search" else _Page)

    @property
    def full(self) -> bool:
        """True if it is worth to be kept."""
        return bool(self.results) or any(page.full for page in self.pages)


class _Kept(msgspec.Struct):
    """A canonical reply of the cache."""

    results: list[dict[str, bytes]]
    usage: Json
    object: str


def read_kept(upstream: Any, call: WebCall, body: bytes, status: int) -> Json:
    """The canonical reply of the cache. Raises UpstreamFailed for anything else."""
    try:
        kept = msgspec.json.decode(body, type=_Kept)
        return {"object": kept.object, "results": [{"page": kept.results[0]["page"]}], "usage": kept.usage}
    except (msgspec.MsgspecError, IndexError, KeyError):
        raise UpstreamFailed("not an entry of a page") from None


def read_page(upstream: Upstream, call: WebCall, reply: Reply) -> Json:
    """The canonical reply for an answer with a status of success, or 302: its bytes, their media type, what it cost.

    Raises UpstreamError for an answer that is none.
    """
    if reply.status >= 300:
        return _redirect(reply, upstream.name)
    media = _header(reply.headers, "content-type").partition(";")[0].strip().lower()
    if call.form == "json":
        return _json(call, reply, upstream.name)
    if PICTURE.fullmatch(media):
        return _reply(reply.body, media, _of_header(reply) or A_PICTURE, kept=False)
    if not reply.body:
        raise UpstreamFailed(f"{upstream.name} sent an empty answer")
    if media == "text/html" and "html" not in call.headers.get("x-respond-with", ""):
        refuse_page(reply.body, upstream=upstream.name, answered=reply.status)
    usage = _of_header(reply)
    if media == MEDIA["json"]:
        usage = usage or _usage_of_json(call, reply, upstream.name)
    kept = media != MEDIA["json"] and not WARNING.search(reply.body[:HEAD_BYTES])
    return _reply(reply.body, PLAIN, usage or _estimate(reply.body), kept=kept)


def _usage_of_json(call: WebCall, reply: Reply, upstream: str) -> Json | None:
    """The usage in an answer that is JSON although text was asked for; it may be the page itself. Raises UpstreamError
    for an error."""
    try:
        told = msgspec.json.decode(reply.body, type=_Told)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    _check_code(told.code, call, reply, upstream)
    return _of_meta(told.meta) or _of_pages(told.pages)


def _redirect(reply: Reply, upstream: str) -> Json:
    location = _header(reply.headers, "location")
    if not re.fullmatch(r"https://[\x21-\x7e]{1,4000}", location):
        raise UpstreamRedirected(f"{upstream} answered with a redirect that is not to a picture")
    return _reply(location.encode(), LOCATION, _of_header(reply) or A_PICTURE, kept=False)


def _json(call: WebCall, reply: Reply, upstream: str) -> Json:
    reply = replace(reply, body=reply.body.removeprefix(BOM))
    try:
        told, whole = _decoded(reply.body, _Told)
        check_text(reply.body)
    except Malformed:
        refuse_page(reply.body, upstream=upstream, answered=reply.status)
        raise UpstreamFailed(f"{upstream} sent an answer that is not the JSON of a page") from None
    _check_code(told.code, call, reply, upstream)
    if not told.holds(call.endpoint.name):
        raise UpstreamFailed(
            f"{upstream} sent an answer without {'results' if call.endpoint.name == 'svip' else 'data'}"
        )
    usage = _of_meta(told.meta) or _of_header(reply)
    kept = whole and not any(page.warning for page in told.pages) and told.full
    return _reply(reply.body, MEDIA["json"], usage or _of_pages(told.pages) or _estimate(reply.body), kept=kept)


def _reply(page: bytes, media: str, usage: Json, *, kept: bool) -> Json:
    reply: Json = {"object": media, "results": [{"page": page}], "usage": usage}
    return reply if kept else {**reply, "uncached": True}  # a field that no entry of the cache may have


def _decoded(data: bytes, form: Any) -> tuple[Any, bool]:
    """JSON as the type ``form``, and False if it has an escaped half of a surrogate pair: a JavaScript program that
    cuts a text inside an emoji writes one. It is read as U+FFFD; callers get it as it came. Raises Malformed."""
    try:
        return decode(data, form), True
    except Malformed:
        if b"\\u" not in data:
            raise
    return decode(_ESCAPE.sub(lambda found: rb"\ufffd" if found["half"] else found[0], data), form), False


def _check_code(code: Any, call: WebCall, reply: Reply, upstream: str) -> None:
    """Raises UpstreamError for an error that came with a status of success."""
    if type(code) is int and code >= 400:
        raise page_failure(Reply(code, reply.headers, reply.body), call, upstream)


def _of_meta(meta: Any) -> Json | None:
    if not isinstance(meta, dict):
        return None
    tokens = _tokens(meta.get("usage"))
    if tokens is None:
        tokens = _tokens({"tokens": meta.get("credits")})
    return None if tokens is None else _counted(tokens)


def _of_header(reply: Reply) -> Json | None:
    text = _header(reply.headers, "x-usage-tokens")
    return _counted(int(text)) if re.fullmatch(r"\d{1,15}", text) else None


def _of_pages(pages: list[_Page]) -> Json | None:
    counts = [page.tokens for page in pages if page.tokens is not None]
    return _counted(sum(counts)) if counts else None


def _counted(tokens: int) -> Json:
    """The usage of a page, all of which is output."""
    return {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens}


def _estimate(body: bytes) -> Json:
    """A total alone, which counts as an estimate."""
    return {"total_tokens": len(body) // BYTES_PER_TOKEN}


def _tokens(usage: Any) -> int | None:
    tokens: Any = usage.get("tokens") if isinstance(usage, dict) else None
    return int(tokens) if type(tokens) in (int, float) and 0 <= tokens <= LARGEST else None


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((value for key, value in headers.items() if key.lower() == name), "")


class PageFold:
    """Passes snapshots on. The usage is that of the last one, estimated from its size if it has none."""

    def __init__(self, upstream: str, call: WebCall) -> None:
        self._upstream = upstream
        self._call = call
        self._last = 0
        self._counted: Json | None = None
        self._any = False
        self.done = False
        self.run: str | None = None

    @property
    def usage(self) -> Json | None:
        if not self._any:
            return None
        return self._counted or {"total_tokens": self._last // BYTES_PER_TOKEN}

    def feed(self, data: bytes, event: str = "") -> list[Event]:
        if event == "error":
            raise page_failure(Reply(_status(data), {}, data), self._call, self._upstream)
        if event not in SNAPSHOTS:
            return []
        pages, _ = _decoded(data, _Page | list[_Page])
        if isinstance(pages, _Page):
            _check_code(pages.code, self._call, Reply(200, {}, data), self._upstream)
        self._any, self._last = True, len(data)
        self._counted = _of_pages(pages if isinstance(pages, list) else [pages])
        return [Snapshot("", data=data)]

    def end(self) -> list[Event]:
        if not self._any:
            raise UpstreamTruncated(f"{self._upstream} ended the stream without a page")
        return []


def _status(data: bytes) -> int:
    """The HTTP status that an error in a stream would have had."""
    try:
        said = decode(data)
    except Malformed:
        return 502
    code = said.get("code") if isinstance(said, dict) else None
    return code if type(code) is int and 400 <= code < 600 else 502


def fold_page(upstream: Any, call: WebCall, target: Target, status: int) -> Fold:
    return PageFold(upstream.name, call)
