"""Citations: where in the answer a source is cited.

Jina sends no indexes, AIHubMix sends zeros, and clients crash without integers. The answer
itself says it: ``[^1]`` in the text, ``[^1]: quote [title](url)`` at its end. The k-th
annotation need not be footnote k, and footnote 1 need not be the first source of the text: the
mark's number and its definition decide. They are matched by URL. A URL with ``)`` comes out of the server as
words, in a definition without a link; that one is matched by its quote.
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

QUOTED = 100  # footnotes without a link that are looked at

Place = tuple[int, int]  # of a mark: its first code point, and the one behind its last


def cite(answer: str, annotations: list[Any]) -> list[Json]:
    """OpenAI's url_citation annotations, with the marker's place as code points; 0, 0 where there is none.

    Entries without an http(s) URL are dropped; ``exactQuote`` and ``dateTime`` and whatever else is kept.
    """
    linked, quoted = _footnotes(answer) if annotations else ({}, [])
    cited = []
    for annotation in annotations:
        source = annotation.get("url_citation") if isinstance(annotation, dict) else None
        if not isinstance(source, dict) or not is_web(source.get("url")):
            continue
        url = source["url"]
        waiting = linked.get(url.rstrip("/"))
        # Two footnotes of one URL belong to two annotations, in order; the last serves all the rest.
        start, end = (waiting.popleft() if len(waiting) > 1 else waiting[0]) if waiting else _quoted(source, quoted)
        title = source.get("title") or urlsplit(url).hostname or url
        known = {"start_index": start, "end_index": end, "title": title, "url": url}
        cited.append({"type": "url_citation", "url_citation": {**known, **_rest(source, known)}})
    return cited


def is_web(url: Any) -> bool:
    """DeepSearch's lists hold ``javascript:`` and ``mailto:`` links of the pages it read."""
    return isinstance(url, str) and url.lower().startswith(("http://", "https://"))


def _rest(source: Json, known: Json) -> Json:
    return {name: value for name, value in source.items() if name not in known}


def _footnotes(answer: str) -> tuple[dict[str, deque[Place]], list[tuple[str, Place]]]:
    """The places of the marks of its footnotes, in their order: by URL, and with their text where they have none."""
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
    """The URL of the link at its end; one with brackets in it too."""
    _, link, url = definition.rstrip().rpartition("](")
    return url[:-1].strip() if link and url.endswith(")") else None


def _quoted(source: Json, quoted: list[tuple[str, Place]]) -> Place:
    quote = _words(source["exactQuote"]) if isinstance(source.get("exactQuote"), str) else ""
    return next((place for text, place in quoted if quote and f"{text} ".startswith(f"{quote} ")), (0, 0))


def _words(text: str) -> str:
    """As the server writes a quote into a footnote: without its punctuation."""
    return " ".join(_PUNCTUATION.sub(" ", text).split())
