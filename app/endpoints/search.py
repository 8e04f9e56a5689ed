"""POST and GET /v1/search, and /s/<query>: the results of a search, and their pages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ..core.errors import InvalidRequest
from ..core.names import not_one_of
from ..core.types import Json
from ..core.web import SEARCH, SEARCH_MODEL, WebCall, WebRequest
from .pages import WebEndpoint, shared, web_call
from .reader import KEYS
from .web_options import OPTIONS, SEARCH_OPTIONS, YES, chosen

# The provider's own checks: num 0 to 20, and closed lists for type and provider. gl and hl have too many values.
TYPES = ("web", "images", "news")
PROVIDERS = ("google", "bing", "reader")
MOST = 20
SPELLINGS: Mapping[str, str] = {"count": "num"}


class Parameters(NamedTuple):
    """The parameters of a search, by their kinds: whole numbers with the least and the most, words of closed lists,
    texts, and flags."""

    whole: Mapping[str, tuple[int, int]]
    choices: Mapping[str, Collection[str]]
    texts: tuple[str, ...]
    flags: tuple[str, ...]

    def taken(self, fields: Json) -> Json:
        """Takes the parameters out of ``fields``. Raises InvalidRequest."""
        found: Json = {}
        for name, (least, most) in self.whole.items():
            if (value := fields.pop(name, None)) is not None:
                found[name] = _whole(name, value, least, most)
        for name, values in self.choices.items():
            if (value := fields.pop(name, None)) is not None:
                if value not in values:
                    raise not_one_of(name, value, values)
                found[name] = value
        for name in self.texts:
            if (value := fields.pop(name, None)) is not None:
                if not isinstance(value, str):
                    raise InvalidRequest(f"{name} must be a text", param=name)
                found[name] = value
        for name in self.flags:
            if (value := fields.pop(name, None)) is not None:
                found[name] = value if isinstance(value, bool) else str(value).lower() in YES
        return found


PARAMETERS = Parameters(
    whole={"num": (0, MOST), "page": (0, 10_000)},
    choices={"type": TYPES, "provider": PROVIDERS},
    texts=("gl", "hl", "location"),
    flags=("fallback", "nfpr"),
)


@dataclass(frozen=True, slots=True)
class Search(WebEndpoint):
    """The search endpoint. An answer is the provider's, byte for byte."""

    facts: ClassVar = SEARCH
    paths: ClassVar = ("/v1/search",)
    gets: ClassVar = ("/v1/search", "/s/{query}")
    dropin: ClassVar = "s"

    def read(self, request: WebRequest) -> WebCall:
        fields = {SPELLINGS.get(name, name): value for name, value in request.fields.items() if name not in KEYS}
        if fields.get("engine") in PROVIDERS:  # else it is the engine for the pages
            fields.setdefault("provider", fields.pop("engine"))
        body = {"q": query_of(fields, request.target, ", or behind /s/"), **PARAMETERS.taken(fields)}
        asked = WebRequest(fields=fields, headers=request.headers, typed=request.typed)
        options = chosen(asked, (*OPTIONS, *SEARCH_OPTIONS), self.rules.allow)
        call = WebCall(endpoint=SEARCH, model=SEARCH_MODEL, body=body, seconds=self.rules.search_seconds)
        return shared(web_call(call, options, request.form), self.rules.search_cache_seconds, ())


def query_of(fields: Json, target: str | None = None, elsewhere: str = "") -> str:
    """Takes ``q`` out of ``fields``; without one the query is ``target``. ``elsewhere`` says where else it may be sent.
    Raises InvalidRequest."""
    given = fields.pop("q", None)
    query = target if given is None else given
    if query is not None and not isinstance(query, str):
        raise InvalidRequest("q must be one text: what to search for", param="q")
    if not isinstance(query, str) or not query.strip():
        raise InvalidRequest(f"q is missing: send what to search for in q{elsewhere}", param="q")
    return query.strip()


def _whole(name: str, value: Any, least: int, most: int) -> int:
    """The number, which a query has as text. Raises InvalidRequest."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if type(value) is not int or not least <= value <= most:
        raise InvalidRequest(f"{name} must be a whole number from {least} to {most}", param=name)
    return value
