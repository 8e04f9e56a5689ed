"""Citations of DeepSearch: the positions in the answer at which each source is cited.

Jina sends no indexes, AIHubMix sends zeros, and clients crash without integers. The positions are taken from the
answer, which has a mark ``[^1]`` in its text and a footnote ``[^1]: quote [title](url)`` at its end. The k-th
annotation may not be footnote k, and footnote 1 may not be the first one cited, so annotations and footnotes are
matched by URL. The server turns a URL with ``)`` into words, in a footnote without a link; such a footnote is matched
by its quote.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any
from urllib.parse import urlsplit

from ..core.types import Json

_DEFINITION = re.compile(r"^\[\^([^\[\]\s]+)\]:(.*)$", re.MULTILINE)
_MARK = re.compile(r"\[\^([^\[\]\s]+)\]")
_PUNCTUATION = re.compile(r"[^\w\s]|_")

QUOTED = 100  # maximum number of footnotes without a link that are searched

Place = tuple[int, int]  # the span of a mark in code points: its start, and the index after its end


def cite(answer: str, annotations: list[Any]) -> list[Json]:
    """OpenAI's url_citation annotations, with the span of the source's mark in code points; 0, 0 if there is no mark.

    Annotations without an http(s) URL are dropped. ``exactQuote``, ``dateTime`` and all other fields are kept.
    """
    linked, quoted = _footnotes(answer) if annotations else ({}, [])
    cited = []
    for annotation in annotations:
        source = annotation.get("url_citation") if isinstance(annotation, dict) else None
        if not isinstance(source, dict) or not is_web(source.get("url")):
            continue
        url = source["url"]
        waiting = linked.get(url.rstrip("/"))
        # Several footnotes with one URL belong to as many annotations, in order; the last one serves any further ones.
        start, end = (waiting.popleft() if len(waiting) > 1 else waiting[0]) if waiting else _quoted(source, quoted)
        title = source.get("title") or urlsplit(url).hostname or url
        known = {"start_index": start, "end_index": end, "title": title, "url": url}
        cited.append({"type": "url_citation", "url_citation": {**known, **_rest(source, known)}})
    return cited


def is_web(url: Any) -> bool:
    """True for an http(s) URL: DeepSearch's lists also hold ``javascript:`` and ``mailto:`` links of pages it read."""
    return isinstance(url, str) and url.lower().startswith(("http://", "https://"))


def _rest(source: Json, known: Json) -> Json:
    return {name: value for name, value in source.items() if name not in known}


def _footnotes(answer: str) -> tuple[dict[str, deque[Place]], list[tuple[str, Place]]]:
    """The spans of the marks of all footnotes, in order: by URL, and, for footnotes without a URL, with their text."""
    definitions = list(_DEFINITION.finditer(answer))
    starts = {definition.start() for definition in definitions}
    marks: dict[str, Place] = {}
    for mark in _MARK.finditer(answer):
        if mark.start() not in starts:
            marks.setdefault(mark[1], mark.span())
    linked: dict[str, deque[Place]] = {}
    quoted: list[tuple[str, Place]] = []
    for definition in definitions:
        place, url = marks.get(definition[1]), _link(definition[2])
        if place and url:
            linked.setdefault(url.rstrip("/"), deque()).append(place)
        elif place and len(quoted) < QUOTED:
            quoted.append((_words(definition[2]), place))
    return linked, quoted


def _link(definition: str) -> str | None:
    """The URL of the link at the footnote's end, which may contain brackets; None if there is no link."""
    _, link, url = definition.rstrip().rpartition("](")
    return url[:-1].strip() if link and url.endswith(")") else None


def _quoted(source: Json, quoted: list[tuple[str, Place]]) -> Place:
    quote = _words(source["exactQuote"]) if isinstance(source.get("exactQuote"), str) else ""
    return next((place for text, place in quoted if quote and f"{text} ".startswith(f"{quote} ")), (0, 0))


def _words(text: str) -> str:
    """The text without punctuation, as the server writes a quote into a footnote."""
    return " ".join(_PUNCTUATION.sub(" ", text).split())
