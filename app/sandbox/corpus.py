"""The web of the sandbox: a few short pages, and a search over them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from . import vectors
from .vectors import Features

# Links that a crawler finds among real ones and DeepSearch passes on. A client must not make them clickable.
JUNK = ("javascript:void(0)", "mailto:editor@almanac.example.org", "http://localhost:3000/")
_STRONG, _WEAK = 0.4, 0.15


@dataclass(frozen=True, slots=True)
class Page:
    """``date`` may be empty; DeepSearch then writes a footnote for the page but no annotation."""

    url: str
    title: str
    date: str
    sentences: tuple[str, ...]

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""


PAGES = (
    Page(
        "https://almanac.example.org/tides",
        "Tides and the Moon",
        "2026-09-01 08:00:00",
        (
            "Tides rise and fall because the Moon, and to a lesser degree the Sun, pulls on the sea.",
            "Most coasts have two high tides a day, about 12 hours and 25 minutes apart.",
            "Spring tides come at new moon and full moon, when the Sun and the Moon pull in one line.",
        ),
    ),
    Page(
        "https://almanac.example.org/seasons",
        "Why there are seasons",
        "2026-03-20T09:30:00.000Z",
        (
            "The seasons come from the tilt of the Earth's axis, which is about 23.4 degrees.",
            "In July the northern half of the Earth leans towards the Sun, so it has summer and the south winter.",
        ),
    ),
    Page(
        "https://almanac.example.org/blue-sky",
        "Why the sky is blue",
        "2026-05-11 10:15:00",
        (
            "The sky is blue because air scatters short waves of light more than long ones.",
            "At sunset the light's way through the air is longer, so that mostly red and orange are left.",
        ),
    ),
    Page(
        "https://almanac.example.org/zh/chaoxi",
        "潮汐是怎样形成的",
        "2026-08-02 07:00:00",
        (
            "潮汐主要由月球的引力引起,太阳的引力也有影响。",
            "大多数海岸每天有两次高潮和两次低潮。",
        ),
    ),
    Page(
        "https://encyclopedia.example.org/torii",
        "Torii, the gate of a shrine",
        "2026-01-17 12:00:00",
        (
            "A torii is a gate, most often of wood and painted red, that stands before a Japanese shrine.",
            "It marks the line between the everyday world and the place behind it: all who visit go through it.",
        ),
    ),
    Page(
        "https://docs.torii.example.org/gateway",
        "What the Torii gateway does",
        "2026-09-21 16:00:00",
        (
            "Torii is a local gateway: programs that speak OpenAI's API reach Jina AI and AIHubMix through it.",
            "It serves embeddings, rerank and DeepSearch, and puts the answers of both providers into one form.",
            "If one provider fails before the first byte of an answer, the gateway asks the other one.",
        ),
    ),
    Page(
        "https://docs.torii.example.org/sandbox",
        "The Torii sandbox",
        "2026-09-22 16:00:00",
        (
            "The sandbox stands in for both providers, so that Torii runs without a key and without a network.",
            "A text such as sandbox:<case> in a question makes it fail in a documented way.",
        ),
    ),
    Page(
        "https://docs.torii.example.org/deepsearch",
        "The normal form of DeepSearch streams",
        "2026-09-23 16:00:00",
        (
            "An answer may speak of <think> and </think> or of data: [DONE] itself, and then these are plain text.",
            "Thinking is sent as reasoning_content, the answer as content, and [DONE] only after a finish.",
        ),
    ),
    Page(
        "https://encyclopedia.example.org/jina-ai",
        "Jina AI",
        "2026-07-27 14:20:00",
        (
            "Jina AI is a company from Berlin that makes search models: embeddings, rerankers and a web reader.",
            "Its DeepSearch reads and reasons in turns until an answer passes its own checks.",
            "The newest post on its blog is not known in this sandbox, which has no network.",
        ),
    ),
    Page(
        "https://encyclopedia.example.org/embeddings",
        "Embedding vectors",
        "2026-04-08 11:45:00",
        (
            "An embedding turns a text or an image into a list of numbers, so that like things lie near each other.",
            "How near two vectors are is mostly measured by the cosine of the angle between them.",
        ),
    ),
    Page(
        "https://encyclopedia.example.org/reranking",
        "Reranking",
        "2026-04-09 11:45:00",
        (
            "A reranker reads a query and a document together and says how well they fit.",
            "It is slower than comparing vectors, so it sorts only the best few dozen results again.",
        ),
    ),
    Page(
        "https://papers.example.org/late-chunking",
        "Late chunking in two sentences",
        "2024-09-07 00:00:00",
        (
            "Late chunking embeds the tokens of a whole document first and averages them chunk by chunk afterwards.",
            "Every chunk's vector so keeps the context of the document around it.",
        ),
    ),
    Page(
        "https://kitchen.example.net/green-tea",
        "How green tea is brewed",
        "2025-11-30 08:10:00",
        (
            "Green tea is brewed with water of 70 to 80 degrees, because boiling water makes it bitter.",
            "One to three minutes are enough for most leaves.",
        ),
    ),
    Page(
        "https://kitchen.example.net/sourdough",
        "Sourdough bread",
        "2025-10-14 06:40:00",
        (
            "Sourdough rises with wild yeast and lactic bacteria that live in a starter of flour and water.",
            "The starter is fed with fresh flour once a day at room temperature.",
        ),
    ),
    Page(
        "https://atlas.example.com/honey-bees",
        "Honey bees",
        "2026-06-05 13:00:00",
        (
            "Honey bees tell each other the way to flowers by a dance in the shape of an eight.",
            "A bee makes about a twelfth of a teaspoon of honey in her life.",
        ),
    ),
    Page(
        "https://atlas.example.com/lighthouses",
        "Lighthouses",
        "",
        (
            "A lighthouse tells ships where they are: every lighthouse has its own rhythm of light.",
            "Fresnel's lens, first lit in 1823, made the light of a lighthouse reach over 30 kilometres.",
        ),
    ),
    Page(
        "https://encyclopedia.example.org/de/himmel",
        "Warum der Himmel blau ist",
        "2026-05-12 10:15:00",
        (
            "Der Himmel ist blau, weil die Luft kurze Wellen des Lichts stärker streut als lange.",
            "Bei Sonnenuntergang bleibt vor allem rotes Licht übrig, weil der Weg durch die Luft länger ist.",
        ),
    ),
    Page(
        "https://encyclopedia.example.org/line-separators",
        "Line separators of Unicode",
        "2026-02-28 15:55:00",
        (
            "Unicode has line separators of its own: a line one\u2028a paragraph one\u2029and a next line\u0085 too.",
            "JSON allows them raw in a string, so that whoever splits a stream at them breaks the JSON.",
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Hit:
    """``score``: the share of the question's weight that the page covers, 0 to 1."""

    page: Page
    score: float
    sentence: str
    relevant: bool


def search(question: str) -> list[Hit]:
    """All pages, best first, each with the sentence that fits the question best."""
    asked = {name: weight for name, weight in vectors.features(question).items() if name[0] != "s"} or {"=": 1.0}
    return sorted((_hit(asked, page) for page in PAGES), key=lambda hit: -hit.score)


def _hit(asked: Features, page: Page) -> Hit:
    """A page is relevant if it shares a word with the question, or many parts of words: tide and tides."""
    text = _features(f"{page.title} {' '.join(page.sentences)}")
    score = vectors.coverage(asked, text)
    shares = any(name[0] == "w" and name in text for name in asked)
    best = max(page.sentences, key=lambda sentence: vectors.coverage(asked, _features(sentence)))
    return Hit(page, score, best, score >= _STRONG or (shares and score >= _WEAK))


@lru_cache(maxsize=256)
def _features(text: str) -> Features:
    return vectors.features(text)
