"""POST and GET /v1/reader, and /r/<url>: a page as text for models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.errors import InvalidRequest
from ..core.types import Json
from ..core.web import READER, READER_MODEL, WebCall, WebRequest
from .pages import WebEndpoint, shared, web_call
from .targets import page_url
from .web_options import CONTENT, OPTIONS, chosen

UPLOADS = ("html", "pdf", "file")
EXTRA_SECONDS = 30  # beyond the time that a call gives the page itself


@dataclass(frozen=True, slots=True)
class Reader(WebEndpoint):
    """The reader endpoint. An answer is the provider's, byte for byte."""

    facts: ClassVar = READER
    paths: ClassVar = ("/v1/reader",)
    gets: ClassVar = ("/v1/reader", "/r/{url}")
    dropin: ClassVar = "r"

    def read(self, request: WebRequest) -> WebCall:
        fields = dict(request.fields)
        url, content = fields.pop("url", None), {name: fields.pop(name) for name in CONTENT if name in fields}
        content = {name: value for name, value in content.items() if value is not None}
        url = request.target if url is None else url
        url = None if url == "" and content.keys() & set(UPLOADS) else url  # forms send fields that nobody filled in
        if url is not None and not isinstance(url, str):
            raise InvalidRequest("url must be a text: the address of a page", param="url")
        if url is None and not content.keys() & set(UPLOADS):
            raise InvalidRequest(
                "url is missing: send the address of a page in url or behind /r/, or the page itself in html, pdf or "
                "file",
                param="url",
            )
        body: Json = content if url is None else {"url": page_url(url, request.host), **content}
        options = chosen(_with(request, fields), OPTIONS, self.rules.allow)
        seconds = self.rules.reader_seconds
        if "x-timeout" in options.headers:
            seconds = float(options.headers["x-timeout"]) + EXTRA_SECONDS
        call = web_call(WebCall(endpoint=READER, model=READER_MODEL, body=body, seconds=seconds), options, request.form)
        return shared(call, self.rules.reader_cache_seconds, CONTENT)


def _with(request: WebRequest, fields: Json) -> WebRequest:
    """The request with only the fields that are options. A key among them is never passed on."""
    left = {name: value for name, value in fields.items() if name not in KEYS}
    return WebRequest(fields=left, headers=request.headers, typed=request.typed)


# In which clients of the provider send a key; read here only to be left out.
KEYS = frozenset(("_token", "token", "api_key", "apiKey", "authorization", "key"))
