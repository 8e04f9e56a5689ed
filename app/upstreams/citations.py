"""Citations: where in the answer a source is cited.

Jina sends no indexes, AIHubMix sends zeros, and clients crash without integers. The answer
itself says it: ``[^1]`` in the text, ``[^1]: quote [title](url)`` at its end. The k-th
annotation need not be footnote k, so they are matched by URL.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from ..types import Json

_DEFINITION = re.compile(r"^\[\^([^\]\s]+)\]:(.*)$", re.MULTILINE)
_LINK = re.compile(r"\]\(\s*(\S+?)\s*\)\s*$")


def cite(answer: str, annotations: list[Any]) -> list[Json]:
    """OpenAI's url_citation annotations, with the marker's place as code points; 0, 0 where there is none.

    Entries without an http(s) URL are dropped; ``exactQuote`` and ``dateTime`` and whatever else is kept.
    """
    places = _places(answer) if annotations else {}
    cited = []
    for annotation in annotations:
        source = annotation.get("url_citation") if isinstance(annotation, dict) else None
        if not isinstance(source, dict) or not is_web(source.get("url")):
            continue
        url = source["url"]
        waiting = places.get(url.rstrip("/"), [])
        # Two footnotes of one URL belong to two annotations, in order; the last serves all the rest.
        start, end = (waiting.pop(0) if len(waiting) > 1 else waiting[0]) if waiting else (0, 0)
        title = source.get("title") or urlsplit(url).hostname or url
        known = {"start_index": start, "end_index": end, "title": title, "url": url}
        cited.append({"type": "url_citation", "url_citation": {**known, **_rest(source, known)}})
    return cited


def is_web(url: Any) -> bool:
    """DeepSearch's lists hold ``javascript:`` and ``mailto:`` links of the pages it read."""
    return isinstance(url, str) and url.lower().startswith(("http://", "https://"))


def _rest(source: Json, known: Json) -> Json:
    return {name: value for name, value in source.items() if name not in known}


def _places(answer: str) -> dict[str, list[tuple[int, int]]]:
    """URL -> the places of the markers of its footnotes, in footnote order."""
    places: dict[str, list[tuple[int, int]]] = {}
    definitions = list(_DEFINITION.finditer(answer))
    starts = {definition.start() for definition in definitions}
    for definition in definitions:
        link = _LINK.search(definition[2])
        marker = f"[^{definition[1]}]"
        place = answer.find(marker)
        while place in starts:
            place = answer.find(marker, place + 1)
        if link and place >= 0:
            places.setdefault(link[1].rstrip("/"), []).append((place, place + len(marker)))
    return places
