"""s.jina.ai: a search in the built-in web, whose results are read as the reader reads them.

Source: jina-ai/reader f289e5d. The price is fixed, 10,000 tokens for each ten results, or what the pages cost if that
is more. No result is an error, not an empty list.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from . import cases, civkit, corpus, pages, reader
from .civkit import MOST_TOKENS, form, number, wrong
from .corpus import Hit
from .errors import HostError
from .errors import civkit as failure
from .reader import Wish
from .wire import Answer, Ask, Handler, Item, Json, Pause

FIXED_TOKENS = 10_000
_MOST = 20
_USUAL = 10
_TYPES = ("web", "images", "news")
_PROVIDERS = ("google", "bing", "reader")
_OPERATORS = ("site", "intitle", "ext", "filetype", "loc")
_CODE = re.compile(r"[a-z]{2}(?:-[a-z]{2,4})?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Inquiry:
    """A search: ``num`` results of the kind ``type``, from result ``num * (page - 1)`` on."""

    q: str
    num: int
    page: int
    kind: str
    scale: int
    filters: dict[str, list[str]]


def find(ask: Ask) -> Handler | None:
    """``/``, ``/search`` and ``/<q>``, by GET and POST."""
    if ask.method not in ("GET", "POST"):
        return None
    return lambda body, quirk: search(ask, body, quirk)


def search(ask: Ask, body: Json, quirk: str) -> Answer:
    given = {**dict(civkit.decode(Ask("GET", "", query=ask.query))), **body}
    path = unquote(ask.path.removeprefix("/"))
    q = str(given.get("q") or ("" if path == "search" else path)).strip()
    if not q:
        note = "Authentication is required to use this endpoint. Please provide a valid API key via Authorization"
        return civkit.index(ask, note=f"{note} header.")
    civkit.check_key(ask, given, required=True)
    inquiry = _inquiry(q, ask, given)
    options = {name: value for name, value in body.items() if not (name == "engine" and value in _PROVIDERS)}
    asked = reader.wish(ask, options, quirk)
    hits = _hits(inquiry)
    if not hits:
        raise HostError(failure(42206, f"No search results available for query {q}"))
    kind = form(ask)
    if kind == "stream":
        return civkit.snapshots(_growing(inquiry, asked, hits))
    found = [_found(inquiry, asked, hit, read=_reads(inquiry, asked)) for hit in hits[: inquiry.num]]
    tokens = charge(found, inquiry.scale)
    if kind == "json":
        return civkit.enveloped(found, tokens)
    return civkit.text(_text(found), tokens)


def _inquiry(q: str, ask: Ask, given: Json) -> Inquiry:
    """Raises HostError for a parameter that cannot be."""
    count = number(given, "num", 0, _MOST)
    count = number(given, "count", 0, _MOST) if count is None else count
    kind = _one_of(given, ("type",), _TYPES, "web")
    provider = _one_of(given, ("provider", "engine"), _PROVIDERS, "google")
    for name in ("gl", "hl"):
        if given.get(name) and not _CODE.fullmatch(str(given[name])):
            raise wrong(name, f"Validation failed for {name}: {given[name]!r}")
    scale = 5 if kind != "web" else 3 if provider == "bing" else 1
    filters = {name: _listed(given.get(name) or ask.headers.get(f"x-{name}")) for name in _OPERATORS}
    asked = cases.TRIGGER.sub("", q).strip() or q
    return Inquiry(asked, count or _USUAL, number(given, "page", 0, 1000) or 1, kind, scale, filters)


def _one_of(given: Json, names: tuple[str, ...], allowed: tuple[str, ...], usual: str) -> str:
    """A choice; ``engine`` also holds the reader's engines, which choose no provider."""
    for name in names:
        value = given.get(name)
        if value in allowed:
            return str(value)
        if value and name != "engine":
            raise wrong(name, f"Validation failed for {name}: {value!r} is not one of {', '.join(allowed)}")
    return usual


