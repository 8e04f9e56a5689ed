"""svip.jina.ai: the search that Jina's own tools use. It is in no price table and no documentation.

Source: jina-ai/MCP ae01f8a, jina-ai/cli d27a62d, jina-ai/node-DeepResearch. Its errors are assumed to be the reader's.
"""

from __future__ import annotations

import itertools
import re

from . import civkit, corpus, pages, vectors
from .civkit import number, wrong
from .wire import Answer, Ask, Handler, Json, Whole

_CREDITS = 10_000
_LATENCY_MS = 120
_USUAL = 30
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
_ENDINGS = ("explained", "overview", "history", "examples", "measurement")


def find(ask: Ask) -> Handler | None:
    if ask.path.rstrip("/") == "/extract-pdf" and ask.method == "POST":
        return lambda body, quirk: extract(ask, body)
    if ask.path.strip("/") or ask.method not in ("GET", "POST"):
        return None
    return lambda body, quirk: search(ask, body)


def search(ask: Ask, body: Json) -> Answer:
    """Results, other queries (``query_expansion``), or passages of one page (``url``)."""
    civkit.check_key(ask, body, required=True)
    q = str(body.get("q") or "").strip()
    if not q:
        raise wrong("q", "Required but not provided")
    num = number(body, "num", 0, 100) or _USUAL
    if body.get("url"):
        return _results(q, _passages(q, body))
    if body.get("query_expansion"):
        return _results(q, [f"{q} {ending}" for ending in _ENDINGS])
    hits = [hit for hit in corpus.search(q) if hit.relevant]
    if body.get("domain") in ("arxiv", "ssrn"):
        hits = [hit for hit in hits if hit.page.host == "papers.example.org"]
    found = [{"title": hit.page.title, "url": hit.page.url, "snippet": hit.sentence} for hit in hits[:num]]
    if body.get("type") == "images":
        found = [{**result, "imageUrl": f"{result['url']}.png"} for result in found]
    return _results(q, found)


def extract(ask: Ask, body: Json) -> Answer:
    """The figures and tables of a PDF, here one for each paragraph of the page, as a picture of one pixel."""
    civkit.check_key(ask, body, required=True)
    if not body.get("id") and not body.get("url"):
        raise wrong("url", "Either id or url is required")
    number(body, "max_edge", 1, 100_000)
    sight = pages.found(str(body.get("url") or f"https://arxiv.org/pdf/{body['id']}"))
    wanted = str(body.get("type") or "figure").split(",")
    paragraphs = [part for part in sight.text().split("\n") if part.strip()]
    floats = [
        {"type": kind, "number": str(place), "caption": part, "page": 1, "image": _PIXEL, "width": 1, "height": 1}
        for kind, (place, part) in zip(itertools.cycle(wanted), enumerate(paragraphs, 1), strict=False)
    ]
    meta = {"num_floats": len(floats), "num_pages": 1, "latency": _LATENCY_MS, "credits": _CREDITS}
    return Whole({"id": body.get("id") or sight.url, "floats": floats, "meta": meta})


def _passages(q: str, body: Json) -> list[Json]:
    """The sentences of a page that fit the question best."""
    sight = pages.found(str(body["url"]))
    asked, most = vectors.features(q), number(body, "topk", 1, 100) or 5
    sentences = re.split(r"(?<=[.!?])\s+", sight.text())
    best = sorted(sentences, key=lambda sentence: -vectors.cosine(asked, vectors.features(sentence)))
    return [{"title": sight.title, "url": sight.url, "snippet": sentence} for sentence in best[:most]]


def _results(q: str, results: list[Json] | list[str]) -> Whole:
    meta = {"query": q, "num_results": len(results), "latency": _LATENCY_MS, "credits": _CREDITS}
    return Whole({"results": results, "meta": meta})


HOST = civkit.host("svip", find)
