"""svip.jina.ai: the search that Jina's own tools use. It is in no price table and no documentation.

Source: jina-ai/MCP ae01f8a, jina-ai/cli d27a62d, jina-ai/node-DeepResearch. Its errors are assumed to be the reader's.
"""

from __future__ import annotations

import re

from . import civkit, corpus, pages, vectors
from .civkit import number, wrong
from .wire import Answer, Ask, Handler, Json, Whole

_CREDITS = 10_000
_LATENCY_MS = 120
_USUAL = 30
_ENDINGS = ("explained", "overview", "history", "examples", "measurement")


def find(ask: Ask) -> Handler | None:
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