def _listed(value: Any) -> list[str]:
    if not value:
        return []
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _hits(inquiry: Inquiry) -> list[Hit]:
    """The hits of the page of results that was asked for; two more than wanted, as the real server keeps them."""
    hits = [hit for hit in corpus.search(inquiry.q) if hit.relevant and _passes(hit, inquiry.filters)]
    start = inquiry.num * (inquiry.page - 1)
    return hits[start : start + inquiry.num + 2]


def _passes(hit: Hit, filters: dict[str, list[str]]) -> bool:
    """The alternatives of one operator are joined by OR."""
    page = hit.page
    fits = {
        "site": lambda value: page.host == value or page.host.endswith(f".{value}"),
        "intitle": lambda value: value.lower() in page.title.lower(),
        "ext": lambda value: page.url.endswith(f".{value}"),
        "filetype": lambda value: page.url.endswith(f".{value}"),
    }
    return all(not values or name not in fits or any(map(fits[name], values)) for name, values in filters.items())


def _reads(inquiry: Inquiry, asked: Wish) -> bool:
    return inquiry.kind == "web" and "no-content" not in asked.respond_with


def _found(inquiry: Inquiry, asked: Wish, hit: Hit, *, read: bool) -> Json:
    """A result; one that was not read has an empty content."""
    sight = pages.of_page(hit.page)
    if read:
        result = reader.page(sight, asked)
    else:
        result = {"title": sight.title, "url": sight.url, "content": "", "usage": {"tokens": 0}}
    usage, content = result.pop("usage"), {name: result.pop(name) for name in ("content",) if name in result}
    more: Json = {"date": hit.page.date} if hit.page.date else {}
    if inquiry.kind == "images":
        more |= {"imageUrl": f"{sight.url}.png", "imageWidth": 640, "imageHeight": 480}
    if inquiry.kind == "news":
        more |= {"source": hit.page.host}
    if asked.has("withFavicons"):
        more |= {"favicon": "data:image/png;base64,iVBORw0KGgo="}
    head = {"title": result.pop("title"), "url": result.pop("url"), "description": hit.sentence}
    result.pop("description", None)
    return {**head, **more, **content, **result, "usage": usage}


def charge(found: list[Json], scale: int) -> int:
    """The price in tokens: of the pages, or the fixed one if that is more; then each result shows its share of it."""
    pages_cost: int = sum(item["usage"]["tokens"] for item in found)
    fixed = math.ceil(len(found) / 10) * FIXED_TOKENS * scale
    if fixed >= pages_cost:
        for item in found:
            item["usage"] = {"tokens": math.ceil(fixed / len(found))}
    return min(max(fixed, pages_cost), MOST_TOKENS)


def _growing(inquiry: Inquiry, asked: Wish, hits: list[Hit]) -> list[Item]:
    """The whole list each time, first unread; all hits, also those beyond ``num``."""
    reads = _reads(inquiry, asked)
    lists = [
        [_found(inquiry, asked, hit, read=reads and at < read) for at, hit in enumerate(hits)]
        for read in ((0, 1, len(hits)) if reads and len(hits) > 1 else (0, len(hits)))
    ]
    for found in lists:
        charge(found, inquiry.scale)
    return [part for found in lists for part in (Pause(0.4), found)]


def _text(found: list[Json]) -> str:
    blocks = (_block(f"[{at + 1}]", item) for at, item in enumerate(found))
    return "\n\n".join(blocks).rstrip() + "\n"


def _block(mark: str, item: Json) -> str:
    labels = {"Title": "title", "URL Source": "url", "Description": "description", "Favicon": "favicon"}
    lines = [f"{mark} {label}: {item[name]}" for label, name in labels.items() if name in item]
    content = item.get("content") or item.get("text") or item.get("html") or item.get("screenshotUrl")
    lists = [f"{mark} {block}" for block in reader.listing(item)]
    return "\n\n".join(["\n".join(lines), *([content] if content else []), *lists])


HOST = civkit.host("search", find)
