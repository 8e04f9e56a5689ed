"""The common part of reader, search and svip: the form of an answer, its bytes, its stream."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from ..core.json import encode
from ..core.types import Event, Json
from ..core.web import (
    LOCATION,
    MEDIA,
    PICTURES,
    READER,
    SEARCH,
    SVIP,
    Form,
    Snapshot,
    WebCall,
    WebRequest,
    WebRules,
    web_envelope,
)
from .endpoint import Answer, Endpoint, Options
from .web_options import Chosen, named

JSON = MEDIA["json"]
# Answers hold what strangers wrote: no browser may run it as a page of the gateway's origin.
HARMLESS = {"x-content-type-options": "nosniff", "content-security-policy": "sandbox"}
# A cached answer is as good as a new one only if nothing of these options is in the call.
UNSHARED = frozenset(("dnt", "x-set-cookie", "x-proxy-url"))
NO_RULES = WebRules()
# The endpoints, for calls whose answers may be cached and shared.
PURE = {facts.name: dataclasses.replace(facts, pure=True) for facts in (READER, SEARCH, SVIP)}


def accepted(accept: str) -> dict[str, float]:
    """The media ranges of an Accept header with their weights, in lower case; ``*/*`` without a header."""
    ranges: dict[str, float] = {}
    for part in accept.lower().split(",") if accept.strip() else ("*/*",):
        kind, *parameters = (word.strip() for word in part.split(";"))
        weights = [word[2:].strip() for word in parameters if word.startswith("q=")]
        try:
            ranges[kind] = float(weights[0]) if weights else 1.0
        except ValueError:
            ranges[kind] = 1.0
    return ranges


def takes(ranges: dict[str, float], kind: str) -> bool:
    """True if the media type is acceptable; the most specific range decides (RFC 9110, section 12.5.1)."""
    for name in (kind, f"{kind.partition('/')[0]}/*", "*/*"):
        if name in ranges:
            return ranges[name] > 0
    return False


def form_of(accept: str, *, dropin: bool) -> Form:
    """The form of the answer. In a drop-in, text wins whenever it is acceptable, as upstream (jina-ai/reader,
    crawler.ts); elsewhere the answer is JSON unless another form is named."""
    ranges = accepted(accept)
    if not dropin:
        forms: tuple[Form, ...] = ("events", "text")
        return next((form for form in forms if ranges.get(MEDIA[form], 0) > 0), "json")
    if not takes(ranges, MEDIA["text"]):
        if takes(ranges, MEDIA["events"]):
            return "events"
        if takes(ranges, JSON):
            return "json"
    return "text"


@dataclass(frozen=True, slots=True)
class WebEndpoint(Endpoint):
    """``rules`` are the settings. A canonical reply has the answer's bytes in ``results[0]["page"]``, and in ``object``
    their media type, or LOCATION if they are the address of a picture.

    ``dropin``: the path below which what follows is the page or the query, as at the provider's host; empty for none.
    ``home``: the provider's host at whose root the paths are served too, if they are no drop-in.
    """

    gets: ClassVar[tuple[str, ...]]
    dropin: ClassVar[str] = ""
    home: ClassVar[bytes] = b""

    rules: WebRules = NO_RULES

    @classmethod
    def configured(cls, options: Options) -> WebEndpoint:
        return cls(options.web)

    def parse(self, body: Json, path: str) -> WebCall:
        return self.read(WebRequest(fields=body, path=path))

    @abstractmethod
    def read(self, request: WebRequest) -> WebCall:
        """The call for a request. Raises InvalidRequest."""

    def answer(self, call: WebCall, reply: Json) -> Answer:
        page, media = _page(reply), _text(reply["object"])
        headers = dict(HARMLESS)
        if call.dropped:
            headers["x-torii-dropped"] = named(call.dropped)
        if media == LOCATION:
            return Answer(b"", 302, "text/plain; charset=utf-8", {**headers, "location": page.decode("ascii")})
        spent = reply["usage"].get("total_tokens")
        if spent is not None:
            headers["x-usage-tokens"] = str(spent)
        if media == JSON and "cached_tokens" in reply["usage"]:
            page = _free(page, reply["usage"]["cached_tokens"])
        return Answer(page, 200, media, headers)

    def render(self, call: WebCall, reply: Json) -> bytes:
        return self.answer(call, reply).body

    def writer(self, call: WebCall) -> PageWriter:
        if not self.facts.streamed:
            raise self._unstreamed()
        return PageWriter()


class PageWriter:
    """Passes snapshots on as they are. The stream ends without an event for its end, as upstream's does."""

    def write(self, events: Iterable[Event]) -> bytes:
        return b"".join([_event(b"data", event.data) for event in events if isinstance(event, Snapshot)])

    def end(self) -> bytes:
        return b""

    def fail(self, envelope: Json, status: int = 502) -> bytes:
        return _event(b"error", encode(web_envelope(envelope, status)))


def shared(call: WebCall, seconds: float, own: Collection[str]) -> WebCall:
    """The call, whose answer is cached and shared for ``seconds`` if it may be. ``own`` are the names of fields that
    are nobody else's."""
    headers = call.headers
    tolerance = headers.get("x-cache-tolerance")
    keeps = seconds if tolerance is None or float(tolerance) == 0 else min(seconds, float(tolerance))
    proxied = headers.get("x-proxy", "none") != "none"
    unshared = UNSHARED & headers.keys() or set(own) & call.body.keys()
    pictures = PICTURES.search(headers.get("x-respond-with", ""))
    if keeps <= 0 or call.stream or call.secrets or proxied or unshared or pictures:
        return call
    fresh = "x-no-cache" in headers or (tolerance is not None and float(tolerance) == 0)
    return replace(call, endpoint=PURE[call.endpoint.name], fresh=fresh, keeps=keeps)


def web_call(call: WebCall, chosen: Chosen, form: Form) -> WebCall:
    """The call with its options."""
    return replace(
        call,
        body={**call.body, **chosen.body},
        headers=chosen.headers,
        form=form,
        stream=form == "events",
        dropped=chosen.dropped,
        secrets=tuple(text for text in chosen.secrets if len(text) >= 3),
    )


def _event(name: bytes, data: bytes) -> bytes:
    lines = b"".join([b"data: " + line + b"\n" for line in data.split(b"\n")])
    return b"event: " + name + b"\n" + lines + b"\n"


def _page(reply: Json) -> bytes:
    """The bytes of the answer; a cached one is JSON, in base64."""
    page: Any = reply["results"][0]["page"]
    return msgspec.json.decode(page, type=bytes) if isinstance(page, msgspec.Raw) else page


def _text(value: Any) -> str:
    return msgspec.json.decode(value, type=str) if isinstance(value, msgspec.Raw) else str(value)


def _free(page: bytes, tokens: int) -> bytes:
    """The JSON of a cached answer, whose usage says that it cost nothing."""
    answer = msgspec.json.decode(page)
    data = answer.get("data")
    for item in data if isinstance(data, list) else [data]:
        if isinstance(item, dict) and "usage" in item:
            item["usage"] = {"tokens": 0}
    meta = answer["meta"] if isinstance(answer.get("meta"), dict) else {}
    meta |= {"credits": 0} if "credits" in meta else {}
    return msgspec.json.encode({**answer, "meta": {**meta, "usage": {"tokens": 0, "cached_tokens": tokens}}})
