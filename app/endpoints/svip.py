"""POST and GET /v1/svip: the search of Jina's own tools; POST /v1/svip/extract-pdf: the figures and tables of a PDF.

Off unless ``svip: true``: the provider has neither documented nor priced svip.jina.ai. What is known comes from its
clients: jina-ai/MCP (2026-08), jina-ai/cli (2026-03), jina-ai/node-DeepResearch. Answers are JSON whatever is accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from msgspec.structs import replace

from ..core.errors import InvalidRequest
from ..core.types import Json
from ..core.web import SVIP, SVIP_MODEL, WebCall, WebRequest
from .pages import WebEndpoint, shared, web_call
from .reader import EXTRA_SECONDS, KEYS
from .search import Parameters, query_of
from .targets import page_url
from .web_options import OPTIONS, chosen

EXTRACT = "/extract-pdf"  # at the provider, and behind the endpoint's own path
# The tools ask for at most 100 results, and of a deep search for 20 pages within 25 seconds; the gateway is less strict
# where nobody knows the provider's own bound.
FOUND = Parameters(
    whole={
        "num": (0, 100),
        "topk": (1, 100),
        "chunk_size": (1, 10_000),
        "read_num": (0, 100),
        "deep_timeout": (0, 180_000),  # milliseconds
    },
    choices={"domain": ("arxiv", "ssrn")},
    texts=("tbs", "location", "gl", "hl", "type", "meta", "snippet_source"),
    flags=("query_expansion",),
)
EXTRACTED = Parameters(whole={"max_edge": (1, 10_000)}, choices={}, texts=("id", "type"), flags=())
SECRETS = tuple(option for option in OPTIONS if option.kind == "secret")


@dataclass(frozen=True, slots=True)
class Svip(WebEndpoint):
    """The endpoint of svip.jina.ai. An answer is the provider's, byte for byte."""

    facts: ClassVar = SVIP
    paths: ClassVar = ("/v1/svip", f"/v1/svip{EXTRACT}")
    gets: ClassVar = ("/v1/svip",)
    optional: ClassVar = "svip"
    home: ClassVar = b"svip.jina.ai"

    def read(self, request: WebRequest) -> WebCall:
        fields = {name: value for name, value in request.fields.items() if name not in KEYS and value is not None}
        extracts = request.path.endswith(EXTRACT)
        body = _extracted(fields, request.host) if extracts else _found(fields, request.host)
        options = chosen(replace(request, fields=fields), SECRETS, self.rules.allow)
        seconds = self.rules.search_seconds
        if "deep_timeout" in body:
            seconds = max(seconds, body["deep_timeout"] / 1000 + EXTRA_SECONDS)
        call = WebCall(endpoint=SVIP, model=SVIP_MODEL, body=body, seconds=seconds, method=request.method)
        if extracts:
            call = replace(call, path=EXTRACT, method="POST", seconds=self.rules.reader_seconds)
        return shared(web_call(call, options, "json"), 0 if extracts else self.rules.search_cache_seconds, ())


def _found(fields: Json, host: str) -> Json:
    """Takes the body of a search out of ``fields``, or that of a page's passages. Raises InvalidRequest."""
    return {"q": query_of(fields), **_address(fields, host), **FOUND.taken(fields)}


def _extracted(fields: Json, host: str) -> Json:
    """Takes the body of an extraction out of ``fields``. Raises InvalidRequest."""
    body = {**_address(fields, host), **EXTRACTED.taken(fields)}
    if not body.get("url") and not body.get("id"):
        raise InvalidRequest(
            "url is missing: send the address of a PDF in url, or the id of an arXiv paper in id", param="url"
        )
    return body


def _address(fields: Json, host: str) -> Json:
    url = fields.pop("url", None)
    if url is not None and not isinstance(url, str):
        raise InvalidRequest("url must be a text: the address of a page", param="url")
    return {} if not url else {"url": page_url(url, host)}
